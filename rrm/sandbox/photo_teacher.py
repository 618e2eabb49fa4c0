"""How a sandbox teacher judges edits of photographs: by what `photo_reading` measures, and it
writes down what that was.

The scores follow the verdicts as people's would (`rrm.sandbox.edits.human_utility`), so a set made
from them can be checked.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from rrm import prompts
from rrm.records import Principle
from rrm.sandbox.personas import Sight
from rrm.sandbox.photo_reading import Findings, measure, verdict
from rrm.sandbox.photos import (
    CLEAN,
    COLOURS,
    PLACE,
    SHAPE,
    SHAPE_ELSE,
    SLOTS,
    PhotoEdit,
    asks_about_colours,
    parse,
    principles_of,
    quarter,
    steps_by_question,
)

TURNED = {
    None: "as it was",
    Image.Transpose.FLIP_LEFT_RIGHT: "mirrored left to right",
    Image.Transpose.FLIP_TOP_BOTTOM: "mirrored top to bottom",
    Image.Transpose.ROTATE_90: "rotated a quarter turn counterclockwise",
    Image.Transpose.ROTATE_180: "turned upside down",
    Image.Transpose.ROTATE_270: "rotated a quarter turn clockwise",
    Image.Transpose.TRANSPOSE: "mirrored left to right and rotated a quarter turn counterclockwise",
    Image.Transpose.TRANSVERSE: "mirrored left to right and rotated a quarter turn clockwise",
}


@dataclass(frozen=True)
class PhotoPersona:
    """Chance at temperature 1 that a verdict is the wrong one, and the standard deviation of the
    score."""

    flips: float = 0.0
    score_noise: float = 0.0


PHOTO_PERSONAS = {
    "sandbox-photo": PhotoPersona(),
    "sandbox-photo-noisy": PhotoPersona(flips=0.1, score_noise=0.6),
}


def decompose_any(instruction: str) -> tuple[Principle, ...]:
    """The principles of an instruction; general ones where it is in words of its own."""
    steps = parse(instruction)
    if steps is not None:
        return principles_of(steps)
    asked = Principle(
        question=f'Was the instruction "{instruction}" carried out?', category="follow"
    )
    return (asked, PLACE, COLOURS, SHAPE, CLEAN)


def steps_asked(instruction: str, principles: Sequence[Principle]) -> list[PhotoEdit]:
    """The steps of the instruction; where it is in words of its own, those that the questions speak
    of."""
    steps = parse(instruction)
    if steps is not None:
        return steps
    return [
        steps_by_question()[p.question] for p in principles if p.question in steps_by_question()
    ]


def hardness(instruction: str) -> dict[str, int]:
    """Which criteria of a hard task an instruction meets: several steps, a place."""
    steps = parse(instruction) or []
    placed = any(step.kind == "paint" for step in steps)
    return {
        "multi-step": int(len(steps) > 1),
        "fine-grained": 0,
        "implicit": 0,
        "spatial": int(placed),
    }


def named(step: PhotoEdit | None) -> str:
    """A change of colour or light in a word or two."""
    if step is None:
        return "unchanged"
    return (
        "black and white"
        if step.kind == "grey"
        else f"{step.value} tint"
        if step.kind == "tint"
        else f"much {step.value}"
    )


def lies(found: Findings) -> str:
    """How the edited photo lies on its source."""
    part = ""
    if found.window is not None:
        size, left, top = found.window
        part = f", only its part [{left:.2f}, {top:.2f}, {left + size:.2f}, {top + size:.2f}] being shown"
    return f"the source is seen {TURNED[found.turn]}{part} (agreement {found.agreement:.2f})"


def measured(principle: Principle, found: Findings, size: tuple[int, int]) -> str:
    """What speaks for the verdict on one principle; `size` is the edited photo's."""
    if principle == PLACE:
        return f"{lies(found)}, {found.aligned:.0%} of the other details are where they should be"
    if principle in (SHAPE, SHAPE_ELSE):
        return f"{lies(found)}, width to height is {found.stretch:.2f} times what it should be"
    if asks_about_colours(principle):
        strength = f"colours are {found.saturation:.2f} times as strong as they should be"
        return f"colour {named(found.colour)}, light {named(found.light)}, {found.off_colour:.0%} of the rest is off, {strength}"
    if principle.category == "quality" and principle.question.startswith(
        CLEAN.question.partition(",")[0]
    ):
        border = "a border" if found.bordered else "no unasked border"
        return f"foreign texture of {found.roughness:.1f} levels, {found.sharpness:.2f} times as sharp as it should be, {border}"
    step = steps_by_question().get(principle.question)
    if step is None:
        return "not a question that can be measured here, so unsure"
    if SLOTS[step.kind] == "orientation":
        return lies(found)
    if SLOTS[step.kind] == "colour":
        return f"mean chroma {found.chroma[0]:.1f} > {found.chroma[1]:.1f}, best explained as {named(found.colour)}"
    if step.kind == "light":
        return f"mean brightness {found.brightness[0]:.1f} > {found.brightness[1]:.1f}, best explained as {named(found.light)}"
    if step.kind == "paint":
        return (
            f"{found.filled:.0%} of the box {list(quarter(str(step.place), *size))} is {step.value}"
        )
    return f"{found.framed:.0%} of the margin is {step.value}"


