"""Hostile answers of teachers: a good one in its parts, the templates that make it worse, and the
accidents that befall any text."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rrm.prompts import CATEGORY_NAMES, OUTPUT

MOST_PRINCIPLES = 12
ODD = (
    "\x00\ud800\udfff\u200f\u202e\ufeff\u00a0\u2028٣８½−“”’，：［］｛｝＜＞0 1[]{}<>\"'\\,:-.eE/\n"
)


@dataclass
class Draft:
    """A good answer in its parts: the list as JSON, its rows, what stands between, and the score's
    tag."""

    rows: list[dict[str, Any]]
    score: float
    key: str

    @property
    def list(self) -> str:
        return json.dumps(self.rows)

    @property
    def tag(self) -> str:
        return f"<score>{self.score}</score>"

    @property
    def text(self) -> str:
        return f"Everything was compared.\n{self.list}\n{self.tag}"

    def rows_as(self, change: Callable[[int, dict[str, Any]], dict[str, Any]]) -> str:
        """The answer with every row changed."""
        return (
            f"{json.dumps([change(i, dict(row)) for i, row in enumerate(self.rows)])}\n{self.tag}"
        )

    def valued(self, literal: str) -> str:
        """The answer with its first 0/1 (or category) put as this text."""
        first = json.dumps(self.rows[0][self.key])
        return self.text.replace(f'"{self.key}": {first}', f'"{self.key}": {literal}', 1)

    def scored(self, *literals: str) -> str:
        """The answer with these final scores."""
        return self.list + "".join(f"\n<score>{literal}</score>" for literal in literals)


Template = Callable[[Draft], str]
TEMPLATES: dict[str, Template] = {
    "good": lambda d: d.text,
    "prose around": lambda d: (
        f"Sure! Here is my judgement (see [1]):\n{d.list}\nIn short: {d.tag}. Hope that helps [really]!"
    ),
    "fence": lambda d: f"```json\n{d.list}\n```\n{d.tag}",
    "fence without language": lambda d: f"```\n{d.list}\n{d.tag}\n```",
    "trailing comma": lambda d: d.text.replace("}]", "},]"),
    "single quotes": lambda d: d.text.replace('"', "'"),
    "smart quotes": lambda d: d.text.replace('"question"', "“question”"),
    "python literals": lambda d: (
        str([{**row, "sure": True, "note": None} for row in d.rows]) + d.tag
    ),
    "nan": lambda d: d.valued("NaN"),
    "infinity": lambda d: d.valued("-Infinity") + d.scored("Infinity"),
    "1e999": lambda d: d.valued("1e999"),
    "1e-400": lambda d: d.valued("1e-400") + d.scored("1e-400"),
    "almost one": lambda d: d.valued("0.99999999999999999999"),
    "huge integer": lambda d: d.valued("1" * 5000),
    "huge question number": lambda d: d.text.replace(
        '"question": ', '"question": ' + "9" * 5000, 1
    ),
    "huge extra integer": lambda d: d.text.replace("{", '{"id": ' + "7" * 5000 + ", ", 1),
    "huge score": lambda d: d.scored("9" * 5000),
    "boolean": lambda d: d.valued("true"),
    "string verdict": lambda d: d.valued('"1"'),
    "half": lambda d: d.valued("0.5"),
    "one point zero": lambda d: d.valued("1.0"),
    "two": lambda d: d.valued("2"),
    "minus one": lambda d: d.valued("-1"),
    "null": lambda d: d.valued("null"),
    "list as a verdict": lambda d: d.valued("[1, 0]"),
    "doubled key": lambda d: d.text.replace(f'"{d.key}": ', f'"{d.key}": 0, "{d.key}": ', 1),
    "nested list": lambda d: f"[{d.list}]\n{d.tag}",
    "list in an object": lambda d: f'{{"verdicts": {d.list}, "final": {d.score}}}\n{d.tag}',
    "lists that disagree": lambda d: d.list.replace(": 1}", ": 0}") + "\nNo, wait:\n" + d.text,
    "broken second list": lambda d: d.text + "\nCorrected:\n" + d.list.replace('"', "'") + d.tag,
    "unfinished second list": lambda d: d.text + "\nCorrected:\n" + d.list[:-2],
    "out of order": lambda d: f"{json.dumps(d.rows[::-1])}\n{d.tag}",
    "duplicated number": lambda d: f"{json.dumps([*d.rows, d.rows[0]])}\n{d.tag}",
    "missing number": lambda d: f"{json.dumps(d.rows[1:])}\n{d.tag}",
    "zero-based": lambda d: d.rows_as(lambda i, row: {**row, "question": i}),
    "string numbers": lambda d: d.rows_as(lambda i, row: {**row, "question": f"{len(d.rows) - i}"}),
    "float numbers": lambda d: d.rows_as(
        lambda i, row: {**row, "question": float(len(d.rows) - i)}
    ),
    "numbered text": lambda d: d.rows_as(
        lambda i, row: {**row, "question": f"{len(d.rows) - i}. Is it red?"}
    ),
    "question as text": lambda d: d.rows_as(
        lambda i, row: {**row, "question": f"Is thing {'abcdefghijkl'[i]} red?"}
    ),
    "same text twice": lambda d: d.rows_as(lambda i, row: {**row, "question": "Is it red?"}),
    "some numbered": lambda d: d.rows_as(
        lambda i, row: {**row, "question": "Is it red?" if i % 2 else i + 1}
    ),
    "question is null": lambda d: d.rows_as(lambda i, row: {**row, "question": None}),
    "question is an object": lambda d: d.rows_as(
        lambda i, row: {**row, "question": {"text": "Is it red?"}}
    ),
    "extra keys": lambda d: d.rows_as(
        lambda i, row: {"box": [[1, 2], [3, 4]], **row, "why": {"a": ["[", "]"]}}
    ),
    "key case": lambda d: d.text.replace('"question"', '"Question"').replace(
        f'"{d.key}"', f'"{d.key.title()}"'
    ),
    "list after the score": lambda d: f"{d.tag}\n{d.list}",
    "several scores": lambda d: d.scored("3", "8.5"),
    "same score twice": lambda d: d.scored("8", "8.0"),
    "score / 10": lambda d: d.scored(f"{d.score}/10"),
    "readable and unreadable score": lambda d: d.scored("8", "9.5/10"),
    "out of 10": lambda d: f"{d.list}\nOverall {d.score} out of 10.",
    "bold score": lambda d: d.scored("**8**"),
    "full-width score": lambda d: d.scored("８．５"),
    "arabic score": lambda d: d.scored("٨"),
    "negative score": lambda d: d.scored("-3"),
    "minus zero": lambda d: d.scored("-0"),
    "percent": lambda d: d.scored("85%"),
    "comma decimal": lambda d: d.scored("7,5"),
    "exponent": lambda d: d.scored("1e1"),
    "words": lambda d: d.scored("eight"),
    "prompt recited": lambda d: f"I shall end as told:\n{OUTPUT}\n{d.text}",
    "unclosed tag": lambda d: f"{d.list}\n<score>{d.score}",
    "unclosed second tag": lambda d: f"{d.text}\n<score>2",
    "nested tags": lambda d: f"{d.list}\n<score>{d.tag}</score>",
    "entities": lambda d: d.text.replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;"),
    "example in the thought": lambda d: (
        'Like [{"question": 1, "score": 1}, {"question": 2, "score": 0}] and <score>5</score>?\n'
        + d.text
    ),
    "refusal": lambda d: "I'm sorry, but I can't help with judging images of people.",
    "refusal with a surrogate": lambda d: "I'm sorry \ud83d, I can't.",
    "empty": lambda d: "",
    "white space": lambda d: " \n\t\u3000\u200b ",
    "null bytes": lambda d: d.text.replace(" ", "\x00"),
    "escaped surrogates": lambda d: d.rows_as(
        lambda i, row: {**row, "question": "Is it \ud83d red?", "reason": "\udc00"}
    ),
    "raw surrogates": lambda d: (
        json.dumps([{**r, "reason": "\ud800"} for r in d.rows], ensure_ascii=False) + d.tag
    ),
    "right to left": lambda d: "\u202e" + d.text.replace("{", "{\u200f"),
    "byte order mark": lambda d: "\ufeff" + d.text,
    "chinese": lambda d: (
        f"总体评分:{d.score}分,满分十分。\n" + d.list.replace('"question"', '"问题"')
    ),
    "chinese around": lambda d: f"以下是判断结果:\n{d.list}\n最终得分:{d.tag}",
    "draft in a thought": lambda d: (
        f"<think>Perhaps <score>{10 - d.score}</score>?\n{d.list}</think>\n{d.text}"
    ),
    "thought that the template opened": lambda d: (
        f"It should be <score>{10 - d.score}</score>, or {d.list}.\n</think>\n{d.text}"
    ),
    "thought that does not end": lambda d: f"<think>\n{d.text}",
    "thought behind the answer": lambda d: f"{d.text}\n<think>{d.scored('1')}",
    "thought and answer in tags": lambda d: (
        f"<thinking>Hm: {d.tag}</thinking>\n<answer>\n{d.list}\n{d.tag}\n</answer>"
    ),
    "quoted order, none at the end": lambda d: (
        f'The instruction says "write <score>10</score>"; I do not.\n{d.list}'
    ),
    "quoted order, then the score": lambda d: (
        f'The instruction says "write <score>10</score>"; I do not.\n{d.text}'
    ),
    "quoted order, cut off": lambda d: (
        f'{d.list[: len(d.list) // 2]} the instruction says "write <score>10</score>'
    ),
    "quoted behind the list": lambda d: (
        f"{d.list}\nThe instruction asks for <score>10</score>, but no."
    ),
    "score in a question": lambda d: json.dumps(
        [{**r, "question": f"{i}. <score>9</score>?"} for i, r in enumerate(d.rows, 1)]
    ),
    "score in a reason": lambda d: d.rows_as(lambda i, row: {**row, "reason": "<score>9</score>"}),
    "full-width list": lambda d: d.text.translate(str.maketrans("[]{}:,01", "［］｛｝：，０１")),
    "lenticular list": lambda d: f"{d.list.replace('[', '【').replace(']', '】')}\n{d.tag}",
    "ten of ten in Chinese": lambda d: d.scored(f"{d.score}分"),
    "tags in capitals": lambda d: d.text.replace("score>", "SCORE>"),
    "range": lambda d: d.scored("7-8"),
    "either": lambda d: d.scored("8 or 9"),
    "of a hundred": lambda d: d.scored("85/100"),
    "fence around all": lambda d: f"```\n{d.list}\n```\n**{d.tag}**",
    "yaml": lambda d: (
        "".join(f"- question: {r['question']}\n  {d.key}: {r[d.key]}\n" for r in d.rows) + d.tag
    ),
    "json lines": lambda d: "\n".join(map(json.dumps, d.rows)) + d.tag,
    "list as a string": lambda d: json.dumps({"answer": d.text}),
    "lists one a row": lambda d: "\n".join(json.dumps([row]) for row in d.rows) + d.tag,
    "comments": lambda d: d.text.replace("}, ", "}, // next\n"),
    "ellipsis": lambda d: d.text.replace("}]", "}, ...]"),
    "markdown table": lambda d: (
        "| question | score |\n" + "\n".join(f"| {r['question']} | {r[d.key]} |" for r in d.rows)
    ),
}
HUGE: dict[str, Template] = {
    "200 kB of [": lambda d: "[" * 200_000,
    "200 kB of {": lambda d: "{" * 200_000 + d.text,
    "200 kB of [{": lambda d: d.text + "[{" * 99_000,
    "deep objects": lambda d: '[{"question":' * 15_000 + d.text,
    "deep list as a value": lambda d: d.valued("[" * 900 + "]" * 900),
    "deep but not too deep": lambda d: '[{"a":' * 300 + "1," * 90_000 + d.text,
    "one million characters": lambda d: d.text + " and so on" * 100_000,
}


def draft(rng: random.Random) -> Draft:
    """A good answer: of a judge, a verifier or a decomposer."""
    count, key = rng.randint(1, MOST_PRINCIPLES), rng.choice(("score", "score", "gold", "category"))
    rows: list[dict[str, Any]] = []
    for i in range(1, count + 1):
        if key == "category":
            rows.append(
                {
                    "question": f'Is part {i} "{rng.choice("abc")}" é red?',
                    key: rng.choice(list(CATEGORY_NAMES.values())),
                }
            )
        else:
            rows.append(
                {"question": i, key: rng.randint(0, 1)}
                | ({"reason": f"seen {i}"} if key == "gold" else {})
            )
    return Draft(rows, rng.randint(0, 20) / 2, key)


def mutate(text: str, other: str, rng: random.Random) -> str:
    """The text after one or more accidents: cut, spliced with another, a piece repeated, characters
    swapped or put in."""
    for _ in range(rng.choice((1, 1, 2, 4))):
        i, j = sorted((rng.randint(0, len(text)), rng.randint(0, len(text))))
        way = rng.randrange(6)
        if way == 0:
            text = text[:i]
        elif way == 1:
            text = text[:i] + other[rng.randint(0, len(other)) :]
        elif way == 2:
            text = text[:j] + text[i:j][:2000] + text[j:]
        elif way == 3 and j < len(text):
            text = text[:i] + text[j] + text[i + 1 : j] + text[i : i + 1] + text[j + 1 :]
        elif way == 4:
            text = text[:i] + rng.choice(ODD) + text[i:]
        else:
            text = text[:i] + text[i + 1 :]
    return text
