"""quadruple → the trace to train on: the pool thinks and scores, the verifier gives gold, plain
code selects."""

from __future__ import annotations

import asyncio
from typing import Any

from pydantic import Field

from data_pipeline.gold_verdicts import verify
from data_pipeline.questions import Asking, Asks, about
from data_pipeline.selection import first_readable, select
from data_pipeline.settings import DataConfig
from data_pipeline.think import think_calls, traces_of
from rrm.records import Failure, Gold, Quadruple, Record, Trace


class Judged(Record):
    """What became of a quadruple: its traces, the gold verdicts, the index of the selected trace,
    or why none was; and the ledger's keys."""

    quadruple_id: str
    traces: tuple[Trace, ...] = ()
    gold: Gold | None = None
    selected: int | None = None
    failure: Failure | None = None
    failed_at: str = ""
    evidence: dict[str, Any] = Field(default_factory=dict)
    keys: tuple[str, ...] = ()


async def judge(quadruple: Quadruple, teachers: Asks, config: DataConfig) -> Judged:
    """The quadruple's traces and which of them is the SFT target (none in a set of its own that
    lacks a readable one)."""
    asking = Asking(teachers)
    calls = think_calls(quadruple, config)
    answers = await asyncio.gather(*(asking.teachers.ask(call) for call in calls))
    asking.keys += [
        call.key
        for call, answer in zip(calls, answers, strict=True)
        if not isinstance(answer, Failure)
    ]
    traces = traces_of(quadruple, calls, answers)
    known: dict[str, Any] = {"quadruple_id": quadruple.quadruple_id, "traces": tuple(traces)}
    shown = {**about(quadruple.task), "edited": quadruple.edited}
    first = first_readable(traces)
    if first is None:
        failure = next(
            (trace.failure for trace in traces if trace.failure),
            Failure(kind="empty", detail="no traces"),
        )
        said = [
            {"model": t.teacher, "answer": t.text, "wrong": t.failure.detail}
            for t in traces
            if t.failure
        ]
        evidence = {**shown, "answers": said}
        return Judged(
            **known, failure=failure, failed_at="think", evidence=evidence, keys=tuple(asking.keys)
        )
    if not config.verifies:
        return Judged(**known, selected=first.index, keys=tuple(asking.keys))
    gold = await verify(quadruple, traces, asking, config)
    keys = tuple(asking.keys)
    if isinstance(gold, Failure):
        evidence = {**shown, "answers": asking.unusable}
        return Judged(**known, failure=gold, failed_at="verify", evidence=evidence, keys=keys)
    winner = select(traces, gold)
    assert winner is not None  # there is a readable trace
    return Judged(**known, gold=gold, selected=winner.index, keys=keys)
