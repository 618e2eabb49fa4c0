"""Handling of stop signals: at once, or at the next safe point."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

log = logging.getLogger(__name__)

POLITE = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C, a polite kill, a terminal that closes."""


@contextmanager
def handled(
    which: tuple[signal.Signals, ...], handler: Callable[[int, FrameType | None], Any]
) -> Iterator[None]:
    """While the block lasts these signals call the handler.

    A signal that is ignored (nohup) stays ignored. Outside the main thread, which alone is told of
    signals, it does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {one: signal.getsignal(one) for one in which}
    taken = [one for one, known in before.items() if known is not signal.SIG_IGN]
    for one in taken:
        signal.signal(one, handler)
    try:
        yield
    finally:
        for one in taken:
            signal.signal(one, before[one] or signal.SIG_DFL)


def raise_interrupt(number: int, frame: FrameType | None) -> None:
    """SIGTERM and SIGHUP raise KeyboardInterrupt, so the elapsed time is saved."""
    raise KeyboardInterrupt


@contextmanager
def closed_when_killed() -> Iterator[None]:
    """While the block lasts a polite kill, or a terminal that closes, ends it like Ctrl-C: what it
    has started is ended with it."""
    with handled((signal.SIGTERM, signal.SIGHUP), raise_interrupt):
        yield


@contextmanager
def asked_to_stop() -> Iterator[Callable[[], bool]]:
    """Gives a function that says whether the work in the block was asked to stop; it then ends at
    its next safe point.

    The same signal a second time raises KeyboardInterrupt. (Two different ones are one wish: a
    terminal's Ctrl-C reaches a process and its parent, which may pass it on as SIGTERM.)
    """
    came: set[int] = set()

    def note(number: int, frame: FrameType | None) -> None:
        if number in came:
            raise KeyboardInterrupt
        if not came:
            log.info("stopping as soon as what was trained so far is saved; once more: at once")
        came.add(number)

    with handled(POLITE, note):
        yield lambda: bool(came)
