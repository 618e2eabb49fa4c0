"""Parsers of model output: they never raise and never invent."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rrm.parsing import SCORE, read_gold, read_holistic, read_principles, read_score, read_trace, thought_of
from rrm.prompts import CATEGORY_NAMES, write_answer, write_principles
from rrm.records import Failure, Principle, Verdicts

FRAGMENTS = st.sampled_from(
    [
        "[",
        "]",
        "{",
        "}",
        '"question"',
        '"score"',
        '"gold"',
        ": ",
        ", ",
        "0",
        "1",
        "2",
        "true",
        "NaN",
        "1e999",
        "<score>",
        "</score>",
    ]
)
TEXTS = st.one_of(st.text(max_size=200), st.lists(FRAGMENTS, max_size=40).map("".join))
VERDICTS = st.lists(st.integers(0, 1), min_size=1, max_size=12)
SCORES = st.integers(0, 100).map(lambda tenths: tenths / 10)
ROWS = '[{"question": 1, "score": 1}, {"question": 2, "score": 0}]'


@given(TEXTS, st.integers(0, 12))
@settings(max_examples=300)
def test_no_text_makes_a_parser_raise_and_what_is_read_stands_in_the_text(text, count):
    trace = read_trace(text, count)
    if isinstance(trace, Verdicts):
        assert len(trace.verdicts) == count
        assert trace.score in {float(found) for found in SCORE.findall(text)}
    gold = read_gold(text, count)
    assert isinstance(gold, Failure) or len(gold[0]) == len(gold[1]) == count
    assert isinstance(read_principles(text), Failure | tuple)
    assert isinstance(read_score(text), Failure | float)
    assert thought_of(text) in text


@given(VERDICTS, SCORES, st.text(alphabet=st.characters(exclude_characters="[]<>"), max_size=100))
def test_a_written_answer_reads_back(verdicts, score, thought):
    read = read_trace(f"{thought}\n{write_answer(verdicts, score)}", len(verdicts))
    assert isinstance(read, Verdicts)
    assert (read.verdicts, read.score, read.average) == (tuple(verdicts), score, sum(verdicts) / len(verdicts))


@given(VERDICTS, SCORES, st.integers(1, 12))
def test_another_number_of_verdicts_is_a_failure(verdicts, score, count):
    read = read_trace(write_answer(verdicts, score), count)
    assert isinstance(read, Verdicts) == (len(verdicts) == count)
    if len(verdicts) != count:
        assert read.kind == "wrong_verdict_count"


@given(VERDICTS, SCORES, st.data())
def test_an_answer_that_breaks_off_is_a_failure(verdicts, score, data):
    text = write_answer(verdicts, score)
    cut = data.draw(st.integers(0, len(text) - 1))
    assert isinstance(read_trace(text[:cut], len(verdicts)), Failure)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("", "empty"),
        (" \n", "empty"),
        ("I'm sorry, I can't judge people.", "refused"),
        ("Looks fine: 8/10.", "unparseable"),
        (ROWS, "unparseable"),
        (f"{ROWS} <score>8</score> <score>9</score>", "unparseable"),
        (f"{ROWS} <score>11</score>", "unparseable"),
        (f"{ROWS} <score>-1</score>", "unparseable"),
        (f"{ROWS} <score>good</score>", "unparseable"),
        ('[{"question": 1, "score": 0.5}, {"question": 2, "score": 1}] <score>8</score>', "unparseable"),
        ('[{"question": 1, "score": true}, {"question": 2, "score": 1}] <score>8</score>', "unparseable"),
        ('[{"question": 1, "score": 1}] <score>8</score>', "wrong_verdict_count"),
        ('[{"question": 1, "score": 1}, {"question": 1, "score": 1}] <score>8</score>', "wrong_verdict_count"),
        ('[{"question": 2, "score": 1}, {"question": 3, "score": 1}] <score>8</score>', "wrong_verdict_count"),
    ],
)
def test_what_cannot_be_read_is_a_named_failure(text, kind):
    assert read_trace(text, 2).kind == kind


def test_the_average_is_worked_out_whatever_the_trace_claims():
    assert read_trace(f'{ROWS} {{"average_score": 0.99}} <score>7</score>', 2).average == 0.5


def test_the_last_list_counts_and_numbers_put_verdicts_in_order():
    draft = '[{"question": 1, "score": 0}, {"question": 2, "score": 0}]'
    final = '[{"question": 2, "score": 1}, {"question": 1, "score": 0}]'
    assert read_trace(f"{draft} … no: {final} <score>5.5</score>", 2) == Verdicts(verdicts=(0, 1), average=0.5, score=5.5)


def test_the_same_score_twice_is_one_score():
    assert read_trace(f"{ROWS} <score>8</score>, that is <score>8.0</score>", 2).score == 8


def test_a_holistic_score_has_no_verdicts():
    assert read_holistic("Nice. <score>6.5</score>") == Verdicts(verdicts=(), average=0.0, score=6.5)
    assert read_holistic("Nice.").kind == "unparseable"


def test_gold_verdicts_come_with_their_reasons():
    rows = [{"question": 2, "gold": 1, "reason": "kept"}, {"question": 1, "gold": 0}]
    assert read_gold(f"Here: {json.dumps(rows)}", 2) == ([0, 1], ["", "kept"])
    assert read_gold(json.dumps(rows), 3).kind == "wrong_verdict_count"


PRINCIPLES = st.lists(
    st.builds(
        Principle,
        question=st.text(min_size=1, max_size=40).map(str.strip).filter(bool),
        category=st.sampled_from(list(CATEGORY_NAMES)),
    ),
    min_size=1,
    max_size=10,
    unique_by=lambda principle: principle.question.lower(),
)


@given(PRINCIPLES)
def test_written_principles_read_back(principles):
    assert read_principles("```json\n" + write_principles(principles) + "\n```") == tuple(principles)


def test_duplicates_are_dropped_and_an_unknown_category_is_a_failure():
    rows = [{"question": "Is it red?", "category": "Follow"}, {"question": "is it red? ", "category": "keep"}]
    assert read_principles(json.dumps(rows)) == (Principle(question="Is it red?", category="follow"),)
    rows.append({"question": "Is it art?", "category": "Beauty"})
    assert read_principles(json.dumps(rows)).kind == "unparseable"
