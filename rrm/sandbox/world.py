"""The sandbox's scenes: a 2×2 grid of coloured shapes on a background, drawn at 16×16 pixels.

Qwen2.5-VL's own image processor enlarges such a file to 56×56 (one merged vision token per cell),
so that the tiny verifier and the tiny editor work on the very same files.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

COLOURS = {
    "red": (200, 70, 60),
    "green": (70, 160, 80),
    "blue": (70, 100, 205),
    "yellow": (215, 190, 70),
}
SHAPES = ("circle", "square", "triangle")
BACKGROUNDS = {"gray": (128, 128, 132), "black": (32, 32, 38), "tan": (222, 205, 178)}
PLACES = ("top left", "top right", "bottom left", "bottom right")
ARTEFACTS = ("noise", "blur", "border", "saturated")
SIZES = (6, 7)
CELL = 8
SIDE = 2 * CELL
HELD_OUT_SHARE = 8


@dataclass(frozen=True)
class Thing:
    """An object: what it is called, and its size in pixels, which nobody asks about."""

    colour: str
    shape: str
    size: int = 7

    @property
    def name(self) -> str:
        """As instructions and traces call it, such as "red circle"."""
        return f"{self.colour} {self.shape}"

    def like(self, other: Thing | None) -> bool:
        """Whether both carry the same name."""
        return other is not None and self.name == other.name


@dataclass(frozen=True)
class Scene:
    """A background and what stands in the four cells, in the order of `PLACES`."""

    background: str
    cells: tuple[Thing | None, ...]

    def put(self, cell: int, thing: Thing | None) -> Scene:
        """The scene with another content in one cell."""
        return replace(self, cells=(*self.cells[:cell], thing, *self.cells[cell + 1 :]))

    def find(self, name: str) -> int | None:
        """The cell of the object with that name."""
        for index, thing in enumerate(self.cells):
            if thing is not None and thing.name == name:
                return index
        return None

    @property
    def held_out(self) -> bool:
        """Whether the scene belongs to the held-out eighth: no training of any kind starts from it."""
        key = "|".join(
            [self.background, *(thing.name if thing else "empty" for thing in self.cells)]
        )
        return zlib.crc32(key.encode()) % HELD_OUT_SHARE == 0


def draw_thing_names(rng: np.random.Generator, count: int) -> list[Thing]:
    """`count` objects with different names."""
    order = rng.permutation(len(COLOURS) * len(SHAPES))[:count]
    colours = list(COLOURS)
    return [
        Thing(colours[int(i) // len(SHAPES)], SHAPES[int(i) % len(SHAPES)], int(rng.choice(SIZES)))
        for i in order
    ]


def sample_scene(
    rng: np.random.Generator, held_out: bool = False, counts: tuple[int, ...] = (2, 3)
) -> Scene:
    """A random scene, from the held-out part of the world or from the rest."""
    while True:
        cells: list[Thing | None] = [None] * 4
        things = draw_thing_names(rng, int(rng.choice(counts)))
        for cell, thing in zip(rng.permutation(4), things, strict=False):
            cells[int(cell)] = thing
        scene = Scene(str(rng.choice(list(BACKGROUNDS))), tuple(cells))
        if scene.held_out == held_out:
            return scene


@cache
def shape_mask(shape: str, size: int) -> np.ndarray:
    """Coverage of one cell's pixels by a shape, (CELL, CELL) in 0…1, antialiased."""
    scale = 8
    canvas = Image.new("L", (CELL * scale, CELL * scale), 0)
    pen = ImageDraw.Draw(canvas)
    low, high = (CELL - size) / 2 * scale, (CELL + size) / 2 * scale - 1
    if shape == "circle":
        pen.ellipse((low, low, high, high), fill=255)
    elif shape == "square":
        inset = 0.4 * scale
        pen.rectangle((low + inset, low + inset, high - inset, high - inset), fill=255)
    else:
        pen.polygon([((low + high) / 2, low), (low, high), (high, high)], fill=255)
    return np.asarray(canvas.resize((CELL, CELL), Image.Resampling.BOX), np.float32) / 255


def draw_cell(thing: Thing | None, background: str) -> np.ndarray:
    """One cell's pixels, (CELL, CELL, 3) float in 0…255."""
    ground = np.broadcast_to(np.array(BACKGROUNDS[background], np.float32), (CELL, CELL, 3))
    if thing is None:
        return ground
    mask = shape_mask(thing.shape, thing.size)[..., None]
    return ground * (1 - mask) + np.array(COLOURS[thing.colour], np.float32) * mask


def draw(scene: Scene) -> Image.Image:
    """The scene as a SIDE×SIDE RGB image."""
    canvas = np.empty((SIDE, SIDE, 3), np.float32)
    for index, thing in enumerate(scene.cells):
        row, column = divmod(index, 2)
        canvas[row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL] = draw_cell(
            thing, scene.background
        )
    return Image.fromarray(canvas.round().astype(np.uint8))


def spoil(image: Image.Image, artefact: str, rng: np.random.Generator) -> Image.Image:
    """The image with one of `ARTEFACTS` over it."""
    if artefact == "blur":
        return image.filter(ImageFilter.GaussianBlur(1.0))
    if artefact == "saturated":
        return ImageEnhance.Color(image).enhance(2.6)
    pixels = np.array(image)
    if artefact == "border":
        pixels[[0, -1], :] = 255
        pixels[:, [0, -1]] = 255
    elif artefact == "noise":
        hit = rng.random(pixels.shape[:2]) < 0.14
        pixels[hit] = np.where(rng.random(int(hit.sum())) < 0.5, 0, 255)[:, None]
    else:
        raise ValueError(f"unknown artefact {artefact!r}")
    return Image.fromarray(pixels)
