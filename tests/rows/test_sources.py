"""Rows of real files of every format, folders and the hub."""

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
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from rrm.errors import InputError
from rrm.rows.columns import TaskRow, read_task
from rrm.rows.fields import BadRow
from rrm.rows.formats import FILES, LIMIT, PLAIN, Reading
from rrm.rows.pairs import PairRow, read_pair
from rrm.rows.sources import HubSource, fingerprint_files, hub_source, rows_of

BROKEN = b"no image: whoever decodes this raises"


def png(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (shade, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def cell(content: bytes | None, path: str | None = None) -> dict:
    return {"bytes": content, "path": path}


def seen(where, reading: Reading = PLAIN) -> list[tuple]:
    return [(row.where, row.number, row.values) for row in rows_of(str(where), reading)]


def test_bad_lines_of_jsonl_are_rows_without_values_and_keep_their_numbers(tmp_path):
    path = tmp_path / "tasks.jsonl"
    lines = [
        '\ufeff{"n": 1}',
        "",
        "{torn",
        "[2]",
        '{"n": "one\u2028line"}\r',
        "[" * 100_000,
        '{"n": 6}',
    ]
    path.write_text("\n".join(lines), encoding="utf-8", newline="")
    values = [{"n": 1}, None, None, {"n": "one\u2028line"}, None, {"n": 6}]
    assert seen(path) == [
        ("tasks.jsonl", number, value)
        for number, value in zip((1, 3, 4, 5, 6, 7), values, strict=True)
    ]
    assert {row.folder for row in rows_of(str(path))} == {tmp_path}


def test_text_in_another_encoding_is_refused_and_read_once_that_is_named(tmp_path):
    row = {"prompt": "把左边的方块变成蓝色", "image": "a.png"}
    texts = {
        "a.jsonl": json.dumps(row, ensure_ascii=False),
        "a.json": json.dumps([row], ensure_ascii=False),
        "a.csv": f"prompt,image\r\n{row['prompt']},a.png\r\n",
    }
    for name, text in texts.items():
        (tmp_path / name).write_bytes(text.encode("gbk"))
        with pytest.raises(
            InputError, match=rf"{name}, line \d is not utf-8, but probably gb18030"
        ):
            seen(tmp_path / name)
        assert [values for *_, values in seen(tmp_path / name, Reading("gbk"))] == [row]
        for encoding in ("utf-8-sig", "utf-16"):
            (tmp_path / name).write_text(text, encoding=encoding)
            assert [values for *_, values in seen(tmp_path / name)] == [row]


def test_csv_rows_are_named_by_their_first_line_and_keep_the_number_of_theirs(tmp_path):
    text = 'prompt, image ,,label\r\n"make it\r\n""red""",a.png,,1\r\n\r\n,,,\r\nadd a hat,b.png\r\n变红,c.png,,b\r\n'
    (tmp_path / "a.csv").write_text(text, encoding="utf-8-sig", newline="")
    assert seen(tmp_path / "a.csv") == [
        ("a.csv", 2, {"prompt": 'make it\r\n"red"', "image": "a.png", "label": "1"}),
        ("a.csv", 6, None),
        ("a.csv", 7, {"prompt": "变红", "image": "c.png", "label": "b"}),
    ]
    assert [row.fault for row in rows_of(str(tmp_path / "a.csv"))][
        1
    ] == "2 fields, where the first line names 4 columns"


def test_tables_may_be_separated_by_tabs_or_semicolons_and_hold_images(tmp_path):
    long = "data:image/png;base64," + "A" * 200_000
    for name, separator in (("A.TSV", "\t"), ("a.csv", ";"), ("b.csv", "\t")):
        (tmp_path / name).write_text(
            f'prompt{separator}image\n"red, blue"{separator}"{long}"\n', encoding="utf-8"
        )
        assert seen(tmp_path / name) == [(name, 2, {"prompt": "red, blue", "image": long})]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('a,b\n1,"2\n', r"line 2 cannot be read as a table"),
        ('a,b\n1,"2"3\n', "line 2"),
        ("a,b,a\n1,2,3\n", "two columns 'a'"),
    ],
)
def test_a_damaged_table_is_refused(tmp_path, text, told):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(InputError, match=told):
        seen(tmp_path / "a.csv")


PIECES = [
    "{",
    "}",
    "[",
    "]",
    '"',
    ",",
    ";",
    ":",
    "\t",
    "\n",
    "\r\n",
    "label",
    "1",
    "NaN",
    "1e999",
    "变红",
    "\ufeff",
    "\0",
    "\x1b",
    "\\ud83d",
    '{"a": ',
]
SAVED_AS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "gbk", "cp1252"]


