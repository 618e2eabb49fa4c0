"""Judging an edited photograph from pixels alone: what was done to it is found by trying everything
that could have been.

Both photos are compared at a common reduced size, so that a lossy file or a pixel budget on the way
does not matter. EXIF tags are not looked at: a source whose rotation was lost on the way shows as a
change of orientation, which it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from rrm.records import Principle
from rrm.sandbox.photo_pose import (
    RECOGNISED,
    SIDEWAYS,
    Turn,
    Window,
    at_size,
    find_pose,
    grey,
    inside,
    lay,
    local,
    moments,
)
from rrm.sandbox.photos import (
    CLEAN,
    CLEAN_FRAMED,
    FRAME_SHARE,
    PAINTS,
    PLACE,
    SHAPE,
    SHAPE_ELSE,
    SLOTS,
    VALUES,
    PhotoEdit,
    asks_about_colours,
    orientation_of,
    principles_of,
    quarter,
    steps_by_question,
    tone,
)

SIDE = 256
"""Length of the longer side at which photos are compared."""
SAME_ASPECT = 0.06
"""Change of the ratio of sides that the rounding of a pixel budget may make."""
TEXTURE, ALIGNED, ALIGNED_SHARE = 50.0, 0.5, 0.8
"""Variance of a detail, correlation of one that is in its place, and share of them that is enough.
Levels run from 0 to 255 here and below."""
OFF_COLOUR, OFF_SHARE = 24.0, 0.1
PALE, SATURATED = 0.4, 1.35
ROUGH, SOFT, LOUD = 3.3, 0.63, 15.0
FILLED, FILLED_SHARE = 40.0, 0.9


@dataclass(frozen=True)
class Findings:
    """What was measured of an edited photo beside its source, for one instruction's steps.

    Levels run from 0 to 255. `turn` and `window` (size, left, top, as shares of the source; None:
    all of it) say how it lies on the source and `agreement` how surely, `stretch` how many times
    too wide it is; `colour` and `light` are the changes that explain it best; `chroma` and
    `brightness` are means before and after; `filled` and `framed` are the shares of the quarter and
    the margin in the colour asked for. The others are of all the rest: details in place, pixels off
    in colour, strength of the colours and sharpness beside what they should be, texture that should
    not be there, and an unasked border.
    """

    turn: Turn
    window: Window | None
    agreement: float
    stretch: float
    colour: PhotoEdit | None
    light: PhotoEdit | None
    chroma: tuple[float, float]
    brightness: tuple[float, float]
    filled: float
    framed: float
    aligned: float
    off_colour: float
    saturation: float
    roughness: float
    sharpness: float
    bordered: bool


def toned(pixels: np.ndarray, steps: Sequence[PhotoEdit | None]) -> np.ndarray:
    """The pixels after those of the colour and light steps that there are."""
    for step in steps:
        pixels = pixels if step is None else tone(pixels, step)
    return pixels


def find_tones(
    base: np.ndarray, after: np.ndarray, asked: tuple[PhotoEdit | None, PhotoEdit | None]
) -> tuple[PhotoEdit | None, PhotoEdit | None]:
    """The change of colour and the change of light that explain (N, 3) pixels best; what was asked
    for first, then less first."""
    colours = [None, PhotoEdit("grey"), *(PhotoEdit("tint", value) for value in VALUES["tint"])]
    lights = [None, *(PhotoEdit("light", value) for value in VALUES["light"])]
    costs = {
        (c, li): float(np.abs(toned(base, (c, li)) - after).mean())
        for c in colours
        for li in lights
    }
    ordered = sorted(
        costs, key=lambda pair: (pair != asked, sum(step is not None for step in pair))
    )
    return next(pair for pair in ordered if costs[pair] <= 1.05 * min(costs.values()) + 0.5)


def chroma_of(pixels: np.ndarray) -> float:
    """The mean difference between the strongest and the weakest channel."""
    return float((pixels.max(-1) - pixels.min(-1)).mean())


def saturation(base: np.ndarray, after: np.ndarray) -> float:
    """How many times as strong as they should be the colours of (N, 3) pixels are; 1 where there
    are none to speak of."""
    a, b = (pixels - grey(pixels)[..., None] for pixels in (base, after))
    a, b = a - a.mean(0), b - b.mean(0)  # a tint adds the same colour everywhere
    strength = float((a * a).mean())
    return float((a * b).mean()) / strength if strength > 9 else 1.0


def share_of_colour(after: np.ndarray, mask: np.ndarray, colour: str | None) -> float:
    """Share of the pixels under the mask that have the paint's colour."""
    distance = np.abs(local(after, 3) - np.array(PAINTS[str(colour)], np.float32)).max(-1)
    return float((distance[mask] < FILLED).mean())


