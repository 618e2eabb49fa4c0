"""Which images are the same picture, which tasks a benchmark shares, and on which side of a split a
source falls.

A *look* is what survives resizing and re-encoding: a 64-bit perceptual hash and an 8×8 RGB
thumbnail. Two images are near-duplicates if their hashes differ in at most `BITS` bits and no
thumbnail value by more than `LEVELS`. The hash alone sees no colour and collides on plain drawings;
the thumbnail alone sees no detail finer than an eighth of the picture. Both defaults are measured.
On 102 photos and crops, JPEG and WebP of quality 60 and sizes from a quarter to the double stay
within 6 bits and 5 levels. Scenes of the sandbox that differ in what stands in a cell are 7 levels
apart or more. An object on a 64th of a plain picture that changes by 30 levels in one channel moves
the thumbnail by 7 or more, wherever it stands. Most pictures brightened by 5% or cropped by 1% are
not found: thresholds that find those take edited pictures for their sources.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Literal, Self

import imagehash
import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from rrm.errors import InputError

BITS, LEVELS = 8, 6
HASH_BYTES, SIDE = 8, 8
LOOK_BYTES = HASH_BYTES + SIDE * SIDE * 3
# Hashes are compared tile by tile: as many at once as stay in a core's cache.
TILE_ROWS, TILE_COLUMNS = 64, 4096
PAIRS_AT_ONCE = 1 << 18
ARTICLES = {"a", "an", "the"}
APOSTROPHES = "'’ʼ"

Looks = npt.NDArray[np.uint8]
Indices = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Look:
    """A perceptual hash (8 bytes) and a thumbnail (8×8 RGB, 192 bytes)."""

    phash: bytes
    thumbnail: bytes

    def to_bytes(self) -> bytes:
        """The 200 bytes to keep."""
        return self.phash + self.thumbnail

    @classmethod
    def from_bytes(cls, payload: bytes) -> Self:
        """The look that was kept. Raises InputError where these are not the bytes of one."""
        if len(payload) != LOOK_BYTES:
            raise InputError(
                f"A look takes {LOOK_BYTES} bytes, not {len(payload)}; have the image read again."
            )
        return cls(payload[:HASH_BYTES], payload[HASH_BYTES:])


def look_of(image: Image.Image) -> Look:
    """The look of an RGB image of any size."""
    bits = imagehash.phash(image, hash_size=8).hash
    # HAMMING, not BOX: Pillow's BOX rounds a cell's edges to whole pixels, which moves the
    # thumbnail of a resized picture by up to 13 levels
    thumbnail = image.resize((SIDE, SIDE), Image.Resampling.HAMMING)
    return Look(np.packbits(bits).tobytes(), thumbnail.tobytes())


def stacked(looks: Iterable[bytes]) -> Looks:
    """Looks, as the bytes to keep, as rows of an array (N, 200), which `near_pairs` compares."""
    return np.frombuffer(b"".join(looks), np.uint8).reshape(-1, LOOK_BYTES)


def near_pairs(
    looks_a: Looks, looks_b: Looks | None = None, bits: int = BITS, levels: int = LEVELS
) -> Iterator[tuple[int, int]]:
    """Every near-duplicate (i, j): of row i in `looks_a` and row j in `looks_b`; without `looks_b`,
    of rows i < j in `looks_a`.

    Rows that are equal byte for byte count once, lest a thousand white images make a million pairs:
    within one array a repeat is paired with the first of its kind and with nothing else, and of
    equal rows in `looks_b` the first is named. Clusters come out the same. Time is quadratic, at
    less than a nanosecond per pair; memory is that of the looks and one tile.
    """
    within = looks_b is None
    first, same = first_of_its_kind(looks_a if looks_b is None else looks_b)
    if looks_b is None:
        repeats = np.flatnonzero(same != np.arange(len(same)))
        yield from zip(same[repeats].tolist(), repeats.tolist(), strict=True)
        named = first
        looks_a = looks_b = looks_a[first]
    else:
        named = np.arange(len(looks_a))
        looks_b = looks_b[first]
    hashes_a, hashes_b = hashes(looks_a), hashes(looks_b)
    for top in range(0, len(looks_a), TILE_ROWS):
        for left in range(top if within else 0, len(looks_b), TILE_COLUMNS):
            apart = (
                hashes_a[top : top + TILE_ROWS, None] ^ hashes_b[None, left : left + TILE_COLUMNS]
            )
            close = np.flatnonzero(np.bitwise_count(apart) <= bits)
            i, j = close // apart.shape[1] + top, close % apart.shape[1] + left
            if within:
                i, j = i[i < j], j[i < j]
            if len(i):
                i, j = with_like_thumbnails(looks_a, looks_b, i, j, levels)
                yield from zip(named[i].tolist(), first[j].tolist(), strict=True)


def first_of_its_kind(looks: Looks) -> tuple[Indices, Indices]:
    """The rows that equal none before them, ascending; and for every row, the first row that equals
    it."""
    whole = np.ascontiguousarray(looks).view(f"S{LOOK_BYTES}").reshape(-1)
    _, first, inverse = np.unique(whole, return_index=True, return_inverse=True)
    return np.sort(first), first[inverse]


def hashes(looks: Looks) -> npt.NDArray[np.uint64]:
    """The perceptual hashes as integers, whose byte order does not matter to a count of bits."""
    return np.ascontiguousarray(looks[:, :HASH_BYTES]).view(np.uint64).reshape(-1)


def with_like_thumbnails(
    a: Looks, b: Looks, i: Indices, j: Indices, levels: int
) -> tuple[Indices, Indices]:
    """Those of the pairs whose thumbnails differ nowhere by more than `levels`."""
    # most pairs fail on a few values already
    for part in (slice(HASH_BYTES, None, 16), slice(HASH_BYTES, None)):
        for_a, for_b = a[:, part], b[:, part]
        like = [
            (np.maximum(x, y) - np.minimum(x, y) <= levels).all(axis=1)
            for s in range(0, len(i), TILE_COLUMNS)
            for x, y in [(for_a[i[s : s + TILE_COLUMNS]], for_b[j[s : s + TILE_COLUMNS]])]
        ]
        kept = np.concatenate([*like, np.zeros(0, bool)])
        i, j = i[kept], j[kept]
    return i, j


def clusters(count: int, pairs: Iterable[tuple[int, int]]) -> Indices:
    """For each of `count` images, the smallest index among the images that pairs connect it with,
    directly or through others."""
    ids = np.arange(count)
    rest = iter(pairs)
    while batch := list(islice(rest, PAIRS_AT_ONCE)):
        ends = ids[np.array(batch)]
        graph = coo_array(
            (np.ones(len(ends), np.int8), (ends[:, 0], ends[:, 1])), shape=(count, count)
        )
        _, labels = connected_components(graph, directed=False)
        # a label appears first at its smallest index
        _, smallest = np.unique(labels, return_index=True)
        ids = smallest[labels[ids]]
    return ids


def split_of(
    cluster_key: str, seed: int, validation_share: float
) -> Literal["train", "validation"]:
    """The side on which a cluster falls, whatever else is in the set: "validation" for about this
    share of the clusters."""
    draw = (
        int.from_bytes(hashlib.sha256(f"{seed}:{cluster_key}".encode()).digest()[:8], "big") / 2**64
    )
    return "validation" if draw < validation_share else "train"


def normalised(instruction: str) -> str:
    """The instruction without case, punctuation, English articles and odd spaces: what two wordings
    of one request share.

    What consists of nothing but these keeps them, so that "?" does not equal "the".
    """
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", instruction).casefold())
    bare = "".join(without_punctuation(char) for char in text)
    return " ".join(word for word in bare.split() if word not in ARTICLES) or " ".join(text.split())


def without_punctuation(char: str) -> str:
    """The character; nothing for an apostrophe or an invisible mark, a space for other punctuation."""
    category = unicodedata.category(char)
    if char in APOSTROPHES or category == "Cf":
        return ""
    return " " if category.startswith("P") else char
