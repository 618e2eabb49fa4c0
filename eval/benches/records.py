"""One row of a benchmark of reward models: two edits of one image, and which of them people prefer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

from PIL import Image

Label = Literal["a", "b", "tie", "both_bad"]
"""Whom people prefer: the first edit, the second, neither, or neither since both failed."""
Order = Literal["ab", "ba"]
Part = TypeVar("Part", covariant=True)


@dataclass(frozen=True)
class BenchRow:
    """One pair. Edited images have the source's size; digests are of pixels, so that an image that recurs is known again.

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
