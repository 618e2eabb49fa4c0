"""What scores and verdicts amount to: pairwise accuracies with their errors, balanced accuracy of verdicts, paired differences.

Pure functions of numbers. A missing score is None, never 0; a pair with a missing side stays in every denominator as wrong.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import binomtest, norm

GROUPS = {
    "object": ("subject-add", "subject-remove", "subject-replace"),
    "appearance": ("color_alter", "material_alter", "style_change", "tone_transfer"),
    "scene": ("background_change", "extract"),
    "advanced": ("ps_human", "text_change", "motion_change", "compose"),
}
"""The four groups of EditScore's 13 task types, by their names there."""

Interval = tuple[float, float]
NO_WIDTH = 1e-12
"""An error, or the width of an interval, up to this is 0 but for rounding: nothing varied, so that nothing could be estimated."""


@dataclass(frozen=True)
class ScoredPair:
    """Two scores (0–10) of which the first belongs to the preferred edit; `source` names the cluster it is drawn from."""

    source: str
    task_type: str
    preferred: float | None
    other: float | None

    @property
    def unparseable(self) -> bool:
        """Whether a side has no score."""
        return self.preferred is None or self.other is None

    @property
    def tied(self) -> bool:
        """Whether both sides have the same score."""
        return not self.unparseable and self.preferred == self.other

    @property
    def right(self) -> bool:
        """Whether the preferred edit scores strictly higher."""
        return self.preferred is not None and self.other is not None and self.preferred > self.other

    @property
    def strict(self) -> float:
        """1 where right, else 0: a tie or a missing score is wrong (EditScore's own rule)."""
        return float(self.right)

    @property
    def half_tie(self) -> float:
        """1 where right, ½ for a tie, else 0."""
        return 0.5 if self.tied else float(self.right)


@dataclass(frozen=True)
class VerdictAccuracy:
    """How well 0/1 verdicts agree with the truth, over all principles of readable traces."""

    balanced: float | None
    recall_of_1: float | None
    recall_of_0: float | None
    principles: int
    unreadable: int


def mean(values: Sequence[float]) -> float | None:
    """The mean, or None of nothing."""
    return float(np.mean(values)) if len(values) else None


def clustered_error(contributions: Sequence[float], clusters: Sequence[str]) -> float | None:
    """The cluster-robust standard error of a sum of `contributions` with mean zero.

    sqrt(G/(G−1) Σ_g (Σ_{i∈g} u_i)²), with G clusters. For a mean of v_i over n the contributions are u_i = (v_i − mean)/n.
    None where it cannot be estimated: for fewer than two clusters, and where the clusters do not vary.
    """
    sums: dict[str, float] = defaultdict(float)
    for contribution, cluster in zip(contributions, clusters, strict=True):
        sums[cluster] += contribution
    count = len(sums)
    if count < 2:
        return None
    error = math.sqrt(count / (count - 1) * sum(value**2 for value in sums.values()))
    return error if error > NO_WIDTH else None


def interval_of(low: float, high: float) -> Interval | None:
    """The interval with these ends; None where an end is no number or it has no width, which would claim to be certain."""
    return (float(low), float(high)) if high - low > NO_WIDTH and math.isfinite(high - low) else None


def around(centre: float, error: float | None, level: float = 0.95) -> Interval | None:
    """The normal interval around `centre`; None without an error."""
    if error is None:
        return None
    reach = float(norm.ppf(0.5 + level / 2)) * error
    return interval_of(centre - reach, centre + reach)


def error_of_mean(values: Sequence[float], clusters: Sequence[str]) -> float | None:
    """The clustered standard error of the mean of `values`; None where `clustered_error` is."""
    centre = mean(values)
    return None if centre is None else clustered_error([(value - centre) / len(values) for value in values], clusters)


def clustered_interval(values: Sequence[float], clusters: Sequence[str], level: float = 0.95) -> Interval | None:
    """The interval of the mean of `values` whose errors go together within a cluster; None where `clustered_error` is."""
    centre = mean(values)
    return None if centre is None else around(centre, error_of_mean(values, clusters), level)


def unanimous(values: Sequence[float], clusters: Sequence[str]) -> Interval | None:
    """The exact (Clopper–Pearson) 95% interval where all are right or all are wrong, each cluster counting once; else None.

    The normal interval would have no width there, however few the pairs.
    """
    if len(set(values)) != 1 or values[0] not in (0.0, 1.0):
        return None
    count = len(set(clusters))
    found = binomtest(count * int(values[0]), count).proportion_ci(0.95)
    return float(found.low), float(found.high)


def share_interval(values: Sequence[float], clusters: Sequence[str], normal: Interval | None) -> Interval | None:
    """The 95% interval of a share of these values: the normal one without what no share can be, or `unanimous`."""
    exact = unanimous(values, clusters)
    if exact is not None or normal is None:
        return exact
    return interval_of(max(0.0, normal[0]), min(1.0, normal[1]))


def of_share(values: Sequence[float], clusters: Sequence[str]) -> Interval | None:
    """`share_interval` of the mean of `values`."""
    return share_interval(values, clusters, clustered_interval(values, clusters))


def p_of_zero(values: Sequence[float], clusters: Sequence[str]) -> float | None:
    """Two-sided p of a mean of zero under the normal approximation with clustered errors (`p_of`)."""
    centre = mean(values)
    return None if centre is None else p_of(centre, error_of_mean(values, clusters), values)


