"""quadruple → traces: every teacher of the pool judges it, at each of its temperatures and with
each of its prompt variants."""

from __future__ import annotations

from collections.abc import Sequence

from data_pipeline.settings import DataConfig, Variant
from data_pipeline.teachers import Answer, Call, calls_to
from rrm import prompts
from rrm.parsing import read_answer, sound, written
from rrm.records import Failure, Quadruple, Trace

SYSTEMS: dict[Variant, str] = {
    "T": prompts.JUDGE_SYSTEM,
    "T+V": prompts.JUDGE_SYSTEM,
    "V": prompts.SCORE_ONLY_SYSTEM,
    "holistic": prompts.HOLISTIC_SYSTEM,
}


def think_calls(quadruple: Quadruple, config: DataConfig) -> list[Call]:
    """The requests for a quadruple's traces, in the order in which traces are numbered."""
    task = quadruple.task
    text = prompts.judge_text("full", task.instruction, quadruple.principles, task.requirement)
    images = (task.source, quadruple.edited)
    system = SYSTEMS[config.variant]
    return [
        call
        for teacher in config.thinkers
        for call in calls_to(teacher, "think", system, text, images, config.seed)
    ]


def traces_of(
    quadruple: Quadruple, calls: Sequence[Call], answers: Sequence[Answer]
) -> list[Trace]:
    """All traces of a quadruple in order, `calls[i].n` of each call; those of a failed call carry
    its failure, and so do those that a server left out."""
    traces: list[Trace] = []
    for call, answer in zip(calls, answers, strict=True):
        for k in range(call.n):
            trace = Trace(
                quadruple_id=quadruple.quadruple_id, teacher=call.model, index=len(traces), text=""
            )
            if isinstance(answer, Failure):
                traces.append(trace.model_copy(update={"failure": answer}))
            elif k >= len(answer.choices):
                short = Failure(
                    kind="empty",
                    detail=f"{len(answer.choices)} of {call.n} answers came; set 'one_by_one: true'",
                )
                traces.append(trace.model_copy(update={"failure": short}))
            else:
                choice = answer.choices[k]
                read = read_answer(choice, len(quadruple.principles))
                name = "failure" if isinstance(read, Failure) else "read"
                traces.append(
                    trace.model_copy(
                        update={"text": sound(written(choice) or choice.refusal), name: read}
                    )
                )
    return traces
