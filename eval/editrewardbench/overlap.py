"""What a benchmark shares with a model's training data: (nearly) the same source image, and whether
the instruction is the same, too. A score on such pairs may be memorised.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow.parquet as parquet
from tqdm import tqdm

from data_pipeline.clean import source_of
from data_pipeline.duplicates import LOOK_BYTES, look_of, near_pairs, normalised, stacked
from eval.editrewardbench.judging import Rows
from eval.pairs import PairIndex
from rrm.errors import InputError
from rrm.images import ImageStore, open_image, read_image
from rrm.rows.fields import BadRow, ImageRef
from rrm.rows.formats import PLAIN, Reading
from rrm.rows.sources import rows_of

TABLES = ("sft.parquet", "preferences.parquet", "same.parquet")
Shared = Literal["task", "image"]
"""The image and the instruction, or the image with another instruction."""


@dataclass(frozen=True)
class Training:
    """Perceptual hashes of a model's training images, and each one's normalised instructions."""

    looks: tuple[bytes, ...]
    instructions: tuple[frozenset[str], ...]
    rows: int
    unreadable: int
    """Rows whose image or instruction cannot be read: nothing is known of them."""


@dataclass(frozen=True)
class TrainingRow:
    """An instruction and where its source image is."""

    instruction: str
    image: ImageRef
    folder: Path


def table_rows(path: Path) -> Iterator[TrainingRow]:
    """Rows of a table of the data stage, whose images lie in `images/` by digest."""
    try:
        table = parquet.ParquetFile(path)
        lacking = {
            name for name in ("source", "instruction") if name not in table.schema_arrow.names
        }
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not a readable Parquet file ({error}).") from error
    if lacking:
        raise InputError(
            f"{path} lacks {', '.join(sorted(lacking))}; name a data stage's folder, or a JSONL "
            "of both."
        )
    store = ImageStore(path.parent / "images")
    for batch in table.iter_batches(columns=["source", "instruction"]):
        for row in batch.to_pylist():
            yield TrainingRow(
                row["instruction"],
                str(store.path(row["source"]).relative_to(path.parent)),
                path.parent,
            )


def manifest_rows(manifest: Path, reading: Reading) -> Iterator[TrainingRow | None]:
    """Rows of a data stage's folder, of one of its tables, or of any source of images and
    instructions; None for a bad row."""
    tables = (
        [manifest / name for name in TABLES if (manifest / name).is_file()]
        if manifest.is_dir()
        else []
    )
    if manifest.name in TABLES and manifest.is_file():
        tables = [manifest]
    if tables:
        for table in tables:
            yield from table_rows(table)
        return
    if not manifest.exists():
        raise InputError(
            f"There is no training data at {manifest}; name a folder with {TABLES[0]}, or a "
            "JSONL of source, instruction."
        )
    for row in rows_of(str(manifest), reading):
        try:
            image, instruction = source_of(row.values or {})
        except BadRow:
            yield None
        else:
            yield TrainingRow(instruction, image, row.folder or Path())


def look_at(image: ImageRef, folder: Path) -> bytes | None:
    """The look of an image, or None where it cannot be read."""
    try:
        return look_of(
            read_image(image) if isinstance(image, bytes) else open_image(folder / image)
        ).to_bytes()
    except InputError:
        return None


def read_training(manifest: Path, reading: Reading = PLAIN) -> Training:
    """The training set at `manifest`. Raises InputError where nothing can be read."""
    seen: dict[tuple[ImageRef, Path], bytes | None] = {}
    instructions: dict[bytes, set[str]] = {}
    rows = unreadable = 0
    for row in tqdm(manifest_rows(manifest, reading), desc="training data", unit="row"):
        rows += 1
        look = None
        if row is not None:
            key = (row.image, row.folder)
            if key not in seen:
                seen[key] = look_at(row.image, row.folder)
            look = seen[key]
        if row is None or look is None:
            unreadable += 1
        else:
            instructions.setdefault(look, set()).add(normalised(row.instruction))
    if not instructions:
        raise InputError(
            f"{manifest} holds no readable source image and instruction; correct --train-manifest."
        )
    return Training(
        tuple(instructions),
        tuple(frozenset(words) for words in instructions.values()),
        rows,
        unreadable,
    )


def looks_of(rows: Rows) -> dict[str, bytes]:
    """The look of every source of the benchmark, by the digest of its pixels."""
    looks: dict[str, bytes] = {}
    for row in rows():
        if row.pair.source not in looks:
            looks[row.pair.source] = look_of(row.source).to_bytes()
    return looks


def shared_pairs(
    pairs: Sequence[PairIndex], looks: Mapping[str, bytes], training: Training
) -> list[Shared | None]:
    """What each pair shares with the training data: image and instruction, the image, or None.

    Images are compared by perceptual hash (`data_pipeline.duplicates`): resizing and re-encoding do
    not hide a copy.
    """
    sources = list(looks)
    assert all(len(look) == LOOK_BYTES for look in looks.values())
    like: dict[str, set[str]] = {}
    # No look repeats within the training set; one may within the benchmark, on the left side.
    for i, j in near_pairs(stacked(looks.values()), stacked(training.looks)):
        like.setdefault(sources[i], set()).update(training.instructions[j])
    shared: list[Shared | None] = []
    for pair in pairs:
        words = like.get(pair.source)
        shared.append(
            None if words is None else "task" if normalised(pair.instruction) in words else "image"
        )
    return shared
