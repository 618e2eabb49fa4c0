"""Expected scores and pooled traces, worked out by hand."""

from __future__ import annotations

import math

import pytest

from rrm.prompts import write_answer
from rrm.records import Failure, Judgement, Token, Verdicts
from rrm.reward.expectation import agreement, expected_rating, expected_score, pooled


def sure(*texts: str) -> list[Token]:
    """Tokens that left nothing open."""
    return [Token(text, {text: 1.0}) for text in texts]


def verdicts(*values: int, score: float = 5.0) -> Verdicts:
    return Verdicts.model_validate(
        {"verdicts": values, "average": sum(values) / max(1, len(values)), "score": score}
    )


def trace(score: float, *values: int, thought: str = "") -> Judgement:
    return Judgement(thought=thought, read=verdicts(*values, score=score))


FAILED = Judgement(thought="?", failure=Failure(kind="unparseable", detail="first"))


def test_a_rating_is_the_mean_of_the_six_digits_over_five():
    assert expected_rating({"3": 0.5, "4": 0.5}) == (pytest.approx(0.7), pytest.approx(1.0))
    even = expected_rating({str(digit): 1 / 6 for digit in range(6)})
    assert even == (pytest.approx(0.5), pytest.approx(1.0))


def test_a_rating_is_renormalised_over_the_digits_and_says_what_they_hold():
    rating = expected_rating({"5": 0.3, "0": 0.1, "9": 0.2, "The": 0.3, "55": 0.1})
    assert rating == (pytest.approx(0.75), pytest.approx(0.4))


def test_a_digit_counts_with_and_without_a_space_before_it():
    assert expected_rating({"4": 0.2, " 4": 0.2, "0": 0.4}) == (
        pytest.approx(0.4),
        pytest.approx(0.8),
    )


@pytest.mark.parametrize("p", [{}, {"The": 0.9, "6": 0.1}, {"3": 0.0}])
def test_a_rating_without_a_digit_is_a_failure(p):
    failure = expected_rating(p)
    assert isinstance(failure, Failure)
    assert failure.kind == "unparseable"


def test_rounding_takes_no_rating_beyond_one():
    for n in range(1, 5000):
        rating = expected_rating({"5": n / 5000})
        assert not isinstance(rating, Failure)
        assert rating[0] <= 1


def test_masses_that_round_beyond_one_are_one():
    rating = expected_rating({"4": 0.6, "5": 0.4000001})
    assert not isinstance(rating, Failure)
    assert rating[1] == 1.0


def test_with_one_digit_a_token_the_decimal_is_the_mean_of_its_own_place():
    tokens = [
        *sure("<score>"), Token("8", {"8": 0.6, "7": 0.2, "x": 0.2}), *sure("."), Token("5", {"5": 0.5, "0": 0.5}), *sure("</score>"),
    ]  # fmt: skip
    score = expected_score(tokens)
    assert score == (pytest.approx((8.25 * 0.6 + 7.25 * 0.2) / 0.8), pytest.approx(0.8))


def test_a_decimal_place_where_nothing_can_be_read_keeps_what_was_written():
    tokens = [*sure("<score>", "8", "."), Token("5", {"x": 1.0}), *sure("</score>")]
    assert expected_score(tokens) == (pytest.approx(8.5), 1.0)


def test_with_whole_numbers_as_tokens_each_counts_as_what_it_says():
    tokens = [
        *sure("<score>"),
        Token("9.0", {"9.0": 0.5, "8.5": 0.25, "10.0": 0.25}),
        *sure("</score>"),
    ]
    assert expected_score(tokens) == (pytest.approx(9.0 * 0.5 + 8.5 * 0.25 + 10 * 0.25), 1.0)


def test_a_whole_part_without_decimals_beside_a_whole_number_takes_the_decimal_that_was_written():
    tokens = [*sure("<score>"), Token("9.5", {"9.5": 0.5, "8": 0.5}), *sure("</score>")]
    assert expected_score(tokens) == (pytest.approx((9.5 + 8.5) / 2), 1.0)


