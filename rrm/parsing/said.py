"""Where a model's thought ends and its answer begins, and whether there is an answer at all."""

from __future__ import annotations

import re
from dataclasses import dataclass

from rrm.records import Choice, Failure

Answer = Choice | str
"""An answer with all that is known of it; a text alone is one that ended by itself."""
MOST_CHARACTERS = 200_000
"""Longer answers are not read at all."""
CUT_OFF = frozenset(
    [
        "length",
        "max_tokens",
        "model_length",
        "abort",
        "aborted",
        "error",
        "network_error",
        "insufficient_system_resource",
    ]
)
FILTERED = frozenset(
    [
        "content_filter",
        "safety",
        "sensitive",
        "refusal",
        "prohibited_content",
        "blocklist",
        "recitation",
    ]
)
THINKS = r"(?:\w+:)?(?:think|thinking|thoughts?|reasoning|analysis)"
BEGUN = re.compile(rf"<\s?{THINKS}\s?>|◁think▷|\[think\]|<\|begin_of_thought\|>", re.IGNORECASE)
ENDED = re.compile(rf"<\s?/\s?{THINKS}\s?>|◁/think▷|\[/think\]|<\|end_of_thought\|>", re.IGNORECASE)
FULL_WIDTH = {code + 0xFEE0: chr(code) for code in range(0x21, 0x7F)}
REFUSAL = re.compile(
    r"\b(?:i (?:can(?:no|['’])t|won['’]t|must decline)|(?:i am|i['’]m) (?:sorry|unable|not able)|as an ai)\b"
    r"|抱歉|对不起|對不起|很遗憾|很遺憾|[无無]法(?!看|辨|确定|分辨|识别|区分|確定|識別)|我(?:不能|不可以|没有办法)|不能(?:提供|协助|帮助|回答|评价)"
    r"|作[为為]一?[个個名款]?\s?(?:AI|人工智能|人工智慧|大?语言模型|大模型)",
    re.IGNORECASE,
)
REFUSAL_WITHIN = 200
"""Characters at the beginning of an answer in which a refusal stands; later the words are part of a
thought."""


@dataclass(frozen=True)
class Said:
    """An answer in its parts: what was thought before it, apart or between tags, and the words
    behind that."""

    thought: str
    answer: str


def as_choice(answer: Answer) -> Choice:
    """The answer with all that is known of it."""
    return Choice(content=answer) if isinstance(answer, str) else answer


def sound(text: str) -> str:
    """The text with half a surrogate pair, which no file and no record can hold, as a question
    mark."""
    return text.encode("utf-8", "replace").decode("utf-8")


def folded(text: str) -> str:
    """The text with full-width digits, letters and punctuation as plain ones, character by
    character."""
    return text if text.isascii() else text.translate(FULL_WIDTH)


def said(answer: Answer) -> Said | Failure:
    """The thought and the words of an answer, or why there is none to read: refused, cut off, too
    long or empty.

    All before the last end of a thought (`</think>` and its like) is thought; one that does not end
    was cut off.
    """
    choice = as_choice(answer)
    reason = choice.finish_reason.lower()
    if choice.refusal.strip() or reason in FILTERED:
        return Failure(
            kind="refused", detail=sound(choice.refusal.strip()[:200]) or "the server's filter"
        )
    if reason in CUT_OFF:
        met = (
            "cut off at max_tokens"
            if reason == "length"
            else f"cut off: the server ended it with '{reason}'"
        )
        return Failure(kind="cut_off", detail=met)
    if len(choice.content) + len(choice.reasoning) > MOST_CHARACTERS:
        return Failure(kind="unparseable", detail=f"longer than {MOST_CHARACTERS} characters")
    cut = max((match.end() for match in ENDED.finditer(choice.content)), default=0)
    words = choice.content[cut:]
    if BEGUN.search(words):
        return Failure(kind="cut_off", detail="the thought does not end")
    thought = "\n".join(
        part for part in (untagged(choice.reasoning), untagged(choice.content[:cut])) if part
    )
    if not words.strip():
        return Failure(
            kind="empty", detail="a thought without an answer" if thought else "empty answer"
        )
    return Said(thought, words)


def untagged(thought: str) -> str:
    """The thought without the tags around it."""
    return ENDED.sub("", BEGUN.sub("", thought)).strip()


def unreadable(words: str, detail: str) -> Failure:
    """The failure that fits words in which something was missing."""
    if REFUSAL.search(words.strip()[:REFUSAL_WITHIN]):
        return Failure(kind="refused", detail=sound(words.strip()[:200]))
    return Failure(kind="unparseable", detail=sound(detail))


def written(answer: Answer) -> str:
    """The answer as one text, from which the same is read: what was thought apart stands between
    <think> and </think>."""
    choice = as_choice(answer)
    return (
        f"<think>\n{choice.reasoning}\n</think>\n{choice.content}"
        if choice.reasoning
        else choice.content
    )
