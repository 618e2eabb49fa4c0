"""Pairwise accuracies of scored pairs, with clustered errors (`rrm.statistics`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rrm.statistics import interval_of_mean, interval_of_share, macro_share, mean, means_by_task, p_of_zero_mean

GROUPS = {
    "object": ("subject-add", "subject-remove", "subject-replace"),
    "appearance": ("color_alter", "material_alter", "style_change", "tone_transfer"),
    "scene": ("background_change", "extract"),
    "advanced": ("ps_human", "text_change", "motion_change", "compose"),
}
"""The four groups of EditScore's 13 task types, by their names there."""


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
        "ci95": interval_of_share(half, sources),
        "strict_ci95": interval_of_share(strict, sources),
        "macro": macro_strict,
        "macro_ci95": macro_interval,
        "by_task": {task: accuracies([pair for pair in pairs if pair.task_type == task]) for task in sorted(set(tasks))},
        "by_group": {name: {**accuracies(of), "macro": macro_of(of)} for name, of in groups.items() if of},
    }


def macro_of(pairs: Sequence[ScoredPair]) -> float | None:
    """The unweighted mean over task types of the strict accuracy."""
    return mean([found for found, _ in means_by_task([p.strict for p in pairs], [p.task_type for p in pairs]).values()])


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
        "strict_ci95": interval_of_mean(strict, sources),
        "half_tie": mean(half),
        "ci95": interval_of_mean(half, sources),
        "p": p_of_zero_mean(half, sources),
    }
