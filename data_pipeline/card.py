"""What a data set's card says of how it was made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from data_pipeline.select import accuracy
from rrm.records import Gold, Trace


def mean(values: Sequence[float]) -> float | None:
    """The mean to four places, None of nothing."""
    return round(float(np.mean(values)), 4) if values else None


def teacher_rows(traces: Sequence[Trace], gold: Mapping[str, Gold], selected: Sequence[Trace]) -> dict[str, dict[str, Any]]:
    """Per teacher: its traces, how many could be read, their mean score, their accuracy against gold, how many were selected."""
    chosen = Counter(trace.teacher for trace in selected)
    rows = {}
    for name in sorted({trace.teacher for trace in traces}):
        own = [trace for trace in traces if trace.teacher == name]
        read = [(trace.quadruple_id, trace.read) for trace in own if trace.read is not None]
        right = [accuracy(verdicts.verdicts, gold[q].verdicts) for q, verdicts in read if q in gold]
        rows[name] = {
            "traces": len(own),
            "readable": len(read),
            "selected": chosen[name],
            "mean_score": mean([verdicts.score for _, verdicts in read]),
            "accuracy_vs_gold": mean(right),
        }
    return rows


def agreement(traces_by_quadruple: Sequence[Sequence[Trace]]) -> dict[str, float | None]:
    """The share of equal verdicts between traces of the same quadruple, per pair of teachers ("a | b", or "a | a" with itself)."""
    shares: dict[str, list[float]] = {}
    for traces in traces_by_quadruple:
        read = [(trace.teacher, trace.read.verdicts) for trace in traces if trace.read is not None and trace.read.verdicts]
        for (one, first), (other, second) in combinations(read, 2):
            shares.setdefault(" | ".join(sorted((one, other))), []).append(accuracy(first, second))
    return {name: mean(values) for name, values in sorted(shares.items())}


def failure_counts(traces: Sequence[Trace]) -> dict[str, int]:
    """How many traces failed, by kind."""
    return dict(Counter(trace.failure.kind for trace in traces if trace.failure is not None))
