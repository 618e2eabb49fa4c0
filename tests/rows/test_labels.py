"""What labels mean: decided from all that occur in a set, and never guessed."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rrm.errors import InputError
from rrm.rows.fields import BadRow
from rrm.rows.formats import PLAIN
from rrm.rows.labels import Labels
from rrm.rows.pairs import labels_of, read_pair

PAIR = {"source": "s.png", "instruction": "make it red", "edited_a": "a.png", "edited_b": "b.png"}


def labels_in(folder: Path, values: list, field: str = "label", given=None) -> tuple[Labels, list]:
    """What is decided of these labels, and as what each row is read; None where it is left out."""
    rows = [{**PAIR, field: value} for value in values]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    labels = labels_of(str(folder / "pairs.jsonl"), PLAIN, given)
    read = []
    for row in rows:
        try:
            read.append(read_pair(row, labels).label)
        except BadRow:
            read.append(None)
    return labels, read


@pytest.mark.parametrize(
    ("values", "meant"),
    [
        (["a", "A ", "b", "same"], "aabs"),
        (["left", "Right", "tie"], "abs"),
        (["leftvote", "rightvote", "tievote", "bothbad_vote"], "abss"),
        (["model_a", "model_b", "tie", "tie (bothbad)"], "abss"),
        (["A>B", "A<B", "A = B", "B>A", "A\uff1eB"], "absba"),
        (["\u5de6", "\u53f3", "\u5e73\u5c40"], "abs"),
        (["\u56feA\u66f4\u597d", "\u56feB\u66f4\u597d", "\u4e00\u6837"], "abs"),
        (["edited_a", "image-b", "Both good"], "abs"),
        (["G", "S", "B"], "asb"),
        (["good", "bad", "same"], "abs"),
    ],
)
def test_words_that_mean_one_thing_are_read(tmp_path, values, meant):
    assert "".join(label[0] for label in labels_in(tmp_path, values)[1]) == meant


@pytest.mark.parametrize(
    ("field", "values", "listed"),
    [
        ("label", [1, 2, 1], "'1' in 2 rows, '2' in 1 row"),
        ("preference", [1, 0, 2], "'0' in 1 row, '1' in 1 row, '2' in 1 row"),
        ("preference", [1, 1], "'1' in 2 rows"),
        ("label", [-1, 1, 0], "'-1' in 1 row"),
        ("label", [0, 1], "'0' in 1 row"),
        ("label", [True, False], "'false' in 1 row, 'true' in 1 row"),
        ("winner", ["gpt-4o", "flux"], "'flux' in 1 row, 'gpt-4o' in 1 row"),
        ("vote", ["a", "b", "G"], "'G' in 1 row"),
        ("label", ["a", "b", "c"], "'c' in 1 row"),
        ("vote", ["S", "B", "B"], "'B' in 2 rows, 'S' in 1 row"),
        ("label", ["good", "bad"], "'bad' in 1 row, 'good' in 1 row"),
        ("label", ["G"], "'G' in 1 row"),
    ],
)
def test_labels_that_are_not_certain_stop_and_are_listed(tmp_path, field, values, listed):
    with pytest.raises(
        InputError,
        match=rf"not certain which edit the labels in '{field}' prefer: .*{listed}.*; fill in labels: ",
    ):
        labels_in(tmp_path, values, field)


@pytest.mark.parametrize("values", [[1, 2, 2], [1.0, 2.0, 1.5], ["1", "2", "2.0"]])
def test_a_preference_of_1_or_2_is_which_edit_is_preferred(tmp_path, values):
    assert labels_in(tmp_path, values, "preference")[1] == [
        "a",
        "b",
        "same" if 1.5 in values else "b",
    ]


@pytest.mark.parametrize(
    ("values", "given", "read"),
    [
        ([0, 1, "1.0"], {0: "a", 1: "b"}, ["a", "b", "b"]),
        ([1, 2, 3], {1: "b", 2: "a", "3": None}, ["b", "a", None]),
        ([True, False], {True: "a", False: "b"}, ["a", "b"]),
        (["a", "b", "skip"], {"skip": None}, ["a", "b", None]),
        (["a", "b"], {"a": "b", "b": "a"}, ["b", "a"]),
        ([-1, 0, 1], {-1: "b", 0: "same", 1: "a"}, ["b", "same", "a"]),
    ],
)
def test_what_a_user_says_of_labels_goes_before_all_else(tmp_path, values, given, read):
    assert labels_in(tmp_path, values, given=given)[1] == read


def test_rows_without_a_label_do_not_stop_the_others(tmp_path):
    labels, read = labels_in(tmp_path, ["a", None, [1], " ", "x" * 100, "b"])
    assert read == ["a", None, None, None, None, "b"]
    assert labels.rows() == [
        {"column": "label", "value": "a", "rows": 1, "read_as": "a"},
        {"column": "label", "value": "b", "rows": 1, "read_as": "b"},
    ]


def test_a_column_of_free_text_is_no_label(tmp_path):
    with pytest.raises(InputError, match="'label' holds more than 1000 different values"):
        labels_in(tmp_path, [f"text {n}" for n in range(1100)])


def test_labels_are_counted_without_reading_images(tmp_path):
    rows = [
        {**PAIR, "edited_a": b"x" * 100, "vote_type": vote}
        for vote in ("leftvote", "leftvote", "tie")
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "pairs.parquet")
    found = labels_of(str(tmp_path / "pairs.parquet"), PLAIN, None).rows()
    assert [(row["value"], row["rows"], row["read_as"]) for row in found] == [
        ("leftvote", 2, "a"),
        ("tie", 1, "same"),
    ]


def test_a_row_alone_is_read_by_words_that_are_certain():
    assert read_pair({**PAIR, "label": "leftvote"}).label == "a"
    for label in (0, 1, "1", 2, True, "c"):
        with pytest.raises(BadRow, match="not known for certain"):
            read_pair({**PAIR, "label": label})
