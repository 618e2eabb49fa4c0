"""What a row means: a task or a candidate edit, whatever its data set calls the fields. Pairs:
`pairs`.

Every reader takes the fields of one row as they are stored and returns a plain record, or raises
BadRow with the reason. Where a row has several fields of one meaning, the name that stands first in
the table below decides: names that can only mean one thing come before those that other data sets
use for something else (a `prompt` may be a caption, an `image` an edit).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from rrm.rows.fields import ImageRef, as_image, as_text, bad, first_of, needed, optional_text

INSTRUCTION = (
    "edit_instruction",
    "edit_prompt",
    "instruct_prompt",
    "instruction",
    "prompt",
    "edit",
)
SOURCE = (
    "source_image",
    "source_img",
    "src_img",
    "input_image",
    "original_image",
    "source",
    "image",
    "input_images",
)
"""`input_images` is a list whose first image is the one to edit."""
EDITED = (
    "output_images",
    "edited_images",
    "output_image",
    "edited_image",
    "edited_img",
    "edited",
    "output",
)
REQUIREMENT = ("requirement",)
EDITOR = ("editor", "model", "model_name")
IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True)
class TaskRow:
    """What an editor is asked, and the edits that the row may bring along."""

    instruction: str
    image: ImageRef
    requirement: str | None
    edits: tuple[ImageRef, ...]
    editor: str | None


@dataclass(frozen=True)
class CandidateRow:
    """An edit of a task: one of `task` (the name of the task's image in the tasks' file) and
    `source` says of which."""

    task: str | None
    source: ImageRef | None
    instruction: str
    image: ImageRef
    editor: str
    seed: int | None
    requirement: str | None = None


def instruction_of(values: Mapping[str, Any]) -> str:
    """The instruction; BadRow where there is none."""
    return as_text(*needed(values, "instruction", INSTRUCTION))


def source_of(values: Mapping[str, Any]) -> ImageRef:
    """The image to edit; BadRow where there is none."""
    return as_image(*needed(values, "source image", SOURCE))


def read_task(values: Mapping[str, Any]) -> TaskRow:
    """The task in a row. Where no field names an image, an `id` that ends like an image file does
    (ImgEdit-Bench)."""
    path = values.get("id")
    if (
        first_of(values, SOURCE) is None
        and isinstance(path, str)
        and PurePath(path).suffix.lower() in IMAGE_ENDINGS
    ):
        values = {**values, SOURCE[0]: path}
    edits: tuple[ImageRef, ...] = ()
    if found := first_of(values, EDITED):
        name, value = found
        edits = tuple(
            as_image(name, one) for one in (value if isinstance(value, list) else [value])
        )
    return TaskRow(
        instruction_of(values),
        source_of(values),
        optional_text(values, REQUIREMENT),
        edits,
        optional_text(values, EDITOR),
    )


def read_candidate(values: Mapping[str, Any]) -> CandidateRow:
    """The candidate edit in a row: `image`, unless a field of EDITED holds it; then `image` may be
    the source.

    `task` counts only in a row without a source image: data sets also use the name for the kind of
    edit.
    """
    edited = first_of(values, EDITED) or needed(values, "edited image", ("image",))
    source = first_of(values, [name for name in SOURCE if name != edited[0]])
    task = None if source else optional_text(values, ("task",))
    if source is None and task is None:
        raise bad("neither a source image nor a 'task'")
    return CandidateRow(
        task=task,
        source=as_image(*source) if source else None,
        instruction=instruction_of(values),
        image=as_image(*edited),
        editor=as_text(*needed(values, "editor", EDITOR)),
        seed=seed_of(values),
        requirement=optional_text(values, REQUIREMENT),
    )


def seed_of(values: Mapping[str, Any]) -> int | None:
    """The seed in a row, or None; BadRow where it is no whole number."""
    found = first_of(values, ("seed",))
    if found is None:
        return None
    seed = found[1]
    if isinstance(seed, str) and re.fullmatch(
        r"\s*-?[0-9]{1,18}\s*", seed
    ):  # a CSV holds text alone
        return int(seed)
    if isinstance(seed, bool) or not isinstance(seed, int | float) or not float(seed).is_integer():
        raise bad(f"'seed' must be a whole number, not {seed!r}")
    return int(seed)
