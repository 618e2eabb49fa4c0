"""Judges that know nothing of editing: where one does well, the benchmark needs no reward model.

Scores from 0 to 10 keep the order of what was measured, and mean nothing else.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
from PIL import Image

from eval.editrewardbench.judges import Edit, LocalJudge, Principles
from rrm.images import png_bytes
from rrm.records import Judgement, Principle, TaskToDecompose, Verdicts

HALF_WAY = 1 << 20
"""Bytes at which a file's score is 5."""


def mean_change(source: Image.Image, edited: Image.Image) -> float:
    """Mean absolute difference of edit and source in levels (0–255), at the source's size."""
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
RANDOM, CHANCE = "random", "chance"
DRAWN = (RANDOM, CHANCE)
BASELINES = (*MEASURES, *DRAWN)


class BaselineJudge(LocalJudge):
    """Scores by one of MEASURES, or at random."""

    needs_principles = False

    def __init__(self, name: str, seed: int = 0):
        self.name, self.seed = name, seed
        self.fingerprint = f"baseline|{name}|{seed}" if name == RANDOM else f"baseline|{name}"

    def prompt(
        self, instruction: str, principles: Principles, requirement: str | None = None
    ) -> str:
        """It reads nothing; the instruction tells edits apart."""
        return instruction

    def decompose(self, task: TaskToDecompose) -> Principles:
        """No principles: it asks no questions."""
        return ()

    def judge(self, edit: Edit) -> Judgement:
        """A score and what was measured."""
        if self.name == RANDOM:
            return Judgement(
                expected=random.Random(f"{self.seed}|{edit.edit_id}").uniform(0, 10),
                thought="(random)",
            )
        score, thought = MEASURES[self.name](edit.source, edit.edited)
        return Judgement(expected=score, thought=thought)


class ChanceJudge(LocalJudge):
    """Random scores (0–10, one decimal) and coin-toss verdicts on the principles."""

    def __init__(self, seed: int):
        self.seed = seed
        self.fingerprint = f"chance|{seed}"

    def prompt(
        self, instruction: str, principles: Principles, requirement: str | None = None
    ) -> str:
        """It reads nothing, but tosses a coin per principle."""
        return f"{len(principles)} coins"

    def decompose(self, task: TaskToDecompose) -> Principles:
        """A single question, since it looks at nothing."""
        return (Principle(question="Was the instruction followed?", category="follow"),)

    def judge(self, edit: Edit) -> Judgement:
        """The same judgement for the same seed and edit."""
        dice = random.Random(f"{self.seed}|{edit.edit_id}")
        verdicts = tuple(dice.getrandbits(1) for _ in edit.principles)
        score = round(dice.uniform(0, 10), 1)
        average = sum(verdicts) / len(verdicts)
        read = Verdicts.model_validate({"verdicts": verdicts, "average": average, "score": score})
        return Judgement(principles=edit.principles, thought="(random)", read=read)


def open_baseline(name: str, seed: int) -> LocalJudge:
    """The baseline of this name."""
    return ChanceJudge(seed) if name == CHANCE else BaselineJudge(name, seed)
