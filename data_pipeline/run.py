"""The whole pipeline: tasks → principles → quadruples → traces → gold verdicts → SFT rows; and preference pairs beside them.

`python -m data_pipeline --config configs/sandbox/data.yaml` writes
    sft.parquet           rows of `rrm.records.SFTRow`
    preferences.parquet   human pairs with a preferred side, rows of `rrm.records.PreferencePair`; same.parquet holds the others
    images/               the image store that every digest refers to
    quarantine.jsonl      what was left out, and why
    card.json             counts per stage, the teachers' accuracy and agreement, failures by kind
    journal.jsonl         every finished call; a run that was interrupted carries on from it
`variant` chooses between thinking without verification (T), verification without thinking (V), both (T+V), and holistic scores
without principles.
"""

from __future__ import annotations

import asyncio
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from data_pipeline.candidates import Principles, decomposed_pairs, quadruples_of
from data_pipeline.card import agreement, failure_counts, teacher_rows
from data_pipeline.decompose import decompose_call, principles_by_task, read_exemplars, task_of
from data_pipeline.journal import Journal
from data_pipeline.rows import decompose_rows, judge_row, write_table
from data_pipeline.select import first_readable, select
from data_pipeline.tasks import read_candidates, read_pairs, read_tasks
from data_pipeline.teachers import Teacher, Teachers, ask_all
from data_pipeline.think import Variant, think_calls, traces_of
from data_pipeline.verify import gold_of, verify_call
from rrm.config import Config
from rrm.images import ImageStore
from rrm.records import Failure, Gold, PreferencePair, Quadruple, Quarantined, SFTRow, Task, Trace
from rrm.stage import previous, write_json


class DataConfig(Config):
    """What to make data from, and which teachers to ask."""

    out: str
    tasks: str
    candidates: str
    pairs: str | None = None
    exemplars: str | None = None
    variant: Variant = "T+V"
    teacher_url: str = "sandbox"
    key_variable: str = "OPENAI_API_KEY"
    decomposer: Teacher
    thinkers: tuple[Teacher, ...] = Field(min_length=1)
    verifier: Teacher
    decompose_share: float = Field(0.1, ge=0, lt=1)
    concurrency: int = Field(32, ge=1)
    timeout: float = Field(120.0, gt=0)
    seed: int = 0

    @property
    def decomposes(self) -> bool:
        """Whether principles are used at all."""
        return self.variant != "holistic"

    @property
    def verifies(self) -> bool:
        """Whether traces are verified and selected."""
        return self.variant in ("V", "T+V")

    @property
    def pool(self) -> list[Teacher]:
        """Every teacher that this variant asks."""
        return [*([self.decomposer] if self.decomposes else []), *self.thinkers, *([self.verifier] if self.verifies else [])]

    @property
    def inputs(self) -> list[str]:
        """The files and folders that the data set is made from."""
        return [path for path in (self.tasks, self.candidates, self.pairs, self.exemplars) if path]


@dataclass(frozen=True)
class Start:
    """What was read from the config's files."""

    tasks: list[Task]
    candidates: list[Quadruple]
    pairs: list[PreferencePair]
    bad: list[Quarantined]


def read_start(config: DataConfig, store: ImageStore) -> Start:
    """Tasks, candidates and pairs. Raises InputError for a file that is missing or without one usable row."""
    tasks, bad = read_tasks(config.tasks, store)
    candidates, bad_candidates = read_candidates(config.candidates, tasks, store)
    pairs, bad_pairs = read_pairs(config.pairs, store) if config.pairs else ([], [])
    unique = {task.task_id: task for task in tasks.values()}
    return Start(list(unique.values()), candidates, pairs, [*bad, *bad_candidates, *bad_pairs])


@contextmanager
def teacher_at(url: str) -> Iterator[str]:
    """The address of the teachers; "sandbox" starts them for the duration."""
    if url != "sandbox":
        yield url
        return
    from rrm.sandbox.teacher import running_teacher  # a server, which real teachers do without

    with running_teacher() as started:
        yield started


async def decomposed(
    config: DataConfig, start: Start, teachers: Teachers, journal: Journal
) -> tuple[Principles, list[Quarantined]]:
    """Principles of every task that candidates or pairs need, and the tasks that could not be decomposed."""
    needed = {task.task_id: task for task in [q.task for q in start.candidates] + [task_of(pair) for pair in start.pairs]}
    if not config.decomposes:
        return dict.fromkeys(needed, ()), []
    exemplars = read_exemplars(config.exemplars) if config.exemplars else []
    calls = {key: decompose_call(task, config.decomposer, exemplars, config.seed) for key, task in needed.items()}
    answers = await ask_all(teachers, journal, list(calls.values()), "decompose")
    return principles_by_task(calls, answers)


async def thought(
    config: DataConfig, quadruples: Sequence[Quadruple], teachers: Teachers, journal: Journal
) -> dict[str, list[Trace]]:
    """The traces of every quadruple, by its id."""
    calls = {q.quadruple_id: think_calls(q, config.thinkers, config.variant, config.seed) for q in quadruples}
    answers = await ask_all(teachers, journal, [call for several in calls.values() for call in several], "think")
    return {q.quadruple_id: traces_of(q, calls[q.quadruple_id], answers) for q in quadruples}


