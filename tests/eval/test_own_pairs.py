"""A preference set of one's own as a benchmark: any format and encoding, certain labels, one
verdict per pair."""

from __future__ import annotations

import base64
import csv
import json
from pathlib import Path

import pytest
from PIL import Image

from eval.benchmarks import labels_at, open_benchmark, read_benchmark
from eval.editrewardbench.run import run_bench
from eval.editrewardbench.settings import BenchConfig
from eval.editrewardbench.summary import described
from rrm.errors import InputError
from rrm.images import png_bytes
from rrm.rows.formats import Reading

SHADES = {"source": 10, "p": 60, "q": 90, "r": 30}


def row(a: str, b: str, label: object = "a", **more: object) -> dict:
    return {
        "source": "source.png",
        "instruction": "变红",
        "edited_a": f"{a}.png",
        "edited_b": f"{b}.png",
        "label": label,
        **more,
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, shade in SHADES.items():
        Image.new("RGB", (8, 8), (shade, 0, 0)).save(tmp_path / f"{name}.png")
    return tmp_path


def write(path: Path, *rows: dict, encoding: str = "utf-8") -> Path:
    if path.suffix == ".csv":
        with path.open("w", encoding=encoding, newline="") as stream:
            table = csv.DictWriter(stream, rows[0].keys())
            table.writeheader()
            table.writerows(rows)
    else:
        path.write_text(
            "".join(json.dumps(one, ensure_ascii=False) + "\r\n" for one in rows), encoding=encoding
        )
    return path


@pytest.mark.parametrize("ending", [".jsonl", ".csv"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "gbk"])
def test_text_files_are_read_in_any_encoding_that_is_marked_or_named(folder, ending, encoding):
    path = write(
        folder / f"pairs{ending}", row("p", "q"), row("q", "r", "right"), encoding=encoding
    )
    if encoding == "gbk":
        with pytest.raises(
            InputError, match=r"probably gb18030.*; save it as UTF-8, or name its encoding"
        ):
            list(read_benchmark("jsonl", str(path)))
    rows = list(read_benchmark("jsonl", str(path), reading=Reading("gbk")))
    assert [(one.pair.instruction, one.pair.label) for one in rows] == [
        ("变红", "a"),
        ("变红", "b"),
    ]


def test_images_may_stand_in_the_rows_in_base64(folder):
    image = Image.new("RGB", (8, 8), (77, 0, 0))
    url = "data:image/png;base64," + base64.b64encode(png_bytes(image)).decode()
    (found,) = read_benchmark(
        "jsonl", str(write(folder / "pairs.csv", {**row("p", "q"), "edited_a": url}))
    )
    assert found.edited[0].getpixel((0, 0)) == (77, 0, 0)


def test_a_name_that_no_file_can_have_is_told_with_its_row(folder):
    for name, told in (
        ("x" * 300, "line 2: There is no image at"),
        ("x" * 5000, "line 2: 'the image' holds 5000|line 2: .*5000"),
    ):
        path = write(folder / "pairs.jsonl", row("p", "q"), {**row("p", "q"), "edited_a": name})
        with pytest.raises(InputError, match=told):
            list(read_benchmark("jsonl", str(path)))


def test_labels_that_are_not_certain_stop_before_an_image_is_read(folder):
    path = write(folder / "pairs.jsonl", row("absent", "q", 1), row("p", "q", 2), row("p", "q", 9))
    with pytest.raises(
        InputError, match=r"'1' in 1 row, '2' in 1 row, '9' in 1 row.*--labels '1=…,2=…,9=…'"
    ):
        open_benchmark("jsonl", str(path))
    with pytest.raises(InputError, match="The labels of 'tiger' mean what its schema says"):
        labels_at("tiger", str(path), given={1: "a"})


def test_one_pair_has_one_verdict_and_what_was_merged_is_told(folder):
    rows = [
        row("p", "q", 1, rater="x"),
        row("q", "p", 2, rater="y"),
        row("q", "p", 1, rater="z"),
        row("q", "r", 3),
        row("r", "p", 1),
        row("p", "r", 1),
        row("p", "p", 2),
        row("q", "r", 9),
        row("p", "q", 2, requirement="keep the cat"),
    ]
    path = write(folder / "pairs.jsonl", *rows)
    bench = open_benchmark("jsonl", str(path), given={1: "a", 2: "b", 3: "same", 9: None})
    shades = {pair.number: pair.label for pair in bench.pairs}
    assert shades == {0: "a", 3: "tie", 4: "tie", 8: "b"}
    assert [one.pair.number for one in bench.rows()] == [0, 3, 4, 8]
    assert bench.votes is not None
    assert {
        name: bench.votes[name]
        for name in ("same_image", "voted_several_times", "contradicted", "raters")
    } == {
        "same_image": 1,
        "voted_several_times": 2,
        "contradicted": 2,
        "raters": 3,
    }
    assert bench.votes["pairs"] == {"a": 1, "b": 1, "same": 2}
    assert {row["value"]: row["read_as"] for row in bench.votes["labels"]} == {
        "1": "a",
        "2": "b",
        "3": "same",
        "9": None,
    }


def test_the_result_says_as_what_labels_were_read(folder):
    path = write(
        folder / "pairs.csv",
        row("p", "q", "左"),
        row("q", "p", "左"),
        row("q", "r", "右"),
        row("p", "p", "左"),
    )
    config = BenchConfig(
        bench="jsonl", data=str(path), reward="baseline:more-change", out=str(folder / "out")
    )
    summary = run_bench(config, "editrewardbench run")
    assert summary["result"]["labels"] == {"tie": 1, "b": 1}
    told = described(summary)
    assert "labels read: '左' (3) as a, '右' (1) as b; pairs: 0 a, 1 b, 1 same" in told
    assert "1 pairs have several votes: each counts once" in told
    assert "1 rows are left out: both of their edits are the same image." in told
