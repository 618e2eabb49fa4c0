"""The benchmark without its images: which pairs there are, what they share, and, in the sandbox, the truth about every edit."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from eval.benches import BenchRow, Label, read_bench
from eval.jsonl import read_jsonl
from rrm.errors import InputError
from rrm.records import Principle
from rrm.sandbox.edits import Step, decompose, human_utility, parse_instruction, true_verdicts
from rrm.sandbox.reading import read_scene

Principles = tuple[Principle, ...]
TaskKey = tuple[str, str, str | None]
"""Digest of the source's pixels, instruction, requirement."""


@dataclass(frozen=True)
class PairIndex:
    """One row: digests of its images' pixels, whom people prefer, the ids of its two edits, and where it belongs.

    `group` names the edits that are ranked together, of which there are `candidates`.
    """

    number: int
    instruction: str
    task_type: str
    dimension: str
    source: str
    edited: tuple[str, str]
    label: Label
    group: str
    candidates: int
    item_id: str
    requirement: str | None = None

    @property
    def task(self) -> TaskKey:
        """What the editor was asked, by digest and words."""
        return self.source, self.instruction, self.requirement

    @property
    def decided(self) -> bool:
        """Whether people prefer one of the two edits."""
        return self.label in ("a", "b")

    @property
    def preferred_first(self) -> tuple[str, str]:
        """The ids of the edit that people prefer and of the other; as they stand where neither is preferred."""
        a, b = self.edit_ids
        return (b, a) if self.label == "b" else (a, b)

    @property
    def edit_ids(self) -> tuple[str, str]:
        """What tells the two edits from all others: task and edited image. The same image has the same id."""
        first, second = self.edited
        return edit_id(*self.task, first), edit_id(*self.task, second)


@dataclass(frozen=True)
class Truth:
    """The right verdicts on a sandbox edit, in the order of `decompose`, and what people make of it (0–10)."""

    verdicts: tuple[int, ...]
    utility: float


def edit_id(source: str, instruction: str, requirement: str | None, edited: str) -> str:
    """A hash of what makes an edit."""
    task = instruction if requirement is None else json.dumps([instruction, requirement])
    return hashlib.sha256(f"{source}|{edited}|{task}".encode()).hexdigest()[:24]


def index_of(row: BenchRow) -> PairIndex:
    """The row without images."""
    return PairIndex(
        number=row.number,
        instruction=row.instruction,
        task_type=row.task_type,
        dimension=row.dimension,
        source=row.source_digest,
        edited=row.edited_digests,
        label=row.label,
        group=row.group,
        candidates=row.candidates,
        item_id=row.item_id,
        requirement=row.requirement,
    )


def sandbox_steps(instruction: str) -> list[Step]:
    """The steps of a sandbox instruction; InputError for any other."""
    steps = parse_instruction(instruction)
    if steps is None:
        raise InputError(f"'{instruction}' is not in the sandbox's language; set 'principles' and 'truth' to what fits yours.")
    return steps


def read_index(
    kind: str, bench: str, limit: int | None, with_truth: bool, resize: bool = False
) -> tuple[list[PairIndex], dict[str, Truth]]:
    """All pairs as `read_bench` reads them, and the truth per edit id where it is asked for (read from sandbox pixels)."""
    pairs, truths = [], {}
    for row in read_bench(kind, bench, limit, resize):
        pair = index_of(row)
        pairs.append(pair)
        if not with_truth:
            continue
        steps = sandbox_steps(row.instruction)
        before = read_scene(row.source)
        for name, image in zip(pair.edit_ids, row.edited, strict=True):
            if name not in truths:
                verdicts = true_verdicts(before, read_scene(image), steps)
                truths[name] = Truth(verdicts, human_utility(verdicts, steps))
    return pairs, truths


def sandbox_principles(instruction: str) -> Principles:
    """The principles of a sandbox instruction."""
    return decompose(sandbox_steps(instruction))


def principles_file(path: Path) -> dict[str, Principles]:
    """Principles by instruction, from JSONL of {"instruction", "principles": [{"question", "category"}]}."""
    if not path.is_file():
        raise InputError(f"There are no principles at {path}; 'principles' is sandbox, decompose, or the path of a JSONL file.")
    table = {}
    for line, value in read_jsonl(path):
        try:
            found = tuple(Principle.model_validate(entry) for entry in value["principles"])
            table[str(value["instruction"])] = found
        except (KeyError, TypeError, ValueError) as error:
            wanted = '{"instruction", "principles": [{"question", "category"}]}'
            raise InputError(f"{path}, line {line} is not {wanted}.") from error
        if not found:
            raise InputError(f"{path}, line {line} names no principle.")
    return table
