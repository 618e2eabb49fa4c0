"""How an RRM is asked, as chat messages with image slots; the same for training, evaluation and
reward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rrm.prompts import (
    Style,
    decompose_system,
    decompose_text,
    judge_system,
    judge_text,
    plain,
    rate_text,
)
from rrm.records import Principle

Message = dict[str, Any]


def ask(images: int, system: str | None, text: str) -> list[Message]:
    """A user's message of `images` image slots and a text, after the system prompt if there is one."""
    content = [*({"type": "image"} for _ in range(images)), {"type": "text", "text": text}]
    opening: list[Message] = (
        []
        if system is None
        else [{"role": "system", "content": [{"type": "text", "text": system}]}]
    )
    return [*opening, {"role": "user", "content": content}]


def judge_messages(
    style: Style, instruction: str, principles: Sequence[Principle], requirement: str | None = None
) -> list[Message]:
    """The question for the judgement of an edit; image slots: source, edited."""
    return ask(2, judge_system(style), judge_text(style, instruction, principles, requirement))


def rate_messages(instruction: str, requirement: str | None = None) -> list[Message]:
    """The question for a number from 0 to 5 without a thought; image slots: source, edited."""
    return ask(2, None, rate_text(instruction, requirement))


def decompose_messages(
    style: Style, instruction: str, requirement: str | None = None
) -> list[Message]:
    """The question for the principles of a task; image slot: source."""
    return ask(1, decompose_system(style), decompose_text(style, instruction, requirement))


def answered(text: str) -> list[Message]:
    """The assistant's message; what looks like a special token in it is text."""
    return [{"role": "assistant", "content": [{"type": "text", "text": plain(text)}]}]
