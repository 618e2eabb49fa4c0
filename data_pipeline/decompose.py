"""task → principles: a teacher sees the source image and the instruction, and writes yes/no
questions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, ValidationError

from data_pipeline.questions import Asking, Asks, about
from data_pipeline.settings import DataConfig
from data_pipeline.teachers import Call, one_call
from rrm import prompts
from rrm.errors import InputError
from rrm.parsing import principle_faults, read_principles
from rrm.records import Failure, Principle, Record, Task
from rrm.rows.formats import whole_rows

Language = Literal["en", "zh"]
ASKED_IN: dict[Language, str] = {
    "en": "Write the questions in English.",
    "zh": "Write the questions in Chinese, as 是否…？ or …吗？, and the categories in English, as they are named above.",
}
QUOTED = re.compile(r"“[^”]*”|「[^」]*」|《[^》]*》|\"[^\"]*\"|‘[^’]*’")
HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff]")
OTHER_WORD = re.compile(r"[^\W\d_\u3400-\u4dbf\u4e00-\u9fff]+")


class Exemplar(Record):
    """An expert's decomposition, shown to the teacher as an example; `tags` say what it is an
    example of."""

    instruction: str
    principles: tuple[Principle, ...] = Field(min_length=1)
    scene: str = ""
    tags: tuple[str, ...] = ()


class Decomposed(Record):
    """What became of a task: principles, or a failure with the answers that could not be used; and
    the ledger's keys."""

    task_id: str
    principles: tuple[Principle, ...] | None = None
    failure: Failure | None = None
    evidence: dict[str, Any] = Field(default_factory=dict)
    keys: tuple[str, ...] = ()


@lru_cache(maxsize=4)
def read_exemplars(path: str) -> tuple[Exemplar, ...]:
    """The pool of exemplars, from JSONL. Raises InputError where the file or a line of it cannot be
    used."""
    if not Path(path).is_file():
        raise InputError(
            f"There is no file of exemplars at {path}; correct the path in the config, or leave it out."
        )
    found = []
    for where, values in whole_rows(Path(path)):
        try:
            found.append(Exemplar.model_validate(values))
        except ValidationError as error:
            raise InputError(f'{where}: an exemplar is {{"instruction", "principles"}}.') from error
    return tuple(found)


def language_of(text: str) -> Language:
    """Chinese where the text has more Chinese characters than words of other scripts, quotations
    apart; else English."""
    own = QUOTED.sub(" ", text)
    return "zh" if len(HAN.findall(own)) > len(OTHER_WORD.findall(own)) else "en"


def system_prompt(
    exemplars: Sequence[Exemplar], wanted: str, task: Task, config: DataConfig
) -> str:
    """The decomposer's system prompt: how many questions are wanted, in which language, and
    exemplars in it, drawn for this task."""
    language = language_of(task.instruction) if config.language == "auto" else config.language
    said = "" if language == language_of(task.instruction) == "en" else f"\n{ASKED_IN[language]}"
    system = f"{prompts.DECOMPOSE_SYSTEM}\n{wanted}{said}"
    fitting = [
        e for e in exemplars if language_of(e.principles[0].question) == language
    ] or exemplars
    if not fitting or not config.exemplars_per_query:
        return system
    rng = np.random.default_rng([config.seed, int(task.task_id, 16)])
    chosen = [fitting[int(i)] for i in rng.permutation(len(fitting))[: config.exemplars_per_query]]
    return f"{system}\n\nExamples:\n" + "\n\n".join(map(example_text, chosen))


def example_text(exemplar: Exemplar) -> str:
    """An exemplar as the teacher is shown it."""
    scene = f"(The source image: {prompts.one_line(exemplar.scene)})\n" if exemplar.scene else ""
    return f"{scene}{prompts.decompose_text('full', exemplar.instruction)}\n{prompts.write_principles(exemplar.principles)}"


def wanted_text(config: DataConfig) -> str:
    """The numbers of questions that a valid decomposition has, in words."""
    ranges = [
        f"{low}–{high} of {prompts.CATEGORY_NAMES[name]}"
        for name, (low, high) in config.principles.items()
    ]
    low, high = config.principles_total
    return f"Write {', '.join(ranges)}, {low}–{high} in all."


def decompose_call(task: Task, config: DataConfig) -> Call:
    """The request for a task's principles."""
    exemplars = read_exemplars(str(config.exemplars_path)) if config.exemplars else ()
    system = system_prompt(exemplars, wanted_text(config), task, config)
    text = prompts.decompose_text("full", task.instruction, task.requirement)
    return one_call(config.decomposer, "decompose", system, text, (task.source,), config.seed)


async def decompose(task: Task, teachers: Asks, config: DataConfig) -> Decomposed:
    """The task's principles; an answer that is not valid is asked for again, with what was wrong."""
    asking = Asking(teachers)

    def faults(principles: tuple[Principle, ...]) -> list[str]:
        return principle_faults(principles, config.principles, config.principles_total)

    found = await asking.until_valid(
        decompose_call(task, config), read_principles, faults, config.asks
    )
    keys = tuple(asking.keys)
    if isinstance(found, Failure):
        evidence = {**about(task), "answers": asking.unusable}
        return Decomposed(task_id=task.task_id, failure=found, evidence=evidence, keys=keys)
    return Decomposed(task_id=task.task_id, principles=found, keys=keys)
