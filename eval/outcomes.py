"""What a judge makes of every pair of a benchmark, and the shares that this adds up to.

An unreadable answer has no side: its pair stays in every denominator as neither right nor tied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

from eval.pairs import Label, PairIndex
from rrm import statistics
from rrm.records import Record

Side = Literal["a", "b", "tie"]
Scores = Mapping[str, float | None]
"""By edit id; None where a judge gave no score."""
GROUPS = {
    "object": ("subject-add", "subject-remove", "subject-replace"),
    "appearance": ("color_alter", "material_alter", "style_change", "tone_transfer"),
    "scene": ("background_change", "extract"),
    "advanced": ("ps_human", "text_change", "motion_change", "compose"),
}
"""The four groups of EditScore's 13 task types, by their names there."""
GROUP_OF_TASK = {task: group for group, tasks in GROUPS.items() for task in tasks}


class Outcome(Record):
    """One pair: which edit people prefer (`label`) and the judge (`side`), and what by."""

    number: int
    item: str
    group: str
    source: str
    instruction: str
    requirement: str | None = None
    task_type: str
    dimension: str
    label: Label
    edits: tuple[str, str]
    scores: tuple[float | None, float | None] = (None, None)
    """Of both edits; None twice for a judge that gives none."""
    side: Side | None = None
    """None where the judge's answer is unreadable or missing."""
    failure: str | None = None
    """The kind of the failure, where there is no side."""
    consistent: bool | None = None
    """Of a pairwise judge: whether both orders name the same edit, or both a tie."""
    shared: Literal["task", "image"] | None = None
    """What the pair shares with the training data."""

    @property
    def truth(self) -> Side:
        """The label, two bad edits being a tie."""
        return three_way(self.label)

    @property
    def decided(self) -> bool:
        """Whether people prefer one of the two edits."""
        return self.label in ("a", "b")

    @property
    def right(self) -> bool:
        """Whether judge and people agree; a tie of the judge is wrong where people decided."""
        return self.side == self.truth

    @property
    def half_tie(self) -> float:
        """1 where right, ½ for a tie of the judge on a pair that people decided, else 0."""
        return 0.5 if self.side == "tie" and self.decided else float(self.right)

    @property
    def gap(self) -> float | None:
        """How far apart the scores are."""
        a, b = self.scores
        return None if a is None or b is None else abs(a - b)


def three_way(label: Label) -> Side:
    """The label among three: two bad edits are a tie."""
    return "tie" if label == "both_bad" else label


def side_of(a: float | None, b: float | None, margin: float = 0.0) -> Side | None:
    """The edit with the higher score; a tie up to `margin` apart; None where a score is missing."""
    if a is None or b is None:
        return None
    return "tie" if abs(a - b) <= margin else "a" if a > b else "b"


def pair_fields(pair: PairIndex) -> dict[str, Any]:
    """What an outcome takes over from its pair."""
    names = (
        "number",
        "instruction",
        "requirement",
        "task_type",
        "dimension",
        "source",
        "label",
        "group",
    )
    values = {name: getattr(pair, name) for name in names}
    return {**values, "item": pair.item_id, "edits": pair.edit_ids}


def outcomes_of_scores(
    pairs: Sequence[PairIndex],
    scores: Scores,
    failures: Mapping[str, str] | None = None,
    margin: float = 0.0,
) -> list[Outcome]:
    """The outcomes of a pointwise judge, from scores and kinds of failure by edit id.

    The margin holds for pairs that may be ties; edits ranked in groups of three or four are told
    apart by any difference.
    """
    outcomes = []
    for pair in pairs:
        a, b = (scores.get(name) for name in pair.edit_ids)
        lacking = [name for name in pair.edit_ids if scores.get(name) is None]
        failure = (
            next((failures[name] for name in lacking if name in failures), None)
            if failures
            else None
        )
        side = side_of(a, b, margin if pair.candidates == 2 else 0.0)
        outcomes.append(Outcome(**pair_fields(pair), scores=(a, b), side=side, failure=failure))
    return outcomes


