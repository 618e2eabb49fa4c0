"""What came of every pair of a benchmark, and the shares that this adds up to.

An unreadable answer is no outcome: its pair stays in every denominator, and counts as neither right nor tied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from eval import metrics
from eval.cache import read_records
from eval.editrewardbench.pairwise import PairVote
from eval.index import PairIndex
from rrm import statistics
from rrm.errors import InputError
from rrm.records import Failure, Judgement, Record

PAIRS = "pairs.jsonl"
DIGITS = 9
"""Decimals that a mean of scores is known to: equal scores tie in whatever order they were added up."""
Side = Literal["a", "b", "tie"]
Label = Literal["a", "b", "tie", "both_bad"]


class Outcome(Record):
    """One pair: who is preferred by people (`label`), by the judge (`side`; None where unreadable), and what it goes back to."""

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
    failure: str | None = None
    consistent: bool | None = None
    """Of a pairwise judge: whether both orders came to the same."""
    shared: Literal["task", "image"] | None = None
    """What the pair shares with the training data."""

    @property
    def truth(self) -> Side:
        """The label, two bad edits being a tie."""
        return "tie" if self.label == "both_bad" else self.label

    @property
    def right(self) -> bool:
        """Whether judge and people say the same."""
        return self.side == self.truth

    @property
    def half(self) -> float:
        """1 where right, ½ where the judge is undecided about a pair that people decided, else 0."""
        return 0.5 if self.side == "tie" and self.truth != "tie" else float(self.right)

    @property
    def gap(self) -> float | None:
        """How far apart the scores are."""
        a, b = self.scores
        return None if a is None or b is None else abs(a - b)


def side_of(a: float | None, b: float | None, margin: float) -> Side | None:
    """Which of two scores is higher; a tie where they differ by no more than the margin; None where one is missing."""
    if a is None or b is None:
        return None
    return "tie" if abs(a - b) <= margin else "a" if a > b else "b"


def bare(pair: PairIndex) -> dict[str, Any]:
    """What an outcome takes over from its pair."""
    names = ("number", "instruction", "requirement", "task_type", "dimension", "source", "label", "group")
    return {**{name: getattr(pair, name) for name in names}, "item": pair.item_id, "edits": pair.edit_ids}


def from_scores(
    pairs: Sequence[PairIndex], scores: Mapping[str, float | None], failures: Mapping[str, str], margin: float
) -> list[Outcome]:
    """The outcomes of a pointwise judge, from the scores and the kinds of failure per edit id.

    The margin is for pairs that may be ties: edits that are ranked in threes or fours are told apart by any difference.
    """
    found = []
    for pair in pairs:
        a, b = (scores[name] for name in pair.edit_ids)
        why = next((failures[name] for name in pair.edit_ids if scores[name] is None and name in failures), None)
        found.append(
            Outcome(**bare(pair), scores=(a, b), side=side_of(a, b, margin if pair.candidates == 2 else 0.0), failure=why)
        )
    return found


def from_votes(pairs: Sequence[PairIndex], votes: Sequence[PairVote]) -> list[Outcome]:
    """The outcomes of a pairwise judge."""
    return [
        Outcome(
            **bare(pair),
            side=vote.side,
            failure=None if vote.failure is None else vote.failure.kind,
            consistent=None if vote.failure is not None else vote.consistent,
        )
        for pair, vote in zip(pairs, votes, strict=True)
    ]


def mean_scores(passes: Sequence[Mapping[str, Judgement]]) -> dict[str, float | None]:
    """Avg@K: per edit the mean over the passes that gave a score, without what is nothing but rounding; None where none did."""
    found: dict[str, float | None] = {}
    for name in passes[0]:
        given = [score for judged in passes if (score := judged[name].score) is not None]
        found[name] = round(fmean(given), DIGITS) if given else None
    return found


def failure_of(judgement: Judgement) -> Failure | None:
    """Why a judgement has no score; None where it has one."""
    return None if judgement.score is not None else judgement.failure or Failure(kind="empty")


def failures_of(passes: Sequence[Mapping[str, Judgement]]) -> dict[str, str]:
    """The kind of the first failure of every edit that a pass gave no score."""
    first: dict[str, str] = {}
    for judged in passes:
        for name, judgement in judged.items():
            if (failure := failure_of(judgement)) is not None:
                first.setdefault(name, failure.kind)
    return first


def cell(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Counts and both accuracies with standard error and 95% interval, clustered by source.

    `strict` counts a tie of the judge as wrong where people decided; in `half_tie` it counts ½.
    """
    sources = [o.source for o in outcomes]
    found: dict[str, Any] = {
        "n": len(outcomes),
        "sources": len(set(sources)),
        "right": sum(o.right for o in outcomes),
        "ties": sum(o.side == "tie" for o in outcomes),
        "unreadable": sum(o.side is None for o in outcomes),
    }
    for name, value in (("strict", lambda o: float(o.right)), ("half_tie", lambda o: o.half)):
        values = [value(o) for o in outcomes]
        found |= {
            name: statistics.mean(values),
            f"{name}_se": statistics.error_of_mean(values, sources),
            f"{name}_ci95": statistics.interval_of_share(values, sources),
        }
    return found


def grouped(outcomes: Iterable[Outcome], name: Callable[[Outcome], str | None]) -> dict[str, list[Outcome]]:
    """The outcomes by name, in the order of the names; those without one are left out."""
    found: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        key = name(outcome)
        if key is not None:
            found.setdefault(key, []).append(outcome)
    return dict(sorted(found.items()))


TASK_GROUP = {task: group for group, tasks in metrics.GROUPS.items() for task in tasks}


def by_task(outcomes: Sequence[Outcome]) -> dict[str, dict[str, Any]]:
    """A `cell` per task type."""
    return {task: cell(found) for task, found in grouped(outcomes, lambda o: o.task_type).items()}


def breakdown(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """`cell`, the macro average over task types in both countings, and a `cell` per task type and group of task types.

    A group's `cell` pools its pairs; its `macro` is the mean over its task types, which is what EditScore's table shows.
    """
    sources, tasks = [o.source for o in outcomes], [o.task_type for o in outcomes]
    strict, half = [float(o.right) for o in outcomes], [o.half for o in outcomes]
    found = cell(outcomes)
    for name, values in (("macro", strict), ("macro_half_tie", half)):
        found[name], found[f"{name}_ci95"] = statistics.macro_share(values, tasks, sources)
        found[f"{name}_se"] = statistics.error_of_macro(values, tasks, sources)
    return {
        **found,
        "by_task": by_task(outcomes),
        "by_group": {
            name: {**cell(found), "macro": statistics.mean([float(one["strict"]) for one in by_task(found).values()])}
            for name, found in grouped(outcomes, lambda o: TASK_GROUP.get(o.task_type)).items()
        },
    }


def read_outcomes(folder: Path) -> list[Outcome]:
    """The outcomes that a run left in its folder. Raises InputError where there are none."""
    if not (folder / PAIRS).is_file():
        raise InputError(f"{folder} holds no result; run `editrewardbench run … --out {folder}` first.")
    return read_records(folder / PAIRS, Outcome, "run the same `editrewardbench run` again: what was judged is kept")
