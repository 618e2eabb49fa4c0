"""Money: what calls cost, and stopping before a limit is exceeded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager

from data_pipeline.ledger import Bill
from data_pipeline.settings import Teacher
from rrm.errors import InputError

Settle = Callable[[int | None, int | None], None]


class BudgetSpent(InputError):
    """The next call might exceed the limit."""


def price(teacher: Teacher, prompt_tokens: float, completion_tokens: float) -> float:
    """What so many tokens cost."""
    return (prompt_tokens * teacher.price_in + completion_tokens * teacher.price_out) / 1e6


def price_of(bills: Iterable[Bill], pool: Iterable[Teacher]) -> float:
    """What these calls cost at the pool's prices; models that are not in the pool count nothing."""
    teachers = {teacher.model: teacher for teacher in pool}
    return sum(
        price(teachers[b.model], b.prompt_tokens, b.completion_tokens)
        for b in bills
        if b.model in teachers
    )


class Budget:
    """What was spent, and what calls in flight may still cost at most; None as limit: no limit."""

    def __init__(self, spent: float = 0.0, limit: float | None = None):
        self.spent, self.limit, self.held = spent, limit, 0.0
        self.settled = asyncio.Condition()

    def exceeded_by(self, most: float) -> bool:
        """Whether a call that costs so much at most might exceed the limit."""
        return self.limit is not None and self.spent + self.held + most > self.limit

    @asynccontextmanager
    async def reserved(
        self, teacher: Teacher, prompt_tokens: int, completion_tokens: int
    ) -> AsyncIterator[Settle]:
        """Holds back what a call can cost at most while it is made; the block says with
        settle(prompt, completion) what it did cost.

        A call that was answered without a count of tokens is counted at its most. Where only the
        calls in flight stand in the way, it waits for them. Raises BudgetSpent where the limit
        might be exceeded.
        """
        most = price(teacher, prompt_tokens, completion_tokens)
        async with self.settled:
            while self.exceeded_by(most):
                if self.held <= 0:
                    raise BudgetSpent(
                        f"Stopped before --max-cost {self.limit:g} is exceeded: {self.spent:.4f} is spent, and the next call may "
                        f"cost {most:.4f}; run the same command with a higher limit to carry on."
                    )
                await self.settled.wait()
            self.held += most

        def settle(prompt: int | None, completion: int | None) -> None:
            metered = prompt is not None and completion is not None
            self.spent += price(teacher, prompt or 0, completion or 0) if metered else most

        try:
            yield settle
        finally:
            async with self.settled:
                self.held = max(0.0, self.held - most) if self.held > most * 1.000001 else 0.0
                self.settled.notify_all()
