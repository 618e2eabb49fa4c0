"""What a model answered, in append-only files that an interrupted run carries on from."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from pydantic import ValidationError

from eval.jsonl import append_lines, cut_torn_line
from rrm.errors import InputError
from rrm.records import Failure, Judgement, Record
from rrm.runtime.disk import written_at_once

PASSING = ("timed_out", "server_gone", "rejected")
"""Failures of the moment, or of the account and its settings: another run asks again."""


class Answered(Protocol):
    """A row with what it is known by, and why there is no answer in it."""

    @property
    def key(self) -> str: ...

    @property
    def failure(self) -> Failure | None: ...

    def model_dump_json(self) -> str: ...

    @classmethod
    def model_validate_json(cls, json_data: bytes) -> Answered: ...


Row = TypeVar("Row", bound=Answered)
R = TypeVar("R", bound=Record)


class JudgedRow(Record):
    """A judgement and what it is of. `key` hashes the model, every word of its prompt, and the pixels of both images."""

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
    """The key of a judgement: another model, prompt or image gives another key, so that no stale row is ever met."""
    return hashlib.sha256(json.dumps([fingerprint, prompt, source, edited]).encode()).hexdigest()[:24]


def read_records(path: Path, of: type[R], cure: str) -> list[R]:
    """The records in a JSONL file that a run wrote whole. Raises InputError, which names the line and the cure, for any other line."""
    found = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            found.append(of.model_validate_json(line))
        except ValidationError as error:
            raise InputError(f"{path}, line {number} is damaged; {cure}.") from error
    return found


class Kept(Generic[Row]):
    """The rows of one type in a JSONL file, by key; of several the last counts. Every row is on disk once it was added.

    A line that cannot be read is counted in `unreadable` and said on stderr; what it was of is asked again, as is what failed for a
    passing reason and, with `retry`, for any. For one run at a time: the folder is to be locked.
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
            print(f"{self.unreadable} lines of {path} cannot be read; what they were of is asked again", file=sys.stderr)

    def __getitem__(self, key: str) -> Row:
        return self.rows[key]

    def settled(self, key: str) -> bool:
        """Whether this need not be asked about (again)."""
        row = self.rows.get(key)
        if row is None or row.failure is None or key in self.added:
            return row is not None
        return not self.retry and row.failure.kind not in PASSING

    def add(self, row: Row) -> None:
        """Appends the row to the file."""
        append_lines(self.path, [row.model_dump_json()])
        self.rows[row.key] = row
        self.added.add(row.key)

    def put_in_order(self, keys: Iterable[str]) -> None:
        """Writes the file anew: all other rows, then those with these keys in their order, one of each.

        Answers come in any order; this makes the file the same for the same answers, however often the run was interrupted.
        """
        last = dict.fromkeys(key for key in keys if key in self.rows)
        lines = [self.rows[key].model_dump_json() + "\n" for key in (*(k for k in self.rows if k not in last), *last)]
        content = "".join(lines).encode()
        if lines and content != self.path.read_bytes():
            with written_at_once(self.path) as partial:
                partial.write_bytes(content)