def accuracies(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Counts, and both accuracies with standard error and 95% interval, clustered by source.

    `strict` counts a tie of the judge as wrong where people decided; `half_tie` counts it ½.
    """
    sources = [o.source for o in outcomes]
    cell: dict[str, Any] = {
        "n": len(outcomes),
        "sources": len(set(sources)),
        "right": sum(o.right for o in outcomes),
        "ties": sum(o.side == "tie" for o in outcomes),
        "unreadable": sum(o.side is None for o in outcomes),
    }
    values = {
        "strict": [float(o.right) for o in outcomes],
        "half_tie": [o.half_tie for o in outcomes],
    }
    for name, of_pairs in values.items():
        cell |= {
            name: statistics.mean(of_pairs),
            f"{name}_se": statistics.error_of_mean(of_pairs, sources),
            f"{name}_ci95": statistics.interval_of_share(of_pairs, sources),
        }
    return cell


def grouped(
    outcomes: Iterable[Outcome], name: Callable[[Outcome], str | None]
) -> dict[str, list[Outcome]]:
    """The outcomes by name, in the order of the names; those without one are left out."""
    groups: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        key = name(outcome)
        if key is not None:
            groups.setdefault(key, []).append(outcome)
    return dict(sorted(groups.items()))


def by_dimension(outcomes: Iterable[Outcome]) -> dict[str, list[Outcome]]:
    """The outcomes of every dimension, in the order of their names."""
    return grouped(outcomes, lambda o: o.dimension)


def by_task(outcomes: Sequence[Outcome]) -> dict[str, dict[str, Any]]:
    """`accuracies` per task type."""
    return {
        task: accuracies(members)
        for task, members in grouped(outcomes, lambda o: o.task_type).items()
    }


def breakdown(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """`accuracies`, the mean over task types in both countings, and `accuracies` per task type and
    group of task types.

    A group's accuracies pool its pairs; its `macro` is the mean over its task types, as in
    EditScore's table.
    """
    sources, tasks = [o.source for o in outcomes], [o.task_type for o in outcomes]
    strict, half_tie = [float(o.right) for o in outcomes], [o.half_tie for o in outcomes]
    parts = accuracies(outcomes)
    for name, values in (("macro", strict), ("macro_half_tie", half_tie)):
        parts[name], parts[f"{name}_ci95"] = statistics.macro_share(values, tasks, sources)
        parts[f"{name}_se"] = statistics.error_of_macro(values, tasks, sources)
    groups = grouped(outcomes, lambda o: GROUP_OF_TASK.get(o.task_type))
    return {
        **parts,
        "by_task": by_task(outcomes),
        "by_group": {
            name: {
                **accuracies(members),
                "macro": statistics.mean(
                    [float(one["strict"]) for one in by_task(members).values()]
                ),
            }
            for name, members in groups.items()
        },
    }


def paired_difference(first: Sequence[Outcome], second: Sequence[Outcome]) -> dict[str, Any]:
    """How much more accurate `first` is than `second`: means over pairs, clustered 95% intervals.

    Both are of the same pairs in the same order. `p` is that of no difference in `half_tie`,
    two-sided, from the same clustered error (normal approximation).
    """
    sources = [o.source for o in first]
    if sources != [o.source for o in second]:
        raise ValueError("a paired difference needs the same pairs in the same order")
    strict = [float(a.right) - float(b.right) for a, b in zip(first, second, strict=True)]
    half_tie = [a.half_tie - b.half_tie for a, b in zip(first, second, strict=True)]
    return {
        "n": len(first),
        "strict": statistics.mean(strict),
        "strict_ci95": statistics.interval_of_mean(strict, sources),
        "half_tie": statistics.mean(half_tie),
        "ci95": statistics.interval_of_mean(half_tie, sources),
        "p": statistics.p_of_zero_mean(half_tie, sources),
    }
