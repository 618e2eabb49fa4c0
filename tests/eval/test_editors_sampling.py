"""Editors' benchmarks: their files, and edits sampled from a real images API."""

import asyncio
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fastapi import FastAPI, Request

from data_pipeline.generators import Generator
from eval.editors import gedit, imgedit
from eval.editors.__main__ import main
from eval.editors.prompts import RUBRICS
from eval.editors.sample import sample
from rrm.errors import InputError
from rrm.images import open_image, png_bytes
from rrm.sandbox import images_api
from rrm.sandbox.world import Scene, Thing, draw
from tests.support.editor_benchmarks import plain, row, served, write_gedit, write_imgedit

SOURCE = draw(Scene("gray", (Thing("red", "circle"), None, Thing("blue", "square"), None)))


# --- files of the public schemas


def test_gedit_items_are_of_one_language_and_their_outputs_lie_where_the_public_ones_do(tmp_path):
    bench = write_gedit(
        tmp_path,
        [
            row("subject-add", "k1"),
            row("subject-add", "k1", "加一顶帽子", "cn"),
            row("text_change", "k2"),
        ],
    )
    items = list(gedit.read_gedit(str(bench), "en"))
    assert gedit.expected_outputs(items, "kontext") == [
        "kontext/fullset/subject-add/en/k1.png",
        "kontext/fullset/text_change/en/k2.png",
    ]
    (chinese,) = gedit.read_gedit(str(bench), "cn")
    assert (chinese.instruction, chinese.output) == ("加一顶帽子", "fullset/subject-add/cn/k1.png")
    assert len(gedit.TASKS) == 11


def test_gedit_is_read_from_parquet_with_the_hubs_image_cells_and_the_raw_image_first(tmp_path):
    cell = {"bytes": png_bytes(plain(7)), "path": None}
    value = {
        **row("ps_human", "k"),
        "input_image": {"bytes": png_bytes(plain(9)), "path": None},
        "input_image_raw": cell,
    }
    pq.write_table(pa.Table.from_pylist([value]), tmp_path / "train.parquet")
    (item,) = gedit.read_gedit(str(tmp_path), "en")
    assert item.source.getpixel((0, 0)) == (7, 0, 0)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row("subject-add", "k"), row("subject-add", "k")], "second row"),
        ([row("subject-add", "../k")], "no slash"),
        (
            [{"task_type": "x", "key": "k", "instruction_language": "en"}],
            "lacks instruction, input_image_raw",
        ),
        ([row("subject-add", "k", language="cn")], "no rows in the language 'en'"),
    ],
)
def test_a_gedit_file_that_cannot_be_used_is_refused_with_the_reason(tmp_path, rows, message):
    with pytest.raises(InputError, match=message):
        list(gedit.read_gedit(str(write_gedit(tmp_path, rows)), "en"))


def test_imgedit_items_are_read_by_key_and_other_names_of_types_are_known(tmp_path):
    values = {
        "17": {"id": "animal/1.png", "prompt": "add a hat", "edit_type": "add"},
        "18": {"id": "animal/1", "prompt": "make it red", "edit_type": "Alter"},
    }
    items = list(imgedit.read_imgedit(write_imgedit(tmp_path, values), tmp_path / "images"))
    assert [(item.item_id, item.group, item.output) for item in items] == [
        ("17", "add", "17.png"),
        ("18", "adjust", "18.png"),
    ]
    assert items[0].source_digest == items[1].source_digest
    assert len(RUBRICS) == 9


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"id": "animal/2.png", "prompt": "p", "edit_type": "add"}, "no image 'animal/2.png'"),
        ({"id": "../basic_edit.json", "prompt": "p", "edit_type": "add"}, "leads out of"),
        (
            {"id": "animal/1.png", "prompt": "p", "edit_type": "fly"},
            "no rubric for the edit type 'fly'",
        ),
        ({"id": "animal/1.png", "edit_type": "add"}, "must hold id, prompt and edit_type"),
    ],
)
def test_an_imgedit_item_that_cannot_be_used_is_refused_with_its_key(tmp_path, value, message):
    with pytest.raises(InputError, match=message):
        list(imgedit.read_imgedit(write_imgedit(tmp_path, {"1": value}), tmp_path / "images"))


# --- sampling


