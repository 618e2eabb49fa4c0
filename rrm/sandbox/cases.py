"""A case is a scene and what is asked to be done with it; an edit of it carries what is true of it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from PIL import Image

from rrm.sandbox.edits import Step, human_utility, sample_steps, true_verdicts, write_instruction
from rrm.sandbox.reading import Reading, read_scene
from rrm.sandbox.scripted_edits import EDITORS, script_edit
from rrm.sandbox.world import Scene, draw, sample_scene


@dataclass(frozen=True)
class Case:
    """A scene and what is asked to be done with it."""

    scene: Scene
    steps: list[Step]

    @property
    def instruction(self) -> str:
        """The steps in words."""
        return write_instruction(self.steps)

    @cached_property
    def source(self) -> Image.Image:
        """The scene as an image."""
        return draw(self.scene)

    @cached_property
    def seen(self) -> Reading:
        """What the source shows."""
        return read_scene(self.source)


@dataclass(frozen=True)
class Edit:
    """An edited image of a case and the editor that made it, with what is true of it."""

    editor: str
    image: Image.Image
    verdicts: tuple[int, ...]
    utility: float


def true_edit(case: Case, editor: str, image: Image.Image) -> Edit:
    """The edit with its truth, as it is seen in the pixels."""
    verdicts = true_verdicts(case.seen, read_scene(image), case.steps)
    return Edit(editor, image, verdicts, human_utility(verdicts, case.steps))


def sample_cases(
    rng: np.random.Generator, count: int, held_out: bool, taken: set[str]
) -> list[Case]:
    """New cases; `taken` holds those that exist, and is added to."""
    cases: list[Case] = []
    while len(cases) < count:
        scene = sample_scene(rng, held_out)
        case = Case(scene, sample_steps(rng, scene))
        if (key := f"{scene}|{case.instruction}") not in taken:
            taken.add(key)
            cases.append(case)
    return cases


def scripted_images(
    rng: np.random.Generator, case: Case, count: int
) -> list[tuple[str, Image.Image]]:
    """The right edit and `count − 1` flawed ones of different editors, no two alike."""
    found: dict[bytes, tuple[str, Image.Image]] = {}
    for editor in ("right", *rng.permutation([e for e in EDITORS if e != "right"])):
        image = script_edit(rng, case.scene, case.steps, str(editor))
        found.setdefault(image.tobytes(), (str(editor), image))
        if len(found) == count:
            break
    return list(found.values())
