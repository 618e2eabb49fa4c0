"""EditReward-Bench of the EditScore paper (hub id `EditScore/EditReward-Bench`), or anything in its schema.

Columns: key [id0, id1], instruction, input_image, output_images [img0, img1], task_type, dimension. There is no label column:
the edit at index 0 is always the preferred one. The public set's inputs come from GEdit-Bench and ImgEdit, so that it overlaps
the editors' benchmarks. (TIGER-Lab's set of the same name has another schema: `eval.benches.tiger`.)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eval.benches.reading import Layout, Place, bench_row, need, text_of
from eval.benches.records import BenchRow
from rrm.errors import InputError

COLUMNS = ("key", "instruction", "input_image", "output_images", "task_type", "dimension")
LAYOUT = Layout()


def pair_of(raw: Mapping[str, Any], column: str, where: str) -> tuple[Any, Any]:
    """The two entries of a column that must hold two."""
    value = raw[column]
    if isinstance(value, str | bytes) or not hasattr(value, "__len__") or len(value) != 2:
        raise InputError(f"{where}: '{column}' must hold exactly two entries, the preferred one first.")
    return value[0], value[1]


def row_of(number: int, raw: Mapping[str, Any], where: str, place: Place) -> BenchRow:
    """The typed row. Its label is always "a", since the first edit is the preferred one."""
    need(raw, COLUMNS, where, "EditScore's schema")
    first, second = (str(one) for one in pair_of(raw, "key", where))
    dimension = text_of(raw, "dimension", where)
    return bench_row(
        number,
        where,
        place,
        (raw["input_image"], *pair_of(raw, "output_images", where)),
        instruction=text_of(raw, "instruction", where),
        label="a",
        item_id=f"{dimension}/{first}/{second}",
        key=(first, second),
        task_type=text_of(raw, "task_type", where),
        dimension=dimension,
    )
