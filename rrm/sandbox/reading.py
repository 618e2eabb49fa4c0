"""Reading a scene back from pixels, by analysis through synthesis.

Everything that plays an eye in the sandbox (the teachers, the truth about an editor's samples) goes
through `read_scenes`, which knows nothing but the image.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image

from rrm.sandbox.world import (
    BACKGROUNDS,
    CELL,
    COLOURS,
    SHAPES,
    SIDE,
    SIZES,
    Thing,
    draw_cell,
    spoil,
)

BLOB = Thing("blob", "blob")
LOOKS = ("clean", "blur", "saturated", "border")
BLOB_LIMIT = 24.0
"""Root mean square distance (0…255) from the best template above which a cell shows nothing
nameable."""
ROUGH_LIMIT = 13.0
"""Root mean square distance of the whole image above which it counts as noisy."""
OUTLIER, OUTLIER_SHARE = 70.0, 0.04


@dataclass(frozen=True)
class Reading:
    """What is seen in an image: contents of the cells (None = empty, BLOB = not nameable),
    background, artefact."""

    background: str
    cells: tuple[Thing | None, ...]
    artefact: str | None
    roughness: float

    def name(self, cell: int) -> str:
        """What a trace calls the content of the cell."""
        thing = self.cells[cell]
        return "empty" if thing is None else "blob" if thing is BLOB else thing.name


@cache
def contents() -> tuple[Thing | None, ...]:
    """Everything that a cell can hold."""
    return (None, *(Thing(c, s, z) for c in COLOURS for s in SHAPES for z in SIZES))


@cache
def templates() -> np.ndarray:
    """Cells as they look under each of LOOKS: (look, background, content, place, CELL·CELL, 3)."""
    shape = (len(LOOKS), len(BACKGROUNDS), len(contents()), 4, CELL * CELL, 3)
    table = np.empty(shape, np.float32)
    rng = np.random.default_rng(0)
    for b, background in enumerate(BACKGROUNDS):
        for c, thing in enumerate(contents()):
            cell = draw_cell(thing, background).round().astype(np.uint8)
            tiled = Image.fromarray(np.tile(cell, (2, 2, 1)))
            for k, look in enumerate(LOOKS):
                seen = tiled if look == "clean" else spoil(tiled, look, rng)
                table[k, b, c] = cut_cells(np.asarray(seen, np.float32)[None])[0]
    return table


def cut_cells(pixels: np.ndarray) -> np.ndarray:
    """(B, SIDE, SIDE, 3) → (B, 4, CELL·CELL, 3), in the order of PLACES."""
    grid = pixels.reshape(-1, 2, CELL, 2, CELL, 3).transpose(0, 1, 3, 2, 4, 5)
    return grid.reshape(-1, 4, CELL * CELL, 3)


def read_scenes(images: list[Image.Image]) -> list[Reading]:
    """What each image shows. Images of another size are first scaled to SIDE×SIDE."""
    sized = [
        i if i.size == (SIDE, SIDE) else i.resize((SIDE, SIDE), Image.Resampling.BOX)
        for i in images
    ]
    return [read_one(np.asarray(image.convert("RGB"), np.float32)) for image in sized]


def read_scene(image: Image.Image) -> Reading:
    """What one image shows."""
    return read_scenes([image])[0]


def read_one(pixels: np.ndarray) -> Reading:
    """What the (SIDE, SIDE, 3) pixels show: the look, background and contents nearest in trimmed
    distance."""
    cells = cut_cells(pixels[None])[0]
    table = templates()
    distance = np.sqrt(((table - cells) ** 2).mean(-1))  # look, background, content, place, pixel
    kept = np.partition(distance, int(CELL * CELL * 0.78), axis=-1)[..., : int(CELL * CELL * 0.78)]
    trimmed = np.sqrt((kept**2).mean(-1))
    best = trimmed.argmin(2)  # look, background, place
    cost = np.take_along_axis(trimmed, best[:, :, None, :], 2)[:, :, 0]
    total = (cost**2).sum(-1)
    total[1:] += 25.0  # a special look must explain clearly more than the plain one
    frame = np.concatenate([pixels[[0, -1]].reshape(-1, 3), pixels[1:-1, [0, -1]].reshape(-1, 3)])
    framed = float((frame.min(-1) > 238).mean()) > 0.9
    total[
        [LOOKS.index(look) != LOOKS.index("border") for look in LOOKS]
        if framed
        else LOOKS.index("border")
    ] = np.inf
    look, background = divmod(int(total.argmin()), len(BACKGROUNDS))
    chosen = best[look, background]
    residual = np.stack([distance[look, background, chosen[p], p] for p in range(4)])
    things = tuple(
        BLOB if cost[look, background, p] > BLOB_LIMIT else contents()[chosen[p]] for p in range(4)
    )
    outliers = float((residual > OUTLIER).mean())
    rough = float(np.sqrt((np.minimum(residual, 120.0) ** 2).mean()))
    artefact = None if LOOKS[look] == "clean" else LOOKS[look]
    if artefact is None and (outliers > OUTLIER_SHARE or rough > ROUGH_LIMIT):
        artefact = "noise"
    return Reading(list(BACKGROUNDS)[background], things, artefact, rough)
