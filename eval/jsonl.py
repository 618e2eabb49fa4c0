"""JSON Lines: read with the line's number, and append-only files that survive being interrupted."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rrm.errors import InputError
from rrm.rows.text import open_text
from rrm.runtime.secrets import mask


def read_jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, object) of every non-empty line; InputError where a line holds anything else."""
    with open_text(path) as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                value = json.loads(line)
            except ValueError as error:
                raise InputError(f"{path}, line {number} is not valid JSON ({error}).") from error
            if not isinstance(value, dict):
                raise InputError(f"{path}, line {number} holds a {type(value).__name__}, not an object.")
            yield number, value


def cut_torn_line(path: Path) -> None:
    """Removes what follows the last line break: a line that an interruption left half written."""
    if not path.is_file():
        return
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        with path.open("r+b") as file:
            file.truncate(whole)


def append_lines(path: Path, lines: Iterable[str]) -> None:
    """Appends the lines, keys masked, to the file, which is made with its folders where there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.writelines(mask(line) + "\n" for line in lines)