@settings(
    max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(
    st.lists(st.sampled_from(PIECES), max_size=12), st.binary(max_size=4), st.sampled_from(sorted(FILES)),
    st.sampled_from(SAVED_AS), st.sampled_from([None, "gb18030", "utf-16"]),
)  # fmt: skip
def test_whatever_a_file_holds_it_is_read_or_refused_in_a_sentence(
    tmp_path, pieces, more, ending, saved_as, encoding
):
    path = tmp_path / f"any{ending}"
    path.write_bytes("".join(pieces).encode(saved_as, "ignore") + more)
    told = ""
    try:
        text = str([row.values for row in rows_of(str(path), Reading(encoding))])
    except InputError as error:
        text, told = "", str(error)
    assert "\ufffd" not in text
    assert "\n" not in told


def test_columns_that_are_not_wanted_stay_unread(tmp_path):
    table = {"label": ["a", "b"], "image": [cell(BROKEN)] * 2}
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    for columns, expected in ((["label", "vote"], ["a", "b"]), (["vote"], [None, None])):
        assert [
            values for *_, values in seen(tmp_path / "a.parquet", Reading(columns=columns))
        ] == [{"label": label, "image": None} for label in expected]
    edit_set().save_to_disk(str(tmp_path / "saved"))
    assert {
        tuple(values.values())
        for *_, values in seen(tmp_path / "saved", Reading(columns=["instruction"]))
    } == {
        (None, None, "make it red"),
        (None, None, "add a hat"),
    }


def test_a_line_over_the_limit_is_read_past(tmp_path):
    path = tmp_path / "long.jsonl"
    with path.open("wb") as stream:
        stream.write(b'{"n": 1}\n{"n": "' + b"x" * (LIMIT + (1 << 20)) + b'"}\n{"n": 3}\n')
    assert seen(path) == [
        ("long.jsonl", 1, {"n": 1}),
        ("long.jsonl", 2, None),
        ("long.jsonl", 3, {"n": 3}),
    ]


def test_a_json_list_gives_its_items_however_they_fall_into_pieces(tmp_path):
    items = [{"n": n, "text": '\\"}],[{' * (n * 9973 % 50_000)} for n in range(20)] + [
        "no object",
        12345,
    ]
    (tmp_path / "list.json").write_text(
        "\n" + json.dumps(items, indent=1) + "\n", encoding="utf-8-sig"
    )
    expected = [*items[:20], None, None]
    assert seen(tmp_path / "list.json") == [
        ("list.json", n, value) for n, value in enumerate(expected, 1)
    ]


def test_memory_does_not_grow_with_the_file(tmp_path):
    items = [
        {"prompt": "make it red", "image": f"images/{n}.png", "requirement": None}
        for n in range(30_000)
    ]
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
        "source,prompt,image_a,image_b,label\ns.png,make it red,a.png,b.png,right\n,x,a.png,b.png,left\n"
    )
    first, second = rows_of(str(tmp_path))
    assert read_pair(first.values) == PairRow(
        "s.png", "make it red", None, "a.png", "b.png", "b", "generic"
    )
    with pytest.raises(BadRow, match="no source image"):
        read_pair(second.values)
    assert (first.folder, first.number, second.number) == (tmp_path, 1, 2)


def test_the_keys_of_a_json_object_are_put_into_its_rows(tmp_path):
    bench = {
        "10 82": {"id": "animal/1.jpg", "prompt": "add a hat", "edit_type": "add"},
        'q"': {"id": "b.jpg", "prompt": "x"},
    }
    (tmp_path / "singleturn.json").write_text(json.dumps(bench))
    rows = seen(tmp_path / "singleturn.json")
    assert [row[2]["key"] for row in rows] == ["10 82", 'q"']
    assert read_task(rows[0][2]) == TaskRow("add a hat", "animal/1.jpg", None, (), None)


