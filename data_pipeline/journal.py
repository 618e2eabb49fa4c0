"""Finished teacher calls on disk, so that an interrupted run repeats none of them."""

from __future__ import annotations

import json
from pathlib import Path

from rrm.errors import InputError


class Journal:
    """An append-only JSONL of {"key", "answers"}. A last line torn by a kill is dropped when the journal is opened.

    Raises InputError where a line before the last is damaged.
    """

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.answers: dict[str, tuple[str, ...]] = {}
        text = path.read_bytes() if path.is_file() else b""
        whole = text[: text.rfind(b"\n") + 1]
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                row = json.loads(line)
                self.answers[row["key"]] = tuple(row["answers"])
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(f"{path}, line {number} is damaged; delete that line and run the command again.") from error
        self.file = path.open("ab")
        self.file.truncate(len(whole))

    def add(self, key: str, answers: tuple[str, ...]) -> None:
        """Notes a finished call; it is on disk when this returns."""
        self.answers[key] = answers
        self.file.write(json.dumps({"key": key, "answers": answers}).encode() + b"\n")
        self.file.flush()

    def close(self) -> None:
        """Closes the file."""
        self.file.close()
