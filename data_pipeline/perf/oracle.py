"""Whether what a parser read stands in the answer: a slow oracle that shares no code with
`rrm.parsing` and looks in the text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from rrm.prompts import CATEGORY_NAMES
from rrm.records import Choice, Failure

THOUGHTS = ("think", "thinking", "thought", "thoughts", "reasoning", "analysis")
CHINESE = {
    "follow": ("遵循指令", "指令遵循"),
    "keep": ("特征保持", "特征保留", "保留", "保持"),
    "quality": ("图像质量", "质量"),
}


class Literal(str):
    """A number of a JSON text, as it is written there."""


def plain(text: str, quotes: bool = True) -> str:
    """The text with full-width signs (and line quotes) as plain ones, a character for a character."""
    pairs = {"【": "[", "】": "]"} | ({"“": '"', "”": '"'} if quotes else {})
    wide = "".join(map(chr, range(0xFF01, 0xFF5F)))
    return "".join(pairs.get(c) or (chr(ord(c) - 0xFEE0) if c in wide else c) for c in text)


def tag_ends(text: str, begins: str) -> Iterator[int]:
    """Where each tag of a thought that begins with "<" or "</" ends."""
    place = text.find(begins)
    while place >= 0:
        name, closed, _ = text[place + len(begins) : place + 40].lower().partition(">")
        if closed and name.strip().rpartition(":")[2] in THOUGHTS:
            yield place + len(begins) + len(name) + 1
        place = text.find(begins, place + 1)


def words_of(choice: Choice) -> str | None:
    """What counts as the answer: all behind the last end of a thought; None where there is no
    answer."""
    if choice.finish_reason != "stop" or choice.refusal:
        return None
    words = choice.content[max(tag_ends(choice.content, "</"), default=0) :]
    return None if any(True for _ in tag_ends(words, "<")) else words


def lists_in(text: str, count: int) -> list[tuple[int, int, list[dict[str, Any]]]]:
    """(begin, end, rows) of every substring that is a JSON list of `count` objects (any number
    where it is 0), numbers as written."""
    found = []
    folded = plain(text)
    ends = [j + 1 for j, character in enumerate(folded) if character == "]"]
    for i, character in enumerate(folded):
        if character == "[" and folded[i + 1 : i + 50].lstrip()[:1] == "{":
            for j in ends:
                if j > i and folded[:j].rstrip("] \n\t\r")[-1:] == "}":
                    value = (
                        loaded(text[i:j])
                        or loaded(folded[i:j])
                        or loaded(plain(text[i:j], quotes=False))
                    )
                    if (
                        value
                        and all(isinstance(row, dict) for row in value)
                        and len(value) == (count or len(value))
                    ):
                        found.append(
                            (
                                i,
                                j,
                                [
                                    {plain(key).strip().lower(): row[key] for key in row}
                                    for row in value
                                ],
                            )
                        )
    return found


def loaded(text: str) -> list[Any] | None:
    """The JSON list, its numbers as they are written."""
    try:
        return json.loads(text, parse_int=Literal, parse_float=Literal, parse_constant=Literal)
    except (ValueError, RecursionError):
        return None


def bit(value: Any) -> int | None:
    """The verdict that a JSON value is."""
    if isinstance(value, bool):
        return int(value)
    word = plain(value).strip().lower() if isinstance(value, str) else ""
    return {"0": 0, "-0": 0, "1": 1, "true": 1, "false": 0}.get(word.removesuffix(".0"))


def number_at_the_head(question: Any) -> str:
    """The digits that a row's question begins with, or nothing."""
    head = plain(question).strip().lower() if isinstance(question, str) else ""
    head = head.removeprefix("question").removeprefix("问题").removeprefix("第").lstrip("q# ")
    digits = head[: len(head) - len(head.lstrip("0123456789"))]
    rest = head[len(digits) :].lstrip().lstrip("题问").lstrip()
    return digits if not rest or (rest[0] in ".):、" and not rest[1:2].isdigit()) else ""


def verdicts_stand(
    text: str, key: str, values: list[int], reasons: list[str] | None = None
) -> int | None:
    """Where the last list ends, if it holds exactly these verdicts, ordered by the questions'
    numbers where they are numbered."""
    keyed = [
        one for one in lists_in(text, 0) if all("question" in row and key in row for row in one[2])
    ]
    for _, end, rows in keyed:
        if len(rows) != len(values) or any(other[0] >= end for other in keyed):
            continue
        heads = [number_at_the_head(row["question"]) for row in rows]
        ordered = rows
        if all(heads):
            ordered = [
                row
                for _, row in sorted(
                    zip(map(int, heads), rows, strict=True), key=lambda pair: pair[0]
                )
            ]
        if [bit(row[key]) for row in ordered] == values and (
            reasons is None or reasons_stand(ordered, reasons)
        ):
            return end
    return None


