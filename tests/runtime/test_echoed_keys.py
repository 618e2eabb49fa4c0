"""A server that echoes what it was sent, headers included, puts no key anywhere: not into a file, a
page or the screen."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from rrm.cli import invoke
from rrm.runtime import secrets
from rrm.runtime.stage import command as run_command
from rrm.sandbox.canned import Reply, canned, error, send_reply, whole
from tests.support.editor_benchmarks import served

KEY, FIELD, PASSWORD = "sk-live-Zb81hT7qLw0XnE4v", "tenant-41c99ab7e2", "swordfish-of-1987"
PRINCIPLES = {"follow": [0, 9], "keep": [0, 9], "quality": [0, 9]}


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch):
    monkeypatch.setattr(secrets, "_known", [])


def echoing():
    """An ASGI app of canned teachers that write what they were sent into every answer; each seventh
    request it refuses, in the same words."""
    numbers = itertools.count()

    async def app(scope, receive, send):
        body = await whole(receive) or b""
        sent = " ".join(
            value.decode("latin-1") for name, value in scope["headers"] if name == b"authorization"
        )
        if scope["method"] == "GET":
            models = {
                "object": "list",
                "data": [{"id": name} for name in ("canned", f"model of {sent}")],
            }
            return await send_reply(send, Reply(200, json.dumps(models).encode()))
        echo = f"I was sent {sent} and {json.loads(body).get('api_key')}\x1b[2J."
        if next(numbers) % 7 == 6:
            return await send_reply(send, error(400, echo, "invalid_request_error", None))
        value = canned(body)
        for choice in value["choices"]:
            text = choice["message"]["content"]
            choice["message"]["reasoning_content"] = echo
            choice["message"]["content"] = text if text.startswith("[") else f"{echo}\n{text}"
        await send_reply(send, Reply(200, json.dumps(value).encode()))

    return app


def contents(folder: Path) -> str:
    """All that stands in the files below the folder, those of Parquet read."""
    found = []
    for path in folder.rglob("*"):
        if path.suffix == ".parquet":
            found.append(json.dumps(pq.read_table(path).to_pylist(), default=str))
        elif path.is_file() and path.suffix != ".png":
            found.append(path.read_bytes().decode("latin-1"))
    return "\n".join(found)


@pytest.mark.parametrize("password", [None, PASSWORD])
def test_the_pipeline_keeps_no_key_that_a_teacher_echoes(tmp_path, monkeypatch, capsys, password):
    monkeypatch.setenv("OF_MY_TEACHER", KEY)
    rows = []
    for number in range(8):
        for name in ("source", "edited"):
            Image.effect_noise((64, 64), 30 + number).save(tmp_path / f"{name}{number}.png")
        rows.append(
            {"image": f"source{number}.png", "instruction": f"Make it brighter by {number}"}
        )
    edits = [
        {
            **row,
            "task": row["image"],
            "image": row["image"].replace("source", "edited"),
            "editor": "e",
        }
        for row in rows
    ]
    for name, lines in (("tasks", rows), ("candidates", edits)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    teacher = {"model": "canned", "temperatures": [0.0], "extra": {"api_key": FIELD}}
    out = tmp_path / "made" / "data"
    with served(echoing()) as url:
        config = {
            "out": str(out), "tasks": str(tmp_path / "tasks.jsonl"), "candidates": str(tmp_path / "candidates.jsonl"),
            "teacher_url": url.replace("//", f"//me:{password}@") if password else url, "key_variable": "OF_MY_TEACHER",
            "decomposer": teacher, "thinkers": [teacher], "gold_teacher": teacher, "exemplars": None, "principles": PRINCIPLES,
            "principles_total": [1, 20], "decompose_share": 0.0, "concurrency": 1, "patience": 1.0,
        }  # fmt: skip
        (tmp_path / "data.yaml").write_text(yaml.safe_dump(config))
        run_command(lambda: invoke(["data", "--config", str(tmp_path / "data.yaml")]))
    said = capsys.readouterr()
    kept = contents(tmp_path / "made")
    assert f"I was sent {'Basic' if password else 'Bearer'} ***" in kept
    assert json.loads((out / "card.json").read_text())["counts"]["quarantined"] > 0
    for secret in (KEY, FIELD, PASSWORD):
        for text in (kept, said.out, said.err):
            assert secret not in text
    assert "\x1b[2J" not in said.out + said.err


def test_a_benchmark_keeps_no_key_that_its_judge_echoes_nor_one_of_its_spec(
    tmp_path, monkeypatch, command
):
    monkeypatch.setenv("OF_MY_JUDGE", KEY)
    for number, name in enumerate(("source", "p", "q", "r")):
        Image.new("RGB", (16, 16), (40 * number, 0, 0)).save(tmp_path / f"{name}.png")
    pairs = [
        {
            "source": "source.png",
            "instruction": f"Redder by {n}",
            "edited_a": f"{a}.png",
            "edited_b": f"{b}.png",
            "label": label,
        }
        for n, (a, b, label) in enumerate(
            [("p", "q", "a"), ("q", "r", "b"), ("r", "p", "a"), ("p", "r", "b")]
        )
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    out = tmp_path / "made"
    with served(echoing()) as url:
        where = url.replace("//", f"//me:{PASSWORD}@")
        spec = f'vlm:{where}?model=canned&key=OF_MY_JUDGE&extra={{"api_key":"{FIELD}"}}'
        code, *said = command(
            "run",
            "--bench",
            "jsonl",
            "--data",
            tmp_path / "pairs.jsonl",
            "--reward",
            spec,
            "--out",
            out,
        )
        page = command("report", out)
    kept = contents(out)
    assert code == page[0] == 0, said
    assert "I was sent Basic ***" in kept
    assert "OF_MY_JUDGE" in kept
    for secret in (KEY, FIELD, PASSWORD):
        for text in (kept, *said, *map(str, page)):
            assert secret not in text
