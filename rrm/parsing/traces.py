"""Traces and gold verdicts: thought, verdict list and final score, each where it belongs."""

from __future__ import annotations

import re
from typing import Any, Literal

from rrm.parsing.lists import Rows, binary, ends, rows_with
from rrm.parsing.marks import SCORE, final_score, last_marks
from rrm.parsing.said import Answer, folded, said, sound, unreadable, written
from rrm.prompts import write_answer
from rrm.records import Failure, Judgement, Principle, Verdicts

LEADING_NUMBER = re.compile(
    r"\s*(?:q(?:uestion)?|问题|第)?\s*#?([0-9]{1,3})\s*[题问]?\s*(?:[.):、](?![0-9]).*)?",
    re.IGNORECASE | re.DOTALL,
)
TITLE = r"(?:final |overall )?(?:score|rating|verdicts?|answer|judge?ment|json)s?|(?:最终|总体)?(?:得分|评分|判断|结果|结论|答案|判断结果)"
DRESSING = re.compile(
    rf"|`{{3,}}\w*|</?\w+>|#{{1,6}} .*|\*\*[^*]*\*\*:?|\*?\*?(?:{TITLE})\*?\*?:\*?\*?|\{{\s*\"\w+\"\s*:",
    re.IGNORECASE,
)
"""A line that only leads to the verdicts: a fence, a tag, a heading."""
SCORE_TAG = re.compile(r"[<＜][/／]?score[>＞]", re.IGNORECASE)


def number_of(question: Any) -> int | None:
    """The principle's number that a row's "question" gives: 2, "2", "Q2", "问题2" or "2. Is it red?";
    None for anything else."""
    if isinstance(question, str):
        found = LEADING_NUMBER.fullmatch(folded(question))
        return int(found[1]) if found else None
    return question if isinstance(question, int) and not isinstance(question, bool) else None


def by_number(rows: list[dict[str, Any]]) -> list[dict[str, Any]] | None:
    """Rows whose "question" is the principle's number, put in order; as they are where it is its
    text.

    None where numbers or texts clash, or where some rows have a number and some have not.
    """
    questions = [row["question"] for row in rows]
    numbers = [number for number in map(number_of, questions) if number is not None]
    if not numbers and all(
        isinstance(question, str) and question.strip() for question in questions
    ):
        return rows if len(set(questions)) == len(rows) else None
    if sorted(numbers) != list(range(1, len(rows) + 1)):
        return None
    return sorted(rows, key=lambda row: number_of(row["question"]) or 0)


def read_verdict_rows(
    words: str, key: str, count: int
) -> tuple[list[Literal[0, 1]], Rows] | Failure:
    """The 0/1 under `key` for each of `count` principles, with the rows they stand in, in the
    principles' order."""
    found = rows_with(words, "question", key)
    if found is None:
        return unreadable(words, f'no JSON list of {{"question", "{key}"}} that can be read')
    if len(found.rows) != count:
        return Failure(
            kind="wrong_verdict_count", detail=f"{len(found.rows)} verdicts for {count} principles"
        )
    ordered = by_number(found.rows)
    if ordered is None:
        return Failure(kind="wrong_verdict_count", detail="the questions' numbers are not 1 … n")
    values = [binary(row[key]) for row in ordered]
    if None in values:
        return Failure(kind="unparseable", detail="a verdict is neither 0 nor 1")
    return [value for value in values if value is not None], found._replace(rows=ordered)


def read_score(answer: Answer) -> float | Failure:
    """The `<score>` in 0–10 that ends an answer without verdicts; scores that disagree side by side
    there are unreadable."""
    found = said(answer)
    return found if isinstance(found, Failure) else final_score(found.answer)


def read_holistic(answer: Answer) -> Verdicts | Failure:
    """The score of a judgement that was given without principles: no verdicts, so an average of 0
    that says nothing."""
    score = read_score(answer)
    return score if isinstance(score, Failure) else Verdicts(verdicts=(), average=0.0, score=score)


