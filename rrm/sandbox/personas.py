"""How the sandbox's teachers judge: what they see is true, what they make of it depends on who they
are.

Verdicts are mostly right; *scores* are biased in a way that all teachers share: they look at
quality before they look at the instruction, and often forget what should have been kept. People do
not (`rrm.sandbox.edits.human_utility`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Generic, Literal, TypeVar

import numpy as np

from rrm import prompts
from rrm.records import Principle
from rrm.sandbox.edits import (
    CLEAN,
    OTHERS,
    SAME_BACKGROUND,
    Step,
    decompose,
    followed,
    parse_instruction,
    true_verdicts,
)
from rrm.sandbox.language import principle_line, think
from rrm.sandbox.reading import Reading
from rrm.sandbox.world import BACKGROUNDS, COLOURS, PLACES, SHAPES

Seen = TypeVar("Seen")
Role = Literal["filter", "decompose", "judge", "score_only", "holistic", "verify", "gold"]
KEEP_FORGOTTEN = 0.4
SCORE_NOISE = 0.6


@dataclass(frozen=True)
class Persona:
    """Chances at temperature 1 of each way to be wrong, and the points given to an edit that was
    not done."""

    flips: float
    undone_accepted: float = 0.0
    undone_points: float = 0.0
    leak_overlooked: float = 0.0
    malformed: float = 0.0


PERSONAS = {
    "sandbox-careful": Persona(flips=0.005),
    "sandbox-lenient": Persona(flips=0.03, undone_accepted=0.08, undone_points=0.5),
    "sandbox-hasty": Persona(flips=0.03, leak_overlooked=0.5),
    "sandbox-vague": Persona(flips=0.04, malformed=0.25),
}


@dataclass(frozen=True)
class Sight(Generic[Seen]):
    """What a request shows: its role, the words, and each image as it was read: a scene's
    `Reading`, or a photo."""

    role: Role
    instruction: str
    principles: tuple[Principle, ...]
    readings: tuple[Seen, ...]


@cache
def steps_by_question() -> dict[str, Step]:
    """Every question about a step that the sandbox's language can put, and its step."""
    names = [(colour, shape) for colour in COLOURS for shape in SHAPES]
    steps = [Step("background", value=value) for value in BACKGROUNDS]
    for colour, shape in names:
        steps.append(Step("remove", colour, shape))
        steps.extend(Step("recolour", colour, shape, value) for value in COLOURS)
        steps.extend(Step("reshape", colour, shape, value) for value in SHAPES)
        steps.extend(Step("add", colour, shape, value) for value in PLACES)
    return {step.principle().question: step for step in steps}


def steps_asked(instruction: str, principles: Sequence[Principle]) -> list[Step]:
    """The steps of the instruction; where it is in words of its own, those that the questions speak
    of."""
    steps = parse_instruction(instruction.strip().lower())
    if steps is not None:
        return steps
    return [
        steps_by_question()[p.question] for p in principles if p.question in steps_by_question()
    ]


def see(principle: Principle, before: Reading, after: Reading, steps: list[Step]) -> int:
    """The right verdict on one principle; 0 (unsure) on a question that the sandbox does not know."""
    truth = true_verdicts(before, after, steps)
    if principle.question == OTHERS.question:
        return truth[len(steps)]
    if principle.question == SAME_BACKGROUND.question:
        return int(before.background == after.background)
    if principle.question == CLEAN.question:
        return truth[-1]
    step = steps_by_question().get(principle.question)
    return int(step is not None and followed(before, after, step))


def perceive(
    persona: Persona, sight: Sight, steps: list[Step], rng: np.random.Generator, heat: float
) -> list[int]:
    """A teacher's verdicts: the right ones but for its own kind of mistake; `heat` scales every
    chance."""
    before, after = sight.readings
    verdicts = []
    for principle in sight.principles:
        verdict = see(principle, before, after, steps)
        if (
            verdict == 0
            and principle.category == "follow"
            and rng.random() < heat * persona.undone_accepted
        ):
            verdict = 1
        if (
            verdict == 0
            and principle.question == OTHERS.question
            and rng.random() < heat * persona.leak_overlooked
        ):
            verdict = 1
        verdicts.append(1 - verdict if rng.random() < heat * persona.flips else verdict)
    return verdicts


