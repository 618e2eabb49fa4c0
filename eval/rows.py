"""What a model said of every edit, in an append-only file that an interrupted run carries on from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from eval.jsonl import append_lines, cut_torn_line, read_jsonl
from rrm.records import Judgement, Record

PASSING = ("timed_out", "server_gone", "rejected")
"""Failures of the moment: another run asks again."""


class JudgedRow(Record):
    """A judgement and what it is of. `key` hashes the model, every word of its prompt, and the pixels of both images."""

    key: str
    source: str
    edited: str
    instruction: str
    judgement: Judgement


def row_key(fingerprint: str, prompt: str, source: str, edited: str) -> str:
    """The key of a judgement: another model, prompt or image gives another key, so that no stale row is ever met."""
    return hashlib.sha256(json.dumps([fingerprint, prompt, source, edited]).encode()).hexdigest()[:24]


class JudgedRows:
    """The judgements in a rows.jsonl, by key; of several the last counts."""

    def __init__(self, path: Path):
        self.path = path
        cut_torn_line(path)
        self.rows: dict[str, JudgedRow] = {}
        if path.is_file():
            self.rows = {row.key: row for row in (JudgedRow.model_validate(value) for _, value in read_jsonl(path))}

    def get(self, key: str) -> Judgement | None:
        """The judgement with this key, unless there is none or it failed for a passing reason."""
        row = self.rows.get(key)
        if row is None or (row.judgement.failure is not None and row.judgement.failure.kind in PASSING):
            return None
        return row.judgement

    def last(self, key: str) -> Judgement:
        """The judgement with this key, whatever it says."""
        return self.rows[key].judgement

    def add(self, rows: Iterable[JudgedRow]) -> None:
        """Appends the rows to the file."""
        added = {row.key: row for row in rows}
        append_lines(self.path, [row.model_dump_json() for row in added.values()])
        self.rows.update(added)
