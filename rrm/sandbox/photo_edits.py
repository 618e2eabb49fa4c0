"""Scripted editors of photographs: each knows one way to be right or wrong, and the truth about
what it makes is known."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from rrm.sandbox.photos import QUARTERS, SLOTS, VALUES, PhotoEdit, apply, framed

FLAWS = ("stretch", "noise", "blur", "blocks", "border")
EDITORS = (
    "right",
    "not_done",
    "half_done",
    "wrong_value",
    "disobeyed",
    "oversaturated",
    "crop",
    *FLAWS,
)


def photo_editors(steps: Sequence[PhotoEdit]) -> tuple[str, ...]:
    """The scripted editors whose way of working makes a difference for these steps, on a photo with
    colours and details."""
    asked = [step for step in steps if not step.negated]
    useless = {
        "half_done": len(asked) < 2,
        "wrong_value": all(step.kind in ("grey", "frame") for step in asked),
        "disobeyed": len(asked) == len(steps),
        "oversaturated": any(step.kind == "grey" for step in asked),
        "border": any(step.kind == "frame" for step in asked),
    }
    return tuple(editor for editor in EDITORS if not useless.get(editor, False))


def wrong(step: PhotoEdit) -> PhotoEdit:
    """The step done the wrong way round: another side, another tint, darker instead of brighter."""
    if step.kind in ("mirror", "flip"):
        return PhotoEdit("flip" if step.kind == "mirror" else "mirror")
    if step.kind == "paint":
        places = list(QUARTERS)
        return replace(step, place=places[3 - places.index(str(step.place))])
    values = VALUES[step.kind]
    return replace(step, value=values[(values.index(str(step.value)) + 1) % len(values)])


def spoiled_step(steps: Sequence[PhotoEdit]) -> PhotoEdit:
    """The step that the editor "wrong_value" gets wrong."""
    return next(step for step in steps if not step.negated and step.kind not in ("grey", "frame"))


def script_photo(
    image: Image.Image, steps: Sequence[PhotoEdit], editor: str, rng: np.random.Generator
) -> Image.Image:
    """The edited photo that a scripted editor makes. Flaws grow with the photo, so that they
    survive its being scaled down."""
    done = list(steps)
    if editor == "not_done":
        done = []
    elif editor == "half_done":
        done = [step for step in steps if not step.negated][:1]
    elif editor == "disobeyed":
        done = [replace(step, negated=False) for step in steps]
    elif editor == "wrong_value":
        done = [wrong(step) if step == spoiled_step(steps) else step for step in steps]
    image, (width, height) = image.convert("RGB"), image.size
    if editor == "crop":
        kept = rng.uniform(0.7, 0.82)
        left, top = (round(rng.uniform(0, 1 - kept) * side) for side in image.size)
        image = image.crop(
            (left, top, left + round(kept * width), top + round(kept * height))
        ).resize((width, height))
    if editor == "oversaturated":
        image = ImageEnhance.Color(image).enhance(2.2)
    return spoil(apply(image, done), editor, rng)


def spoil(image: Image.Image, flaw: str, rng: np.random.Generator) -> Image.Image:
    """The image with a flaw laid over it; as it is where `flaw` is none of them."""
    width, height = image.size
    shrink = min(1.0, 300 / max(image.size))
    coarse = (max(1, round(shrink * width)), max(1, round(shrink * height)))
    if flaw == "stretch":
        return image.resize((round(1.25 * width), height))
    if flaw == "noise":
        grain = rng.normal(0, 40, (*coarse[::-1], 3)).clip(-127, 127) + 127.5
        sized = Image.fromarray(grain.astype(np.uint8)).resize(image.size, Image.Resampling.NEAREST)
        noisy = np.asarray(image, np.float32) + np.asarray(sized, np.float32) - 127
        return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
    if flaw == "blur":
        return image.filter(ImageFilter.GaussianBlur(0.012 * max(image.size)))
    if flaw == "blocks":
        buffer = io.BytesIO()
        image.resize(coarse).save(buffer, "JPEG", quality=5)
        return Image.open(buffer).convert("RGB").resize(image.size)
    if flaw == "border":
        margin = np.asarray(image.resize((16, 16), Image.Resampling.BOX), np.float32)
        rim = np.concatenate(
            [margin[[0, -1]].reshape(-1, 3), margin[:, [0, -1]].reshape(-1, 3)]
        ).mean()
        return framed(image, (0, 0, 0) if rim > 127 else (255, 255, 255), 0.05)
    return image


def truth(steps: Sequence[PhotoEdit], editor: str) -> tuple[int, ...]:
    """The right answer to every principle of `principles_of(steps)`, in its order, for what a
    scripted editor made."""
    asked = [step for step in steps if not step.negated]
    met = dict.fromkeys(steps, 1)
    place = colours = shape = clean = 1
    if editor == "not_done":
        met |= dict.fromkeys(asked, 0)
    elif editor == "half_done":
        met |= dict.fromkeys(asked[1:], 0)
    elif editor in ("disobeyed", "wrong_value"):
        bad = (
            spoiled_step(steps)
            if editor == "wrong_value"
            else next(step for step in steps if step.negated)
        )
        met[bad] = 0
        moved = SLOTS[bad.kind] == "orientation"
        place, shape = int(not moved and bad.kind != "paint"), int(not moved)
        colours = int(moved)
    place = 0 if editor == "crop" else place
    colours = 0 if editor == "oversaturated" else colours
    shape = 0 if editor == "stretch" else shape
    clean = int(editor not in ("noise", "blur", "blocks", "border"))
    return (*(met[step] for step in steps), place, colours, shape, clean)