def has_border(base: np.ndarray, after: np.ndarray) -> bool:
    """Whether all four edges are of one colour that was not there before."""

    def rim(pixels: np.ndarray) -> np.ndarray:
        return np.concatenate([pixels[[1, -2]].reshape(-1, 3), pixels[:, [1, -2]].reshape(-1, 3)])

    was, now = rim(local(base, 3)), rim(local(after, 3))
    colour = np.median(now, axis=0)
    plain = (np.abs(now - colour).max(-1) < 40).mean() > 0.95
    return bool(plain and (np.abs(was - colour).max(-1) > 50).mean() > 0.3)


@dataclass(frozen=True)
class Parts:
    """Where to look, in pixels of the reduced photo: the quarter and the frame that were asked for,
    and all the rest."""

    quarter: np.ndarray
    frame: np.ndarray
    rest: np.ndarray


def parts_of(
    asked: dict[str, PhotoEdit], size: tuple[int, int], frame: tuple[float, float]
) -> Parts:
    """The masks (H, W) for these steps; `frame` is the width of a frame at the sides and above, as
    shares of the photo."""
    rest = np.zeros(size[::-1], bool)
    rest[inside(size)] = True
    part, ring = np.zeros_like(rest), np.ones_like(rest)
    if "paint" in asked:
        left, top, right, bottom = quarter(str(asked["paint"].place), *size)
        part[top + 4 : bottom - 4, left + 4 : right - 4] = True
        part &= rest
        rest[max(0, top - 6) : bottom + 6, max(0, left - 6) : right + 6] = False
    across, down = (
        max(1, round(0.75 * share * side)) for share, side in zip(frame, size, strict=True)
    )
    ring[down:-down, across:-across] = False
    return Parts(part, ring, rest)


def in_place(expected: np.ndarray, after: np.ndarray, rest: np.ndarray) -> float:
    """Share of the details that lie where they should; 1 where there are none."""
    var_a, var_b, covariance = moments(local(grey(expected), 5), local(grey(after), 5), 17)
    details = rest & (var_a > TEXTURE)
    matched = covariance / np.sqrt((var_a + 1) * (var_b + 1)) > ALIGNED
    return float(matched[details].mean()) if details.any() else 1.0


def texture(expected: np.ndarray, after: np.ndarray, rest: np.ndarray) -> tuple[float, float]:
    """What is in the edited photo and not in what it should be (root mean square of 0…255), and how
    sharp it is beside that."""
    var_a, var_b, covariance = moments(grey(expected), grey(after), 5)
    foreign = np.maximum(var_b - covariance**2 / (var_a + 1), 0)
    foreign = np.minimum(foreign, LOUD**2)[
        rest
    ].mean()  # the edge of something painted over is no noise
    return float(np.sqrt(foreign)), float(
        (np.sqrt(var_b)[rest].mean() + 0.5) / (np.sqrt(var_a)[rest].mean() + 0.5)
    )


