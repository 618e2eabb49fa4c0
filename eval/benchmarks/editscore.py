"""EditReward-Bench of EditScore (hub id `EditScore/EditReward-Bench`), or a set in its schema.

Columns: key [id0, id1], instruction, input_image, output_images [img0, img1], task_type, dimension.
There is no label column: the edit at index 0 is always the preferred one. TIGER-Lab's set of the
same name has another schema (`eval.benchmarks.tiger`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from eval.outcomes import Scores, breakdown
from eval.pairs import BenchmarkRow, PairIndex, pair_row
from eval.protocol import (
    Benchmark,
    Cell,
    Citation,
    PublicSet,
    Thresholds,
    counts_of,
    decided_outcomes,
    pairs_by_dimension,
)
from eval.reading import RawRow
from rrm.errors import InputError
from rrm.rows.labels import Labels

COLUMNS = ("key", "instruction", "input_image", "output_images", "task_type", "dimension")


def two_entries(row: RawRow, column: str) -> tuple[Any, Any]:
    """The two entries of a column that must hold two."""
    value = row.values[column]
    if isinstance(value, str | bytes) or not hasattr(value, "__len__") or len(value) != 2:
        raise InputError(
            f"{row.where}: '{column}' must hold exactly two entries, the preferred one first."
        )
    return value[0], value[1]


def row_of(row: RawRow, labels: Labels) -> BenchmarkRow:
    """The typed row. Its label is always "a", since the first edit is the preferred one."""
    row.need(COLUMNS, "EditScore's schema")
    first, second = (str(key) for key in two_entries(row, "key"))
    dimension = row.text("dimension")
    return pair_row(
        row,
        (row.values["input_image"], *two_entries(row, "output_images")),
        instruction=row.text("instruction"),
        label="a",
        item_id=f"{dimension}/{first}/{second}",
        key=(first, second),
        task_type=row.text("task_type"),
        dimension=dimension,
    )


def protocol(pairs: Sequence[PairIndex], scores: Scores, thresholds: Thresholds) -> dict[str, Cell]:
    """Per dimension the unweighted mean over task types of the share of rows with s0 > s1; a tie is
    wrong and there is no margin (VectorSpaceLab/EditScore, its evaluation of this set).

    `groups` are of task types: `value`, the mean over them, is what EditScore's table shows;
    `pooled` counts all their pairs alike.
    """
    cells = {}
    for dimension, members in pairs_by_dimension(pairs).items():
        parts = breakdown(decided_outcomes(members, scores))
        cells[dimension] = {
            "value": parts["macro"],
            "ci95": parts["macro_ci95"],
            "micro": parts["strict"],
            **counts_of(parts),
            "groups": {
                name: {"value": group["macro"], "pooled": group["strict"], "n": group["n"]}
                for name, group in parts["by_group"].items()
            },
        }
    return cells


BENCHMARK = Benchmark(
    name="editscore",
    title="EditReward-Bench of EditScore",
    row_of=row_of,
    protocol=protocol,
    citation=Citation(
        "overall", "mean over task types, dimension {name}, a tie is wrong", "pointwise-macro"
    ),
    pairwise_citation=Citation("overall", "mean over task types, dimension {name}, a tie is wrong"),
    public=PublicSet("EditScore/EditReward-Bench", 1238),
    resizes=True,
    group_of=lambda row: (str(row.values.get("dimension")), str(row.number)),
    items=lambda pairs: sum(pair.dimension == "overall" for pair in pairs),
    note="The inputs of EditScore's own set come from GEdit-Bench and ImgEdit: an editor or a "
    "reward model that was tuned on either has seen them.",
)
