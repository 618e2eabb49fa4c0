"""task → principles: a teacher sees the source image and the instruction, and writes yes/no questions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from pydantic import Field, ValidationError

from data_pipeline.tasks import short_hash
from data_pipeline.teachers import Answer, Call, Teacher, instructed
from rrm import prompts
from rrm.errors import InputError
from rrm.parsing import read_principles
from rrm.records import Failure, PreferencePair, Principle, Quarantined, Record, Task

EXEMPLARS_PER_QUERY = 4


class Exemplar(Record):
    """An expert's decomposition, shown to the teacher as an example."""

    instruction: str
    principles: tuple[Principle, ...] = Field(min_length=1)


def read_exemplars(path: str | Path) -> list[Exemplar]:
    """The pool of exemplars, from JSONL. Raises InputError where the file or a line of it cannot be used."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"There is no file of exemplars at {path}; correct the path in the config, or leave it out.")
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        if line.strip():
            try:
                found.append(Exemplar.model_validate(json.loads(line)))
            except (ValueError, ValidationError) as error:
                raise InputError(f'{path}, line {number}: an exemplar is {{"instruction", "principles"}}.') from error
    return found


def system_prompt(teacher: Teacher, exemplars: Sequence[Exemplar], task: Task, seed: int) -> str:
    """The decomposer's system prompt with exemplars sampled for this task."""
    system = instructed(prompts.DECOMPOSE_SYSTEM, teacher)
    if not exemplars:
        return system
    rng = np.random.default_rng([seed, int(task.task_id, 16)])
    chosen = [exemplars[int(i)] for i in rng.permutation(len(exemplars))[:EXEMPLARS_PER_QUERY]]
    shown = "\n\n".join(
        f"{prompts.decompose_text('full', e.instruction)}\n{prompts.write_principles(e.principles)}" for e in chosen
    )
    return f"{system}\n\nExamples:\n{shown}"


def decompose_call(task: Task, teacher: Teacher, exemplars: Sequence[Exemplar], seed: int) -> Call:
    """The request for a task's principles."""
    text = prompts.decompose_text("full", task.instruction)
    if task.requirement:
        text += f"\nRequirement: {task.requirement}"
    return Call(
        stage="decompose",
        model=teacher.model,
        system=system_prompt(teacher, exemplars, task, seed),
        text=text,
        images=(task.source,),
        temperature=teacher.temperatures[0],
        n=1,
        seed=seed,
        url=teacher.url,
    )


def task_of(pair: PreferencePair) -> Task:
    """The task whose edits the pair compares."""
    return Task(task_id=short_hash(pair.source, pair.instruction, ""), source=pair.source, instruction=pair.instruction)


def principles_by_task(
    calls: Mapping[str, Call], answers: Mapping[str, Answer]
) -> tuple[dict[str, tuple[Principle, ...]], list[Quarantined]]:
    """Principles of every task that has them, by task id, and the tasks that do not."""
    found: dict[str, tuple[Principle, ...]] = {}
    bad = []
    for task_id, call in calls.items():
        answer = answers[call.key]
        read = answer if isinstance(answer, Failure) else read_principles(answer[0] if answer else "")
        if isinstance(read, Failure):
            bad.append(Quarantined(stage="decompose", key=task_id, failure=read))
        else:
            found[task_id] = read
    return found, bad
