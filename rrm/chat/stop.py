"""When a run stops: at the first few refusals that every further row would meet."""

from __future__ import annotations

from rrm.chat.faults import Fault
from rrm.errors import InputError

AT_MOST = 3
"""Refusals of everything, in a row, without an answer between them."""
NEVER_ANSWERED = 16
"""Refusals in the same words where nothing was ever answered."""


class StopRule:
    """Counts what would meet every row, over all clients of one server or model; `reason` says why
    nothing more is to be asked."""

    def __init__(self, who: str):
        self.who = who
        self.in_a_row = self.alike = 0
        self.last = ""
        self.answered = False
        self.reason: str | None = None
        self.told = False
        """Whether the reason was raised."""

    def note(self, outcome: object) -> None:
        """Takes in what an attempt came to: a `Fault`, or anything else for an answer."""
        if not isinstance(outcome, Fault):
            self.answered, self.in_a_row = True, 0
        elif outcome.scope == "everything":
            self.in_a_row += 1
            if self.in_a_row >= AT_MOST:
                self.stop(outcome)
        elif outcome.scope == "question" and not self.answered:
            self.alike = self.alike + 1 if outcome.failure.detail == self.last else 1
            self.last = outcome.failure.detail
            if self.alike >= NEVER_ANSWERED:
                self.stop(outcome)

    def stop(self, fault: Fault) -> None:
        """Notes why the run stops, once."""
        cure = fault.cure or "correct the rows or the settings"
        self.reason = self.reason or (
            f"{self.who} refuses whatever it is asked ({fault.failure.detail.rstrip('.')}); {cure}, "
            "then run the same command again: what was answered is kept."
        )

    def check(self) -> None:
        """Raises InputError, in the server's own words, where nothing more is to be asked."""
        if self.reason is not None:
            self.told = True
            raise InputError(self.reason)
