"""Configs name the nearest key; stages are skipped, resumed, or started afresh."""

import contextlib
import errno
import json
import os
import re
import shutil
import signal
import sqlite3
import time
from pathlib import Path

import pytest

from rrm.config import Config
from rrm.errors import InputError
from rrm.runtime.disk import folder_at_once, written_at_once
from rrm.runtime.stage import account, command, run_stage, write_json


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
            run_stage(
                "bake",
                tmp_path / "out",
                Baking(oven=1),
                [],
                lambda out, dough=dough: refuse(out, dough),
            )
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


# What came in and out


def test_the_last_line_says_what_became_of_the_rows_and_nothing_at_all_is_exit_code_1(
    tmp_path, capsys
):
    rows = {"account": account(12, 9, {"unparseable": 1, "timed_out": 2, "refused": 0})}
    for _ in range(2):
        run_stage("bake", tmp_path / "out", Baking(oven=1), [], lambda out: rows)
        last = capsys.readouterr().err.splitlines()[-1]
        assert last == "[bake] 12 rows in, 9 out, 3 failed: 2 timed_out, 1 unparseable"

    def burn(out: Path) -> dict:
        (out / "card.json").write_text("{}")
        return {"account": account(3, 0, {"refused": 3})}

    with pytest.raises(SystemExit) as caught:
        command(lambda: run_stage("bake", tmp_path / "ash", Baking(oven=1), [], burn) and None)
    assert caught.value.code == 1
    assert "3 rows in, 0 out, 3 failed: 3 refused" in capsys.readouterr().err
    assert sorted(p.name for p in (tmp_path / "ash").iterdir()) == [
        "card.json",
        "started.json",
    ]  # to be read, and not done


# A disk that does not take what is written


def sqlite_error(code: int, message: str) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError(message)
    error.sqlite_errorcode = code
    return error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device"),
            "OUT: the disk is full; make room there",
        ),
        (
            OSError(errno.ENOSPC, "No space left on device", "/big/one.png"),
            "/big/one.png: the disk is full",
        ),
        (
            OSError(errno.ENAMETOOLONG, "File name too long", "/x"),
            "/x: no file can have so long a name; correct it",
        ),
        (
            IsADirectoryError(errno.EISDIR, "Is a directory", "/x/rows.jsonl"),
            "/x/rows.jsonl: a folder stands where a file",
        ),
        (
            FileExistsError(errno.EEXIST, "File exists", "/link"),
            "/link: what stands there is no folder",
        ),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "OUT: the disk quota is used up"),
        (OSError(errno.EROFS, "Read-only file system", "/ro/x"), "/ro/x: it cannot be written"),
        (
            PermissionError(errno.EACCES, "Permission denied", "/root/x"),
            "/root/x: permission denied",
        ),
        (OSError(errno.EMFILE, "Too many open files"), "OUT: too many files are open"),
        (OSError(errno.EFBIG, "File too large"), "OUT: the limit on the size of a file"),
        (sqlite_error(sqlite3.SQLITE_FULL, "database or disk is full"), "OUT: the disk is full"),
        (
            sqlite_error(sqlite3.SQLITE_READONLY, "attempt to write a readonly database"),
            "OUT: it cannot be written",
        ),
        (
            sqlite_error(sqlite3.SQLITE_BUSY, "database is locked"),
            "OUT: another process has a database there in use",
        ),
        (
            ExceptionGroup("tasks", [OSError(errno.ENOSPC, "No space left on device")]),
            "OUT: the disk is full",
        ),
        (
            RuntimeError(
                "Error while serializing: I/O error: No space left on device (os error 28)"
            ),
            "OUT: the disk is full",
        ),
        (
            RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"),
            "OUT: reading or writing failed",
        ),
    ],
)
def test_a_disk_that_fails_ends_a_stage_with_one_sentence_and_code_2_and_what_was_made_stays(
    tmp_path, capsys, error, said
):
    seen = []

    def bake(out: Path) -> dict:
        seen.append([p.name for p in out.glob("*.dough")])
        (out / "one.dough").touch()
        if len(seen) == 1:
            raise error
        return {}

    out = tmp_path / "out"
    with pytest.raises(SystemExit) as caught:
        command(lambda: run_stage("bake", out, Baking(oven=1), [], bake) and None)
    assert caught.value.code == 2
    started, *sentences = capsys.readouterr().err.splitlines()
    assert started == f"[bake] starts: {out}"
    assert len(sentences) == 1
    assert sentences[0].startswith("error: " + said.replace("OUT", str(out)))
    run_stage("bake", out, Baking(oven=1), [], bake)
    assert seen == [[], ["one.dough"]]


