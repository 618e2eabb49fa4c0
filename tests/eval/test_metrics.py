"""The statistics, against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest

from eval import metrics
from eval.metrics import ScoredPair

RIGHT = ("s1", "color_alter", 8.0, 3.0)
WRONG = ("s1", "color_alter", 3.0, 8.0)
TIE = ("s2", "extract", 5.0, 5.0)
LOST = ("s2", "extract", None, 5.0)
Z = 1.959963984540054


def pairs(*rows):
    return [ScoredPair(*row) for row in rows]


def test_a_tie_is_wrong_strictly_and_half_right_otherwise_and_an_unreadable_side_is_wrong_both_ways():
    found = metrics.accuracies(pairs(RIGHT, WRONG, TIE, LOST))
    assert found == {"strict": 0.25, "half_tie": 0.375, "n": 4, "right": 1, "ties": 1, "unparseable": 1}


def test_two_missing_scores_are_unparseable_and_not_a_tie():
    (pair,) = pairs(("s", "t", None, None))
    assert pair.unparseable
    assert not pair.tied
    assert (pair.strict, pair.half_tie) == (0.0, 0.0)


def test_a_score_of_zero_is_a_score():
    (pair,) = pairs(("s", "t", 1.0, 0.0))
    assert pair.right
    assert not pair.unparseable


def test_the_interval_is_clustered_by_source():
    # values 1, 1, 0, 0; mean ½; clusters a = {1, 1}, b = {0}, c = {0}: sums of residuals 1, −½, −½
    # variance of the mean = 3/2 · (1 + ¼ + ¼) / 4² = 9/64, standard error 3/8
    low, high = metrics.clustered_interval([1, 1, 0, 0], ["a", "a", "b", "c"])
    assert low == pytest.approx(0.5 - Z * 3 / 8)
    assert high == pytest.approx(0.5 + Z * 3 / 8)


def test_with_one_pair_per_source_the_error_is_the_usual_one():
    values = [1.0, 0.0, 0.0, 1.0, 1.0]
    low, high = metrics.clustered_interval(values, list("abcde"))
    usual = math.sqrt(0.6 * 0.4 / 4)  # s² / n with n − 1 in s²
    assert (high - low) / 2 == pytest.approx(Z * usual)


def test_one_source_alone_has_no_interval():
    assert metrics.clustered_interval([1.0, 0.0], ["a", "a"]) is None
    assert metrics.clustered_interval([], []) is None


def test_the_macro_average_weighs_task_types_equally():
    # color_alter: 1, 1, 0 → 2/3; extract: 0, 0 → 0
    centre, interval = metrics.macro([1, 1, 0, 0, 0], ["c", "c", "c", "e", "e"], ["a", "b", "d", "b", "a"])
    assert centre == pytest.approx(1 / 3)
    # contributions: (1/3, 1/3, −2/3)/(3·2) and 0, 0; clusters a 1/18, b 1/18, d −2/18; variance 3/2 · 6/324
    assert interval[1] - centre == pytest.approx(Z * math.sqrt(1.5 * 6 / 324))


@pytest.mark.parametrize(
    ("values", "tasks", "sources"),
    [
        ([1, 0, 1], ["c", "e", "x"], ["a", "b", "d"]),  # one source per task type: within each nothing varies
        ([1, 1, 0, 0], ["c", "c", "e", "e"], ["a", "b", "a", "b"]),  # every source alike within its task type
        ([1, 0, 1], ["c", "c", "e"], ["a", "b", "a"]),  # one task type of one source
    ],
)
def test_a_macro_average_whose_error_cannot_be_estimated_has_no_interval(values, tasks, sources):
    assert metrics.macro_share(values, tasks, sources)[1] is None
    assert metrics.error_of_macro(values, tasks, sources) is None


def test_no_interval_is_without_width():
    assert metrics.of_share([0.5, 0.5, 0.5], ["a", "b", "c"]) is None
    assert metrics.clustered_interval([0.1] * 7, list("abcdefg")) is None
    assert metrics.interval_of(float("nan"), 1.0) is None


def test_p_is_1_where_nothing_differs_and_unknown_where_all_differ_alike():
    assert metrics.p_of_zero([0.0, 0.0], ["a", "b"]) == 1
    assert metrics.p_of_zero([1.0, 1.0], ["a", "b"]) is None


def test_the_summary_tells_task_types_and_groups_apart():
    summary = metrics.summarise(pairs(RIGHT, WRONG, TIE, LOST, ("s3", "my_own_task", 9.0, 1.0)))
    assert summary["strict"] == pytest.approx(2 / 5)
    assert summary["macro"] == pytest.approx((0.5 + 0 + 1) / 3)
    assert summary["by_task"]["extract"]["half_tie"] == 0.25
    assert summary["by_group"]["appearance"]["n"] == 2
    assert summary["by_group"]["scene"]["ties"] == 1
    assert "object" not in summary["by_group"]
    assert sum(group["n"] for group in summary["by_group"].values()) == 4


def test_a_group_of_task_types_is_a_mean_over_them_beside_its_pairs_pooled():
    rows = [("s1", "extract", 1.0, 2.0), ("s2", "background_change", 2.0, 1.0), ("s3", "background_change", 2.0, 1.0)]
    group = metrics.summarise(pairs(*rows))["by_group"]["scene"]
    assert (group["strict"], group["macro"]) == (pytest.approx(2 / 3), 0.5)


def test_all_thirteen_task_types_have_a_group():
    assert sorted(len(members) for members in metrics.GROUPS.values()) == [2, 3, 4, 4]


def test_a_paired_difference_looks_at_the_same_pairs():
    first = pairs(("a", "t", 2.0, 1.0), ("a", "t", 2.0, 1.0), ("b", "t", 1.0, 1.0), ("c", "t", 0.0, 1.0))
    second = pairs(("a", "t", 0.0, 1.0), ("a", "t", 1.0, 1.0), ("b", "t", 1.0, 1.0), ("c", "t", None, 1.0))
    found = metrics.paired_difference(first, second)
    # half-tie differences 1, ½, 0, 0; mean 3/8; cluster sums of residuals 6/8, −3/8, −3/8
    assert found["half_tie"] == pytest.approx(3 / 8)
    error = math.sqrt(1.5 * ((6 / 8) ** 2 + 2 * (3 / 8) ** 2)) / 4
    assert found["ci95"] == pytest.approx((3 / 8 - Z * error, 3 / 8 + Z * error))
    assert found["strict"] == pytest.approx(0.5)
    with pytest.raises(ValueError, match="same pairs"):
        metrics.paired_difference(first, second[:3])


def test_balanced_accuracy_is_the_mean_of_both_recalls():
    # true 1s: judged 1, 1, 0 → 2/3; true 0s: judged 0, 1 → 1/2
    found = metrics.verdict_accuracy([((1, 1, 0), (1, 1, 0)), ((0, 1), (1, 0)), (None, (1, 1, 1))])
    assert found.recall_of_1 == pytest.approx(2 / 3)
    assert found.recall_of_0 == pytest.approx(1 / 2)
    assert found.balanced == pytest.approx(7 / 12)
    assert (found.principles, found.unreadable) == (5, 1)


def test_balanced_accuracy_is_missing_where_a_class_is():
    assert metrics.verdict_accuracy([((1, 1), (1, 1))]).balanced is None
    assert metrics.verdict_accuracy([(None, (1, 0))]).balanced is None
