"""Rows of any source: files, folders of Edit-R1 and of the datasets library, the hub. What their
fields mean: `columns`.

Rows come in the source's order and one after the other, so that memory does not grow with the
source. Images are handed on as they lie there, as a path or as encoded bytes: nothing here decodes
them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import httpx
import pyarrow as pa

from rrm.errors import InputError
from rrm.rows.formats import (
    FILES,
    PLAIN,
    InputRow,
    Reading,
    file_rows,
    line_rows,
    parquet_rows,
    short,
)

EDIT_R1 = "train_metadata.jsonl"
HUB_ID = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?(?::([\w.-]*))?(?::([\w.-]+))?")
SHARD = re.compile(r"(.+)-\d{5}-of-\d{5}.*\.parquet")
UNLOADABLE = (OSError, ValueError, RuntimeError, httpx.HTTPError, pa.ArrowException)


@dataclass(frozen=True)
class HubSource:
    """A data set on the hub, at a revision."""

    name: str
    revision: str
    config: str | None
    split: str | None


def rows_of(where: str, reading: Reading = PLAIN) -> Iterator[InputRow]:
    """The rows of a source, in its order.

    `where` is a file (.jsonl; .json with a list of objects, or one of key → object, whose key is
    put under 'key'; .csv or .tsv whose first line names the columns; .parquet), a folder (of
    Parquet files; Edit-R1's, with train_metadata.jsonl; one written by `save_to_disk`; any other
    that the datasets library loads), or a hub id `owner/name@revision[:config][:split]`. Raises
    InputError where there is no such source, it cannot be read, or (at its end) it held no row.
    """
    path = Path(where)
    if path.is_dir():
        rows = folder_rows(path, reading)
    elif path.is_file() and path.suffix.lower() in FILES:
        rows = file_rows(path, reading)
    else:
        rows = hub_rows(hub_source(where), reading)
    return filled(where, rows)


def fingerprint_files(where: str) -> list[Path]:
    """The files and folders whose content tells this source from others: none for a hub id, which
    its revision identifies.

    Image files beside a file of rows are not among them. Raises InputError where there is no such
    source.
    """
    if Path(where).exists():
        return [Path(where)]
    hub_source(where)
    return []


def hub_source(where: str) -> HubSource:
    """What a hub id `owner/name@revision[:config][:split]` names (`…@revision::split` for a split
    of the only config).

    Raises InputError where `where` is no such id, or its revision is none or the branch main, which
    moves.
    """
    found = HUB_ID.fullmatch(where)
    if not found or Path(where).exists() or Path(where).suffix.lower() in FILES:
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


def folder_rows(folder: Path, reading: Reading) -> Iterator[InputRow]:
    """Rows of a folder, by what lies in it."""
    if (folder / EDIT_R1).is_file():
        return line_rows(folder / EDIT_R1, reading)
    if (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file():
        return library_rows(folder, True, reading)
    files = sorted(file for file in folder.rglob("*.parquet") if file.is_file())
    if not files or any(
        file.name == "metadata.parquet" for file in files
    ):  # which describes the image files beside it
        return library_rows(folder, False, reading)
    splits = sorted({found[1] for file in files if (found := SHARD.fullmatch(file.name))})
    if len(splits) > 1:
        raise InputError(
            f"{folder} holds Parquet files of the splits {', '.join(splits)}; name a folder or file of one split."
        )
    return (row for file in files for row in parquet_rows(file, reading, folder))


def library_rows(folder: Path, saved: bool, reading: Reading) -> Iterator[InputRow]:
    """Rows of what `save_to_disk` wrote, or of any other folder that the datasets library loads:
    images with metadata, CSV …"""
    from datasets import load_dataset, load_from_disk

    try:
        found = load_from_disk(str(folder)) if saved else load_dataset(str(folder), streaming=True)
    except UNLOADABLE as error:
        raise InputError(
            f"{folder} cannot be loaded as a data set ({short(error)}); name a folder that holds one."
        ) from error
    if isinstance(found, dict):
        found = only_split(found, str(folder), f"the folder of one, such as {folder}/")
    home = (f"{folder.absolute()}/", f"{folder.resolve()}/")
    return dataset_rows(
        folder.name, found.to_iterable_dataset() if saved else found, folder, home, reading
    )


def hub_rows(source: HubSource, reading: Reading) -> Iterator[InputRow]:
    """Rows of a data set on the hub, streamed."""
    from datasets import load_dataset

    name = f"{source.name}@{source.revision}"
    try:
        found = load_dataset(
            source.name, source.config, revision=source.revision, split=source.split, streaming=True
        )
    except UNLOADABLE as error:
        told = f"{name} cannot be loaded from the hub ({short(error)})"
        raise InputError(f"{told}; correct the id, or download it and name its folder.") from error
    if isinstance(found, dict):
        found = only_split(found, name, f"one, such as {name}:{source.config or ''}:")
    return dataset_rows(name, found, None, (f"hf://datasets/{source.name}@",), reading)


def only_split(splits: Mapping[str, Any], name: str, hint: str) -> Any:
    """The only split; else an InputError that says which there are and, with the hint, how to name
    one."""
    if len(splits) != 1:
        raise InputError(
            f"{name} holds the splits {', '.join(splits)}; name {hint}{next(iter(splits))}."
        )
    return next(iter(splits.values()))


def dataset_rows(
    name: str, dataset: Any, folder: Path | None, home: tuple[str, ...], reading: Reading
) -> Iterator[InputRow]:
    """Rows of a `datasets.IterableDataset`, whose images stay encoded; `home` is what the addresses
    of its files begin with.

    Columns that are left unread are None in every row.
    """
    number = 0
    unread: dict[str, Any] = {}
    if reading.columns is not None and dataset.features:
        unread = dict.fromkeys(dataset.features)
        wanted = [column for column in unread if column in reading.columns]
        dataset = dataset.select_columns(wanted) if wanted else dataset
    try:
        for values in dataset.decode(False) if dataset.features else dataset:
            number += 1
            yield InputRow(name, number, {**unread, **within_reach(values, home)}, folder)
    except UNLOADABLE as error:
        raise InputError(
            f"{name} broke off after row {number} ({short(error)}); repair it, or try again."
        ) from error


def within_reach(value: Any, home: tuple[str, ...]) -> Any:
    """The value, its images as relative paths where they are files at home, as bytes where they lie
    there in an archive or remotely.

    Addresses that lead elsewhere are left as they are: a data set does not decide what else is
    read.
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