def measure(before: Image.Image, after: Image.Image, steps: Sequence[PhotoEdit]) -> Findings:
    """Everything that the principles of these steps can be judged by."""
    asked = {SLOTS[step.kind]: step for step in steps if not step.negated}
    before, after = before.convert("RGB"), after.convert("RGB")
    scale = min(SIDE, max(before.size), max(after.size)) / max(after.size)
    size = (max(24, round(after.width * scale)), max(24, round(after.height * scale)))
    pixels = at_size(after, size)
    turn, window, fit = find_pose(
        before, pixels, orientation_of(asked["orientation"]) if "orientation" in asked else None
    )
    base = lay(before, size, turn, window)
    width, height = before.size[:: -1 if turn in SIDEWAYS else 1]
    thick = FRAME_SHARE * min(width, height)
    parts = parts_of(asked, size, (thick / width, thick / height))
    rest = parts.rest
    smooth, seen = local(base, 9)[rest], local(pixels, 9)[rest]
    colour, light = find_tones(smooth[::7], seen[::7], (asked.get("colour"), asked.get("light")))
    expected = toned(base, (colour, light))
    aligned = in_place(expected, pixels, rest) if window is None else 0.0
    foreign, sharpness = texture(expected, pixels, rest)
    smooth = local(expected, 9)[rest]
    off_colour = float((np.abs(smooth - seen).max(-1) > OFF_COLOUR).mean())
    strength = saturation(smooth, seen)
    if window is not None:  # nothing lies where it can be compared pixel by pixel
        off_colour, strength, foreign = (
            float(np.abs(smooth.mean(0) - seen.mean(0)).max() > OFF_COLOUR),
            1.0,
            0.0,
        )
    return Findings(
        turn=turn,
        window=window,
        agreement=fit,
        stretch=(after.width / after.height) / (width / height),
        colour=colour,
        light=light,
        chroma=(chroma_of(base), chroma_of(pixels)),
        brightness=(float(grey(base).mean()), float(grey(pixels).mean())),
        filled=share_of_colour(pixels, parts.quarter, asked["paint"].value)
        if "paint" in asked
        else 0.0,
        framed=share_of_colour(pixels, parts.frame, asked["frame"].value)
        if "frame" in asked
        else 0.0,
        aligned=aligned,
        off_colour=off_colour,
        saturation=strength,
        roughness=foreign,
        sharpness=sharpness,
        bordered="frame" not in asked and has_border(expected, pixels),
    )


def verdict(principle: Principle, steps: Sequence[PhotoEdit], found: Findings) -> int:
    """The answer to one principle, 0 (unsure) to a question that is not one of this language."""
    asked = {SLOTS[step.kind]: step for step in steps if not step.negated}
    wanted = orientation_of(asked["orientation"]) if "orientation" in asked else None
    if principle == PLACE:
        return int(found.aligned >= ALIGNED_SHARE and found.turn in (None, wanted))
    if principle in (SHAPE, SHAPE_ELSE):
        return int(
            abs(found.stretch - 1) <= SAME_ASPECT
            and found.turn in (None, wanted)
            and found.agreement >= RECOGNISED
        )
    if asks_about_colours(principle):
        as_asked = found.colour in (None, asked.get("colour")) and found.light in (
            None,
            asked.get("light"),
        )
        return int(
            as_asked and found.off_colour <= OFF_SHARE and PALE <= found.saturation <= SATURATED
        )
    if principle in (CLEAN, CLEAN_FRAMED):
        return int(found.roughness <= ROUGH and found.sharpness >= SOFT and not found.bordered)
    step = steps_by_question().get(principle.question)
    return 0 if step is None else int(done(step, found) != step.negated)


def done(step: PhotoEdit, found: Findings) -> bool:
    """Whether what a step names was done, be it asked for or forbidden."""
    if SLOTS[step.kind] == "orientation":
        return found.turn == orientation_of(step)
    if SLOTS[step.kind] in ("colour", "light"):
        return replace(step, negated=False) in (found.colour, found.light)
    return (found.filled if step.kind == "paint" else found.framed) >= FILLED_SHARE


def read_verdicts(
    before: Image.Image,
    after: Image.Image,
    steps: Sequence[PhotoEdit],
    principles: Sequence[Principle] | None = None,
) -> tuple[int, ...]:
    """The answer to every principle, those of the steps unless others are given, as the two photos'
    pixels show it."""
    found = measure(before, after, steps)
    return tuple(
        verdict(principle, steps, found) for principle in principles or principles_of(steps)
    )