def read_trace(answer: Answer, count: int) -> Verdicts | Failure:
    """Verdicts and final score of a trace on `count` principles.

    The last list of `{"question", "score"}` counts, with exactly `count` verdicts of 0 or 1, and
    the `<score>` in 0–10 that stands behind it and ends the answer. What was thought, drafted or
    quoted before that is not read. The average is worked out from the verdicts, whatever the trace
    claims.
    """
    found = said(answer)
    if isinstance(found, Failure):
        return found
    values = read_verdict_rows(found.answer, "score", count)
    if isinstance(values, Failure):
        return values
    verdicts, rows = values
    score = final_score(found.answer, rows.end)
    if isinstance(score, Failure):
        return score
    return Verdicts.model_validate(
        {"verdicts": verdicts, "average": sum(verdicts) / len(verdicts), "score": score}
    )


def read_answer(answer: Answer, count: int) -> Verdicts | Failure:
    """What a judge's answer amounts to: a trace on `count` principles, or a holistic judgement
    where it was shown none."""
    return read_trace(answer, count) if count else read_holistic(answer)


def read_gold(answer: Answer, count: int) -> tuple[list[Literal[0, 1]], list[str]] | Failure:
    """Gold 0/1 and one-line reasons for `count` principles, from the list of `{"question", "gold",
    "reason"}` that ends an answer."""
    found = said(answer)
    if isinstance(found, Failure):
        return found
    values = read_verdict_rows(found.answer, "gold", count)
    if isinstance(values, Failure):
        return values
    verdicts, rows = values
    if not ends(found.answer, rows):
        return Failure(
            kind="unparseable", detail="the list of gold verdicts does not end the answer"
        )
    reasons = [row.get("reason") for row in rows.rows]
    return verdicts, [sound(reason) if isinstance(reason, str) else "" for reason in reasons]


def thought_of(answer: Answer, holistic: bool = False) -> str:
    """The reasoning: what was thought apart, and what stands before the verdict list, or before the
    score where there is no list.

    A `holistic` judgement has no list that counts. All of an answer that cannot be read at all is
    thought.
    """
    found = said(answer)
    if isinstance(found, Failure):
        return written(answer).strip()
    rows = None if holistic else rows_with(found.answer, "question", "score")
    marks = last_marks(folded(found.answer), SCORE)
    cut = rows.begin if rows else len(found.answer) if isinstance(marks, str) else marks[-1].start()
    return "\n".join(part for part in (found.thought, undressed(found.answer[:cut])) if part)


def judgement_of(answer: Answer, principles: tuple[Principle, ...]) -> Judgement:
    """The judgement that an answer amounts to: its thought and verdicts (none of a holistic one),
    or a named failure."""
    read = read_answer(answer, len(principles))
    if isinstance(read, Failure):
        return Judgement(principles=principles, thought=sound(written(answer)), failure=read)
    return Judgement(
        principles=principles, thought=sound(thought_of(answer, holistic=not principles)), read=read
    )


def undressed(words: str) -> str:
    """What leads to the verdicts without the lines that only lead to them."""
    lines = words.strip().split("\n")
    while lines and DRESSING.fullmatch(folded(lines[-1].strip())):
        lines.pop()
    return "\n".join(lines).strip()


def canonical(answer: Answer, read: Verdicts, thinks: bool = True) -> str:
    """A trace in the one form that is trained on: its thought (unless the set is one that does not
    think), then verdicts, average and score as `write_answer` has them.

    The tags of scores that were drafted in the thought are left out, so that the target has one
    score.
    """
    if not thinks:
        return write_answer(read.verdicts, read.score)
    thought, tags = sound(thought_of(answer, holistic=not read.verdicts)), 1
    while tags:  # what is left may be a tag in turn
        thought, tags = SCORE_TAG.subn("", thought)
    thought = undressed(thought)
    end = write_answer(read.verdicts, read.score)
    return f"{thought}\n{end}" if thought else end
