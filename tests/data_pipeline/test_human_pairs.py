"""Several votes on one pair: one verdict, contradictions apart, and how far raters agree."""

from __future__ import annotations

import base64
import csv
import json
from pathlib import Path

import pytest
from PIL import Image

from data_pipeline.human_pairs import add_vote, settle
from data_pipeline.intake import take_in
from data_pipeline.ledger import Ledger
from data_pipeline.run_state import RunState
from data_pipeline.settings import DataConfig
from rrm.errors import InputError
from rrm.images import ImageStore, png_bytes
from rrm.rows.labels import BY_WORDS
from rrm.rows.pairs import PairRow
from rrm.rows.votes import Vote, agreement, settled
from tests.data_pipeline.test_card_page import CARD, Set


def verdict(*votes: str):
    """What these votes come to: "a" is anonymous, "a by x" is a rater's."""
    parted = [vote.partition(" by ") for vote in votes]
    return settled(
        [Vote(label, rater or None, str(n)) for n, (label, _, rater) in enumerate(parted)]
    )


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
    assert (
        verdict("a", "b", "a").apart[0][1]
        == "other votes on this pair say the opposite (2 a, 1 b): it counts as a"
    )
    assert verdict("a by x", "b by x").apart[0][1] == "rater 'x' says different things of this pair"


def test_agreement_is_krippendorffs_alpha_of_named_raters():
    # 4 pairs, 2 raters: observed disagreement 1/4; expected from 5 a and 3 b of 8: 2·5·3/(8·7)
    counts = [verdict(f"{x} by x", f"{y} by y").named for x, y in ("aa", "bb", "aa", "ab")]
    assert agreement(counts) == pytest.approx(1 - 0.25 / (2 * 5 * 3 / 56), abs=1e-4)
    assert agreement([verdict("a by x", "a by y").named] * 3) is None
    assert agreement([verdict("a", "b").named, verdict("a by x").named]) is None
    assert agreement([]) is None


def book_of(tmp_path, *votes: tuple[str, str, str, str | None]) -> tuple[RunState, dict]:
    """A run state with these votes of (first edit, second edit, label, requirement), and what is
    said of it."""
    state = RunState(tmp_path / "work.sqlite")
    for n, (a, b, label, requirement) in enumerate(votes):
        add_vote(
            state,
            PairRow("s", "make it red", requirement, a, b, label, "generic"),
            "S",
            a,
            b,
            f"pairs.jsonl:{n}",
        )
    return state, settle(state, BY_WORDS)


def test_a_pair_with_its_sides_swapped_is_the_same_pair_and_a_requirement_makes_another(tmp_path):
    votes = [
        ("x", "y", "a", None),
        ("y", "x", "b", None),
        ("y", "x", "a", "keep the cat"),
        ("x", "y", "same", None),
    ]
    state, said = book_of(tmp_path, *votes)
    pairs = [
        (pair.edited_a, pair.edited_b, pair.label, pair.requirement) for pair in state._pairs("1")
    ]
    assert pairs == [("x", "y", "a", None), ("y", "x", "a", "keep the cat")]
    assert said["votes"] == {"a": 3, "b": 0, "same": 1}
    assert said["pairs"] == {"a": 2, "b": 0, "same": 0}
    assert (said["voted_several_times"], said["contradicted"]) == (1, 0)


def test_contradictions_are_quarantined_with_their_rows(tmp_path):
    state, said = book_of(
        tmp_path, ("x", "y", "a", None), ("y", "x", "a", None), ("x", "y", "a", None)
    )
    assert [(pair.edited_a, pair.label) for pair in state._pairs("1")] == [("x", "a")]
    (bad,) = state.quarantined()
    assert (bad.key, bad.failure.kind, bad.evidence["says"]) == (
        "pairs.jsonl:1",
        "contradiction",
        "b",
    )
    assert (said["contradicted"], said["votes_set_apart"]) == (1, 1)


