"""The benchmark without its images: which pairs there are, what they share, and, in the sandbox, the truth about every edit."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from eval.benches import OWN, BenchRow, Label, labels_at, read_bench
from rrm.errors import InputError
from rrm.records import Label as RowLabel
from rrm.records import Principle
from rrm.rows.formats import PLAIN, Reading, whole_rows
from rrm.rows.labels import Given
from rrm.rows.votes import SWAPPED, Ballot, Vote
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
    rater: str | None = None

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
        rater=row.rater,
    )


def sandbox_steps(instruction: str) -> list[Step]:
    """The steps of a sandbox instruction; InputError for any other."""
    steps = parse_instruction(instruction)
    if steps is None:
        raise InputError(f"'{instruction}' is not in the sandbox's language; set 'principles' and 'truth' to what fits yours.")
    return steps


@dataclass(frozen=True)
class Bench:
    """A benchmark that was read once. `rows` reads the rows of its pairs again, with images; `votes` says of a preference set of one's own
    how its labels were read and what several votes on one pair came to."""

    pairs: list[PairIndex]
    truths: dict[str, Truth]
    rows: Callable[[], Iterator[BenchRow]]
    votes: dict[str, Any] | None


def open_bench(
    kind: str,
    where: str,
    limit: int | None = None,
    resize: bool = False,
    reading: Reading = PLAIN,
    given: Given | None = None,
    with_truth: bool = False,
) -> Bench:
    """The benchmark as `read_bench` reads it; in a preference set of one's own, every pair once, with one verdict.

    Raises InputError for what cannot be read, and where it is not certain what labels mean and `given` does not say it.
    """
    labels = labels_at(kind, where, reading, given)

    def every() -> Iterator[BenchRow]:
        return read_bench(kind, where, limit, resize, reading, labels)

    pairs, truths = indexed(every(), with_truth)
    if kind != OWN:
        return Bench(pairs, truths, every, None)
    kept, votes = one_verdict(pairs)
    if not kept:
        raise InputError(f"{where} holds no pair of two different images that votes do not contradict.")
    numbers = {pair.number for pair in kept}
    return Bench(kept, truths, lambda: (row for row in every() if row.number in numbers), {"labels": labels.rows(), **votes})


def one_verdict(pairs: Iterable[PairIndex]) -> tuple[list[PairIndex], dict[str, Any]]:
    """Every pair once, in the order of their first rows, labelled by the votes on it (its sides may be swapped), and what is told of the
    votes. Pairs of one image twice are left out, and so are those without a vote that counts."""
    ballot, same_image = Ballot(), 0
    cast: dict[tuple[Any, ...], list[PairIndex]] = {}
    for pair in pairs:
        same_image += pair.edited[0] == pair.edited[1]
        if pair.edited[0] != pair.edited[1]:
            cast.setdefault((pair.task, pair.dimension, *sorted(pair.edited)), []).append(pair)
    kept = []
    for members in cast.values():
        first = members[0]
        votes = []
        for pair in members:
            label: RowLabel = "a" if pair.label == "a" else "b" if pair.label == "b" else "same"
            votes.append(Vote(label if pair.edited == first.edited else SWAPPED[label], pair.rater, pair.item_id))
        verdict = ballot.settle(votes)
        if verdict.label is not None:
            kept.append(replace(first, label="tie" if verdict.label == "same" else verdict.label))
    return kept, {"same_image": same_image, **ballot.rows()}


def read_index(
    kind: str, bench: str, limit: int | None, with_truth: bool, resize: bool = False
) -> tuple[list[PairIndex], dict[str, Truth]]:
    """All pairs as `read_bench` reads them, and the truth per edit id where it is asked for (read from sandbox pixels)."""
    return indexed(read_bench(kind, bench, limit, resize), with_truth)


def indexed(rows: Iterable[BenchRow], with_truth: bool) -> tuple[list[PairIndex], dict[str, Truth]]:
    """The rows without images, and the truth per edit id where it is asked for."""
    pairs, truths = [], {}
    for row in rows:
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
    for where, value in whole_rows(path):
        try:
            found = tuple(Principle.model_validate(entry) for entry in value["principles"])
            table[str(value["instruction"])] = found
        except (KeyError, TypeError, ValueError) as error:
            wanted = '{"instruction", "principles": [{"question", "category"}]}'
            raise InputError(f"{where} is not {wanted}.") from error
        if not found:
            raise InputError(f"{where} names no principle.")
    return table
