"""Scripted editors of graded quality: each knows one way to be right or wrong."""

from __future__ import annotations

import numpy as np
from PIL import Image

from rrm.sandbox.edits import Step, apply_step
from rrm.sandbox.world import ARTEFACTS, BACKGROUNDS, COLOURS, SHAPES, Scene, Thing, draw, spoil

EDITORS = (
    "right",
    "wrong_value",
    "not_done",
    "leak",
    "lost",
    "partial",
    "ground",
    *ARTEFACTS,
    "wrong_and_spoiled",
)


def script_edit(
    rng: np.random.Generator, scene: Scene, steps: list[Step], editor: str
) -> Image.Image:
    """The edited image that the scripted editor makes of the scene."""
    if editor == "not_done":
        return draw(scene)
    if editor in ARTEFACTS:
        return spoil(draw(do_all(scene, steps)), editor, rng)
    if editor == "wrong_and_spoiled":
        wrong = wrong_value(rng, scene, steps) if rng.random() < 0.5 else scene
        return spoil(draw(wrong), str(rng.choice(ARTEFACTS)), rng)
    if editor == "wrong_value":
        return draw(wrong_value(rng, scene, steps))
    if editor == "partial":
        return draw(do_all(scene, steps[: len(steps) // 2]))
    done = do_all(scene, steps)
    if editor == "leak":
        done = leak(rng, scene, done, steps)
    elif editor == "lost":
        done = lose(rng, scene, done, steps)
    elif editor == "ground":
        done = Scene(str(rng.choice([b for b in BACKGROUNDS if b != done.background])), done.cells)
    elif editor != "right":
        raise ValueError(f"unknown scripted editor {editor!r}")
    return draw(done)


def do_all(scene: Scene, steps: list[Step]) -> Scene:
    """The scene after every step."""
    for step in steps:
        scene = apply_step(scene, step)
    return scene


def wrong_value(rng: np.random.Generator, scene: Scene, steps: list[Step]) -> Scene:
    """Something changes where it should, to the wrong thing, in at least one step."""
    spoiled = int(rng.integers(len(steps)))
    for index, step in enumerate(steps):
        if index != spoiled:
            scene = apply_step(scene, step)
        elif step.kind == "background":
            options = [b for b in BACKGROUNDS if b not in (step.value, scene.background)]
            scene = Scene(str(rng.choice(options)), scene.cells)
        else:
            cell = step.cell(scene)
            assert cell is not None
            before = scene.cells[cell]
            old = before.name if before else "empty"
            names = [f"{c} {s}" for c in COLOURS for s in SHAPES]
            options = [n for n in names if n not in (step.wanted(), old) and scene.find(n) is None]
            colour, shape = str(rng.choice(options)).split()
            scene = scene.put(cell, Thing(colour, shape))
    return scene


def untouched(before: Scene, steps: list[Step]) -> list[int]:
    """Cells with an object that no step is about."""
    touched = {step.cell(before) for step in steps}
    return [i for i, thing in enumerate(before.cells) if thing is not None and i not in touched]


def leak(rng: np.random.Generator, before: Scene, done: Scene, steps: list[Step]) -> Scene:
    """Another object takes on a new attribute; an empty cell fills where there is no other object."""
    cells = untouched(before, steps)
    if not cells:
        free = [
            i
            for i, thing in enumerate(done.cells)
            if thing is None and i not in {s.cell(before) for s in steps}
        ]
        cell = int(rng.choice(free)) if free else 0
        return done.put(cell, Thing(str(rng.choice(list(COLOURS))), str(rng.choice(SHAPES))))
    cell = int(rng.choice(cells))
    thing = done.cells[cell]
    assert thing is not None
    if rng.random() < 0.6:
        colour = str(rng.choice([c for c in COLOURS if c != thing.colour]))
        return done.put(cell, Thing(colour, thing.shape, thing.size))
    return done.put(
        cell,
        Thing(thing.colour, str(rng.choice([s for s in SHAPES if s != thing.shape])), thing.size),
    )


def lose(rng: np.random.Generator, before: Scene, done: Scene, steps: list[Step]) -> Scene:
    """Another object disappears; where there is none, one comes from nowhere."""
    cells = untouched(before, steps)
    return done.put(int(rng.choice(cells)), None) if cells else leak(rng, before, done, steps)
