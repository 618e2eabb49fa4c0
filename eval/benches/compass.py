"""EditReward-Compass (hub id `DogNeverSleep/EditReward-Compass`): a JSON list of pairs, each judged in one dimension.

Fields: dimension (IA, VC or VQ), source_image, prompt, winner, loser, label (preference or tie; of a tie, winner and loser are
but two names).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eval.benches.reading import Layout, Place, bench_row, name_of, need, one_of, text_of
from eval.benches.records import BenchRow, Label
from rrm.errors import InputError

FIELDS = ("dimension", "source_image", "prompt", "winner", "loser", "label")
DIMENSIONS = ("IA", "VC", "VQ")
LABELS: Mapping[str, Label] = {"preference": "a", "tie": "tie"}
LAYOUT = Layout(snapshot=True)


def row_of(number: int, raw: Mapping[str, Any], where: str, place: Place) -> BenchRow:
    """The typed row: a is the winner."""
    need(raw, FIELDS, where, "EditReward-Compass")
    dimension = text_of(raw, "dimension", where)
    if dimension not in DIMENSIONS:
        raise InputError(f"{where}: 'dimension' is {dimension!r:.60}; it must be one of {', '.join(DIMENSIONS)}.")
    return bench_row(
        number,
        where,
        place,
        (raw["source_image"], raw["winner"], raw["loser"]),
        instruction=text_of(raw, "prompt", where),
        label=one_of(raw, "label", LABELS, where),
        item_id=name_of(raw, ("id",), str(number)),
        task_type=name_of(raw, ("task_type",), "all"),
        dimension=dimension,
    )