def biased_mean(
    principles: Sequence[Principle], verdicts: Sequence[int], keep_forgotten: bool = False
) -> float:
    """10(.2 follow + .3 keep + .5 quality) of the shares met: the bias that all teachers share,
    without their noise.

    A category without a question counts as met, and so does what should be kept where it is
    forgotten.
    """

    def share(category: str) -> float:
        values = [v for p, v in zip(principles, verdicts, strict=True) if p.category == category]
        return float(np.mean(values)) if values else 1.0

    keep = 1.0 if keep_forgotten else share("keep")
    return 10 * (0.2 * share("follow") + 0.3 * keep + 0.5 * share("quality"))


def biased_score(
    persona: Persona,
    principles: Sequence[Principle],
    verdicts: Sequence[int],
    rng: np.random.Generator,
) -> float:
    """The score that goes with the verdicts, to the nearest half: clip(biased mean + noise).

    What should be kept is forgotten in KEEP_FORGOTTEN of all cases.
    """
    score = biased_mean(principles, verdicts, rng.random() < KEEP_FORGOTTEN) + rng.normal(
        0, SCORE_NOISE
    )
    if any(v == 0 and p.category == "follow" for p, v in zip(principles, verdicts, strict=True)):
        score += persona.undone_points
    return round(2 * float(np.clip(score, 0, 10))) / 2


def decompose_any(instruction: str) -> tuple[Principle, ...]:
    """The principles of any instruction, in the sandbox's language or not."""
    steps = parse_instruction(instruction.strip().lower())
    if steps is not None:
        return decompose(steps)
    asked = Principle(
        question=f'Was the instruction "{instruction}" carried out?', category="follow"
    )
    return (asked, OTHERS, SAME_BACKGROUND, CLEAN)


def hardness(instruction: str) -> dict[str, int]:
    """Which criteria of a hard task an instruction of the sandbox's meets: several steps, a place."""
    steps = parse_instruction(instruction.strip().lower()) or []
    placed = any(step.value in PLACES for step in steps)
    return {
        "multi-step": int(len(steps) > 1),
        "fine-grained": 0,
        "implicit": 0,
        "spatial": int(placed),
    }


def spoil_answer(text: str, verdicts: Sequence[int], score: float, rng: np.random.Generator) -> str:
    """The answer as a vague teacher writes it: without a score, with a verdict missing, or in
    prose."""
    way = int(rng.integers(3))
    if way == 0:
        return text[: text.rfind("<score>")]
    if way == 1 and len(verdicts) > 1:
        return text.replace(
            prompts.write_answer(verdicts, score), prompts.write_answer(verdicts[:-1], score)
        )
    return f"Most of it looks fine, perhaps {score:g} out of 10."


def answer(persona: Persona, sight: Sight, rng: np.random.Generator, heat: float) -> str:
    """What the teacher writes."""
    if sight.role == "decompose":
        return prompts.write_principles(decompose_any(sight.instruction))
    if sight.role == "filter":
        return json.dumps(
            [{"criterion": name, "met": met} for name, met in hardness(sight.instruction).items()]
        )
    if sight.role == "holistic":
        sight = Sight(
            sight.role, sight.instruction, decompose_any(sight.instruction), sight.readings
        )
    before, after = sight.readings
    steps = steps_asked(sight.instruction, sight.principles)
    verdicts = perceive(persona, sight, steps, rng, heat)
    asked = [
        steps_by_question()[p.question]
        for p in sight.principles
        if p.question in steps_by_question()
    ]
    if sight.role in ("gold", "verify"):
        rows = []
        for number, (principle, ok) in enumerate(zip(sight.principles, verdicts, strict=True), 1):
            reason = principle_line(number, principle, before, after, asked, ok).partition(": ")[2]
            rows.append({"question": number, "gold": ok, "reason": reason})
        return json.dumps(rows)
    score = biased_score(persona, sight.principles, verdicts, rng)
    if sight.role == "holistic":
        done = "was followed" if verdicts[0] else "was not followed"
        return f"The instruction {done} and the image is {'clean' if verdicts[-1] else 'spoiled'}.\n<score>{score:.1f}</score>"
    text = prompts.write_answer(verdicts, score)
    if sight.role == "judge":
        text = think(before, after, asked, sight.principles, verdicts) + "\n" + text
    return (
        spoil_answer(text, verdicts, score, rng)
        if rng.random() < heat * persona.malformed
        else text
    )
