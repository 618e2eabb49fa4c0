"""Asking a judge about every edit of a benchmark once, carrying on where an interrupted run stopped.

Every answer is on disk as soon as it is there, and the file is put in the benchmark's order at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from PIL.Image import Image
from tqdm import tqdm

from eval.benches import BenchRow
from eval.cache import AnswerCache, JudgedRow, row_key
from eval.index import PairIndex, Principles, TaskKey, index_of
from eval.judges import Done, Edit, EditJudge
from rrm.images import MAX_DECODED_PIXELS
from rrm.prompts import decompose_system, decompose_text
from rrm.records import Failure, Judgement, Principle, Record, TaskToDecompose

Rows = Callable[[], Iterator[BenchRow]]
"""Reads the benchmark from its start."""
PIXELS_HELD = MAX_DECODED_PIXELS
"""Of the images of a batch, as they are in their files: 100 million take 400 MB."""
Asked = TypeVar("Asked")
Answer = TypeVar("Answer")


class Decomposition(Record):
    """The principles that a model made of a task, or why it made none."""

    key: str
    principles: tuple[Principle, ...] = ()
    failure: Failure | None = None


def batches(wanted: Iterable[Asked], most: int, images_of: Callable[[Asked], Iterable[Image]]) -> Iterator[list[Asked]]:
    """What is wanted, at most so many at a time, and fewer where their images have more than `PIXELS_HELD` in sum."""
    part: list[Asked] = []
    held = 0
    for one in wanted:
        part.append(one)
        held += sum(image.width * image.height for image in images_of(one))
        if len(part) == most or held >= PIXELS_HELD:
            yield part
            part, held = [], 0
    if part:
        yield part


def ask_all(
    wanted: Iterable[Asked],
    images_of: Callable[[Asked], Iterable[Image]],
    ask: Callable[[Sequence[Asked], Done[Answer]], None],
    keep: Callable[[Asked, Answer], object],
    batch: int,
    bar: tqdm,
) -> None:
    """Asks about everything that is wanted, at most so many at a time, and has every answer kept as soon as it is there."""

    def together(part: Sequence[Asked]) -> None:
        def done(place: int, answer: Answer) -> None:
            keep(part[place], answer)
            bar.update()

        ask(part, done)

    with bar:
        for part in batches(wanted, batch, images_of):
            together(part)


def bar_of(total: int, name: str) -> tqdm:
    """A progress bar, which is not shown where there is nothing to do."""
    return tqdm(total=total, desc=name, disable=not total)


def own_principles(
    judge: EditJudge, pairs: Sequence[PairIndex], rows: Rows, store: AnswerCache[Decomposition], batch: int
) -> dict[TaskKey, Principles | Failure]:
    """The judge's own principles for every task; only tasks that `store` has nothing settled of are asked about."""
    asked = repr((decompose_system("full"), decompose_text("full", ""), decompose_text("brief", "")))
    keys: dict[TaskKey, str] = {}
    for pair in pairs:
        words = pair.instruction if pair.requirement is None else repr((pair.instruction, pair.requirement))
        keys[pair.task] = row_key(judge.fingerprint, asked, pair.source, words)
    pending = {key for key in keys.values() if not store.settled(key)}

    def wanted() -> Iterator[tuple[str, TaskToDecompose]]:
        for row in rows() if pending else ():
            key = keys[index_of(row).task]
            if key in pending:
                pending.discard(key)
                yield key, TaskToDecompose(row.source, row.instruction, row.requirement)

    def ask(part: Sequence[tuple[str, TaskToDecompose]], done: Done[Principles | Failure]) -> None:
        judge.decompose_many([task for _, task in part], done)

    def keep(item: tuple[str, TaskToDecompose], made: Principles | Failure) -> None:
        if isinstance(made, Failure):
            store.add(Decomposition(key=item[0], failure=made))
        else:
            store.add(Decomposition(key=item[0], principles=made))

    ask_all(wanted(), lambda one: (one[1].source,), ask, keep, batch, bar_of(len(pending), "principles"))
    store.put_in_order(keys.values())
    return {task: store[key].failure or store[key].principles for task, key in keys.items()}


def judge_all(
    judge: EditJudge,
    pairs: Sequence[PairIndex],
    rows: Rows,
    principles: dict[TaskKey, Principles | Failure],
    store: AnswerCache[JudgedRow],
    batch: int,
    name: str,
) -> dict[str, Judgement]:
    """A judgement for every edit id of the pairs; only edits that `store` has nothing settled of are asked about.

    A task without principles gives failed judgements, which are not asked about.
    """
    keys: dict[str, str] = {}
    failed: dict[str, Judgement] = {}
    for pair in pairs:
        found = principles[pair.task]
        for edit_id, edited in zip(pair.edit_ids, pair.edited, strict=True):
            if isinstance(found, Failure):
                failed[edit_id] = Judgement(failure=found)
            else:
                words = judge.prompt(pair.instruction, found, pair.requirement)
                keys[edit_id] = row_key(judge.fingerprint, words, pair.source, edited)
    pending = {edit_id for edit_id, key in keys.items() if not store.settled(key)}

    def wanted() -> Iterator[tuple[str, Edit]]:
        for row in rows() if pending else ():
            pair = index_of(row)
            found = principles[pair.task]
            for edit_id, edited, image in zip(pair.edit_ids, pair.edited, row.edited, strict=True):
                if edit_id in pending and not isinstance(found, Failure):
                    pending.discard(edit_id)
                    yield edited, Edit(edit_id, row.source, image, row.instruction, found, row.requirement)

    def ask(part: Sequence[tuple[str, Edit]], done: Done[Judgement]) -> None:
        judge.judge_many([edit for _, edit in part], done)

    sources = {edit_id: pair.source for pair in pairs for edit_id in pair.edit_ids}

    def keep(item: tuple[str, Edit], judgement: Judgement) -> None:
        edited, e = item
        store.add(
            JudgedRow(
                key=keys[e.edit_id], source=sources[e.edit_id], edited=edited, instruction=e.instruction,
                requirement=e.requirement, judgement=judgement,
            )
        )  # fmt: skip

    ask_all(wanted(), lambda one: (one[1].source, one[1].edited), ask, keep, batch, bar_of(len(pending), name))
    store.put_in_order(keys.values())
    return failed | {edit_id: store[key].judgement for edit_id, key in keys.items()}
