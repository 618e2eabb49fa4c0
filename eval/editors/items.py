"""What editors' benchmarks have in common: the things that an editor is asked, what a judge is
asked of each edit, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from PIL.Image import Image
from pydantic import Field

from rrm.records import Failure, Record


@dataclass(frozen=True)
class EditItem:
    """One source image with an instruction. `group` is its task or edit type; `output` the edit's
    path below an editor's folder."""

    item_id: str
    group: str
    language: str
    instruction: str
    intersection: bool
    output: str
    source: Image
    source_digest: str


@dataclass(frozen=True)
class Question:
    """What a judge is asked in one request, which it answers with `count` scores from `low` to
    `high`."""

    name: str
    text: str
    shows: Literal["both", "edited"]
    count: int
    low: float
    high: float


class ItemResult(Record):
    """The scores of one edit by measure, or why it has none. `source` is the digest of the source's
    pixels: the cluster."""

    item_id: str
    group: str
    language: str
    intersection: bool = True
    source: str
    scores: dict[str, float] = Field(default_factory=dict)
    failure: Failure | None = None


@dataclass(frozen=True)
class Bench:
    """A benchmark: what is asked of each edit, what its answers amount to, and what the results
    amount to.

    `same_size`: whether the edit is shown to the judge at the source's size.
    """

    name: str
    measures: tuple[str, ...]
    questions: Callable[[EditItem], tuple[Question, ...]]
    scores: Callable[[Mapping[str, tuple[float, ...]]], dict[str, float]]
    summarise: Callable[[Sequence[ItemResult]], dict[str, Any]]
    same_size: bool
