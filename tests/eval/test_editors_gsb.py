"""People's votes between two editors, worked out by hand."""

import json
import math

import pytest

from eval.editors.__main__ import main
from eval.editors.gsb import Vote, agreement, gsb, read_votes, sign_test
from rrm.errors import InputError
from rrm.rows.formats import Reading
from rrm.rows.labels import label_option


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def votes(sides, clusters=None):
    names = clusters or [str(place) for place in range(len(sides))]
    return [
        Vote(f"i{place}", side, None, cluster)
        for place, (side, cluster) in enumerate(zip(sides, names, strict=True))
    ]


def test_gsb_is_good_less_bad_over_all_votes():
    found = gsb(votes("GGGSB"))
    assert (found["G"], found["S"], found["B"], found["votes"], found["items"]) == (3, 1, 1, 5, 5)
    assert found["gsb"] == pytest.approx(2 / 5)
    # values 1 1 1 0 −1, mean 0.4: squares 3·0.36 + 0.16 + 1.96 = 3.2; se = √(5/4 · 3.2/25) = 0.4
    assert found["se"] == pytest.approx(0.4)
    assert found["ci95"] == pytest.approx((0.4 - 1.959964 * 0.4, 1.0), abs=1e-5)


def test_votes_on_one_source_go_together():
    # two clusters with sums of (v − mean) of 1 and −1, over n = 4 votes of mean ½: se = √(2 · (1/16
    # + 1/16)) = ½
    found = gsb(votes("GGSS", ["a", "a", "b", "b"]))
    assert found["clusters"] == 2
    assert found["se"] == pytest.approx(0.5)
    assert found["se"] > gsb(votes("GGSS"))["se"]


def test_the_sign_test_leaves_same_out_and_is_exact():
    assert gsb(votes("GGGGSSS"))["sign_p"] == pytest.approx(2 * 0.5**4)
    assert sign_test(3, 1) == pytest.approx(2 * (1 + 4) / 16)
    assert sign_test(0, 0) is None


def test_several_votes_on_an_item_count_once_in_the_test_over_items():
    two_items = [Vote(item, "G", str(rater), item) for item in "ab" for rater in range(10)]
    found = gsb(two_items)
    assert found["sign_p"] == pytest.approx(2 * 0.5**20)
    assert (found["items_better"], found["items_worse"]) == (2, 0)
    assert found["items_sign_p"] == pytest.approx(0.5)


def test_raters_of_one_item_are_compared_with_each_other():
    rows = [
        ("a", "G", "x"),
        ("a", "G", "y"),
        ("a", "B", "z"),
        ("b", "S", "x"),
        ("b", "S", "y"),
        ("c", "G", "x"),
    ]
    found = agreement([Vote(item, side, rater, item) for item, side, rater in rows])
    # item a: xy agree, xz and yz do not; item b: xy agree
    assert found == {
        "pairs": 4,
        "share": 0.5,
        "by_rater": {
            "x": {"pairs": 3, "share": pytest.approx(2 / 3)},
            "y": {"pairs": 3, "share": pytest.approx(2 / 3)},
            "z": {"pairs": 2, "share": 0.0},
        },
    }
    assert agreement([Vote("a", "G", "x", "a"), Vote("b", "G", "y", "b")]) is None


def test_votes_are_read_from_jsonl_and_csv_by_letter_and_by_word(tmp_path):
    rows = [
        {"item": 1, "vote": "G"},
        {"item_id": "2", "vote": "same", "rater": "x", "source": "s"},
        {"id": "3", "vote": "Bad"},
    ]
    from_jsonl = read_votes(write_jsonl(tmp_path / "votes.jsonl", rows))
    table = tmp_path / "votes.csv"
    table.write_text("Item,Vote,rater,source\n1,good,,\n2,S,x,s\n3,b,,\n")
    assert read_votes(table) == from_jsonl
    assert [vote.side for vote in from_jsonl] == ["G", "S", "B"]
    assert [vote.cluster for vote in from_jsonl] == ["item:1", "source:s", "item:3"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "gbk"])
