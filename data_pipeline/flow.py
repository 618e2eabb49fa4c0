"""Rows through an asynchronous function: many at once, out in the order in which they went in, with
flat memory."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from typing import TypeVar

In = TypeVar("In")
Out = TypeVar("Out")


async def in_order(
    rows: Iterable[In], work: Callable[[In], Awaitable[Out]], window: int
) -> AsyncGenerator[Out]:
    """The results of `work` on each row, in order; at most `window` rows are held at any time.

    Where one raises, or the caller closes this, no new row is begun, and those under way are
    awaited (what they found is paid for); the first error is raised.
    """
    pending: deque[asyncio.Future[Out]] = deque()
    source = iter(rows)
    try:
        while True:
            while len(pending) < window and (row := next(source, source)) is not source:
                pending.append(asyncio.ensure_future(work(row)))  # type: ignore[arg-type]
            if not pending:
                return
            yield await pending[0]
            pending.popleft()
    except (Exception, GeneratorExit):
        await asyncio.gather(*pending, return_exceptions=True)
        raise
    finally:
        for task in pending:
            task.cancel()
