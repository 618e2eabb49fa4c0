"""`kill -9` at random moments of a real run, again and again: is anything lost, doubled, or paid
for twice?"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from tqdm import tqdm

from data_pipeline.settings import DataConfig
from rrm.runtime.stage import DONE
from rrm.sandbox.build import WorldConfig, build
from rrm.sandbox.fault_server import running_fault_server

IN_FLIGHT = 8
"""Requests in flight per teacher; there are three."""
FIRST, LAST = 0.2, 6.0
"""Seconds after its start between which a run is killed."""
FILES = ("sft.parquet", "preferences.parquet", "same.parquet", "traces.parquet")


def config_of(world: Path, out: Path, url: str) -> DataConfig:
    """Every stage that asks a teacher: hard filter, decomposition, thinking, verification."""
    careful = {"model": "sandbox-careful", "temperatures": [0.0]}
    return DataConfig.model_validate(
        {
            "out": str(out),
            "tasks": str(world / "tasks"),
            "candidates": str(world / "candidates.jsonl"),
            "pairs": str(world / "pairs.jsonl"),
            "benchmarks": [str(world / "benchmark")],
            "leave_out_instructions": False,
            "random_tasks": 40,
            "hard_tasks": 20,
            "hard_filter": careful,
            "principles": {"follow": [1, 3], "keep": [1, 3], "quality": [1, 2]},
            "principles_total": [3, 6],
            "exemplars": None,
            "teacher_url": url,
            "decomposer": careful,
            "thinkers": [{"model": "sandbox-lenient"}, {"model": "sandbox-vague"}],
            "gold_teacher": careful,
            "validation_share": 0.2,
            "concurrency": IN_FLIGHT,
        }
    )


def start(config: DataConfig, folder: Path) -> subprocess.Popen[bytes]:
    """The pipeline in a process of its own."""
    path = folder / "data.yaml"
    path.write_text(json.dumps(config.model_dump(mode="json")))
    command = [sys.executable, "-m", "data_pipeline", "--config", str(path)]
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )


def paid(config: DataConfig) -> int:
    """Answers in the ledger."""
    if not config.ledger_path.exists():
        return 0
    with (
        contextlib.closing(sqlite3.connect(config.ledger_path)) as base,
        contextlib.suppress(sqlite3.OperationalError),
    ):
        return int(base.execute("SELECT COUNT(*) FROM calls").fetchone()[0])
    return 0


def bodies(log: Path, after: int) -> tuple[list[str], int]:
    """The requests that the server received since this place in its log, and the place where it
    ends."""
    with log.open("rb") as file:
        file.seek(after)
        text = file.read()
    whole = text[: text.rfind(b"\n") + 1]
    events = [json.loads(line) for line in whole.splitlines()]
    return [event["body"] for event in events if event["event"] == "asked"], after + len(whole)


def names_of(out: Path) -> dict[str, Counter[str]]:
    """What each file of a set holds, by the names of its rows."""
    found = {}
    for file in FILES:
        table = pq.read_table(out / file)
        column = table.column_names[0]
        names = table.column(column).to_pylist()
        if file == "traces.parquet":
            names = [
                f"{name}:{index}"
                for name, index in zip(names, table.column("index").to_pylist(), strict=True)
            ]
        found[file] = Counter(names)
    return found


def settled(log: Path, place: int) -> tuple[list[str], int]:
    """The requests received from the run that was just killed, once the server has noticed the last
    of them."""
    time.sleep(0.1)
    return bodies(log, place)


def measure(n: int = 50, seed: int = 0) -> dict[str, Any]:
    """Kills runs of one job until there were `n` kills, and compares what comes out with an
    undisturbed run.

    `repeated` is the most requests that the server was sent again because of one kill,
    `repeated_in_all` their sum; `in_flight_max` the most that were sent and not in the ledger at a
    kill.
    """
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        world = folder / "world"
        sizes = {
            "train_tasks": 120,
            "test_tasks": 1,
            "candidates_per_task": 4,
            "pair_tasks": 20,
            "pair_count": 60,
        }
        build(WorldConfig(out=str(world), benchmark_sources=4, benchmark_pairs=4, **sizes), world)  # type: ignore[arg-type]
        log = folder / "log.jsonl"
        with running_fault_server(log=log) as quick:
            calm = config_of(world, folder / "calm", quick)
            if start(calm, folder).wait() != 0:
                raise RuntimeError("the undisturbed run failed")
        expected = names_of(Path(calm.out))
        whole = {file: (Path(calm.out) / file).read_bytes() for file in FILES}
        log.unlink()
        kills = lost = doubled = rounds = runs = in_flight_max = place = 0
        same_bytes = True
        repeated: Counter[int] = Counter()
        killed_in: Counter[str] = Counter()
        within = True
        with running_fault_server(delay=0.15, log=log) as url, tqdm(total=n, desc="kills") as bar:
            while kills < n:
                rounds += 1
                config = config_of(world, folder / f"round{rounds}", url)
                seen_in: dict[str, int] = {}
                in_flight: dict[int, int] = {}
                while not (Path(config.out) / DONE).is_file():
                    runs += 1
                    before = paid(config)
                    process = start(config, folder)
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(timeout=rng.uniform(FIRST, LAST) if kills < n else None)
                    if process.poll() is None:
                        os.killpg(process.pid, signal.SIGKILL)
                        process.wait()
                        kills += 1
                        killed_in[where(Path(config.out))] += 1
                        bar.update()
                    elif process.returncode != 0:
                        raise RuntimeError(f"a run ended with exit code {process.returncode}")
                    asked, place = settled(log, place)
                    for body in asked:
                        if body in seen_in:
                            repeated[seen_in[body]] += 1
                        seen_in[body] = runs
                    in_flight[runs] = len(asked) - (paid(config) - before)
                within = within and all(repeated[run] <= count for run, count in in_flight.items())
                in_flight_max = max(in_flight_max, *in_flight.values())
                got = names_of(Path(config.out))
                lost += sum((expected[file] - got[file]).total() for file in FILES)
                doubled += sum((got[file] - expected[file]).total() for file in FILES)
                same_bytes = same_bytes and all(
                    (Path(config.out) / file).read_bytes() == whole[file] for file in FILES
                )
                shutil.rmtree(config.out)
        return {
            "n": kills,
            "lost": lost,
            "doubled": doubled,
            "repeated": max(repeated.values(), default=0),
            "repeated_in_all": repeated.total(),
            "in_flight_max": in_flight_max,
            "each_within_its_in_flight": within,
            "same_bytes": same_bytes,
            "killed_in": dict(sorted(killed_in.items())),
            "rounds": rounds,
        }


def where(out: Path) -> str:
    """The pass in which a killed run was."""
    state = out / "work.sqlite"
    if not state.exists():
        return "start"
    with contextlib.closing(sqlite3.connect(state)) as base:
        try:
            done = {row[0] for row in base.execute("SELECT name FROM passes")}
        except sqlite3.OperationalError:
            return "read"
    order = ("read", "clean", "choose", "filter", "decompose", "judge")
    return next((name for name in order if name not in done), "export")
