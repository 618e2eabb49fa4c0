"""Commands in processes of their own, forked from one that has loaded the libraries and done
nothing else: a run need not load them again."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import socket
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import cache
from multiprocessing.context import ForkServerContext
from pathlib import Path
from subprocess import CompletedProcess
from unittest.mock import patch

LIBRARIES = [
    "rrm.verifier.training",
    "rrm.verifier.fast.trl_without_vllm",
    "trl.trainer.sft_trainer",
]
"""The heavy part of what a training imports; the command itself is still run from its first line.
"""


@cache
def loaded() -> ForkServerContext:
    """Where processes are forked from. It has one thread, and so have they: as torchrun gives each
    one."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(LIBRARIES)
    with patch.dict(os.environ, {"OMP_NUM_THREADS": "1"}):
        multiprocessing.forkserver.ensure_running()  # type: ignore[attr-defined]
    return context


def work(module: str, arguments: Sequence[str], environment: Mapping[str, str], said: Path) -> None:
    """The forked process: `python -m module arguments`, its stdout and stderr in files."""
    for stream, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(said.with_suffix(f".{name}"), os.O_WRONLY | os.O_CREAT), stream)
    os.environ.update(environment)
    sys.argv[1:] = arguments
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def run_module(
    module: str, *arguments: object, ranks: int = 0, environment: Mapping[str, str] | None = None
) -> CompletedProcess[str]:
    """Runs `python -m module arguments` once, or as so many ranks of one job, with the environment
    that a launcher gives them.

    As under a launcher, the first rank that fails ends the others, and its exit code is the job's.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        master = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    count = {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks), **master}
    own = dict(environment or {})
    environments = [
        {**own, **count, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(ranks)
    ] or [own]
    with tempfile.TemporaryDirectory() as folder:
        said = [Path(folder) / str(rank) for rank in range(len(environments))]
        jobs = [
            loaded().Process(
                target=work, args=(module, [str(a) for a in arguments], environment, file)
            )
            for environment, file in zip(environments, said, strict=True)
        ]
        for job in jobs:
            job.start()
        while any(job.is_alive() for job in jobs) and not any(job.exitcode for job in jobs):
            time.sleep(0.05)
        code = next((job.exitcode for job in jobs if job.exitcode), 0)
        for job in jobs:
            job.terminate()
            job.join()
        texts = (
            "".join(file.with_suffix(f".{name}").read_text() for file in said)
            for name in ("stdout", "stderr")
        )
        return CompletedProcess([module, *map(str, arguments)], code, *texts)


def forked(
    command: Sequence[str],
    env: Mapping[str, str] | None = None,
    capture_output: bool = False,
    **_: object,
) -> CompletedProcess[str]:
    """Stands in for `subprocess.run` of a `python -m module …`."""
    python, option, module, *arguments = command
    assert (python, option) == (sys.executable, "-m")
    done = run_module(module, *arguments, environment=env)
    if not capture_output:
        sys.stdout.write(done.stdout)
        sys.stderr.write(done.stderr)
    return done
