"""The whole pipeline on real photographs, in files of every kind: are sizes, orientations and
verdicts right?"""

from __future__ import annotations

import io
import json
import sqlite3
import tempfile
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from skimage import data

from data_pipeline.run import run
from data_pipeline.settings import DataConfig
from data_pipeline.traces import Judged
from rrm.images import MAX_PIXELS, ImageStore, fit
from rrm.sandbox.photo_edits import photo_editors, script_photo, truth
from rrm.sandbox.photos import parse
from rrm.sandbox.teacher import running_teacher

PHOTOS = ("astronaut", "chelsea", "coffee", "rocket", "retina", "immunohistochemistry")
INSTRUCTIONS = (
    "mirror the photo left to right and make it black and white",
    "rotate the photo a quarter turn clockwise and make it much brighter",
    "paint the top left quarter blue and add a thick white frame",
)
LARGE = (4000, 3000)
TOLERANCE = 6.0
"""Mean difference in levels that JPEG may leave between a photograph and what is in the store."""
ROTATED = {
    3: Image.Transpose.ROTATE_180,
    6: Image.Transpose.ROTATE_90,
    8: Image.Transpose.ROTATE_270,
}
"""How pixels lie in a file with this EXIF orientation, from upright."""


def upright(name: str, side: int) -> Image.Image:
    """A photograph of at most `side` pixels a side."""
    image = Image.fromarray(getattr(data, name)()[..., :3])
    image.thumbnail((side, side))
    return image


def saved(image: Image.Image, form: str, **settings: Any) -> bytes:
    """The image as a file's bytes."""
    buffer = io.BytesIO()
    image.save(buffer, form, **settings)
    return buffer.getvalue()


