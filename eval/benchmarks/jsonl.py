"""Any preference set, JSONL, JSON, CSV or Parquet: source, instruction, two edits and a label, by
whichever names it calls them.

The names are those that the data pipeline reads (`rrm.rows.pairs.read_pair`); this project's own
are source, instruction, edited_a, edited_b, label (a, b or same), and optionally requirement,
rater, id, task_type and dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from eval.outcomes import Scores, breakdown
from eval.pairs import BenchmarkRow, PairIndex, pair_row
from eval.protocol import (
    Benchmark,
    Cell,
    Citation,
    Thresholds,
    counts_of,
    decided_outcomes,
    label_of_scores,
    share_right,
)
from eval.reading import Layout, RawRow, raw_rows
from rrm.errors import InputError
from rrm.records import Label as VoteLabel
from rrm.rows.fields import BadRow
from rrm.rows.formats import Reading
from rrm.rows.labels import Given, Labels, counted, decided
from rrm.rows.pairs import LABEL_COLUMNS, read_pair, said_in, said_of
from rrm.rows.votes import SWAPPED, Ballot, Vote


def decide_labels(where: str, reading: Reading, given: Given | None) -> Labels:
    """What the labels mean, from all rows. Raises InputError where that is not certain."""
    rows = raw_rows(where, Layout(), replace(reading, columns=LABEL_COLUMNS))
    return decided(where, counted(where, said_in(row.values for row in rows)), given)


def row_of(row: RawRow, labels: Labels) -> BenchmarkRow | None:
    """The typed row; None where rows with its label are left out. "same" is a tie."""
    try:
        if labels.leaves_out(said_of(row.values)):
            return None
        pair = read_pair(row.values, labels)
    except BadRow as error:
        wanted = "source, instruction, edited_a, edited_b and label (a, b or same)"
        raise InputError(f"{row.where}: {error}; give {wanted}.") from error
    return pair_row(
        row,
        (pair.source, pair.a, pair.b),
        instruction=pair.instruction,
        requirement=pair.requirement,
        rater=pair.rater,
        label="tie" if pair.label == "same" else pair.label,
        item_id=row.name(("id", "item_id", "pair_id"), str(row.number)),
        task_type=row.name(("task_type", "edit_type"), "all"),
        dimension=row.name(("dimension",), "overall"),
    )


def vote_of(pair: PairIndex, first: PairIndex) -> Vote:
    """A row as a vote on the pair of `first`, whose sides may be swapped."""
    label: VoteLabel = "a" if pair.label == "a" else "b" if pair.label == "b" else "same"
    return Vote(label if pair.edited == first.edited else SWAPPED[label], pair.rater, pair.item_id)


def merge_votes(pairs: Sequence[PairIndex]) -> tuple[list[PairIndex], dict[str, Any]]:
    """Every pair once, in the order of first rows, labelled by the votes on it, and their counts.

    Pairs of one image twice are left out, and so are those without a vote that counts.
    """
    ballot = Ballot()
    different = [pair for pair in pairs if pair.edited[0] != pair.edited[1]]
    cast: dict[tuple[Any, ...], list[PairIndex]] = {}
    for pair in different:
        cast.setdefault((pair.task, pair.dimension, *sorted(pair.edited)), []).append(pair)
    merged = []
    for members in cast.values():
        verdict = ballot.settle([vote_of(pair, members[0]) for pair in members])
        if verdict.label is not None:
            label = "tie" if verdict.label == "same" else verdict.label
            merged.append(replace(members[0], label=label))
    return merged, {"same_image": len(pairs) - len(different), **ballot.rows()}


def protocol(pairs: Sequence[PairIndex], scores: Scores, thresholds: Thresholds) -> dict[str, Cell]:
    """`strict` and `half_tie` over the decided pairs; `same`, the other pairs, for themselves.

    `half_tie` counts a tie of the judge ½. A pair of `same` is right where the scores are at most
    the margin apart.
    """
    parts = breakdown(decided_outcomes(pairs, scores))
    same = [pair for pair in pairs if not pair.decided]
    tied = [label_of_scores(pair, scores, thresholds.margin) == "tie" for pair in same]
    return {
        "strict": {"value": parts["strict"], **counts_of(parts), "ci95": parts["strict_ci95"]},
        "half_tie": {
            "value": parts["half_tie"],
            **counts_of(parts),
            "ci95": parts["half_tie_ci95"],
        },
        "same": share_right(tied, same, scores),
    }


BENCHMARK = Benchmark(
    name="jsonl",
    title="a preference set of one's own",
    row_of=row_of,
    protocol=protocol,
    citation=Citation("strict", "pairs that people decided, a tie is wrong"),
    decide_labels=decide_labels,
    merge_votes=merge_votes,
)
