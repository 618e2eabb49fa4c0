"""Rows of a benchmark as stored: in a folder, a Parquet, JSONL or JSON file, or on the hub."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image

from rrm.errors import InputError
from rrm.images import inside, open_image, read_image
from rrm.rows import formats
from rrm.rows.fields import BadRow, as_image, missing
from rrm.rows.formats import PLAIN, Reading

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
TEXTS = (".jsonl", ".csv", ".tsv")
T = TypeVar("T")
LOCAL = ("./", "../", "/", "~")
"""What a path begins with, and no hub id."""


@dataclass(frozen=True)
class Layout:
    """Which part of a public repository is the benchmark.

    On the hub it is `split` of `config`; with `snapshot`, the whole repository is downloaded and
    read like a local folder. In a folder it is what lies below `parts` and has a name that begins
    with `stem`, as far as there is any such.
    """

    split: str = "train"
    config: str | None = None
    snapshot: bool = False
    parts: tuple[str, ...] = ()
    stem: str = ""


@dataclass(frozen=True)
class Place:
    """Where the images that a row names may lie: paths are relative to one of `bases`, and none
    leads out of `root`.

    A data set in memory has no such place: its images are in its cells.
    """

    root: Path | None = None
    bases: tuple[Path, ...] = ()

    def find(self, name: str) -> Path:
        """The file of this name, or where it should be. Raises InputError where it leads out."""
        if self.root is None:
            raise InputError(
                f"'{name}' names a file that is not in the data set; download it whole, and "
                "name its folder."
            )
        candidates = [inside(self.root, base.absolute() / name) for base in self.bases]
        return next((path for path in candidates if os.path.isfile(path)), candidates[0])


@dataclass(frozen=True)
class RawRow:
    """One row as stored. `where` names it in messages; `place` is where its image files lie."""

    number: int
    where: str
    values: Mapping[str, Any]
    place: Place

    def need(self, columns: Iterable[str], schema: str) -> None:
        """Raises InputError that names the columns of `schema` that the row lacks."""
        columns = tuple(columns)
        lacking = [column for column in columns if column not in self.values]
        if lacking:
            raise InputError(
                f"{self.where} lacks {', '.join(lacking)}; the columns of {schema} are "
                f"{', '.join(columns)}."
            )

    def text(self, column: str) -> str:
        """A column that must hold text."""
        value = self.values[column]
        if not isinstance(value, str) or not value.strip():
            raise InputError(f"{self.where}: '{column}' must hold text.")
        return value

    def choice(self, column: str, meanings: Mapping[str, T]) -> T:
        """What the text in a column means, by this table."""
        meaning = meanings.get(str(self.values[column]).strip())
        if meaning is None:
            raise InputError(
                f"{self.where}: '{column}' is {self.values[column]!r:.60}; it must be one of "
                f"{', '.join(meanings)}."
            )
        return meaning

    def name(self, columns: Iterable[str], default: str) -> str:
        """The first of these columns that holds a name or a number, else `default`."""
        values = (self.values.get(column) for column in columns)
        return next(
            (str(v) for v in values if isinstance(v, str | int) and str(v).strip()), default
        )

    def image(self, value: Any) -> Image.Image:
        """The upright RGB image in a cell: bytes, base64, a path, or {"bytes", "path"}."""
        if missing(value):
            raise InputError(f"{self.where} holds no image; give a path or an encoded image.")
        try:
            image = as_image("the image", value)
            if isinstance(image, str):
                return open_image(self.place.find(image))
            return read_image(image, "the image")
        except (BadRow, InputError) as error:
            raise InputError(f"{self.where}: {str(error).rstrip('.')}.") from error


Stored = tuple[str, Mapping[str, Any], Place]
"""A row's name for messages, its columns, and where its image files lie."""


def place_below(folder: Path, file: Path) -> Place:
    """Where images lie that `file` names: beside it, or relative to the benchmark's folder."""
    bases = dict.fromkeys((file.parent, folder))
    # The hub's cache keeps a repository's files in blobs/, beside snapshots/<commit>/ with links to
    # them.
    root = (
        folder.absolute().parent.parent if folder.absolute().parent.name == "snapshots" else folder
    )
    return Place(root, tuple(bases))


