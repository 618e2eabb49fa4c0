"""Asking a judge about every edit of a benchmark once, carrying on where an interrupted run stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from eval.benches import BenchRow
from eval.index import PairIndex, Principles, index_of
from eval.jsonl import append_lines, cut_torn_line, read_jsonl
from eval.judges import Edit, EditJudge
from eval.rows import PASSING, JudgedRow, JudgedRows, row_key
from rrm.prompts import decompose_system, decompose_text
from rrm.records import Failure, Judgement, Principle, Record

Rows = Callable[[], Iterator[BenchRow]]
"""Reads the benchmark from its start."""
TaskKey = tuple[str, str]
"""Source digest and instruction."""


class Decomposition(Record):
    """The principles that a model made of a task, or why it made none."""

    key: str
    principles: tuple[Principle, ...] = ()
    failure: Failure | None = None

    @property
    def passing(self) -> bool:
        """Whether it failed for a reason of the moment."""
        return self.failure is not None and self.failure.kind in PASSING


def own_principles(
    judge: EditJudge, pairs: Sequence[PairIndex], rows: Rows, path: Path, batch: int
) -> dict[TaskKey, Principles | Failure]:
    """The judge's own principles for every task, kept in the JSONL file at `path`."""
    cut_torn_line(path)
    known: dict[str, Decomposition] = {}
    if path.is_file():
        known = {d.key: d for d in (Decomposition.model_validate(value) for _, value in read_jsonl(path)) if not d.passing}
    asked = repr((decompose_system("full"), decompose_text("full", ""), decompose_text("brief", "")))
    keys = {(p.source, p.instruction): row_key(judge.fingerprint, asked, p.source, p.instruction) for p in pairs}
    waiting: dict[str, tuple[Image.Image, str]] = {}

    def flush() -> None:
        for key, made in zip(waiting, judge.decompose_many(list(waiting.values())), strict=True):
            if isinstance(made, Failure):
                known[key] = Decomposition(key=key, failure=made)
            else:
                known[key] = Decomposition(key=key, principles=made)
        append_lines(path, [known[key].model_dump_json() for key in waiting])
        waiting.clear()

    complete = all(key in known for key in keys.values())
    for row in () if complete else tqdm(rows(), total=len(pairs), desc="principles"):
        key = keys[row.source_digest, row.instruction]
        if key not in known:
            waiting[key] = (row.source, row.instruction)
        if len(waiting) >= batch:
            flush()
    if waiting:
        flush()
    return {task: known[key].failure or known[key].principles for task, key in keys.items()}


def judge_all(
    judge: EditJudge,
    pairs: Sequence[PairIndex],
    rows: Rows,
    principles: dict[TaskKey, Principles | Failure],
    store: JudgedRows,
    batch: int,
    name: str,
) -> dict[str, Judgement]:
    """A judgement for every edit id of the pairs; only edits that `store` has no judgement of are asked about.

    A task without principles gives failed judgements, which are not asked about.
    """
    keys: dict[str, str] = {}
    failed: dict[str, Judgement] = {}
    for pair in pairs:
        found = principles[pair.source, pair.instruction]
        for edit_id, edited in zip(pair.edit_ids, pair.edited, strict=True):
            if isinstance(found, Failure):
                failed[edit_id] = Judgement(failure=found)
            else:
                keys[edit_id] = row_key(judge.fingerprint, judge.prompt(pair.instruction, found), pair.source, edited)
    pending = {edit_id for edit_id, key in keys.items() if store.get(key) is None}
    waiting: list[tuple[str, str, Edit]] = []

    def flush() -> None:
        judgements = judge.judge_many([edit for _, _, edit in waiting])
        store.add(
            JudgedRow(key=keys[e.edit_id], source=source, edited=edited, instruction=e.instruction, judgement=judgement)
            for (source, edited, e), judgement in zip(waiting, judgements, strict=True)
        )
        progress.update(len(waiting))
        waiting.clear()

    with tqdm(total=len(pending), desc=name, disable=not pending) as progress:
        for row in rows() if pending else ():
            pair = index_of(row)
            found = principles[pair.source, pair.instruction]
            for edit_id, edited, image in zip(pair.edit_ids, pair.edited, row.edited, strict=True):
                if edit_id not in pending or isinstance(found, Failure):
                    continue
                pending.discard(edit_id)
                waiting.append((pair.source, edited, Edit(edit_id, row.source, image, row.instruction, found)))
            if len(waiting) >= batch:
                flush()
        if waiting:
            flush()
    return failed | {edit_id: store.last(key) for edit_id, key in keys.items()}