def p_of(centre: float, error: float | None, values: Sequence[float]) -> float | None:
    """Two-sided p of zero for an estimate from `values` with this error; without one 1 where all values are 0, else None."""
    if error is None:
        return None if any(values) else 1.0
    return float(2 * norm.sf(abs(centre) / error))


def means_of_tasks(values: Sequence[float], tasks: Sequence[str]) -> dict[str, tuple[float, int]]:
    """Each task type's mean, and how many values it is of."""
    by_task: dict[str, list[float]] = defaultdict(list)
    for value, task in zip(values, tasks, strict=True):
        by_task[task].append(value)
    return {task: (float(np.mean(found)), len(found)) for task, found in by_task.items()}


def error_of_macro(values: Sequence[float], tasks: Sequence[str], clusters: Sequence[str]) -> float | None:
    """The clustered standard error of the unweighted mean over task types, these being given and the clusters drawn.

    None where `clustered_error` is, and where a task type has one cluster alone: how much its mean varies cannot be known.
    """
    sources = defaultdict(set)
    for task, cluster in zip(tasks, clusters, strict=True):
        sources[task].add(cluster)
    if any(len(found) < 2 for found in sources.values()):
        return None
    means = means_of_tasks(values, tasks)
    within = [(v - means[task][0]) / (means[task][1] * len(means)) for v, task in zip(values, tasks, strict=True)]
    return clustered_error(within, clusters)


def macro(values: Sequence[float], tasks: Sequence[str], clusters: Sequence[str]) -> tuple[float | None, Interval | None]:
    """The unweighted mean over task types of each one's mean, and its clustered 95% interval."""
    centre = mean([found for found, _ in means_of_tasks(values, tasks).values()])
    return centre, None if centre is None else around(centre, error_of_macro(values, tasks, clusters))


def macro_share(values: Sequence[float], tasks: Sequence[str], clusters: Sequence[str]) -> tuple[float | None, Interval | None]:
    """`macro` of values from 0 to 1, with the interval of a share (`share_interval`)."""
    centre, interval = macro(values, tasks, clusters)
    return centre, share_interval(values, clusters, interval)


def counts(pairs: Sequence[ScoredPair]) -> dict[str, int]:
    """n and what it is made of: right, ties, unparseable; the rest is wrong."""
    return {
        "n": len(pairs),
        "right": sum(pair.right for pair in pairs),
        "ties": sum(pair.tied for pair in pairs),
        "unparseable": sum(pair.unparseable for pair in pairs),
    }


def accuracies(pairs: Sequence[ScoredPair]) -> dict[str, float | int | None]:
    """Both accuracies (0…1) and the counts."""
    return {
        "strict": mean([pair.strict for pair in pairs]),
        "half_tie": mean([pair.half_tie for pair in pairs]),
        **counts(pairs),
    }


def summarise(pairs: Sequence[ScoredPair]) -> dict[str, Any]:
    """Everything that is reported of one dimension.

    `ci95` belongs to `half_tie`, `strict_ci95` to `strict`; `macro` is the unweighted mean of the strict accuracy over task
    types, EditScore's headline. `by_group` has the pairs of the task types in `GROUPS`, pooled, and `macro`, the mean over these
    task types, which is what EditScore's table shows.
    """
    sources, tasks = [pair.source for pair in pairs], [pair.task_type for pair in pairs]
    strict, half = [pair.strict for pair in pairs], [pair.half_tie for pair in pairs]
    macro_strict, macro_interval = macro_share(strict, tasks, sources)
    groups = {name: [pair for pair in pairs if pair.task_type in members] for name, members in GROUPS.items()}
    return {
        **accuracies(pairs),
        "ci95": of_share(half, sources),
        "strict_ci95": of_share(strict, sources),
        "macro": macro_strict,
        "macro_ci95": macro_interval,
        "by_task": {task: accuracies([pair for pair in pairs if pair.task_type == task]) for task in sorted(set(tasks))},
        "by_group": {name: {**accuracies(of), "macro": macro_of(of)} for name, of in groups.items() if of},
    }


def macro_of(pairs: Sequence[ScoredPair]) -> float | None:
    """The unweighted mean over task types of the strict accuracy."""
    return mean([found for found, _ in means_of_tasks([p.strict for p in pairs], [p.task_type for p in pairs]).values()])


def paired_difference(first: Sequence[ScoredPair], second: Sequence[ScoredPair]) -> dict[str, object]:
    """How much more accurate `first` is than `second` on the same pairs in the same order, with clustered 95% intervals.

    `p` is that of a difference of zero in `half_tie`, two-sided, from the same clustered error (normal approximation).
    """
    sources = [pair.source for pair in first]
    if sources != [pair.source for pair in second]:
        raise ValueError("a paired difference needs the same pairs in the same order")
    strict = [a.strict - b.strict for a, b in zip(first, second, strict=True)]
    half = [a.half_tie - b.half_tie for a, b in zip(first, second, strict=True)]
    return {
        "n": len(first),
        "strict": mean(strict),
        "strict_ci95": clustered_interval(strict, sources),
        "half_tie": mean(half),
        "ci95": clustered_interval(half, sources),
        "p": p_of_zero(half, sources),
    }


def verdict_accuracy(traces: Sequence[tuple[Sequence[int] | None, Sequence[int]]]) -> VerdictAccuracy:
    """Agreement of (verdicts, truth) per trace, verdicts being None where the trace is unreadable.

    Balanced accuracy is the mean of the share of true 1s judged 1 and of true 0s judged 0; None where either is absent.
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
