"""The unit of a benchmark: two edits of one image, and which of them people prefer."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, TypeVar

from PIL import Image

from eval.reading import RawRow
from rrm.errors import InputError
from rrm.images import pixel_digest
from rrm.rows.fields import BadRow, encodable

Label = Literal["a", "b", "tie", "both_bad"]
"""Which edit people prefer: the first, the second, neither, or neither since both failed."""
Order = Literal["ab", "ba"]
TaskKey = tuple[str, str, str | None]
"""Digest of the source's pixels, instruction, requirement."""
Part = TypeVar("Part", covariant=True)


@dataclass(frozen=True)
class BenchmarkRow:
    """A pair with its images, and digests of their pixels, by which an image is recognised.

    `group` names the edits that are ranked together, of which there are `candidates` (K): a group
    of K has K(K−1)/2 pairs.
    """

    number: int
    key: tuple[str, str]
    instruction: str
    task_type: str
    dimension: str
    source: Image.Image
    edited: tuple[Image.Image, Image.Image]
    source_digest: str
    edited_digests: tuple[str, str]
    label: Label
    group: str
    candidates: int
    item_id: str
    requirement: str | None = None
    rater: str | None = None


@dataclass(frozen=True)
class PairIndex:
    """A pair without its images: digests of their pixels, and what the benchmark says of it."""

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


def index_of(row: BenchmarkRow) -> PairIndex:
    """The pair without its images."""
    return PairIndex(
        number=row.number,
        instruction=row.instruction,
        task_type=row.task_type,
        dimension=row.dimension,
        source=row.source_digest,
        edited=row.edited_digests,
        label=row.label,
        group=row.group,
        candidates=row.candidates,
        item_id=row.item_id,
        requirement=row.requirement,
        rater=row.rater,
    )


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
    return BenchmarkRow(
        number=raw.number,
        key=key or (f"{item_id}:a", f"{item_id}:b"),
        instruction=instruction,
        task_type=task_type,
        dimension=dimension,
        source=source,
        edited=(a, b),
        source_digest=pixel_digest(source),
        edited_digests=(pixel_digest(a), pixel_digest(b)),
        label=label,
        group=item_id if group is None else group,
        candidates=candidates,
        item_id=item_id,
        requirement=requirement,
        rater=rater,
    )


def at_source_size(row: BenchmarkRow) -> BenchmarkRow:
    """The row with both edits resized to the source's size."""
    size = row.source.size
    if all(image.size == size for image in row.edited):
        return row
    a, b = (
        image if image.size == size else image.resize(size, Image.Resampling.BICUBIC)
        for image in row.edited
    )
    return replace(row, edited=(a, b), edited_digests=(pixel_digest(a), pixel_digest(b)))


class HasEdits(Protocol[Part]):
    """Whatever holds two edits, a and b: a row their images, an index their digests."""

    @property
    def edited(self) -> tuple[Part, Part]:
        """The two edits."""
        ...


def shown(pair: HasEdits[Part], order: Order) -> tuple[Part, Part]:
    """The two edits in the order in which a pairwise judge is shown them."""
    a, b = pair.edited
    return (a, b) if order == "ab" else (b, a)
