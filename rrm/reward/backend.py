"""The interface between the reward model and its backends: questions, replies, and the backend
protocol."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from PIL.Image import Image

from rrm.prompts import Style
from rrm.records import Choice, Failure
from rrm.verifier.messages import Message

LIKELIEST = 20
"""Alternatives wanted at a token's place: as many as OpenAI's protocol gives."""


@dataclass(frozen=True)
class Question:
    """A chat with image slots, the images for them in order, and how answers are drawn. Temperature
    0 is greedy."""

    messages: Sequence[Message]
    images: tuple[Image, ...]
    max_tokens: int
    answers: int = 1
    temperature: float = 0.0
    seed: int = 0
    alternatives: bool = False
    """Whether every answer comes with the probabilities of what could have stood at each token's
    place."""
    watched: tuple[str, ...] = ()
    """Texts of single tokens whose probabilities are wanted however unlikely they are."""


Reply = tuple[Choice, ...] | Failure
Progress = Callable[[int, Reply], object]
"""Called once for every question, with its place and its reply, as soon as it has ended; in
whatever thread that is known."""


class Backend(Protocol):
    """A model in this process or on servers."""

    style: Style
    fingerprint: str
    """Changes when the model's weights do."""
    max_tokens: int
    """Of a trace."""

    @property
    def stopped(self) -> str | None:
        """Why the backend stopped sending requests (every server refuses), if no caller has been
        told yet."""

    async def ask(self, questions: Sequence[Question], progress: Progress) -> list[Reply]:
        """The reply to each question, in their order; never raises for a single one of them.

        Raises InputError where everything is refused, once that is known and no reply would be lost
        by it.
        """

    async def close(self) -> None:
        """Closes connections."""
