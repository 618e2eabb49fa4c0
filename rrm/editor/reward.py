"""Rewards of edits in 0…1: an RRM's score, or the sandbox's truth.

A reward that cannot be had is a `Failure`; it is never scored by default.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from PIL import Image

from rrm.records import EditToJudge, Failure, Judgement
from rrm.sandbox.edits import Step, human_utility, parse_instruction, true_verdicts
from rrm.sandbox.reading import read_scene


class RewardFn(Protocol):
    """Anything that turns edits into rewards, one each, in their order."""

    def __call__(self, edits: Sequence[EditToJudge]) -> list[float | Failure]:
        """A reward in 0…1 or a named failure per edit."""


class Judges(Protocol):
    """What is asked of an RRM here."""

    def judge_many(self, edits: Sequence[EditToJudge]) -> list[Judgement]:
        """One judgement per edit, in their order."""


@dataclass(frozen=True)
class Truth:
    """What the sandbox knows of one edit: the right verdict per principle of the instruction, and what people make of it."""

    steps: tuple[Step, ...]
    verdicts: tuple[int, ...]
    reward: float


def truth_of(source: Image.Image, edited: Image.Image, instruction: str) -> Truth | Failure:
    """Verdicts on `decompose(steps)` and human utility / 10, read from the pixels; a failure outside the sandbox's language."""
    steps = parse_instruction(instruction)
    if steps is None:
        return Failure(kind="bad_row", detail=f"not in the sandbox's language: {instruction[:120]}")
    verdicts = true_verdicts(read_scene(source), read_scene(edited), steps)
    return Truth(tuple(steps), verdicts, human_utility(verdicts, steps) / 10)


class TruthReward:
    """The sandbox's truth; the principles given are not looked at."""

    def __call__(self, edits: Sequence[EditToJudge]) -> list[float | Failure]:
        """Human utility / 10 of each edit."""
        truths = [truth_of(edit.source, edit.edited, edit.instruction) for edit in edits]
        return [truth if isinstance(truth, Failure) else truth.reward for truth in truths]


class RRMReward:
    """An RRM's final score / 10."""

    def __init__(self, judge: Judges):
        self.judge = judge

    def __call__(self, edits: Sequence[EditToJudge]) -> list[float | Failure]:
        """Score / 10 of each edit; where the RRM has no score, its failure."""
        judgements = self.judge.judge_many(edits)
        if len(judgements) != len(edits):
            raise RuntimeError(f"the judge gave {len(judgements)} judgements for {len(edits)} edits")
        return [reward_of(judgement) for judgement in judgements]


def reward_of(judgement: Judgement) -> float | Failure:
    """The judgement's score / 10, or why there is none."""
    if judgement.score is not None:
        return judgement.score / 10
    return judgement.failure or Failure(kind="empty", detail="a judgement without a score")
