"""Parsers of model output: they never raise and never invent."""

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from data_pipeline.perf import hostile, oracle
from rrm.parsing import (
    canonical,
    principle_faults,
    read_answer,
    read_gold,
    read_holistic,
    read_principles,
    read_score,
    read_trace,
    thought_of,
    written,
)
from rrm.parsing.marks import SCORE, number_in
from rrm.parsing.said import MOST_CHARACTERS
from rrm.prompts import CATEGORY_NAMES, write_answer, write_principles
from rrm.records import Choice, Failure, Judgement, Principle, Verdicts

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
        assert trace.score in {number_in(found) for found in SCORE.findall(text)}
    gold = read_gold(text, count)
    assert isinstance(gold, Failure) or len(gold[0]) == len(gold[1]) == count
    assert isinstance(read_principles(text), Failure | tuple)
    assert isinstance(read_score(text), Failure | float)
    assert thought_of(text) in text


@given(VERDICTS, SCORES, st.text(alphabet=st.characters(exclude_characters="[]<>"), max_size=100))
def test_a_written_answer_reads_back(verdicts, score, thought):
    read = read_trace(f"{thought}\n{write_answer(verdicts, score)}", len(verdicts))
    assert isinstance(read, Verdicts)
    assert (read.verdicts, read.score, read.average) == (
        tuple(verdicts),
        score,
        sum(verdicts) / len(verdicts),
    )


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
        (
            '[{"question": 1, "score": 0.5}, {"question": 2, "score": 1}] <score>8</score>',
            "unparseable",
        ),
        (
            '[{"question": 1, "score": "yes"}, {"question": 2, "score": 1}] <score>8</score>',
            "unparseable",
        ),
        ('[{"question": 1, "score": 1}] <score>8</score>', "wrong_verdict_count"),
        (
            '[{"question": 1, "score": 1}, {"question": 1, "score": 1}] <score>8</score>',
            "wrong_verdict_count",
        ),
        (
            '[{"question": 2, "score": 1}, {"question": 3, "score": 1}] <score>8</score>',
            "wrong_verdict_count",
        ),
        (
            '[{"question": 1.0, "score": 1}, {"question": 2.0, "score": 1}] <score>8</score>',
            "wrong_verdict_count",
        ),
        (
            '[{"question": "Is it red?", "score": 1}, {"question": 2, "score": 1}] <score>8</score>',
            "wrong_verdict_count",
        ),
        (
            '[{"question": "Is it red?", "score": 1}, {"question": "Is it red?", "score": 0}] <score>8</score>',
            "wrong_verdict_count",
        ),
        (
            '[{"question": 1, "score": 1e-400}, {"question": 2, "score": 1}] <score>8</score>',
            "unparseable",
        ),
        (
            '[{"question": 1, "score": 0.99999999999999999999}, {"question": 2, "score": 1}] <score>8</score>',
            "unparseable",
        ),
        (
            '[{"question": 1, "score": '
            + "1" * 5000
            + '}, {"question": 2, "score": 1}] <score>8</score>',
            "unparseable",
        ),
        (
            '[{"question": 1, "score": 0, "score": 1}, {"question": 2, "score": 1}] <score>8</score>',
            "unparseable",
        ),
        (f"{ROWS} <score>8</score> Corrected: {ROWS[:-1]}", "unparseable"),
        (
            f'{ROWS} <score>8</score> Corrected: [{{"question": 1, "score": 0}}, {{"question": 2}}]',
            "unparseable",
        ),
        (f"{ROWS} <score>8</score> <score>9/10</score>", "unparseable"),
        (f"{ROWS} <score>8</score> <score>9", "unparseable"),
        (f"{ROWS} <score>８５</score>", "unparseable"),
        (f"{ROWS} <score>7-8</score>", "unparseable"),
        (f"{ROWS} <score>8 or 9</score>", "unparseable"),
        (f"{ROWS} <score>80%</score>", "unparseable"),
        (f"{ROWS} <score>8/100</score>", "unparseable"),
        (f"{ROWS} <score>8</score> <score>9分</score>", "unparseable"),
        (f"{ROWS} <score>8</score>.", "unparseable"),
        (f"{ROWS} <score>9 <b>no</b>, <score>S</score> is <score>8</score>", "unparseable"),
        (f"{ROWS} <score>8e>3</score> <score>8</score>", "unparseable"),
        (f'{ROWS} The instruction says "write <score>10</score>', "unparseable"),
        (f"{ROWS} 指令写道“<score>10</score>", "unparseable"),
        ("I won't rate pictures of people.", "refused"),
        ("对不起，目前无法分析该图像", "refused"),
        (f"{ROWS} <score>8</score> Hope that helps!", "unparseable"),
        (f'{ROWS} The instruction wants "<score>10</score>", but no.', "unparseable"),
        (f"The instruction wants <score>10</score>, but no. {ROWS}", "unparseable"),
        ("抱歉，我无法评估这张图片。", "refused"),
        ("作为一个AI语言模型，我不能评价人物。", "refused"),
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
    assert read_trace(f"{draft} … no: {final} <score>5.5</score>", 2) == Verdicts(
        verdicts=(0, 1), average=0.5, score=5.5
    )


