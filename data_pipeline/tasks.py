"""Reading what the pipeline starts from: tasks, candidates and human pairs. Their images go into the image store.

A row that cannot be used is quarantined with the reason; a file without one usable row is an InputError.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from tqdm import tqdm

from rrm.errors import InputError
from rrm.images import ImageStore, open_image
from rrm.records import Failure, FailureKind, PreferencePair, Quadruple, Quarantined, Task

Read = TypeVar("Read")
Tasks = dict[tuple[str, str], Task]


class BadRow(Exception):
    """A row that cannot be used, and why."""

    def __init__(self, kind: FailureKind, detail: str):
        super().__init__(detail)
        self.failure = Failure(kind=kind, detail=detail[:300])


def short_hash(*parts: str) -> str:
    """A name made from content."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def text_in(row: dict[str, Any], *names: str) -> str:
    """The text under the first of these names that the row has."""
    for name in names:
        value = row.get(name)
        if value is not None:
            if isinstance(value, str) and value.strip():
                return value.strip()
            raise BadRow("bad_row", f"'{name}' must be text")
    raise BadRow("bad_row", f"'{names[0]}' is missing")


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """Line numbers and JSON objects, None where a line holds none."""
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        yield number, row if isinstance(row, dict) else None


def read_file(
    path: Path, what: str, read: Callable[[dict[str, Any], Callable[[str], str]], Read], store: ImageStore
) -> tuple[list[Read], list[Quarantined]]:
    """What `read(row, add_image)` makes of every row, and the rows it could not use; image paths are relative to the file.

    Raises InputError where there is no such file or no usable row.
    """
    if not path.is_file():
        raise InputError(f"There is no {what} file at {path}; correct the path in the config.")

    @cache
    def add_image(name: str) -> str:
        try:
            return store.add(open_image(path.parent / name))
        except InputError as error:
            raise BadRow("image_unreadable", str(error)) from error

    found: list[Read] = []
    bad: list[Quarantined] = []
    for number, row in tqdm(list(json_lines(path)), desc=f"read {what}s"):
        try:
            if row is None:
                raise BadRow("bad_row", "not a JSON object")
            found.append(read(row, add_image))
        except BadRow as error:
            bad.append(Quarantined(stage="read", key=f"{path.name}:{number}", failure=error.failure))
    if not found:
        first = f"; line {bad[0].key.rpartition(':')[2]}: {bad[0].failure.detail}" if bad else ""
        raise InputError(f"{path} holds no usable {what}{first}.")
    return found, bad


def read_tasks(path: str | Path, store: ImageStore) -> tuple[Tasks, list[Quarantined]]:
    """Tasks by their (image path, instruction), from an Edit-R1 folder's train_metadata.jsonl or a JSONL file of the same lines
    {"prompt" or "instruction", "image", "requirement"}."""
    path = Path(path)
    path = path / "train_metadata.jsonl" if path.is_dir() else path

    def read(row: dict[str, Any], add_image: Callable[[str], str]) -> tuple[tuple[str, str], Task]:
        instruction, image = text_in(row, "prompt", "instruction"), text_in(row, "image")
        requirement = text_in(row, "requirement") if row.get("requirement") else None
        source = add_image(image)
        task_id = short_hash(source, instruction, requirement or "")
        return (image, instruction), Task(task_id=task_id, source=source, instruction=instruction, requirement=requirement)

    found, bad = read_file(path, "task", read, store)
    return dict(found), bad


def read_candidates(path: str | Path, tasks: Tasks, store: ImageStore) -> tuple[list[Quadruple], list[Quarantined]]:
    """Quadruples that still lack their principles, from lines {"task": the task's image path, "instruction", "image", "editor"}.

    The same image twice for one task counts once.
    """

    def read(row: dict[str, Any], add_image: Callable[[str], str]) -> Quadruple:
        task = tasks.get((text_in(row, "task"), text_in(row, "instruction")))
        if task is None:
            raise BadRow("bad_row", f"no task has the image '{row['task']}' and this instruction")
        edited = add_image(text_in(row, "image"))
        quadruple_id = short_hash(task.task_id, edited)
        return Quadruple(quadruple_id=quadruple_id, task=task, edited=edited, editor=text_in(row, "editor"), principles=())

    found, bad = read_file(Path(path), "candidate", read, store)
    unique = {quadruple.quadruple_id: quadruple for quadruple in reversed(found)}
    return list(reversed(unique.values())), bad


def read_pairs(path: str | Path, store: ImageStore) -> tuple[list[PreferencePair], list[Quarantined]]:
    """Human pairs that still lack their principles, from lines {"source", "instruction", "edited_a", "edited_b", "label"}."""

    def read(row: dict[str, Any], add_image: Callable[[str], str]) -> PreferencePair:
        instruction, label = text_in(row, "instruction"), text_in(row, "label")
        source, edited_a, edited_b = (add_image(text_in(row, name)) for name in ("source", "edited_a", "edited_b"))
        values = {"source": source, "instruction": instruction, "edited_a": edited_a, "edited_b": edited_b, "label": label}
        try:
            return PreferencePair.model_validate({**values, "pair_id": short_hash(*values.values()), "principles": ()})
        except ValidationError as error:
            raise BadRow("bad_row", f"'label' must be a, b or same, not {label[:40]!r}") from error

    return read_file(Path(path), "pair", read, store)
