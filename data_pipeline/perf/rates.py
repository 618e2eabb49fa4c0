"""How fast calls are made: against a teacher that limits its clients, and beside the bare openai
client's own ceiling."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openai
from PIL import Image

from data_pipeline.budget import Budget
from data_pipeline.decompose import Decomposed, decompose_call
from data_pipeline.intake import short_hash
from data_pipeline.ledger import Ledger
from data_pipeline.passes import DECOMPOSE, LocalEngine
from data_pipeline.settings import DataConfig
from data_pipeline.teachers import Call, Teachers
from rrm.images import ImageStore
from rrm.records import Task
from rrm.sandbox.fault_server import running_fault_server

LIMIT, DELAY = 100.0, 0.2
"""Requests per second that the limited teacher allows, and seconds that the slow one takes."""
IN_FLIGHT = 256
ROUNDS = 5
SIDE = 64


def config_of(
    url: str, folder: Path, concurrency: int, per_minute: float | None = None
) -> DataConfig:
    """Only decompositions, from the canned teacher."""
    teacher = {"model": "canned", "temperatures": [0.0], "requests_per_minute": per_minute}
    return DataConfig.model_validate(
        {
            "out": str(folder / "data"),
            "tasks": "tasks",
            "teacher_url": url,
            "decomposer": teacher,
            "thinkers": [teacher],
            "gold_teacher": teacher,
            "exemplars": None,
            "principles": {"follow": (0, 9), "keep": (0, 9), "quality": (0, 9)},
            "principles_total": (1, 20),
            "concurrency": concurrency,
        }
    )


def sample_tasks(store: ImageStore, count: int, seed: int) -> list[Task]:
    """Tasks on a few random images, no two alike."""
    rng = np.random.default_rng(seed)
    sources = [
        store.add(Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)))
        for _ in range(16)
    ]
    texts = [(sources[i % len(sources)], f"make object {seed}-{i} blue") for i in range(count)]
    return [
        Task(task_id=short_hash(source, text, ""), source=source, instruction=text)
        for source, text in texts
    ]


async def ours(
    config: DataConfig, store: ImageStore, ledger: Ledger, tasks: Sequence[Task]
) -> tuple[float, list[Decomposed]]:
    """Calls per second through the pipeline's decomposition pass, and its outcomes."""
    teachers = Teachers(config, store, ledger, Budget())
    try:
        begin = time.perf_counter()
        outcomes = [
            outcome async for outcome in LocalEngine(config, teachers).outcomes(DECOMPOSE, tasks)
        ]
        return len(tasks) / (time.perf_counter() - begin), outcomes
    finally:
        await teachers.close()


async def bare(url: str, messages: Iterable[tuple[Call, Sequence[Any]]], in_flight: int) -> float:
    """Calls per second of the openai client alone, asked the same, `in_flight` at a time."""
    queue = iter(messages)
    done = 0
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:

        async def work() -> None:
            nonlocal done
            for call, content in queue:
                settings = {
                    "temperature": call.temperature,
                    "n": call.n,
                    "seed": call.seed,
                    "max_tokens": call.max_tokens,
                }
                await client.chat.completions.create(model=call.model, messages=content, **settings)  # type: ignore[call-overload]
                done += 1

        begin = time.perf_counter()
        await asyncio.gather(*(work() for _ in range(in_flight)))
        return done / (time.perf_counter() - begin)


def in_order(tasks: Sequence[Task], outcomes: Sequence[Decomposed]) -> bool:
    """Whether every task has its outcome, in order."""
    return [task.task_id for task in tasks] == [
        outcome.task_id for outcome in outcomes if outcome.principles
    ]


def rate_limited(count: int = 2000) -> dict[str, Any]:
    """Against a teacher that allows LIMIT requests per second: told so in the config, and left to
    find out by its 429s."""
    found: dict[str, Any] = {"limit_per_s": LIMIT, "calls": count}
    for name, per_minute in (("achieved_per_s", 60 * LIMIT), ("achieved_per_s_untold", None)):
        with (
            tempfile.TemporaryDirectory() as name_of,
            running_fault_server(requests_per_second=LIMIT, canned=True) as url,
        ):
            folder = Path(name_of)
            store = ImageStore(folder / "images")
            tasks = sample_tasks(store, count, 0)
            config = config_of(url, folder, 64, per_minute)
            with Ledger(folder / "ledger.sqlite") as ledger:
                rate, outcomes = asyncio.run(ours(config, store, ledger, tasks))
            found[name] = round(rate, 2)
            found["in_order"] = found.get("in_order", True) and in_order(tasks, outcomes)
    return found


def ceiling(count: int = 2000) -> dict[str, Any]:
    """Against a teacher that answers in DELAY seconds: the pipeline and the bare client in turns,
    the median of ROUNDS each."""
    rates: dict[str, list[float]] = {"ours": [], "bare": []}
    ordered = True
    with (
        tempfile.TemporaryDirectory() as name,
        running_fault_server(delay=DELAY, canned=True) as url,
    ):
        folder = Path(name)
        store = ImageStore(folder / "images")
        config = config_of(url, folder, IN_FLIGHT)
        with Ledger(folder / "ledger.sqlite") as ledger:
            for turn in range(ROUNDS):
                tasks = sample_tasks(store, count, turn)
                teachers = Teachers(config, store, ledger, Budget())
                calls = [decompose_call(task, config) for task in tasks]
                messages = [(call, teachers.request(call).messages) for call in calls]
                rates["bare"].append(asyncio.run(bare(url, messages, IN_FLIGHT)))
                rate, outcomes = asyncio.run(ours(config, store, ledger, tasks))
                rates["ours"].append(rate)
                ordered = ordered and in_order(tasks, outcomes)
    medians = {
        f"{name}_per_s": round(statistics.median(values), 1) for name, values in rates.items()
    }
    return {
        **medians,
        "ours_over_bare": round(medians["ours_per_s"] / medians["bare_per_s"], 3),
        "rounds": {name: [round(value, 1) for value in values] for name, values in rates.items()},
        "in_flight": IN_FLIGHT,
        "delay_s": DELAY,
        "in_order": ordered,
    }