def reasons_stand(rows: list[dict[str, Any]], reasons: list[str]) -> bool:
    """Whether each reason is its row's, but for half surrogate pairs; no reason can always be
    given."""
    told = [plain(str(row.get("reason")).encode("utf-8", "replace").decode()) for row in rows]
    return len(told) == len(reasons) and all(
        plain(reason) in ("", own) for reason, own in zip(reasons, told, strict=True)
    )


def ends_there(rest: str) -> bool:
    """Whether nothing but white space, fences and tags that close is left."""
    while rest := rest.lstrip().lstrip("`*"):
        if rest[0].isspace():
            continue
        begin, end = ("</", ">") if rest.startswith("</") else ("<|", "|>")
        inner, closed, after = rest[2:].partition(end)
        if not rest.startswith(begin) or not closed or "<" in inner:
            return False
        rest = after
    return True


def number_of(literal: str) -> float | None:
    """The number that stands between two tags: alone, or as so much of ten, or with 分 behind it."""
    literal = literal.strip("* \n\t").lower().replace("out of", "/").removesuffix("分").strip()
    amount, of, whole = literal.partition("/")
    if (
        not amount
        or set(amount) - set("-.0123456789 ")
        or (of and whole.strip() not in ("10", "10.0"))
    ):
        return None
    try:
        return float(amount)
    except ValueError:
        return None


def score_stands(text: str, score: float, all_agree: bool = False) -> bool:
    """Whether the last <score> is this one and ends the text; no other that counts may say anything
    else.

    Those that count are all, or those between which and the last one nothing stands.
    """
    pieces = plain(text).lower().split("<score>")
    if len(pieces) < 2 or "</score>" not in pieces[-1]:
        return False
    inner, _, rest = pieces[-1].partition("</score>")
    line = plain(text, quotes=False)[: len("<score>".join(pieces[:-1]))].rpartition("\n")[2]
    if (
        number_of(inner) != score
        or not ends_there(rest)
        or line.count('"') % 2
        or line.count("“") > line.count("”")
    ):
        return False
    for piece in pieces[-2:0:-1]:
        inner, closed, between = piece.partition("</score>")
        if not all_agree and (not closed or "<" in inner or not ends_there(between)):
            return True
        begun = inner.lstrip("* \n\t-+.")[:1] if not closed or "<" in inner else inner
        if any(c in "0123456789" for c in begun) and number_of(inner) != score:
            return False
    return True


def principle_stands(rows: list[dict[str, Any]], question: str, category: str) -> bool:
    """Whether a row of the text holds this question with this category's name beside it."""
    names = (category, CATEGORY_NAMES[category].lower().replace(" ", ""), *CHINESE[category])
    return any(
        isinstance(row.get("question"), str)
        and plain(row["question"].strip()) == plain(question)
        and "".join(
            c for c in plain(str(row.get("category"))).lower() if not c.isspace() and c not in "_-"
        )
        in names
        for row in rows
    )


def invented(choice: Choice, count: int, read: dict[str, Any]) -> list[str]:
    """The readers whose value does not stand in the answer."""
    words = words_of(choice)
    if words is None:
        return [name for name, value in read.items() if not isinstance(value, Failure)]
    wrong = []
    trace, gold, principles = read["read_trace"], read["read_gold"], read["read_principles"]
    for name in ("read_score", "read_holistic"):
        value = read[name] if name == "read_score" else getattr(read[name], "score", None)
        if isinstance(value, float) and not score_stands(words, value):
            wrong.append(name)
    if not isinstance(trace, Failure):
        end = verdicts_stand(words, "score", list(trace.verdicts))
        average = sum(trace.verdicts) / count if count else None
        if (
            end is None
            or trace.average != average
            or not score_stands(words[end:], trace.score, all_agree=True)
        ):
            wrong.append("read_trace")
    if not isinstance(gold, Failure):
        end = verdicts_stand(words, "gold", *gold)
        if end is None or len(gold[0]) != count or not ends_there(words[end:]):
            wrong.append("read_gold")
    if not isinstance(principles, Failure):
        rows = [row for _, _, found in lists_in(words, 0) for row in found]
        if not principles or not all(
            principle_stands(rows, p.question, p.category) for p in principles
        ):
            wrong.append("read_principles")
    return wrong
