"""Rows in JSON Lines: read with line numbers, and the append-only cache of what judges answered."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from pydantic import ValidationError

from rrm.errors import InputError
from rrm.records import Failure, Judgement, Record
from rrm.rows.text import open_text
from rrm.runtime.disk import written_at_once
from rrm.runtime.secrets import mask

log = logging.getLogger(__name__)

TRANSIENT = ("timed_out", "server_gone", "rejected")
"""Transient failures (of a server, an account or its settings); retried on the next run."""


def read_jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, object) of every non-empty line. Raises InputError for anything else."""
    with open_text(path) as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                value = json.loads(line)
            except ValueError as error:
                raise InputError(f"{path}, line {number} is not valid JSON ({error}).") from error
            if not isinstance(value, dict):
                raise InputError(
                    f"{path}, line {number} holds a {type(value).__name__}, not an object."
                )
            yield number, value


def cut_torn_line(path: Path) -> None:
    """Removes what follows the last line break: a line that an interruption cut off."""
    if not path.is_file():
        return
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        with path.open("r+b") as file:
            file.truncate(whole)


def append_lines(path: Path, lines: Iterable[str]) -> None:
    """Appends the lines, with secrets masked, to the file, creating it and its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.writelines(mask(line) + "\n" for line in lines)


class CachedRow(Protocol):
    """A row of a cache: its key, and why it holds no answer (None where it holds one)."""

    @property
    def key(self) -> str: ...

    @property
    def failure(self) -> Failure | None: ...

    def model_dump_json(self) -> str: ...

    @classmethod
    def model_validate_json(cls, json_data: bytes) -> CachedRow: ...


Row = TypeVar("Row", bound=CachedRow)
R = TypeVar("R", bound=Record)


class JudgedRow(Record):
    """A judgement of an edit. `key` hashes the judge, its whole prompt and both images' pixels."""

    key: str
    source: str
    edited: str
    instruction: str
    requirement: str | None = None
    judgement: Judgement

    @property
    def failure(self) -> Failure | None:
        """Why there is no judgement."""
        return self.judgement.failure


def row_key(fingerprint: str, prompt: str, source: str, edited: str) -> str:
    """The key of a judgement: another judge, prompt or image has another key and is judged anew."""
    return hashlib.sha256(json.dumps([fingerprint, prompt, source, edited]).encode()).hexdigest()[
        :24
    ]


def read_records(path: Path, of: type[R], cure: str) -> list[R]:
    """The records in a finished JSONL file. Raises InputError, naming the line and the cure."""
    records = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            records.append(of.model_validate_json(line))
        except ValidationError as error:
            raise InputError(f"{path}, line {number} is damaged; {cure}.") from error
    return records


class AnswerCache(Generic[Row]):
    """The rows of one type in a JSONL file, by key, the last row of a key counting.

    `add` has a row on disk before it returns. Lines that cannot be read are counted in
    `unreadable`, reported on stderr and asked again, as are transient failures and, with `retry`,
    all failures. The caller holds the lock of the folder.
    """

    def __init__(self, path: Path, of: type[Row], retry: bool = False):
        self.path, self.retry = path, retry
        self.rows: dict[str, Row] = {}
        self.added: set[str] = set()
        self.unreadable = 0
        cut_torn_line(path)
        for line in path.open("rb") if path.is_file() else ():
            try:
                row = of.model_validate_json(line)
            except ValidationError:
                self.unreadable += bool(line.strip())
            else:
                self.rows[row.key] = row  # type: ignore[assignment]
        if self.unreadable:
            log.warning(
                "%d lines of %s cannot be read; what they were of is asked again",
                self.unreadable,
                path,
            )

    def __getitem__(self, key: str) -> Row:
        return self.rows[key]

    def settled(self, key: str) -> bool:
        """Whether this key needs no (further) request."""
        row = self.rows.get(key)
        if row is None or row.failure is None or key in self.added:
            return row is not None
        return not self.retry and row.failure.kind not in TRANSIENT

    def add(self, row: Row) -> None:
        """Appends the row to the file."""
        append_lines(self.path, [row.model_dump_json()])
        self.rows[row.key] = row
        self.added.add(row.key)

    def put_in_order(self, keys: Iterable[str]) -> None:
        """Rewrites the file: all other rows, then one row of each of these keys, in their order.

        So the file is the same for the same answers, in whatever order they came.
        """
        last = dict.fromkeys(key for key in keys if key in self.rows)
        lines = [
            self.rows[key].model_dump_json() + "\n"
            for key in (*(k for k in self.rows if k not in last), *last)
        ]
        content = "".join(lines).encode()
        if lines and content != self.path.read_bytes():
            with written_at_once(self.path) as partial:
                partial.write_bytes(content)
