"""Configs name the nearest key; stages are skipped, resumed, or started afresh."""

import contextlib
import json
from pathlib import Path

import pytest

from rrm.config import Config
from rrm.errors import InputError
from rrm.stage import command, run_stage


class Baking(Config):
    oven: int
    flour: str = "rye"


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_an_unknown_key_is_an_error_that_names_the_nearest(tmp_path):
    with pytest.raises(InputError, match="unknown key 'fluor'; did you mean 'flour'"):
        Baking.read(write(tmp_path / "c.yaml", "oven: 1\nfluor: oat\n"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("oven: hot", "'oven'"),
        ("- 1", "must hold keys and values"),
        ("a: [", "not valid YAML"),
        ("flour: rye", "'oven': Field required"),
    ],
)
def test_a_bad_config_is_one_clear_sentence(tmp_path, text, message):
    with pytest.raises(InputError, match=message) as caught:
        Baking.read(write(tmp_path / "c.yaml", text))
    assert "\n" not in str(caught.value)


def test_a_missing_config_is_named(tmp_path):
    with pytest.raises(InputError, match="There is no config at"):
        Baking.read(tmp_path / "none.yaml")


def test_a_done_stage_is_skipped_until_its_config_or_input_changes(tmp_path):
    flour = write(tmp_path / "flour.txt", "a")
    runs = []

    def bake(out: Path) -> dict:
        runs.append(out)
        return {"loaves": len(runs)}

    out = tmp_path / "out"
    assert run_stage("bake", out, Baking(oven=1), [flour], bake) == {"loaves": 1}
    assert run_stage("bake", out, Baking(oven=1), [flour], bake) == {"loaves": 1}
    assert run_stage("bake", out, Baking(oven=2), [flour], bake) == {"loaves": 2}
    assert json.loads((tmp_path / "out.previous/stage.json").read_text())["result"] == {"loaves": 1}
    flour.write_text("b")
    assert run_stage("bake", out, Baking(oven=2), [flour], bake) == {"loaves": 3}


def test_an_interrupted_stage_finds_its_files_again_but_not_those_of_another_config(tmp_path):
    seen = []

    def bake(out: Path) -> dict:
        seen.append(sorted(p.name for p in out.glob("*.dough")))
        (out / "one.dough").touch()
        if len(seen) == 1 or len(seen) == 3:
            raise KeyboardInterrupt
        return {}

    out = tmp_path / "out"
    for _ in range(2):
        try:
            run_stage("bake", out, Baking(oven=1), [], bake)
        except KeyboardInterrupt:
            assert not (out / "stage.json").exists()
    for oven in (2, 3):
        with contextlib.suppress(KeyboardInterrupt):
            run_stage("bake", out, Baking(oven=oven), [], bake)
    assert seen == [[], ["one.dough"], [], []]


def test_a_stage_that_is_refused_leaves_nothing_but_what_it_had_made(tmp_path):
    def refuse(out: Path, dough: str) -> dict:
        (out / "one.dough").write_text(dough)
        raise InputError("No flour; buy some.")

    for dough, left in (("", False), ("risen", True)):
        with pytest.raises(InputError):
            run_stage("bake", tmp_path / "out", Baking(oven=1), [], lambda out, dough=dough: refuse(out, dough))
        assert (tmp_path / "out").exists() == left


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path):
    write(tmp_path / "thesis.txt", "mine")
    with pytest.raises(InputError, match="holds files of something else"):
        run_stage("bake", tmp_path, Baking(oven=1), [], lambda out: {})
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_a_missing_or_unfinished_input_is_named(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        run_stage("bake", tmp_path / "out", Baking(oven=1), [tmp_path / "none"], lambda out: {})
    (tmp_path / "half").mkdir()
    write(tmp_path / "half" / "started.json", "{}")
    with pytest.raises(InputError, match="is unfinished"):
        run_stage("bake", tmp_path / "out", Baking(oven=1), [tmp_path / "half"], lambda out: {})
    assert not (tmp_path / "out").exists()


def test_a_command_turns_an_input_error_into_one_sentence_and_exit_code_2(capsys):
    def fail() -> None:
        raise InputError("No flour; buy some.")

    with pytest.raises(SystemExit) as caught:
        command(fail)
    assert caught.value.code == 2
    assert capsys.readouterr().err == "error: No flour; buy some.\n"
