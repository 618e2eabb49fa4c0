"""Selected traces → SFT rows; and the records as Parquet files, one column per field, written and
read row group by row group."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from data_pipeline.selection import accuracy
from data_pipeline.traces import Judged
from rrm.errors import InputError
from rrm.parsing import canonical
from rrm.prompts import write_principles
from rrm.records import PreferencePair, Principle, Quadruple, Record, SFTRow, Task, Trace
from rrm.runtime.disk import written_at_once
from rrm.runtime.secrets import masked

Row = TypeVar("Row", bound=Record)
GROUP = 1024
"""Rows of a Parquet row group."""
TEXT = pa.string()
PRINCIPLES = pa.list_(pa.struct([("question", TEXT), ("category", TEXT)]))
READ = pa.struct(
    [("verdicts", pa.list_(pa.int8())), ("average", pa.float64()), ("score", pa.float64())]
)
FAILURE = pa.struct([("kind", TEXT), ("detail", TEXT)])
SCHEMAS: Mapping[type[Record], pa.Schema] = {
    SFTRow: pa.schema(
        [
            *(
                (name, TEXT)
                for name in ("row_id", "kind", "source", "edited", "instruction", "requirement")
            ),
            ("principles", PRINCIPLES),
            ("target", TEXT),
            ("accuracy", pa.float64()),
        ]
    ),
    PreferencePair: pa.schema(
        [
            *((name, TEXT) for name in ("pair_id", "source", "instruction", "requirement")),
            ("principles", PRINCIPLES),
            *((name, TEXT) for name in ("edited_a", "edited_b", "label")),
        ]
    ),
    Trace: pa.schema(
        [
            ("quadruple_id", TEXT),
            ("teacher", TEXT),
            ("index", pa.int32()),
            ("text", TEXT),
            ("read", READ),
            ("failure", FAILURE),
        ]
    ),
}


def judge_row(quadruple: Quadruple, judged: Judged, thinks: bool) -> SFTRow:
    """The example whose target is the selected trace in its canonical form, without its thought in
    a set that does not think."""
    trace = next(trace for trace in judged.traces if trace.index == judged.selected)
    assert trace.read is not None
    return SFTRow(
        row_id=quadruple.quadruple_id,
        kind="judge",
        source=quadruple.task.source,
        edited=quadruple.edited,
        instruction=quadruple.task.instruction,
        requirement=quadruple.task.requirement,
        principles=quadruple.principles,
        target=canonical(trace.text, trace.read, thinks),
        accuracy=accuracy(trace.read.verdicts, judged.gold.verdicts) if judged.gold else None,
    )


def decompose_row(task: Task, principles: tuple[Principle, ...]) -> SFTRow:
    """The example whose target is the task's decomposition."""
    return SFTRow(
        row_id=f"decompose-{task.task_id}",
        kind="decompose",
        source=task.source,
        edited=None,
        instruction=task.instruction,
        requirement=task.requirement,
        principles=principles,
        target=write_principles(principles),
    )


def write_table(path: Path, kind: type[Row], rows: Iterable[Row]) -> int:
    """Writes the records as Parquet, at once or not at all and with keys masked; returns how many
    there are."""
    source = iter(rows)
    count = 0
    with written_at_once(path) as partial, pq.ParquetWriter(partial, SCHEMAS[kind]) as writer:
        while group := list(islice(source, GROUP)):
            writer.write_table(
                pa.Table.from_pylist([masked(row.model_dump()) for row in group], SCHEMAS[kind])
            )
            count += len(group)
    return count


def stream_table(path: str | Path, kind: type[Row]) -> Iterator[Row]:
    """The records of such a file, a row group in memory at a time. Raises InputError where it is
    missing or holds something else."""
    path = Path(path)
    if not path.is_file():
        raise InputError(
            f"There is no {path}; run the data pipeline first, or correct the path in the config."
        )
    try:
        for batch in pq.ParquetFile(path).iter_batches(batch_size=GROUP):
            for row in batch.to_pylist():
                yield kind.model_validate(row)
    except (pa.ArrowException, ValueError) as error:
        raise InputError(
            f"{path} does not hold {kind.__name__} rows ({' '.join(str(error).split())[:160]})."
        ) from error


def read_table(path: str | Path, kind: type[Row]) -> list[Row]:
    """All records of such a file. Raises InputError where it is missing or holds something else."""
    return list(stream_table(path, kind))