def test_a_score_without_a_decimal_has_none():
    assert expected_score(
        [*sure("<score>"), Token("8", {"8": 0.5, "6": 0.5}), *sure("</score>")]
    ) == (pytest.approx(7.0), 1.0)


def test_a_token_of_two_digits_is_the_number_and_nothing_is_beyond_ten():
    assert expected_score(
        [*sure("<score>"), Token("10", {"10": 0.5, "9": 0.5}), *sure(".", "0", "</score>")]
    ) == (9.5, 1.0)
    assert expected_score(
        [*sure("<score>"), Token("10", {"10": 0.5, "77": 0.5}), *sure("</score>")]
    ) == (10.0, 1.0)


def test_a_one_that_was_written_is_ten_by_the_mass_of_the_zero_behind_it():
    first = Token("1", {"1": 0.5, "9": 0.5})
    ten = [*sure("<score>"), first, Token("0", {"0": 0.8, ".": 0.2}), *sure("</score>")]
    assert expected_score(ten) == (pytest.approx((0.8 * 10 + 0.2 * 1 + 9) / 2), 1.0)
    small = [*sure("<score>"), first, Token(".", {".": 0.9, "0": 0.1}), *sure("5", "</score>")]
    assert expected_score(small) == (pytest.approx((0.1 * 10 + 0.9 * 1.5 + 9.5) / 2), 1.0)
    closed = [
        *sure("<score>"),
        Token("1", {"1": 1.0}),
        Token("</", {"</": 0.75, "0</": 0.25}),
        *sure("score>"),
    ]
    assert expected_score(closed) == (pytest.approx(0.25 * 10 + 0.75), 1.0)


def test_a_one_beside_another_digit_is_the_nearer_of_one_and_ten():
    high = [*sure("<score>"), Token("9", {"9": 0.75, "1": 0.25}), *sure(".", "0", "</score>")]
    assert expected_score(high) == (pytest.approx(0.75 * 9 + 0.25 * 10), 1.0)
    low = [*sure("<score>"), Token("2", {"2": 0.75, "1": 0.25}), *sure(".", "0", "</score>")]
    assert expected_score(low) == (pytest.approx(0.75 * 2 + 0.25 * 1), 1.0)


def test_a_one_beside_whole_numbers_is_one():
    tokens = [*sure("<score>"), Token("9.0", {"9.0": 0.5, "1": 0.5}), *sure("</score>")]
    assert expected_score(tokens) == (pytest.approx(5.0), 1.0)


def test_the_last_of_several_scores_is_the_final_one():
    tokens = [
        *sure("<score>", "2", "</score> no, <score>"),
        Token("8", {"8": 0.5, "7": 0.5}),
        *sure("</score>"),
    ]
    assert expected_score(tokens) == (pytest.approx(7.5), 1.0)


def test_what_stands_before_the_score_in_its_token_must_stand_in_the_others_too():
    tokens = [*sure("<score"), Token(">8", {">8": 0.5, ">6": 0.25, "9": 0.25}), *sure("</score>")]
    assert expected_score(tokens) == (pytest.approx((8 * 0.5 + 6 * 0.25) / 0.75), 0.75)
    whole = [Token("<score>8.5</score>", {"<score>8.5</score>": 0.5, "<score>7.5</score>": 0.5})]
    assert expected_score(whole) == (pytest.approx(8.0), 1.0)


@pytest.mark.parametrize(
    "texts",
    [(), ("8",), ("<score>", "high", "</score>"), ("<score>", "8"), ("<score>", "123", "</score>")],
)
def test_without_a_final_score_there_is_a_failure(texts):
    failure = expected_score(sure(*texts))
    assert isinstance(failure, Failure)
    assert failure.detail == "the trace has no final score"


