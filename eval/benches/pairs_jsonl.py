"""Any preference set, JSONL, JSON, CSV or Parquet: source, instruction, two edits and a label, by whichever names it calls them.

The names are those that the data pipeline reads (`rrm.rows.pairs.read_pair`); this project's own are source, instruction,
edited_a, edited_b, label (a, b or same), and optionally requirement, rater, id, task_type and dimension.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eval.benches.reading import Layout, Place, bench_row, name_of
from eval.benches.records import BenchRow
from rrm.errors import InputError
from rrm.rows.fields import BadRow
from rrm.rows.labels import BY_WORDS, Labels
from rrm.rows.pairs import read_pair, said_of

LAYOUT = Layout()


def row_of(number: int, raw: Mapping[str, Any], where: str, place: Place, labels: Labels = BY_WORDS) -> BenchRow | None:
    """The typed row; None where the user says that rows with its label are left out. Two edits of which neither is preferred are a tie,
    for whatever reason."""
    try:
        if labels.leaves_out(said_of(raw)):
            return None
        pair = read_pair(raw, labels)
    except BadRow as error:
        raise InputError(f"{where}: {error}; give source, instruction, edited_a, edited_b and label (a, b or same).") from error
    return bench_row(
        number,
        where,
        place,
        (pair.source, pair.a, pair.b),
        instruction=pair.instruction,
        requirement=pair.requirement,
        rater=pair.rater,
        label="tie" if pair.label == "same" else pair.label,
        item_id=name_of(raw, ("id", "item_id", "pair_id"), str(number)),
        task_type=name_of(raw, ("task_type", "edit_type"), "all"),
        dimension=name_of(raw, ("dimension",), "overall"),
    )
