"""Rewards of edits in 0…1 from a reward model's score.

A reward that cannot be had is a `Failure`; it is never scored by default.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from rrm.records import EditToJudge, Failure, Judgement


class RewardFn(Protocol):
    """Anything that turns edits into rewards, one each, in their order."""

    def __call__(self, edits: Sequence[EditToJudge]) -> list[float | Failure]:
        """A reward in 0…1 or a named failure per edit."""


class Judges(Protocol):
    """What is asked of an RRM here."""

    def judge_many(self, edits: Sequence[EditToJudge]) -> list[Judgement]:
        """One judgement per edit, in their order."""


class RRMReward:
    """An RRM's final score / 10."""

    def __init__(self, judge: Judges):
        self.judge = judge

    def __call__(self, edits: Sequence[EditToJudge]) -> list[float | Failure]:
        """Score / 10 of each edit; where the RRM has no score, its failure."""
        judgements = self.judge.judge_many(edits)
        if len(judgements) != len(edits):
            raise RuntimeError(
                f"the judge gave {len(judgements)} judgements for {len(edits)} edits"
            )
        return [reward_of(judgement) for judgement in judgements]


def reward_of(judgement: Judgement) -> float | Failure:
    """The judgement's score / 10, or why there is none."""
    if judgement.score is not None:
        return judgement.score / 10
    return judgement.failure or Failure(kind="empty", detail="a judgement without a score")
