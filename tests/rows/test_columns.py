"""What the fields of a row mean, whatever its data set calls them."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rrm.rows.columns import CandidateRow, TaskRow, read_candidate, read_task
from rrm.rows.fields import BadRow
from rrm.rows.pairs import PairRow, read_pair
from rrm.rows.sources import rows_of


def cell(content: bytes | None, path: str | None = None) -> dict:
    return {"bytes": content, "path": path}


def reason(read, values) -> str:
    with pytest.raises(BadRow) as caught:
        read(values)
    assert caught.value.failure.kind == "bad_row"
    return caught.value.failure.detail


TASK = {"instruction": "make it red", "image": "a.png"}


@pytest.mark.parametrize(
    "name", ["prompt", "instruction", "edit_instruction", "edit_prompt", "instruct_prompt", "edit"]
)
@pytest.mark.parametrize(
    "image", ["image", "source_image", "source_img", "input_image", "source", "original_image"]
)
def test_a_task_is_read_under_any_of_its_names(name, image):
    assert read_task({name: "make it red", image: "a.png"}) == TaskRow(
        "make it red", "a.png", None, (), None
    )


def test_the_name_that_means_only_one_thing_goes_before_the_others():
    values = {
        "prompt": "a red car",
        "edit_prompt": "make it red",
        "image": "edited.png",
        "source_image": "a.png",
    }
    assert read_task(values) == TaskRow("make it red", "a.png", None, (), None)
    assert (
        read_task(
            {"edit_prompt": float("nan"), "instruction": " ", **values, "source_image": cell(None)}
        ).image
        == "edited.png"
    )


def test_a_task_may_bring_edits_their_editor_and_a_requirement():
    values = {
        "prompt": "x",
        "input_images": [cell(b"one"), cell(b"two")],
        "output_images": ["a.png", cell(b"b")],
        "model": "flux",
    }
    assert read_task(values) == TaskRow("x", b"one", None, ("a.png", b"b"), "flux")
    assert (
        read_task({**TASK, "edited": "e.png", "requirement": " all red "}).requirement == "all red"
    )
    assert read_task({**TASK, "output_image": cell(None, "e.png")}).edits == ("e.png",)


def test_an_image_may_stand_in_the_row_in_base64():
    image = b"\x89PNG\r\n\x1a\n" + bytes(range(256))
    text = base64.b64encode(image).decode()
    for written in (
        f"data:image/png;base64,{text}",
        f"DATA:;charset=x;base64,{text[:40]}\n{text[40:]}",
        text,
    ):
        assert read_task({**TASK, "image": written}).image == image
    assert reason(read_task, {**TASK, "image": "data:image/png;base64,AAA"}).startswith(
        "'image' holds an image whose base64"
    )
    assert reason(read_task, {**TASK, "image": "x" * 5000}).startswith(
        "'image' holds 5000 characters, which are neither"
    )
    assert "nothing is fetched" in reason(read_task, {**TASK, "image": "https://example.com/a.png"})


def test_text_that_was_decoded_wrongly_before_is_not_used():
    assert reason(read_task, {**TASK, "instruction": "caf\ufffd"}).startswith(
        "'instruction' holds U+FFFD"
    )


def test_of_several_languages_the_english_instruction_is_taken_and_of_one_the_only_one():
    assert (
        read_task({**TASK, "instruction": {"cn": "变红", "en": "make it red"}}).instruction
        == "make it red"
    )
    assert read_task({**TASK, "instruction": ["make it red"]}).instruction == "make it red"
    assert read_task({**TASK, "instruction": {"cn": "变红", "en": None}}).instruction == "变红"
    several = {"cn": "变红", "jp": "赤く", "en": " "}
    assert (
        reason(read_task, {**TASK, "instruction": several})
        == "'instruction' holds 2 texts, none of them under 'en'"
    )
    assert (
        reason(read_task, {**TASK, "instruction": ["x", "y"]})
        == "'instruction' holds 2 texts, not one"
    )


def test_an_unusable_task_says_what_is_wrong():
    assert reason(read_task, {"image": "a.png"}).startswith(
        "no instruction: all of edit_instruction, "
    )
    assert reason(read_task, {"prompt": "x", "image": cell(None), "id": "0012"}).startswith(
        "no source image: "
    )
    assert reason(read_task, {**TASK, "instruction": 7}) == "'instruction' must be text, not int"
    assert (
        reason(read_task, {**TASK, "image": 7})
        == "'image' must be the path or the bytes of an image, not int"
    )
    assert reason(read_task, {**TASK, "requirement": [1]}) == "'requirement' must be text, not int"
    assert "half a character" in reason(
        read_task, {**TASK, "instruction": json.loads('"\\ud83d red"')}
    )
    assert "half a character" in reason(read_task, {**TASK, "image": json.loads('"\\ud83d.png"')})
    assert reason(read_task, {**TASK, "edited": ["a.png", None]}) == (
        "'edited' must be the path or the bytes of an image, not NoneType"
    )


def test_a_candidate_names_its_task_or_brings_its_source():
    ours = {
        "task": "images/a.png",
        "instruction": "make it red",
        "image": "edits/a.png",
        "editor": "kontext",
        "seed": 3.0,
    }
    assert read_candidate(ours) == CandidateRow(
        "images/a.png", None, "make it red", "edits/a.png", "kontext", 3
    )
    given = {
        "source_image": b"src",
        "prompt": "make it red",
        "image": "e.png",
        "model": "flux",
        "task": "color_alter",
    }
    assert read_candidate(given) == CandidateRow(None, b"src", "make it red", "e.png", "flux", None)
    both = {
        "image": "a.png",
        "prompt": "make it red",
        "edited_image": "e.png",
        "editor": "flux",
        "seed": None,
    }
    assert read_candidate(both) == CandidateRow(None, "a.png", "make it red", "e.png", "flux", None)


def test_an_unusable_candidate_says_what_is_wrong():
    ours = {
        "task": "images/a.png",
        "instruction": "make it red",
        "image": "edits/a.png",
        "editor": "kontext",
    }
    assert reason(read_candidate, {**ours, "task": None}) == "neither a source image nor a 'task'"
    assert reason(read_candidate, {**ours, "image": ""}) == "'image' is missing"
    assert (
        reason(read_candidate, {**ours, "editor": None})
        == "no editor: all of editor, model, model_name are missing"
    )
    assert read_candidate({**ours, "seed": " 7"}).seed == 7
    for seed in ("x", 1.5, float("inf"), True):
        assert (
            reason(read_candidate, {**ours, "seed": seed})
            == f"'seed' must be a whole number, not {seed!r}"
        )
    assert (
        reason(read_candidate, {**ours, "output_images": ["a", "b"]})
        == "'output_images' holds 2 images, not one"
    )


OURS = {
    "source": "s.png",
    "instruction": "make it red",
    "edited_a": "a.png",
    "edited_b": "b.png",
    "label": "b",
}


def parquet_pairs(path: Path, rows: list[dict]) -> list[PairRow]:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return [read_pair(row.values) for row in rows_of(str(path))]


def test_our_own_pairs_are_read():
    assert read_pair(OURS) == PairRow(
        "s.png", "make it red", None, "a.png", "b.png", "b", "edit-rrm"
    )
    assert read_pair({**OURS, "requirement": "keep the cat"}).requirement == "keep the cat"


def test_editreward_data_is_read(tmp_path):
    row = {
        "instruction": "make it red",
        "source_img": cell(b"s"),
        "left_output_image": cell(b"l"),
        "right_output_image": cell(b"r"),
        "left_overall_score": 5.0,
        "right_overall_score": 7.0,
    }
    votes = ["leftvote", "rightvote", "tie", None, None, None]
    rows = [{**row, "vote_type": vote} for vote in votes]
    rows[4] |= {"left_overall_score": 7.5}
    rows[5] |= {"left_overall_score": 7.0}
    pairs = parquet_pairs(tmp_path / "data.parquet", rows)
    assert [pair.label for pair in pairs] == ["a", "b", "same", "b", "a", "same"]
    assert pairs[0] == PairRow(b"s", "make it red", None, b"l", b"r", "a", "EditReward-Data")
    assert reason(read_pair, {**row, "left_overall_score": float("nan")}).startswith(
        "no label: all of label, vote_type"
    )


def test_genai_bench_is_read(tmp_path):
    votes = ["leftvote", "rightvote", "tievote", "bothbad_vote"]
    images = {
        "source_image": cell(b"s"),
        "left_output_image": cell(b"l"),
        "right_output_image": cell(b"r"),
    }
    words = {
        "source_prompt": "a car",
        "target_prompt": "a red car",
        "instruct_prompt": "make it red",
    }
    pairs = parquet_pairs(
        tmp_path / "test_v1.parquet", [{**images, **words, "vote_type": vote} for vote in votes]
    )
    assert pairs == [
        PairRow(b"s", "make it red", None, b"l", b"r", label, "GenAI-Bench")
        for label in ("a", "b", "same", "same")
    ]


def test_the_first_edit_of_editscore_is_the_preferred_one(tmp_path):
    row = {
        "key": ["3", "8"],
        "instruction": "make it red",
        "input_image": cell(b"s"),
        "output_images": [cell(b"good"), cell(b"worse")],
        "task_type": "color_alter",
        "dimension": "overall",
    }
    expected = PairRow(
        b"s", "make it red", None, b"good", b"worse", "a", "EditScore EditReward-Bench"
    )
    assert parquet_pairs(tmp_path / "train.parquet", [row]) == [expected]
    assert read_pair({**row, "label": "b"}) == PairRow(
        b"s", "make it red", None, b"good", b"worse", "b", "generic"
    )
    assert reason(read_pair, {name: row[name] for name in row if name != "key"}).startswith(
        "no label"
    )
    assert (
        reason(read_pair, {**row, "output_images": [cell(b"1")]})
        == "'output_images' holds 1 images, not two"
    )
    assert (
        reason(read_pair, {**row, "output_images": [cell(b"1"), None]})
        == "'output_images[1]' is missing"
    )


def test_rankings_of_tiger_are_read_in_the_letters_of_their_pair(tmp_path):
    row = {
        "instruction": "make it red",
        "source_image": cell(b"s"),
        "candidate_1": cell(b"1"),
        "candidate_2": cell(b"2"),
    }
    cases = {
        ("A>B", "AvsB"): "a",
        ("B>A", "AvsB"): "b",
        ("A=B", "AvsB"): "same",
        ("B>A", None): "b",
        ("B>C", "BvsC"): "a",
        ("C>B", "BvsC"): "b",
        ("D>A", "AvsD"): "b",
    }
    rows = [
        {**row, "id": "g_1", "ranking": ranking, "comparison_type": pair} for ranking, pair in cases
    ]
    pairs = parquet_pairs(tmp_path / "4pair.parquet", rows)
    assert [pair.label for pair in pairs] == list(cases.values())
    assert pairs[0] == PairRow(
        b"s", "make it red", None, b"1", b"2", "a", "TIGER-Lab EditReward-Bench"
    )
    assert reason(read_pair, {**rows[0], "comparison_type": "BvsC"}).startswith(
        "'ranking' is 'A>B', which does not rank"
    )
    assert reason(read_pair, {**rows[0], "ranking": "A>A"}).startswith("'ranking' is 'A>A'")
    assert reason(read_pair, row) == "'ranking' is missing"


def test_the_winner_of_editreward_compass_is_an_image():
    row = {
        "dimension": "IA",
        "source_image": "s.png",
        "prompt": "make it red",
        "winner": "w.png",
        "loser": "l.png",
    }
    expected = PairRow("s.png", "make it red", None, "w.png", "l.png", "a", "EditReward-Compass")
    assert read_pair({**row, "label": "preference"}) == expected
    assert read_pair({**row, "label": "tie"}).label == "same"
    assert (
        reason(read_pair, {**row, "label": "b"})
        == "'label' is 'b', which is none of preference, tie"
    )


@pytest.mark.parametrize(
    "names",
    [
        "edited_a edited_b",
        "image_a image_b",
        "left_image right_image",
        "left_output_image right_output_image",
        "output_a output_b",
    ],
)
@pytest.mark.parametrize("label", ["label", "winner", "preference", "vote", "vote_type"])
def test_any_preference_set_is_read(names, label):
    first, second = names.split()
    values = {
        "source_image": "s.png",
        "edit": "make it red",
        first: "1.png",
        second: "2.png",
        label: "right",
    }
    assert read_pair(values) == PairRow(
        "s.png", "make it red", None, "1.png", "2.png", "b", "generic"
    )


def test_an_unusable_pair_says_what_is_missing():
    assert reason(read_pair, {**OURS, "edited_b": cell(None)}) == "'edited_b' is missing"
    assert reason(read_pair, TASK).startswith("no two edits: all of edited_a/edited_b, ")
    assert reason(read_pair, {**OURS, "source": None}).startswith("no source image")
    assert len(reason(read_pair, {**OURS, "label": "x" * 10_000})) <= 300
