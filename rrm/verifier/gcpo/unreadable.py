"""Early stop of GCPO when no sampled trace can be parsed, and the message."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rrm.records import FailureKind

PATIENCE = 20
"""Updates in a row without one readable trace after which a run ends: nothing is learned from them,
and each costs as much as others."""
SHOWN, ENDS = 3, 160
"""How many traces are shown, and how many of a trace's last characters."""


def last_readable(log: Sequence[Mapping[str, Any]]) -> int:
    """The last update in a trainer's log whose traces were not all unreadable; 0 where there is
    none."""
    return max((line["step"] for line in log if line.get("unreadable_rate", 1.0) < 1), default=0)


class Patience:
    """Counts updates without a readable trace, including those before a resume."""

    def __init__(self, rollouts: Path, updates_per_batch: int):
        self.rollouts, self.updates_per_batch = rollouts, updates_per_batch
        self.readable_until: int | None = None

    def reason_to_end(
        self,
        step: int,
        reads: Sequence[float | FailureKind],
        texts: Sequence[str],
        log: Sequence[Mapping[str, Any]],
    ) -> str | None:
        """What a user is told once too many updates in a row had no readable trace, else None;
        `log` is the trainer's."""
        if self.readable_until is None:
            self.readable_until = last_readable(log)
        last_update = step + self.updates_per_batch - 1  # the last one on these traces
        if any(not isinstance(read, str) for read in reads):
            self.readable_until = last_update
        return (
            hopeless(step, reads, texts, self.rollouts)
            if last_update - self.readable_until >= PATIENCE
            else None
        )


def hopeless(
    step: int, reads: Sequence[float | FailureKind], texts: Sequence[str], rollouts: Path
) -> str:
    """What a user is told, with the ends of three traces; `reads` are of all processes, `texts`
    this one's."""
    kinds = ", ".join(f"{count} {kind}" for kind, count in Counter(map(str, reads)).most_common())
    shown = "; ".join(
        repr(text if len(text) <= ENDS else "…" + text[-ENDS:]) for text in texts[:SHOWN]
    )
    remedy = (
        "raise 'max_tokens'"
        if "cut_off" in reads
        else "train 'base' by SFT in the prompt style that it is asked in, or lower 'learning_rate' if it could once answer"
    )
    return (
        f"Training stopped at step {step}: no trace of the last {PATIENCE} updates could be read ({kinds} in this one), so that"
        f" nothing was learned from them; {remedy}. Three of them, by their ends: {shown}. All are in {rollouts}."
    )
