"""What can be read from model output: verdicts and scores of a trace, principles of a decomposition, gold verdicts.

None of these functions raises on any text, and none makes anything up: what is not there is a named `Failure`.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from rrm.prompts import CATEGORY_NAMES
from rrm.records import Category, Failure, Principle, Verdicts

MOST_CHARACTERS = 200_000
"""Longer answers are not read at all."""
MOST_FAILURES = 1000
"""A text is given up after so many beginnings of JSON that came to nothing, or when they were longer than the text together."""
LONGEST_INTEGER = 4
NUMBER = r"-?[0-9]{1,3}(?:\.[0-9]{1,6})?"
PLAIN = re.compile(NUMBER)
SCORE = re.compile(rf"<score>\s*({NUMBER})\s*</score>")
SCORE_BEGUN = re.compile(r"<score>\s*[-+]?\.?\d")
LIST_BEGUN = re.compile(r"\[\s*\{")
LEADING_NUMBER = re.compile(r"\s*(?:q(?:uestion)?\s*)?#?([0-9]{1,3})\s*(?:[.):](?:\s.*)?)?", re.IGNORECASE | re.DOTALL)
CATEGORIES: dict[str, Category] = {
    "instruction following": "follow",
    "follow": "follow",
    "feature preservation": "keep",
    "keep": "keep",
    "image quality": "quality",
    "quality": "quality",
}
REFUSAL = re.compile(r"\b(i (can(no|')t|am unable|'m unable)|i'm sorry|as an ai)\b", re.IGNORECASE)
AUXILIARIES = "am|is|are|was|were|do|does|did|has|have|had|can|could|should|shall|will|would|may|might|must"
YES_NO = re.compile(rf"(?:[^,?]+, )?(?:{AUXILIARIES})(?:n['’]t)?\b.*\?[\"'”’)]*", re.IGNORECASE | re.DOTALL)
WORD = re.compile(r"\w+(?:['’]\w+)*")
FILLERS = frozenset(["a", "an", "the", "now", "still", "clearly", "completely", "fully", "entirely", "really"])
FEWEST_WORDS = 3


def plain_number(literal: str) -> float:
    """The number where it is written plainly; nan where it is huge, tiny, or longer than any verdict."""
    return float(literal) if PLAIN.fullmatch(literal) else math.nan


def plain_integer(literal: str) -> int | float:
    """The integer; nan where no number of a question is that long."""
    return int(literal) if len(literal) <= LONGEST_INTEGER else math.nan


def row_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; a key that stands in it twice says nothing."""
    row = dict(pairs)
    if len(row) < len(pairs):
        times = Counter(key for key, _ in pairs)
        row = {key: value if times[key] == 1 else None for key, value in row.items()}
    return row


DECODER = json.JSONDecoder(
    object_pairs_hook=row_of, parse_float=plain_number, parse_int=plain_integer, parse_constant=lambda name: math.nan
)


def json_arrays(text: str) -> Iterator[list[Any] | None]:
    """Every outermost JSON array in the text, in order; None stands for a list of objects that was begun and is not valid JSON.

    A text that nests too deep to be read, or that would cost too much, ends with None.
    """
    budget = float(len(text))
    position = text.find("[")
    while position >= 0:
        try:
            value, end = DECODER.raw_decode(text, position)
        except RecursionError:
            yield None
            return
        except json.JSONDecodeError as error:
            budget -= max(error.pos - position, len(text) / MOST_FAILURES)
            if budget < 0:
                yield None
                return
            if LIST_BEGUN.match(text, position):
                yield None
            end = position + 1
        else:
            yield value
        position = text.find("[", end)


def rows_with(text: str, *keys: str) -> list[dict[str, Any]] | None:
    """The last JSON array of the text that is a non-empty list of objects with all these keys.

    None where there is none, and where a later list was begun that cannot be read: an earlier one may be a draft.
    """
    found = None
    if len(text) > MOST_CHARACTERS:
        return None
    for array in json_arrays(text):
        fits = [isinstance(row, dict) and all(key in row for key in keys) for row in array or []]
        if array is None or (any(fits) and not all(fits)):
            found = None
        elif fits and all(fits):
            found = array
    return found


