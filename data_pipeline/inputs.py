"""Rows of any source: JSONL, JSON, Parquet, folders of Edit-R1 and of the datasets library, the hub. What they mean: `schemas`.

Rows come in the source's order and one after the other, so that memory does not grow with the source. Images are handed on as
they lie there, as a path or as encoded bytes: nothing here decodes them.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import fsspec
import httpx
import pyarrow as pa
import pyarrow.parquet as pq

from rrm.errors import InputError

EDIT_R1 = "train_metadata.jsonl"
LIMIT = 64 << 20
"""Bytes of the longest line of JSONL, and about as many characters of the longest item of JSON, that are read."""
PIECE = 1 << 16
DECODER = json.JSONDecoder()
BATCH = 16
"""Rows of Parquet in memory at once: a row may hold megabytes of images."""
HUB_ID = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?(?::([\w.-]*))?(?::([\w.-]+))?")
SHARD = re.compile(r"(.+)-\d{5}-of-\d{5}.*\.parquet")
UNLOADABLE = (OSError, ValueError, RuntimeError, httpx.HTTPError, pa.ArrowException)


@dataclass(frozen=True)
class InputRow:
    """A row as it stands in its source: in which file, its line or row (from 1), its fields, and what image paths start from.

    `values` is None where the line is no JSON object; `folder` is None where images can only be embedded (the hub).
    """

    where: str
    number: int
    values: dict[str, Any] | None
    folder: Path | None


@dataclass(frozen=True)
class HubSource:
    """A data set on the hub, at a revision."""

    name: str
    revision: str
    config: str | None
    split: str | None


def rows_of(where: str) -> Iterator[InputRow]:
    """The rows of a source, in its order.

    `where` is a file (.jsonl; .json with a list of objects, or one of key → object, whose key is put under 'key'; .parquet), a
    folder (of Parquet files; Edit-R1's, with train_metadata.jsonl; one written by `save_to_disk`; any other that the datasets library
    loads), or a hub id `owner/name@revision[:config][:split]`.
    Raises InputError where there is no such source, it cannot be read, or (at its end) it held no row.
    """
    path = Path(where)
    if path.is_dir():
        rows = folder_rows(path)
    elif path.is_file() and path.suffix in FILES:
        rows = FILES[path.suffix](path)
    else:
        rows = hub_rows(hub_source(where))
    return filled(where, rows)


def fingerprint_files(where: str) -> list[Path]:
    """The files and folders whose content tells this source from others: none for a hub id, which its revision identifies.

    Image files beside a .jsonl, .json or .parquet file are not among them. Raises InputError where there is no such source.
    """
    if Path(where).exists():
        return [Path(where)]
    hub_source(where)
    return []


def hub_source(where: str) -> HubSource:
    """What a hub id `owner/name@revision[:config][:split]` names (`…@revision::split` for a split of the only config).

    Raises InputError where `where` is no such id, or its revision is none or the branch main, which moves.
    """
    found = HUB_ID.fullmatch(where)
    if not found or Path(where).exists() or Path(where).suffix in FILES:
        raise InputError(
            f"{where} is no source; give a {', '.join(FILES)} file or a folder that exists, or owner/name@revision."
        )
    if found[2] in (None, "main"):
        told = f"There is no folder {where}; for a hub id, pin a revision so that the same data come out next time"
        raise InputError(f"{told}: {found[1]}@<commit>[:config][:split].")
    return HubSource(found[1], found[2], found[3] or None, found[4])


def filled(where: str, rows: Iterable[InputRow]) -> Iterator[InputRow]:
    """The rows; InputError after the last one where there was none."""
    row = None
    for row in rows:
        yield row
    if row is None:
        raise InputError(f"{where} holds no rows; name a source with data.")


def folder_rows(folder: Path) -> Iterator[InputRow]:
    """Rows of a folder, by what lies in it."""
    if (folder / EDIT_R1).is_file():
        return line_rows(folder / EDIT_R1)
    if (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file():
        return library_rows(folder, saved=True)
    files = sorted(file for file in folder.rglob("*.parquet") if file.is_file())
    if not files or any(file.name == "metadata.parquet" for file in files):  # which describes the image files beside it
        return library_rows(folder, saved=False)
    splits = sorted({found[1] for file in files if (found := SHARD.fullmatch(file.name))})
    if len(splits) > 1:
        raise InputError(f"{folder} holds Parquet files of the splits {', '.join(splits)}; name a folder or file of one split.")
    return (row for file in files for row in parquet_rows(file, folder))


def object_in(line: bytes) -> dict[str, Any] | None:
    """The JSON object on a line, None where it holds anything else."""
    try:
        value = json.loads(line.decode("utf-8", errors="replace"))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def line_rows(path: Path) -> Iterator[InputRow]:
    """Rows of a JSONL file; a line of more than LIMIT bytes is read past."""
    number = 0
    with path.open("rb") as stream:
        while line := stream.readline(LIMIT):
            number += 1
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            values = None
            if len(line) < LIMIT or line.endswith(b"\n"):
                if not line.strip():
                    continue
                values = object_in(line)
            else:
                while (rest := stream.readline(1 << 20)) and not rest.endswith(b"\n"):
                    pass
            yield InputRow(path.name, number, values, path.parent)


def item_at(head: re.Pattern[str], text: str, at: int) -> tuple[str | None, Any, int] | None:
    """Key, value and end of the item at this place; None where none stands there as a whole."""
    found = head.match(text, at)
    if found is None:
        return None
    try:
        key = json.loads(found[1]) if head.groups else None
        return key, *DECODER.raw_decode(text, found.end())
    except ValueError:
        return None


def json_items(stream: TextIO) -> Iterator[tuple[str | None, Any]]:
    """(None, item) of a JSON list, (key, value) of a JSON object, one in memory at a time; ValueError for any other text."""
    text = stream.read(PIECE)
    opening = re.match(r"\s*([\[{])", text)
    if opening is None:
        raise ValueError("it starts with neither [ nor {")
    key, closing = (r'("(?:[^"\\]|\\.)*")\s*:\s*', "}") if opening[1] == "{" else ("", "]")
    head, later = re.compile(r"\s*" + key), re.compile(r"\s*,\s*" + key)
    at, count = opening.end(), 0
    while True:
        item = item_at(head, text, at)
        if item is None or item[2] == len(text):  # a number may go on in the next piece
            # pieces grow with the item, which would else be parsed again and again
            piece = stream.read(max(PIECE, len(text) - at)) if len(text) - at < LIMIT else ""
            if piece:
                text, at = text[at:] + piece, 0
                continue
            if text[at:].strip() == closing:
                return
            raise ValueError(f"after item {count} there is none that can be read")
        yield item[:2]
        at, head, count = item[2], later, count + 1


def json_rows(path: Path) -> Iterator[InputRow]:
    """Rows of a JSON file that holds a list of objects or an object of objects."""
    with path.open(encoding="utf-8-sig", errors="replace") as stream:
        try:
            for number, (key, value) in enumerate(json_items(stream), 1):
                values = value if isinstance(value, dict) else None
                if values is not None and key is not None:
                    values = {**values, "key": key}
                yield InputRow(path.name, number, values, path.parent)
        except (ValueError, RecursionError) as error:
            told = f"{path} is no JSON list or object of objects ({error})"
            raise InputError(f"{told}; repair it, or call it .jsonl if every line is an object.") from error


def parquet_rows(path: Path, folder: Path | None = None) -> Iterator[InputRow]:
    """Rows of a Parquet file, a few in memory at a time; it is named, and its images lie, relative to `folder`."""
    folder = folder or path.parent
    where = path.relative_to(folder).as_posix()
    number = 0
    try:
        # so that it holds a few pages; by default it holds all of a row group, often of the file
        with pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as table:
            for batch in table.iter_batches(batch_size=BATCH):
                for values in batch.to_pylist():
                    number += 1
                    yield InputRow(where, number, values, folder)
    except (OSError, ValueError, pa.ArrowException) as error:
        told = f"{path} cannot be read as Parquet after row {number} ({short(error)})"
        raise InputError(f"{told}; download or write it again.") from error


FILES = {".jsonl": line_rows, ".json": json_rows, ".parquet": parquet_rows}


def short(error: Exception) -> str:
    """What an error says, on one line."""
    return " ".join(str(error).split())[:200]


def library_rows(folder: Path, saved: bool) -> Iterator[InputRow]:
    """Rows of what `save_to_disk` wrote, or of any other folder that the datasets library loads: images with metadata, CSV …"""
    from datasets import load_dataset, load_from_disk

    try:
        found = load_from_disk(str(folder)) if saved else load_dataset(str(folder), streaming=True)
    except UNLOADABLE as error:
        raise InputError(f"{folder} cannot be loaded as a data set ({short(error)}); name a folder that holds one.") from error
    if isinstance(found, dict):
        found = only_split(found, str(folder), f"the folder of one, such as {folder}/")
    home = (f"{folder.absolute()}/", f"{folder.resolve()}/")
    return dataset_rows(folder.name, found.to_iterable_dataset() if saved else found, folder, home)


def hub_rows(source: HubSource) -> Iterator[InputRow]:
    """Rows of a data set on the hub, streamed."""
    from datasets import load_dataset

    name = f"{source.name}@{source.revision}"
    try:
        found = load_dataset(source.name, source.config, revision=source.revision, split=source.split, streaming=True)
    except UNLOADABLE as error:
        told = f"{name} cannot be loaded from the hub ({short(error)})"
        raise InputError(f"{told}; correct the id, or download it and name its folder.") from error
    if isinstance(found, dict):
        found = only_split(found, name, f"one, such as {name}:{source.config or ''}:")
    return dataset_rows(name, found, None, (f"hf://datasets/{source.name}@",))


def only_split(splits: Mapping[str, Any], name: str, hint: str) -> Any:
    """The only split; else an InputError that says which there are and, with the hint, how to name one."""
    if len(splits) != 1:
        raise InputError(f"{name} holds the splits {', '.join(splits)}; name {hint}{next(iter(splits))}.")
    return next(iter(splits.values()))


def dataset_rows(name: str, dataset: Any, folder: Path | None, home: tuple[str, ...]) -> Iterator[InputRow]:
    """Rows of a `datasets.IterableDataset`, whose images stay encoded; `home` is what the addresses of its files begin with."""
    number = 0
    try:
        for values in dataset.decode(False) if dataset.features else dataset:
            number += 1
            yield InputRow(name, number, within_reach(values, home), folder)
    except UNLOADABLE as error:
        raise InputError(f"{name} broke off after row {number} ({short(error)}); repair it, or try again.") from error


def within_reach(value: Any, home: tuple[str, ...]) -> Any:
    """The value, its images as relative paths where they are files at home, as bytes where they lie there in an archive or remotely.

    Addresses that lead elsewhere are left as they are: a data set does not decide what else is read.
    """
    if isinstance(value, list):
        return [within_reach(one, home) for one in value]
    if not isinstance(value, dict):
        return value
    path = value.get("path")
    if value.keys() != {"bytes", "path"} or value["bytes"] is not None or not isinstance(path, str):
        return {key: within_reach(one, home) for key, one in value.items()}
    root = next((root for root in home if path.rpartition("::")[2].startswith(root)), None)
    if root is None:
        return value
    if "://" not in path:
        return {"bytes": None, "path": path.removeprefix(root)}
    with fsspec.open(path, "rb") as stream:
        return {"bytes": stream.read(), "path": path}
