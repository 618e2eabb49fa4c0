"""Real files of every public schema, and what their rows mean."""

from __future__ import annotations

import io
import json
import tracemalloc
import zipfile
from pathlib import Path

import datasets
import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from data_pipeline.inputs import LIMIT, HubSource, fingerprint_files, hub_source, rows_of
from data_pipeline.schemas import BadRow, CandidateRow, PairRow, TaskRow, read_candidate, read_pair, read_task
from rrm.errors import InputError

BROKEN = b"no image: whoever decodes this raises"


def png(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (shade, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def cell(content: bytes | None, path: str | None = None) -> dict:
    return {"bytes": content, "path": path}


def seen(where) -> list[tuple]:
    return [(row.where, row.number, row.values) for row in rows_of(str(where))]


def reason(read, values) -> str:
    with pytest.raises(BadRow) as caught:
        read(values)
    assert caught.value.failure.kind == "bad_row"
    return caught.value.failure.detail


# Sources


def test_bad_lines_of_jsonl_are_rows_without_values_and_keep_their_numbers(tmp_path):
    path = tmp_path / "tasks.jsonl"
    lines = ['\ufeff{"n": 1}', "", "{torn", "[2]", '{"n": "one\u2028line"}\r', "[" * 100_000, '{"n": 6}']
    path.write_bytes("\n".join(lines).encode().replace(b"torn", b"\xff"))
    values = [{"n": 1}, None, None, {"n": "one\u2028line"}, None, {"n": 6}]
    assert seen(path) == [("tasks.jsonl", number, value) for number, value in zip((1, 3, 4, 5, 6, 7), values, strict=True)]
    assert {row.folder for row in rows_of(str(path))} == {tmp_path}


def test_bytes_that_are_no_utf8_do_not_cost_the_row(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"prompt": "caf\xe9", "image": "a.png"}\n')
    assert seen(tmp_path / "a.jsonl")[0][2] == {"prompt": "caf\ufffd", "image": "a.png"}


def test_a_line_over_the_limit_is_read_past(tmp_path):
    path = tmp_path / "long.jsonl"
    with path.open("wb") as stream:
        stream.write(b'{"n": 1}\n{"n": "' + b"x" * (LIMIT + (1 << 20)) + b'"}\n{"n": 3}\n')
    assert seen(path) == [("long.jsonl", 1, {"n": 1}), ("long.jsonl", 2, None), ("long.jsonl", 3, {"n": 3})]


def test_a_json_list_gives_its_items_however_they_fall_into_pieces(tmp_path):
    items = [{"n": n, "text": '\\"}],[{' * (n * 9973 % 50_000)} for n in range(20)] + ["no object", 12345]
    (tmp_path / "list.json").write_text("\n" + json.dumps(items, indent=1) + "\n", encoding="utf-8-sig")
    expected = [*items[:20], None, None]
    assert seen(tmp_path / "list.json") == [("list.json", n, value) for n, value in enumerate(expected, 1)]


def test_memory_does_not_grow_with_the_file(tmp_path):
    items = [{"prompt": "make it red", "image": f"images/{n}.png", "requirement": None} for n in range(30_000)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, items)))
    (tmp_path / "a.json").write_text(json.dumps(items))
    assert (tmp_path / "a.json").stat().st_size > 2_000_000
    for name in ("a.jsonl", "a.json"):
        tracemalloc.start()
        assert sum(1 for _ in rows_of(str(tmp_path / name))) == 30_000
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
        tracemalloc.stop()


def test_a_folder_of_csv_is_left_to_the_datasets_library(tmp_path):
    (tmp_path / "pairs.csv").write_text(
        "source,prompt,image_a,image_b,label\ns.png,make it red,a.png,b.png,1\n,x,a.png,b.png,0\n"
    )
    first, second = rows_of(str(tmp_path))
    assert read_pair(first.values) == PairRow("s.png", "make it red", "a.png", "b.png", "b", "generic")
    assert reason(read_pair, second.values).startswith("no source image")
    assert (first.folder, first.number, second.number) == (tmp_path, 1, 2)


