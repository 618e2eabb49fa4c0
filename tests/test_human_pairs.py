"""Several votes on one pair: one verdict, contradictions apart, and how far raters agree."""

from __future__ import annotations

import pytest

from data_pipeline.human_pairs import add_vote, settle
from data_pipeline.workbook import Workbook
from rrm.rows.labels import BY_WORDS
from rrm.rows.pairs import PairRow
from rrm.rows.votes import Vote, agreement, settled


def verdict(*votes: str):
    """What these votes come to: "a" is anonymous, "a by x" is a rater's."""
    parted = [vote.partition(" by ") for vote in votes]
    return settled([Vote(label, rater or None, str(n)) for n, (label, _, rater) in enumerate(parted)])


@pytest.mark.parametrize(
    ("votes", "label", "share", "apart"),
    [
        (["b"], "b", 1.0, ""),
        (["a", "a"], "a", 1.0, ""),
        (["a", "b", "a"], "a", 2 / 3, "1"),
        (["a", "b"], "same", 0.0, "01"),
        (["a", "same"], "same", 0.5, ""),
        (["a", "same", "b"], "same", 1 / 3, "02"),
        (["same", "a", "a"], "a", 2 / 3, ""),
        (["a by x", "a by x", "a by x", "b by y", "b by z"], "b", 2 / 3, "012"),
        (["a by x", "b by x", "b by y"], "b", 1.0, "01"),
        (["a by x", "b by x"], None, 0.0, "01"),
    ],
)
def test_most_votes_decide_ties_are_the_same_and_a_rater_has_one_vote(votes, label, share, apart):
    found = verdict(*votes)
    assert (found.label, found.share) == (label, pytest.approx(share))
    assert sorted(vote.place for vote, _ in found.apart) == list(apart)
    assert found.contradicted == bool(apart)


def test_a_vote_that_is_left_out_says_why():
    assert verdict("a", "b", "a").apart[0][1] == "other votes on this pair say the opposite (2 a, 1 b): it counts as a"
    assert verdict("a by x", "b by x").apart[0][1] == "rater 'x' says different things of this pair"


def test_agreement_is_krippendorffs_alpha_of_named_raters():
    # 4 pairs, 2 raters: observed disagreement 1/4; expected from 5 a and 3 b of 8: 2·5·3/(8·7)
    counts = [verdict(f"{x} by x", f"{y} by y").named for x, y in ("aa", "bb", "aa", "ab")]
    assert agreement(counts) == pytest.approx(1 - 0.25 / (2 * 5 * 3 / 56), abs=1e-4)
    assert agreement([verdict("a by x", "a by y").named] * 3) is None
    assert agreement([verdict("a", "b").named, verdict("a by x").named]) is None
    assert agreement([]) is None


def book_of(tmp_path, *votes: tuple[str, str, str, str | None]) -> tuple[Workbook, dict]:
    """A workbook with these votes of (first edit, second edit, label, requirement), and what is said of it."""
    book = Workbook(tmp_path / "work.sqlite")
    for n, (a, b, label, requirement) in enumerate(votes):
        add_vote(book, PairRow("s", "make it red", requirement, a, b, label, "generic"), "S", a, b, f"pairs.jsonl:{n}")
    return book, settle(book, BY_WORDS)


def test_a_pair_with_its_sides_swapped_is_the_same_pair_and_a_requirement_makes_another(tmp_path):
    votes = [("x", "y", "a", None), ("y", "x", "b", None), ("y", "x", "a", "keep the cat"), ("x", "y", "same", None)]
    book, said = book_of(tmp_path, *votes)
    pairs = [(pair.edited_a, pair.edited_b, pair.label, pair.requirement) for pair in book.pairs("1")]
    assert pairs == [("x", "y", "a", None), ("y", "x", "a", "keep the cat")]
    assert said["votes"] == {"a": 3, "b": 0, "same": 1}
    assert said["pairs"] == {"a": 2, "b": 0, "same": 0}
    assert (said["voted_several_times"], said["contradicted"]) == (1, 0)


def test_contradictions_are_quarantined_with_their_rows(tmp_path):
    book, said = book_of(tmp_path, ("x", "y", "a", None), ("y", "x", "a", None), ("x", "y", "a", None))
    assert [(pair.edited_a, pair.label) for pair in book.pairs("1")] == [("x", "a")]
    (bad,) = book.quarantined()
    assert (bad.key, bad.failure.kind, bad.evidence["says"]) == ("pairs.jsonl:1", "contradiction", "b")
    assert (said["contradicted"], said["votes_set_apart"]) == (1, 1)
