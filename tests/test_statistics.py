"""The statistics, against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import norm

from rrm import statistics
from rrm.statistics import agreement, bootstrap_difference, kappa, mcnemar, rank_correlation

Z = 1.959963984540054


def test_the_interval_is_clustered_by_source():
    # values 1, 1, 0, 0; mean ½; clusters a = {1, 1}, b = {0}, c = {0}: sums of residuals 1, −½, −½
    # variance of the mean = 3/2 · (1 + ¼ + ¼) / 4² = 9/64, standard error 3/8
    low, high = statistics.interval_of_mean([1, 1, 0, 0], ["a", "a", "b", "c"])
    assert low == pytest.approx(0.5 - Z * 3 / 8)
    assert high == pytest.approx(0.5 + Z * 3 / 8)


def test_with_one_pair_per_source_the_error_is_the_usual_one():
    values = [1.0, 0.0, 0.0, 1.0, 1.0]
    low, high = statistics.interval_of_mean(values, list("abcde"))
    usual = math.sqrt(0.6 * 0.4 / 4)  # s² / n with n − 1 in s²
    assert (high - low) / 2 == pytest.approx(Z * usual)


def test_one_source_alone_has_no_interval():
    assert statistics.interval_of_mean([1.0, 0.0], ["a", "a"]) is None
    assert statistics.interval_of_mean([], []) is None


def test_the_macro_average_weighs_task_types_equally():
    # color_alter: 1, 1, 0 → 2/3; extract: 0, 0 → 0
    centre, interval = statistics.macro(
        [1, 1, 0, 0, 0], ["c", "c", "c", "e", "e"], ["a", "b", "d", "b", "a"]
    )
    assert centre == pytest.approx(1 / 3)
    # contributions: (1/3, 1/3, −2/3)/(3·2) and 0, 0; clusters a 1/18, b 1/18, d −2/18; variance 3/2
    # · 6/324
    assert interval[1] - centre == pytest.approx(Z * math.sqrt(1.5 * 6 / 324))


@pytest.mark.parametrize(
    ("values", "tasks", "sources"),
    [
        (
            [1, 0, 1],
            ["c", "e", "x"],
            ["a", "b", "d"],
        ),  # one source per task type: within each nothing varies
        (
            [1, 1, 0, 0],
            ["c", "c", "e", "e"],
            ["a", "b", "a", "b"],
        ),  # every source alike within its task type
        ([1, 0, 1], ["c", "c", "e"], ["a", "b", "a"]),  # one task type of one source
    ],
)
def test_a_macro_average_whose_error_cannot_be_estimated_has_no_interval(values, tasks, sources):
    assert statistics.macro_share(values, tasks, sources)[1] is None
    assert statistics.error_of_macro(values, tasks, sources) is None


def test_no_interval_is_without_width():
    assert statistics.interval_of_share([0.5, 0.5, 0.5], ["a", "b", "c"]) is None
    assert statistics.interval_of_mean([0.1] * 7, list("abcdefg")) is None
    assert statistics.interval_or_none(float("nan"), 1.0) is None


def test_p_is_1_where_nothing_differs_and_unknown_where_all_differ_alike():
    assert statistics.p_of_zero_mean([0.0, 0.0], ["a", "b"]) == 1
    assert statistics.p_of_zero_mean([1.0, 1.0], ["a", "b"]) is None


def test_balanced_accuracy_is_the_mean_of_both_recalls():
    # true 1s: judged 1, 1, 0 → 2/3; true 0s: judged 0, 1 → 1/2
    found = statistics.verdict_accuracy(
        [((1, 1, 0), (1, 1, 0)), ((0, 1), (1, 0)), (None, (1, 1, 1))]
    )
    assert found.recall_of_1 == pytest.approx(2 / 3)
    assert found.recall_of_0 == pytest.approx(1 / 2)
    assert found.balanced == pytest.approx(7 / 12)
    assert (found.principles, found.unreadable) == (5, 1)


def test_balanced_accuracy_is_missing_where_a_class_is():
    assert statistics.verdict_accuracy([((1, 1), (1, 1))]).balanced is None
    assert statistics.verdict_accuracy([(None, (1, 0))]).balanced is None


# three sources of one, two and eight items
UNEVEN = [1.0, 0.0, 1.0, *[1.0] * 6, 0.0, 0.0]
UNEVEN_SOURCES = ["x", "y", "y", *["z"] * 8]


def test_the_two_estimands_differ_where_sources_have_unequally_many_items():
    by_item = statistics.mean(UNEVEN), statistics.interval_of_mean(UNEVEN, UNEVEN_SOURCES)
    by_source = statistics.mean_over_clusters(UNEVEN, UNEVEN_SOURCES)
    assert by_item[0] == pytest.approx(8 / 11)
    assert by_source[0] == pytest.approx((1 + 1 / 2 + 6 / 8) / 3)
    half = Z * np.std([1, 1 / 2, 6 / 8], ddof=1) / math.sqrt(3)
    assert by_source[1] == pytest.approx((0.75 - half, 0.75 + half))
    # residual sums: x 3/11, y 1 − 16/11 = −5/11, z 6 − 64/11 = 2/11
    error = math.sqrt(3 / 2 * (9 + 25 + 4)) / 11 / 11
    assert by_item[1] == pytest.approx((8 / 11 - Z * error, 8 / 11 + Z * error))


def test_the_error_of_a_mean_over_items_is_the_sandwich_of_a_regression_on_a_constant():
    """OLS of v on X = 1: bread (X'X)⁻¹ = 1/n, meat Σ_g X_g' e_g e_g' X_g, factor G/(G−1)."""
    rng = np.random.default_rng(5)
    sizes = rng.integers(1, 30, 25)
    clusters = np.repeat([f"s{n}" for n in range(25)], sizes)
    values = (rng.normal(size=len(clusters)) + np.repeat(rng.normal(size=25), sizes) > 0).astype(
        float
    )
    design = np.ones((len(values), 1))
    coefficient = np.linalg.lstsq(design, values, rcond=None)[0]
    residuals = values - design @ coefficient
    bread = np.linalg.inv(design.T @ design)
    meat = np.zeros((1, 1))
    for name in np.unique(clusters):
        score = design[clusters == name].T @ residuals[clusters == name]
        meat += np.outer(score, score)
    sandwich = bread @ meat @ bread * 25 / 24
    assert statistics.mean(values) == pytest.approx(coefficient[0])
    assert statistics.error_of_mean(values, list(clusters)) == pytest.approx(
        math.sqrt(sandwich[0, 0])
    )


def test_with_equally_many_items_both_estimands_and_their_intervals_agree():
    values, clusters = [1.0, 0.0, 0.5, 1.0, 0.0, 0.0], list("aabbcc")
    centre, interval = statistics.mean_over_clusters(values, clusters)
    assert centre == pytest.approx(statistics.mean(values))
    assert interval == pytest.approx(statistics.interval_of_mean(values, clusters))


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
    found = bootstrap_difference(
        [1, 1, 0, 0], [0, 0, 0, 1], ["a", "b", "c", "d"], ["s", "s", "s", "t"]
    )
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
    found = bootstrap_difference(
        [1, 1, 0, 1], [0, 1, 0, 0], ["a", "b", "c", "d"], ["s", "s", "s", "t"]
    )
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
