"""A group of processes that ends with this process, however this process ends: a kill that cannot
be caught included."""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress

OTHERWISE_KILL = 'read released || kill -s KILL -- "-$1"'
"""Reads a line, or the end of the pipe: that is the end of whoever could have written one."""

_held: set[int] = set()
"""Where the watchers of this process are written to."""


def _forget_after_fork() -> None:
    """A child that kept its copies open would keep the watchers waiting."""
    for pipe in _held:
        os.close(pipe)
    _held.clear()


os.register_at_fork(after_in_child=_forget_after_fork)


class Watcher:
    """A process of its own that kills the group when this process is gone, unless it was released
    before."""

    def __init__(self, group: int):
        listens, self.pipe = os.pipe()
        _held.add(self.pipe)
        self.process = subprocess.Popen(
            ["/bin/sh", "-c", OTHERWISE_KILL, "watcher", str(group)],
            stdin=listens,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(listens)

    def release(self) -> None:
        """The group is left alone from now on: its number may become another's."""
        if self.pipe not in _held:
            return
        with suppress(BrokenPipeError):
            os.write(self.pipe, b"\n")
        os.close(self.pipe)
        _held.discard(self.pipe)
        self.process.wait()
