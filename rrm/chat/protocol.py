"""Requests and completions in the words of OpenAI's chat protocol. Nothing of a completion is seen
before all of it is checked."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL.Image import Image

from rrm.images import data_url, png_bytes
from rrm.parsing import sound
from rrm.records import Choice, Token
from rrm.runtime.secrets import mask

MOST_COUNTED = 10**9
"""Tokens of one call: a count beyond is none."""
LARGEST_LOGPROB = 0.01
"""A logarithm of a probability is at most 0, but for rounding."""
BYTES_PER_TOKEN, BYTES_PER_ALTERNATIVE, BYTES_AT_LEAST = 256, 512, 2**20
"""How long an answer may get: more than any sound one."""


class NoCompletion(ValueError):
    """What a server sent is no completion of the request; the message says what is wrong with it."""


@dataclass(frozen=True)
class ChatRequest:
    """One question to a chat server, and how its answers are drawn. What is None is left out."""

    model: str
    messages: Sequence[Mapping[str, Any]]
    max_tokens: int
    n: int = 1
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    top_logprobs: int | None = None
    """How many alternatives are asked for at every token."""
    max_tokens_field: str = "max_tokens"
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the server's own; None as a value takes out one of ours."""

    def body(self) -> dict[str, Any]:
        """The request as JSON has it."""
        sampling = {"temperature": self.temperature, "top_p": self.top_p, "seed": self.seed}
        if self.top_logprobs is not None:
            sampling |= {"logprobs": True, "top_logprobs": self.top_logprobs}
        limit = {self.max_tokens_field: self.max_tokens, "n": self.n}
        fields = {
            "model": self.model,
            **sampling,
            **limit,
            "messages": list(self.messages),
            **self.extra,
        }
        return {name: value for name, value in fields.items() if value is not None}

    @property
    def most_bytes(self) -> int:
        """The bytes of the longest answer that is read."""
        token = BYTES_PER_TOKEN
        if self.top_logprobs is not None:
            listed = self.extra.get("logprob_token_ids") or ()
            token += BYTES_PER_ALTERNATIVE * (1 + self.top_logprobs + len(listed))
        return BYTES_AT_LEAST + self.n * self.max_tokens * token


@dataclass(frozen=True)
class Form:
    """A request as a multipart form: plain fields, and files as (name, bytes, media type)."""

    fields: Mapping[str, str]
    files: Mapping[str, tuple[str, bytes, str]]


@dataclass(frozen=True)
class Completion:
    """A server's answers to one request. Its counts of tokens are None where it sent none that can
    be one."""

    choices: tuple[Choice, ...]
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


def image_part(image: Image) -> dict[str, Any]:
    """An image, as it is, as a part of a chat message."""
    return {"type": "image_url", "image_url": {"url": data_url(png_bytes(image))}}


def read_completion(value: Any, request: ChatRequest) -> Completion:
    """The completion in an answer's JSON. Raises NoCompletion where any of it is not what the
    protocol has.

    Fewer choices than were asked for are no error (some servers do not know `n`); none or too many
    are.
    """
    if not isinstance(value, dict):
        raise NoCompletion(f"a JSON {type(value).__name__}")
    choices = value.get("choices")
    if not isinstance(choices, list) or not choices:
        raise NoCompletion("an answer without choices")
    if len(choices) > request.n:
        raise NoCompletion(f"{len(choices)} choices instead of {request.n}")
    usage = value.get("usage")
    counts = usage if isinstance(usage, dict) else {}
    read = tuple(read_choice(choice, request.top_logprobs is not None) for choice in choices)
    # a prompt has tokens, and so has an answer: a count of 0 is one that the server did not make
    said = any(choice.content or choice.reasoning for choice in read)
    prompt, completion = count(counts.get("prompt_tokens")), count(counts.get("completion_tokens"))
    return Completion(read, prompt or None, (completion or None) if said else completion)


def count(value: Any) -> int | None:
    """The count of tokens, None for what cannot be one: a word, a boolean, NaN, a fraction, less
    than none, or endless."""
    return value if type(value) is int and 0 <= value <= MOST_COUNTED else None


def read_choice(value: Any, with_tokens: bool) -> Choice:
    """One of the choices, keys masked: a server may echo what it was sent. Raises NoCompletion."""
    message = value.get("message") if isinstance(value, dict) else None
    if not isinstance(message, dict):
        raise NoCompletion("a choice without a message")
    content, thought = read_content(message.get("content"))
    apart = [message.get(name) for name in ("reasoning_content", "reasoning")]
    reasoning = next((text for text in apart if isinstance(text, str) and text.strip()), thought)
    refusal, finish = message.get("refusal"), value.get("finish_reason")
    return Choice(
        content=mask(sound(content)),
        reasoning=mask(sound(reasoning)),
        finish_reason=mask(sound(finish)) if isinstance(finish, str) and finish else "stop",
        refusal=mask(sound(refusal)) if isinstance(refusal, str) else "",
        tokens=read_tokens(value.get("logprobs")) if with_tokens else (),
    )


def read_content(value: Any) -> tuple[str, str]:
    """(the text, the thought) of a message's content: a text, nothing, or a list of parts of either
    kind. Raises NoCompletion."""
    if value is None:
        return "", ""
    if isinstance(value, str):
        return value, ""
    if not isinstance(value, list):
        raise NoCompletion("a content that is no text")
    texts: list[str] = []
    thoughts: list[str] = []
    for part in value:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "thinking":
            held = part.get("thinking")
            thoughts.append(held if isinstance(held, str) else read_content(held)[0])
        elif isinstance(
            text := part if isinstance(part, str) else part.get("text") if kind else None, str
        ):
            texts.append(text)
        else:
            raise NoCompletion("a part of the content that is no text")
    return "".join(texts), "".join(thoughts)


def read_tokens(value: Any) -> tuple[Token, ...]:
    """The tokens with the probabilities of what could have stood at their places; none where the
    server tells none."""
    entries = value.get("content", []) if isinstance(value, dict) else value
    if entries is None:
        return ()
    if not isinstance(value, dict) or not isinstance(entries, list):
        raise NoCompletion("logprobs that are no list")
    return tuple(map(read_token, entries))


def read_token(entry: Any) -> Token:
    """One token with its alternatives. Raises NoCompletion."""
    alternatives = entry.get("top_logprobs") if isinstance(entry, dict) else None
    if not isinstance(alternatives, list):
        raise NoCompletion("logprobs without alternatives")
    likely: dict[str, float] = {}
    for one in (entry, *alternatives):
        text, logprob = (
            (one.get("token"), one.get("logprob")) if isinstance(one, dict) else (None, None)
        )
        if not isinstance(text, str):
            raise NoCompletion("a token that is no text")
        if (
            isinstance(logprob, bool)
            or not isinstance(logprob, int | float)
            or not -math.inf < logprob <= LARGEST_LOGPROB
        ):
            raise NoCompletion("a logprob that is none")
        likely[sound(text)] = math.exp(min(logprob, 0.0))
    return Token(sound(entry["token"]), likely)
