"""Runs a study's jobs, several at once, in the order of their ranks; what is done is skipped, what
failed holds back what needs it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml
from tqdm import tqdm

from eval.ablation.study import Job
from rrm.runtime.signals import closed_when_killed

POLL_SECONDS = 0.5
AFTER_EACH_SHARE = 0.05
"""Of its own time, the share that the runner gives to what is called after a job."""

PROGRAM = (sys.executable, "-m", "rrm")
"""What runs a stage: its name and --config follow."""


@dataclass(frozen=True)
class Failed:
    """Why a job has no result: the last line it wrote, or the job that it waited for."""

    job: str
    reason: str


@dataclass
class Running:
    """A job's process and where its output goes."""

    job: Job
    process: subprocess.Popen[bytes]
    log: Path


def start(job: Job, out: Path, threads: int) -> Running:
    """Starts the job's stage in a process of its own, with its output in logs/."""
    config, log = out / "configs" / f"{job.name}.yaml", out / "logs" / f"{job.name}.log"
    for path in (config, log):
        path.parent.mkdir(parents=True, exist_ok=True)
    config.write_text(yaml.safe_dump(job.keys, sort_keys=False))
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "TQDM_MININTERVAL": "10"}
    command = [*PROGRAM, job.stage, "--config", str(config)]
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=environment
        )
    return Running(job, process, log)


def last_line(log: Path) -> str:
    """The last thing that was written to the log."""
    lines = [
        line.strip()
        for line in log.read_text(errors="replace").replace("\r", "\n").splitlines()
        if line.strip()
    ]
    return lines[-1][:300] if lines else "no output"


def ready(jobs: Mapping[str, Job], waiting: set[str], done: set[str]) -> list[Job]:
    """The waiting jobs that need nothing more, those of the lowest rank first, else in the order in
    which they were planned."""
    able = [job for name, job in jobs.items() if name in waiting and set(job.needs) <= done]
    return sorted(able, key=lambda job: job.rank)


@contextmanager
def stopped_with_us(running: Sequence[Running]) -> Iterator[None]:
    """However the block is left, what still runs is stopped politely."""
    with closed_when_killed():
        try:
            yield
        finally:
            for one in running:
                one.process.terminate()
            for one in running:
                one.process.wait()


def run_jobs(
    jobs: Mapping[str, Job], out: Path, at_once: int, after_each: Callable[[], None]
) -> list[Failed]:
    """Runs every job; `after_each` is called when one has ended well, seldom enough to cost little.
    Returns what failed, in order.

    When it is interrupted, the running stages are stopped politely and carry on at the next call.
    """
    threads = max(1, (os.cpu_count() or 1) // at_once)
    waiting, done, failed, running = set(jobs), set[str](), list[Failed](), list[Running]()
    due = 0.0
    with stopped_with_us(running), tqdm(total=len(jobs), desc="stages") as bar:
        while waiting or running:
            for job in ready(jobs, waiting, done)[: at_once - len(running)]:
                waiting.discard(job.name)
                running.append(start(job, out, threads))
            bar.set_postfix_str(", ".join(r.job.name for r in running))
            ended = [r for r in running if r.process.poll() is not None]
            for one in ended:
                running.remove(one)
                bar.update()
                if one.process.returncode == 0:
                    done.add(one.job.name)
                    if (begun := time.monotonic()) >= due:
                        after_each()
                        due = time.monotonic() + (time.monotonic() - begun) / AFTER_EACH_SHARE
                else:
                    failed.append(Failed(one.job.name, last_line(one.log)))
            if not running and not ready(jobs, waiting, done):
                break
            if not ended:
                time.sleep(POLL_SECONDS)
    held = [name for name in jobs if name in waiting]
    return failed + [Failed(name, "needs a stage that failed") for name in held]