def file_rows(path: Path, folder: Path, reading: Reading) -> Iterator[Stored]:
    """Rows of one file, by its ending; image paths may also be relative to `folder`."""
    place = place_below(folder, path)
    for where, values in formats.whole_rows(path, reading):
        yield where, values, place


def folder_files(path: Path, layout: Layout) -> list[Path]:
    """The Parquet files below a folder, else its JSONL, CSV or TSV files, else JSON files."""
    parts = [path / part for part in layout.parts if (path / part).is_dir()] or [path]
    parquets = sorted(file for part in parts for file in part.rglob("*.parquet"))
    files = parquets or sorted(
        file for part in parts for ending in TEXTS for file in part.glob(f"*{ending}")
    )
    if not files and layout.snapshot:
        files = sorted(file for part in parts for file in part.rglob("*.json"))
    return [file for file in files if file.name.startswith(layout.stem)] or files


def folder_rows(path: Path, layout: Layout, reading: Reading) -> Iterator[Stored]:
    """Rows of the files below a folder, or of what `Dataset.save_to_disk` wrote there."""
    if (path / "dataset_info.json").is_file() and (path / "state.json").is_file():
        from datasets import load_from_disk

        yield from dataset_rows(str(path), load_from_disk(str(path)))
        return
    files = folder_files(path, layout)
    if not files:
        raise InputError(
            f"{path} holds no .parquet, .jsonl, .csv or .tsv files; name the benchmark's folder "
            "or file."
        )
    for file in files:
        yield from file_rows(file, path, reading)


def dataset_rows(name: str, dataset: Any) -> Iterator[Stored]:
    """Rows of a `datasets.Dataset`, whose images stay encoded."""
    for number, one in enumerate(dataset.with_format("arrow"), 1):
        yield f"{name}, row {number}", one.to_pylist()[0], Place()


def hub_rows(name: str, layout: Layout, reading: Reading) -> Iterator[Stored]:
    """Rows of `owner/name` or `owner/name@revision` on the hub."""
    hub_id, _, revision = name.partition("@")
    try:
        if layout.snapshot:
            from huggingface_hub import snapshot_download

            folder = Path(snapshot_download(hub_id, repo_type="dataset", revision=revision or None))
        else:
            from datasets import load_dataset

            dataset = load_dataset(
                hub_id, name=layout.config, revision=revision or None, split=layout.split
            )
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{name} cannot be loaded from the hub ({' '.join(str(error).split())[:200]})."
        ) from error
    yield from (
        folder_rows(folder, layout, reading) if layout.snapshot else dataset_rows(name, dataset)
    )


def is_local(bench: str) -> bool:
    """Whether a name can only be a path: by its beginning, ending, or an existing first folder.

    A hub id whose owner is the name of a folder here is told from a path by its revision.
    """
    path = Path(bench)
    if bench.startswith(LOCAL) or path.suffix.lower() in formats.FILES:
        return True
    return "@" not in bench and len(path.parts) > 1 and Path(path.parts[0]).is_dir()


def stored_rows(where: str, layout: Layout, reading: Reading) -> Iterator[Stored]:
    """Rows as stored, wherever the benchmark lies."""
    path = Path(where)
    if path.is_dir():
        return folder_rows(path, layout, reading)
    if path.is_file() and path.suffix.lower() in formats.FILES:
        return file_rows(path, path.parent, reading)
    if not path.exists() and HUB_ID.fullmatch(where) and not is_local(where):
        return hub_rows(where, layout, reading)
    why = "" if path.exists() else "nothing lies there; "
    raise InputError(
        f"{where} is no benchmark: {why}give a folder, a {', '.join(formats.FILES)} file, or a "
        "hub id (owner/name@revision)."
    )


def raw_rows(
    where: str, layout: Layout | None = None, reading: Reading = PLAIN
) -> Iterator[RawRow]:
    """Rows of what lies at `where`: a folder, a file, or a hub id with optional @revision."""
    for number, row in enumerate(stored_rows(where, layout or Layout(), reading)):
        yield RawRow(number, *row)
