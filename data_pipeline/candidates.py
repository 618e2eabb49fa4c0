"""candidates + principles → quadruples, and likewise for the human pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from data_pipeline.decompose import task_of
from rrm.records import PreferencePair, Principle, Quadruple

Principles = Mapping[str, tuple[Principle, ...]]


def quadruples_of(candidates: Sequence[Quadruple], principles: Principles) -> list[Quadruple]:
    """The candidates whose task was decomposed, complete."""
    known = [candidate for candidate in candidates if candidate.task.task_id in principles]
    return [candidate.model_copy(update={"principles": principles[candidate.task.task_id]}) for candidate in known]


def decomposed_pairs(pairs: Sequence[PreferencePair], principles: Principles) -> list[PreferencePair]:
    """The pairs whose task was decomposed, complete."""
    known = [(pair, task_of(pair).task_id) for pair in pairs]
    return [pair.model_copy(update={"principles": principles[key]}) for pair, key in known if key in principles]
