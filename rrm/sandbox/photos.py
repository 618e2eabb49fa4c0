"""Edits of real photographs whose right result is known pixel by pixel: their language, their
principles, and how they are done.

An instruction names at most one change of each slot (orientation, colour, light, a painted quarter,
a frame), and may end in something that is not to be done. "And" names no order: the slots are
always worked through in the order of SLOTS, so that everything asked for is true of the result
("paint the top left quarter blue" means top left in the finished photo).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from PIL import Image

from rrm.records import Principle

SLOTS = {
    "mirror": "orientation",
    "flip": "orientation",
    "turn": "orientation",
    "grey": "colour",
    "tint": "colour",
    "light": "light",
    "paint": "paint",
    "frame": "frame",
}
PAINTS = {
    "red": (200, 30, 30),
    "green": (30, 150, 50),
    "blue": (30, 60, 200),
    "yellow": (235, 205, 40),
    "white": (255, 255, 255),
    "black": (0, 0, 0),
}
QUARTERS = {"top left": (0, 0), "top right": (1, 0), "bottom left": (0, 1), "bottom right": (1, 1)}
TINTS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
TINT_SHARE, BRIGHT_POWER, DARK_GAIN, FRAME_SHARE = 0.4, 0.45, 0.4, 0.08
VALUES: dict[str, tuple[str, ...]] = {
    "turn": ("clockwise", "counterclockwise"),
    "tint": tuple(TINTS),
    "light": ("brighter", "darker"),
    "paint": tuple(PAINTS),
    "frame": ("white", "black", "red"),
}
WORDS = {
    "mirror": "mirror {it} left to right",
    "flip": "turn {it} upside down",
    "turn": "rotate {it} a quarter turn {value}",
    "grey": "make {it} black and white",
    "tint": "give {it} a {value} tint",
    "light": "make {it} much {value}",
    "paint": "paint the {place} quarter {value}",
    "frame": "add a thick {value} frame",
}
QUESTIONS = {
    "mirror": (
        "Is the photo mirrored left to right?",
        "Is the photo, as asked, not mirrored left to right?",
    ),
    "flip": ("Is the photo upside down?", "Is the photo, as asked, not turned upside down?"),
    "turn": (
        "Is the photo rotated a quarter turn {value}?",
        "Is the photo, as asked, not rotated a quarter turn {value}?",
    ),
    "grey": ("Is the photo black and white?", "Is the photo, as asked, not made black and white?"),
    "tint": (
        "Does the photo have a {value} tint?",
        "Is the photo, as asked, not given a {value} tint?",
    ),
    "light": ("Is the photo much {value}?", "Is the photo, as asked, not made much {value}?"),
    "paint": ("Is the {place} quarter {value}?", ""),
    "frame": ("Does the photo have a thick {value} frame?", ""),
}
FORBIDDABLE = tuple(kind for kind, (_, negative) in QUESTIONS.items() if negative)
IT = "(?:it|the (?:photo|picture|image))"


@dataclass(frozen=True)
class PhotoEdit:
    """One thing that an instruction asks for, or forbids where `negated`; fields that its kind has
    no use for are None."""

    kind: str
    value: str | None = None
    place: str | None = None
    negated: bool = False

    def principle(self) -> Principle:
        """The yes/no question whether it was followed."""
        question = QUESTIONS[self.kind][self.negated].format(value=self.value, place=self.place)
        return Principle(question=question, category="follow")


PLACE = Principle(question="Is everything else in the photo still where it was?", category="keep")
SHAPE = Principle(question="Has the photo kept its proportions and orientation?", category="keep")
SHAPE_ELSE = Principle(
    question="Apart from what was asked, has the photo kept its proportions and orientation?",
    category="keep",
)
COLOURS = Principle(question="Are the photo's colours unchanged?", category="keep")
COLOURS_ELSE = Principle(
    question="Apart from what was asked, are the photo's colours unchanged?", category="keep"
)
CLEAN = Principle(question="Is the photo free of noise, blur and borders?", category="quality")
CLEAN_FRAMED = Principle(question="Is the photo free of noise and blur?", category="quality")


def every_step() -> list[PhotoEdit]:
    """Everything that the language can ask for or forbid."""
    return [
        PhotoEdit(kind, value, place, negated)
        for kind in SLOTS
        for value in VALUES.get(kind, (None,))
        for place in (tuple(QUARTERS) if kind == "paint" else (None,))
        for negated in ((False, True) if kind in FORBIDDABLE else (False,))
    ]


@cache
def steps_by_question() -> dict[str, PhotoEdit]:
    """Every question whether a step was followed, and its step."""
    return {step.principle().question: step for step in every_step()}


def asks_about_colours(principle: Principle) -> bool:
    """Whether the principle is that the colours were kept, wherever."""
    return principle.category == "keep" and "colours" in principle.question


def write(steps: Sequence[PhotoEdit]) -> str:
    """The steps in words."""
    clauses = []
    for number, step in enumerate(sorted(steps, key=lambda step: step.negated)):
        words = WORDS[step.kind].format(
            it="it" if number else "the photo", value=step.value, place=step.place
        )
        clauses.append(
            f" but do not {words}" if step.negated else f" and {words}" if number else words
        )
    return "".join(clauses)


def read_clause(clause: str) -> PhotoEdit | None:
    """What one clause asks for."""
    for kind, words in WORDS.items():
        pattern = words.format(
            it=IT,
            value=f"(?P<value>{'|'.join(VALUES.get(kind, ()))})",
            place=f"(?P<place>{'|'.join(QUARTERS)})",
        )
        if match := re.fullmatch(
            pattern.replace(" left to right", "(?: left to right)?"), clause.strip()
        ):
            found = match.groupdict()
            return PhotoEdit(kind, found.get("value"), found.get("place"))
    return None


def parse(instruction: str) -> list[PhotoEdit] | None:
    """The steps of an instruction; None where it is not in the language, or two of its steps are
    about the same slot."""
    text = " ".join(instruction.lower().rstrip(" .!").split())
    asked, _, forbidden = re.sub(r",? but (don't|do not) ", "|", text, count=1).partition("|")
    steps: list[PhotoEdit] = []
    for clause in re.split(r",? and (?!white)", asked):
        step = read_clause(clause)
        if step is None:
            return None
        steps.append(step)
    if forbidden:
        step = read_clause(forbidden)
        if step is None or step.kind not in FORBIDDABLE:
            return None
        steps.append(replace(step, negated=True))
    return steps if len({SLOTS[step.kind] for step in steps}) == len(steps) else None


def principles_of(steps: Sequence[PhotoEdit]) -> tuple[Principle, ...]:
    """The principles of an instruction: one to follow per step, then place, colours, proportions
    and quality."""
    asked = {SLOTS[step.kind]: step for step in steps if not step.negated}
    names = {
        slot: f"the {step.place} quarter" if slot == "paint" else "the frame"
        for slot, step in asked.items()
    }
    spared = [names[slot] for slot in ("paint", "frame") if slot in asked]
    if asked.keys() & {"colour", "light"}:
        colours = COLOURS_ELSE
    elif spared:
        colours = Principle(
            question=f"Are the colours outside {' and '.join(spared)} unchanged?", category="keep"
        )
    else:
        colours = COLOURS
    shape = SHAPE_ELSE if "orientation" in asked else SHAPE
    clean = CLEAN_FRAMED if "frame" in asked else CLEAN
    return (*(step.principle() for step in steps), PLACE, colours, shape, clean)


def orientation_of(step: PhotoEdit) -> Image.Transpose:
    """The transposition that an orientation step asks for."""
    if step.kind == "mirror":
        return Image.Transpose.FLIP_LEFT_RIGHT
    if step.kind == "flip":
        return Image.Transpose.ROTATE_180
    return Image.Transpose.ROTATE_270 if step.value == "clockwise" else Image.Transpose.ROTATE_90


def tone(pixels: np.ndarray, step: PhotoEdit) -> np.ndarray:
    """(…, 3) float pixels in 0…255 after a colour or light step."""
    if step.kind == "grey":
        return np.repeat(pixels @ np.array([[0.299], [0.587], [0.114]], pixels.dtype), 3, axis=-1)
    if step.kind == "tint":
        return (1 - TINT_SHARE) * pixels + TINT_SHARE * np.array(
            TINTS[str(step.value)], pixels.dtype
        )
    return 255 * (pixels / 255) ** BRIGHT_POWER if step.value == "brighter" else DARK_GAIN * pixels


def quarter(place: str, width: int, height: int) -> tuple[int, int, int, int]:
    """The box of a quarter: left, top, right, bottom."""
    column, row = QUARTERS[place]
    across, down = width // 2, height // 2
    return column * across, row * down, width if column else across, height if row else down


def apply(image: Image.Image, steps: Sequence[PhotoEdit]) -> Image.Image:
    """The photo after every step but the forbidden ones was done right."""
    image = image.convert("RGB")
    for step in sorted(steps, key=lambda step: list(SLOTS.values()).index(SLOTS[step.kind])):
        if step.negated:
            continue
        if SLOTS[step.kind] == "orientation":
            image = image.transpose(orientation_of(step))
        elif SLOTS[step.kind] in ("colour", "light"):
            toned = tone(np.asarray(image, np.float32), step)
            image = Image.fromarray(toned.round().clip(0, 255).astype(np.uint8))
        else:
            image = image.copy()
            value = PAINTS[str(step.value)]
            if step.kind == "paint":
                image.paste(value, quarter(str(step.place), *image.size))
            else:
                image = framed(image, value, FRAME_SHARE)
    return image


def framed(image: Image.Image, colour: tuple[int, int, int], share: float) -> Image.Image:
    """The image with its margin, as wide as this share of its shorter side, painted over."""
    margin = max(1, round(share * min(image.size)))
    canvas = Image.new("RGB", image.size, colour)
    canvas.paste(
        image.crop((margin, margin, image.width - margin, image.height - margin)), (margin, margin)
    )
    return canvas
