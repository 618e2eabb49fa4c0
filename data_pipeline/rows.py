"""Selected traces → SFT rows; and the records as Parquet files, one column per field."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_pipeline.select import accuracy
from rrm.errors import InputError
from rrm.prompts import write_principles
from rrm.records import Gold, PreferencePair, Principle, Quadruple, Record, SFTRow, Task, Trace

Row = TypeVar("Row", bound=Record)
TEXT = pa.string()
PRINCIPLES = pa.list_(pa.struct([("question", TEXT), ("category", TEXT)]))
SCHEMAS: dict[type[Record], pa.Schema] = {
    SFTRow: pa.schema(
        [
            *((name, TEXT) for name in ("row_id", "kind", "source", "edited", "instruction")),
            ("principles", PRINCIPLES),
            ("target", TEXT),
            ("accuracy", pa.float64()),
        ]
    ),
    PreferencePair: pa.schema(
        [
            *((name, TEXT) for name in ("pair_id", "source", "instruction")),
            ("principles", PRINCIPLES),
            *((name, TEXT) for name in ("edited_a", "edited_b", "label")),
        ]
    ),
}


def judge_row(quadruple: Quadruple, trace: Trace, gold: Gold | None) -> SFTRow:
    """The example whose target is the selected trace."""
    assert trace.read is not None
    return SFTRow(
        row_id=quadruple.quadruple_id,
        kind="judge",
        source=quadruple.task.source,
        edited=quadruple.edited,
        instruction=quadruple.task.instruction,
        principles=quadruple.principles,
        target=trace.text.strip(),
        accuracy=accuracy(trace.read.verdicts, gold.verdicts) if gold else None,
    )


def decompose_rows(
    tasks: Sequence[Task], principles: Mapping[str, tuple[Principle, ...]], judge_count: int, share: float, seed: int
) -> list[SFTRow]:
    """Examples of decomposing, as many as make `share` of all rows (or as there are decomposed tasks), drawn by seed."""
    known = sorted((task for task in tasks if task.task_id in principles), key=lambda task: task.task_id)
    count = min(len(known), round(judge_count * share / (1 - share)))
    chosen = np.random.default_rng(seed).permutation(len(known))[:count]
    return [
        SFTRow(
            row_id=f"decompose-{task.task_id}",
            kind="decompose",
            source=task.source,
            edited=None,
            instruction=task.instruction,
            principles=principles[task.task_id],
            target=write_principles(principles[task.task_id]),
        )
        for task in (known[int(i)] for i in chosen)
    ]


def write_table(path: Path, kind: type[Row], rows: Sequence[Row]) -> None:
    """Writes the records as Parquet, at once or not at all."""
    partial = path.with_name(path.name + ".part")
    pq.write_table(pa.Table.from_pylist([row.model_dump() for row in rows], SCHEMAS[kind]), partial)
    partial.replace(path)


def read_table(path: str | Path, kind: type[Row]) -> list[Row]:
    """The records of such a file. Raises InputError where it is missing or holds something else."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"There is no {path}; run the data pipeline first, or correct the path in the config.")
    try:
        return [kind.model_validate(row) for row in pq.read_table(path).to_pylist()]
    except (pa.ArrowException, ValueError) as error:
        raise InputError(f"{path} does not hold {kind.__name__} rows ({' '.join(str(error).split())[:160]}).") from error
