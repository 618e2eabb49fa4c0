"""The passes over the workbook that ask teachers: rows in, outcomes out, in order, resumed where they were left."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, NoReturn, Protocol, TypeVar

from rrm.errors import InputError
from rrm.records import Quadruple, Quarantined, Record, Task
from tqdm import tqdm

from data_pipeline.decompose import Decomposed, decompose
from data_pipeline.flow import in_order
from data_pipeline.hard import Filtered, filter_task, rank
from data_pipeline.judge import Judged, judge
from data_pipeline.questions import Asks
from data_pipeline.run_state import Workbook, principles_text
from data_pipeline.settings import DataConfig
from data_pipeline.teacher_client import Line

Row = TypeVar("Row", bound=Record)
Outcome = TypeVar("Outcome", bound=Record)
AT_ONCE = 200
"""Outcomes that are written in one transaction."""
CHOSEN = "chosen IS NOT NULL AND left_out IS NULL"


@dataclass(frozen=True)
class Pass(Generic[Row, Outcome]):
    """What is done to every row; its outcome depends on the row, the config and what the teachers say, and on nothing else."""

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

    def __init__(self, config: DataConfig, teachers: Asks, lines: Iterable[Line] = ()):
        self.lines = list(lines)
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
        lost = (line for line in self.lines if line.gone)
        return {line.teacher.model: {"why": line.gone.detail, "calls_not_made": line.unasked} for line in lost if line.gone}

    async def close(self) -> None:
        """Nothing to end."""


async def note_all(
    engine: Engine, book: Workbook, outcomes: AsyncGenerator[Outcome], note: Callable[[Outcome], None], bar: tqdm[NoReturn]
) -> None:
    """Writes the outcomes into the workbook, AT_ONCE in a transaction; where they cannot be written, nothing more is asked, and what is on
    its way is awaited: it is paid for."""
    async with aclosing(outcomes), aclosing(in_batches(outcomes, bar)) as batches:
        async for batch in batches:
            try:
                with book.whole():
                    for outcome in batch:
                        note(outcome)
            except InputError as error:
                engine.stop(error)
                raise


async def in_batches(outcomes: AsyncIterator[Outcome], bar: tqdm[NoReturn]) -> AsyncGenerator[list[Outcome]]:
    """The outcomes, AT_ONCE at a time; what had come before an error is handed over before the error is."""
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


def choose(config: DataConfig, book: Workbook) -> None:
    """Marks the tasks that are used without being filtered: all, or so many drawn by seed."""
    if book.result("choose") is not None:
        return
    book.run("UPDATE tasks SET chosen = 'pair' WHERE origin = 'pair' AND left_out IS NULL")
    own = "origin = 'task' AND left_out IS NULL"
    if config.random_tasks is None and config.hard_tasks is None:
        book.run(f"UPDATE tasks SET chosen = 'all' WHERE {own}")
    else:
        book.run("CREATE TEMP TABLE ranks (n INTEGER PRIMARY KEY, rank TEXT)")
        rows = book.slabs(f"SELECT n, task_id FROM tasks WHERE {own} AND n > ?")
        book.many("INSERT INTO ranks VALUES (?, ?)", ((n, rank(task_id, config.seed)) for n, task_id in rows))
        drawn = "SELECT n FROM ranks ORDER BY rank LIMIT ?"
        book.run(f"UPDATE tasks SET chosen = 'random' WHERE n IN ({drawn})", (config.random_tasks or 0,))
    # a task of the list that human pairs are on as well is needed for these in any case
    book.run(
        "UPDATE tasks SET chosen = 'pair' WHERE chosen IS NULL AND left_out IS NULL AND task_id IN (SELECT task_id FROM pairs)"
    )
    book.finish("choose", {"chosen": book.count(f"tasks WHERE {CHOSEN}")})


def by_rank(config: DataConfig, book: Workbook) -> Iterator[Task]:
    """The tasks that are neither drawn nor filtered yet, in the order in which they would be drawn."""
    tasks = book.tasks("origin = 'task' AND left_out IS NULL AND (chosen IS NULL OR chosen = 'pair') AND hard IS NULL")
    book.run("CREATE TEMP TABLE IF NOT EXISTS queue (rank TEXT PRIMARY KEY, task TEXT)")
    book.run("DELETE FROM queue")
    book.many("INSERT INTO queue VALUES (?, ?)", ((rank(t.task_id, config.seed), t.model_dump_json()) for t in tasks))
    last = ""
    while rows := book.run("SELECT rank, task FROM queue WHERE rank > ? ORDER BY rank LIMIT 1000", (last,)).fetchall():
        yield from (Task.model_validate_json(task) for _, task in rows)
        last = rows[-1][0]


async def filter_hard(config: DataConfig, book: Workbook, engine: Engine) -> None:
    """Marks the first `hard_tasks` tasks that meet a criterion of hardness, unless that was done."""
    if not config.filters or book.result("filter") is not None:
        return
    wanted = config.hard_tasks or 0
    kept, asked = book.count("tasks WHERE chosen = 'hard'"), book.count("tasks WHERE hard IS NOT NULL")
    queue = by_rank(config, book)

    def note(found: Filtered) -> None:
        nonlocal kept, asked
        asked += 1
        hard = bool(found.criteria) and kept < wanted
        kept += hard
        book.run("UPDATE tasks SET hard = ? WHERE task_id = ?", (",".join(found.criteria or ()), found.task_id))
        if hard:
            book.run("UPDATE tasks SET chosen = 'hard' WHERE task_id = ?", (found.task_id,))
        if found.failure:
            bad = Quarantined(stage="filter", key=found.task_id, failure=found.failure, evidence=found.evidence)
            book.quarantine([bad])
        book.use(found.keys)

    while kept < wanted and (part := list(islice(queue, AT_ONCE))):
        bar = progress("filter", asked + len(part), asked)
        await note_all(engine, book, engine.outcomes(FILTER, part), note, bar)
    book.finish("filter", {"asked": asked, "kept": kept, "wanted": wanted})


async def decompose_all(config: DataConfig, book: Workbook, engine: Engine) -> None:
    """Principles of every task that is chosen and needed, unless that was done."""
    if not config.decomposes or book.result("decompose") is not None:
        return
    judged = config.candidates is not None or bool(config.generators) or book.count("quadruples") > 0
    has_edits = "task_id IN (SELECT task_id FROM quadruples) OR task_id IN (SELECT task_id FROM pairs)"
    needed = f"{CHOSEN} AND ({has_edits})" if judged else CHOSEN
    total, done = book.count(f"tasks WHERE {needed}"), book.count(f"tasks WHERE {needed} AND principles IS NOT NULL")
    outcomes = engine.outcomes(DECOMPOSE, book.tasks(f"{needed} AND principles IS NULL"))

    def note(found: Decomposed) -> None:
        text = principles_text(found.principles or ())
        book.run("UPDATE tasks SET principles = ? WHERE task_id = ?", (text, found.task_id))
        if found.failure:
            bad = Quarantined(stage="decompose", key=found.task_id, failure=found.failure, evidence=found.evidence)
            book.quarantine([bad])
        book.use(found.keys)

    await note_all(engine, book, outcomes, note, progress("decompose", total, done))
    book.finish("decompose", {"tasks": total})


def ready(config: DataConfig) -> str:
    """The condition on a quadruple (or pair) and its task that makes it ready to be judged."""
    decomposed = " AND t.principles IS NOT NULL AND t.principles != '[]'" if config.decomposes else ""
    return f"t.chosen IS NOT NULL AND t.left_out IS NULL{decomposed}"


async def judge_all(config: DataConfig, book: Workbook, engine: Engine) -> None:
    """Traces, gold and selection of every quadruple that is ready, unless that was done."""
    if book.result("judge") is not None:
        return
    condition = f"{ready(config)} AND t.chosen != 'pair'"
    joined = "quadruples q JOIN tasks t USING (task_id)"
    total = book.count(f"{joined} WHERE {condition}")
    done = book.count(f"{joined} WHERE {condition} AND q.outcome IS NOT NULL")
    rows = (quadruple for quadruple, _ in book.quadruples(f"{condition} AND q.outcome IS NULL"))

    def note(found: Judged) -> None:
        text = found.model_dump_json(exclude={"evidence", "keys"})
        book.run("UPDATE quadruples SET outcome = ? WHERE quadruple_id = ?", (text, found.quadruple_id))
        if found.failure:
            bad = Quarantined(stage=found.failed_at, key=found.quadruple_id, failure=found.failure, evidence=found.evidence)
            book.quarantine([bad])
        book.use(found.keys)

    await note_all(engine, book, engine.outcomes(JUDGE, rows), note, progress("think and verify", total, done))
    book.finish("judge", {"quadruples": total})
