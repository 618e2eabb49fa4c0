"""The passes over the run state that ask teachers: rows in, outcomes out, in order, resumed where
they were left."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, NoReturn, Protocol, TypeVar

from tqdm import tqdm

from data_pipeline.decompose import Decomposed, decompose
from data_pipeline.flow import in_order
from data_pipeline.hard_filter import Filtered, filter_task, rank
from data_pipeline.questions import Asks
from data_pipeline.run_state import RunState
from data_pipeline.settings import DataConfig
from data_pipeline.teacher_client import TeacherClient
from data_pipeline.traces import Judged, judge
from rrm.errors import InputError
from rrm.records import Quadruple, Quarantined, Record, Task

Row = TypeVar("Row", bound=Record)
Outcome = TypeVar("Outcome", bound=Record)
AT_ONCE = 200
"""Outcomes that are written in one transaction."""


@dataclass(frozen=True)
class Pass(Generic[Row, Outcome]):
    """What is done to every row; its outcome depends on the row, the config and what the teachers
    say, and on nothing else."""

    name: str
    row: type[Row]
    outcome: type[Outcome]
    work: Callable[[Row, Asks, DataConfig], Awaitable[Outcome]]


FILTER = Pass("filter", Task, Filtered, filter_task)
DECOMPOSE = Pass("decompose", Task, Decomposed, decompose)
JUDGE = Pass("judge", Quadruple, Judged, judge)
PASSES: dict[str, Pass[Any, Any]] = {p.name: p for p in (FILTER, DECOMPOSE, JUDGE)}


class Engine(Protocol):
    """Where rows are worked on."""

    def outcomes(self, which: Pass[Row, Outcome], rows: Iterable[Row]) -> AsyncGenerator[Outcome]:
        """The outcome of every row, in order."""

    def stop(self, why: InputError) -> None:
        """No more rows are worked on; what is on its way is kept."""

    def gone(self) -> dict[str, dict[str, Any]]:
        """The teachers that were gone for good on the way: why, and the calls that were not made."""

    async def close(self) -> None:
        """Ends it."""


class LocalEngine:
    """This process: many rows at once on one event loop."""

    def __init__(self, config: DataConfig, teachers: Asks, clients: Iterable[TeacherClient] = ()):
        self.clients = list(clients)
        self.config, self.teachers = config, teachers
        places = {(t.base_url, t.model): t.concurrency or config.concurrency for t in config.pool}
        self.window = 4 * sum(places.values())

    def outcomes(self, which: Pass[Row, Outcome], rows: Iterable[Row]) -> AsyncGenerator[Outcome]:
        """The outcome of every row, in order."""
        return in_order(rows, lambda row: which.work(row, self.teachers, self.config), self.window)

    def stop(self, why: InputError) -> None:
        """No more rows are worked on; what is on its way is kept."""
        self.teachers.stop(why)

    def gone(self) -> dict[str, dict[str, Any]]:
        """The teachers that were gone for good on the way."""
        lost = (client for client in self.clients if client.gone)
        return {
            client.teacher.model: {"why": client.gone.detail, "calls_not_made": client.unasked}
            for client in lost
            if client.gone
        }

    async def close(self) -> None:
        """Nothing to end."""


async def note_all(
    engine: Engine,
    state: RunState,
    outcomes: AsyncGenerator[Outcome],
    note: Callable[[Outcome], None],
    bar: tqdm[NoReturn],
) -> None:
    """Writes the outcomes into the run state, AT_ONCE in a transaction; where they cannot be
    written, nothing more is asked, and what is on its way is awaited: it is paid for."""
    async with aclosing(outcomes), aclosing(in_batches(outcomes, bar)) as batches:
        async for batch in batches:
            try:
                with state.transaction():
                    for outcome in batch:
                        note(outcome)
            except InputError as error:
                engine.stop(error)
                raise


async def in_batches(
    outcomes: AsyncIterator[Outcome], bar: tqdm[NoReturn]
) -> AsyncGenerator[list[Outcome]]:
    """The outcomes, AT_ONCE at a time; what had come before an error is handed over before the
    error is."""
    batch: list[Outcome] = []
    with bar:
        try:
            async for outcome in outcomes:
                batch.append(outcome)
                bar.update()
                if len(batch) == AT_ONCE:
                    full, batch = batch, []
                    yield full
        except Exception:
            if batch:
                yield batch
            raise
        if batch:
            yield batch


def progress(name: str, total: int, done: int) -> tqdm[NoReturn]:
    """The progress bar of a pass."""
    return tqdm(total=total, initial=done, desc=name, unit="row")


def choose(config: DataConfig, state: RunState) -> None:
    """Marks the tasks that are used without being filtered: all, or so many drawn by seed."""
    if state.result("choose") is not None:
        return
    state.choose_pairs_own()
    if config.random_tasks is None and config.hard_tasks is None:
        state.choose_all()
    else:
        state.choose_first(config.random_tasks or 0, lambda task_id: rank(task_id, config.seed))
    state.choose_pairs_listed()
    state.finish("choose", {"chosen": state.chosen_count()})


async def filter_hard(config: DataConfig, state: RunState, engine: Engine) -> None:
    """Marks the first `hard_tasks` tasks that meet a criterion of hardness, unless that was done."""
    if not config.filters or state.result("filter") is not None:
        return
    wanted = config.hard_tasks or 0
    kept, asked = state.hard_counts()
    queue = state.unfiltered(lambda task_id: rank(task_id, config.seed))

    def note(found: Filtered) -> None:
        nonlocal kept, asked
        asked += 1
        hard = bool(found.criteria) and kept < wanted
        kept += hard
        state.set_hard(found.task_id, found.criteria or (), hard)
        if found.failure:
            bad = Quarantined(
                stage="filter", key=found.task_id, failure=found.failure, evidence=found.evidence
            )
            state.quarantine([bad])
        state.use(found.keys)

    while kept < wanted and (part := list(islice(queue, AT_ONCE))):
        bar = progress("filter", asked + len(part), asked)
        await note_all(engine, state, engine.outcomes(FILTER, part), note, bar)
    state.finish("filter", {"asked": asked, "kept": kept, "wanted": wanted})


async def decompose_all(config: DataConfig, state: RunState, engine: Engine) -> None:
    """Principles of every task that is chosen and needed, unless that was done."""
    if not config.decomposes or state.result("decompose") is not None:
        return
    judged = config.candidates is not None or bool(config.generators) or state.candidate_count() > 0
    total, done = state.decomposition_counts(only_with_edits=judged)
    outcomes = engine.outcomes(DECOMPOSE, state.undecomposed(only_with_edits=judged))

    def note(found: Decomposed) -> None:
        state.set_principles(found.task_id, found.principles or ())
        if found.failure:
            bad = Quarantined(
                stage="decompose", key=found.task_id, failure=found.failure, evidence=found.evidence
            )
            state.quarantine([bad])
        state.use(found.keys)

    await note_all(engine, state, outcomes, note, progress("decompose", total, done))
    state.finish("decompose", {"tasks": total})


async def judge_all(config: DataConfig, state: RunState, engine: Engine) -> None:
    """Traces, gold and selection of every quadruple that is ready, unless that was done."""
    if state.result("judge") is not None:
        return
    total, done = state.judging_counts(config.decomposes)
    rows = state.unjudged(config.decomposes)

    def note(found: Judged) -> None:
        state.set_outcome(found.quadruple_id, found.model_dump_json(exclude={"evidence", "keys"}))
        if found.failure:
            bad = Quarantined(
                stage=found.failed_at,
                key=found.quadruple_id,
                failure=found.failure,
                evidence=found.evidence,
            )
            state.quarantine([bad])
        state.use(found.keys)

    await note_all(
        engine, state, engine.outcomes(JUDGE, rows), note, progress("think and verify", total, done)
    )
    state.finish("judge", {"quadruples": total})
