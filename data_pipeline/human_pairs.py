"""Human pairs in the run state: every row is a vote, and every pair gets one verdict."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from data_pipeline.run_state import RunState, short_hash
from rrm.records import Failure, Label, Quarantined, Task
from rrm.rows.labels import Labels
from rrm.rows.pairs import PairRow
from rrm.rows.votes import SWAPPED, Ballot, Vote


def add_vote(state: RunState, row: PairRow, source: str, a: str, b: str, place: str) -> None:
    """Adds what a row says of the edits a and b (digests), and their pair and task unless they are
    there; a pair is the same one with its sides swapped."""
    words = tuple(filter(None, (row.instruction, row.requirement)))
    task_id = short_hash(source, row.instruction, row.requirement or "")
    state.add_task(
        Task(
            task_id=task_id, source=source, instruction=row.instruction, requirement=row.requirement
        ),
        "pair",
    )
    key = short_hash("pair", source, *words, *sorted((a, b)))
    first = state.add_pair(key, task_id, a, b)
    label: Label = row.label if first == a else SWAPPED[row.label]
    state.add_vote(key, label, row.rater, place)


def settle(state: RunState, labels: Labels) -> dict[str, Any]:
    """Gives every pair its verdict; votes that say the opposite are quarantined, and so is a pair
    without a vote that counts.

    Returns what the card says of it: votes by value and by what they are read as, pairs by label,
    and how far raters agree.
    """
    ballot = Ballot()
    for key, rows in groupby(state.votes(), key=lambda row: row[0]):
        verdict = ballot.settle([Vote(label, rater, place) for _, label, rater, place in rows])
        a, b, source, instruction, requirement = state.pair_of(key)
        for vote, reason in verdict.apart:
            evidence = {
                "source": source,
                "instruction": instruction,
                "says": vote.label,
                "rater": vote.rater,
            }
            failure = Failure(kind="contradiction", detail=reason)
            state.quarantine(
                [Quarantined(stage="read", key=vote.place, failure=failure, evidence=evidence)]
            )
        if verdict.label is None:
            state.drop_pair(key)
            continue
        name = short_hash(source, *filter(None, (instruction, requirement)), a, b, verdict.label)
        state.settle_pair(key, name, verdict.label)
    state.drop_votes()
    return {"labels": labels.rows(), **ballot.rows()}