def test_votes_are_read_in_any_encoding_that_is_marked_or_named_and_in_chinese(tmp_path, encoding):
    table = tmp_path / "votes.csv"
    table.write_bytes(
        "item,vote,rater\r\n图一,好,甲\r\n图二,差,甲\r\n图三,相同,甲\r\n".encode(encoding)
    )
    if encoding == "gbk":
        with pytest.raises(InputError, match="line 2 is not utf-8, but probably gb18030"):
            read_votes(table)
    votes = read_votes(table, Reading("gb18030"))
    assert [(vote.item, vote.side, vote.rater) for vote in votes] == [
        ("图一", "G", "甲"),
        ("图二", "B", "甲"),
        ("图三", "S", "甲"),
    ]


def test_votes_that_are_not_certain_are_read_as_a_user_says(tmp_path):
    path = write_jsonl(
        tmp_path / "votes.jsonl",
        [{"item": str(n), "vote": vote} for n, vote in enumerate([1, 0, -1, 1, 9])],
    )
    with pytest.raises(
        InputError,
        match=r"'1' in 2 rows, '-1' in 1 row, '0' in 1 row, '9' in 1 row; fill in labels",
    ):
        read_votes(path)
    given = label_option("1=a,0=same,-1=b,9=")
    assert "".join(vote.side for vote in read_votes(path, given=given)) == "GSBG"


def test_raters_agreement_is_given_as_krippendorffs_alpha_too():
    rows = [
        ("a", "G", "x"),
        ("a", "G", "y"),
        ("b", "B", "x"),
        ("b", "B", "y"),
        ("c", "G", "x"),
        ("c", "B", "y"),
    ]
    # observed disagreement 1/3; expected of 3 G and 3 B: 2·3·3/(6·5)
    assert gsb([Vote(item, side, rater, item) for item, side, rater in rows])[
        "alpha"
    ] == pytest.approx(1 - (1 / 3) / 0.6, abs=1e-4)
    assert gsb(votes("GB"))["alpha"] is None


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"item": "a", "vote": "better"}], "'better' in 1 row; fill in labels"),
        ([{"item": "a"}], "line 1: there is no vote"),
        ([{"vote": "G"}], "names no item"),
        (
            [{"item": "a", "vote": "G", "rater": "x"}] * 2,
            "line 2: rater 'x' voted on item 'a' before",
        ),
        (
            [{"item": "a", "vote": "G", "source": "s"}, {"item": "a", "vote": "G", "source": "t"}],
            "another source",
        ),
        ([], "holds no votes"),
    ],
)
def test_a_vote_that_cannot_be_read_stops_with_its_line(tmp_path, rows, message):
    with pytest.raises(InputError, match=message):
        read_votes(write_jsonl(tmp_path / "votes.jsonl", rows))


def test_one_vote_has_no_interval():
    found = gsb(votes("G"))
    assert (found["gsb"], found["se"], found["ci95"]) == (1.0, None, None)


def test_the_command_prints_gsb_in_points_and_writes_the_summary(tmp_path, capsys, monkeypatch):
    path = write_jsonl(
        tmp_path / "v.jsonl", [{"item": str(k), "vote": side} for k, side in enumerate("GGGSB")]
    )
    monkeypatch.setattr(
        "sys.argv", ["eval.editors", "gsb", str(path), "--out", str(tmp_path / "out")]
    )
    main()
    printed = capsys.readouterr().out
    assert "GSB +40.0 ± 40.0" in printed
    assert "G 3, S 1, B 1" in printed
    assert math.isclose(json.loads((tmp_path / "out" / "summary.json").read_text())["gsb"], 0.4)


def test_votes_that_all_say_the_same_have_no_interval_and_none_ends_past_what_gsb_can_be():
    found = gsb([Vote(str(n), "G", None, str(n)) for n in range(5)])
    assert (found["gsb"], found["se"], found["ci95"]) == (1.0, None, None)
