"""Verified training checkpoints: each has a manifest, and training resumes from the newest intact
one.

A folder of checkpoints holds `checkpoint-<step>` folders. The last file that is written into one is
its manifest.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from pathlib import Path

from rrm.errors import InputError
from rrm.runtime.stage import read_note, write_json

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
"""{"files": {path within the folder: {"bytes": size, "hash": `sampled_hash`}}}"""
BLOCK, BLOCKS = 1 << 20, 256


def sampled_hash(file: Path) -> str:
    """The SHA-256 of a file of up to 256 MiB; of a larger one that of 256 evenly spaced MiB, its
    first and last among them.

    So it takes about a second whatever the size. It finds a file that was cut off, or whose pages
    were never written from some point on; a few changed bytes between the sampled blocks of a large
    file it does not.
    """
    size, digest = file.stat().st_size, hashlib.sha256()
    with file.open("rb") as content:
        if size <= BLOCK * BLOCKS:
            return hashlib.file_digest(content, "sha256").hexdigest()
        for number in range(BLOCKS):
            content.seek((size - BLOCK) * number // (BLOCKS - 1))
            digest.update(content.read(BLOCK))
    return digest.hexdigest()


def seal(checkpoint: Path) -> None:
    """Writes the manifest of what the folder holds. One process does, after all have written their
    files."""
    files = sorted(
        path for path in checkpoint.rglob("*") if path.is_file() and path.name != MANIFEST
    )
    listed = {
        path.relative_to(checkpoint).as_posix(): {
            "bytes": path.stat().st_size,
            "hash": sampled_hash(path),
        }
        for path in files
    }
    write_json(checkpoint / MANIFEST, {"files": listed})


def damage_of(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, in words; None if every file matches the manifest."""
    if not (checkpoint / MANIFEST).is_file():
        return f"it has no {MANIFEST}, which is written last"
    try:
        for name, written in read_note(checkpoint / MANIFEST, "files")["files"].items():
            file = checkpoint / name
            if not file.is_file():
                return f"{name} is missing"
            if file.stat().st_size != written["bytes"]:
                return f"{name} has {file.stat().st_size} bytes of {written['bytes']}"
            if sampled_hash(file) != written["hash"]:
                return f"{name} does not hold what was written"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{MANIFEST} is damaged"
    except OSError as error:
        return f"{error.filename} cannot be read ({error.strerror})"
    return None


def check_whole(checkpoint: Path) -> None:
    """Raises InputError where the checkpoint that someone named is not whole."""
    if not checkpoint.is_dir():
        raise InputError(f"There is no checkpoint at {checkpoint}.")
    if (damage := damage_of(checkpoint)) is not None:
        raise InputError(f"{checkpoint} is no whole checkpoint: {damage}; name another one.")


def checkpoints_in(folder: Path) -> list[Path]:
    """The `checkpoint-<step>` folders, whole or not, the newest step first."""
    found = [
        path
        for path in folder.glob("checkpoint-*")
        if path.is_dir() and path.name.split("-")[1].isdecimal()
    ]
    return sorted(found, key=lambda path: int(path.name.split("-")[1]), reverse=True)


def newest_whole(folder: Path) -> Path | None:
    """The newest whole checkpoint of the folder, if there is one. Those before it are renamed
    `damaged-…`, which is said."""
    damaged = 0
    for checkpoint in checkpoints_in(folder):
        if (damage := damage_of(checkpoint)) is None:
            if damaged:
                log.info(
                    "the newest whole checkpoint is %s: training carries on from there", checkpoint
                )
            return checkpoint
        damaged += 1
        aside = checkpoint.with_name("damaged-" + checkpoint.name)
        shutil.rmtree(aside, ignore_errors=True)
        checkpoint.rename(aside)
        log.warning("%s is not whole (%s); it is now %s", checkpoint, damage, aside.name)
    if damaged:
        log.warning(
            "no whole checkpoint is left in %s: training starts anew, and nothing there is deleted",
            folder,
        )
    return None


def keep_newest(folder: Path, count: int) -> None:
    """Deletes all checkpoints but the newest `count`, once these are whole."""
    for checkpoint in checkpoints_in(folder)[count:]:
        shutil.rmtree(checkpoint)
