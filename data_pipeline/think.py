"""quadruple → traces: every teacher of the pool judges it, several times at each of its temperatures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from data_pipeline.teachers import Answer, Call, Teacher, instructed
from rrm import prompts
from rrm.parsing import read_holistic, read_trace
from rrm.records import Failure, Quadruple, Trace, Verdicts

Variant = Literal["T", "V", "T+V", "holistic"]
SYSTEMS: dict[Variant, str] = {
    "T": prompts.JUDGE_SYSTEM,
    "T+V": prompts.JUDGE_SYSTEM,
    "V": prompts.SCORE_ONLY_SYSTEM,
    "holistic": prompts.HOLISTIC_SYSTEM,
}


def think_calls(quadruple: Quadruple, pool: Sequence[Teacher], variant: Variant, seed: int) -> list[Call]:
    """The requests for a quadruple's traces, in the order in which traces are numbered."""
    text = prompts.judge_text("full", quadruple.task.instruction, quadruple.principles)
    return [
        Call(
            stage="think",
            model=teacher.model,
            system=instructed(SYSTEMS[variant], teacher),
            text=text,
            images=(quadruple.task.source, quadruple.edited),
            temperature=temperature,
            n=teacher.samples,
            seed=seed,
            url=teacher.url,
        )
        for teacher in pool
        for temperature in teacher.temperatures
    ]


def read_one(quadruple: Quadruple, teacher: str, index: int, text: str) -> Trace:
    """The trace with what can be read from it, or why nothing can."""
    count = len(quadruple.principles)
    read: Verdicts | Failure = read_trace(text, count) if count else read_holistic(text)
    trace = Trace(quadruple_id=quadruple.quadruple_id, teacher=teacher, index=index, text=text)
    return trace.model_copy(update={"failure": read} if isinstance(read, Failure) else {"read": read})


def traces_of(quadruple: Quadruple, calls: Sequence[Call], answers: Mapping[str, Answer]) -> list[Trace]:
    """All traces of a quadruple; those of a failed call carry its failure."""
    traces = []
    index = 0
    for call in calls:
        answer = answers[call.key]
        if isinstance(answer, Failure):
            failed = Trace(quadruple_id=quadruple.quadruple_id, teacher=call.model, index=index, text="", failure=answer)
            traces += [failed.model_copy(update={"index": index + k}) for k in range(call.n)]
        else:
            traces += [read_one(quadruple, call.model, index + k, text) for k, text in enumerate(answer)]
        index += call.n
    return traces
