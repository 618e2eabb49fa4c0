"""The unit of a benchmark: two edits of one image, and which of them people prefer."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from typing import Any, Literal

from PIL import Image

from eval.reading import RawRow
from rrm.errors import InputError
from rrm.images import pixel_digest
from rrm.rows.fields import BadRow, encodable

Label = Literal["a", "b", "tie", "both_bad"]
"""Which edit people prefer: the first, the second, neither, or neither since both failed."""
TaskKey = tuple[str, str, str | None]
"""Digest of the source's pixels, instruction, requirement."""


@dataclass(frozen=True)
class PairIndex:
    """A pair without its images: digests of their pixels, and what the benchmark says of it.

    `group` names the edits that are ranked together, of which there are `candidates` (K): a group
    of K has K(K−1)/2 pairs.
    """

    number: int
    instruction: str
    task_type: str
    dimension: str
    source: str
    edited: tuple[str, str]
    label: Label
    group: str
    candidates: int
    item_id: str
    requirement: str | None = None
    rater: str | None = None

    @property
    def task(self) -> TaskKey:
        """What the editor was given."""
        return self.source, self.instruction, self.requirement

    @property
    def decided(self) -> bool:
        """Whether people prefer one of the two edits."""
        return self.label in ("a", "b")

    @property
    def edit_ids(self) -> tuple[str, str]:
        """The ids of the two edits: hashes of task and edited image."""
        first, second = self.edited
        return edit_id(*self.task, first), edit_id(*self.task, second)


def edit_id(source: str, instruction: str, requirement: str | None, edited: str) -> str:
    """A hash of task and edited image."""
    task = instruction if requirement is None else json.dumps([instruction, requirement])
    return hashlib.sha256(f"{source}|{edited}|{task}".encode()).hexdigest()[:24]


@dataclass(frozen=True)
class BenchmarkRow:
    """A pair with its images."""

    pair: PairIndex
    key: tuple[str, str]
    """The benchmark's names of the two edits."""
    source: Image.Image
    edited: tuple[Image.Image, Image.Image]


def pair_row(
    raw: RawRow,
    images: tuple[Any, Any, Any],
    *,
    instruction: str,
    label: Label,
    item_id: str,
    key: tuple[str, str] | None = None,
    task_type: str = "all",
    dimension: str = "overall",
    group: str | None = None,
    candidates: int = 2,
    requirement: str | None = None,
    rater: str | None = None,
) -> BenchmarkRow:
    """The typed row; `images` are the cells of source and both edits, which are decoded here.

    Raises InputError, naming the row, for an image that cannot be read and for text that no file
    can hold.
    """
    texts = {"instruction": instruction, "requirement": requirement or "", "id": item_id}
    try:
        for name, text in {**texts, "task_type": task_type, "dimension": dimension}.items():
            encodable(name, text)
    except BadRow as error:
        raise InputError(f"{raw.where}: {error}; correct the row.") from error
    source, a, b = (raw.image(value) for value in images)
    pair = PairIndex(
        number=raw.number,
        instruction=instruction,
        task_type=task_type,
        dimension=dimension,
        source=pixel_digest(source),
        edited=(pixel_digest(a), pixel_digest(b)),
        label=label,
        group=item_id if group is None else group,
        candidates=candidates,
        item_id=item_id,
        requirement=requirement,
        rater=rater,
    )
    return BenchmarkRow(pair, key or (f"{item_id}:a", f"{item_id}:b"), source, (a, b))


def at_source_size(row: BenchmarkRow) -> BenchmarkRow:
    """The row with both edits resized to the source's size."""
    size = row.source.size
    if all(image.size == size for image in row.edited):
        return row
    a, b = (
        image if image.size == size else image.resize(size, Image.Resampling.BICUBIC)
        for image in row.edited
    )
    pair = replace(row.pair, edited=(pixel_digest(a), pixel_digest(b)))
    return replace(row, pair=pair, edited=(a, b))
