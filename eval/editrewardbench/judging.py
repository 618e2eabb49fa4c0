"""Asks a judge about every edit of a benchmark once; an interrupted run carries on.

Every answer is on disk as soon as it is there; the file is put in the benchmark's order at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from PIL.Image import Image
from tqdm import tqdm

from eval.cache import AnswerCache, JudgedRow, row_key
from eval.editrewardbench.judges import Done, Edit, EditJudge, Principles
from eval.pairs import BenchmarkRow, PairIndex, TaskKey
from rrm.images import MAX_DECODED_PIXELS
from rrm.prompts import decompose_system, decompose_text
from rrm.records import Failure, Judgement, Principle, Record, TaskToDecompose

Rows = Callable[[], Iterator[BenchmarkRow]]
"""Reads the benchmark from its start."""
BATCH_PIXELS = MAX_DECODED_PIXELS
"""A batch ends where its images have this many pixels: 100 million take 400 MB."""
Request = TypeVar("Request")
Answer = TypeVar("Answer")


class Decomposition(Record):
    """The principles that a judge wrote for a task, or why there are none."""

    key: str
    principles: tuple[Principle, ...] = ()
    failure: Failure | None = None


def batches(
    requests: Iterable[Request], most: int, images_of: Callable[[Request], Iterable[Image]]
) -> Iterator[list[Request]]:
    """The requests, `most` at a time, and fewer where their images have `BATCH_PIXELS` in sum."""
    part: list[Request] = []
    held = 0
    for one in requests:
        part.append(one)
        held += sum(image.width * image.height for image in images_of(one))
        if len(part) == most or held >= BATCH_PIXELS:
            yield part
            part, held = [], 0
    if part:
        yield part


def ask_all(
    requests: Iterable[Request],
    images_of: Callable[[Request], Iterable[Image]],
    ask: Callable[[Sequence[Request], Done[Answer]], None],
    keep: Callable[[Request, Answer], object],
    batch: int,
    bar: tqdm,
) -> None:
    """Sends every request, at most `batch` at a time, and keeps every answer as it comes."""

    def together(part: Sequence[Request]) -> None:
        def done(place: int, answer: Answer) -> None:
            keep(part[place], answer)
            bar.update()

        ask(part, done)

    with bar:
        for part in batches(requests, batch, images_of):
            together(part)


def bar_of(total: int, name: str) -> tqdm:
    """A progress bar, which is not shown where there is nothing to do."""
    return tqdm(total=total, desc=name, disable=not total)


def own_principles(
    judge: EditJudge,
    pairs: Sequence[PairIndex],
    rows: Rows,
    store: AnswerCache[Decomposition],
    batch: int,
) -> dict[TaskKey, Principles | Failure]:
    """The judge's own principles for every task; asks only for what `store` lacks."""
    prompt = repr(
        (decompose_system("full"), decompose_text("full", ""), decompose_text("brief", ""))
    )
    keys: dict[TaskKey, str] = {}
    for pair in pairs:
        words = (
            pair.instruction
            if pair.requirement is None
            else repr((pair.instruction, pair.requirement))
        )
        keys[pair.task] = row_key(judge.fingerprint, prompt, pair.source, words)
    pending = {key for key in keys.values() if not store.settled(key)}

    def requests() -> Iterator[tuple[str, TaskToDecompose]]:
        for row in rows() if pending else ():
            key = keys[row.pair.task]
            if key in pending:
                pending.discard(key)
                yield key, TaskToDecompose(row.source, row.pair.instruction, row.pair.requirement)

    def ask(part: Sequence[tuple[str, TaskToDecompose]], done: Done[Principles | Failure]) -> None:
        judge.decompose_many([task for _, task in part], done)

    def keep(item: tuple[str, TaskToDecompose], answer: Principles | Failure) -> None:
        if isinstance(answer, Failure):
            store.add(Decomposition(key=item[0], failure=answer))
        else:
            store.add(Decomposition(key=item[0], principles=answer))

    ask_all(
        requests(),
        lambda one: (one[1].source,),
        ask,
        keep,
        batch,
        bar_of(len(pending), "principles"),
    )
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
    """A judgement for every edit id of the pairs; asks only for what `store` lacks.

    The edits of a task without principles get its failure.
    """
    keys: dict[str, str] = {}
    failed: dict[str, Judgement] = {}
    for pair in pairs:
        of_task = principles[pair.task]
        for edit_id, edited in zip(pair.edit_ids, pair.edited, strict=True):
            if isinstance(of_task, Failure):
                failed[edit_id] = Judgement(failure=of_task)
            else:
                words = judge.prompt(pair.instruction, of_task, pair.requirement)
                keys[edit_id] = row_key(judge.fingerprint, words, pair.source, edited)
    pending = {edit_id for edit_id, key in keys.items() if not store.settled(key)}

    def requests() -> Iterator[tuple[str, Edit]]:
        for row in rows() if pending else ():
            pair = row.pair
            of_task = principles[pair.task]
            for edit_id, edited, image in zip(pair.edit_ids, pair.edited, row.edited, strict=True):
                if edit_id in pending and not isinstance(of_task, Failure):
                    pending.discard(edit_id)
                    yield (
                        edited,
                        Edit(
                            edit_id,
                            row.source,
                            image,
                            row.pair.instruction,
                            of_task,
                            row.pair.requirement,
                        ),
                    )

    def ask(part: Sequence[tuple[str, Edit]], done: Done[Judgement]) -> None:
        judge.judge_many([edit for _, edit in part], done)

    sources = {edit_id: pair.source for pair in pairs for edit_id in pair.edit_ids}

    def keep(item: tuple[str, Edit], judgement: Judgement) -> None:
        edited, e = item
        store.add(
            JudgedRow(
                key=keys[e.edit_id],
                source=sources[e.edit_id],
                edited=edited,
                instruction=e.instruction,
                requirement=e.requirement,
                judgement=judgement,
            ),
        )

    ask_all(
        requests(),
        lambda one: (one[1].source, one[1].edited),
        ask,
        keep,
        batch,
        bar_of(len(pending), name),
    )
    store.put_in_order(keys.values())
    return failed | {edit_id: store[key].judgement for edit_id, key in keys.items()}
