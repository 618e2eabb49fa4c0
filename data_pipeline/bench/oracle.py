"""Whether what a parser read stands in the answer: a slow oracle that shares no code with `rrm.parsing` and looks in the text."""

from __future__ import annotations

import json
from typing import Any

from rrm.prompts import CATEGORY_NAMES
from rrm.records import Failure


class Literal(str):
    """A number of a JSON text, as it is written there."""


def lists_in(text: str, count: int) -> list[list[dict[str, Any]]]:
    """Every substring that is a JSON list of `count` objects (any number of them where it is 0), numbers as they are written."""
    found = []
    ends = [j + 1 for j, character in enumerate(text) if character == "]"]
    for i, character in enumerate(text):
        if character == "[" and text[i + 1 : i + 50].lstrip()[:1] == "{":
            for j in ends:
                if j > i and text[:j].rstrip("] \n\t\r")[-1:] == "}":
                    try:
                        value = json.loads(text[i:j], parse_int=Literal, parse_float=Literal, parse_constant=Literal)
                    except (ValueError, RecursionError):
                        continue
                    if all(isinstance(row, dict) for row in value) and len(value) == (count or len(value)):
                        found.append(value)
    return found


def verdicts_stand(text: str, key: str, values: list[int], reasons: list[str] | None = None) -> bool:
    """Whether the text holds a list with exactly these verdicts, ordered by the questions' numbers where they are numbered."""
    for rows in lists_in(text, len(values)):
        if not all(isinstance(row.get(key), Literal) and "question" in row for row in rows):
            continue
        heads = [row["question"].strip() if isinstance(row["question"], str) else "" for row in rows]
        numbers = [
            head.lower().removeprefix("question").lstrip("q# ").split(".")[0].split(")")[0].split(":")[0] for head in heads
        ]
        ordered = rows
        if all(number.strip().isdecimal() for number in numbers):
            ordered = [row for _, row in sorted(zip(map(int, numbers), rows, strict=True), key=lambda pair: pair[0])]
        written = [{"0": 0, "-0": 0, "1": 1}.get(row[key].removesuffix(".0")) for row in ordered]
        if written == values and (reasons is None or reasons_stand(ordered, reasons)):
            return True
    return False


def reasons_stand(rows: list[dict[str, Any]], reasons: list[str]) -> bool:
    """Whether each reason is its row's, but for half surrogate pairs; no reason can always be given."""
    told = [str(row.get("reason")).encode("utf-8", "replace").decode() for row in rows]
    return len(told) == len(reasons) and all(reason in ("", own) for reason, own in zip(reasons, told, strict=True))


def score_stands(text: str, score: float) -> bool:
    """Whether a number that stands between <score> and </score> is this one, and no other number stands so."""
    inner = [piece.partition("</score>")[0].strip() for piece in text.split("<score>")[1:] if "</score>" in piece]
    numbers = {float(literal) for literal in inner if literal and set(literal) <= set("-.0123456789") and is_number(literal)}
    return numbers == {score}


def is_number(literal: str) -> bool:
    """Whether Python takes it for a number."""
    try:
        float(literal)
    except ValueError:
        return False
    return True


def principle_stands(rows: list[dict[str, Any]], question: str, category: str) -> bool:
    """Whether a row of the text holds this question with this category's name beside it."""
    names = (category, CATEGORY_NAMES[category].lower())
    return any(
        isinstance(row.get("question"), str)
        and row["question"].strip() == question
        and str(row.get("category")).strip().lower() in names
        for row in rows
    )


def invented(text: str, count: int, read: dict[str, Any]) -> list[str]:
    """The readers whose value does not stand in the text."""
    wrong = []
    trace, gold, principles = read["read_trace"], read["read_gold"], read["read_principles"]
    for name in ("read_score", "read_holistic", "read_trace"):
        value = read[name] if name == "read_score" else getattr(read[name], "score", None)
        if isinstance(value, float) and not score_stands(text, value):
            wrong.append(name)
    if not isinstance(trace, Failure) and not (
        len(trace.verdicts) == count
        and trace.average == sum(trace.verdicts) / count
        and verdicts_stand(text, "score", list(trace.verdicts))
    ):
        wrong.append("read_trace")
    if not isinstance(gold, Failure) and not (len(gold[0]) == count and verdicts_stand(text, "gold", *gold)):
        wrong.append("read_gold")
    if not isinstance(principles, Failure):
        rows = [row for found in lists_in(text, 0) for row in found]
        if not principles or not all(principle_stands(rows, p.question, p.category) for p in principles):
            wrong.append("read_principles")
    return wrong