def test_a_place_of_the_score_without_numbers_is_a_failure():
    failure = expected_score([*sure("<score>"), Token("8", {"x": 1.0}), *sure("</score>")])
    assert isinstance(failure, Failure)
    assert failure.detail.startswith("no number")


def test_traces_agree_by_the_mean_share_of_the_majority():
    assert agreement(
        [verdicts(1, 1), verdicts(1, 0), verdicts(1, 0), verdicts(1, 0)]
    ) == pytest.approx((1 + 0.75) / 2)
    assert agreement([verdicts(1), verdicts(0)]) == 0.5
    assert agreement([verdicts(0, 0), verdicts(0, 0)]) == 1.0
    assert agreement([verdicts(1, 0)]) is None
    assert agreement([verdicts(), verdicts()]) is None
    assert agreement([]) is None


def test_pooled_traces_have_the_mean_score_and_the_words_of_the_nearest():
    pool = pooled(
        [trace(2, 0, thought="low"), trace(6, 1, thought="middle"), trace(7, 1, thought="high")]
    )
    assert pool.score == pool.expected == pytest.approx(5.0)
    assert pool.thought == "middle"
    assert pool.samples == (2, 6, 7)
    assert pool.std == pytest.approx(math.sqrt((9 + 1 + 4) / 2))
    assert pool.agreement == pytest.approx(2 / 3)


def test_a_trace_without_a_score_is_left_out_of_the_mean_and_seen_in_the_samples():
    pool = pooled([FAILED, trace(4, 1), trace(8, 1)])
    assert (pool.score, pool.samples, pool.agreement) == (6.0, (None, 4.0, 8.0), 1.0)
    assert pool.std == pytest.approx(math.sqrt(8))
    assert pool.failure is None


def test_one_readable_trace_has_neither_spread_nor_agreement():
    pool = pooled([FAILED, trace(4, 1)])
    assert (pool.score, pool.samples, pool.std, pool.agreement) == (4.0, (None, 4.0), None, None)


def test_where_no_trace_can_be_read_the_first_failure_stands():
    pool = pooled([FAILED, Judgement(failure=Failure(kind="empty"))])
    assert pool.score is None
    assert pool.failure == FAILED.failure
    assert pool.samples == (None, None)


def test_the_canonical_end_of_a_trace_in_single_characters_gives_its_score():
    assert expected_score(sure(*write_answer((1, 0), 7.5))) == (pytest.approx(7.5), 1.0)
    assert expected_score(sure(*write_answer((1, 0), 10.0))) == (pytest.approx(10.0), 1.0)


@pytest.mark.parametrize("odd", [math.nan, math.inf, -0.5, 3.0])
def test_a_probability_that_is_none_is_a_failure_and_never_a_score(odd):
    assert isinstance(expected_rating({"4": 0.5, "The": odd}), Failure)
    assert isinstance(
        expected_score([*sure("<score>"), Token("8", {"8": odd, "7": 0.5}), *sure("</score>")]),
        Failure,
    )
    assert isinstance(
        expected_score([Token("Hm", {"Hm": odd}), *sure("<score>", "8", "</score>")]), Failure
    )


def test_what_is_equal_but_for_rounding_ties():
    thirds = [*sure("<score>"), Token("7", {"7": 0.1 + 0.2}), *sure("</score>")]
    assert expected_score(thirds) == (7.0, pytest.approx(0.3))
    assert pooled([trace(7.1, 1)] * 3).score == pooled([trace(7.1, 1)] * 7).score == 7.1
    ratings = [expected_rating({"1": p, "4": p}) for p in (0.1, 0.3, 0.45)]
    assert {rating[0] for rating in ratings if not isinstance(rating, Failure)} == {0.5}


def test_full_width_digits_of_a_score_are_digits():
    tokens = [*sure("<score>"), Token("８", {"８": 0.25, "8": 0.25, "6": 0.5}), *sure("分</score>")]
    assert expected_score(tokens) == (7.0, 1.0)
    assert expected_rating({"４": 0.5, "4": 0.5}) == (0.8, 1.0)
