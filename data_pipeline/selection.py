"""traces + gold → the SFT target. Plain code, the same choice every time."""

from __future__ import annotations

from collections.abc import Sequence

from rrm.records import Gold, Trace


def accuracy(verdicts: Sequence[int], gold: Sequence[int]) -> float:
    """The share of verdicts that equal gold."""
    return sum(v == g for v, g in zip(verdicts, gold, strict=True)) / len(gold)


def select(traces: Sequence[Trace], gold: Gold) -> Trace | None:
    """The trace with the highest accuracy, then the higher average, then the higher final score,
    then the lower index.

    Traces that cannot be read take no part; None where there are no others.
    """

    def rank(trace: Trace) -> tuple[float, float, float, int]:
        assert trace.read is not None
        return (
            accuracy(trace.read.verdicts, gold.verdicts),
            trace.read.average,
            trace.read.score,
            -trace.index,
        )

    return max((trace for trace in traces if trace.read is not None), key=rank, default=None)


def first_readable(traces: Sequence[Trace]) -> Trace | None:
    """The readable trace of the lowest index: what is trained on where nothing is verified."""
    return min(
        (trace for trace in traces if trace.read is not None),
        key=lambda trace: trace.index,
        default=None,
    )