@pytest.mark.parametrize(
    "text",
    [
        '[{"a": 1},]',
        '[{"a": 1} {"a": 2}]',
        '[{"a": 1}',
        '{"a": {}}\n{"a": {}}',
        '"text"',
        '{"a" {}}',
    ],
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
    assert [row[:2] for row in rows[19:22]] == [
        ("a.parquet", 20),
        ("b.parquet", 1),
        ("b.parquet", 2),
    ]
    assert rows[41] == ("sub/a.parquet", 2, {"n": 41, "image": {"bytes": BROKEN, "path": "x.png"}})
    assert {row.folder for row in rows_of(str(tmp_path))} == {tmp_path}
    assert seen(tmp_path / "sub" / "a.parquet")[0][:2] == ("a.parquet", 1)


def test_parquet_of_several_splits_is_not_mixed(tmp_path):
    for split in ("train", "test_v1"):
        pq.write_table(pa.table({"n": [1]}), tmp_path / f"{split}-00000-of-00001-0a1b.parquet")
    with pytest.raises(
        InputError, match=r"splits test_v1, train; name a folder or file of one split"
    ):
        rows_of(str(tmp_path))


def test_an_edit_r1_folder_gives_its_training_tasks(tmp_path):
    (tmp_path / "images").mkdir()
    lines = [
        {"prompt": " make it red ", "image": "images/1.png", "requirement": "keep the cat"},
        {"prompt": "add a hat", "image": "images/2.png", "requirement": None},
    ]
    (tmp_path / "train_metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (tmp_path / "test_metadata.jsonl").write_text(
        '{"prompt": "held out", "image": "images/3.png", "requirement": null}'
    )
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
    assert [(row.where, row.number, row.folder) for row in rows] == [
        ("saved", n, tmp_path / "saved") for n in (1, 2)
    ]


def test_of_several_splits_one_must_be_named(tmp_path):
    split = edit_set()
    datasets.DatasetDict({"train": split, "test": split.select([0])}).save_to_disk(
        str(tmp_path / "two")
    )
    datasets.DatasetDict({"train": split}).save_to_disk(str(tmp_path / "one"))
    with pytest.raises(
        InputError,
        match=r"holds the splits train, test; name the folder of one, such as .*two/train\.",
    ):
        rows_of(str(tmp_path / "two"))
    assert [len(seen(tmp_path / name)) for name in ("two/train", "two/test", "one")] == [2, 1, 2]


def test_an_imagefolder_gives_paths_below_the_folder(tmp_path, monkeypatch):
    folder = tmp_path / "drawn"
    (folder / "images").mkdir(parents=True)
    for name in ("b.png", "a.png", "edit.png"):
        (folder / "images" / name).write_bytes(BROKEN)
    lines = [
        {
            "file_name": f"images/{n}.png",
            "edited_file_name": "images/edit.png",
            "instruction": f"edit {n}",
        }
        for n in "ba"
    ]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(folder)
    expected = [
        TaskRow(f"edit {n}", f"images/{n}.png", None, ("images/edit.png",), None) for n in "ba"
    ]
    for where in (str(folder), "drawn", "link"):
        rows = list(rows_of(where))
        assert [read_task(row.values) for row in rows] == expected
        assert {row.folder for row in rows} == {Path(where)}


def test_images_in_an_archive_of_the_folder_come_as_bytes(tmp_path):
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        archive.writestr("a.png", png(7))
        archive.writestr("metadata.jsonl", '{"file_name": "a.png", "prompt": "make it red"}')
    assert [read_task(row.values) for row in rows_of(str(tmp_path))] == [
        TaskRow("make it red", png(7), None, (), None)
    ]


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
    (tmp_path / "rows.xlsx").write_text("a,b\n1,2\n")
    (tmp_path / "empty.csv").write_text("a,b\n")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 not really")
    (tmp_path / "nothing").mkdir()
    pq.write_table(pa.table({"n": pa.array([], pa.int64())}), tmp_path / "none.parquet")
    for name, told in {
        "empty.jsonl": "holds no rows",
        "empty.json": "holds no rows",
        "none.parquet": "holds no rows",
        "empty.csv": "holds no rows",
        "rows.xlsx": "is no source; give a .jsonl, .json, .csv, .tsv, .parquet file",
        "absent.jsonl": "is no source",
        "broken.parquet": "cannot be read as Parquet after row 0",
        "nothing": "cannot be loaded as a data set",
    }.items():
        with pytest.raises(InputError, match=told):
            seen(tmp_path / name)


def test_a_missing_source_is_refused_before_the_first_row_is_asked_for(tmp_path):
    with pytest.raises(InputError, match="is no source"):
        rows_of(str(tmp_path / "absent.jsonl"))


def test_a_hub_id_names_revision_configuration_and_split():
    assert hub_source("TIGER-Lab/GenAI-Bench@0a1b2c:image_edition:test_v1") == HubSource(
        "TIGER-Lab/GenAI-Bench", "0a1b2c", "image_edition", "test_v1"
    )
    assert hub_source("a/b@refs/convert/parquet") == HubSource(
        "a/b", "refs/convert/parquet", None, None
    )
    assert hub_source("a/b@v1:default") == HubSource("a/b", "v1", "default", None)
    assert hub_source("a/b@v1::train") == HubSource("a/b", "v1", None, "train")


@pytest.mark.parametrize(
    "where",
    [
        "EditScore/EditReward-Bench",
        "EditScore/EditReward-Bench@main",
        "EditScore/EditReward-Bench:x:train",
    ],
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
    with pytest.raises(
        InputError,
        match=r"no/such-set@0a1b2c cannot be loaded from the hub .*download it and name its folder",
    ):
        rows_of("no/such-set@0a1b2c")


def test_local_sources_are_identified_by_their_content_and_hub_ids_by_their_revision(tmp_path):
    (tmp_path / "a.jsonl").write_text("{}")
    assert fingerprint_files(str(tmp_path)) == [tmp_path]
    assert fingerprint_files(str(tmp_path / "a.jsonl")) == [tmp_path / "a.jsonl"]
    assert fingerprint_files("a/b@v1") == []
    with pytest.raises(InputError, match="is no source"):
        fingerprint_files(str(tmp_path / "b.jsonl"))
