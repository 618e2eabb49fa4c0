"""What can be read from model output: verdicts and scores of a trace, principles of a decomposition, gold verdicts.

None of these functions raises on any text, and none makes anything up: what is not there is a named `Failure`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any, Literal

from rrm.records import Category, Failure, Principle, Verdicts

SCORE = re.compile(r"<score>\s*(-?\d{1,3}(?:\.\d{1,6})?)\s*</score>")
CATEGORIES: dict[str, Category] = {
    "instruction following": "follow",
    "follow": "follow",
    "feature preservation": "keep",
    "keep": "keep",
    "image quality": "quality",
    "quality": "quality",
}
REFUSAL = re.compile(r"\b(i (can(no|')t|am unable|'m unable)|i'm sorry|as an ai)\b", re.IGNORECASE)


def json_arrays(text: str) -> Iterator[list[Any]]:
    """Every outermost JSON array in the text, in order; anything that is not valid JSON is passed over."""
    decoder = json.JSONDecoder(parse_constant=lambda name: math.nan)
    position = text.find("[")
    while position >= 0:
        try:
            value, end = decoder.raw_decode(text, position)
        except (ValueError, RecursionError):
            end = position + 1
        else:
            yield value
        position = text.find("[", end)


def rows_with(text: str, *keys: str) -> list[dict[str, Any]] | None:
    """The last JSON array of the text that is a non-empty list of objects with all these keys."""
    found = None
    for array in json_arrays(text):
        if array and all(isinstance(row, dict) and all(key in row for key in keys) for row in array):
            found = array
    return found


def binary(value: Any) -> Literal[0, 1] | None:
    """0 or 1 where the value says so without doubt (0, 1, 0.0, 1.0), else None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return 1 if value == 1 else 0 if value == 0 else None


def unreadable(text: str, detail: str) -> Failure:
    """The failure that fits a text in which something was missing."""
    if not text.strip():
        return Failure(kind="empty", detail="empty answer")
    if REFUSAL.search(text):
        return Failure(kind="refused", detail=text.strip()[:200])
    return Failure(kind="unparseable", detail=detail)


def by_number(rows: list[dict[str, Any]]) -> list[dict[str, Any]] | None:
    """Rows whose "question" is the principle's number, put in order; as they are where it is its text; None if numbers clash."""
    numbers = [row["question"] for row in rows]
    if not all(isinstance(number, int) and not isinstance(number, bool) for number in numbers):
        return rows
    if sorted(numbers) != list(range(1, len(rows) + 1)):
        return None
    return sorted(rows, key=lambda row: row["question"])


def read_verdict_rows(text: str, key: str, count: int) -> tuple[list[Literal[0, 1]], list[dict[str, Any]]] | Failure:
    """The 0/1 under `key` for each of `count` principles, with the rows they stand in, in the principles' order."""
    rows = rows_with(text, "question", key)
    if rows is None:
        return unreadable(text, f'no JSON list of {{"question", "{key}"}}')
    if len(rows) != count:
        return Failure(kind="wrong_verdict_count", detail=f"{len(rows)} verdicts for {count} principles")
    ordered = by_number(rows)
    if ordered is None:
        return Failure(kind="wrong_verdict_count", detail="the questions' numbers are not 1 … n")
    values = [binary(row[key]) for row in ordered]
    if None in values:
        return Failure(kind="unparseable", detail="a verdict is neither 0 nor 1")
    return [value for value in values if value is not None], ordered


def read_score(text: str) -> float | Failure:
    """The final `<score>` in 0–10; several scores that disagree are unreadable."""
    scores = {float(match) for match in SCORE.findall(text)}
    if len(scores) != 1:
        return unreadable(text, "no <score>" if not scores else "several <score>s that disagree")
    score = scores.pop()
    if not 0 <= score <= 10:
        return Failure(kind="unparseable", detail=f"score {score} is outside 0–10")
    return score


def read_holistic(text: str) -> Verdicts | Failure:
    """The score of a judgement that was given without principles: no verdicts, so an average of 0 that says nothing."""
    score = read_score(text)
    return score if isinstance(score, Failure) else Verdicts(verdicts=(), average=0.0, score=score)


def read_trace(text: str, count: int) -> Verdicts | Failure:
    """Verdicts and final score of a trace on `count` principles.

    The last list of `{"question", "score"}` counts, with exactly `count` verdicts of 0 or 1, and a final `<score>` in 0–10;
    several scores that disagree are unreadable. The average is worked out from the verdicts, whatever the trace claims.
    """
    values = read_verdict_rows(text, "score", count)
    if isinstance(values, Failure):
        return values
    score = read_score(text)
    if isinstance(score, Failure):
        return score
    verdicts, _ = values
    return Verdicts.model_validate({"verdicts": verdicts, "average": sum(verdicts) / len(verdicts), "score": score})


def read_gold(text: str, count: int) -> tuple[list[Literal[0, 1]], list[str]] | Failure:
    """Gold 0/1 and one-line reasons for `count` principles, from a verifier's list of `{"question", "gold", "reason"}`."""
    values = read_verdict_rows(text, "gold", count)
    if isinstance(values, Failure):
        return values
    verdicts, rows = values
    return verdicts, [str(row.get("reason", "")) for row in rows]


def read_principles(text: str) -> tuple[Principle, ...] | Failure:
    """Principles from a JSON list of `{"question", "category"}`; duplicates are dropped, an unknown category is a failure."""
    rows = rows_with(text, "question", "category")
    if rows is None:
        return unreadable(text, 'no JSON list of {"question", "category"}')
    principles: dict[str, Principle] = {}
    for row in rows:
        category = CATEGORIES.get(str(row["category"]).strip().lower())
        question = row["question"]
        if category is None or not isinstance(question, str) or not question.strip():
            return Failure(kind="unparseable", detail=f"not a principle: {str(row)[:120]}")
        principles.setdefault(question.strip().lower(), Principle(question=question.strip(), category=category))
    return tuple(principles.values())


def thought_of(text: str) -> str:
    """The reasoning: what stands before the verdict list, or the whole text where there is none."""
    start = text.find('[{"question"')
    return text[: start if start >= 0 else len(text)].strip()
