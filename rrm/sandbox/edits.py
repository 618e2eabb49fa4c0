"""Instructions, the principles they decompose into, and the truth about an edit."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from rrm.records import Principle
from rrm.sandbox.reading import BLOB, Reading
from rrm.sandbox.world import BACKGROUNDS, COLOURS, PLACES, SHAPES, Scene, Thing

KINDS = ("recolour", "reshape", "remove", "add", "background")
OTHERS = Principle(question="Are the other objects unchanged?", category="keep")
SAME_BACKGROUND = Principle(question="Is the background unchanged?", category="keep")
CLEAN = Principle(question="Is the image clean?", category="quality")


@dataclass(frozen=True)
class Step:
    """One thing that an instruction asks for; fields that its kind has no use for are None."""

    kind: str
    colour: str | None = None
    shape: str | None = None
    value: str | None = None

    @property
    def name(self) -> str:
        """The object it is about."""
        return f"{self.colour} {self.shape}"

    def text(self) -> str:
        """The words of the instruction."""
        return {
            "recolour": f"make the {self.name} {self.value}",
            "reshape": f"turn the {self.name} into a {self.value}",
            "remove": f"remove the {self.name}",
            "add": f"add a {self.name} at {self.value}",
            "background": f"make the background {self.value}",
        }[self.kind]

    def principle(self) -> Principle:
        """The yes/no question whether it was followed."""
        question = {
            "recolour": f"Is the {self.name} {self.value} now?",
            "reshape": f"Is the {self.name} a {self.value} now?",
            "remove": f"Is the {self.name} gone?",
            "add": f"Is there a {self.name} at {self.value}?",
            "background": f"Is the background {self.value} now?",
        }[self.kind]
        return Principle(question=question, category="follow")

    def cell(self, before: Scene | Reading) -> int | None:
        """The cell it is about in the source, None for the background or where no such object is
        seen."""
        if self.kind == "background":
            return None
        if self.kind == "add":
            return PLACES.index(self.value or "")
        for index, thing in enumerate(before.cells):
            if thing is not None and thing.name == self.name:
                return index
        return None

    def wanted(self) -> str:
        """What should be seen in its cell (or behind everything) afterwards."""
        return {
            "recolour": f"{self.value} {self.shape}",
            "reshape": f"{self.colour} {self.value}",
            "remove": "empty",
            "add": self.name,
            "background": str(self.value),
        }[self.kind]


COLOUR, SHAPE = "|".join(COLOURS), "|".join(SHAPES)
NAME = rf"(?P<colour>{COLOUR}) (?P<shape>{SHAPE})"
GRAMMAR = {
    "recolour": re.compile(rf"make the {NAME} (?P<value>{COLOUR})"),
    "reshape": re.compile(rf"turn the {NAME} into a (?P<value>{SHAPE})"),
    "remove": re.compile(rf"remove the {NAME}"),
    "add": re.compile(rf"add a {NAME} at (?P<value>{'|'.join(PLACES)})"),
    "background": re.compile(rf"make the background (?P<value>{'|'.join(BACKGROUNDS)})"),
}


def parse_instruction(instruction: str) -> list[Step] | None:
    """The steps that an instruction asks for, or None where it is not in the sandbox's language."""
    steps = []
    for clause in instruction.strip().rstrip(".").split(" and "):
        for kind, pattern in GRAMMAR.items():
            if match := pattern.fullmatch(clause.strip()):
                steps.append(Step(kind, **match.groupdict()))
                break
        else:
            return None
    return steps


def write_instruction(steps: list[Step]) -> str:
    """The steps in words."""
    return " and ".join(step.text() for step in steps)


def decompose(steps: list[Step]) -> tuple[Principle, ...]:
    """The principles of an instruction: one to follow per step, what to keep, and quality."""
    keep = (
        [OTHERS] if any(step.kind == "background" for step in steps) else [OTHERS, SAME_BACKGROUND]
    )
    return (*(step.principle() for step in steps), *keep, CLEAN)


