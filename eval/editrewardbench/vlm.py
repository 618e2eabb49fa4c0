"""Any vision-language model behind an OpenAI-compatible server as a pointwise judge that was never trained for it."""

from __future__ import annotations

from collections.abc import Sequence

from eval.endpoint import EndpointJudge
from eval.judges import Done, Edit, Principles
from rrm.parsing import judgement_of
from rrm.prompts import HOLISTIC_SYSTEM, judge_text
from rrm.records import Failure, Judgement, TaskToDecompose


class VlmJudge(EndpointJudge):
    """Asks for one score from 0 to 10 per edit in VIEScore's way, without principles."""

    needs_principles = False

    def prompt(self, instruction: str, principles: Principles, requirement: str | None = None) -> str:
        """The system prompt and the text behind the images."""
        return f"{HOLISTIC_SYSTEM}\n{judge_text('holistic', instruction, (), requirement)}"

    async def judge(self, edit: Edit) -> Judgement:
        """The judgement of one edit."""
        text = judge_text("holistic", edit.instruction, (), edit.requirement)
        answer = await self.answer(HOLISTIC_SYSTEM, (edit.source, edit.edited), text)
        if isinstance(answer, Failure):
            return Judgement(failure=answer)
        return judgement_of(answer, ())

    def decompose_many(self, tasks: Sequence[TaskToDecompose], done: Done[Principles | Failure]) -> None:
        """No principles: it is asked without any."""
        for place, _ in enumerate(tasks):
            done(place, ())
