"""quadruple + traces → gold verdicts: a verifier looks for itself, with the traces as references
that it must not copy."""

from __future__ import annotations

from collections.abc import Sequence

from data_pipeline.questions import Asking
from data_pipeline.settings import DataConfig
from data_pipeline.teachers import Call, one_call
from rrm import prompts
from rrm.parsing import canonical, read_gold
from rrm.records import Failure, Gold, Quadruple, Trace


def verify_call(quadruple: Quadruple, traces: Sequence[Trace], config: DataConfig) -> Call:
    """The request for a quadruple's gold verdicts; traces that cannot be read are no references."""
    references = [
        canonical(trace.text, trace.read, config.thinks)
        for trace in traces
        if trace.read is not None
    ]
    task = quadruple.task
    text = prompts.verify_text(task.instruction, quadruple.principles, references, task.requirement)
    images = (task.source, quadruple.edited)
    return one_call(config.gold_teacher, "verify", prompts.VERIFY_SYSTEM, text, images, config.seed)


async def verify(
    quadruple: Quadruple, traces: Sequence[Trace], asking: Asking, config: DataConfig
) -> Gold | Failure:
    """The gold verdicts; an answer that is not valid is asked for again, with what was wrong."""
    count = len(quadruple.principles)
    call = verify_call(quadruple, traces, config)
    read = await asking.until_valid(
        call, lambda answer: read_gold(answer, count), lambda gold: [], config.asks
    )
    if isinstance(read, Failure):
        return read
    verdicts, reasons = read
    return Gold.model_validate(
        {"quadruple_id": quadruple.quadruple_id, "verdicts": verdicts, "reasons": reasons}
    )
