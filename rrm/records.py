"""The vocabulary: every record that one stage hands to the next.

task → principles → quadruple → traces → gold verdicts → SFT row → judgement; and preference pairs
beside them. Images are named by the SHA-256 of their file's bytes (see `rrm.images`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from PIL.Image import Image
from pydantic import BaseModel, ConfigDict, Field, field_validator

from rrm.runtime.screen import shown

Category = Literal["follow", "keep", "quality"]
Label = Literal["a", "b", "same"]
FailureKind = Literal[
    "unparseable",
    "wrong_verdict_count",
    "refused",
    "rejected",
    "empty",
    "timed_out",
    "server_gone",
    "image_unreadable",
    "missing",
    "bad_row",
    "cut_off",
    "duplicate",
    "not_asked",
    "contradiction",
]


UNREADABLE: tuple[FailureKind, ...] = (
    "unparseable",
    "wrong_verdict_count",
    "refused",
    "empty",
    "cut_off",
)
"""An answer came, and no score can be read from it."""


class Record(BaseModel):
    """Immutable, strict about its keys, and without numbers that are none (NaN, ±∞)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Principle(Record):
    """A yes/no question that a good edit answers with yes."""

    question: str = Field(min_length=1)
    category: Category


class Task(Record):
    """What an editor is asked: a source image and an instruction."""

    task_id: str
    source: str
    instruction: str = Field(min_length=1)
    requirement: str | None = None


class Quadruple(Record):
    """(x, x_ref, q, P): an edited image with its source, instruction and principles."""

    quadruple_id: str
    task: Task
    edited: str
    editor: str
    principles: tuple[Principle, ...]


class Failure(Record):
    """A named reason why something has no value; it is counted, never scored."""

    kind: FailureKind
    detail: str = ""

    @field_validator("detail")
    @classmethod
    def fit_to_show(cls, detail: str) -> str:
        """Without keys and control characters: it may quote a server."""
        return shown(detail)


@dataclass(frozen=True)
class Token:
    """A token as text, and the probabilities of the likeliest tokens at its place, it among them."""

    text: str
    probabilities: Mapping[str, float]


@dataclass(frozen=True)
class Choice:
    """One answer of a model, in the words of the chat completions protocol, whether a server or
    this process gave it."""

    content: str
    reasoning: str = ""
    """What a server sends apart as `reasoning_content` or `reasoning`."""
    finish_reason: str = "stop"
    """`stop`, `length` (cut off), `content_filter`, or another word of the server's."""
    refusal: str = ""
    tokens: tuple[Token, ...] = ()
    """The content's tokens, where they were asked for."""


class Verdicts(Record):
    """The machine-readable end of a trace: a 0/1 per principle, their average, the final score in
    0–10."""

    verdicts: tuple[Literal[0, 1], ...]
    average: float = Field(ge=0, le=1)
    score: float = Field(ge=0, le=10)


class Trace(Record):
    """One teacher's chain of thought on one quadruple, as written, and what could be read from it."""

    quadruple_id: str
    teacher: str
    index: int
    text: str
    read: Verdicts | None = None
    failure: Failure | None = None


class Gold(Record):
    """The verifier's 0/1 and one-line reason per principle of one quadruple."""

    quadruple_id: str
    verdicts: tuple[Literal[0, 1], ...]
    reasons: tuple[str, ...]


class SFTRow(Record):
    """One example of the cold start: what the RRM is shown and what it should write."""

    row_id: str
    kind: Literal["judge", "decompose"]
    source: str
    edited: str | None
    instruction: str
    requirement: str | None = None
    principles: tuple[Principle, ...]
    target: str
    accuracy: float | None = None


class PreferencePair(Record):
    """Two edits of one task and which of them people prefer."""

    pair_id: str
    source: str
    instruction: str
    requirement: str | None = None
    principles: tuple[Principle, ...]
    edited_a: str
    edited_b: str
    label: Label


class Quarantined(Record):
    """A row that was left out, where it stood, why, and what it takes to see why (the answers that
    could not be used, say)."""

    stage: str
    key: str
    failure: Failure
    evidence: dict[str, Any] = Field(default_factory=dict)


Mode = Literal["reasoning", "expectation", "logits"]
"""How a score is had: written at the end of the trace; expected over what could stand there;
expected over the first digit, without a trace."""


class Judgement(Record):
    """What a judge says of one edit: the trace and what it amounts to, or a named failure."""

    principles: tuple[Principle, ...] = ()
    thought: str = ""
    read: Verdicts | None = None
    failure: Failure | None = None
    expected: float | None = Field(default=None, ge=0, le=10)
    """The score where it is not that of `read`: the mean of several traces, or an expectation. In
    0–10."""
    samples: tuple[float | None, ...] = ()
    """The scores of several traces, in order; None for a trace that has none."""
    std: float | None = None
    """The standard deviation (n − 1) of the readable ones of `samples`; None for fewer than two."""
    agreement: float | None = None
    """The mean share, over principles, of the readable traces that say what their majority says, in
    ½…1."""
    mass: float | None = None
    """The probability that the tokens over which an expectation was taken hold together."""

    @property
    def score(self) -> float | None:
        """The final score in 0–10, or None where there is none."""
        if self.failure is not None:
            return None
        return (
            self.expected
            if self.expected is not None
            else None
            if self.read is None
            else self.read.score
        )


@dataclass(frozen=True)
class TaskToDecompose:
    """A task in memory, whose principles are wanted."""

    source: Image
    instruction: str
    requirement: str | None = None
    """What the edit must also meet, beside the instruction."""


@dataclass(frozen=True)
class EditToJudge:
    """An edit in memory, with all that a judgement or a reward needs."""

    source: Image
    edited: Image
    instruction: str
    principles: tuple[Principle, ...]
    requirement: str | None = None

    @property
    def task(self) -> TaskToDecompose:
        """What the editor was asked."""
        return TaskToDecompose(self.source, self.instruction, self.requirement)