def test_an_error_that_is_no_disk_s_keeps_its_traceback(tmp_path):
    for error in (
        ValueError("a fault"),
        ConnectionRefusedError(errno.ECONNREFUSED, "refused"),
        PermissionError(13, "port 80"),
    ):
        with pytest.raises(type(error)):
            command(lambda error=error: (_ for _ in ()).throw(error))


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    write_json(tmp_path / "x.json", {"one": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "x.json", {"one": object()})
    with contextlib.suppress(KeyboardInterrupt), written_at_once(tmp_path / "x.json") as partial:
        partial.write_text("half")
        raise KeyboardInterrupt
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]
    assert json.loads((tmp_path / "x.json").read_text()) == {"one": 1}


def test_a_folder_is_filled_whole_or_not_at_all(tmp_path):
    out = tmp_path / "model"
    (tmp_path / "model.part").mkdir()
    (tmp_path / "model.part/half").touch()  # what a kill left
    for name in ("first", "second"):
        with folder_at_once(out) as folder:
            (folder / name).touch()
        assert [p.name for p in out.iterdir()] == [name]
    with contextlib.suppress(KeyboardInterrupt), folder_at_once(out) as folder:
        (folder / "third").touch()
        raise KeyboardInterrupt
    assert [str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")] == ["model", "model/second"]


# Damaged state, and inputs that change


@pytest.mark.parametrize("note", ["stage.json", "started.json"])
@pytest.mark.parametrize(
    "damage", ['{"fingerpr', "[1]", "{}", b"\xff\xfe", "", "[" * 200_000], ids=range(6)
)
def test_a_damaged_note_is_one_sentence_and_doing_what_it_says_carries_on(tmp_path, note, damage):
    out = tmp_path / "out"

    def bake(out: Path) -> dict:
        (out / "one.dough").write_text("risen")
        return {"loaves": 1}

    run_stage("bake", out, Baking(oven=1), [], bake)
    (out / "stage.json").unlink()
    (out / note).write_bytes(damage if isinstance(damage, bytes) else damage.encode())
    with pytest.raises(
        InputError, match=rf"{note} is damaged .* delete the file and write .* into .*started.json"
    ) as caught:
        run_stage("bake", out, Baking(oven=1), [], bake)
    with pytest.raises(
        InputError,
        match="unfinished" if note == "started.json" else "is damaged .* run the stage that makes",
    ):
        run_stage("eat", tmp_path / "eaten", Baking(oven=1), [out], bake)
    (out / note).unlink()
    write(out / "started.json", re.search(r"\{.*?\}", str(caught.value).split(" write ")[1])[0])
    seen = run_stage(
        "bake", out, Baking(oven=1), [], lambda out: {"found": (out / "one.dough").read_text()}
    )
    assert seen == {"found": "risen"}


@pytest.mark.parametrize("fails", [False, True])
def test_an_input_that_changes_while_a_stage_runs_is_an_error_and_the_stage_is_not_done(
    tmp_path, fails
):
    flour = write(tmp_path / "flour.txt", "a")

    def bake(out: Path) -> dict:
        flour.write_text("b")
        if fails:
            raise KeyError("an image that is gone")
        return {}

    with pytest.raises(InputError, match=r"flour\.txt was changed while the stage ran"):
        run_stage("bake", tmp_path / "out", Baking(oven=1), [flour], bake)
    assert not (tmp_path / "out/stage.json").exists()
    assert run_stage(
        "bake", tmp_path / "out", Baking(oven=1), [flour], lambda out: {"loaves": 1}
    ) == {"loaves": 1}


# Being stopped, and being set aside


@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stopped_command_ends_with_130_and_leaves_its_work_to_the_next(tmp_path, which):
    ours = signal.getsignal(which)
    before = signal.default_int_handler if which == signal.SIGINT else signal.SIG_DFL
    signal.signal(which, before)  # a job in the background has some of them ignored

    def bake(out: Path) -> dict:
        (out / "one.dough").touch()
        os.kill(os.getpid(), which)
        time.sleep(5)
        return {}

    with pytest.raises(SystemExit) as caught:
        command(lambda: run_stage("bake", tmp_path / "out", Baking(oven=1), [], bake) and None)
    assert caught.value.code == 130
    assert signal.getsignal(which) == before
    signal.signal(which, ours)
    found = run_stage(
        "bake",
        tmp_path / "out",
        Baking(oven=1),
        [],
        lambda out: {"found": (out / "one.dough").exists()},
    )
    assert found == {"found": True}


def test_an_empty_folder_does_not_take_the_place_of_what_was_set_aside(tmp_path):
    out = tmp_path / "out"
    for oven in (1, 2):
        run_stage("bake", out, Baking(oven=oven), [], lambda out: {})
    kept = (tmp_path / "out.previous/stage.json").read_text()
    shutil.rmtree(out)
    out.mkdir()
    run_stage("bake", out, Baking(oven=3), [], lambda out: {})
    assert (tmp_path / "out.previous/stage.json").read_text() == kept
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "out.previous"]