def apply_step(scene: Scene, step: Step) -> Scene:
    """The scene after the step was done right."""
    if step.kind == "background":
        return Scene(str(step.value), scene.cells)
    cell = step.cell(scene)
    if cell is None:
        raise ValueError(f"no {step.name} in the scene")
    if step.kind == "remove":
        return scene.put(cell, None)
    before = scene.cells[cell]
    colour, shape = step.wanted().split()
    return scene.put(cell, Thing(colour, shape, before.size if before else 7))


def sample_step(
    rng: np.random.Generator, scene: Scene, taken: set[int], background_free: bool
) -> Step | None:
    """A step that makes sense in the scene and touches no cell already taken; None where the draw
    found none."""
    kind = str(rng.choice(KINDS, p=(0.26, 0.22, 0.18, 0.18, 0.16)))
    names = {thing.name for thing in scene.cells if thing is not None}
    free = [i for i in range(4) if i not in taken]
    if kind == "background":
        others = [b for b in BACKGROUNDS if b != scene.background]
        return Step(kind, value=str(rng.choice(others))) if background_free else None
    if kind == "add":
        empty = [i for i in free if scene.cells[i] is None]
        colour, shape = str(rng.choice(list(COLOURS))), str(rng.choice(SHAPES))
        if not empty or f"{colour} {shape}" in names:
            return None
        return Step(kind, colour, shape, PLACES[int(rng.choice(empty))])
    present = [scene.cells[i] for i in free if scene.cells[i] is not None]
    if not present:
        return None
    thing = present[int(rng.integers(len(present)))]
    assert thing is not None
    if kind == "remove":
        return Step(kind, thing.colour, thing.shape)
    options = (
        [c for c in COLOURS if c != thing.colour]
        if kind == "recolour"
        else [s for s in SHAPES if s != thing.shape]
    )
    step = Step(kind, thing.colour, thing.shape, str(rng.choice(options)))
    return None if step.wanted() in names else step


def sample_steps(rng: np.random.Generator, scene: Scene, multi_share: float = 0.35) -> list[Step]:
    """One step, or two that touch different things."""
    count = 2 if rng.random() < multi_share else 1
    steps: list[Step] = []
    taken: set[int] = set()
    wanted: set[str] = set()
    while len(steps) < count:
        step = sample_step(rng, scene, taken, all(s.kind != "background" for s in steps))
        if step is None or (step.wanted() in wanted and step.kind != "remove"):
            continue
        cell = step.cell(scene)
        taken |= set() if cell is None else {cell}
        wanted.add(step.wanted())
        steps.append(step)
    return steps


def true_verdicts(before: Reading, after: Reading, steps: list[Step]) -> tuple[int, ...]:
    """The right answer to every principle of `decompose(steps)`, in its order, for an edit as it is
    seen."""
    follow = [int(followed(before, after, step)) for step in steps]
    touched = {step.cell(before) for step in steps}
    others = all(before.name(i) == after.name(i) for i in range(4) if i not in touched)
    keep = [int(others)]
    if all(step.kind != "background" for step in steps):
        keep.append(int(before.background == after.background))
    return (*follow, *keep, int(after.artefact is None and BLOB not in after.cells))


def followed(before: Reading, after: Reading, step: Step) -> bool:
    """Whether the step is done in the edited image."""
    if step.kind == "background":
        return after.background == step.value
    cell = step.cell(before)
    return cell is not None and after.name(cell) == step.wanted()


def human_utility(verdicts: tuple[int, ...], steps: list[Step]) -> float:
    """What people make of an edit, 0–10: 10(.6 follow + .25 keep + .15 quality), halved where
    nothing was followed."""
    count = len(steps)
    follow, keep, quality = np.mean(verdicts[:count]), np.mean(verdicts[count:-1]), verdicts[-1]
    utility = 10 * (0.6 * follow + 0.25 * keep + 0.15 * quality)
    return float(utility if follow > 0 else utility / 2)
