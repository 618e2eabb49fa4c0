"""The images that a run state's rows refer to, as they lie in the store: whole, or found out before
a teacher is asked about them."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

from data_pipeline.run_state import RunState
from rrm.errors import InputError
from rrm.images import ImageStore
from rrm.records import Failure

CHUNK = 1024
Stamp = tuple[int, int]
"""Size and time of the last change of any kind, which no program can set: a file with the same ones
is not read again."""


def stamp_of(path: Path) -> Stamp | None:
    """The file's stamp, None where there is none."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return stat.st_size, stat.st_ctime_ns


def damaged(state: RunState, store: ImageStore) -> list[str]:
    """The digests of the run state's images that are not in the store, or not as they were stored;
    a damaged file is deleted, so that it is made again from its source. What was found sound is not
    read again until it changes."""
    found: list[str] = []
    digests = iter(state.image_digests())
    with ThreadPoolExecutor() as threads:
        while chunk := list(islice(digests, CHUNK)):
            new: list[tuple[str, Stamp]] = []
            for digest, stamp in zip(
                chunk, threads.map(lambda digest: stamp_of(store.path(digest)), chunk), strict=True
            ):
                if stamp is None:
                    found.append(digest)
                elif stamp != state.sound_stamp(digest):
                    new.append((digest, stamp))
            found += checked(state, store, new, threads)
    return found


def checked(
    state: RunState, store: ImageStore, new: list[tuple[str, Stamp]], threads: ThreadPoolExecutor
) -> list[str]:
    """Reads these images; notes the sound ones, deletes the others and returns their digests."""
    sound = list(threads.map(lambda one: store.holds(one[0]), new))
    state.note_sound(
        (digest, *stamp) for (digest, stamp), whole in zip(new, sound, strict=True) if whole
    )
    spoiled = [digest for (digest, _), whole in zip(new, sound, strict=True) if not whole]
    for digest in spoiled:
        store.path(digest).unlink(missing_ok=True)
    return spoiled


def unreadable(store: ImageStore, digests: Iterable[str], error: InputError) -> Failure:
    """The failure of what needs stored images one of which cannot be read; a damaged one is
    deleted, so that it is stored again before the run ends."""
    for digest in digests:
        if not store.holds(digest):
            store.path(digest).unlink(missing_ok=True)
    return Failure(kind="image_unreadable", detail=str(error)[:300])
