"""Parsers of model output: they never raise and never invent."""

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.bench import hostile, oracle
from rrm.parsing import (
    MOST_CHARACTERS,
    SCORE,
    principle_faults,
    read_gold,
    read_holistic,
    read_principles,
    read_score,
    read_trace,
    rows_with,
    thought_of,
)
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
        ('[{"question": 1.0, "score": 1}, {"question": 2.0, "score": 1}] <score>8</score>', "wrong_verdict_count"),
        ('[{"question": "Is it red?", "score": 1}, {"question": 2, "score": 1}] <score>8</score>', "wrong_verdict_count"),
        (
            '[{"question": "Is it red?", "score": 1}, {"question": "Is it red?", "score": 0}] <score>8</score>',
            "wrong_verdict_count",
        ),
        ('[{"question": 1, "score": 1e-400}, {"question": 2, "score": 1}] <score>8</score>', "unparseable"),
        ('[{"question": 1, "score": 0.99999999999999999999}, {"question": 2, "score": 1}] <score>8</score>', "unparseable"),
        ('[{"question": 1, "score": ' + "1" * 5000 + '}, {"question": 2, "score": 1}] <score>8</score>', "unparseable"),
        ('[{"question": 1, "score": 0, "score": 1}, {"question": 2, "score": 1}] <score>8</score>', "unparseable"),
        (f"{ROWS} <score>8</score> Corrected: {ROWS[:-1]}", "unparseable"),
        (f'{ROWS} <score>8</score> Corrected: [{{"question": 1, "score": 0}}, {{"question": 2}}]', "unparseable"),
        (f"{ROWS} <score>8</score> <score>9/10</score>", "unparseable"),
        (f"{ROWS} <score>8</score> <score>9", "unparseable"),
        (f"{ROWS} <score>８</score>", "unparseable"),
        (f"{ROWS} <score>7,5</score>", "unparseable"),
        ("I'm sorry \ud83d, I can't.", "refused"),
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


def test_hostile_answers_raise_nothing_and_have_nothing_read_into_them():
    found = hostile.measure(2000)
    assert found["examples"] == []
    assert (found["n"], found["exceptions"], found["invented"]) == (2000, 0, 0)
    assert found["readable"] > 500


def test_the_hostile_oracle_notices_a_parser_that_invents():
    text = '[{"question": 2, "score": 1}, {"question": 1, "score": 0}]\n<score>8/10</score>'
    assert not oracle.verdicts_stand(text, "score", [1, 0])
    assert oracle.verdicts_stand(text, "score", [0, 1])
    assert not oracle.verdicts_stand(text, "gold", [0, 1])
    assert not oracle.score_stands(text, 8.0)
    assert not oracle.score_stands("<score>3</score> <score>8</score>", 8.0)
    rows = oracle.lists_in('x [{"question": "Is it red?", "category": "keep"}] ]', 0)[0]
    assert oracle.principle_stands(rows, "Is it red?", "keep")
    assert not oracle.principle_stands(rows, "Is it red?", "follow")