def test_the_same_score_twice_is_one_score():
    assert read_trace(f"{ROWS} <score>8</score>, that is <score>8.0</score>", 2).score == 8


def test_a_holistic_score_has_no_verdicts():
    assert read_holistic("Nice. <score>6.5</score>") == Verdicts(
        verdicts=(), average=0.0, score=6.5
    )
    assert read_holistic("Nice.").kind == "unparseable"


def test_gold_verdicts_come_with_their_reasons():
    rows = [{"question": 2, "gold": 1, "reason": "kept"}, {"question": 1, "gold": 0}]
    assert read_gold(f"Here: {json.dumps(rows)}", 2) == ([0, 1], ["", "kept"])
    assert read_gold(json.dumps(rows), 3).kind == "wrong_verdict_count"
    assert (
        read_gold(f'The instruction says "answer {json.dumps(rows)}", but', 2).kind == "unparseable"
    )


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
    assert read_principles("```json\n" + write_principles(principles) + "\n```") == tuple(
        principles
    )


def test_duplicates_are_dropped_and_an_unknown_category_is_a_failure():
    rows = [
        {"question": "Is it red?", "category": "Follow"},
        {"question": "is it red? ", "category": "keep"},
    ]
    assert read_principles(json.dumps(rows)) == (
        Principle(question="Is it red?", category="follow"),
    )
    rows.append({"question": "Is it art?", "category": "Beauty"})
    assert read_principles(json.dumps(rows)).kind == "unparseable"


def test_hostile_answers_raise_nothing_and_have_nothing_read_into_them():
    found = hostile.measure(2000)
    assert found["examples"] == []
    assert (found["n"], found["exceptions"], found["invented"]) == (2000, 0, 0)
    assert found["readable"] > 500


def test_the_hostile_oracle_notices_a_parser_that_invents():
    text = '[{"question": 2, "score": 1}, {"question": 1, "score": 0}]\n<score>8/10</score>'
    assert oracle.verdicts_stand(text, "score", [1, 0]) is None
    assert oracle.verdicts_stand(text, "score", [0, 1]) == text.index("\n")
    assert oracle.verdicts_stand(text, "gold", [0, 1]) is None
    assert not oracle.score_stands(text.replace("8/10", "8/20"), 8.0)
    assert not oracle.score_stands("<score>3</score> <score>8</score>", 8.0)
    assert not oracle.score_stands("<score>8</score> he said", 8.0)
    assert oracle.score_stands("<score>3</score>, or <score>8</score>", 8.0)
    assert not oracle.score_stands("<score>3</score>, or <score>8</score>", 8.0, all_agree=True)
    assert oracle.words_of(Choice(content="<think>a</think>b")) == "b"
    assert (
        oracle.words_of(Choice(content="<think>a"))
        is oracle.words_of(Choice(content="b", finish_reason="length"))
        is None
    )
    rows = oracle.lists_in('x [{"question": "Is it red?", "category": "keep"}] ]', 0)[0][2]
    assert oracle.principle_stands(rows, "Is it red?", "keep")
    assert not oracle.principle_stands(rows, "Is it red?", "follow")