def test_the_keys_of_a_json_object_are_put_into_its_rows(tmp_path):
    bench = {"10 82": {"id": "animal/1.jpg", "prompt": "add a hat", "edit_type": "add"}, 'q"': {"id": "b.jpg", "prompt": "x"}}
    (tmp_path / "singleturn.json").write_text(json.dumps(bench))
    rows = seen(tmp_path / "singleturn.json")
    assert [row[2]["key"] for row in rows] == ["10 82", 'q"']
    assert read_task(rows[0][2]) == TaskRow("add a hat", "animal/1.jpg", None, (), None)


@pytest.mark.parametrize(
    "text", ['[{"a": 1},]', '[{"a": 1} {"a": 2}]', '[{"a": 1}', '{"a": {}}\n{"a": {}}', '"text"', '{"a" {}}']
)
def test_damaged_json_is_refused(tmp_path, text):
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(InputError, match=r"bad\.json is no JSON list or object of objects"):
        seen(tmp_path / "bad.json")


def test_a_parquet_folder_is_read_in_the_order_of_its_names(tmp_path):
    for name, first, count in (("b", 20, 20), ("sub/a", 40, 2), ("a", 0, 20)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        table = {"n": list(range(first, first + count)), "image": [cell(BROKEN, "x.png")] * count}
        pq.write_table(pa.table(table), tmp_path / f"{name}.parquet")
    rows = seen(tmp_path)
    assert [row[2]["n"] for row in rows] == list(range(42))
    assert [row[:2] for row in rows[19:22]] == [("a.parquet", 20), ("b.parquet", 1), ("b.parquet", 2)]
    assert rows[41] == ("sub/a.parquet", 2, {"n": 41, "image": {"bytes": BROKEN, "path": "x.png"}})
    assert {row.folder for row in rows_of(str(tmp_path))} == {tmp_path}
    assert seen(tmp_path / "sub" / "a.parquet")[0][:2] == ("a.parquet", 1)


def test_parquet_of_several_splits_is_not_mixed(tmp_path):
    for split in ("train", "test_v1"):
        pq.write_table(pa.table({"n": [1]}), tmp_path / f"{split}-00000-of-00001-0a1b.parquet")
    with pytest.raises(InputError, match=r"splits test_v1, train; name a folder or file of one split"):
        rows_of(str(tmp_path))


def test_an_edit_r1_folder_gives_its_training_tasks(tmp_path):
    (tmp_path / "images").mkdir()
    lines = [
        {"prompt": " make it red ", "image": "images/1.png", "requirement": "keep the cat"},
        {"prompt": "add a hat", "image": "images/2.png", "requirement": None},
    ]
    (tmp_path / "train_metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (tmp_path / "test_metadata.jsonl").write_text('{"prompt": "held out", "image": "images/3.png", "requirement": null}')
    rows = list(rows_of(str(tmp_path)))
    assert [read_task(row.values) for row in rows] == [
        TaskRow("make it red", "images/1.png", "keep the cat", (), None),
        TaskRow("add a hat", "images/2.png", None, (), None),
    ]
    assert {(row.where, row.folder) for row in rows} == {("train_metadata.jsonl", tmp_path)}


def edit_set() -> datasets.Dataset:
    features = {
        "source_image": datasets.Image(),
        "output_images": datasets.List(datasets.Image()),
        "instruction": datasets.Value("string"),
    }
    rows = {
        "source_image": [cell(png(1), "s.png"), cell(BROKEN)],
        "output_images": [[cell(png(2)), cell(BROKEN)], []],
        "instruction": ["make it red", "add a hat"],
    }
    return datasets.Dataset.from_dict(rows, features=datasets.Features(features))


def test_a_folder_of_save_to_disk_gives_images_as_they_are_stored(tmp_path):
    edit_set().save_to_disk(str(tmp_path / "saved"))
    rows = list(rows_of(str(tmp_path / "saved")))
    assert [read_task(row.values) for row in rows] == [
        TaskRow("make it red", png(1), None, (png(2), BROKEN), None),
        TaskRow("add a hat", BROKEN, None, (), None),
    ]
    assert [(row.where, row.number, row.folder) for row in rows] == [("saved", n, tmp_path / "saved") for n in (1, 2)]


def test_of_several_splits_one_must_be_named(tmp_path):
    split = edit_set()
    datasets.DatasetDict({"train": split, "test": split.select([0])}).save_to_disk(str(tmp_path / "two"))
    datasets.DatasetDict({"train": split}).save_to_disk(str(tmp_path / "one"))
    with pytest.raises(InputError, match=r"holds the splits train, test; name the folder of one, such as .*two/train\."):
        rows_of(str(tmp_path / "two"))
    assert [len(seen(tmp_path / name)) for name in ("two/train", "two/test", "one")] == [2, 1, 2]


def test_an_imagefolder_gives_paths_below_the_folder(tmp_path, monkeypatch):
    folder = tmp_path / "drawn"
    (folder / "images").mkdir(parents=True)
    for name in ("b.png", "a.png", "edit.png"):
        (folder / "images" / name).write_bytes(BROKEN)
    lines = [{"file_name": f"images/{n}.png", "edited_file_name": "images/edit.png", "instruction": f"edit {n}"} for n in "ba"]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(folder)
    expected = [TaskRow(f"edit {n}", f"images/{n}.png", None, ("images/edit.png",), None) for n in "ba"]
    for where in (str(folder), "drawn", "link"):
        rows = list(rows_of(where))
        assert [read_task(row.values) for row in rows] == expected
        assert {row.folder for row in rows} == {Path(where)}


def test_images_in_an_archive_of_the_folder_come_as_bytes(tmp_path):
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        archive.writestr("a.png", png(7))
        archive.writestr("metadata.jsonl", '{"file_name": "a.png", "prompt": "make it red"}')
    assert [read_task(row.values) for row in rows_of(str(tmp_path))] == [TaskRow("make it red", png(7), None, (), None)]


def test_a_data_set_does_not_have_files_read_that_lie_elsewhere(tmp_path):
    (tmp_path / "secret.png").write_bytes(png(9))
    addresses = [f"file://{tmp_path}/secret.png", f"{tmp_path}/secret.png"]
    table = {"image": [cell(None, address) for address in addresses], "prompt": ["x", "y"]}
    datasets.Dataset(pa.table(table)).save_to_disk(str(tmp_path / "saved"))
    images = [row.values["image"] for row in rows_of(str(tmp_path / "saved"))]
    assert images == [cell(None, address) for address in addresses]


def test_a_source_that_is_missing_empty_or_unreadable_is_refused_in_a_sentence(tmp_path):
    (tmp_path / "empty.jsonl").write_text("\n\n")
    (tmp_path / "empty.json").write_text("[ ]")
    (tmp_path / "rows.csv").write_text("a,b\n1,2\n")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 not really")
    (tmp_path / "nothing").mkdir()
    pq.write_table(pa.table({"n": pa.array([], pa.int64())}), tmp_path / "none.parquet")
    for name, told in {
        "empty.jsonl": "holds no rows",
        "empty.json": "holds no rows",
        "none.parquet": "holds no rows",
        "rows.csv": "is no source; give a .jsonl, .json, .parquet file",
        "absent.jsonl": "is no source",
        "broken.parquet": "cannot be read as Parquet after row 0",
        "nothing": "cannot be loaded as a data set",
    }.items():
        with pytest.raises(InputError, match=told):
            seen(tmp_path / name)


def test_a_missing_source_is_refused_before_the_first_row_is_asked_for(tmp_path):
    with pytest.raises(InputError, match="is no source"):
        rows_of(str(tmp_path / "absent.jsonl"))


# The hub


def test_a_hub_id_names_revision_configuration_and_split():
    assert hub_source("TIGER-Lab/GenAI-Bench@0a1b2c:image_edition:test_v1") == HubSource(
        "TIGER-Lab/GenAI-Bench", "0a1b2c", "image_edition", "test_v1"
    )
    assert hub_source("a/b@refs/convert/parquet") == HubSource("a/b", "refs/convert/parquet", None, None)
    assert hub_source("a/b@v1:default") == HubSource("a/b", "v1", "default", None)
    assert hub_source("a/b@v1::train") == HubSource("a/b", "v1", None, "train")


@pytest.mark.parametrize(
    "where", ["EditScore/EditReward-Bench", "EditScore/EditReward-Bench@main", "EditScore/EditReward-Bench:x:train"]
)
def test_a_hub_id_must_be_pinned(where):
    pinned = r"pin a revision so that the same data come out next time: EditScore/EditReward-Bench@<commit>"
    for ask in (rows_of, fingerprint_files):
        with pytest.raises(InputError, match=pinned):
            ask(where)


def test_what_is_no_hub_id_is_no_source():
    for where in ("folder/tasks.jsonl", "a/b/c@v1", "a/b@v1:x:y:z", "just-a-name@v1"):
        with pytest.raises(InputError, match="is no source"):
            hub_source(where)


def test_without_the_hub_its_id_is_refused(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"no/such-set@0a1b2c cannot be loaded from the hub .*download it and name its folder"):
        rows_of("no/such-set@0a1b2c")


def test_local_sources_are_identified_by_their_content_and_hub_ids_by_their_revision(tmp_path):
    (tmp_path / "a.jsonl").write_text("{}")
    assert fingerprint_files(str(tmp_path)) == [tmp_path]
    assert fingerprint_files(str(tmp_path / "a.jsonl")) == [tmp_path / "a.jsonl"]
    assert fingerprint_files("a/b@v1") == []
    with pytest.raises(InputError, match="is no source"):
        fingerprint_files(str(tmp_path / "b.jsonl"))


# Tasks and candidates

TASK = {"instruction": "make it red", "image": "a.png"}


@pytest.mark.parametrize("name", ["prompt", "instruction", "edit_instruction", "edit_prompt", "instruct_prompt", "edit"])
@pytest.mark.parametrize("image", ["image", "source_image", "source_img", "input_image", "source", "original_image"])
def test_a_task_is_read_under_any_of_its_names(name, image):
    assert read_task({name: "make it red", image: "a.png"}) == TaskRow("make it red", "a.png", None, (), None)


def test_the_name_that_means_only_one_thing_goes_before_the_others():
    values = {"prompt": "a red car", "edit_prompt": "make it red", "image": "edited.png", "source_image": "a.png"}
    assert read_task(values) == TaskRow("make it red", "a.png", None, (), None)
    assert (
        read_task({"edit_prompt": float("nan"), "instruction": " ", **values, "source_image": cell(None)}).image == "edited.png"
    )


def test_a_task_may_bring_edits_their_editor_and_a_requirement():
    values = {
        "prompt": "x",
        "input_images": [cell(b"one"), cell(b"two")],
        "output_images": ["a.png", cell(b"b")],
        "model": "flux",
    }
    assert read_task(values) == TaskRow("x", b"one", None, ("a.png", b"b"), "flux")
    assert read_task({**TASK, "edited": "e.png", "requirement": " all red "}).requirement == "all red"
    assert read_task({**TASK, "output_image": cell(None, "e.png")}).edits == ("e.png",)


def test_the_english_instruction_is_taken_and_no_other():
    assert read_task({**TASK, "instruction": {"cn": "变红", "en": "make it red"}}).instruction == "make it red"
    assert read_task({**TASK, "instruction": ["make it red"]}).instruction == "make it red"
    assert reason(read_task, {**TASK, "instruction": {"cn": "变红"}}) == "'instruction' holds no text under 'en'"
    assert reason(read_task, {**TASK, "instruction": ["x", "y"]}) == "'instruction' holds 2 texts, not one"


def test_an_unusable_task_says_what_is_wrong():
    assert reason(read_task, {"image": "a.png"}).startswith("no instruction: all of edit_instruction, ")
    assert reason(read_task, {"prompt": "x", "image": cell(None), "id": "0012"}).startswith("no source image: ")
    assert reason(read_task, {**TASK, "instruction": 7}) == "'instruction' must be text, not int"
    assert reason(read_task, {**TASK, "image": 7}) == "'image' must be the path or the bytes of an image, not int"
    assert reason(read_task, {**TASK, "requirement": [1]}) == "'requirement' must be text, not int"
    assert "half a character" in reason(read_task, {**TASK, "instruction": json.loads('"\\ud83d red"')})
    assert "half a character" in reason(read_task, {**TASK, "image": json.loads('"\\ud83d.png"')})
    assert reason(read_task, {**TASK, "edited": ["a.png", None]}) == (
        "'edited' must be the path or the bytes of an image, not NoneType"
    )


def test_a_candidate_names_its_task_or_brings_its_source():
    ours = {"task": "images/a.png", "instruction": "make it red", "image": "edits/a.png", "editor": "kontext", "seed": 3.0}
    assert read_candidate(ours) == CandidateRow("images/a.png", None, "make it red", "edits/a.png", "kontext", 3)
    given = {"source_image": b"src", "prompt": "make it red", "image": "e.png", "model": "flux", "task": "color_alter"}
    assert read_candidate(given) == CandidateRow(None, b"src", "make it red", "e.png", "flux", None)
    both = {"image": "a.png", "prompt": "make it red", "edited_image": "e.png", "editor": "flux", "seed": None}
    assert read_candidate(both) == CandidateRow(None, "a.png", "make it red", "e.png", "flux", None)


def test_an_unusable_candidate_says_what_is_wrong():
    ours = {"task": "images/a.png", "instruction": "make it red", "image": "edits/a.png", "editor": "kontext"}
    assert reason(read_candidate, {**ours, "task": None}) == "neither a source image nor a 'task'"
    assert reason(read_candidate, {**ours, "image": ""}) == "'image' is missing"
    assert reason(read_candidate, {**ours, "editor": None}) == "no editor: all of editor, model, model_name are missing"
    for seed in ("7", 1.5, float("inf"), True):
        assert reason(read_candidate, {**ours, "seed": seed}) == f"'seed' must be a whole number, not {seed!r}"
    assert reason(read_candidate, {**ours, "output_images": ["a", "b"]}) == "'output_images' holds 2 images, not one"


# Pairs

OURS = {"source": "s.png", "instruction": "make it red", "edited_a": "a.png", "edited_b": "b.png", "label": "b"}


def parquet_pairs(path: Path, rows: list[dict]) -> list[PairRow]:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return [read_pair(row.values) for row in rows_of(str(path))]


def test_our_own_pairs_are_read():
    assert read_pair(OURS) == PairRow("s.png", "make it red", "a.png", "b.png", "b", "edit-rrm")


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
    assert pairs[0] == PairRow(b"s", "make it red", b"l", b"r", "a", "EditReward-Data")
    assert reason(read_pair, {**row, "left_overall_score": float("nan")}).startswith("no label: all of label, vote_type")


def test_genai_bench_is_read(tmp_path):
    votes = ["leftvote", "rightvote", "tievote", "bothbad_vote"]
    images = {"source_image": cell(b"s"), "left_output_image": cell(b"l"), "right_output_image": cell(b"r")}
    words = {"source_prompt": "a car", "target_prompt": "a red car", "instruct_prompt": "make it red"}
    pairs = parquet_pairs(tmp_path / "test_v1.parquet", [{**images, **words, "vote_type": vote} for vote in votes])
    assert pairs == [PairRow(b"s", "make it red", b"l", b"r", label, "GenAI-Bench") for label in ("a", "b", "same", "same")]


def test_the_first_edit_of_editscore_is_the_preferred_one(tmp_path):
    row = {
        "key": ["3", "8"],
        "instruction": "make it red",
        "input_image": cell(b"s"),
        "output_images": [cell(b"good"), cell(b"worse")],
        "task_type": "color_alter",
        "dimension": "overall",
    }
    expected = PairRow(b"s", "make it red", b"good", b"worse", "a", "EditScore EditReward-Bench")
    assert parquet_pairs(tmp_path / "train.parquet", [row]) == [expected]
    assert read_pair({**row, "label": "b"}) == PairRow(b"s", "make it red", b"good", b"worse", "b", "generic")
    assert reason(read_pair, {name: row[name] for name in row if name != "key"}).startswith("no label")
    assert reason(read_pair, {**row, "output_images": [cell(b"1")]}) == "'output_images' holds 1 images, not two"
    assert reason(read_pair, {**row, "output_images": [cell(b"1"), None]}) == "'output_images[1]' is missing"


def test_rankings_of_tiger_are_read_in_the_letters_of_their_pair(tmp_path):
    row = {"instruction": "make it red", "source_image": cell(b"s"), "candidate_1": cell(b"1"), "candidate_2": cell(b"2")}
    cases = {
        ("A>B", "AvsB"): "a",
        ("B>A", "AvsB"): "b",
        ("A=B", "AvsB"): "same",
        ("B>A", None): "b",
        ("B>C", "BvsC"): "a",
        ("C>B", "BvsC"): "b",
        ("D>A", "AvsD"): "b",
    }
    rows = [{**row, "id": "g_1", "ranking": ranking, "comparison_type": pair} for ranking, pair in cases]
    pairs = parquet_pairs(tmp_path / "4pair.parquet", rows)
    assert [pair.label for pair in pairs] == list(cases.values())
    assert pairs[0] == PairRow(b"s", "make it red", b"1", b"2", "a", "TIGER-Lab EditReward-Bench")
    assert reason(read_pair, {**rows[0], "comparison_type": "BvsC"}).startswith("'ranking' is 'A>B', which does not rank")
    assert reason(read_pair, {**rows[0], "ranking": "A>A"}).startswith("'ranking' is 'A>A'")
    assert reason(read_pair, row) == "'ranking' is missing"


def test_the_winner_of_editreward_compass_is_an_image():
    row = {"dimension": "IA", "source_image": "s.png", "prompt": "make it red", "winner": "w.png", "loser": "l.png"}
    expected = PairRow("s.png", "make it red", "w.png", "l.png", "a", "EditReward-Compass")
    assert read_pair({**row, "label": "preference"}) == expected
    assert read_pair({**row, "label": "tie"}).label == "same"
    assert reason(read_pair, {**row, "label": "b"}) == "'label' is 'b', which is none of preference, tie"


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
    values = {"source_image": "s.png", "edit": "make it red", first: "1.png", second: "2.png", label: "right"}
    assert read_pair(values) == PairRow("s.png", "make it red", "1.png", "2.png", "b", "generic")


def test_labels_mean_what_they_say():
    meanings = {
        "a": ["a", "A", "left", " Left ", 0, "0", 0.0, "leftvote"],
        "b": ["b", "B", "right", 1, "1", 1.0, "rightvote"],
        "same": ["same", "tie", "tievote", "bothbad_vote"],
    }
    for meaning, labels in meanings.items():
        assert {read_pair({**OURS, "label": label}).label for label in labels} == {meaning}
    for label in ("C", 2, 0.5, True, -1):
        assert reason(read_pair, {**OURS, "label": label}).startswith(f"'label' is {label!r}, which is none of a, left,")
    assert reason(read_pair, {**OURS, "label": None}).startswith("no label: all of label, vote_type, vote, ")


def test_an_unusable_pair_says_what_is_missing():
    assert reason(read_pair, {**OURS, "edited_b": cell(None)}) == "'edited_b' is missing"
    assert reason(read_pair, TASK).startswith("no two edits: all of edited_a/edited_b, ")
    assert reason(read_pair, {**OURS, "source": None}).startswith("no source image")
    assert len(reason(read_pair, {**OURS, "label": "x" * 10_000})) <= 300
