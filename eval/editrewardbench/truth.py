"""What may be known of a benchmark beyond people's preferences."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

from eval.editrewardbench.judges import EditJudge, Principles
from eval.editrewardbench.judging import Rows
from rrm.records import Judgement


class Truth(Protocol):
    """The right answers about every edit of a benchmark."""

    def principles(self, instruction: str) -> Principles:
        """The right principles of an instruction. Raises InputError for an unknown instruction."""

    def open_judge(self, name: str) -> AbstractContextManager[EditJudge]:
        """The judge `sandbox:NAME`. Raises InputError for an unknown name."""

    def measure(self, rows: Rows, judgements: Mapping[str, Judgement]) -> dict[str, Any]:
        """How judgements by edit id agree with the truth about the edits of these rows."""


Truths = Mapping[str, Callable[[], Truth]]
"""By the name that a config's `truth` has, passed in by the command that composes a run."""
