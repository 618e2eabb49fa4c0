"""Two judges on the same pairs: how far apart they are, whether that may be chance, and how often they agree.

Pure functions of numbers. Pairs that share a source image are drawn together, since their errors go together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest, spearmanr

from eval.metrics import Interval, interval_of

RESAMPLES = 10_000
FEW = 20
"""With fewer clusters than this a bootstrap, or a clustered error, is known to come out too small."""
DRAWS_AT_ONCE = 500
"""Resamples in memory together: a thousand sources make a row of a thousand counts each."""


@dataclass(frozen=True)
class Difference:
    """A mean difference, its 95% interval and the two-sided p of none, where they can be estimated.

    They cannot for fewer than two clusters in all or in a stratum, nor where no resample differs from another.
    """

    value: float
    interval: Interval | None
    p: float | None
    """1 where both are alike in every pair."""


@dataclass(frozen=True)
class McNemar:
    """On how many pairs only the first, and only the second, is right; p of both being as likely (exact, two-sided)."""

    only_first: int
    only_second: int
    p: float


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> McNemar:
    """McNemar's exact test: under the null the discordant pairs fall on either side like coins, Binomial(b + c, ½).

    Pairs on which both are right or both are wrong say nothing. Without a discordant pair p is 1.
    """
    only_first = sum(a and not b for a, b in zip(first, second, strict=True))
    only_second = sum(b and not a for a, b in zip(first, second, strict=True))
    discordant = only_first + only_second
    return McNemar(only_first, only_second, float(binomtest(only_first, discordant, 0.5).pvalue) if discordant else 1.0)


def bootstrap_difference(
    first: Sequence[float],
    second: Sequence[float],
    clusters: Sequence[str],
    strata: Sequence[str] | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Difference:
    """How much larger the mean of `first` is than that of `second`, with a paired percentile bootstrap over whole clusters.

    With `strata` (task types) it is the unweighted mean over them of each one's mean: a macro average; a stratum that a resample
    misses is left out of that resample. So the strata vary with the clusters; in `eval.metrics.error_of_macro` they are given. p = 2·min(share of resamples ≤ 0, share ≥ 0), each share with one resample more, which
    was the data's own, so that p is never 0.
    """
    values = np.asarray(first, float) - np.asarray(second, float)
    if not len(values):
        raise ValueError("a difference needs at least one pair")
    names, cluster = np.unique(np.asarray(clusters), return_inverse=True)
    kinds, stratum = np.unique(np.asarray(strata if strata is not None else [""] * len(values)), return_inverse=True)
    sums, sizes = np.zeros((len(names), len(kinds))), np.zeros((len(names), len(kinds)))
    np.add.at(sums, (cluster, stratum), values)
    np.add.at(sizes, (cluster, stratum), 1)
    value = float(np.mean(sums.sum(0) / sizes.sum(0)))
    if not values.any():
        return Difference(value, None, 1.0)
    if ((sizes > 0).sum(0) < 2).any():
        return Difference(value, None, None)
    rng = np.random.default_rng(seed)
    found = []
    for start in range(0, resamples, DRAWS_AT_ONCE):
        times = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), min(DRAWS_AT_ONCE, resamples - start))
        with np.errstate(invalid="ignore"):
            found.append(np.nanmean((times @ sums) / (times @ sizes), axis=1))
    drawn = np.concatenate(found)
    interval = interval_of(*np.quantile(drawn, [0.025, 0.975]))
    least = min((drawn <= 0).sum(), (drawn >= 0).sum())
    return Difference(value, interval, float(min(1.0, 2 * (least + 1) / (resamples + 1))) if interval else None)


def agreement(first: Sequence[str], second: Sequence[str]) -> float | None:
    """The share of pairs with the same outcome; None of nothing."""
    same = [a == b for a, b in zip(first, second, strict=True)]
    return sum(same) / len(same) if same else None


def kappa(first: Sequence[str], second: Sequence[str]) -> float | None:
    """Cohen's κ = (p_o − p_e) / (1 − p_e): agreement beyond what the two tallies of outcomes make likely by themselves.

    None of nothing, and where both always say the same one thing, so that chance agrees as well.
    """
    observed = agreement(first, second)
    if observed is None:
        return None
    ours, theirs = Counter(first), Counter(second)
    expected = sum(ours[name] * theirs[name] for name in ours) / len(first) ** 2
    return None if expected == 1 else (observed - expected) / (1 - expected)


def rank_correlation(first: Sequence[float | None], second: Sequence[float | None]) -> float | None:
    """Spearman's ρ of the edits that both gave a score; None for fewer than three, or where one of them scores all alike."""
    both = [(a, b) for a, b in zip(first, second, strict=True) if a is not None and b is not None]
    if len(both) < 3 or any(len({pair[side] for pair in both}) < 2 for side in (0, 1)):
        return None
    return float(spearmanr([a for a, _ in both], [b for _, b in both]).statistic)
