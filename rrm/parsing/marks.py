"""What stands between tags at the end of an answer: a score, a choice."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rrm.parsing.lists import CLOSING
from rrm.parsing.said import folded, sound, unreadable
from rrm.records import Failure

NUMBER = r"-?[0-9]{1,3}(?:\.[0-9]{1,6})?"
LITERAL = re.compile(
    rf"\**\s*({NUMBER})\s*(?:分|(?:/|out of)\s*([0-9]{{1,3}})(?:\.0+)?\s*分?)?\s*\**", re.IGNORECASE
)


def mark(name: str) -> re.Pattern[str]:
    """A tag of this name with what stands in it."""
    return re.compile(rf"<{name}>([^<]*)</{name}>", re.IGNORECASE)


SCORE = mark("score")
SCORE_BEGUN = re.compile(r"<score>[\s*]*[-+]?\.?[0-9]", re.IGNORECASE)


QUOTES = (("“", "”"), ("「", "」"), ("『", "』"))
LABEL = re.compile(
    r"\W*(?:(?:my|the)\s+)?(?:(?:final|overall|total)\s+)?(?:score|rating|choice|answer|评分|得分|分数|总分|最终得分|最终评分)?\W*",
    re.IGNORECASE,
)
"""What may lead on a line to a score or a choice in code marks that is meant, and not cited."""


def quoted(text: str, begin: int, place: int) -> bool:
    """Whether this place, from `begin` on, is in a quotation: one that was begun on the line before
    it and is not closed, a block quote, or code marks in the middle of a sentence."""
    line = text[max(begin, text.rfind("\n", 0, place) + 1) : place]
    if line.lstrip().startswith(">") or (line.count("`") % 2 == 1 and not LABEL.fullmatch(line)):
        return True
    return line.count('"') % 2 == 1 or any(
        line.count(begin) > line.count(end) for begin, end in QUOTES
    )


def last_marks(text: str, tag: re.Pattern[str], begin: int = 0) -> list[re.Match[str]] | str:
    """The tags of a text from `begin` on, where the last one ends it, else what is wrong."""
    found = list(tag.finditer(text, begin))
    if not found:
        return "there is none"
    if not CLOSING.fullmatch(text, found[-1].end()):
        return "the last one does not end the answer"
    if quoted(text, begin, found[-1].start()):
        return "the last one is quoted"
    return found


def together(text: str, found: Sequence[re.Match[str]]) -> list[re.Match[str]]:
    """The last of the tags, and those before it that nothing but white space and the like parts
    from it: what else stands before is a draft, or was quoted."""
    kept = [found[-1]]
    for one in reversed(found[:-1]):
        if not CLOSING.fullmatch(text, one.end(), kept[-1].start()):
            break
        kept.append(one)
    return kept[::-1]


def number_in(literal: str, high: float = 10) -> float | None:
    """The number that a score's words are beyond doubt: "8", "８．５", "8/10" on a scale that ends at
    10, "8分"."""
    found = LITERAL.fullmatch(folded(literal).strip())
    if found is None or (found[2] is not None and float(found[2]) != high):
        return None
    return float(found[1]) + 0.0  # -0.0 is 0.0


def final_score(text: str, begin: int | None = None) -> float | Failure:
    """The `<score>` in 0–10 that ends an answer.

    Behind a verdict list, which ends at `begin`, all scores must agree; without one, those that
    stand together at the end.
    """
    text = folded(text)
    found = last_marks(text, SCORE, begin or 0)
    if isinstance(found, str):
        where = "" if begin is None else " behind the verdicts"
        return unreadable(text, f"no <score> at the end{where}: {found}")
    last, numbers = found[-1], set()
    for one in found if begin is not None else together(text, found):
        number = number_in(one[1])
        if number is not None or one is last or any(character.isdigit() for character in one[1]):
            numbers.add(number)
    score = number_in(last[1])
    if score is None or not 0 <= score <= 10:
        return Failure(
            kind="unparseable",
            detail=f"the score '{sound(last[1].strip()[:40])}' is no number from 0 to 10",
        )
    starts = {one.start() for one in found}
    unclosed = begin is not None and any(
        one.start() not in starts for one in SCORE_BEGUN.finditer(text, begin)
    )
    if len(numbers) > 1 or unclosed:
        return Failure(
            kind="unparseable", detail="several <score>s that disagree, or one that is not closed"
        )
    return score


def score_span(text: str) -> tuple[int, int] | None:
    """(begin, end) of the number in the `<score>` that ends the text; None where there is none in
    0–10."""
    text = folded(text)
    found = list(SCORE.finditer(text))
    number = number_in(found[-1][1]) if found and CLOSING.fullmatch(text, found[-1].end()) else None
    if number is None or not 0 <= number <= 10:
        return None
    digits = re.compile(NUMBER).search(text, found[-1].start(1))
    return digits.span() if digits else None
