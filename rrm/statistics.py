"""Estimates from judgements, with errors clustered by source image. Pure functions of numbers.

Two estimands are in use, and they differ where sources have unequally many items:

- the *mean over items* (`mean`, `error_of_mean`, `interval_of_mean`): every item weighs alike, and
  items of one source have correlated errors. Every accuracy of a benchmark is one, as in the
  published protocols, which divide by the number of pairs.
- the *mean over clusters* (`mean_over_clusters`): every source weighs alike. The sandbox's true
  reward of an editor is one.

`macro` is the mean over task types of each one's mean over items.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest, norm, spearmanr

Interval = tuple[float, float]
NO_WIDTH = 1e-12
"""Errors and widths up to this are 0 except for rounding: nothing varied, nothing is estimated."""
RESAMPLES = 10_000
FEW_CLUSTERS = 20
"""With fewer clusters, clustered errors and the bootstrap are known to be too small."""
RESAMPLES_AT_ONCE = 500
"""Resamples in memory together: with 1,000 sources each is a row of 1,000 counts."""


def mean(values: Sequence[float]) -> float | None:
    """The mean; None without values."""
    return float(np.mean(values)) if len(values) else None


def clustered_error(contributions: Sequence[float], clusters: Sequence[str]) -> float | None:
    """The cluster-robust standard error (CR1) of a sum of `contributions` with mean zero.

    sqrt(G/(G−1) Σ_g (Σ_{i∈g} u_i)²), with G clusters. For a mean of v_i over n the contributions
    are u_i = (v_i − mean)/n. None for fewer than two clusters and where clusters do not vary.
    """
    sums: dict[str, float] = defaultdict(float)
    for contribution, cluster in zip(contributions, clusters, strict=True):
        sums[cluster] += contribution
    count = len(sums)
    if count < 2:
        return None
    error = math.sqrt(count / (count - 1) * sum(value**2 for value in sums.values()))
    return error if error > NO_WIDTH else None


def interval_or_none(low: float, high: float) -> Interval | None:
    """(low, high); None where an end is not finite or the interval has no width."""
    return (
        (float(low), float(high)) if high - low > NO_WIDTH and math.isfinite(high - low) else None
    )


def normal_interval(centre: float, error: float | None, level: float = 0.95) -> Interval | None:
    """The normal interval around `centre`; None without an error."""
    if error is None:
        return None
    reach = float(norm.ppf(0.5 + level / 2)) * error
    return interval_or_none(centre - reach, centre + reach)


def error_of_mean(values: Sequence[float], clusters: Sequence[str]) -> float | None:
    """The clustered standard error of the mean over items; None where `clustered_error` is."""
    centre = mean(values)
    if centre is None:
        return None
    return clustered_error([(value - centre) / len(values) for value in values], clusters)


def interval_of_mean(
    values: Sequence[float], clusters: Sequence[str], level: float = 0.95
) -> Interval | None:
    """The interval of the mean over items, with errors clustered; None where they cannot be had.

    Estimand: Σ_i v_i / n. A cluster with many items weighs as much as all its items.
    """
    centre = mean(values)
    if centre is None:
        return None
    return normal_interval(centre, error_of_mean(values, clusters), level)


def mean_over_clusters(
    values: Sequence[float], clusters: Sequence[str]
) -> tuple[float | None, Interval | None]:
    """The mean of the clusters' means and its 95% interval.

    Estimand: Σ_g mean_g / G. Every cluster weighs alike, however many items it has. The interval
    is the normal one of G independent means; None for one cluster and where they do not vary.
    """
    by_cluster: dict[str, list[float]] = defaultdict(list)
    for value, cluster in zip(values, clusters, strict=True):
        by_cluster[cluster].append(value)
    means = [float(np.mean(members)) for members in by_cluster.values()]
    return mean(means), interval_of_mean(means, list(by_cluster))


def exact_interval(values: Sequence[float], clusters: Sequence[str]) -> Interval | None:
    """The exact (Clopper–Pearson) 95% interval where all values are 1 or all are 0; else None.

    Every cluster counts once. The normal interval would have no width there.
    """
    if len(set(values)) != 1 or values[0] not in (0.0, 1.0):
        return None
    count = len(set(clusters))
    exact = binomtest(count * int(values[0]), count).proportion_ci(0.95)
    return float(exact.low), float(exact.high)


def within_0_and_1(
    values: Sequence[float], clusters: Sequence[str], normal: Interval | None
) -> Interval | None:
    """The 95% interval of a share: `exact_interval`, or the normal one cut off at 0 and 1."""
    exact = exact_interval(values, clusters)
    if exact is not None or normal is None:
        return exact
    return interval_or_none(max(0.0, normal[0]), min(1.0, normal[1]))


def interval_of_share(values: Sequence[float], clusters: Sequence[str]) -> Interval | None:
    """The 95% interval of the mean over items of values from 0 to 1, errors clustered."""
    return within_0_and_1(values, clusters, interval_of_mean(values, clusters))


def p_of(centre: float, error: float | None, values: Sequence[float]) -> float | None:
    """Two-sided p of zero for an estimate from `values` with this error (normal approximation).

    Without an error 1 where all values are 0, else None.
    """
    if error is None:
        return None if any(values) else 1.0
    return float(2 * norm.sf(abs(centre) / error))


def p_of_zero_mean(values: Sequence[float], clusters: Sequence[str]) -> float | None:
    """`p_of` a mean over items with clustered errors."""
    centre = mean(values)
    return None if centre is None else p_of(centre, error_of_mean(values, clusters), values)


def means_by_task(values: Sequence[float], tasks: Sequence[str]) -> dict[str, tuple[float, int]]:
    """(mean, number of values) of each task type."""
    by_task: dict[str, list[float]] = defaultdict(list)
    for value, task in zip(values, tasks, strict=True):
        by_task[task].append(value)
    return {task: (float(np.mean(members)), len(members)) for task, members in by_task.items()}


def error_of_macro(
    values: Sequence[float], tasks: Sequence[str], clusters: Sequence[str]
) -> float | None:
    """The clustered standard error of the mean over task types, these being given, not drawn.

    None where `clustered_error` is, and where a task type has only one cluster.
    """
    sources = defaultdict(set)
    for task, cluster in zip(tasks, clusters, strict=True):
        sources[task].add(cluster)
    if any(len(members) < 2 for members in sources.values()):
        return None
    means = means_by_task(values, tasks)
    contributions = [
        (value - means[task][0]) / (means[task][1] * len(means))
        for value, task in zip(values, tasks, strict=True)
    ]
    return clustered_error(contributions, clusters)


def macro(
    values: Sequence[float], tasks: Sequence[str], clusters: Sequence[str]
) -> tuple[float | None, Interval | None]:
    """The unweighted mean over task types of each one's mean, with its clustered 95% interval."""
    centre = mean([value for value, _ in means_by_task(values, tasks).values()])
    if centre is None:
        return None, None
    return centre, normal_interval(centre, error_of_macro(values, tasks, clusters))


