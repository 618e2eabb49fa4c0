"""Rows of one file: JSONL, JSON, CSV, TSV or Parquet; one after the other, so that memory does not
grow with the file."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from rrm.errors import InputError
from rrm.rows.text import open_text

LIMIT = 64 << 20
"""Characters of the longest line of JSONL, item of JSON and field of CSV that are read."""
PIECE = 1 << 16
DECODER = json.JSONDecoder()
BATCH = 16
"""Rows of Parquet in memory at once: a row may hold megabytes of images."""


@dataclass(frozen=True)
class InputRow:
    """A row as it stands in its source: in which file, its line or row (from 1), its fields, and
    what image paths start from.

    `values` is None where there is no such object or record, `fault` then says why; `folder` is
    None where images can only be embedded (the hub).
    """

    where: str
    number: int
    values: dict[str, Any] | None
    folder: Path | None
    fault: str = "not a JSON object"

    @property
    def place(self) -> str:
        """What tells the row from all others of its source."""
        return f"{self.where}:{self.number}"


@dataclass(frozen=True)
class Reading:
    """How the files of a source are read: the encoding of text that is not UTF-8, and which columns
    are enough where a format can leave the others unread."""

    encoding: str | None = None
    columns: Collection[str] | None = None


PLAIN = Reading()


def short(error: Exception) -> str:
    """What an error says, on one line."""
    return " ".join(str(error).split())[:200]


def object_in(line: str) -> dict[str, Any] | None:
    """The JSON object on a line, None where it holds anything else."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def line_rows(path: Path, reading: Reading = PLAIN) -> Iterator[InputRow]:
    """Rows of a JSONL file; a line of LIMIT characters or more is read past."""
    number = 0
    with open_text(path, reading.encoding) as stream:
        while line := stream.readline(LIMIT):
            number += 1
            values = None
            if len(line) < LIMIT or line.endswith("\n"):
                if not line.strip():
                    continue
                values = object_in(line)
            else:
                while (rest := stream.readline(1 << 20)) and not rest.endswith("\n"):
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
    """(None, item) of a JSON list, (key, value) of a JSON object, one in memory at a time;
    ValueError for any other text."""
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


def json_rows(path: Path, reading: Reading = PLAIN) -> Iterator[InputRow]:
    """Rows of a JSON file that holds a list of objects or an object of objects, whose keys are put
    under 'key'."""
    with open_text(path, reading.encoding) as stream:
        try:
            for number, (key, value) in enumerate(json_items(stream), 1):
                values = value if isinstance(value, dict) else None
                if values is not None and key is not None:
                    values = {**values, "key": key}
                yield InputRow(path.name, number, values, path.parent)
        except UnicodeDecodeError:  # a ValueError, of which the stream says more
            raise
        except (ValueError, RecursionError) as error:
            told = f"{path} is no JSON list or object of objects ({error})"
            raise InputError(
                f"{told}; repair it, or call it .jsonl if every line is an object."
            ) from error


def header_of(path: Path, cells: list[str]) -> list[str]:
    """The names of a table's columns. Raises InputError where one stands twice."""
    names = [cell.strip() for cell in cells]
    twice = next((name for name in names if name and names.count(name) > 1), None)
    if twice:
        raise InputError(f"{path} has two columns '{twice}'; give every column a name of its own.")
    return names


def table_rows(path: Path, reading: Reading = PLAIN) -> Iterator[InputRow]:
    """Rows of a CSV or TSV file whose first line names the columns; all values are text, and a CSV
    may use ; for , as Excel does."""
    csv.field_size_limit(LIMIT)  # images in cells are longer than what is allowed by default
    with open_text(path, reading.encoding, newline="") as stream:
        first = stream.readline(LIMIT)
        stream.seek(0)
        separator = "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=first.count)
        records = csv.reader(stream, delimiter=separator, strict=True)
        line = 0
        try:
            names = header_of(path, next(records, []))
            line = records.line_num
            for cells in records:
                number, line = line + 1, records.line_num
                if not any(cells):
                    continue
                if len(cells) == len(names):
                    yield InputRow(
                        path.name,
                        number,
                        {n: c for n, c in zip(names, cells, strict=True) if n},
                        path.parent,
                    )
                else:
                    fault = f"{len(cells)} fields, where the first line names {len(names)} columns"
                    yield InputRow(path.name, number, None, path.parent, fault)
        except csv.Error as error:
            told = f"{path}, line {line + 1} cannot be read as a table ({error})"
            raise InputError(f'{told}; a field that holds quotes is written as "…""…".') from error


def parquet_rows(
    path: Path, reading: Reading = PLAIN, folder: Path | None = None
) -> Iterator[InputRow]:
    """Rows of a Parquet file, a few in memory at a time; it is named, and its images lie, relative
    to `folder`.

    Columns that are left unread are None in every row.
    """
    folder = folder or path.parent
    where = path.relative_to(folder).as_posix()
    number = 0
    try:
        # so that it holds a few pages; by default it holds all of a row group, often of the file
        with pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as table:
            names = table.schema_arrow.names
            wanted = (
                None
                if reading.columns is None
                else [name for name in names if name in reading.columns]
            )
            unread = {} if wanted is None else dict.fromkeys(names)
            for batch in table.iter_batches(
                batch_size=BATCH if wanted is None else 1024, columns=wanted
            ):
                # without a column, a batch still has its rows
                for values in batch.to_pylist() if batch.num_columns else [{}] * batch.num_rows:
                    number += 1
                    yield InputRow(where, number, {**unread, **values}, folder)
    except (OSError, ValueError, pa.ArrowException) as error:
        told = f"{path} cannot be read as Parquet after row {number} ({short(error)})"
        raise InputError(f"{told}; download or write it again.") from error


FILES: dict[str, Callable[[Path, Reading], Iterator[InputRow]]] = {
    ".jsonl": line_rows,
    ".json": json_rows,
    ".csv": table_rows,
    ".tsv": table_rows,
    ".parquet": parquet_rows,
}


UNITS = {".json": "item", ".parquet": "row"}
"""What a file's rows are called; else lines."""


def whole_rows(path: Path, reading: Reading = PLAIN) -> Iterator[tuple[str, dict[str, Any]]]:
    """Where each row of a file stands, in words, and its fields: for files whose every row is
    needed.

    Raises InputError where there is no such file, it has none of the endings in FILES, or a row is
    none.
    """
    if path.suffix.lower() not in FILES:
        raise InputError(f"{path} is none of {', '.join(FILES)}; write its rows as one of these.")
    if not path.is_file():
        raise InputError(f"There is no file at {path}; correct the path.")
    for row in file_rows(path, reading):
        where = f"{path}, {UNITS.get(path.suffix.lower(), 'line')} {row.number}"
        if row.values is None:
            raise InputError(f"{where}: {row.fault}; correct it or take it out.")
        yield where, row.values


def file_rows(path: Path, reading: Reading = PLAIN) -> Iterator[InputRow]:
    """Rows of a file whose ending is one of FILES."""
    return FILES[path.suffix.lower()](path, reading)