def binary(value: Any) -> Literal[0, 1] | None:
    """0 or 1 where the value says so without doubt (0, 1, 0.0, 1.0), else None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return 1 if value == 1 else 0 if value == 0 else None


def sound(text: str) -> str:
    """The text with half a surrogate pair, which no file and no record can hold, as a question mark."""
    return text.encode("utf-8", "replace").decode("utf-8")


def unreadable(text: str, detail: str) -> Failure:
    """The failure that fits a text in which something was missing."""
    if len(text) > MOST_CHARACTERS:
        return Failure(kind="unparseable", detail=f"longer than {MOST_CHARACTERS} characters")
    if not text.strip():
        return Failure(kind="empty", detail="empty answer")
    if REFUSAL.search(text):
        return Failure(kind="refused", detail=sound(text.strip()[:200]))
    return Failure(kind="unparseable", detail=detail)


def number_of(question: Any) -> int | None:
    """The principle's number that a row's "question" gives: 2, "2", "Q2" or "2. Is it red?"; None for anything else."""
    if isinstance(question, str):
        found = LEADING_NUMBER.fullmatch(question)
        return int(found[1]) if found else None
    return question if isinstance(question, int) and not isinstance(question, bool) else None


def by_number(rows: list[dict[str, Any]]) -> list[dict[str, Any]] | None:
    """Rows whose "question" is the principle's number, put in order; as they are where it is its text.

    None where numbers or texts clash, or where some rows have a number and some have not.
    """
    questions = [row["question"] for row in rows]
    numbers = [number for number in map(number_of, questions) if number is not None]
    if not numbers and all(isinstance(question, str) and question.strip() for question in questions):
        return rows if len(set(questions)) == len(rows) else None
    if sorted(numbers) != list(range(1, len(rows) + 1)):
        return None
    return sorted(rows, key=lambda row: number_of(row["question"]) or 0)


def read_verdict_rows(text: str, key: str, count: int) -> tuple[list[Literal[0, 1]], list[dict[str, Any]]] | Failure:
    """The 0/1 under `key` for each of `count` principles, with the rows they stand in, in the principles' order."""
    rows = rows_with(text, "question", key)
    if rows is None:
        return unreadable(text, f'no JSON list of {{"question", "{key}"}} that can be read')
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
    """The final `<score>` in 0–10; several that disagree, or one that begins with a number and is not one, are unreadable."""
    if len(text) > MOST_CHARACTERS:
        return unreadable(text, "no <score>")
    found = SCORE.findall(text)
    if len(SCORE_BEGUN.findall(text)) > len(found):
        return unreadable(text, "a <score> that is not a plain number, or is not closed")
    scores = {float(match) for match in found}
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


def read_answer(text: str, count: int) -> Verdicts | Failure:
    """What a judge's answer amounts to: a trace on `count` principles, or a holistic judgement where it was shown none."""
    return read_trace(text, count) if count else read_holistic(text)


def read_gold(text: str, count: int) -> tuple[list[Literal[0, 1]], list[str]] | Failure:
    """Gold 0/1 and one-line reasons for `count` principles, from a verifier's list of `{"question", "gold", "reason"}`."""
    values = read_verdict_rows(text, "gold", count)
    if isinstance(values, Failure):
        return values
    verdicts, rows = values
    reasons = [row.get("reason") for row in rows]
    return verdicts, [sound(reason) if isinstance(reason, str) else "" for reason in reasons]


def read_principles(text: str) -> tuple[Principle, ...] | Failure:
    """Principles from a JSON list of `{"question", "category"}`; duplicates are dropped, an unknown category is a failure."""
    rows = rows_with(text, "question", "category")
    if rows is None:
        return unreadable(text, 'no JSON list of {"question", "category"} that can be read')
    principles: dict[str, Principle] = {}
    for number, row in enumerate(rows, 1):
        question, named = row["question"], row["category"]
        category = CATEGORIES.get(named.strip().lower()) if isinstance(named, str) else None
        if category is None:
            return Failure(
                kind="unparseable", detail=f"the category of question {number} is none of {', '.join(CATEGORY_NAMES.values())}"
            )
        if not isinstance(question, str) or not question.strip() or sound(question) != question:
            return Failure(kind="unparseable", detail=f"question {number} is not a text")
        principles.setdefault(question.strip().lower(), Principle(question=question.strip(), category=category))
    return tuple(principles.values())


def principle_faults(
    principles: Sequence[Principle], counts: Mapping[Category, tuple[int, int]], total: tuple[int, int]
) -> list[str]:
    """Everything that is wrong with a decomposition, a plain sentence each, for asking its teacher again; none: it is valid.

    `counts` gives the fewest and most questions per category, `total` those in all.
    """
    found = Counter(principle.category for principle in principles)
    faults = [
        fault
        for category, allowed in counts.items()
        if (fault := count_fault(found[category], allowed, f" of {CATEGORY_NAMES[category]}"))
    ]
    faults += [fault] if (fault := count_fault(len(principles), total, " in all")) else []
    first: dict[tuple[str, ...], int] = {}
    for number, principle in enumerate(principles, 1):
        words = WORD.findall(unicodedata.normalize("NFKC", principle.question).casefold())
        core = tuple(word for word in words if word not in FILLERS)
        if core and first.setdefault(core, number) != number:
            faults.append(f"Question {number} asks the same as question {first[core]}.")
        if not YES_NO.fullmatch(principle.question.strip()):
            faults.append(f'Question {number} is not a yes/no question: begin with a word like "Is" or "Does", end with "?".')
        elif len(words) < FEWEST_WORDS:
            faults.append(f"Question {number} is not a whole question.")
    return faults


def count_fault(found: int, allowed: tuple[int, int], what: str) -> str | None:
    """What is wrong with this number of questions, or None."""
    low, high = allowed
    if low <= found <= high:
        return None
    are = f"There is 1 question{what}" if found == 1 else f"There are {found} questions{what}"
    return f"{are}: too {'few' if found < low else 'many'}, write {low if low == high else f'{low} to {high}'}."


def thought_of(text: str) -> str:
    """The reasoning: what stands before the verdict list, or before the score where there is no list."""
    starts = [start for mark in ('[{"question"', "<score>") if (start := text.find(mark)) >= 0]
    return text[: starts[0] if starts else len(text)].strip()