def macro_share(
    values: Sequence[float], tasks: Sequence[str], clusters: Sequence[str]
) -> tuple[float | None, Interval | None]:
    """`macro` of values from 0 to 1, with the interval of a share (`within_0_and_1`)."""
    centre, interval = macro(values, tasks, clusters)
    return centre, within_0_and_1(values, clusters, interval)


@dataclass(frozen=True)
class VerdictAccuracy:
    """How well 0/1 verdicts agree with the truth, over all principles of readable traces."""

    balanced: float | None
    recall_of_1: float | None
    recall_of_0: float | None
    principles: int
    unreadable: int


def verdict_accuracy(
    traces: Sequence[tuple[Sequence[int] | None, Sequence[int]]],
) -> VerdictAccuracy:
    """Agreement of (verdicts, truth) per trace, verdicts being None where it is unreadable.

    Balanced accuracy: the mean of the share of true 1s judged 1 and of true 0s judged 0; None
    where either is absent.
    """
    hits, totals = [0, 0], [0, 0]
    for verdicts, truth in traces:
        if verdicts is None:
            continue
        for verdict, right in zip(verdicts, truth, strict=True):
            totals[right] += 1
            hits[right] += verdict == right
    of_0, of_1 = (hits[k] / totals[k] if totals[k] else None for k in (0, 1))
    return VerdictAccuracy(
        balanced=None if of_0 is None or of_1 is None else (of_0 + of_1) / 2,
        recall_of_1=of_1,
        recall_of_0=of_0,
        principles=sum(totals),
        unreadable=sum(verdicts is None for verdicts, _ in traces),
    )


