"""JSON that stands somewhere in a text: where it begins, where it ends, and what it says beyond
doubt."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

from rrm.parsing.said import folded

MOST_FAILURES = 1000
"""A text is given up after so many beginnings of JSON that came to nothing, or when they were
longer than the text together."""
MOST_FOLDED = 20
"""Lists in full-width characters that are tried in one text."""
LONGEST_FOLDED = 20_000
"""Characters of such a list."""
LONGEST_INTEGER = 4
PLAIN = re.compile(r"-?[0-9]{1,3}(?:\.[0-9]{1,6})?")
CLOSING = re.compile(r"(?:[\s`*]|</\s?\w{1,40}\s?>|<\|[^|<>]{1,40}\|>)*")
"""What may stand behind the end of an answer: white space, fences, and tags that close."""
BEGUN = {"[": re.compile(r"[\[［【]\s*[{｛]"), "{": re.compile(r"[{｛]\s*[\"“＂]")}
"""How a list of objects begins, and an object with a key."""
OPENERS = {"[": re.compile(r"[\[［【]"), "{": re.compile(r"[{｛]")}
STRUCTURE = re.compile(r'"(?:[^"\\\n]|\\.)*"|“[^“”"\\\n]*”|[［］【】｛｝：，．０-９]')
WIDE = re.compile(r"[［］【】｛｝：，．“”０-９]")
BRACKETS = str.maketrans("【】", "[]")


class Place(NamedTuple):
    """A JSON value and where it stands in its text; None for one that was begun and cannot be read."""

    value: Any
    begin: int
    end: int


class Rows(NamedTuple):
    """A list of objects and where it stands in its text."""

    rows: list[dict[str, Any]]
    begin: int
    end: int


def plain_number(literal: str) -> float:
    """The number where it is written plainly; nan where it is huge, tiny, or longer than any
    verdict."""
    return float(literal) if PLAIN.fullmatch(literal) else math.nan


def plain_integer(literal: str) -> int | float:
    """The integer; nan where no number of a question is that long."""
    return int(literal) if len(literal) <= LONGEST_INTEGER else math.nan


def row_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, its keys in small letters; a key that stands in it twice says nothing."""
    named = [(folded(key).strip().lower(), value) for key, value in pairs]
    row = dict(named)
    if len(row) < len(named):
        times = Counter(key for key, _ in named)
        row = {key: value if times[key] == 1 else None for key, value in row.items()}
    return row


DECODER = json.JSONDecoder(
    object_pairs_hook=row_of,
    parse_float=plain_number,
    parse_int=plain_integer,
    parse_constant=lambda name: math.nan,
)


def narrow(found: re.Match[str]) -> str:
    """A full-width sign of JSON's as a plain one; what stands between quotes as it is."""
    text = found[0]
    if text.startswith("“"):
        return f'"{text[1:-1]}"'
    return text if text.startswith('"') else folded(text).translate(BRACKETS)


def json_values(text: str, opener: Literal["[", "{"]) -> Iterator[Place]:
    """Every outermost JSON array (or object) in the text, in order, also one in full-width signs.

    A value of None stands for a list of objects that was begun and is not valid JSON. A text that
    nests too deep to be read, or that would cost too much, ends with None.
    """
    budget = float(len(text))
    folds = MOST_FOLDED if WIDE.search(text) else 0
    openers = OPENERS[opener]
    opened = openers.search(text)
    while opened:
        position, end = opened.start(), opened.start() + 1
        begun = BEGUN[opener].match(text, position)
        try:
            value, end = DECODER.raw_decode(text, position)
            yield Place(value, position, end)
        except RecursionError:
            yield Place(None, position, len(text))
            return
        except json.JSONDecodeError as error:
            budget -= max(error.pos - position, len(text) / MOST_FAILURES)
            if budget < 0:
                yield Place(None, position, len(text))
                return
            if begun:
                found = folded_value(text, position) if folds > 0 else None
                folds -= 1
                if found or opener == "[":
                    yield found or Place(None, position, end)
                end = found.end if found else end
        opened = openers.search(text, end)


def folded_value(text: str, position: int) -> Place | None:
    """The value that begins here where its full-width signs are taken for plain ones."""
    try:
        value, end = DECODER.raw_decode(
            STRUCTURE.sub(narrow, text[position : position + LONGEST_FOLDED])
        )
    except (json.JSONDecodeError, RecursionError):
        return None
    return Place(value, position, position + end)


def rows_with(text: str, *keys: str) -> Rows | None:
    """The last JSON array of the text that is a non-empty list of objects with all these keys.

    None where there is none, and where a later list was begun that cannot be read: an earlier one
    may be a draft.
    """
    found = None
    for array, begin, end in json_values(text, "["):
        fits = [isinstance(row, dict) and all(key in row for key in keys) for row in array or []]
        if array is None or (any(fits) and not all(fits)):
            found = None
        elif fits and all(fits):
            found = Rows(array, begin, end)
    return found


def ends(text: str, listed: Rows) -> bool:
    """Whether the list ends the text, but for fences and the like."""
    return CLOSING.fullmatch(text, listed.end) is not None


def binary(value: Any) -> Literal[0, 1] | None:
    """0 or 1 where the value says so without doubt (0, 1.0, "1", true, "false"), else None."""
    if isinstance(value, str):
        value = folded(value).strip().lower()
        value = {"true": 1, "false": 0}.get(value, plain_number(value))
    if not isinstance(value, int | float):
        return None
    return 1 if value == 1 else 0 if value == 0 else None
