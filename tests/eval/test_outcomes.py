"""Shares of right pairs, worked out by hand where the usual interval would have no width; thumbnails that stay true to their pixels."""

import pytest
from PIL import Image

from eval.editrewardbench.examples import SIDE, thumbnail
from eval.editrewardbench.outcomes import Outcome, cell
from rrm.statistics import exact_interval, interval_of_share, macro_share


def outcome(number, source, side):
    """A pair of which people prefer the first edit."""
    return Outcome(
        number=number, item=f"{number}", group=f"{number}", source=source, instruction="remove it", task_type="all",
        dimension="overall", label="a", edits=(f"{number}:a", f"{number}:b"), scores=(6.0, 5.0), side=side,
    )  # fmt: skip


def test_all_right_is_no_certainty():
    """Three sources, all right: (α/2)^(1/3) to 1, though they are four pairs."""
    found = cell([outcome(n, source, "a") for n, source in enumerate(("x", "x", "y", "z"))])
    assert found["strict"] == 1
    assert found["strict_ci95"] == pytest.approx((0.025 ** (1 / 3), 1.0))
    assert found["half_tie_ci95"] == found["strict_ci95"]


def test_all_wrong_is_no_certainty_either():
    """Ten sources, all wrong: 0 to 1 − (α/2)^(1/10)."""
    found = cell([outcome(n, f"{n}", "b") for n in range(10)])
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
    assert macro_share([1.0] * 4, ["t", "t", "u", "u"], list("wxyz")) == (1.0, (pytest.approx(0.025 ** (1 / 4)), 1.0))


def test_a_tiny_image_is_enlarged_by_whole_pixels(tmp_path):
    """32 pixels become 12 × 32; a pixel's middle keeps its colour."""
    image = Image.new("RGB", (32, 16), (200, 30, 30))
    image.putpixel((5, 5), (20, 200, 40))
    thumbnail(image, tmp_path / "one.jpg")
    with Image.open(tmp_path / "one.jpg") as written:
        assert written.size == (384, 192)
        assert all(abs(a - b) < 30 for a, b in zip(written.getpixel((66, 66)), (20, 200, 40), strict=True))


def test_a_large_image_is_made_small(tmp_path):
    """The longer side becomes SIDE."""
    thumbnail(Image.new("RGB", (1000, 500)), tmp_path / "one.jpg")
    with Image.open(tmp_path / "one.jpg") as written:
        assert written.size == (SIDE, SIDE // 2)