def taken_in(
    folder: Path, pairs: list[dict], saved_as: str = "utf-8", **more
) -> tuple[RunState, DataConfig]:
    """The run state of one task and these pairs, written as CSV."""
    for name, shade in {"s": 10, "x": 60, "y": 90}.items():
        Image.new("RGB", (28, 28), (shade, 0, 0)).save(folder / f"{name}.png")
    (folder / "tasks.jsonl").write_text(json.dumps({"prompt": "make it red", "image": "s.png"}))
    with (folder / "pairs.csv").open("w", encoding=saved_as, newline="") as stream:
        table = csv.DictWriter(stream, pairs[0].keys())
        table.writeheader()
        table.writerows(pairs)
    teacher = {"model": "m"}
    paths = {
        name: str(folder / path)
        for name, path in (("out", "out"), ("tasks", "tasks.jsonl"), ("pairs", "pairs.csv"))
    }
    config = DataConfig(
        **paths, decomposer=teacher, thinkers=[teacher], gold_teacher=teacher, **more
    )
    state, ledger = RunState(folder / "work.sqlite"), Ledger(folder / "ledger.sqlite")
    try:
        take_in(config, state, ledger, ImageStore(folder / "images"))
    except InputError:
        state.close()
        raise
    finally:
        ledger.close()
    return state, config


PAIR = {
    "source": "s.png",
    "instruction": "变红",
    "edited_a": "x.png",
    "edited_b": "y.png",
    "label": "左",
}


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "gbk"])
def test_pairs_may_be_a_table_of_any_encoding_with_images_in_it(tmp_path, encoding):
    url = (
        "data:image/png;base64,"
        + base64.b64encode(png_bytes(Image.new("RGB", (28, 28), "blue"))).decode()
    )
    rows = [PAIR, {**PAIR, "instruction": "变蓝", "edited_b": url, "label": "右"}]
    state, _ = taken_in(tmp_path, rows, encoding, encoding="gb18030")
    assert [(pair.instruction, pair.label) for pair in state._pairs("1")] == [
        ("变红", "a"),
        ("变蓝", "b"),
    ]


def test_a_row_with_a_name_that_no_file_can_have_or_one_image_twice_is_left_out_alone(tmp_path):
    bad = [
        {"edited_b": "y" * 300},
        {"edited_b": "y" * 5000},
        {"edited_b": "data:image/png;base64,AAAA"},
        {"edited_b": "x.png"},
    ]
    state, _ = taken_in(tmp_path, [PAIR, *({**PAIR, **change} for change in bad)])
    assert [pair.label for pair in state._pairs("1")] == ["a"]
    left_out = {row.key: row.failure.detail for row in state.quarantined()}
    assert sorted(left_out) == [f"pairs.csv:{line}" for line in (3, 4, 5, 6)]
    assert left_out["pairs.csv:6"] == "both edits are the same image"


def test_labels_that_are_not_certain_stop_before_an_image_is_read(tmp_path):
    rows = [{**PAIR, "label": label} for label in ("1", "2", "1")]
    with pytest.raises(
        InputError,
        match=r"pairs\.csv: it is not certain .* '1' in 2 rows, '2' in 1 row; fill in labels: \{'1': …, '2': …\}",
    ):
        taken_in(tmp_path, rows)
    assert not (tmp_path / "images").exists()
    state, config = taken_in(tmp_path, rows, labels={1: "b", 2: "a"})
    assert [pair.label for pair in state._pairs("1")] == ["b"]
    assert config.what()["labels"] == {"1": "b", "2": "a"}
    assert "labels" not in config.model_copy(update={"labels": None}).what()


def test_the_card_shows_labels_as_found_and_as_read_and_what_votes_came_to(tmp_path):
    votes = [
        {**PAIR, "rater": rater, "label": label}
        for rater, label in (("r1", "左"), ("r2", "左"), ("r3", "右"))
    ]
    state, _ = taken_in(tmp_path, votes)
    said = state.result("pairs")
    assert said is not None
    assert said["labels"] == [
        {"column": "label", "value": "左", "rows": 2, "read_as": "a"},
        {"column": "label", "value": "右", "rows": 1, "read_as": "b"},
    ]
    assert (said["votes"], said["pairs"]) == (
        {"a": 2, "b": 1, "same": 0},
        {"a": 1, "b": 0, "same": 0},
    )
    page = Set(tmp_path).page({**CARD, "pairs": said})
    assert said["shares"] == {"0.67": 1}
    for told in (
        "左",
        "0.67 in 1 pair",
        "1 pair had several votes, 1 of them votes that contradict",
        "3 raters agree by Krippendorff",
    ):
        assert told in page
