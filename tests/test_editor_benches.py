"""Editors' benchmarks: their files, sampling from a real images API, judging over real HTTP, and scores worked out by hand."""

import asyncio
import base64
import io
import json
import math
import socket
import threading
import time
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import uvicorn
from fastapi import FastAPI, Request, Response
from PIL import Image

from data_pipeline.editors import Editor
from eval.editors import gedit, imgedit
from eval.editors.__main__ import main
from eval.editors.aggregate import paired, summarise
from eval.editors.items import ItemResult
from eval.editors.judge import AnswerRows, JudgeSettings, answer_key, judge_all
from eval.editors.prompts import RUBRICS, consistency_question, quality_question, read_scores, rubric_question
from eval.editors.sample import sample
from rrm.errors import InputError
from rrm.images import open_image, png_bytes
from rrm.records import Failure
from rrm.sandbox import images_api
from rrm.sandbox.world import Scene, Thing, draw

SOURCE = draw(Scene("gray", (Thing("red", "circle"), None, Thing("blue", "square"), None)))
PAIR, TRIPLE = consistency_question("make it red"), rubric_question("add", "add a hat")


@contextmanager
def served(app):
    """Base URL of the app on a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.should_exit = True
        thread.join()


def plain(shade, size=(8, 8)):
    return Image.new("RGB", size, (shade, 0, 0))


def row(task, key, instruction="make it red", language="en", image="source.png", intersection=True):
    return {
        "task_type": task, "key": key, "instruction": instruction, "instruction_language": language,
        "input_image": image, "input_image_raw": image, "Intersection_exist": intersection,
    }  # fmt: skip


def write_gedit(folder, rows, sources=("source.png",)):
    folder.mkdir(exist_ok=True)
    for shade, name in enumerate(sources):
        plain(shade).save(folder / name)
    path = folder / "gedit.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    return path


def result(item, group, source="s", failure=None, intersection=True, **scores):
    reason = Failure(kind=failure) if failure else None
    return ItemResult(
        item_id=item, group=group, language="en", intersection=intersection, source=source, scores=scores, failure=reason
    )


# --- files of the public schemas


def test_gedit_items_are_of_one_language_and_their_outputs_lie_where_the_public_ones_do(tmp_path):
    bench = write_gedit(
        tmp_path, [row("subject-add", "k1"), row("subject-add", "k1", "加一顶帽子", "cn"), row("text_change", "k2")]
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
    value = {**row("ps_human", "k"), "input_image": {"bytes": png_bytes(plain(9)), "path": None}, "input_image_raw": cell}
    pq.write_table(pa.Table.from_pylist([value]), tmp_path / "train.parquet")
    (item,) = gedit.read_gedit(str(tmp_path), "en")
    assert item.source.getpixel((0, 0)) == (7, 0, 0)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row("subject-add", "k"), row("subject-add", "k")], "second row"),
        ([row("subject-add", "../k")], "no slash"),
        ([{"task_type": "x", "key": "k", "instruction_language": "en"}], "lacks instruction, input_image_raw"),
        ([row("subject-add", "k", language="cn")], "no rows in the language 'en'"),
    ],
)
def test_a_gedit_file_that_cannot_be_used_is_refused_with_the_reason(tmp_path, rows, message):
    with pytest.raises(InputError, match=message):
        list(gedit.read_gedit(str(write_gedit(tmp_path, rows)), "en"))


def write_imgedit(folder, items):
    (folder / "images" / "animal").mkdir(parents=True)
    plain(3).save(folder / "images" / "animal" / "1.png")
    path = folder / "basic_edit.json"
    path.write_text(json.dumps(items))
    return path


def test_imgedit_items_are_read_by_key_and_other_names_of_types_are_known(tmp_path):
    values = {
        "17": {"id": "animal/1.png", "prompt": "add a hat", "edit_type": "add"},
        "18": {"id": "animal/1", "prompt": "make it red", "edit_type": "Alter"},
    }
    items = list(imgedit.read_imgedit(write_imgedit(tmp_path, values), tmp_path / "images"))
    assert [(item.item_id, item.group, item.output) for item in items] == [("17", "add", "17.png"), ("18", "adjust", "18.png")]
    assert items[0].source_digest == items[1].source_digest
    assert len(RUBRICS) == 9


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"id": "animal/2.png", "prompt": "p", "edit_type": "add"}, "no image 'animal/2.png'"),
        ({"id": "../basic_edit.json", "prompt": "p", "edit_type": "add"}, "leads out of"),
        ({"id": "animal/1.png", "prompt": "p", "edit_type": "fly"}, "no rubric for the edit type 'fly'"),
        ({"id": "animal/1.png", "edit_type": "add"}, "must hold id, prompt and edit_type"),
    ],
)
def test_an_imgedit_item_that_cannot_be_used_is_refused_with_its_key(tmp_path, value, message):
    with pytest.raises(InputError, match=message):
        list(imgedit.read_imgedit(write_imgedit(tmp_path, {"1": value}), tmp_path / "images"))


# --- scores by hand


def test_sc_and_pq_are_minima_and_o_is_the_root_of_their_product():
    assert gedit.scores_of({"SC": (9, 4), "PQ": (10, 9)}) == {"SC": 4, "PQ": 9, "O": 6}
    assert gedit.scores_of({"SC": (0, 10), "PQ": (10, 10)})["O"] == 0


def test_an_imgedit_sample_is_the_mean_of_its_three_scores():
    assert imgedit.scores_of({"rubric": (5, 4, 4)}) == {"score": pytest.approx(13 / 3)}


def test_gedits_headline_is_the_mean_over_tasks_of_the_means_over_samples():
    results = [
        result("1", "a", "s1", SC=4.0, PQ=4.0, O=4.0),
        result("2", "a", "s2", SC=9.0, PQ=4.0, O=6.0, intersection=False),
        result("3", "b", "s3", SC=8.0, PQ=2.0, O=4.0),
        result("4", "b", "s4", failure="missing"),
        result("5", "b", "s5", failure="image_unreadable"),
        result("6", "c", "s6", failure="refused"),
    ]
    found = gedit.summarise(results)
    full = found["full"]
    assert full["overall"]["O"]["mean"] == pytest.approx((5 + 4) / 2)
    assert full["samples"]["O"]["mean"] == pytest.approx(14 / 3)
    # tasks 5, 4/3, 0
    assert full["missing_as_0"]["O"]["mean"] == pytest.approx((5 + 4 / 3 + 0) / 3)
    assert {k: full[k] for k in ("n", "judged", "missing", "unreadable", "failed")} == {
        "n": 6, "judged": 3, "missing": 1, "unreadable": 1, "failed": 1,
    }  # fmt: skip
    assert full["failures"] == {"image_unreadable": 1, "missing": 1, "refused": 1}
    assert full["by_group"]["c"]["scores"]["O"] == {"mean": None, "se": None, "ci95": None}
    assert (full["groups"], full["groups_judged"]) == (3, 2)
    assert found["intersection"]["n"] == 5
    assert found["intersection"]["overall"]["O"]["mean"] == 4
    # task a: two sources, ±1 from 5, each of weight 1/4; task b adds nothing: se = √(3/2 · 2/16)
    assert full["overall"]["O"]["se"] == pytest.approx(math.sqrt(3 / 2 * 2 / 16))


def test_errors_are_clustered_by_source_image():
    apart = [result(str(k), "a", f"s{k}", score=score) for k, score in enumerate((1.0, 1.0, 5.0, 5.0))]
    together = [result(str(k), "a", f"s{k // 2}", score=score) for k, score in enumerate((1.0, 1.0, 5.0, 5.0))]
    error = [summarise(results, ("score",))["overall"]["score"]["se"] for results in (apart, together)]
    assert error == pytest.approx([math.sqrt(4 / 3 * 4 / 4), math.sqrt(2 * 2)])


def test_two_editors_are_compared_on_the_items_that_both_have_a_score_for():
    first = [result("1", "a", "s1", score=4.0), result("2", "b", "s2", score=3.0), result("3", "b", "s3", failure="missing")]
    second = [result("1", "a", "s1", score=3.0), result("2", "b", "s2", score=3.0), result("3", "b", "s3", score=5.0)]
    found = paired(first, second, "score")
    assert (found["n"], found["left_out"], found["mean"]) == (2, 1, 0.5)


# --- answers


def test_scores_are_read_from_an_object_with_or_without_a_fence_and_after_a_thought():
    answer = '{"reasoning": "A hat is there.", "score": [7, 8.5]}'
    expected = ((7.0, 8.5), "A hat is there.")
    fenced, thought = f"```json\n{answer}\n```", f'<think>{{"score": [0, 0]}}</think>{answer}'
    assert [read_scores(text, PAIR) for text in (answer, fenced, thought)] == [expected] * 3


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("", "empty"),
        ("Looks fine, 8 of 10.", "unparseable"),
        ("I'm sorry, I can't help with that.", "refused"),
        ('{"score": [7]}', "unparseable"),
        ('{"score": [7, 11]}', "unparseable"),
        ('{"score": [7, "8"]}', "unparseable"),
        ('{"score": [7, true]}', "unparseable"),
        ('{"score": [7, NaN]}', "unparseable"),
        ('{"score": 7}', "unparseable"),
        ('{"score": [7, 8], "score": [1, 1]}', "unparseable"),
        ('{"score": [7, 8]} or rather {"score": [1, 1]}', "unparseable"),
        ('{"score": [7, 8', "unparseable"),
        ('{"a":' * 100_000, "unparseable"),
        ("{" * 150_000, "unparseable"),
    ],
)
def test_what_is_not_there_is_a_named_failure(text, kind):
    assert read_scores(text, PAIR).kind == kind


def test_a_rubrics_scores_run_from_1_to_5():
    assert read_scores('{"score": [1, 5, 3]}', TRIPLE)[0] == (1, 5, 3)
    assert read_scores('{"score": [0, 5, 3]}', TRIPLE).kind == "unparseable"


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


def test_sampling_fills_the_public_layout_names_what_failed_and_makes_nothing_twice(tmp_path, images_server):
    url, asked = images_server
    editor = Editor(name="sandbox", kind="openai", model=images_api.MODEL, base_url=url, retries=0)
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
    assert (line["item_id"], line["failure"]["kind"]) == ("ps_human/en/k3", "refused")

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


def test_the_sample_command_takes_the_editor_from_a_file(tmp_path, images_server, monkeypatch, capsys):
    bench = write_gedit(tmp_path / "bench", [row("color_alter", "k1", "make the red circle green")])
    SOURCE.save(tmp_path / "bench" / "source.png")
    editor = tmp_path / "editor.yaml"
    editor.write_text(f"name: mine\nkind: openai\nmodel: {images_api.MODEL}\nbase_url: {images_server[0]}\n")
    words = ["sample", "--bench", str(bench), "--editor", str(editor), "--outputs", str(tmp_path / "outputs")]
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
    editor = Editor(name="e", kind="openai", model="m", base_url="http://127.0.0.1:9/v1", retries=0)
    with pytest.raises(InputError, match="holds edits and no editor"):
        asyncio.run(sample(gedit.read_gedit(str(bench), "en"), editor, tmp_path / "out"))


def test_an_editors_server_that_is_gone_stops_the_run(tmp_path):
    bench = write_gedit(tmp_path, [row("color_alter", f"k{number}") for number in range(12)])
    editor = Editor(name="gone", kind="openai", model="m", base_url="http://127.0.0.1:9/v1", retries=0)
    with pytest.raises(InputError, match="does not answer"):
        asyncio.run(sample(gedit.read_gedit(str(bench), "en"), editor, tmp_path / "out"))


# --- judging

SAID = {
    10: ('{"reasoning": "r", "score": [9, 4]}', '{"reasoning": "r", "score": [10, 9]}'),
    20: ('{"reasoning": "r", "score": [8, 9]}', '{"reasoning": "r", "score": [2, 5]}'),
    30: ("It looks lovely.", '{"reasoning": "r", "score": [5, 5]}'),
    40: ('{"reasoning": "r", "score": [5, 5]}', "I'm sorry, I can't judge this."),
}
"""Red of the edit → what the judge says of consistency and of quality."""


def judge_app(asked):
    app = FastAPI()

    @app.post("/v1/chat/completions")
    async def complete(request: Request) -> Response:
        body = await request.json()
        parts = body["messages"][-1]["content"]
        images = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
        edited = Image.open(io.BytesIO(base64.b64decode(images[-1].partition(",")[2])))
        asked.append((edited.getpixel((0, 0))[0], len(images), edited.size, parts[-1]["text"]))
        said = SAID[edited.getpixel((0, 0))[0]][len(images) == 1]
        choice = {"index": 0, "message": {"role": "assistant", "content": said}, "finish_reason": "stop"}
        value = {"id": "x", "object": "chat.completion", "created": 0, "model": body["model"], "choices": [choice]}
        return Response(json.dumps(value), media_type="application/json")

    return app


@pytest.fixture
def judge_server():
    """Base URL of a judge and the list of what it was asked."""
    asked = []
    with served(judge_app(asked)) as url:
        yield url, asked


@pytest.fixture
def edited(tmp_path):
    """A GEdit file, and a folder with edits of which one is missing and one is no image."""
    tasks = {
        "k1": "subject-add",
        "k2": "subject-add",
        "k3": "text_change",
        "k4": "text_change",
        "k5": "ps_human",
        "k6": "ps_human",
    }
    names = [f"{key}.png" for key in tasks]
    bench = write_gedit(tmp_path / "bench", [row(task, key, image=f"{key}.png") for key, task in tasks.items()], names)
    outputs = tmp_path / "outputs" / "editor"
    for shade, (key, task) in zip((10, 20, 30, 40), tasks.items(), strict=False):
        path = outputs / gedit.output_path(task, "en", key)
        path.parent.mkdir(parents=True, exist_ok=True)
        plain(shade, (16, 8)).save(path)
    broken = outputs / gedit.output_path("ps_human", "en", "k5")
    broken.parent.mkdir(parents=True)
    broken.write_bytes(b"no image")
    return bench, outputs


def judged(edited, url, path, retry=False, **settings):
    bench, outputs = edited
    chosen = JudgeSettings(url=url, model="vlm", retries=0, in_flight=2, **settings)
    rows = AnswerRows(path, retry)
    return asyncio.run(judge_all(gedit.BENCH, gedit.read_gedit(str(bench), "en"), outputs, chosen, rows))[0]


def test_each_edit_gets_its_scores_or_the_reason_why_it_has_none(tmp_path, edited, judge_server):
    url, asked = judge_server
    results = judged(edited, url, tmp_path / "rows.jsonl")
    assert [r.scores for r in results[:2]] == [
        {"SC": 4, "PQ": 9, "O": 6},
        {"SC": 8, "PQ": 2, "O": 4},
    ]
    assert [r.failure.kind for r in results[2:]] == ["unparseable", "refused", "image_unreadable", "missing"]
    found = gedit.summarise(results)["full"]
    assert (found["n"], found["judged"], found["missing"], found["unreadable"], found["failed"]) == (6, 2, 1, 1, 2)
    assert found["overall"]["O"]["mean"] == 5
    assert found["missing_as_0"]["O"]["mean"] == pytest.approx(5 / 3)
    assert {(count, size) for _, count, size, _ in asked} == {(2, (8, 8)), (1, (8, 8))}  # at the source's size
    assert all(("make it red" in text) == (count == 2) for _, count, _, text in asked)


def test_nothing_is_asked_again_unless_model_temperature_or_pixels_changed(tmp_path, edited, judge_server):
    url, asked = judge_server
    rows = tmp_path / "rows.jsonl"
    first = judged(edited, url, rows)
    assert len(asked) == 8
    with rows.open("a") as file:
        file.write('{"key": "torn')  # an interruption
    assert judged(edited, url, rows) == first
    assert len(asked) == 8
    plain(10, (16, 8)).save(edited[1] / gedit.output_path("ps_human", "en", "k6"))
    second = judged(edited, url, rows)
    assert second[-1].scores["O"] == 6
    assert len(asked) == 9  # its quality is known: the same pixels, and no other image is shown
    judged(edited, url, rows, temperature=0.5)
    assert len(asked) == 9 + 10 - 1


def test_a_key_changes_with_all_that_a_score_depends_on_and_not_with_the_address():
    base = JudgeSettings(url="http://a/v1", model="m")
    key = answer_key(base, PAIR, ["s", "e"])
    other = [base.model_copy(update=change) for change in ({"model": "n"}, {"temperature": 1.0}, {"max_tokens": 9})]
    keys = [answer_key(settings, PAIR, ["s", "e"]) for settings in other]
    keys += [
        answer_key(base, quality_question(), ["s", "e"]),
        answer_key(base, PAIR, ["s", "f"]),
        answer_key(base, PAIR, ["e"]),
    ]
    assert len({key, *keys}) == 7
    assert answer_key(base.model_copy(update={"url": "http://b/v1", "in_flight": 1}), PAIR, ["s", "e"]) == key


def test_a_failure_of_the_moment_is_asked_again(tmp_path, edited, judge_server):
    rows = tmp_path / "rows.jsonl"
    with pytest.raises(InputError, match="does not answer"):
        judged(edited, "http://127.0.0.1:9/v1", rows)
    assert judged(edited, judge_server[0], rows)[0].scores["O"] == 6


def test_answers_that_could_not_be_read_are_asked_again_only_on_request(tmp_path, edited, judge_server, monkeypatch):
    url, asked = judge_server
    rows = tmp_path / "rows.jsonl"
    judged(edited, url, rows)
    monkeypatch.setitem(SAID, 30, ('{"reasoning": "r", "score": [5, 5]}', ""))
    assert judged(edited, url, rows)[2].failure.kind == "unparseable"
    assert judged(edited, url, rows, retry=True)[2].scores["O"] == 5
    assert len(asked) == 8 + 2
    assert judged(edited, url, rows)[2].scores["O"] == 5


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"finish_reason": "length"}, "cut_off"),
        ({"message": {"role": "assistant", "content": None, "refusal": "No."}}, "refused"),
    ],
)
def test_an_answer_that_the_server_calls_cut_off_or_refused_is_that(tmp_path, edited, change, kind):
    app = FastAPI()

    @app.post("/v1/chat/completions")
    async def complete() -> Response:
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": '{"score": [5, 5]}'},
            "finish_reason": "stop",
            **change,
        }
        value = {"id": "x", "object": "chat.completion", "created": 0, "model": "vlm", "choices": [choice]}
        return Response(json.dumps(value), media_type="application/json")

    with served(app) as url:
        assert judged(edited, url, tmp_path / "rows.jsonl")[0].failure.kind == kind


def test_a_server_without_the_model_stops_the_run(tmp_path, edited):
    with served(FastAPI()) as url, pytest.raises(InputError, match="refuses model 'vlm'"):
        judged(edited, url, tmp_path / "rows.jsonl")


def test_the_commands_judge_report_and_compare(tmp_path, edited, judge_server, capsys, monkeypatch):
    bench, outputs = edited
    common = ["--bench", str(bench), "--outputs", str(outputs), "--url", judge_server[0], "--model", "vlm"]

    def call(*words):
        monkeypatch.setattr("sys.argv", ["eval.editors", "gedit", *words])
        main()
        return capsys.readouterr().out

    printed = call("judge", *common, "--out", str(tmp_path / "one"))
    assert "mean over 1 of 3 groups" in printed
    assert "5.00" in printed
    assert "without a score: image_unreadable: 1, missing: 1, refused: 1, unparseable: 1" in printed
    summary = json.loads((tmp_path / "one" / "summary.json").read_text())
    assert summary["judge"]["model"] == "vlm"
    assert summary["full"]["overall"]["O"]["mean"] == 5
    assert set(summary["digests"]) == {"content", "prompts"}
    call("judge", *common, "--out", str(tmp_path / "two"))
    printed = call("report", str(tmp_path / "one"), str(tmp_path / "two"))
    assert "first − second" in printed
    assert "Edit-RRM, paper" in printed
    call("judge", *common, "--temperature", "0.5", "--out", str(tmp_path / "three"))
    with pytest.raises(InputError, match="differ in judge"):
        call("report", str(tmp_path / "one"), str(tmp_path / "three"))


def test_imgedit_is_judged_by_the_rubric_of_each_type(tmp_path, monkeypatch, capsys):
    values = {
        "1": {"id": "animal/1.png", "prompt": "add a hat", "edit_type": "add"},
        "2": {"id": "animal/1.png", "prompt": "make it a sketch", "edit_type": "style"},
    }
    path = write_imgedit(tmp_path, values)
    (tmp_path / "outputs").mkdir()
    for key, shade in (("1", 10), ("2", 20)):
        plain(shade).save(tmp_path / "outputs" / f"{key}.png")
    monkeypatch.setitem(SAID, 10, ('{"reasoning": "r", "score": [5, 4, 3]}', ""))
    monkeypatch.setitem(SAID, 20, ('{"reasoning": "r", "score": [2, 2, 2]}', ""))
    asked = []
    with served(judge_app(asked)) as url:
        words = ["imgedit", "judge", "--bench", str(path), "--images", str(tmp_path / "images"), "--model", "vlm"]
        words += ["--outputs", str(tmp_path / "outputs"), "--url", url, "--out", str(tmp_path / "out")]
        monkeypatch.setattr("sys.argv", ["eval.editors", *words])
        main()
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["full"]["overall"]["score"]["mean"] == pytest.approx((4 + 2) / 2)
    assert summary["full"]["by_group"]["add"]["scores"]["score"]["mean"] == 4
    assert len(summary["absent_types"]) == 7
    assert {RUBRICS["add"][1] in text for red, _, _, text in asked if red == 10} == {True}
    assert {RUBRICS["style"][1] in text for red, _, _, text in asked if red == 20} == {True}