@dataclass(frozen=True)
class Difference:
    """A mean difference, its 95% interval and the two-sided p of no difference.

    Interval and p are None for fewer than two clusters in all or in a stratum, and where no
    resample differs from another; p is 1 where both are alike in every pair.
    """

    value: float
    interval: Interval | None
    p: float | None


def bootstrap_difference(
    first: Sequence[float],
    second: Sequence[float],
    clusters: Sequence[str],
    strata: Sequence[str] | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Difference:
    """mean(first) − mean(second) over items, with a paired percentile bootstrap of whole clusters.

    With `strata` (task types) the estimand is the unweighted mean over them of each one's mean; a
    stratum that a resample misses is left out of that resample. So the strata vary with the
    clusters; in `error_of_macro` they are given. p = 2·min(share of resamples ≤ 0, share ≥ 0), with
    the data counted as one more resample on each side, so that p is never 0.
    """
    values = np.asarray(first, float) - np.asarray(second, float)
    if not len(values):
        raise ValueError("a difference needs at least one pair")
    names, cluster = np.unique(np.asarray(clusters), return_inverse=True)
    labels = strata if strata is not None else [""] * len(values)
    kinds, stratum = np.unique(np.asarray(labels), return_inverse=True)
    sums, sizes = np.zeros((len(names), len(kinds))), np.zeros((len(names), len(kinds)))
    np.add.at(sums, (cluster, stratum), values)
    np.add.at(sizes, (cluster, stratum), 1)
    value = float(np.mean(sums.sum(0) / sizes.sum(0)))
    if not values.any():
        return Difference(value, None, 1.0)
    if ((sizes > 0).sum(0) < 2).any():
        return Difference(value, None, None)
    rng = np.random.default_rng(seed)
    draws = []
    for start in range(0, resamples, RESAMPLES_AT_ONCE):
        count = min(RESAMPLES_AT_ONCE, resamples - start)
        times = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), count)
        with np.errstate(invalid="ignore"):
            draws.append(np.nanmean((times @ sums) / (times @ sizes), axis=1))
    drawn = np.concatenate(draws)
    interval = interval_or_none(*np.quantile(drawn, [0.025, 0.975]))
    if interval is None:
        return Difference(value, None, None)
    least = min((drawn <= 0).sum(), (drawn >= 0).sum())
    return Difference(value, interval, float(min(1.0, 2 * (least + 1) / (resamples + 1))))


@dataclass(frozen=True)
class McNemar:
    """On how many pairs only the first, and only the second, is right; p of both as likely."""

    only_first: int
    only_second: int
    p: float


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> McNemar:
    """McNemar's exact two-sided test: discordant pairs are Binomial(b + c, ½) under the null.

    Without a discordant pair p is 1.
    """
    only_first = sum(a and not b for a, b in zip(first, second, strict=True))
    only_second = sum(b and not a for a, b in zip(first, second, strict=True))
    discordant = only_first + only_second
    p = float(binomtest(only_first, discordant, 0.5).pvalue) if discordant else 1.0
    return McNemar(only_first, only_second, p)


def agreement(first: Sequence[str], second: Sequence[str]) -> float | None:
    """The share of pairs with the same outcome; None without pairs."""
    same = [a == b for a, b in zip(first, second, strict=True)]
    return sum(same) / len(same) if same else None


def kappa(first: Sequence[str], second: Sequence[str]) -> float | None:
    """Cohen's κ = (p_o − p_e) / (1 − p_e).

    None without pairs, and where both always give the same one outcome (p_e = 1).
    """
    observed = agreement(first, second)
    if observed is None:
        return None
    of_first, of_second = Counter(first), Counter(second)
    expected = sum(of_first[name] * of_second[name] for name in of_first) / len(first) ** 2
    return None if expected == 1 else (observed - expected) / (1 - expected)


def rank_correlation(first: Sequence[float | None], second: Sequence[float | None]) -> float | None:
    """Spearman's ρ over the edits that both scored.

    None for fewer than three, and where one of both scores them all alike.
    """
    both = [(a, b) for a, b in zip(first, second, strict=True) if a is not None and b is not None]
    if len(both) < 3 or any(len({pair[side] for pair in both}) < 2 for side in (0, 1)):
        return None
    return float(spearmanr([a for a, _ in both], [b for _, b in both]).statistic)
