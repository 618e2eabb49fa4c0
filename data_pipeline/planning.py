"""Before money is spent: what a run would ask (`--dry-run`), and what the whole will cost, from a
sample (`plan`)."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.budget import Budget, price, price_of
from data_pipeline.candidates import make_candidates
from data_pipeline.decompose import decompose
from data_pipeline.flow import in_order
from data_pipeline.hard_filter import filter_task, rank
from data_pipeline.ledger import Ledger
from data_pipeline.passes import LocalEngine, choose, decompose_all, filter_hard, judge_all
from data_pipeline.questions import Asks
from data_pipeline.run import (
    adopt_images,
    check_teachers,
    foreseen,
    opened,
    read_in,
    teachers_there,
)
from data_pipeline.run_state import RunState
from data_pipeline.settings import DataConfig, Teacher
from data_pipeline.teachers import Answer, Call, Teachers
from data_pipeline.think import think_calls
from data_pipeline.traces import judge
from rrm.errors import InputError, NothingMade
from rrm.images import ImageStore
from rrm.records import Failure, Principle, Quadruple, Task
from rrm.runtime.stage import write_json

RESAMPLES = 2000
MEASURES = ("calls", "prompt_tokens", "completion_tokens", "seconds")


@contextmanager
def scratch(
    config: DataConfig, there: DataConfig | None = None
) -> Iterator[tuple[RunState, Ledger, ImageStore]]:
    """A run state of the config's inputs that is thrown away, with the set's own ledger; before
    anything is read, the teachers that are `there` are checked."""
    Path(config.out).parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=".planning-", dir=Path(config.out).parent))
    try:
        adopt_images([Path(config.out) / "images"], foreseen(config))
        with opened(config, folder, foreseen(config)) as (state, ledger, store):
            if there is not None:
                asyncio.run(check_teachers(there, ledger, store))
            read_in(config, state, ledger, store)
            choose(config, state)
            yield state, ledger, store
    finally:
        shutil.rmtree(folder)


class LedgerOnly:
    """Answers what was paid for, and counts what was not."""

    def __init__(self, ledger: Ledger):
        self.ledger = ledger
        self.known: set[str] = set()
        self.missing: dict[str, tuple[str, str]] = {}

    async def ask(self, call: Call) -> Answer:
        """The answer in the ledger, or that it was not asked for."""
        known = self.ledger.get(call.key)
        if known is not None:
            self.known.add(call.key)
            return known
        self.missing[call.key] = (call.stage, call.model)
        return Failure(kind="not_asked", detail="a dry run")

    def stop(self, why: InputError) -> None:
        """Nothing is asked anyway."""


def edits_missing(config: DataConfig, state: RunState, ledger: Ledger) -> Counter[str]:
    """Edits that editors have still to make, by editor."""
    missing: Counter[str] = Counter()
    for editor in config.generators:
        for task in state.tasks_to_edit():
            missing[editor.name] += sum(
                ledger.image(editor.key(task.source, task.instruction, s)) is None
                for s in editor.seeds
            )
    return missing


def dry_run(config: DataConfig) -> dict[str, Any]:
    """Prints and returns the calls that a run would make, per stage and model; those behind a call
    that is not answered yet are counted as if it were."""
    with scratch(config) as (state, ledger, _):
        asks = LedgerOnly(ledger)
        engine = LocalEngine(config, asks)

        async def go() -> None:
            await filter_hard(config, state, engine)
            await decompose_all(config, state, engine)
            await judge_all(config, state, engine)

        missing_edits = edits_missing(config, state, ledger)
        asyncio.run(go())
        calls: Counter[tuple[str, str]] = Counter(asks.missing.values())
        waiting = state.unjudged_count() + sum(missing_edits.values())
        blank = Quadruple(
            quadruple_id="",
            task=Task(task_id="", source="", instruction="x"),
            edited="",
            editor="",
            principles=(),
        )
        for call in think_calls(blank, config):
            calls["think", call.model] += waiting
        if config.verifies:
            unthought = state.not_asked_count("think")
            calls["verify", config.gold_teacher.model] += waiting + unthought
        edits = {f"edit | {name}": count for name, count in missing_edits.items()}
        result: dict[str, Any] = {
            "in_ledger": len(asks.known),
            "calls": {f"{s} | {m}": n for (s, m), n in sorted(calls.items()) if n},
            "edits": edits,
        }
        result["tasks"] = state.chosen_count()
    print(f"{result['tasks']} tasks; {result['in_ledger']} answers are in the ledger; to be asked:")
    for name, count in {**edits, **result["calls"]}.items():
        print(f"  {name:45} {count:>10,}")
    print(
        "A decomposition or verification that is not valid is asked for again, which is not counted here."
    )
    return result


def sampled(config: DataConfig, state: RunState, size: int) -> list[Task]:
    """So many of the tasks that the run will use, in the order in which tasks are drawn."""
    with_candidates = not config.generators and state.candidate_count() > 0
    tasks = sorted(
        state.listed_tasks(with_candidates), key=lambda task: rank(task.task_id, config.seed + 1)
    )
    if not tasks:
        raise InputError("There is no task to sample; correct 'tasks' and 'candidates'.")
    return tasks[:size]


@dataclass(frozen=True)
class Measured:
    """What one task took, by stage and model (MEASURES each), how many edits it has, and why it has
    no principles, where it has none: then none of its edits was judged."""

    spent: dict[tuple[str, str], np.ndarray]
    edits: int
    failure: Failure | None = None


async def measure_task(
    task: Task, state: RunState, ledger: Ledger, teachers: Asks, config: DataConfig
) -> Measured:
    """Takes one task through every pass."""
    keys: list[str] = []
    if config.filters:
        keys += (await filter_task(task, teachers, config)).keys
    principles: tuple[Principle, ...] | None = ()
    failure: Failure | None = None
    if config.decomposes:
        decomposed = await decompose(task, teachers, config)
        keys += decomposed.keys
        principles, failure = decomposed.principles, decomposed.failure
    edits = state.candidates_of(task.task_id)
    if principles is not None:
        for quadruple_id, edited, editor in edits:
            quadruple = Quadruple(
                quadruple_id=quadruple_id,
                task=task,
                edited=edited,
                editor=editor,
                principles=principles,
            )
            keys += (await judge(quadruple, teachers, config)).keys
    bills = ledger.bills(keys)
    spent = {
        (b.stage, b.model): np.array(
            [b.calls, b.prompt_tokens, b.completion_tokens, b.seconds], float
        )
        for b in bills
    }
    return Measured(spent, len(edits), failure)


def hours_of(
    teachers: dict[str, Teacher], config: DataConfig, totals: dict[tuple[str, str], np.ndarray]
) -> float:
    """How long so much takes at the teachers' limits: passes follow one another, models of a pass
    work side by side."""
    passes: dict[str, Counter[str]] = {
        "filter": Counter(),
        "decompose": Counter(),
        "judge": Counter(),
    }
    for (stage, model), (calls, prompt, completion, seconds) in totals.items():
        teacher = teachers[model]
        limits = [seconds / (teacher.concurrency or config.concurrency)]
        if teacher.requests_per_minute:
            limits.append(60 * calls / teacher.requests_per_minute)
        if teacher.tokens_per_minute:
            limits.append(60 * (prompt + completion) / teacher.tokens_per_minute)
        passes[stage if stage in passes else "judge"][model] += max(limits)
    return sum(max(by.values(), default=0.0) for by in passes.values()) / 3600


@dataclass(frozen=True)
class Whole:
    """What the sample is scaled up to: tasks that each pass will see, and quadruples to judge
    (None: as many per task as in the sample)."""

    filtered: int
    decomposed: int
    judged: int
    quadruples: int | None


def extrapolate(
    config: DataConfig, measured: Sequence[Measured], whole: Whole, seed: int
) -> dict[str, Any]:
    """Calls, tokens, money and hours for the whole, per stage and in all, each with its 95%
    interval (bootstrap over the sampled tasks). What is spent on quadruples is scaled by quadruples
    where their number is known, everything else by tasks."""
    teachers = {teacher.model: teacher for teacher in config.pool}
    names = sorted({name for task in measured for name in task.spent})
    table = np.array(
        [[task.spent.get(name, np.zeros(len(MEASURES))) for name in names] for task in measured]
    )
    edits = np.array([task.edits for task in measured], float)
    rng = np.random.default_rng(seed)
    draws = [
        np.arange(len(measured)),
        *rng.integers(len(measured), size=(RESAMPLES, len(measured))),
    ]

    def scaled(draw: np.ndarray) -> np.ndarray:
        per_task = table[draw].mean(0)  # (stage, MEASURES)
        quadruples = (
            whole.judged
            if whole.quadruples is None
            else whole.quadruples / max(edits[draw].mean(), 1e-9)
        )
        scale = {"filter": whole.filtered, "decompose": whole.decomposed}
        return (
            per_task
            * np.array([scale.get(stage, quadruples) for stage, _ in names], float)[:, None]
        )

    totals = np.array([scaled(draw) for draw in draws])  # (1 + RESAMPLES, stage, MEASURES)
    prices = np.array(
        [[0.0, price(teachers[m], 1, 0), price(teachers[m], 0, 1), 0.0] for _, m in names]
    )
    money = (totals * prices).sum(-1)

    def line(which: list[int]) -> dict[str, Any]:
        sums = totals[:, which].sum(1)
        counts = {MEASURES[k]: with_interval(sums[:, k]) for k in range(3)}
        return {**counts, "money": with_interval(money[:, which].sum(1))}

    stages = {f"{stage} | {model}": line([i]) for i, (stage, model) in enumerate(names)}
    hours = np.array(
        [hours_of(teachers, config, dict(zip(names, one, strict=True))) for one in totals]
    )
    return {
        "stages": stages,
        "total": {**line(list(range(len(names)))), "hours": with_interval(hours)},
    }


def with_interval(values: np.ndarray) -> dict[str, float]:
    """The first value, and where 95% of the others lie."""
    low, high = np.quantile(values[1:], [0.025, 0.975])
    return {
        "estimate": round(float(values[0]), 4),
        "low": round(float(low), 4),
        "high": round(float(high), 4),
    }


def plan(config: DataConfig, size: int, max_cost: float | None = None) -> dict[str, Any]:
    """Runs a sample of the tasks through every stage, and prints and returns what the whole will
    take.

    The sample's answers go into the set's ledger: the run itself will not ask for them again.
    Writes <out>.plan.json. Raises NothingMade where no task of the sample has valid principles: of
    what lies behind them nothing is known.
    """
    with teachers_there(config) as there, scratch(config, there) as (state, ledger, store):
        tasks = sampled(config, state, size)
        state.choose_only(task.task_id for task in tasks)
        budget = Budget(price_of(ledger.bills(), config.pool), max_cost)

        async def go() -> list[Measured]:
            teachers = Teachers(there, store, ledger, budget)
            try:
                await make_candidates(there, state, ledger, store)

                async def work(task: Task) -> Measured:
                    return await measure_task(task, state, ledger, teachers, there)

                return [found async for found in in_order(tasks, work, max(1, config.concurrency))]
            finally:
                await teachers.close()

        measured = asyncio.run(go())
        failures = [task.failure for task in measured if task.failure is not None]
        if len(failures) == len(measured):
            why = f"{failures[0].kind}: {failures[0].detail}"
            raise NothingMade(
                f"None of {len(measured)} sampled tasks has valid principles, so nothing can be planned ({why})"
            )
        every = state.listed_count()
        chosen = every
        if config.random_tasks is not None or config.hard_tasks is not None:
            chosen = min(every, (config.random_tasks or 0) + (config.hard_tasks or 0))
        judged, quadruples = chosen, None
        if not config.generators and state.candidate_count():
            share = chosen / max(1, every)
            judged = round(share * state.listed_count(with_candidates=True))
            quadruples = round(share * state.candidates_of_listed_count())
        pairs = state.chosen_for_pairs_count()
        whole = Whole(every - (config.random_tasks or 0), judged + pairs, judged, quadruples)
    found = {
        "sample": len(tasks),
        "failed": len(failures),
        "tasks": chosen,
        **extrapolate(config, measured, whole, config.seed),
    }
    write_json(Path(config.out).with_name(Path(config.out).name + ".plan.json"), found)
    print_plan(found)
    return found


def print_plan(found: dict[str, Any]) -> None:
    """The plan as a table."""
    print(f"{found['tasks']:,} tasks, measured on {found['sample']}; 95% intervals:")
    for name, line in {**found["stages"], "in all": found["total"]}.items():
        shown = [
            f"{line[key]['estimate']:>14,.0f} [{line[key]['low']:,.0f}, {line[key]['high']:,.0f}] {key}"
            for key in MEASURES[:3]
        ]
        print(
            f"  {name}\n    "
            + "\n    ".join(
                [
                    *shown,
                    f"{line['money']['estimate']:>14,.4f} [{line['money']['low']:,.4f}, {line['money']['high']:,.4f}] money",
                ]
            )
        )
    if found["failed"]:
        lost = f"{found['failed']} of {found['sample']} sampled tasks have no valid principles"
        print(
            f"  {lost}, so their edits were not judged: with a better decomposer the whole costs more"
        )
    hours = found["total"]["hours"]
    print(
        f"  hours at the teachers' limits: {hours['estimate']:.2f} [{hours['low']:.2f}, {hours['high']:.2f}]"
    )
