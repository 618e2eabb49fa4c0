"""What may be known of a task beyond a reward model's score: principles of its instruction, and the
truth about an edit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from PIL import Image

from rrm.records import EditToJudge, Failure, Principle


@dataclass(frozen=True)
class Truth:
    """The right verdict per principle of the instruction, and the true reward in 0…1, of one edit."""

    principles: tuple[Principle, ...]
    verdicts: tuple[int, ...]
    reward: float


class TruthSource(Protocol):
    """Whoever knows the truth about edits; the sandbox does of its own tasks."""

    def principles(self, instruction: str) -> tuple[Principle, ...]:
        """The principles of an instruction; () where it is not known."""

    def truth(self, source: Image.Image, edited: Image.Image, instruction: str) -> Truth | Failure:
        """The truth about an edit; a failure where the instruction is not known."""


class TruthReward:
    """The true reward of each edit; the principles given are not looked at."""

    def __init__(self, source: TruthSource):
        self.source = source

    def __call__(self, edits: Sequence[EditToJudge]) -> list[float | Failure]:
        """The true reward of each edit, or why it is not known."""
        truths = [self.source.truth(edit.source, edit.edited, edit.instruction) for edit in edits]
        return [truth if isinstance(truth, Failure) else truth.reward for truth in truths]
