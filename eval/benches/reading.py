"""Rows of a benchmark as they are stored, wherever it lies: a folder, a Parquet, JSONL or JSON file, or a repository on the hub."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from eval.benches.records import BenchRow, Label
from rrm.errors import InputError
from rrm.images import inside, open_image, pixel_digest, read_image
from rrm.rows import formats
from rrm.rows.fields import BadRow, as_image, encodable, missing
from rrm.rows.formats import PLAIN, Reading

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
TEXTS = (".jsonl", ".csv", ".tsv")
LOCAL = ("./", "../", "/", "~")
"""What a path begins with, and no hub id."""


@dataclass(frozen=True)
class Layout:
    """Which part of a public repository is the benchmark.

    On the hub it is `split` of `config`; with `snapshot`, the whole repository is downloaded and read like a local folder. In
    a folder it is what lies below `parts` and has a name that begins with `stem`, as far as there is any such.
    """

    split: str = "train"
    config: str | None = None
    snapshot: bool = False
    parts: tuple[str, ...] = ()
    stem: str = ""


@dataclass(frozen=True)
class Place:
    """Where the images that a row names may lie: paths are relative to one of `bases`, and none leads out of `root`.

    A data set in memory has no such place: its images are in its cells.
    """

    root: Path | None = None
    bases: tuple[Path, ...] = ()

    def find(self, name: str) -> Path:
        """The file of this name; where there is none, where it should be. Raises InputError where the name leads out."""
        if self.root is None:
            raise InputError(f"'{name}' names a file that is not in the data set; download it whole, and name its folder.")
        found = [inside(self.root, base.absolute() / name) for base in self.bases]
        return next((path for path in found if os.path.isfile(path)), found[0])


Raw = tuple[str, Mapping[str, Any], Place]
"""Where a row stands (for messages), its columns as stored, and where the images lie that it names."""


def place_below(folder: Path, file: Path) -> Place:
    """The place of the images that `file` names: beside it, or relative to the benchmark's folder."""
    bases = dict.fromkeys((file.parent, folder))
    # The hub's cache keeps a repository's files in blobs/, beside snapshots/<commit>/ with links to them.
    root = folder.absolute().parent.parent if folder.absolute().parent.name == "snapshots" else folder
    return Place(root, tuple(bases))


def decode(value: Any, where: str, place: Place) -> Image.Image:
    """The RGB image in a cell, upright: encoded bytes, base64, a path, or the hub's {"bytes", "path"}."""
    if missing(value):
        raise InputError(f"{where} holds no image; give a path or an encoded image.")
    try:
        image = as_image("the image", value)
        return open_image(place.find(image)) if isinstance(image, str) else read_image(image, "the image")
    except (BadRow, InputError) as error:
        raise InputError(f"{where}: {str(error).rstrip('.')}.") from error


def need(raw: Mapping[str, Any], columns: Iterable[str], where: str, schema: str) -> None:
    """Raises InputError that names the columns that the row lacks and `schema`, whose they are."""
    columns = tuple(columns)
    missing = [column for column in columns if column not in raw]
    if missing:
        raise InputError(f"{where} lacks {', '.join(missing)}; the columns of {schema} are {', '.join(columns)}.")


def text_of(raw: Mapping[str, Any], column: str, where: str) -> str:
    """A column that must hold text."""
    value = raw[column]
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{where}: '{column}' must hold text.")
    return value


def one_of(raw: Mapping[str, Any], column: str, table: Mapping[str, Label], where: str) -> Label:
    """What the text in a column stands for."""
    found = table.get(str(raw[column]).strip())
    if found is None:
        raise InputError(f"{where}: '{column}' is {raw[column]!r:.60}; it must be one of {', '.join(table)}.")
    return found


def name_of(raw: Mapping[str, Any], columns: Iterable[str], default: str) -> str:
    """The first of these columns that holds a name or a number, else `default`."""
    values = (raw.get(column) for column in columns)
    return next((str(value) for value in values if isinstance(value, str | int) and str(value).strip()), default)


