"""One row of a benchmark of reward models: two edits of one image, and which of them people prefer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, Protocol, TypeVar

from PIL import Image

from rrm.images import pixel_digest

Label = Literal["a", "b", "tie", "both_bad"]
"""Whom people prefer: the first edit, the second, neither, or neither since both failed."""
Order = Literal["ab", "ba"]
Part = TypeVar("Part", covariant=True)


@dataclass(frozen=True)
class BenchRow:
    """One pair. Digests are of pixels, so that an image that recurs is known again.

    `group` names the edits that are ranked together, of which there are `candidates` (K): a group of K has K(K−1)/2 rows.
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


def at_source_size(row: BenchRow) -> BenchRow:
    """The row with both edits brought to the source's size."""
    size = row.source.size
    if all(image.size == size for image in row.edited):
        return row
    a, b = (image if image.size == size else image.resize(size, Image.Resampling.BICUBIC) for image in row.edited)
    return replace(row, edited=(a, b), edited_digests=(pixel_digest(a), pixel_digest(b)))


class Pair(Protocol[Part]):
    """Whatever holds two edits, a and b: a row their images, a row of the index their digests."""

    @property
    def edited(self) -> tuple[Part, Part]:
        """The two edits."""
        ...


def shown(pair: Pair[Part], order: Order) -> tuple[Part, Part]:
    """The two edits in the order in which a pairwise judge sees them; a fair one sees both orders."""
    a, b = pair.edited
    return (a, b) if order == "ab" else (b, a)
