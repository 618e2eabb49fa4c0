"""What the labels of a set of pairs mean: decided once per set, from all values that occur, and
never guessed.

Words that can mean one thing only are read as they are. Numbers, booleans and words that are not
known mean something else in another set (1 is the first edit here and the second there): they stop
the run until `labels` says what they mean.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from rrm.errors import InputError
from rrm.records import Label
from rrm.rows.fields import bad

Given = Mapping[str | int | float | bool, Label | None]
"""What a user says that values mean; None: rows with this value are left out."""
LONGEST, MOST = 60, 1000
"""Characters of a value, and different values of a column, that labels may have."""
LISTED = 12
NAMES = (
    "",
    "model",
    "image",
    "edited",
    "edit",
    "output",
    "option",
    "response",
    "candidate",
    "图",
    "图片",
)
SIDES: dict[Label, tuple[str, ...]] = {
    "a": (
        *(f"{name}a" for name in NAMES),
        "left",
        "first",
        "左",
        "左边",
        "左侧",
        "左图",
        "前者",
        "第一个",
        "第一张",
        "甲",
    ),
    "b": (
        *(f"{name}b" for name in NAMES),
        "right",
        "second",
        "右",
        "右边",
        "右侧",
        "右图",
        "后者",
        "第二个",
        "第二张",
        "乙",
    ),
}
ENDINGS = ("", "vote", "better", "isbetter", "wins", "更好", "胜")
SAME = (
    *(
        "same",
        "thesame",
        "samevote",
        "tie",
        "tied",
        "tievote",
        "draw",
        "equal",
        "neither",
        "both",
        "nopreference",
    ),
    *(
        "bothbad",
        "bothbadvote",
        "tiebothbad",
        "bothgood",
        "bothgoodvote",
        "tiebothgood",
        "a=b",
        "b=a",
        "left=right",
    ),
    *(
        "平",
        "平局",
        "平手",
        "持平",
        "相同",
        "一样",
        "一样好",
        "差不多",
        "都好",
        "都差",
        "都不好",
        "都很差",
        "两者相同",
        "无差别",
    ),
)
WORDS: Mapping[str, Label] = {
    **{
        side + ending: label
        for label, sides in SIDES.items()
        for side, ending in product(sides, ENDINGS)
    },
    **dict.fromkeys(("a>b", "b<a", "left>right", "right<left"), "a"),
    **dict.fromkeys(("a<b", "b>a", "left<right", "right>left"), "b"),
    **dict.fromkeys(SAME, "same"),
}
"""Words that mean one thing only, as `word_of` writes them; two edits that are both bad are the
same."""
GSB: Mapping[str, Label] = {
    **dict.fromkeys(("g", "good", "好"), "a"),
    **dict.fromkeys(("s", "same", "相同", "一样", "持平", "平"), "same"),
    **dict.fromkeys(("b", "bad", "差"), "b"),
}
"""Votes that call the first edit good (better than the second), the same, or bad."""
INDEX: Mapping[str, Label] = {"1": "a", "2": "b", "1.5": "same"}
"""AlpacaFarm's and AlpacaEval's `preference`: which of two is preferred, 1.5 for neither."""
INDEX_COLUMN = "preference"


def label_option(text: str) -> dict[str, Label | None]:
    """What `--labels 1=a,2=b,0=same,9=` says, as Given. Raises InputError for anything else."""
    told: dict[str, Label | None] = {}
    for part in text.split(","):
        value, equals, label = part.rpartition("=")
        if not equals or label.strip() not in ("a", "b", "same", ""):
            raise InputError(
                f"--labels: '{part}' is not value=a, value=b, value=same, or value= to leave its rows out."
            )
        told[value.strip()] = label.strip() or None  # type: ignore[assignment]
    return told


@dataclass(frozen=True)
class Said:
    """What a row says of its two edits: in which column, with which value, and what that means
    where its schema fixes it."""

    column: str
    value: str
    meaning: Label | None = None

    @property
    def word(self) -> str:
        """The value as the tables have it."""
        return word_of(self.value)


def said(column: str, value: Any) -> Said:
    """What this value says in this column; BadRow where it can be no label."""
    if not isinstance(value, str | int | float) or len(str(value)) > LONGEST:
        raise bad(f"'{column}' holds no label but {type(value).__name__}")
    return Said(column, str(value).lower() if isinstance(value, bool) else str(value).strip())


def word_of(value: str | int | float | bool) -> str:
    """A value without what does not tell it from others: case, spaces, underscores, brackets, full
    width, the .0 of a whole number."""
    text = unicodedata.normalize("NFKC", str(value)).replace("\u2212", "-").casefold().strip()
    if re.fullmatch(r"[+-]?\d+(\.\d*)?", text):
        return f"{float(text):g}"
    return re.sub(r"[\s_()\[\]{}.,!。!'\"-]+", "", text)


@dataclass(frozen=True)
class Labels:
    """What every value means, by column and word; None: its rows are left out. Other values are
    read by WORDS alone."""

    meanings: Mapping[tuple[str, str], Label | None] = field(default_factory=dict)
    found: Mapping[Said, int] = field(default_factory=dict)

    def leaves_out(self, said: Said) -> bool:
        """Whether the user says that rows with this value are left out."""
        key = (said.column, said.word)
        return said.meaning is None and key in self.meanings and self.meanings[key] is None

    def of(self, said: Said) -> Label:
        """The label; BadRow where there is none."""
        if said.meaning is not None:
            return said.meaning
        key = (said.column, said.word)
        label = self.meanings[key] if key in self.meanings else WORDS.get(said.word)
        if label is None:
            why = (
                "'labels' leaves out"
                if key in self.meanings
                else "is not known for certain to mean a, b or same"
            )
            raise bad(f"'{said.column}' is '{said.value}', which {why}")
        return label

    def rows(self) -> list[dict[str, Any]]:
        """Every value that occurs: its column, in how many rows, and as what it is read; the most
        frequent first."""
        ordered = sorted(
            self.found.items(), key=lambda item: (item[0].column, -item[1], item[0].value)
        )
        return [
            {
                "column": said.column,
                "value": said.value,
                "rows": count,
                "read_as": said.meaning or self.meanings.get((said.column, said.word)),
            }
            for said, count in ordered
        ]


BY_WORDS = Labels()


def vocabulary(column: str, words: set[str]) -> Mapping[str, Label]:
    """What the words of a column mean for certain, all of them looked at together."""
    letters = words <= {"g", "s", "b"} and "g" in words and len(words) > 1
    if letters or words == {
        "good",
        "same",
        "bad",
    }:  # fewer of these may say something else: that a row is good
        return GSB
    if column == INDEX_COLUMN and {"1", "2"} <= words <= INDEX.keys():
        return INDEX
    return WORDS


def decided(
    where: str,
    counts: Mapping[Said, int],
    given: Given | None,
    votes: Mapping[str, Label] | None = None,
) -> Labels:
    """What all values of a set mean; `given` goes before what is known, and `votes` is the
    vocabulary of a set that has but one.

    Raises InputError that lists the values of a column and how often each occurs where the meaning
    of one is not certain.
    """
    told = {
        word_of(str(value).lower() if isinstance(value, bool) else value): label
        for value, label in (given or {}).items()
    }
    columns: defaultdict[str, dict[Said, int]] = defaultdict(dict)
    for one, count in counts.items():
        if one.meaning is None:
            columns[one.column][one] = count
    meanings: dict[tuple[str, str], Label | None] = {}
    for column, values in columns.items():
        words = {one.word for one in values}
        known = votes or vocabulary(column, words - told.keys())
        if words - told.keys() - known.keys():
            raise uncertain(where, column, values)
        meanings |= {(column, word): told[word] if word in told else known[word] for word in words}
    return Labels(meanings, dict(counts))


def uncertain(where: str, column: str, values: Mapping[Said, int]) -> InputError:
    """The error that asks what the values of this column mean."""
    listed = sorted(values.items(), key=lambda item: (-item[1], item[0].value))
    shown = ", ".join(
        f"{one.value!r} in {count} row{'s' * (count != 1)}" for one, count in listed[:LISTED]
    )
    more = f" and {len(listed) - LISTED} more" if len(listed) > LISTED else ""
    # no meanings are filled in: whoever copies them would have chosen none
    values_alone = sorted(one.value for one, _ in listed[:LISTED])
    key, option = (
        ", ".join(f"{value!r}: …" for value in values_alone),
        ",".join(f"{value}=…" for value in values_alone),
    )
    return InputError(
        f"{where}: it is not certain which edit the labels in '{column}' prefer: {shown}{more}; fill in labels: {{{key}}} in the "
        f"config, or --labels '{option}' of a command (a: the first edit is better, b: the second, same: neither; null, or nothing "
        "behind =, leaves its rows out)."
    )


def counted(where: str, found: Iterable[Said]) -> Counter[Said]:
    """How often each value occurs. Raises InputError where there are too many for labels."""
    counts: Counter[Said] = Counter()
    for one in found:
        counts[one] += 1
        if len(counts) > MOST:
            raise InputError(
                f"{where}: '{one.column}' holds more than {MOST} different values, which are no labels; rename it."
            )
    return counts
