"""How an edited photograph lies on its source: transposed, cropped, or as it was, whatever became
of its colours."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image
from scipy.ndimage import uniform_filter

Turn = Image.Transpose | None
Window = tuple[float, float, float]
THUMB = 64
SIDEWAYS = (
    *(Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_270),
    *(Image.Transpose.TRANSPOSE, Image.Transpose.TRANSVERSE),
)
WINDOWS = tuple(
    (s, x * (1 - s) / 3, y * (1 - s) / 3)
    for s in (0.92, 0.84, 0.76, 0.68)
    for x in range(4)
    for y in range(4)
)
"""Parts of the source (size, left, top, as shares) that a photo whose details are nowhere in place
may have been cropped to."""
RECOGNISED, SURE = 0.35, 0.02
EDGE = 0.13
"""Share of the shorter side that is left out on each side of what is compared: wider than any frame
or border, even a stretched one."""


def local(values: np.ndarray, size: int) -> np.ndarray:
    """The mean over a square around each pixel, channel by channel."""
    return np.asarray(uniform_filter(values, (size, size, 0)[: values.ndim], mode="nearest"))


def grey(pixels: np.ndarray) -> np.ndarray:
    """(…, 3) → (…)."""
    return np.asarray(pixels @ np.array([0.299, 0.587, 0.114], np.float32))


def at_size(image: Image.Image, size: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) float pixels in 0…255 at this size."""
    return np.asarray(image.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0), np.float32)


def lay(
    source: Image.Image, size: tuple[int, int], turn: Turn, window: Window | None = None
) -> np.ndarray:
    """The source's pixels, cropped to the window and transposed, at this size."""
    if window is not None:
        part, left, top = window
        edges = (
            left * source.width,
            top * source.height,
            (left + part) * source.width,
            (top + part) * source.height,
        )
        source = source.crop((round(edges[0]), round(edges[1]), round(edges[2]), round(edges[3])))
    sized = source.resize(
        size[::-1] if turn in SIDEWAYS else size, Image.Resampling.BICUBIC, reducing_gap=3.0
    )
    return np.asarray(sized if turn is None else sized.transpose(turn), np.float32)


def moments(a: np.ndarray, b: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Local variances of two grey images and their covariance, within squares of this size."""
    mean_a, mean_b = local(a, size), local(b, size)
    var_a, var_b = local(a * a, size) - mean_a**2, local(b * b, size) - mean_b**2
    return np.maximum(var_a, 0), np.maximum(var_b, 0), local(a * b, size) - mean_a * mean_b


def inside(size: tuple[int, int]) -> tuple[slice, slice]:
    """The part of an image of this size that no frame or border reaches."""
    edge = round(EDGE * min(size)) + 1
    return slice(edge, size[1] - edge), slice(edge, size[0] - edge)


def agreement(base: np.ndarray, after: np.ndarray) -> float:
    """How well details lie on each other, from 0 to 1, whatever became of the colours."""
    box = inside((base.shape[1], base.shape[0]))
    var_a, var_b, covariance = moments(local(grey(base), 3)[box], local(grey(after), 3)[box], 17)
    matched = np.maximum(covariance, 0) / np.sqrt((var_a + 1) * (var_b + 1))
    weight = np.sqrt(var_a) * (var_b > 1)  # a quarter painted over says nothing of where things are
    return float((weight * matched).sum() / (weight.sum() + 1e-6))


def nearby(window: Window) -> list[Window]:
    """The window, and those that are a little smaller, larger or beside it."""
    part, left, top = window
    sizes = [min(1.0, part + step) for step in (-0.04, 0.0, 0.04)]
    places = [
        (s, left + (part - s) / 2 + x, top + (part - s) / 2 + y)
        for s in sizes
        for x in (-0.03, 0.0, 0.03)
        for y in (-0.03, 0.0, 0.03)
    ]
    return [(s, min(max(x, 0.0), 1 - s), min(max(y, 0.0), 1 - s)) for s, x, y in places]


def find_pose(
    source: Image.Image, after: np.ndarray, wanted: Turn
) -> tuple[Turn, Window | None, float]:
    """How the edited photo lies on the source: its transposition, the part that it shows (None:
    all), and how well that fits.

    What was asked for is tried first, then nothing: a symmetric photo is given the benefit of the
    doubt.
    """
    turns = sorted((None, *Image.Transpose), key=lambda turn: (turn != wanted, turn is not None))
    size = (after.shape[1], after.shape[0])
    upright, sideways = (
        source.resize(s, Image.Resampling.BICUBIC, reducing_gap=3.0) for s in (size, size[::-1])
    )
    scores = {
        turn: agreement(lay(sideways if turn in SIDEWAYS else upright, size, turn), after)
        for turn in turns
    }
    best = next(turn for turn in turns if scores[turn] >= max(scores.values()) - SURE)
    if scores[best] >= RECOGNISED:
        return best, None, scores[best]
    thumb = Image.fromarray(after.round().clip(0, 255).astype(np.uint8)).resize((THUMB, THUMB))
    shown = local(grey(np.asarray(thumb, np.float32)), 5)
    mask = np.zeros(shown.shape, bool)
    mask[inside((THUMB, THUMB))] = True
    mask &= moments(shown, shown, 5)[0] > 1
    small = source.convert("L").resize((2 * THUMB, 2 * THUMB))

    def best_of(turn: Turn, windows: Sequence[Window]) -> tuple[float, Window]:
        looks = [local(lay(small, (THUMB, THUMB), turn, window), 5)[mask] for window in windows]
        fits = (
            np.nan_to_num(np.corrcoef([shown[mask], *looks])[0, 1:])
            if mask.sum() > 1
            else np.zeros(len(windows))
        )
        return float(max(0.0, fits.max())), windows[int(fits.argmax())]

    found = {turn: best_of(turn, nearby(best_of(turn, WINDOWS)[1])) for turn in turns}
    turn = max(turns, key=lambda turn: found[turn][0])
    return turn, found[turn][1], found[turn][0]