def bench_row(
    number: int,
    where: str,
    place: Place,
    images: tuple[Any, Any, Any],
    *,
    instruction: str,
    label: Label,
    item_id: str,
    key: tuple[str, str] | None = None,
    task_type: str = "all",
    dimension: str = "overall",
    group: str | None = None,
    candidates: int = 2,
    requirement: str | None = None,
    rater: str | None = None,
) -> BenchRow:
    """The typed row of three cells, source and two edits, all decoded. Raises InputError for text that no file can hold."""
    texts = {"instruction": instruction, "requirement": requirement or "", "id": item_id, "task_type": task_type}
    try:
        for name, text in {**texts, "dimension": dimension}.items():
            encodable(name, text)
    except BadRow as error:
        raise InputError(f"{where}: {error}; correct the row.") from error
    source, a, b = (decode(value, where, place) for value in images)
    return BenchRow(
        number=number,
        key=key or (f"{item_id}:a", f"{item_id}:b"),
        instruction=instruction,
        task_type=task_type,
        dimension=dimension,
        source=source,
        edited=(a, b),
        source_digest=pixel_digest(source),
        edited_digests=(pixel_digest(a), pixel_digest(b)),
        label=label,
        group=item_id if group is None else group,
        candidates=candidates,
        item_id=item_id,
        requirement=requirement,
        rater=rater,
    )


def file_rows(path: Path, folder: Path, reading: Reading) -> Iterator[Raw]:
    """Rows of one file, by its ending; image paths may also be relative to `folder`."""
    place = place_below(folder, path)
    for where, values in formats.whole_rows(path, reading):
        yield where, values, place


def folder_files(path: Path, layout: Layout) -> list[Path]:
    """The Parquet files of the benchmark below a folder, else its JSONL, CSV or TSV files, else, in its parts, its JSON files."""
    parts = [path / part for part in layout.parts if (path / part).is_dir()] or [path]
    parquets = sorted(file for part in parts for file in part.rglob("*.parquet"))
    files = parquets or sorted(file for part in parts for ending in TEXTS for file in part.glob(f"*{ending}"))
    if not files and layout.snapshot:
        files = sorted(file for part in parts for file in part.rglob("*.json"))
    return [file for file in files if file.name.startswith(layout.stem)] or files


def folder_rows(path: Path, layout: Layout, reading: Reading) -> Iterator[Raw]:
    """Rows of the files of the benchmark below a folder, or of what `Dataset.save_to_disk` wrote there."""
    if (path / "dataset_info.json").is_file() and (path / "state.json").is_file():
        from datasets import load_from_disk

        yield from dataset_rows(str(path), load_from_disk(str(path)))
        return
    files = folder_files(path, layout)
    if not files:
        raise InputError(f"{path} holds no .parquet, .jsonl, .csv or .tsv files; name the benchmark's folder or file.")
    for file in files:
        yield from file_rows(file, path, reading)


def dataset_rows(name: str, dataset: Any) -> Iterator[Raw]:
    """Rows of a `datasets.Dataset`, whose images stay encoded: they are decoded here in one way only."""
    for number, one in enumerate(dataset.with_format("arrow"), 1):
        yield f"{name}, row {number}", one.to_pylist()[0], Place()


def hub_rows(name: str, layout: Layout, reading: Reading) -> Iterator[Raw]:
    """Rows of `owner/name` or `owner/name@revision` on the hub."""
    hub_id, _, revision = name.partition("@")
    try:
        if layout.snapshot:
            from huggingface_hub import snapshot_download

            folder = Path(snapshot_download(hub_id, repo_type="dataset", revision=revision or None))
        else:
            from datasets import load_dataset

            dataset = load_dataset(hub_id, name=layout.config, revision=revision or None, split=layout.split)
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{name} cannot be loaded from the hub ({' '.join(str(error).split())[:200]}).") from error
    yield from folder_rows(folder, layout, reading) if layout.snapshot else dataset_rows(name, dataset)


def is_local(bench: str) -> bool:
    """Whether a name can only be meant as a path, by its beginning, its ending, or a first folder that is there.

    A hub id whose owner is the name of a folder here is told from a path by its revision.
    """
    path = Path(bench)
    if bench.startswith(LOCAL) or path.suffix.lower() in formats.FILES:
        return True
    return "@" not in bench and len(path.parts) > 1 and Path(path.parts[0]).is_dir()


def raw_rows(bench: str, layout: Layout | None = None, reading: Reading = PLAIN) -> Iterator[Raw]:
    """Rows as stored, wherever `bench` lies; `layout` says which part of a public repository is meant."""
    path, layout = Path(bench), layout or Layout()
    if path.is_dir():
        return folder_rows(path, layout, reading)
    if path.is_file() and path.suffix.lower() in formats.FILES:
        return file_rows(path, path.parent, reading)
    if not path.exists() and HUB_ID.fullmatch(bench) and not is_local(bench):
        return hub_rows(bench, layout, reading)
    why = "" if path.exists() else "nothing lies there; "
    raise InputError(
        f"{bench} is no benchmark: {why}give a folder, a {', '.join(formats.FILES)} file, or a hub id (owner/name@revision)."
    )
