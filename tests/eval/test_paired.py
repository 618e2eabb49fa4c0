"""Two judges on the same pairs, worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import norm

from eval.editrewardbench.paired import agreement, bootstrap_difference, kappa, mcnemar, rank_correlation


def test_mcnemar_counts_the_discordant_pairs_and_gives_the_binomials_own_p():
    first = [True] * 6 + [True] * 5 + [False] * 1 + [False] * 4
    second = [True] * 6 + [False] * 5 + [True] * 1 + [False] * 4
    found = mcnemar(first, second)
    assert (found.only_first, found.only_second) == (5, 1)
    # both tails of Binomial(6, ½): 2 · (C(6,0) + C(6,1)) / 2⁶ = 14/64
    assert found.p == pytest.approx(14 / 64)


def test_mcnemar_of_eight_to_none_is_two_of_two_hundred_and_fifty_six():
    assert mcnemar([True] * 8, [False] * 8).p == pytest.approx(2 / 256)


def test_mcnemar_says_nothing_where_no_pair_is_discordant():
    found = mcnemar([True, False], [True, False])
    assert (found.only_first, found.only_second, found.p) == (0, 0, 1.0)


def test_the_difference_is_the_difference_of_the_means():
    found = bootstrap_difference([1, 1, 0, 1], [0, 1, 0, 0], ["a", "b", "c", "d"])
    assert found.value == pytest.approx(0.5)


def test_a_macro_difference_weighs_every_stratum_alike():
    # stratum s: (1 + 1 + 0)/3 against 0; stratum t: 0 against 1
    found = bootstrap_difference([1, 1, 0, 0], [0, 0, 0, 1], ["a", "b", "c", "d"], ["s", "s", "s", "t"])
    assert found.value == pytest.approx((2 / 3 - 1) / 2)


def test_the_bootstrap_meets_the_normal_interval_where_pairs_are_many_and_independent():
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 2, 800), rng.integers(0, 2, 800)
    found = bootstrap_difference(first, second, [str(i) for i in range(800)], seed=1)
    error = (first - second).std() / math.sqrt(800)
    low, high = found.interval
    assert (high - low) / 2 == pytest.approx(norm.ppf(0.975) * error, rel=0.05)
    assert found.p == pytest.approx(2 * norm.sf(abs(found.value) / error), abs=0.03)


def test_pairs_of_one_source_count_as_one():
    once = bootstrap_difference([1, 0, 1, 0, 1], [0, 0, 0, 1, 0], list("abcde"))
    ten = bootstrap_difference([1, 0, 1, 0, 1] * 10, [0, 0, 0, 1, 0] * 10, list("abcde") * 10)
    assert ten.interval == once.interval
    assert ten.p == once.p


def test_the_same_seed_gives_the_same_interval_and_p_is_never_nought():
    values = [1.0] * 30, [0.0] * 29 + [0.5], [str(i) for i in range(30)]
    found = bootstrap_difference(*values, seed=3)
    assert found == bootstrap_difference(*values, seed=3)
    assert 0.9 < found.interval[0] < found.interval[1] <= 1
    assert 0 < found.p < 0.001


def test_an_interval_without_width_is_none_and_judges_that_are_alike_do_not_differ():
    same = bootstrap_difference([1.0, 1.0], [0.0, 0.0], ["a", "b"])
    assert (same.value, same.interval, same.p) == (1.0, None, None)
    alike = bootstrap_difference([1.0, 0.0], [1.0, 0.0], ["a", "b"])
    assert (alike.value, alike.interval, alike.p) == (0.0, None, 1.0)


def test_a_stratum_of_one_source_gives_no_interval_of_the_macro_difference():
    found = bootstrap_difference([1, 1, 0, 1], [0, 1, 0, 0], ["a", "b", "c", "d"], ["s", "s", "s", "t"])
    assert (found.value, found.interval, found.p) == (pytest.approx(2 / 3), None, None)


def test_one_source_gives_no_interval_rather_than_a_narrow_one():
    found = bootstrap_difference([1, 1], [0, 1], ["a", "a"])
    assert (found.value, found.interval, found.p) == (0.5, None, None)


def test_kappa_is_agreement_beyond_chance():
    # 45 + 25 of 100 agree; chance: 0.6 · 0.6 + 0.4 · 0.4 = 0.52
    first = ["a"] * 45 + ["a"] * 15 + ["b"] * 15 + ["b"] * 25
    second = ["a"] * 45 + ["b"] * 15 + ["a"] * 15 + ["b"] * 25
    assert agreement(first, second) == pytest.approx(0.7)
    assert kappa(first, second) == pytest.approx((0.7 - 0.52) / 0.48)
    assert kappa(["a", "a"], ["a", "a"]) is None
    assert kappa([], []) is None


def test_rank_correlation_leaves_out_edits_that_one_of_both_did_not_score():
    assert rank_correlation([1.0, 2.0, 3.0, None], [10.0, 20.0, 25.0, 0.0]) == pytest.approx(1.0)
    assert rank_correlation([1.0, 2.0, 3.0], [3.0, 2.0, 1.0]) == pytest.approx(-1.0)
    assert rank_correlation([1.0, 1.0, 1.0], [3.0, 2.0, 1.0]) is None
    assert rank_correlation([1.0, None], [1.0, 2.0]) is None