def turned(image: Image.Image, orientation: int) -> bytes:
    """A JPEG whose pixels lie on their side (or head) and whose EXIF says so."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(image.transpose(ROTATED[orientation]), "JPEG", quality=95, exif=exif)


def animated(image: Image.Image) -> bytes:
    """A lossless WebP whose first frame is the image."""
    return saved(
        image,
        "WEBP",
        lossless=True,
        save_all=True,
        append_images=[ImageOps.invert(image)],
        duration=100,
    )


FILES: dict[str, tuple[str, Callable[[Image.Image], bytes]]] = {
    "turned6": ("jpg", lambda image: turned(image, 6)),
    "turned8": ("jpg", lambda image: turned(image, 8)),
    "rgba": ("png", lambda image: saved(image.convert("RGBA"), "PNG")),
    "cmyk": ("jpg", lambda image: saved(image.convert("CMYK"), "JPEG", quality=95)),
    "animated": ("webp", animated),
    "turned3": ("jpg", lambda image: turned(image, 3)),
}
"""Kinds of files, one per photograph."""
BROKEN: dict[str, bytes] = {
    "text.png": b"this is no image",
    "empty.png": b"",
    "truncated.jpg": saved(Image.new("RGB", (64, 64), "red"), "JPEG")[:300],
}


def write_dataset(
    folder: Path, side: int, instructions: Sequence[str], edits: int, large: bool
) -> dict[str, Any]:
    """An Edit-R1 folder and candidates; returns the upright photographs by file name, and the truth
    by (task, edit) file names."""
    (folder / "images").mkdir(parents=True)
    (folder / "edits").mkdir()
    rng = np.random.default_rng(0)
    sources: dict[str, Image.Image] = {}
    for photo, (kind, (ending, write)) in zip(PHOTOS, FILES.items(), strict=True):
        name = f"images/{photo}_{kind}.{ending}"
        sources[name] = upright(photo, side)
        (folder / name).write_bytes(write(sources[name]))
    if (
        large
    ):  # 12 megapixels on their side, and a near-duplicate of a photograph that is there already
        sources["images/large.jpg"] = upright("coffee", 10_000).resize(
            LARGE, Image.Resampling.BICUBIC
        )
        (folder / "images/large.jpg").write_bytes(turned(sources["images/large.jpg"], 6))
    tasks: list[dict[str, Any]] = []
    candidates: list[dict[str, Any]] = []
    truths: dict[int, tuple[int, ...]] = {}
    for name, image in sources.items():
        for instruction in instructions:
            steps = parse(instruction)
            assert steps is not None
            tasks.append({"prompt": instruction, "image": name, "requirement": None})
            others = [editor for editor in photo_editors(steps) if editor != "right"]
            for editor in ["right", *rng.permutation(others)[: edits - 1].tolist()]:
                edited = f"edits/{len(candidates):04d}.png"
                script_photo(image, steps, editor, rng).save(folder / edited)
                candidates.append(
                    {"task": name, "instruction": instruction, "image": edited, "editor": editor}
                )
                truths[len(candidates)] = truth(steps, editor)
    for name, payload in BROKEN.items():
        (folder / "images" / name).write_bytes(payload)
        tasks.append({"prompt": instructions[0], "image": f"images/{name}"})
    tasks.append({"prompt": instructions[0], "image": "../outside.png"})
    upright("rocket", 64).save(folder.parent / "outside.png")
    (folder / "train_metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in tasks))
    (folder / "candidates.jsonl").write_text("".join(json.dumps(row) + "\n" for row in candidates))
    return {"sources": sources, "truths": truths, "tasks": len(tasks), "broken": len(BROKEN) + 1}


def as_stored(image: Image.Image) -> Image.Image:
    """The photograph within the pixel budget, as a store should hold it."""
    return fit(image, MAX_PIXELS)


def off_by(stored: Image.Image, wanted: Image.Image) -> float:
    """The mean difference in levels between images of the same size."""
    return float(np.abs(np.asarray(stored, np.float32) - np.asarray(wanted, np.float32)).mean())


def measure(
    side: int = 640, instructions: Sequence[str] = INSTRUCTIONS, edits: int = 4, large: bool = True
) -> dict[str, Any]:
    """Runs the pipeline on photographs whose every size, orientation and verdict is known, and
    counts what is right."""
    with tempfile.TemporaryDirectory() as name, running_teacher() as url:
        folder = Path(name)
        made = write_dataset(folder / "set", side, instructions, edits, large)
        teacher = {"model": "sandbox-photo", "temperatures": [0.0], "samples": 1}
        config = DataConfig.model_validate(
            {
                "out": str(folder / "data"),
                "tasks": str(folder / "set"),
                "candidates": str(folder / "set/candidates.jsonl"),
                "teacher_url": url,
                "decomposer": teacher,
                "thinkers": [{"model": "sandbox-photo-noisy", "samples": 2}, teacher],
                "gold_teacher": teacher,
                "exemplars_per_query": 1,
                "principles": {"follow": (1, 9), "keep": (1, 9), "quality": (1, 9)},
                "principles_total": (3, 12),
            }
        )
        counts = run(config, folder / "data")
        store = ImageStore(folder / "data/images")
        sizes = orientations = right = total = 0
        with closing(sqlite3.connect(folder / "data/work.sqlite")) as base:
            stored = dict(
                base.execute(
                    "SELECT n.name, t.source FROM names n JOIN tasks t USING (task_id)"
                ).fetchall()
            )
            outcomes = base.execute(
                "SELECT n, outcome FROM quadruples WHERE outcome IS NOT NULL ORDER BY n"
            ).fetchall()
        for file, image in made["sources"].items():
            wanted = as_stored(image)
            found = store.get(stored[file])
            same_size = found.size == wanted.size
            sizes += same_size
            orientations += same_size and off_by(found, wanted) < TOLERANCE
        for number, outcome in outcomes:
            gold = Judged.model_validate_json(outcome).gold
            expected = made["truths"][number]
            total += len(expected)
            right += (
                sum(a == b for a, b in zip(gold.verdicts, expected, strict=True)) if gold else 0
            )
        return {
            "photographs": len(made["sources"]),
            "sizes_right": sizes,
            "orientations_right": orientations,
            "broken_files": made["broken"],
            "broken_quarantined": counts["quarantined"] - counts["left_out"],
            "near_duplicates_left_out": counts["left_out"],
            "quadruples": counts["quadruples"],
            "candidates": len(made["truths"]),
            "sft_rows": counts["sft_judge"],
            "verdicts": total,
            "gold_equals_truth": round(right / total, 4),
        }