def score_of(principles: Sequence[Principle], verdicts: Sequence[int]) -> float:
    """10(.6 follow + .25 keep + .15 quality), halved where nothing that was asked for was done, 0
    where nothing was done at all.

    A category without a question counts as met; to leave undone what was forbidden is not to do
    something.
    """

    def share(category: str) -> float:
        values = [v for p, v in zip(principles, verdicts, strict=True) if p.category == category]
        return float(np.mean(values)) if values else 1.0

    follow, keep, quality = share("follow"), share("keep"), share("quality")
    utility = 10 * (0.6 * follow + 0.25 * keep + 0.15 * quality)
    forbidden = {question for question, step in steps_by_question().items() if step.negated}
    asked = [
        v
        for p, v in zip(principles, verdicts, strict=True)
        if p.category == "follow" and p.question not in forbidden
    ]
    if any(asked) or not asked:
        return utility
    return 0.0 if keep == quality == 1 else utility / 2


def photo_author(
    persona: PhotoPersona, sight: Sight[Image.Image]
) -> Callable[[np.random.Generator, float], str]:
    """What writes the teacher's answers to one request, each from a generator and the heat; the
    photos are measured once."""
    if sight.role == "decompose":
        return lambda rng, heat: prompts.write_principles(decompose_any(sight.instruction))
    if sight.role == "filter":
        rows = [
            {"criterion": name, "met": met} for name, met in hardness(sight.instruction).items()
        ]
        return lambda rng, heat: json.dumps(rows)
    principles = decompose_any(sight.instruction) if sight.role == "holistic" else sight.principles
    before, after = sight.readings
    steps = steps_asked(sight.instruction, principles)
    found = measure(before, after, steps)
    right = [verdict(principle, steps, found) for principle in principles]
    seen = [measured(principle, found, after.size) for principle in principles]

    def write(rng: np.random.Generator, heat: float) -> str:
        verdicts = [1 - ok if rng.random() < heat * persona.flips else ok for ok in right]
        if sight.role in ("gold", "verify"):
            pairs = enumerate(zip(verdicts, seen, strict=True), 1)
            return json.dumps(
                [
                    {"question": number, "gold": ok, "reason": reason}
                    for number, (ok, reason) in pairs
                ]
            )
        score = round(
            float(
                np.clip(score_of(principles, verdicts) + rng.normal(0, persona.score_noise), 0, 10)
            ),
            1,
        )
        if sight.role == "holistic":
            done = "was followed" if verdicts[0] else "was not followed"
            state = "clean" if verdicts[-1] else "spoiled"
            return f"The instruction {done} and the photo is {state}: {lies(found)}.\n<score>{score:.1f}</score>"
        answer = prompts.write_answer(verdicts, score)
        if sight.role == "score_only":
            return answer
        lines = [
            f"{number}. {principle.question} {reason[0].upper()}{reason[1:]}: {'yes' if ok else 'no'}."
            for number, (principle, reason, ok) in enumerate(
                zip(principles, seen, verdicts, strict=True), 1
            )
        ]
        return "\n".join(
            [
                f"Source {before.width}×{before.height}, edited {after.width}×{after.height}.",
                *lines,
                answer,
            ]
        )

    return write