@pytest.mark.parametrize(
    "unit", ["[", "{", "[{", '[{"', '[{"question":', "[[]a", "<score>", "[" * 300 + "1," * 300, "[{}]", "i can"]
)
def test_200_kb_of_nonsense_cost_next_to_nothing(unit):
    text = (unit * (200_000 // len(unit) + 1))[:200_000]
    started = time.process_time()
    assert isinstance(read_trace(text, 3), Failure)
    assert time.process_time() - started < (0.1 if len(unit) == 1 else 0.4)


def test_an_answer_beyond_all_measure_is_unparseable_whatever_it_ends_in():
    text = "x" * MOST_CHARACTERS + ROWS + "<score>8</score>"
    assert [read_trace(text, 2).kind, read_score(text).kind, read_gold(text, 2).kind] == ["unparseable"] * 3
    assert str(MOST_CHARACTERS) in read_score(text).detail
    assert rows_with(text, "question", "score") is None


def test_nesting_beyond_reason_is_a_failure_and_a_box_beside_a_verdict_is_not():
    assert read_trace(f'[{{"question": 1, "score": {"[" * 5000}', 1).kind == "unparseable"
    text = '[{"question": 1, "score": 1, "box": [[1, 2], {"x": [3]}]}] <score>8</score>'
    assert read_trace(text, 1).verdicts == (1,)


@pytest.mark.parametrize("name", ["{}", "Q{}", "Question {}", "{}.", "{}. Is it red?", "{}) [keep] Is it?", "{}: 2 cats?"])
def test_a_number_that_is_written_as_text_puts_its_verdict_in_order(name):
    rows = [{"question": name.format(2), "score": 1}, {"question": name.format(1), "score": 0}]
    assert read_trace(f"{json.dumps(rows)} <score>5</score>", 2).verdicts == (0, 1)


def test_verdicts_on_questions_given_in_words_stay_in_their_order():
    rows = [{"question": "2 circles at the top?", "score": 1}, {"question": "1 square below?", "score": 0}]
    assert read_trace(f"{json.dumps(rows)} <score>5</score>", 2).verdicts == (1, 0)


def test_a_thought_that_recites_the_prompt_does_not_spoil_the_score():
    assert read_trace(f"I must end with <score>S</score>, S from 0.\n{ROWS}\n<score> 8.5\n</score>", 2).score == 8.5


def test_half_a_surrogate_pair_is_no_question_and_leaves_a_reason():
    principle = [{"question": "Is it \ud83d?", "category": "keep"}]
    assert read_principles(json.dumps(principle)).kind == "unparseable"
    gold = [{"question": 1, "gold": 1, "reason": "red \ud83d"}, {"question": 2, "gold": 0, "reason": None}]
    assert read_gold(json.dumps(gold), 2) == ([1, 0], ["red ?", ""])


def of(*questions, category="follow"):
    return [Principle(question=question, category=category) for question in questions]


ANY = {"follow": (0, 9), "keep": (0, 9), "quality": (0, 9)}


def test_a_good_decomposition_has_no_faults():
    principles = [
        *of("Is the red circle gone?", "Was the square painted blue?", "Doesn't the sign read “OPEN?”"),
        *of("Are the other objects unchanged?", "Does the dog's collar stay red?", category="keep"),
        *of("Is the image clean?", "Is the light on the left?", "Is the light on the right?", category="quality"),
    ]
    assert principle_faults(principles, {"follow": (3, 4), "keep": (2, 2), "quality": (2, 3)}, (8, 12)) == []


def test_too_few_and_too_many_questions_are_told_per_category_and_in_all():
    principles = of("Is the circle red?", "Is the square blue?", "Is the star gone?") + of(
        "Is the sky as before?", category="keep"
    )
    assert principle_faults(principles, {"follow": (1, 2), "keep": (2, 3), "quality": (1, 1)}, (5, 6)) == [
        "There are 3 questions of Instruction Following: too many, write 1 to 2.",
        "There is 1 question of Feature Preservation: too few, write 2 to 3.",
        "There are 0 questions of Image Quality: too few, write 1.",
        "There are 4 questions in all: too few, write 5 to 6.",
    ]


@pytest.mark.parametrize(
    "again",
    ["is the CIRCLE red?", "Is  the circle, red ?", "Is the circle now red?", "Is circle clearly red?", "Ｉｓ the circle red?"],
)
def test_a_question_that_is_asked_twice_is_told(again):
    principles = of("Is the circle red?", "Is the square red?", again)
    assert principle_faults(principles, ANY, (0, 9))[0] == "Question 3 asks the same as question 1."


@pytest.mark.parametrize(
    "question", ["The circle is red", "What colour is it?", "Is the square red", "Red?", "1. Is it red?", "背景是否不变？"]
)
def test_what_is_no_yes_no_question_is_told(question):
    (fault,) = principle_faults(of("Is the circle red?", question), ANY, (0, 9))
    assert fault.startswith("Question 2 is not a yes/no question")


def test_a_lone_word_is_told():
    assert principle_faults(of("Is red?"), ANY, (0, 9)) == ["Question 1 is not a whole question."]


def test_a_condition_may_stand_before_a_yes_no_question():
    apart = Principle(question="Apart from the sky, are the colours unchanged?", category="keep")
    told = Principle(question="Apart from the sky, the colours are unchanged?", category="keep")
    ranges = {"keep": (1, 2)}
    assert principle_faults([apart], ranges, (1, 2)) == []
    assert len(principle_faults([told], ranges, (1, 2))) == 1
