"""Principles of a decomposition: read from an answer, and checked before anybody pays for judging
by them."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence

from rrm.parsing.lists import rows_with
from rrm.parsing.said import Answer, said, sound, unreadable
from rrm.prompts import CATEGORY_NAMES
from rrm.records import Category, Failure, Principle

NAMES: dict[Category, str] = {
    "follow": "instruction following|follow|遵循指令|指令遵循|指令跟随|遵循|跟随|遵循指示|指令执行",
    "keep": "feature preservation|keep|特征保持|特征保留|特徵保持|特徵保留|保持|保留|内容保持|一致性",
    "quality": "image quality|quality|图像质量|图片质量|画面质量|画质|质量|圖像品質|圖片品質|畫質|品質",
}
APART = re.compile(r"[\s_\-]+")
CATEGORIES: dict[str, Category] = {
    APART.sub("", name): key for key, names in NAMES.items() for name in names.split("|")
}
AUXILIARIES = (
    "am|is|are|was|were|do|does|did|has|have|had|can|could|should|shall|will|would|may|might|must"
)
QUOTES = "\"'”’)」』》"
YES_NO = re.compile(rf"(?:[^,?]+, )?(?:{AUXILIARIES})(?:n['’]t)?\b", re.IGNORECASE)
YES_NO_CHINESE = re.compile(r"是否|[能可]否|有[无無]|(.)[不没沒]\1|[吗嗎]\?$")
"""是否…？, 能否…？, 有没有…？ (any word around 不 or 没), …吗？"""
NUMBERED = re.compile(r"[0-9]+[.、)]")
HAN = "\u3400-\u4dbf\u4e00-\u9fff"
WORD = re.compile(rf"[{HAN}]|[^\W{HAN}]+(?:['’][^\W{HAN}]+)*")
"""A word; in Chinese, a character."""
FILLERS = frozenset(
    ["a", "an", "the", "now", "still", "clearly", "completely", "fully", "entirely", "really"]
)
FEWEST_WORDS = 3


def category_of(named: object) -> Category | None:
    """The category that a name means, in English or Chinese, however its words are joined; None for
    any other."""
    return (
        CATEGORIES.get(APART.sub("", unicodedata.normalize("NFKC", named)).lower())
        if isinstance(named, str)
        else None
    )


def read_principles(answer: Answer) -> tuple[Principle, ...] | Failure:
    """Principles from a JSON list of `{"question", "category"}`; duplicates are dropped, an unknown
    category is a failure."""
    found = said(answer)
    if isinstance(found, Failure):
        return found
    rows = rows_with(found.answer, "question", "category")
    if rows is None:
        return unreadable(found.answer, 'no JSON list of {"question", "category"} that can be read')
    principles: dict[str, Principle] = {}
    for number, row in enumerate(rows.rows, 1):
        question, category = row["question"], category_of(row["category"])
        if category is None:
            return Failure(
                kind="unparseable",
                detail=f"the category of question {number} is none of {', '.join(CATEGORY_NAMES.values())}",
            )
        if not isinstance(question, str) or not question.strip() or sound(question) != question:
            return Failure(kind="unparseable", detail=f"question {number} is not a text")
        principles.setdefault(
            question.strip().lower(), Principle(question=question.strip(), category=category)
        )
    return tuple(principles.values())


def principle_faults(
    principles: Sequence[Principle],
    counts: Mapping[Category, tuple[int, int]],
    total: tuple[int, int],
) -> list[str]:
    """Everything that is wrong with a decomposition, a plain sentence each, for asking its teacher
    again; none: it is valid.

    `counts` gives the fewest and most questions per category, `total` those in all.
    """
    found = Counter(principle.category for principle in principles)
    faults = [
        fault
        for category, allowed in counts.items()
        if (fault := count_fault(found[category], allowed, f" of {CATEGORY_NAMES[category]}"))
    ]
    faults += [fault] if (fault := count_fault(len(principles), total, " in all")) else []
    return faults + question_faults(principles)


def question_faults(principles: Sequence[Principle]) -> list[str]:
    """What is wrong with the questions, whatever their number: the one rule, in English or Chinese,
    for teachers and for users."""
    faults: list[str] = []
    first: dict[tuple[str, ...], int] = {}
    for number, principle in enumerate(principles, 1):
        words = WORD.findall(unicodedata.normalize("NFKC", principle.question).casefold())
        core = tuple(word for word in words if word not in FILLERS)
        if core and first.setdefault(core, number) != number:
            faults.append(f"Question {number} asks the same as question {first[core]}.")
        if not is_yes_no(principle.question):
            faults.append(
                f'Question {number} is not a yes/no question: begin with a word like "Is" or "Does", end with "?".'
            )
        elif len(words) < FEWEST_WORDS:
            faults.append(f"Question {number} is not a whole question.")
    return faults


def is_yes_no(question: str) -> bool:
    """Whether yes or no answers the question, as far as its form tells."""
    plain = question.strip().replace("？", "?").rstrip(QUOTES)
    if not plain.endswith("?") or NUMBERED.match(plain):
        return False
    return bool(YES_NO.match(plain) or YES_NO_CHINESE.search(plain))


def count_fault(found: int, allowed: tuple[int, int], what: str) -> str | None:
    """What is wrong with this number of questions, or None."""
    low, high = allowed
    if low <= found <= high:
        return None
    are = f"There is 1 question{what}" if found == 1 else f"There are {found} questions{what}"
    return f"{are}: too {'few' if found < low else 'many'}, write {low if low == high else f'{low} to {high}'}."
