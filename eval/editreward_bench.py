"""EditReward-Bench of the EditScore paper (hub id `EditScore/EditReward-Bench`), or anything in its schema, as typed rows.

Columns: key [id0, id1], instruction, input_image, output_images [img0, img1], task_type, dimension. There is no label column:
the edit at index 0 is always the preferred one. The public set's inputs come from GEdit-Bench and ImgEdit, so that it overlaps
the editors' benchmarks. (TIGER-Lab's set of the same name has another schema and is not read here.)
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet
from PIL import Image, UnidentifiedImageError

from eval.jsonl import read_jsonl
from rrm.errors import InputError
from rrm.images import open_image

COLUMNS = ("key", "instruction", "input_image", "output_images", "task_type", "dimension")
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
Raw = tuple[str, Mapping[str, Any], Path]
"""Where a row stands (for messages), its columns as stored, and the folder that image paths are relative to."""


@dataclass(frozen=True)
class BenchRow:
    """One pair: the edit at index 0 is preferred. Edited images have the source's size; digests are of pixels."""

    number: int
    key: tuple[str, str]
    instruction: str
    task_type: str
    dimension: str
    source: Image.Image
    edited: tuple[Image.Image, Image.Image]
    source_digest: str
    edited_digests: tuple[str, str]


def pixel_digest(image: Image.Image) -> str:
    """The SHA-256 of an RGB image's size and pixels."""
    return hashlib.sha256(f"{image.width}x{image.height}:".encode() + image.tobytes()).hexdigest()


def decode(value: Any, where: str, folder: Path) -> Image.Image:
    """The RGB image in a cell: an image, encoded bytes, a path, or the hub's {"bytes", "path"}."""
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, Image.Image):
        return value.convert("RGB")
    if isinstance(value, bytes):
        try:
            with Image.open(io.BytesIO(value)) as image:
                return image.convert("RGB")
        except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
            raise InputError(f"{where} holds an image that cannot be decoded ({error}); repair or replace it.") from error
    if isinstance(value, str) and value:
        try:
            return open_image(folder / value)
        except InputError as error:
            raise InputError(f"{where}: {error}") from error
    raise InputError(f"{where} holds no image but {type(value).__name__}; give a path or an encoded image.")


def pair_of(raw: Mapping[str, Any], column: str, where: str) -> tuple[Any, Any]:
    """The two entries of a column that must hold two."""
    value = raw[column]
    if isinstance(value, str | bytes) or not hasattr(value, "__len__") or len(value) != 2:
        raise InputError(f"{where}: '{column}' must hold exactly two entries, the preferred one first.")
    return value[0], value[1]


def text_of(raw: Mapping[str, Any], column: str, where: str) -> str:
    """A column that must hold text."""
    value = raw[column]
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{where}: '{column}' must hold text.")
    return value


def row_of(number: int, raw: Mapping[str, Any], where: str, folder: Path) -> BenchRow:
    """The typed row, its images decoded and the edited ones brought to the source's size."""
    missing = [column for column in COLUMNS if column not in raw]
    if missing:
        raise InputError(f"{where} lacks {', '.join(missing)}; the columns of EditScore's schema are {', '.join(COLUMNS)}.")
    first, second = pair_of(raw, "key", where)
    source = decode(raw["input_image"], where, folder)
    outputs = [decode(value, where, folder) for value in pair_of(raw, "output_images", where)]
    preferred, other = (
        image if image.size == source.size else image.resize(source.size, Image.Resampling.BICUBIC) for image in outputs
    )
    return BenchRow(
        number=number,
        key=(str(first), str(second)),
        instruction=text_of(raw, "instruction", where),
        task_type=text_of(raw, "task_type", where),
        dimension=text_of(raw, "dimension", where),
        source=source,
        edited=(preferred, other),
        source_digest=pixel_digest(source),
        edited_digests=(pixel_digest(preferred), pixel_digest(other)),
    )


def jsonl_rows(path: Path) -> Iterator[Raw]:
    """Rows of a JSONL file, whose image paths are relative to the file."""
    for line, value in read_jsonl(path):
        yield f"{path}, line {line}", value, path.parent


def parquet_rows(path: Path) -> Iterator[Raw]:
    """Rows of a Parquet file, a few in memory at a time."""
    try:
        table = parquet.ParquetFile(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not a readable Parquet file ({error}).") from error
    number = 0
    for batch in table.iter_batches(batch_size=16):
        for value in batch.to_pylist():
            yield f"{path}, row {number}", value, path.parent
            number += 1


def file_rows(path: Path) -> Iterator[Raw]:
    """Rows of one file, by its ending."""
    return parquet_rows(path) if path.suffix == ".parquet" else jsonl_rows(path)


def folder_rows(path: Path) -> Iterator[Raw]:
    """Rows of the Parquet files below a folder, or of its JSONL files, or of what `Dataset.save_to_disk` wrote there."""
    if (path / "dataset_info.json").is_file() and (path / "state.json").is_file():
        from datasets import load_from_disk

        yield from dataset_rows(str(path), load_from_disk(str(path)))
        return
    files = sorted(path.rglob("*.parquet")) or sorted(path.glob("*.jsonl"))
    if not files:
        raise InputError(f"{path} holds neither Parquet nor JSONL files; name the benchmark's folder or file.")
    for file in files:
        yield from file_rows(file)


def dataset_rows(name: str, dataset: Iterable[Mapping[str, Any]]) -> Iterator[Raw]:
    """Rows of a dataset in memory."""
    for number, value in enumerate(dataset):
        yield f"{name}, row {number}", value, Path()


def hub_rows(name: str) -> Iterator[Raw]:
    """Rows of the split `train` of `owner/name` or `owner/name@revision` on the hub."""
    from datasets import load_dataset

    hub_id, _, revision = name.partition("@")
    try:
        dataset = load_dataset(hub_id, revision=revision or None, split="train")
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{name} cannot be loaded from the hub ({' '.join(str(error).split())[:200]}).") from error
    yield from dataset_rows(name, dataset)


def raw_rows(bench: str) -> Iterator[Raw]:
    """Rows as stored, wherever `bench` lies."""
    path = Path(bench)
    if path.is_dir():
        return folder_rows(path)
    if path.is_file() and path.suffix in (".parquet", ".jsonl"):
        return file_rows(path)
    if not path.exists() and HUB_ID.fullmatch(bench):
        return hub_rows(bench)
    raise InputError(f"{bench} is no benchmark: give a folder, a .parquet or .jsonl file, or a hub id (owner/name@revision).")


def read_bench(bench: str, limit: int | None = None) -> Iterator[BenchRow]:
    """The rows of the benchmark at `bench` (folder, .parquet, .jsonl, or hub id with optional @revision), in its order.

    `limit` keeps the first so many rows of every dimension. Raises InputError for missing columns, an unreadable image, or
    no rows at all.
    """
    seen: dict[str, int] = {}
    for number, (where, raw, folder) in enumerate(raw_rows(bench)):
        dimension = str(raw.get("dimension"))
        seen[dimension] = seen.get(dimension, 0) + 1
        if limit is None or seen[dimension] <= limit:
            yield row_of(number, raw, where, folder)
    if not seen:
        raise InputError(f"{bench} holds no rows.")
