"""How much is decoded at once: threads that decode large images together would need gigabytes."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class PixelBudget:
    """Lets threads decode together, in the order in which they come, images of at most `most`
    pixels in sum."""

    def __init__(self, most: int):
        self.most = most
        self.begin()
        os.register_at_fork(
            after_in_child=self.begin
        )  # the threads that would free it are the parent's

    def begin(self) -> None:
        """Nothing is taken."""
        self.taken = 0
        self.turn, self.freed = threading.Lock(), threading.Condition()

    @contextmanager
    def share(self, pixels: int) -> Iterator[None]:
        """Holds so many pixels while the block lasts, after waiting until they are free; more than
        all count as all."""
        pixels = min(pixels, self.most)
        with self.turn, self.freed:
            self.freed.wait_for(lambda: self.taken + pixels <= self.most)
            self.taken += pixels
        try:
            yield
        finally:
            with self.freed:
                self.taken -= pixels
                self.freed.notify_all()
