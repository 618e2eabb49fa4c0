"""What a data set's card says of how it was made, gathered row by row."""

from __future__ import annotations

import hashlib
import platform
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from itertools import combinations
from typing import Any

from data_pipeline.budget import price
from data_pipeline.ledger import Bill
from data_pipeline.selection import accuracy
from data_pipeline.settings import Teacher
from data_pipeline.traces import Judged
from rrm import prompts
from rrm.records import Gold, Principle, Quadruple, Trace

PACKAGES = ("edit-rrm", "openai", "pillow", "qwen-vl-utils", "ImageHash", "pyarrow", "pydantic")
SYSTEM_PROMPTS = ("DECOMPOSE", "FILTER", "JUDGE", "SCORE_ONLY", "HOLISTIC", "VERIFY")


class Mean:
    """A running mean; None of nothing."""

    def __init__(self) -> None:
        self.total, self.count = 0.0, 0

    def add(self, value: float) -> None:
        """One more value."""
        self.total += value
        self.count += 1

    @property
    def value(self) -> float | None:
        """The mean to four places."""
        return round(self.total / self.count, 4) if self.count else None


class TeacherTally:
    """What one teacher's traces came to."""

    def __init__(self) -> None:
        self.traces = self.readable = self.selected = 0
        self.score, self.right, self.met = Mean(), Mean(), Mean()
        self.failures: Counter[str] = Counter()

    def add(self, trace: Trace, gold: Gold | None, selected: bool) -> None:
        """One more trace."""
        self.traces += 1
        self.selected += selected
        if trace.failure is not None:
            self.failures[trace.failure.kind] += 1
        if trace.read is None:
            return
        self.readable += 1
        self.score.add(trace.read.score)
        if trace.read.verdicts:
            self.met.add(trace.read.average)
        if gold is not None:
            self.right.add(accuracy(trace.read.verdicts, gold.verdicts))

    def row(self) -> dict[str, Any]:
        """The teacher's line of the card."""
        counts = {"traces": self.traces, "readable": self.readable, "selected": self.selected}
        means = {
            "mean_score": self.score.value,
            "mean_verdict": self.met.value,
            "accuracy_vs_gold": self.right.value,
        }
        return {**counts, **means, "failures": dict(sorted(self.failures.items()))}


class Tally:
    """What all judged quadruples came to."""

    def __init__(self) -> None:
        self.teachers: defaultdict[str, TeacherTally] = defaultdict(TeacherTally)
        self.agreement: defaultdict[str, Mean] = defaultdict(Mean)
        self.editors: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self.verdicts: dict[str, defaultdict[str, Mean]] = {
            "gold": defaultdict(Mean),
            "selected": defaultdict(Mean),
        }
        self.scores: Counter[float] = Counter()
        self.accuracy: Counter[float] = Counter()
        self.counts: Counter[str] = Counter()

    def add(self, quadruple: Quadruple, judged: Judged) -> None:
        """One more quadruple."""
        self.editors[quadruple.editor] += 1
        self.counts["quadruples"] += 1
        self.counts["gold"] += judged.gold is not None
        for trace in judged.traces:
            self.teachers[trace.teacher].add(trace, judged.gold, trace.index == judged.selected)
            self.counts["traces"] += 1
            self.counts["readable_traces"] += trace.read is not None
            if trace.failure is not None:
                self.failures[trace.failure.kind] += 1
        self.add_agreement(judged.traces)
        if judged.gold is not None:
            self.add_verdicts("gold", quadruple.principles, judged.gold.verdicts)
        for trace in judged.traces:
            if trace.index == judged.selected and trace.read is not None:
                self.add_verdicts("selected", quadruple.principles, trace.read.verdicts)
                self.scores[round(2 * trace.read.score) / 2] += 1
                if judged.gold is not None:
                    self.accuracy[
                        round(accuracy(trace.read.verdicts, judged.gold.verdicts), 2)
                    ] += 1

    def add_agreement(self, traces: Sequence[Trace]) -> None:
        """The share of equal verdicts between traces of the same quadruple, per pair of teachers
        ("a | b", or "a | a" with itself)."""
        read = [
            (trace.teacher, trace.read.verdicts)
            for trace in traces
            if trace.read is not None and trace.read.verdicts
        ]
        for (one, first), (other, second) in combinations(read, 2):
            self.agreement[" | ".join(sorted((one, other)))].add(accuracy(first, second))

    def add_verdicts(
        self, whose: str, principles: Sequence[Principle], verdicts: Sequence[int]
    ) -> None:
        """The share of principles that are met, by category."""
        for principle, verdict in zip(
            principles, verdicts, strict=False
        ):  # a holistic trace has none
            self.verdicts[whose][principle.category].add(verdict)

    def rows(self) -> dict[str, Any]:
        """The tally's part of the card."""
        met = {
            whose: {name: {"met": mean.value, "n": mean.count} for name, mean in sorted(by.items())}
            for whose, by in self.verdicts.items()
        }
        return {
            "teachers": {name: tally.row() for name, tally in sorted(self.teachers.items())},
            "teacher_agreement": {
                name: mean.value for name, mean in sorted(self.agreement.items())
            },
            "verdicts": met,
            "scores": histogram(self.scores),
            "selected_accuracy": histogram(self.accuracy),
            "editors": dict(sorted(self.editors.items())),
        }


def histogram(counts: Counter[float]) -> dict[str, int]:
    """Counts by value, in the values' order."""
    return {f"{value:g}": count for value, count in sorted(counts.items())}


def money_rows(bills: Iterable[Bill], pool: Iterable[Teacher]) -> dict[str, Any]:
    """Calls, tokens and money of what the set was made with, per stage and model and in all."""
    teachers = {teacher.model: teacher for teacher in pool}
    rows: list[dict[str, Any]] = [
        {
            "stage": bill.stage,
            "model": bill.model,
            "calls": bill.calls,
            "prompt_tokens": bill.prompt_tokens,
            "completion_tokens": bill.completion_tokens,
            "calls_without_token_count": bill.unmetered,
            "money": round(
                price(teachers[bill.model], bill.prompt_tokens, bill.completion_tokens), 6
            ),
        }
        for bill in bills
        if bill.model in teachers
    ]
    names = ("calls", "prompt_tokens", "completion_tokens", "calls_without_token_count", "money")
    return {
        "by_stage": rows,
        "total": {name: round(sum(row[name] for row in rows), 6) for name in names},
    }


def prompt_hashes() -> dict[str, str]:
    """A hash of every system prompt, by name."""
    texts = {name.lower(): str(getattr(prompts, f"{name}_SYSTEM")) for name in SYSTEM_PROMPTS}
    return {name: hashlib.sha256(text.encode()).hexdigest()[:16] for name, text in texts.items()}


def versions() -> dict[str, str]:
    """Of Python and of the packages that the set's bytes depend on."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def quarantine_counts(kinds: Mapping[tuple[str, str], int]) -> dict[str, dict[str, int]]:
    """How many rows were left out, by stage and kind of failure."""
    stages = sorted({stage for stage, _ in kinds})
    return {
        stage: {kind: count for (at, kind), count in sorted(kinds.items()) if at == stage}
        for stage in stages
    }
