"""Judges that know nothing of editing. Where one of them does well, a benchmark can be solved without looking at the edit.

Their scores are on the scale of 0–10 by a rule that keeps the order of what was measured, and mean nothing else.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
from PIL import Image

from eval.judges import AloneJudge, Edit, Principles
from rrm.images import png_bytes
from rrm.records import Judgement, TaskToDecompose

HALF_WAY = 1 << 20
"""Bytes at which a file's score is 5."""


def mean_change(source: Image.Image, edited: Image.Image) -> float:
    """The mean absolute difference of an edit at its source's size from the source, in levels (0–255)."""
    if edited.size != source.size:
        edited = edited.resize(source.size, Image.Resampling.BICUBIC)
    before, after = (np.asarray(image.convert("RGB"), np.int16) for image in (source, edited))
    return float(np.abs(before - after).mean())


def longer_file(source: Image.Image, edited: Image.Image) -> tuple[float, str]:
    """The more bytes the edit takes as PNG, the better."""
    size = len(png_bytes(edited))
    return 10 * size / (size + HALF_WAY), f"{size} bytes as PNG"


def more_change(source: Image.Image, edited: Image.Image) -> tuple[float, str]:
    """The more the pixels changed, the better."""
    change = mean_change(source, edited)
    return change / 25.5, f"mean change of {change:.3f} levels"


def less_change(source: Image.Image, edited: Image.Image) -> tuple[float, str]:
    """The less the pixels changed, the better."""
    change = mean_change(source, edited)
    return 10 - change / 25.5, f"mean change of {change:.3f} levels"


def no_copy(source: Image.Image, edited: Image.Image) -> tuple[float, str]:
    """Anything but the source handed back is perfect."""
    same = source.size == edited.size and source.tobytes() == edited.tobytes()
    return (0.0, "the source itself") if same else (10.0, "not the source")


MEASURES: dict[str, Callable[[Image.Image, Image.Image], tuple[float, str]]] = {
    "longer-file": longer_file,
    "more-change": more_change,
    "less-change": less_change,
    "copy": no_copy,
}
RANDOM = "random"
BASELINES = (*MEASURES, RANDOM)


class BaselineJudge(AloneJudge):
    """Scores by one of BASELINES. Only `random` depends on the seed."""

    needs_principles = False

    def __init__(self, name: str, seed: int = 0):
        self.name, self.seed = name, seed
        self.fingerprint = f"baseline|{name}|{seed}" if name == RANDOM else f"baseline|{name}"

    def prompt(self, instruction: str, principles: Principles, requirement: str | None = None) -> str:
        """It reads nothing; the instruction tells edits apart."""
        return instruction

    def decompose(self, task: TaskToDecompose) -> Principles:
        """No principles: it asks no questions."""
        return ()

    def judge(self, edit: Edit) -> Judgement:
        """A score and what was measured."""
        if self.name == RANDOM:
            return Judgement(expected=random.Random(f"{self.seed}|{edit.edit_id}").uniform(0, 10), thought="(random)")
        score, thought = MEASURES[self.name](edit.source, edit.edited)
        return Judgement(expected=score, thought=thought)
