"""quadruple + traces → gold verdicts: a verifier looks for itself, with the traces as references that it must not copy."""

from __future__ import annotations

from collections.abc import Sequence

from data_pipeline.teachers import Answer, Call, Teacher, instructed
from rrm import prompts
from rrm.parsing import read_gold
from rrm.records import Failure, Gold, Quadruple, Trace


def verify_call(quadruple: Quadruple, traces: Sequence[Trace], verifier: Teacher, seed: int) -> Call:
    """The request for a quadruple's gold verdicts; traces that cannot be read are no references."""
    references = [trace.text for trace in traces if trace.read is not None]
    return Call(
        stage="verify",
        model=verifier.model,
        system=instructed(prompts.VERIFY_SYSTEM, verifier),
        text=prompts.verify_text(quadruple.task.instruction, quadruple.principles, references),
        images=(quadruple.task.source, quadruple.edited),
        temperature=verifier.temperatures[0],
        n=1,
        seed=seed,
        url=verifier.url,
    )


def gold_of(quadruple: Quadruple, answer: Answer) -> Gold | Failure:
    """The gold verdicts in the verifier's answer."""
    if isinstance(answer, Failure):
        return answer
    read = read_gold(answer[0] if answer else "", len(quadruple.principles))
    if isinstance(read, Failure):
        return read
    verdicts, reasons = read
    return Gold.model_validate({"quadruple_id": quadruple.quadruple_id, "verdicts": verdicts, "reasons": reasons})
