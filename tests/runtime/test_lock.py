"""One run at a time on an output folder: the second is told who holds it, and nothing of the first
is touched."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rrm.config import Config
from rrm.errors import InputError
from rrm.runtime.lock import lock_path, locked
from rrm.runtime.stage import run_stage

HOLDS_IT = """
import os, sys, time
from rrm.runtime.lock import locked
with locked(sys.argv[1]):
    if os.fork() == 0:
        print(os.getpid(), flush=True)
    time.sleep(60)
"""


class Baking(Config):
    oven: int


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("oven", [1, 2])
@pytest.mark.parametrize("afresh", [None, "what failed is asked for again"])
def test_a_second_run_on_the_same_folder_is_refused_and_the_first_ends_as_if_alone(
    tmp_path, oven, afresh
):
    out = tmp_path / "out"
    run_stage("bake", out, Baking(oven=9), [], lambda out: {"loaves": 0})

    def bake(out: Path) -> dict:
        (out / "one.dough").write_text("rye")
        before = files_of(tmp_path)
        with pytest.raises(
            InputError,
            match=rf"out is in use by another run \(process {os.getpid()} on .*, since 20",
        ):
            run_stage(
                "bake", out, Baking(oven=oven), [], lambda out: pytest.fail("it was let in"), afresh
            )
        assert files_of(tmp_path) == before
        return {"loaves": 1}

    assert run_stage("bake", out, Baking(oven=1), [], bake) == {"loaves": 1}
    assert files_of(out).keys() == {"one.dough", "stage.json"}
    assert not lock_path(out).exists()


def test_another_name_of_the_folder_is_the_same_folder(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "link").symlink_to("out")
    with (
        locked(tmp_path / "out"),
        pytest.raises(InputError, match="is in use"),
        locked(tmp_path / "link"),
    ):
        pytest.fail("it was let in")


def test_a_killed_holder_frees_the_folder_though_a_child_of_its_lives_on(tmp_path):
    out = tmp_path / "out"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDS_IT, str(out)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stdout is not None
    child = int(process.stdout.readline())
    try:
        with pytest.raises(InputError, match=f"process {process.pid} on "), locked(out):
            pytest.fail("it was let in")
        process.kill()
        process.wait()
        os.kill(child, 0)
        with locked(out):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        process.stdout.close()


@pytest.mark.parametrize("reason", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_where_the_file_system_has_no_locks_that_is_said_and_the_run_goes_on(
    tmp_path, monkeypatch, capsys, reason
):
    def no_locks(*_: object) -> None:
        raise OSError(reason, os.strerror(reason))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with locked(tmp_path / "out"):
        pass
    assert "a second run on" in capsys.readouterr().err


def test_of_a_distributed_job_the_first_process_alone_asks_for_the_folder(tmp_path, monkeypatch):
    with locked(tmp_path / "out"):
        monkeypatch.setenv("RANK", "1")
        with locked(tmp_path / "out"):
            pass
    assert not lock_path(tmp_path / "out").exists()
