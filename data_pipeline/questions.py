"""One row's questions to the teachers: each answer's key is kept, and a question may be put again
with what was wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

from data_pipeline.teachers import Answer, Call
from rrm.errors import InputError
from rrm.prompts import again_text
from rrm.records import Choice, Failure, Task

Read = TypeVar("Read")


def about(task: Task) -> dict[str, Any]:
    """What evidence tells of a task."""
    required = {"requirement": task.requirement} if task.requirement else {}
    return {"instruction": task.instruction, **required, "source": task.source}


class Asks(Protocol):
    """Whoever answers calls: the teachers, or (in a dry run) the ledger alone."""

    async def ask(self, call: Call) -> Answer:
        """The answer, or why there is none."""

    def stop(self, why: InputError) -> None:
        """Nothing more is asked: whoever asks is told why."""


@dataclass
class Asking:
    """The questions of one row; `keys` of the answers that were used, and `unusable` answers as
    they were given."""

    teachers: Asks
    keys: list[str] = field(default_factory=list)
    unusable: list[dict[str, Any]] = field(default_factory=list)

    async def ask(self, call: Call) -> Answer:
        """The answer, or why there is none."""
        answer = await self.teachers.ask(call)
        if not isinstance(answer, Failure):
            self.keys.append(call.key)
        return answer

    async def until_valid(
        self,
        call: Call,
        read: Callable[[Choice], Read | Failure],
        faults: Callable[[Read], list[str]],
        asks: int,
    ) -> Read | Failure:
        """What `read` makes of the answer once it has no `faults`; it is asked for at most `asks`
        times, then it is a failure."""
        told = Failure(kind="empty")
        first = call.text
        for _ in range(asks):
            answer = await self.ask(call)
            if isinstance(answer, Failure):
                return answer
            choice = answer.choices[0]
            text, value = choice.content or choice.refusal, read(choice)
            wrong = [value.detail or value.kind] if isinstance(value, Failure) else faults(value)
            if not isinstance(value, Failure) and not wrong:
                return value
            told = (
                value
                if isinstance(value, Failure)
                else Failure(kind="unparseable", detail="; ".join(wrong)[:500])
            )
            self.unusable.append(
                {"model": call.model, "key": call.key, "answer": text, "wrong": wrong}
            )
            # another seed, too: a server may repeat itself to the letter
            call = replace(call, text=again_text(first, text, wrong), seed=call.seed + 1)
        return told
