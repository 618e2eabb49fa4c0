"""The hard filter: of the tasks that were not drawn at random, those that ask more of an editor
than a simple step."""

from __future__ import annotations

import hashlib
from typing import Any, Literal

from pydantic import Field

from data_pipeline.questions import Asking, Asks, about
from data_pipeline.settings import DataConfig
from data_pipeline.teachers import one_call
from rrm import prompts
from rrm.parsing import Answer
from rrm.parsing.lists import binary, ends, rows_with
from rrm.parsing.said import said, unreadable
from rrm.records import Failure, Record, Task

CRITERIA = ("multi-step", "fine-grained", "implicit", "spatial")


class Filtered(Record):
    """Which criteria a task meets (none: it is simple), or why that is not known; and the ledger's
    keys."""

    task_id: str
    criteria: tuple[str, ...] | None = None
    failure: Failure | None = None
    evidence: dict[str, Any] = Field(default_factory=dict)
    keys: tuple[str, ...] = ()


def read_criteria(answer: Answer) -> tuple[str, ...] | Failure:
    """The criteria that are met, from a list of {"criterion", "met"} with each of the four once."""
    found = said(answer)
    if isinstance(found, Failure):
        return found
    listed = rows_with(found.answer, "criterion", "met")
    if listed is None or not ends(found.answer, listed):
        return unreadable(found.answer, 'no JSON list of {"criterion", "met"} at the end')
    rows = listed.rows
    met: dict[str, Literal[0, 1] | None] = {
        str(row["criterion"]).strip().lower(): binary(row["met"]) for row in rows
    }
    if set(met) != set(CRITERIA) or len(rows) != len(CRITERIA) or None in met.values():
        return Failure(
            kind="unparseable", detail=f"not one 0 or 1 for each of {', '.join(CRITERIA)}"
        )
    return tuple(name for name in CRITERIA if met[name])


def rank(task_id: str, seed: int) -> str:
    """Where a task stands in the order in which tasks are drawn."""
    return hashlib.sha256(f"{seed}|{task_id}".encode()).hexdigest()


async def filter_task(task: Task, teachers: Asks, config: DataConfig) -> Filtered:
    """The criteria of hardness that the task meets."""
    assert config.hard_filter is not None
    asking = Asking(teachers)
    text = prompts.decompose_text("full", task.instruction, task.requirement)
    call = one_call(
        config.hard_filter, "filter", prompts.FILTER_SYSTEM, text, (task.source,), config.seed
    )
    found = await asking.until_valid(call, read_criteria, lambda criteria: [], config.asks)
    keys = tuple(asking.keys)
    if isinstance(found, Failure):
        evidence = {**about(task), "answers": asking.unusable}
        return Filtered(task_id=task.task_id, failure=found, evidence=evidence, keys=keys)
    return Filtered(task_id=task.task_id, criteria=found, keys=keys)
