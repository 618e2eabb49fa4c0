"""Human pairs in the workbook: every row is a vote, and every pair gets one verdict."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from rrm.records import Failure, Label, Quarantined, Task
from rrm.rows.labels import Labels
from rrm.rows.pairs import PairRow
from rrm.rows.votes import SWAPPED, Ballot, Vote

from data_pipeline.run_state import Workbook, short_hash

PAIR = """
SELECT p.edited_a, p.edited_b, t.source, t.instruction, t.requirement FROM pairs p JOIN tasks t USING (task_id) WHERE p.pair_id = ?
"""


def add_vote(book: Workbook, row: PairRow, source: str, a: str, b: str, place: str) -> None:
    """Adds what a row says of the edits a and b (digests), and their pair and task unless they are there; a pair is the same one with
    its sides swapped."""
    words = tuple(filter(None, (row.instruction, row.requirement)))
    task_id = short_hash(source, row.instruction, row.requirement or "")
    book.add_task(Task(task_id=task_id, source=source, instruction=row.instruction, requirement=row.requirement), "pair")
    key = short_hash("pair", source, *words, *sorted((a, b)))
    add = "INSERT OR IGNORE INTO pairs (pair_id, task_id, edited_a, edited_b) VALUES (?, ?, ?, ?)"
    if book.run(add, (key, task_id, a, b)).rowcount == 0:
        first = book.run("SELECT edited_a FROM pairs WHERE pair_id = ?", (key,)).fetchone()[0]
        label: Label = row.label if first == a else SWAPPED[row.label]
    else:
        label = row.label
    book.run("INSERT INTO votes (pair, label, rater, place) VALUES (?, ?, ?, ?)", (key, label, row.rater, place))


def settle(book: Workbook, labels: Labels) -> dict[str, Any]:
    """Gives every pair its verdict; votes that say the opposite are quarantined, and so is a pair without a vote that counts.

    Returns what the card says of it: votes by value and by what they are read as, pairs by label, and how far raters agree.
    """
    ballot = Ballot()
    cast = book.run("SELECT pair, label, rater, place FROM votes ORDER BY pair, n")
    for key, rows in groupby(cast, key=lambda row: row[0]):
        verdict = ballot.settle([Vote(label, rater, place) for _, label, rater, place in rows])
        a, b, source, instruction, requirement = book.run(PAIR, (key,)).fetchone()
        for vote, reason in verdict.apart:
            evidence = {"source": source, "instruction": instruction, "says": vote.label, "rater": vote.rater}
            failure = Failure(kind="contradiction", detail=reason)
            book.quarantine([Quarantined(stage="read", key=vote.place, failure=failure, evidence=evidence)])
        if verdict.label is None:
            book.run("DELETE FROM pairs WHERE pair_id = ?", (key,))
            continue
        name = short_hash(source, *filter(None, (instruction, requirement)), a, b, verdict.label)
        book.run("UPDATE pairs SET pair_id = ?, label = ? WHERE pair_id = ?", (name, verdict.label, key))
    book.run("DELETE FROM votes")
    return {"labels": labels.rows(), **ballot.rows()}
