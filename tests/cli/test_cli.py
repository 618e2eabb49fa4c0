"""`rrm score` as its user runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest

from rrm.cli import invoke
from rrm.cli.score import read_principles_file, show, to_json
from rrm.errors import InputError
from rrm.parsing import judgement_of
from rrm.prompts import write_answer
from rrm.records import Principle
from rrm.sandbox.world import draw, sample_scene

PRINCIPLES = (
    Principle(question="Is the red circle gone?", category="follow"),
    Principle(question="Is the image clean?", category="quality"),
)


@pytest.fixture
def image(tmp_path) -> Path:
    path = tmp_path / "a.png"
    draw(sample_scene(np.random.default_rng(0))).save(path)
    return path


def arguments(image: Path, *more: str) -> list[str]:
    return [
        "score",
        "--source",
        str(image),
        "--edited",
        str(image),
        "--instruction",
        "remove the red circle",
        *more,
    ]


def call(arguments: list[str]) -> None:
    invoke(arguments)


def test_without_a_model_it_says_how_to_get_one(image, monkeypatch):
    monkeypatch.delenv("RRM_MODEL", raising=False)
    with pytest.raises(InputError, match="make demo"):
        call(arguments(image))


def test_the_requirement_is_asked_with_the_instruction(image, monkeypatch):
    class Noting(AbstractContextManager):
        def judge(self, source, edited, *asked):
            seen.append(asked)
            return judgement_of("seen\n<score>8.0</score>", ())

        def __exit__(self, *exception):
            return None

    seen = []
    monkeypatch.setattr("rrm.reward.open_reward", lambda spec: Noting())
    call(arguments(image, "--requirement", "keep the frame", "--model", "m"))
    call(arguments(image, "--model", "m"))
    assert seen == [
        ("remove the red circle", (), "keep the frame"),
        ("remove the red circle", (), None),
    ]


def test_bad_input_is_one_sentence_and_exit_code_2(tmp_path, image):
    command = [
        str(Path(sys.executable).with_name("rrm")),
        *arguments(tmp_path / "none.png", "--model", "x"),
    ]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )
    assert done.returncode == 2
    assert (
        done.stderr
        == f"error: There is no image at {tmp_path / 'none.png'}; give the path of an existing image file.\n"
    )
    assert done.stdout == ""


def test_an_unreadable_image_a_model_that_is_none_and_an_empty_instruction_are_named(
    tmp_path, image
):
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(InputError, match=r"text\.png cannot be read as an image"):
        call(arguments(tmp_path / "text.png", "--model", "x"))
    with pytest.raises(InputError, match="is not a checkpoint"):
        call(arguments(image, "--model", str(tmp_path)))
    with pytest.raises(InputError, match="instruction is empty"):
        call([*arguments(image, "--model", str(tmp_path))[:-3], " ", "--model", str(tmp_path)])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("p.json", "[]", "holds no principles"),
        (
            "p.json",
            '[{"question": "q", "category": "odd"}]',
            "the category of question 1 is none of",
        ),
        ("p.txt", " \n", "is empty"),
        ("p.txt", "What colour is it?\n", "Question 1 is not a yes/no question"),
        ("p.txt", "Is it red now?\nIs it red now?\n", "Question 2 asks the same as question 1"),
    ],
)
def test_a_principles_file_without_principles_is_refused(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        read_principles_file(tmp_path / name)


def test_principles_come_from_json_or_from_lines(tmp_path):
    (tmp_path / "p.json").write_text(json.dumps([p.model_dump() for p in PRINCIPLES]))
    (tmp_path / "p.txt").write_text("Is it blue?\n\nIs it round?\n")
    (tmp_path / "zh.txt").write_text("杯子变成红色了吗？\n桌子是否没有变？\n", encoding="utf-8")
    assert len(read_principles_file(tmp_path / "zh.txt")) == 2
    assert read_principles_file(tmp_path / "p.json") == PRINCIPLES
    table = "category;question;note\n" + "".join(
        f"{p.category};{p.question};x\n" for p in PRINCIPLES
    )
    (tmp_path / "p.csv").write_text(table, encoding="utf-8-sig")
    assert read_principles_file(tmp_path / "p.csv") == PRINCIPLES
    (tmp_path / "gbk.txt").write_text("杯子变成红色了吗？\n", encoding="gbk")
    assert [p.question for p in read_principles_file(tmp_path / "gbk.txt", "gbk")] == [
        "杯子变成红色了吗？"
    ]
    with pytest.raises(InputError, match=r"gbk\.txt, line 1 is not utf-8"):
        read_principles_file(tmp_path / "gbk.txt")
    assert [p.question for p in read_principles_file(tmp_path / "p.txt")] == [
        "Is it blue?",
        "Is it round?",
    ]


def test_a_judgement_is_shown_with_its_verdicts_and_in_json():
    judgement = judgement_of("it is gone\n" + write_answer((1, 0), 6.5), PRINCIPLES)
    assert "yes  [follow] Is the red circle gone?" in show(judgement)
    assert "NO   [quality] Is the image clean?" in show(judgement)
    assert "6.5 / 10" in show(judgement)
    out = json.loads(to_json(judgement))
    assert (out["score"], out["average"], out["failure"]) == (6.5, 0.5, None)
    assert [p["verdict"] for p in out["principles"]] == [1, 0]
    assert out["thought"] == "it is gone"


def test_a_failure_is_named_and_has_no_score():
    out = json.loads(to_json(judgement_of("hm", PRINCIPLES)))
    assert out["score"] is None
    assert out["failure"]["kind"] == "unparseable"
    assert [p["verdict"] for p in out["principles"]] == [None, None]


def test_an_untrained_model_ends_with_a_named_failure_and_exit_code_1(
    image, tiny_checkpoint, capsys
):
    with pytest.raises(SystemExit) as caught:
        call(arguments(image, "--model", str(tiny_checkpoint), "--json"))
    assert caught.value.code == 1
    assert json.loads(capsys.readouterr().out)["failure"]["kind"] in {
        "cut_off",
        "unparseable",
        "empty",
    }
