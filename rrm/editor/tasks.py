"""Editor tasks from a folder in the Edit-R1 dataset format: `images/`, `train_metadata.jsonl`,
`test_metadata.jsonl`.

Each line is {"prompt": …, "image": path relative to the folder, "requirement": … or absent}.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from PIL import Image
from pydantic import ValidationError

from rrm.editor.groups import group_id
from rrm.editor.truth import TruthSource
from rrm.errors import InputError
from rrm.images import open_image
from rrm.parsing import question_faults
from rrm.records import Principle
from rrm.rows.formats import whole_rows

Split = Literal["train", "test"]
Key = tuple[str, str, str | None]


@dataclass(frozen=True)
class EditorTask:
    """A source image, what to do with it, and the principles by which the result is judged."""

    source: Image.Image
    source_digest: str
    instruction: str
    requirement: str | None
    principles: tuple[Principle, ...]

    @property
    def group(self) -> str:
        """The identity of the group that the samples of this task form."""
        return group_id(self.source_digest, self.instruction, self.requirement)


def read_rows(path: Path, *keys: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where it stands, row) of a file whose rows all have text under `keys`. Raises InputError,
    naming the line."""
    if not path.is_file():
        raise InputError(
            f"There is no {path}; name a folder in the Edit-R1 dataset format, or make one with rrm.sandbox."
        )
    for where, row in whole_rows(path):
        if not all(isinstance(row.get(key), str) and row[key] for key in keys):
            raise InputError(f"{where}: needs text under {', '.join(keys)}.")
        yield where, row


def key_of(row: dict[str, Any]) -> Key:
    """What tells one task of a folder from another."""
    return row["image"], row["prompt"], row.get("requirement") or None


def read_principles_file(path: Path) -> dict[Key, tuple[Principle, ...]]:
    """Principles per task, from rows {"prompt", "image", "requirement", "principles": [{"question",
    "category"}, …]}."""
    found = {}
    for where, row in read_rows(path, "prompt", "image"):
        try:
            principles = tuple(Principle(**principle) for principle in row["principles"])
        except (KeyError, TypeError, ValidationError) as error:
            raise InputError(
                f'{where}: "principles" must be a list of {{"question", "category"}}.'
            ) from error
        if faults := question_faults(principles):
            raise InputError(f"{where}: {faults[0]}")
        found[key_of(row)] = principles
    return found


def principles_of(
    where: str,
    row: dict[str, Any],
    given: dict[Key, tuple[Principle, ...]] | None,
    truth: TruthSource | None,
) -> tuple[Principle, ...]:
    """The task's principles: as given, else those that `truth` knows; () where there are none."""
    if given is not None:
        if not given.get(key_of(row)):
            raise InputError(
                f"{where}: the principles file has nothing for this task; decompose its instruction first."
            )
        return given[key_of(row)]
    return () if truth is None else truth.principles(row["prompt"])


def check_rewardable(
    tasks: Sequence[EditorTask], truth: TruthSource | None = None, needs_principles: bool = False
) -> None:
    """Raises InputError for a task that the reward could say nothing of: one that `truth` does not
    know, or without principles."""
    for task in tasks:
        if truth is not None and not truth.principles(task.instruction):
            raise InputError(
                f"'{task.instruction[:80]}' is not in the sandbox's language; with reward: truth, no other is known."
            )
        if needs_principles and not task.principles:
            raise InputError(
                f"'{task.instruction[:80]}' has no principles; give a file of them under 'principles', or mode=logits."
            )


def read_tasks(
    folder: str | Path,
    split: Split,
    principles: str | Path | None = None,
    truth: TruthSource | None = None,
) -> list[EditorTask]:
    """The folder's tasks of one split, with principles from a file or as `truth` knows them. Raises
    InputError where something is missing or unreadable, or there are none."""
    folder = Path(folder)
    given = read_principles_file(Path(principles)) if principles else None
    tasks: dict[str, EditorTask] = {}
    for where, row in read_rows(folder / f"{split}_metadata.jsonl", "prompt", "image"):
        path = folder / row["image"]
        if not path.resolve().is_relative_to(folder.resolve()):
            raise InputError(f"{where}: the image {row['image']} lies outside {folder}.")
        image = open_image(path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        requirement = row.get("requirement") or None
        task = EditorTask(
            image, digest, row["prompt"], requirement, principles_of(where, row, given, truth)
        )
        tasks.setdefault(
            task.group, task
        )  # the same task twice would only be two groups of one identity
    if not tasks:
        raise InputError(f"{folder / f'{split}_metadata.jsonl'} holds no tasks.")
    return list(tasks.values())