@pytest.fixture
def images_server():
    """Base URL of the sandbox's images API and the list of what it was asked."""
    app, asked = FastAPI(), []

    @app.middleware("http")
    async def note(request: Request, follow):
        asked.append(request.url.path)
        return await follow(request)

    app.include_router(images_api.router)
    with served(app) as url:
        yield url, asked


def test_sampling_fills_the_public_layout_names_what_failed_and_makes_nothing_twice(
    tmp_path, images_server
):
    url, asked = images_server
    editor = Generator(
        name="sandbox", kind="openai", model=images_api.MODEL, base_url=url, retries=0
    )
    bench = write_gedit(
        tmp_path / "bench",
        [
            row("color_alter", "k1", "make the red circle green"),
            row("color_alter", "k2", "make the blue square green"),
            row("ps_human", "k3", "make her smile"),
        ],
    )
    SOURCE.save(tmp_path / "bench" / "source.png")
    folder = tmp_path / "outputs" / "sandbox"

    def run(chosen=editor, seed=None):
        return asyncio.run(sample(gedit.read_gedit(str(bench), "en"), chosen, folder, seed))

    done = run()
    assert (done.n, done.kept, done.made, done.failed) == (3, 0, 2, 1)
    made = [folder / f"fullset/color_alter/en/{key}.png" for key in ("k1", "k2")]
    assert [open_image(path).size for path in made] == [SOURCE.size] * 2
    (line,) = [json.loads(text) for text in (folder / "failures.jsonl").read_text().splitlines()]
    assert (line["item_id"], line["failure"]["kind"]) == ("ps_human/en/k3", "bad_row")

    before, content = len(asked), made[0].read_bytes()
    made[0].write_bytes(content[: len(content) // 2])
    done = run()
    assert (done.kept, done.made, done.failed) == (1, 1, 1)
    assert len(asked) == before + 2  # the damaged one and the failed one
    assert made[0].read_bytes() == content
    assert len((folder / "failures.jsonl").read_text().splitlines()) == 1
    assert not list(folder.rglob("*.part"))
    with pytest.raises(InputError, match="made with another seed"):
        run(seed=5)


def test_the_sample_command_takes_the_editor_from_a_file(
    tmp_path, images_server, monkeypatch, capsys
):
    bench = write_gedit(tmp_path / "bench", [row("color_alter", "k1", "make the red circle green")])
    SOURCE.save(tmp_path / "bench" / "source.png")
    editor = tmp_path / "editor.yaml"
    editor.write_text(
        f"name: mine\nkind: openai\nmodel: {images_api.MODEL}\nbase_url: {images_server[0]}\n"
    )
    words = [
        "sample",
        "--bench",
        str(bench),
        "--editor",
        str(editor),
        "--outputs",
        str(tmp_path / "outputs"),
    ]
    monkeypatch.setattr("sys.argv", ["eval.editors", "gedit", *words])
    main()
    assert "1 edits, 0 there already, 1 made, 0 failed" in capsys.readouterr().out
    assert (tmp_path / "outputs" / "mine" / "fullset" / "color_alter" / "en" / "k1.png").is_file()
    monkeypatch.setattr("sys.argv", ["eval.editors", "gedit", *words, "--name", "../elsewhere"])
    with pytest.raises(InputError, match="becomes a folder"):
        main()


def test_edits_of_unknown_origin_are_not_added_to(tmp_path):
    bench = write_gedit(tmp_path / "bench", [row("color_alter", "k1")])
    (tmp_path / "out").mkdir()
    plain(1).save(tmp_path / "out" / "some.png")
    editor = Generator(
        name="e", kind="openai", model="m", base_url="http://127.0.0.1:9/v1", retries=0
    )
    with pytest.raises(InputError, match="holds edits and no editor"):
        asyncio.run(sample(gedit.read_gedit(str(bench), "en"), editor, tmp_path / "out"))


def test_an_editors_server_that_is_gone_stops_the_run(tmp_path):
    bench = write_gedit(tmp_path, [row("color_alter", f"k{number}") for number in range(12)])
    editor = Generator(
        name="gone", kind="openai", model="m", base_url="http://127.0.0.1:9/v1", retries=0
    )
    with pytest.raises(InputError, match="does not answer"):
        asyncio.run(sample(gedit.read_gedit(str(bench), "en"), editor, tmp_path / "out"))
