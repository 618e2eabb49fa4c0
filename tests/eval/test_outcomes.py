"""Shares of right pairs, worked out by hand where the usual interval would have no width;
thumbnails that stay true to their pixels."""

import math

import pytest
from PIL import Image

from eval.editrewardbench.examples import SIDE, thumbnail
from eval.outcomes import (
    GROUPS,
    Outcome,
    accuracies,
    breakdown,
    outcomes_of_scores,
    paired_difference,
)
from eval.pairs import PairIndex
from rrm.statistics import exact_interval, interval_of_share, macro_share


def outcome(number, source, side):
    """A pair of which people prefer the first edit."""
    return Outcome(
        number=number, item=f"{number}", group=f"{number}", source=source, instruction="remove it", task_type="all",
        dimension="overall", label="a", edits=(f"{number}:a", f"{number}:b"), scores=(6.0, 5.0), side=side,
    )  # fmt: skip


Z = 1.959963984540054
RIGHT = ("s1", "color_alter", 8.0, 3.0)
WRONG = ("s1", "color_alter", 3.0, 8.0)
TIE = ("s2", "extract", 5.0, 5.0)
LOST = ("s2", "extract", None, 5.0)


def preferring(*rows):
    """Outcomes of (source, task type, score of the preferred edit, score of the other)."""
    pairs, scores = [], {}
    for n, (source, task, *both) in enumerate(rows):
        pair = PairIndex(
            n, "i", task, "overall", source, (f"{n}a", f"{n}b"), "a", f"{n}", 2, f"{n}"
        )
        pairs.append(pair)
        scores |= zip(pair.edit_ids, both, strict=True)
    return outcomes_of_scores(pairs, scores)


def test_a_tie_is_wrong_strictly_and_half_right_otherwise_and_an_unreadable_side_is_wrong_both_ways():
    found = accuracies(preferring(RIGHT, WRONG, TIE, LOST))
    wanted = {"strict": 0.25, "half_tie": 0.375, "n": 4, "right": 1, "ties": 1, "unreadable": 1}
    assert {name: found[name] for name in wanted} == wanted


def test_two_missing_scores_are_unparseable_and_not_a_tie():
    (pair,) = preferring(("s", "t", None, None))
    assert pair.side is None
    assert (pair.right, pair.half_tie) == (False, 0.0)


def test_a_score_of_zero_is_a_score():
    (pair,) = preferring(("s", "t", 1.0, 0.0))
    assert pair.right
    assert pair.side == "a"


def test_the_summary_tells_task_types_and_groups_apart():
    summary = breakdown(preferring(RIGHT, WRONG, TIE, LOST, ("s3", "my_own_task", 9.0, 1.0)))
    assert summary["strict"] == pytest.approx(2 / 5)
    assert summary["macro"] == pytest.approx((0.5 + 0 + 1) / 3)
    assert summary["by_task"]["extract"]["half_tie"] == 0.25
    assert summary["by_group"]["appearance"]["n"] == 2
    assert summary["by_group"]["scene"]["ties"] == 1
    assert "object" not in summary["by_group"]
    assert sum(group["n"] for group in summary["by_group"].values()) == 4


def test_a_group_of_task_types_is_a_mean_over_them_beside_its_pairs_pooled():
    rows = [
        ("s1", "extract", 1.0, 2.0),
        ("s2", "background_change", 2.0, 1.0),
        ("s3", "background_change", 2.0, 1.0),
    ]
    group = breakdown(preferring(*rows))["by_group"]["scene"]
    assert (group["strict"], group["macro"]) == (pytest.approx(2 / 3), 0.5)


def test_all_thirteen_task_types_have_a_group():
    assert sorted(len(members) for members in GROUPS.values()) == [2, 3, 4, 4]


def test_a_paired_difference_looks_at_the_same_preferring():
    first = preferring(
        ("a", "t", 2.0, 1.0), ("a", "t", 2.0, 1.0), ("b", "t", 1.0, 1.0), ("c", "t", 0.0, 1.0)
    )
    second = preferring(
        ("a", "t", 0.0, 1.0), ("a", "t", 1.0, 1.0), ("b", "t", 1.0, 1.0), ("c", "t", None, 1.0)
    )
    found = paired_difference(first, second)
    # half-tie differences 1, ½, 0, 0; mean 3/8; cluster sums of residuals 6/8, −3/8, −3/8
    assert found["half_tie"] == pytest.approx(3 / 8)
    error = math.sqrt(1.5 * ((6 / 8) ** 2 + 2 * (3 / 8) ** 2)) / 4
    assert found["ci95"] == pytest.approx((3 / 8 - Z * error, 3 / 8 + Z * error))
    assert found["strict"] == pytest.approx(0.5)
    with pytest.raises(ValueError, match="same pairs"):
        paired_difference(first, second[:3])


def test_all_right_is_no_certainty():
    """Three sources, all right: (α/2)^(1/3) to 1, though they are four pairs."""
    found = accuracies([outcome(n, source, "a") for n, source in enumerate(("x", "x", "y", "z"))])
    assert found["strict"] == 1
    assert found["strict_ci95"] == pytest.approx((0.025 ** (1 / 3), 1.0))
    assert found["half_tie_ci95"] == found["strict_ci95"]


def test_all_wrong_is_no_certainty_either():
    """Ten sources, all wrong: 0 to 1 − (α/2)^(1/10)."""
    found = accuracies([outcome(n, f"{n}", "b") for n in range(10)])
    assert found["strict"] == 0
    assert found["strict_ci95"] == pytest.approx((0.0, 1 - 0.025**0.1))


def test_only_shares_of_one_kind_are_exact_interval():
    """Mixed values, and ties that all count half, have the clustered interval."""
    assert exact_interval([1.0, 0.0], ["x", "y"]) is None
    assert exact_interval([0.5, 0.5], ["x", "y"]) is None
    assert exact_interval([], []) is None


def test_an_interval_of_a_share_stays_within_0_and_1():
    """Three of four sources right: 0.75 ± 1.96 · √(4/3 · (3/16² + 9/16²)) would end past 1."""
    low, high = interval_of_share([1.0, 1.0, 1.0, 0.0], list("wxyz"))
    assert low == pytest.approx(0.75 - 1.959964 * (4 / 3 * 12 / 256) ** 0.5)
    assert high == 1


def test_the_mean_over_tasks_is_no_certainty_either_where_all_are_right():
    """Two tasks, four sources, all right."""
    assert macro_share([1.0] * 4, ["t", "t", "u", "u"], list("wxyz")) == (
        1.0,
        (pytest.approx(0.025 ** (1 / 4)), 1.0),
    )


def test_a_tiny_image_is_enlarged_by_whole_pixels(tmp_path):
    """32 pixels become 12 × 32; a pixel's middle keeps its colour."""
    image = Image.new("RGB", (32, 16), (200, 30, 30))
    image.putpixel((5, 5), (20, 200, 40))
    thumbnail(image, tmp_path / "one.jpg")
    with Image.open(tmp_path / "one.jpg") as written:
        assert written.size == (384, 192)
        assert all(
            abs(a - b) < 30 for a, b in zip(written.getpixel((66, 66)), (20, 200, 40), strict=True)
        )


def test_a_large_image_is_made_small(tmp_path):
    """The longer side becomes SIDE."""
    thumbnail(Image.new("RGB", (1000, 500)), tmp_path / "one.jpg")
    with Image.open(tmp_path / "one.jpg") as written:
        assert written.size == (SIDE, SIDE // 2)