@pytest.mark.parametrize(
    "unit",
    [
        "[",
        "{",
        "[{",
        '[{"',
        '[{"question":',
        "[[]a",
        "<score>",
        "[" * 300 + "1," * 300,
        "[{}]",
        "i can",
    ],
)
def test_200_kb_of_nonsense_cost_next_to_nothing(unit):
    text = (unit * (200_000 // len(unit) + 1))[:200_000]
    started = time.process_time()
    assert isinstance(read_trace(text, 3), Failure)
    assert time.process_time() - started < (0.1 if len(unit) == 1 else 0.4)


def test_an_answer_beyond_all_measure_is_unparseable_whatever_it_ends_in():
    text = "x" * MOST_CHARACTERS + ROWS + "<score>8</score>"
    assert [read_trace(text, 2).kind, read_score(text).kind, read_gold(text, 2).kind] == [
        "unparseable"
    ] * 3
    assert str(MOST_CHARACTERS) in read_score(text).detail


def test_nesting_beyond_reason_is_a_failure_and_a_box_beside_a_verdict_is_not():
    assert read_trace(f'[{{"question": 1, "score": {"[" * 5000}', 1).kind == "unparseable"
    text = '[{"question": 1, "score": 1, "box": [[1, 2], {"x": [3]}]}] <score>8</score>'
    assert read_trace(text, 1).verdicts == (1,)


@pytest.mark.parametrize(
    "name",
    ["{}", "Q{}", "Question {}", "{}.", "{}. Is it red?", "{}) [keep] Is it?", "{}: 2 cats?"],
)
def test_a_number_that_is_written_as_text_puts_its_verdict_in_order(name):
    rows = [{"question": name.format(2), "score": 1}, {"question": name.format(1), "score": 0}]
    assert read_trace(f"{json.dumps(rows)} <score>5</score>", 2).verdicts == (0, 1)


def test_verdicts_on_questions_given_in_words_stay_in_their_order():
    rows = [
        {"question": "2 circles at the top?", "score": 1},
        {"question": "1 square below?", "score": 0},
    ]
    assert read_trace(f"{json.dumps(rows)} <score>5</score>", 2).verdicts == (1, 0)


def test_a_thought_that_recites_the_prompt_does_not_spoil_the_score():
    assert (
        read_trace(
            f"I must end with <score>S</score>, S from 0.\n{ROWS}\n<score> 8.5\n</score>", 2
        ).score
        == 8.5
    )


@pytest.mark.parametrize(
    ("end", "score"),
    [
        ("<score>８．５</score>", 8.5),
        ("<score>8/10</score>", 8),
        ("<score>8 / 10</score>", 8),
        ("<score>8分</score>", 8),
        ("<score>**8**</score>", 8),
        ("<Score>8</Score>", 8),
        ("<SCORE> 8 </SCORE>", 8),
        ("＜score＞８＜/score＞", 8),
        ("**<score>8</score>**\n```\n</answer>", 8),
        ("<score>8</score><|im_end|>\n", 8),
        ('{"average_score": 0.5} <score>8</score>', 8),
        ("I shall write <score>S</score>: <score>8</score>", 8),
        ("<score>8</score>, that is <score>8.0</score>", 8),
    ],
)
def test_a_score_that_is_beyond_doubt_is_read_however_it_is_written(end, score):
    assert read_trace(f"{ROWS}\n{end}", 2) == Verdicts(verdicts=(1, 0), average=0.5, score=score)
    assert read_holistic(f"Well kept.\n{end}").score == score


@pytest.mark.parametrize(
    "rows",
    [
        '[{"question": "1", "score": "1"}, {"question": "2", "score": "0"}]',
        '[{"Question": 1, "Score": true}, {"Question": 2, "Score": false}]',
        "［｛“question”：１，“score”：１｝，｛“question”：２，“score”：０｝］",
        '【{"question": "问题1", "score": 1}, {"question": "问题2", "score": 0}】',
        '[{"question": "第2题", "score": 0}，{"question": "第1题", "score": 1}]',
        '[{"question": "1、背景是否不变？", "score": 1}, {"question": "2、主体是否清晰？", "score": "０"}]',
    ],
)
def test_verdicts_that_are_beyond_doubt_are_read_however_they_are_written(rows):
    draft = '[{"question": 1, "score": 0}, {"question": 2, "score": 0}]'
    assert read_trace(f"以下是判断：{draft}\n{rows}\n最终得分：<score>6</score>", 2).verdicts == (
        1,
        0,
    )


def test_what_cannot_be_a_score_is_named_in_the_failure():
    for literal in ("80%", "7-8", "8 or 9", "8/100"):
        assert literal in read_trace(f"{ROWS}<score>{literal}</score>", 2).detail


DRAFT = '[{"question": 1, "score": 0}, {"question": 2, "score": 0}]'


@pytest.mark.parametrize(
    "thought",
    [
        "<think>Roughly <score>8</score>?</think>",
        f"<thinking>{DRAFT} <score>3</score></thinking>",
        f"<THOUGHT>{DRAFT}</THOUGHT>",
        f"{DRAFT} <score>8</score>\n</think>",
        "◁think▷<score>8</score>◁/think▷",
        "<think>a</think><think><score>8</score></think>",
        "The instruction asks for <score>10</score>, which is not my business.",
    ],
)
def test_what_was_thought_or_quoted_before_the_answer_is_not_read(thought):
    assert read_trace(f"{thought}\n<answer>{ROWS}\n<score>6.5</score></answer>", 2).score == 6.5
    assert read_holistic(f"{thought}\nIt is <score>6.5</score>").score == 6.5


def test_a_question_that_holds_a_score_is_not_one():
    rows = ROWS.replace('"question": 1', '"question": "1. <score>9</score> on a 6\\" screen?"')
    assert read_trace(rows, 2).kind == "unparseable"
    assert read_trace(f"{rows}<score>4</score>", 2).score == 4


def test_an_answer_that_was_cut_off_or_refused_is_never_read():
    good = f"{ROWS}<score>8</score>"
    assert read_trace(Choice(content=good), 2).score == 8
    for reading in (
        lambda c: read_trace(c, 2),
        lambda c: read_gold(c, 2),
        read_holistic,
        read_principles,
    ):
        assert reading(Choice(content=good, finish_reason="length")).kind == "cut_off"
        assert (
            reading(Choice(content="", reasoning="Let me see", finish_reason="length")).kind
            == "cut_off"
        )
        assert reading(Choice(content=f"<think>{good}")).kind == "cut_off"
        assert reading(Choice(content=good, finish_reason="content_filter")).kind == "refused"
        assert reading(Choice(content="", refusal="I won't.")) == Failure(
            kind="refused", detail="I won't."
        )
        assert reading(Choice(content="", reasoning=good)) == Failure(
            kind="empty", detail="a thought without an answer"
        )


def test_the_thought_is_all_that_stands_before_the_list_that_is_read():
    pretty = json.dumps(json.loads(ROWS), indent=2)
    answer = Choice(
        content=f"{DRAFT}? No.\n**Verdicts:**\n```json\n{pretty}\n```\n<score>8</score>",
        reasoning="I look.",
    )
    assert thought_of(answer) == f"I look.\n{DRAFT}? No."
    assert thought_of(f"<think>I look.</think>\n\n{ROWS}<score>8</score>") == "I look."
    assert thought_of("Nice.\n\nFinal score: \n<score>8</score>") == "Nice."
    assert thought_of(f"{ROWS}<score>8</score>") == ""


THOUGHTS = st.text(max_size=60) | st.sampled_from(
    ["Draft: [{", "<score>3</score>", DRAFT, f"{DRAFT}\n<score>2</score>", "```json", "["]
)


@given(
    VERDICTS | st.just([]),
    st.integers(0, 1000).map(lambda cents: cents / 100),
    THOUGHTS,
    st.booleans(),
    st.booleans(),
)
def test_a_target_in_its_canonical_form_reads_as_its_trace_does(
    verdicts, score, thought, apart, fenced
):
    end = f"```\n{write_answer(verdicts, score)}\n```" if fenced else write_answer(verdicts, score)
    answer = (
        Choice(content=end, reasoning=thought) if apart else Choice(content=f"{thought}\n{end}")
    )
    read = read_answer(answer, len(verdicts))
    if not isinstance(read, Failure):
        target = canonical(answer, read)
        assert read_answer(target, len(verdicts)) == read
        assert canonical(target, read) == target
        assert target.endswith(write_answer(verdicts, score))
        assert read_answer(written(answer), len(verdicts)) == read
    else:
        assert not apart


def test_no_decimal_of_a_score_is_lost_in_writing():
    ends = {8: "8.0", 7.5: "7.5", 8.25: "8.25", 0.00001: "0.00001", 7.000000000001: "7.0"}
    assert {score: write_answer((), score) for score in ends} == {
        s: f"<score>{text}</score>" for s, text in ends.items()
    }


def test_nan_and_infinity_are_no_scores_anywhere():
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValidationError):
            Verdicts(verdicts=(), average=0.0, score=value)
        with pytest.raises(ValidationError):
            Verdicts(verdicts=(), average=value, score=1.0)
        with pytest.raises(ValidationError):
            Judgement(expected=value)


def test_half_a_surrogate_pair_is_no_question_and_leaves_a_reason():
    principle = [{"question": "Is it \ud83d?", "category": "keep"}]
    assert read_principles(json.dumps(principle)).kind == "unparseable"
    gold = [
        {"question": 1, "gold": 1, "reason": "red \ud83d"},
        {"question": 2, "gold": 0, "reason": None},
    ]
    assert read_gold(json.dumps(gold), 2) == ([1, 0], ["red ?", ""])


def of(*questions, category="follow"):
    return [Principle(question=question, category=category) for question in questions]


ANY = {"follow": (0, 9), "keep": (0, 9), "quality": (0, 9)}


def test_a_good_decomposition_has_no_faults():
    principles = [
        *of(
            "Is the red circle gone?",
            "Was the square painted blue?",
            "Doesn't the sign read “OPEN?”",
        ),
        *of("Are the other objects unchanged?", "Does the dog's collar stay red?", category="keep"),
        *of(
            "Is the image clean?",
            "Is the light on the left?",
            "Is the light on the right?",
            category="quality",
        ),
    ]
    assert (
        principle_faults(principles, {"follow": (3, 4), "keep": (2, 2), "quality": (2, 3)}, (8, 12))
        == []
    )


def test_too_few_and_too_many_questions_are_told_per_category_and_in_all():
    principles = of("Is the circle red?", "Is the square blue?", "Is the star gone?") + of(
        "Is the sky as before?", category="keep"
    )
    assert principle_faults(
        principles, {"follow": (1, 2), "keep": (2, 3), "quality": (1, 1)}, (5, 6)
    ) == [
        "There are 3 questions of Instruction Following: too many, write 1 to 2.",
        "There is 1 question of Feature Preservation: too few, write 2 to 3.",
        "There are 0 questions of Image Quality: too few, write 1.",
        "There are 4 questions in all: too few, write 5 to 6.",
    ]


@pytest.mark.parametrize(
    "again",
    [
        "is the CIRCLE red?",
        "Is  the circle, red ?",
        "Is the circle now red?",
        "Is circle clearly red?",
        "Ｉｓ the circle red?",
    ],
)
def test_a_question_that_is_asked_twice_is_told(again):
    principles = of("Is the circle red?", "Is the square red?", again)
    assert principle_faults(principles, ANY, (0, 9))[0] == "Question 3 asks the same as question 1."


@pytest.mark.parametrize(
    "question",
    [
        "The circle is red",
        "What colour is it?",
        "Is the square red",
        "Red?",
        "1. Is it red?",
        "背景是什么颜色？",
        "背景是否不变",
        "1、背景是否不变？",
    ],
)
def test_what_is_no_yes_no_question_is_told(question):
    (fault,) = principle_faults(of("Is the circle red?", question), ANY, (0, 9))
    assert fault.startswith("Question 2 is not a yes/no question")


@pytest.mark.parametrize(
    "question",
    [
        "背景是否不变？",
        "帽子是红色的吗？",
        "有没有多余的手指?",
        "能否看清文字？",
        "画面会不会过度锐化？",
        "是不是只改了颜色？",
        "Is the square red？",
    ],
)
def test_a_yes_no_question_in_chinese_or_with_a_full_width_mark_is_one(question):
    assert principle_faults(of(question), ANY, (0, 9)) == []


def test_a_chinese_question_is_whole_by_its_characters_and_told_when_asked_twice():
    assert principle_faults(of("红吗？"), ANY, (0, 9)) == ["Question 1 is not a whole question."]
    assert principle_faults(of("背景是否不变？", "背景，是否不变?"), ANY, (0, 9)) == [
        "Question 2 asks the same as question 1."
    ]


@pytest.mark.parametrize(
    ("name", "category"),
    [
        ("instruction_following", "follow"), ("Instruction-Following", "follow"), ("InstructionFollowing", "follow"),
        ("遵循指令", "follow"), ("指令遵循", "follow"), ("特征保持", "keep"), ("保留", "keep"), (" FEATURE  preservation ", "keep"),
        ("图像质量", "quality"), ("Image_Quality", "quality"),
    ],
)  # fmt: skip
def test_a_category_is_read_by_any_of_its_names(name, category):
    rows = [{"question": "背景是否不变？", "category": name}]
    assert read_principles(json.dumps(rows, ensure_ascii=False)) == (
        Principle(question="背景是否不变？", category=category),
    )


def test_a_lone_word_is_told():
    assert principle_faults(of("Is red?"), ANY, (0, 9)) == ["Question 1 is not a whole question."]


def test_a_condition_may_stand_before_a_yes_no_question():
    apart = Principle(question="Apart from the sky, are the colours unchanged?", category="keep")
    told = Principle(question="Apart from the sky, the colours are unchanged?", category="keep")
    ranges = {"keep": (1, 2)}
    assert principle_faults([apart], ranges, (1, 2)) == []
    assert len(principle_faults([told], ranges, (1, 2))) == 1


@pytest.mark.parametrize(
    "text",
    [
        "The instruction says `<score>10</score>`",
        "I was told:\n> <score>10</score>",
        "它要求写 `<score>10</score>`",
    ],
)
def test_a_score_that_is_cited_at_the_end_is_none(text):
    read = read_holistic(text)
    assert isinstance(read, Failure)
    assert "quoted" in read.detail


@pytest.mark.parametrize(
    "text",
    [
        "Fine.\n`<score>8</score>`",
        "**Final score:** `<score>8</score>`",
        "得分：`<score>8</score>`",
    ],
)
def test_a_score_in_code_marks_of_its_own_is_read(text):
    assert read_holistic(text) == Verdicts(verdicts=(), average=0.0, score=8.0)
