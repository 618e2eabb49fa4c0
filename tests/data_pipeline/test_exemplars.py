"""The pool of expert-written decompositions that the pipeline ships: its size, its spread, and the
form of its questions.

Sixty are English, as in the paper; twenty more are Chinese, for Chinese instructions.
"""

import json
import re
from collections import Counter

import pytest

from data_pipeline.decompose import language_of
from rrm.parsing import principle_faults
from rrm.records import Principle
from tests.support import ROOT

POOL = ROOT / "data_pipeline" / "exemplars.jsonl"
TASK_TYPES = {
    "background_change",
    "color_alter",
    "material_alter",
    "motion_change",
    "ps_human",
    "style_change",
    "subject-add",
    "subject-remove",
    "subject-replace",
    "text_change",
    "tone_transfer",
}
AT_LEAST = {"multi-step": 8, "spatial": 8, "implicit": 6, "negated": 6}
PER_CATEGORY = {"follow": (3, 4), "keep": (3, 4), "quality": (2, 3)}
YES_NO_FORM = re.compile(r"(Is|Are|Does|Do|Has|Have|Was|Were|Did|Can) \S.*[^\s?]\?")
LANGUAGES = {"en": 60, "zh": 20}


@pytest.fixture(scope="module")
def both():
    return [json.loads(line) for line in POOL.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def pool(both):
    return both[: LANGUAGES["en"]]


@pytest.fixture(scope="module")
def principles(pool):
    return [[Principle.model_validate(p) for p in row["principles"]] for row in pool]


def normal(text):
    return " ".join(text.lower().split())


def test_there_are_sixty_english_and_twenty_chinese_exemplars_with_the_same_four_fields(both):
    assert Counter(language_of(row["instruction"]) for row in both) == LANGUAGES
    assert all(
        language_of(q["question"]) == language_of(row["instruction"])
        for row in both
        for q in row["principles"]
    )
    assert {tuple(row) for row in both} == {("tags", "scene", "instruction", "principles")}


def test_the_chinese_ones_are_valid_cover_every_task_type_and_repeat_no_question(both):
    chinese = both[LANGUAGES["en"] :]
    asked = [[Principle.model_validate(p) for p in row["principles"]] for row in chinese]
    assert [principle_faults(principles, PER_CATEGORY, (8, 11)) for principles in asked] == [
        []
    ] * len(chinese)
    assert {tag for row in chinese for tag in row["tags"]} == TASK_TYPES | set(AT_LEAST)
    assert len({p.question for principles in asked for p in principles}) == sum(map(len, asked))
    assert len({row["instruction"] for row in chinese}) == len(chinese)


def test_every_scene_is_one_line_of_text(pool):
    assert [
        row["scene"] for row in pool if len(row["scene"].split()) < 8 or "\n" in row["scene"]
    ] == []


def test_each_exemplar_keeps_the_numbers_per_category(pool, principles):
    for row, asked in zip(pool, principles, strict=True):
        counts = Counter(p.category for p in asked)
        for category, (fewest, most) in PER_CATEGORY.items():
            assert fewest <= counts[category] <= most, (row["instruction"], category, counts)
        assert 8 <= len(asked) <= 11


def test_a_decomposition_has_about_ten_questions_on_average(principles):
    mean = sum(map(len, principles)) / len(principles)
    assert 9.5 <= mean <= 10.5


def test_each_exemplar_has_exactly_one_task_type_and_no_unknown_tag(pool):
    for row in pool:
        assert len(TASK_TYPES & set(row["tags"])) == 1, row["instruction"]
        assert set(row["tags"]) <= TASK_TYPES | set(AT_LEAST)
        assert len(set(row["tags"])) == len(row["tags"])


def test_every_task_type_and_every_kind_of_difficulty_is_covered(pool):
    counts = Counter(tag for row in pool for tag in row["tags"])
    assert {t: counts[t] for t in TASK_TYPES if counts[t] < 4} == {}
    assert {t: counts[t] for t, fewest in AT_LEAST.items() if counts[t] < fewest} == {}


def test_every_question_has_the_form_of_a_yes_no_question(principles):
    assert [
        p.question for asked in principles for p in asked if not YES_NO_FORM.fullmatch(p.question)
    ] == []


def test_no_question_is_asked_twice_within_an_exemplar(pool, principles):
    for row, asked in zip(pool, principles, strict=True):
        assert len({normal(p.question) for p in asked}) == len(asked), row["instruction"]


def test_no_question_is_boilerplate_that_recurs_in_more_than_two_exemplars(principles):
    counts = Counter(
        question for asked in principles for question in {normal(p.question) for p in asked}
    )
    assert {question: n for question, n in counts.items() if n > 2} == {}


def test_instructions_are_distinct_and_vary_from_four_words_to_three_sentences(pool):
    instructions = [row["instruction"] for row in pool]
    assert len(set(map(normal, instructions))) == len(instructions)
    assert min(len(i.split()) for i in instructions) == 4
    assert max(len(re.findall(r"[.?!](?:\s|$)", i)) for i in instructions) == 3
