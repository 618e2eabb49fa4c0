"""Clean sets: which tasks and pairs stay, and on which side of the train/validation split each
source falls."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from tqdm import tqdm

from data_pipeline.duplicates import Looks, clusters, near_pairs, normalised, split_of, stacked
from data_pipeline.intake import Intake
from data_pipeline.ledger import Ledger, Seen
from data_pipeline.run_state import RunState, short_hash
from data_pipeline.settings import DataConfig
from rrm.errors import InputError
from rrm.images import ImageStore
from rrm.records import Failure, Quarantined
from rrm.rows import columns
from rrm.rows.fields import BadRow, ImageRef
from rrm.rows.pairs import edits_of
from rrm.rows.sources import rows_of

CHUNK = 256


@dataclass(frozen=True)
class HeldOut:
    """The sources and instructions of the benchmarks: digest → look, and normalised instructions;
    each with the file's name."""

    looks: dict[str, bytes]
    files: dict[str, str]
    instructions: dict[str, str]


def source_of(values: Mapping[str, Any]) -> tuple[ImageRef, str]:
    """Source image and instruction of a row of a benchmark, whatever its schema."""
    try:
        edits_of(values)
        return columns.source_of(values), columns.instruction_of(values)
    except BadRow:
        task = columns.read_task(values)
        return task.image, task.instruction


def read_held_out(config: DataConfig, intake: Intake, state: RunState) -> HeldOut:
    """What the set must not overlap with; a benchmark's row that cannot be read is quarantined.

    Raises InputError where a benchmark has no readable row.
    """
    held = HeldOut({}, {}, {})
    for where in config.benchmarks:
        usable = 0
        source = iter(tqdm(rows_of(where, config.reading), desc="read benchmark", unit="row"))
        while chunk := list(islice(source, CHUNK)):
            parsed = []
            for row in chunk:
                try:
                    if row.values is None:
                        raise BadRow("bad_row", row.fault)
                    parsed.append((row, source_of(row.values)))
                except BadRow as error:
                    state.quarantine(
                        [Quarantined(stage="benchmark", key=row.place, failure=error.failure)]
                    )
            images = intake.images((ref, row.folder) for row, (ref, _) in parsed)
            for row, (ref, instruction) in parsed:
                seen = images[ref, row.folder]
                if isinstance(seen, Seen):
                    usable += 1
                    held.looks.setdefault(seen.digest, seen.look)
                    held.files.setdefault(seen.digest, row.where)
                    held.instructions.setdefault(normalised(instruction), row.where)
                else:
                    state.quarantine([Quarantined(stage="benchmark", key=row.place, failure=seen)])
        if not usable:
            raise InputError(
                f"{where} holds no readable source image and instruction; correct 'benchmarks'."
            )
    return held


def near_held_out(sources: list[str], looks: Looks, held: HeldOut, bits: int) -> dict[str, str]:
    """Why a source overlaps with a benchmark's, by digest."""
    reasons = {
        source: f"image: the same as in {held.files[source]}"
        for source in sources
        if source in held.looks
    }
    names = list(held.looks)
    for i, j in near_pairs(looks, stacked(held.looks.values()), bits):
        reasons.setdefault(sources[i], f"near_image: nearly the same as in {held.files[names[j]]}")
    return reasons


def leave_out(state: RunState, found: list[tuple[int, str, str]]) -> None:
    """Marks tasks (by n and id) as left out, with the reason, and quarantines them."""
    state.leave_out((reason.partition(":")[0], n) for n, _, reason in found)
    failures = ((task_id, Failure(kind="duplicate", detail=reason)) for _, task_id, reason in found)
    state.quarantine(
        [Quarantined(stage="clean", key=task_id, failure=failure) for task_id, failure in failures]
    )


def clean(config: DataConfig, state: RunState, ledger: Ledger, store: ImageStore) -> None:
    """Marks the tasks that overlap with a benchmark or repeat one another, and splits by source,
    unless that was done.

    Sources that look alike (`near_duplicate_bits`) fall on the same side of the split, whatever the
    order of the rows. A task whose near-duplicate source has the same instruction already is a
    repeat.
    """
    if state.result("clean") is not None:
        return
    state.clear_quarantine("clean", "benchmark")
    intake = Intake(config, store, ledger)
    held = read_held_out(config, intake, state)
    intake.threads.shutdown()
    sources = state.sources()
    looks = stacked(ledger.look(source) for source in sources)
    groups = clusters(len(sources), near_pairs(looks, None, config.near_duplicate_bits))
    place = {source: sources[int(group)] for source, group in zip(sources, groups, strict=True)}
    reasons = near_held_out(sources, looks, held, config.near_duplicate_bits)
    state.set_splits(
        (split_of(key, config.seed, config.validation_share), source)
        for source, key in place.items()
    )
    taken: set[str] = set()
    found: list[tuple[int, str, str]] = []
    shared = 0
    for n, task, origin in state.all_tasks():
        words = normalised(task.instruction)
        repeat = short_hash(place[task.source], words, task.requirement or "")
        if task.source in reasons:
            found.append((n, task.task_id, reasons[task.source]))
        elif words in held.instructions and config.leave_out_instructions:
            found.append(
                (n, task.task_id, f"instruction: the same as in {held.instructions[words]}")
            )
        elif origin == "task" and repeat in taken:
            found.append(
                (
                    n,
                    task.task_id,
                    "repeat: another task has this instruction and nearly the same image",
                )
            )
        else:
            shared += words in held.instructions
            taken.add(repeat)
    leave_out(state, found)
    counts = Counter(reason.partition(":")[0] for _, _, reason in found)
    kept_words = {"instructions_shared_and_kept": shared}
    state.finish(
        "clean",
        {
            **counts,
            **kept_words,
            "sources": len(sources),
            "look_alikes": len(sources) - len(set(place.values())),
        },
    )