async def verified(
    config: DataConfig,
    quadruples: Sequence[Quadruple],
    traces: Mapping[str, Sequence[Trace]],
    teachers: Teachers,
    journal: Journal,
) -> tuple[dict[str, Gold], list[Quarantined]]:
    """Gold verdicts of the quadruples with a readable trace, by id, and the quadruples that got none."""
    worth = [q for q in quadruples if first_readable(traces[q.quadruple_id])]
    calls = {q.quadruple_id: verify_call(q, traces[q.quadruple_id], config.verifier, config.seed) for q in worth}
    answers = await ask_all(teachers, journal, list(calls.values()), "verify")
    gold: dict[str, Gold] = {}
    bad = []
    for q in worth:
        read = gold_of(q, answers[calls[q.quadruple_id].key])
        if isinstance(read, Failure):
            bad.append(Quarantined(stage="verify", key=q.quadruple_id, failure=read))
        else:
            gold[q.quadruple_id] = read
    return gold, bad


def chosen(
    config: DataConfig, quadruples: Sequence[Quadruple], traces: Mapping[str, Sequence[Trace]], gold: Mapping[str, Gold]
) -> tuple[list[tuple[Quadruple, Trace]], list[Quarantined]]:
    """The trace to train on for every quadruple that has one, and the quadruples without a readable trace."""
    found, bad = [], []
    for q in quadruples:
        own = traces[q.quadruple_id]
        first = first_readable(own)
        if first is None:
            failure = (
                next(trace.failure for trace in own if trace.failure) if own else Failure(kind="empty", detail="no traces")
            )
            bad.append(Quarantined(stage="think", key=q.quadruple_id, failure=failure))
        elif not config.verifies:
            found.append((q, first))
        elif q.quadruple_id in gold and (winner := select(own, gold[q.quadruple_id])):
            found.append((q, winner))
    return found, bad


async def produce(config: DataConfig, out: Path, start: Start, url: str, store: ImageStore, journal: Journal) -> dict[str, Any]:
    """Asks the teachers and writes the data set; returns its card."""
    teachers = Teachers(url, store, config.concurrency, config.timeout, config.key_variable)
    known = len(journal.answers)
    try:
        await teachers.check(config.pool)
        principles, undecomposed = await decomposed(config, start, teachers, journal)
        quadruples = quadruples_of(start.candidates, principles)
        traces = await thought(config, quadruples, teachers, journal)
        no_gold: list[Quarantined] = []
        gold: dict[str, Gold] = {}
        if config.verifies:
            gold, no_gold = await verified(config, quadruples, traces, teachers, journal)
    finally:
        await teachers.close()
    targets, no_trace = chosen(config, quadruples, traces, gold)
    rows = [judge_row(q, trace, gold.get(q.quadruple_id)) for q, trace in targets]
    if config.decomposes:
        rows += decompose_rows(start.tasks, principles, len(rows), config.decompose_share, config.seed)
    pairs = decomposed_pairs(start.pairs, principles)
    preferred = [pair for pair in pairs if pair.label != "same"]
    left_out = [*start.bad, *undecomposed, *no_trace, *no_gold]
    write_table(out / "sft.parquet", SFTRow, rows)
    write_table(out / "preferences.parquet", PreferencePair, preferred)
    write_table(out / "same.parquet", PreferencePair, [pair for pair in pairs if pair.label == "same"])
    (out / "quarantine.jsonl").write_text("".join(row.model_dump_json() + "\n" for row in left_out))
    everything = [trace for several in traces.values() for trace in several]
    card = {
        "variant": config.variant,
        "config": config.digest(),
        "counts": {
            "tasks": len(start.tasks),
            "decomposed": len(principles) if config.decomposes else 0,
            "candidates": len(start.candidates),
            "quadruples": len(quadruples),
            "traces": len(everything),
            "readable_traces": sum(trace.read is not None for trace in everything),
            "gold": len(gold),
            "sft_judge": len(targets),
            "sft_decompose": len(rows) - len(targets),
            "preferences": len(preferred),
            "same": len(pairs) - len(preferred),
            "quarantined": len(left_out),
        },
        "calls": {"made": len(journal.answers) - known, "from_journal": known},
        "teachers": teacher_rows(everything, gold, [trace for _, trace in targets]),
        "teacher_agreement": agreement(list(traces.values())),
        "failures": {"traces": failure_counts(everything), "quarantined": dict(Counter(q.failure.kind for q in left_out))},
        "editors": dict(Counter(q.editor for q in quadruples)),
    }
    write_json(out / "card.json", card)
    return card


def run(config: DataConfig, out: Path) -> dict[str, Any]:
    """Makes the data set in `out`; returns the counts of its card."""
    store = ImageStore(out / "images")
    start = read_start(config, store)
    earlier = previous(out) / "journal.jsonl"
    if earlier.is_file() and not (out / "journal.jsonl").exists():
        shutil.copy(earlier, out / "journal.jsonl")  # a call whose key is the same need not be paid for twice
    journal = Journal(out / "journal.jsonl")
    try:
        with teacher_at(config.teacher_url) as url:
            return dict(asyncio.run(produce(config, out, start, url, store, journal))["counts"])
    finally:
        journal.close()
