"""Taking in: tasks, candidates and human pairs from the user's files into the run state, their
images into the image store.

A row that cannot be used is quarantined with the reason; a source without one usable row is an
InputError.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from data_pipeline.duplicates import look_of
from data_pipeline.human_pairs import add_vote, settle
from data_pipeline.ledger import Ledger, Seen
from data_pipeline.run_state import RunState, short_hash
from data_pipeline.settings import DataConfig
from rrm.errors import InputError
from rrm.images import ImageStore, image_bytes, inside, read_image
from rrm.records import Failure, Quarantined, Task
from rrm.rows.columns import CandidateRow, TaskRow, read_candidate, read_task
from rrm.rows.fields import BadRow, ImageRef
from rrm.rows.formats import InputRow
from rrm.rows.labels import BY_WORDS, Labels
from rrm.rows.pairs import PairRow, labels_of, read_pair
from rrm.rows.sources import rows_of

Read = TypeVar("Read", TaskRow, CandidateRow, PairRow)
CHUNK = 256
"""Rows whose images are read together."""
LONGEST_SHOWN = 500
"""Characters of a field that the quarantine shows: it may hold an image in base64."""


class Intake:
    """Reads images once each; what was read of an image is kept in the ledger, so that another run
    need not decode it."""

    def __init__(self, config: DataConfig, store: ImageStore, ledger: Ledger):
        self.store, self.ledger, self.max_pixels, self.reading = (
            store,
            ledger,
            config.max_pixels,
            config.reading,
        )
        self.chunk = min(CHUNK, config.limit or CHUNK)
        self.threads = ThreadPoolExecutor()

    def reference(self, ref: ImageRef, folder: Path | None) -> tuple[str, bytes | Path] | Failure:
        """What tells the image from all others, and where its bytes are."""
        if isinstance(ref, bytes):
            return f"{hashlib.sha256(ref).hexdigest()}|{self.max_pixels}", ref
        if folder is None:
            return Failure(
                kind="image_unreadable",
                detail=f"'{ref[:100]}' is a path, but this source has no folder",
            )
        try:
            path = inside(folder, ref)
            if not path.is_file():
                return Failure(kind="image_unreadable", detail=f"There is no image at {path}")
            stat = path.stat()
        except (InputError, OSError) as error:  # a name that the system does not take
            return Failure(kind="image_unreadable", detail=str(error)[:300])
        return f"{path}|{stat.st_size}|{stat.st_mtime_ns}|{self.max_pixels}", path

    def read(self, found: tuple[str, bytes | Path]) -> tuple[str, Seen | Failure]:
        """Decodes and stores one image."""
        name, content = found
        try:
            payload = content if isinstance(content, bytes) else image_bytes(content)
            shown = "the image in this row" if isinstance(content, bytes) else str(content)
            image = read_image(payload, shown, self.max_pixels)
        except InputError as error:
            return name, Failure(kind="image_unreadable", detail=str(error)[:300])
        return name, Seen(self.store.add(image), image.size, look_of(image).to_bytes())

    def images(
        self, refs: Iterable[tuple[ImageRef, Path | None]]
    ) -> dict[tuple[ImageRef, Path | None], Seen | Failure]:
        """What was read of each image, new ones decoded in parallel."""
        known: dict[tuple[ImageRef, Path | None], Seen | Failure] = {}
        places: dict[tuple[ImageRef, Path | None], tuple[str, bytes | Path]] = {}
        for ref, folder in set(refs):
            found = self.reference(ref, folder)
            if isinstance(found, Failure):
                known[ref, folder] = found
                continue
            seen = self.ledger.image(found[0])
            if seen is None or (
                isinstance(seen, Seen) and not self.store.path(seen.digest).exists()
            ):
                places[ref, folder] = found
            else:
                known[ref, folder] = seen
        if places:
            read = dict(self.threads.map(self.read, dict(places.values()).items()))
            self.ledger.add_images(read.items())
            known |= {key: read[name] for key, (name, _) in places.items()}
        return known

    def rows(
        self,
        where: str,
        what: str,
        read: Callable[[dict[str, Any]], Read],
        refs_of: Callable[[Read], list[ImageRef]],
        state: RunState,
        stranger: Callable[[Read], str | None] = lambda row: None,
    ) -> Iterator[tuple[InputRow, Read, list[str]]]:
        """Every usable row with the digests of its images, in order; the others are quarantined.

        `stranger` says of a row, before its images are read, why it has no place here; "" passes it
        over without a word. Raises InputError where there is no such source.
        """
        usable = 0
        first: Quarantined | None = None
        source = iter(tqdm(rows_of(where, self.reading), desc=f"read {what}s", unit="row"))
        while chunk := list(islice(source, self.chunk)):
            parsed: list[tuple[InputRow, Read | Failure]] = []
            for row in chunk:
                try:
                    if row.values is None:
                        raise BadRow("bad_row", row.fault)
                    given = read(row.values)
                    reason = stranger(given)
                    if reason:
                        raise BadRow("bad_row", reason)
                    if reason is None:
                        parsed.append((row, given))
                except BadRow as error:
                    parsed.append((row, error.failure))
            wanted = [
                (ref, row.folder)
                for row, value in parsed
                if not isinstance(value, Failure)
                for ref in refs_of(value)
            ]
            images = self.images(wanted)
            for row, value in parsed:
                key = row.place
                failure = value if isinstance(value, Failure) else None
                digests = []
                for ref in [] if isinstance(value, Failure) else refs_of(value):
                    seen = images[ref, row.folder]
                    if isinstance(seen, Failure):
                        failure = failure or seen
                    else:
                        digests.append(seen.digest)
                if failure is not None or isinstance(value, Failure):
                    bad = Quarantined(
                        stage="read",
                        key=key,
                        failure=failure or Failure(kind="bad_row"),
                        evidence=shown(row),
                    )
                    first = first or bad
                    state.quarantine([bad])
                    continue
                usable += 1
                yield row, value, digests
        if not usable:
            told = f"; {first.key}: {first.failure.detail.removesuffix('.')}" if first else ""
            raise InputError(f"{where} holds no usable {what}{told}.")


def shown(row: InputRow) -> dict[str, Any]:
    """The row for the quarantine, without the bytes of its images, and long texts cut off."""
    plain = (
        (name, value)
        for name, value in (row.values or {}).items()
        if isinstance(value, str | int | float | bool | None)
    )
    return {
        "row": {
            name: value[:LONGEST_SHOWN] if isinstance(value, str) else value
            for name, value in plain
        }
    }


def take_tasks(config: DataConfig, state: RunState, intake: Intake) -> int:
    """Adds the tasks, and the edits that a row may bring along; returns how many rows were usable."""
    count = 0
    rows = intake.rows(
        config.tasks, "task", read_task, lambda task: [task.image, *task.edits], state
    )
    for _, value, (source, *edits) in rows:
        task_id = short_hash(source, value.instruction, value.requirement or "")
        task = Task(
            task_id=task_id,
            source=source,
            instruction=value.instruction,
            requirement=value.requirement,
        )
        count += state.add_task(task, "task")
        if isinstance(value.image, str):
            state.name_task(value.image, value.instruction, task_id)
        for edited in edits:
            state.add_quadruple(
                short_hash(task_id, edited), task_id, edited, value.editor or "given"
            )
        if config.limit and count >= config.limit:
            break
    return count


def take_candidates(config: DataConfig, state: RunState, intake: Intake) -> int:
    """Adds the ready-made candidates; the same image twice for one task counts once, whoever made
    it. Candidates of tasks that a limit leaves out are passed over."""
    assert config.candidates is not None
    count = 0

    def refs(value: CandidateRow) -> list[ImageRef]:
        return [value.image, *([value.source] if value.source is not None else [])]

    def tasks_of(value: CandidateRow, source: Sequence[str] = ()) -> list[str]:
        """Several where tasks differ in the requirement alone, and the row names none: an editor is
        shown no requirement."""
        if value.source is not None:
            return state.tasks_of_source(source[0], value.instruction, value.requirement)
        return state.tasks_named(value.task or "", value.instruction, value.requirement)

    def unknown(value: CandidateRow) -> str:
        return (
            ""
            if config.limit
            else f"no task has the image '{value.task or 'that is its source'}' and this instruction"
        )

    def stranger(value: CandidateRow) -> str | None:
        return unknown(value) if value.source is None and not tasks_of(value) else None

    rows = intake.rows(config.candidates, "candidate", read_candidate, refs, state, stranger)
    for row, value, (edited, *source) in rows:
        tasks = tasks_of(value, source)
        for task in tasks:
            count += state.add_quadruple(short_hash(task, edited), task, edited, value.editor)
        if not tasks and (reason := unknown(value)):
            failure = Failure(kind="bad_row", detail=reason)
            state.quarantine(
                [Quarantined(stage="read", key=row.place, failure=failure, evidence=shown(row))]
            )
    return count


def take_pairs(config: DataConfig, state: RunState, intake: Intake, labels: Labels) -> int:
    """Adds the human pairs, each with its task and one verdict; returns how many rows were usable.
    The rows behind the last pair that a limit allows are not read."""
    assert config.pairs is not None
    count = 0

    def read(values: dict[str, Any]) -> PairRow:
        return read_pair(values, labels)

    rows = intake.rows(
        config.pairs, "pair", read, lambda pair: [pair.source, pair.a, pair.b], state
    )
    for row, value, (source, a, b) in rows:
        if a == b:
            failure = Failure(kind="bad_row", detail="both edits are the same image")
            state.quarantine(
                [Quarantined(stage="read", key=row.place, failure=failure, evidence=shown(row))]
            )
            continue
        add_vote(state, value, source, a, b, row.place)
        count += 1
        if config.limit and state.pair_count() >= config.limit:
            break
    state.finish("pairs", settle(state, labels))
    return count


def take_in(config: DataConfig, state: RunState, ledger: Ledger, store: ImageStore) -> None:
    """Reads all that the config names, unless that was done."""
    if state.result("read") is not None:
        return
    # first: where it is not certain what labels mean, no image need be read
    labels = labels_of(config.pairs, config.reading, config.labels) if config.pairs else BY_WORDS
    intake = Intake(config, store, ledger)
    with state.transaction():
        counts = {"tasks": take_tasks(config, state, intake)}
        if config.candidates:
            counts["candidates"] = take_candidates(config, state, intake)
        if config.pairs:
            counts["pairs"] = take_pairs(config, state, intake, labels)
        state.finish("read", counts)
    intake.threads.shutdown()
