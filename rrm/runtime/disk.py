"""Atomic file writes, and one-sentence errors for disk failures."""

from __future__ import annotations

import errno
import re
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rrm.errors import InputError

TROUBLES = {
    errno.ENOSPC: ("the disk is full", "make room there"),
    errno.EDQUOT: ("the disk quota is used up", "make room there or have it raised"),
    errno.EFBIG: ("the limit on the size of a file is reached", "raise it (ulimit -f)"),
    errno.EROFS: ("it cannot be written, only read", "make it writable or name another place"),
    errno.EACCES: ("permission denied", "change its owner or permissions, or name another place"),
    errno.EPERM: ("permission denied", "change its owner or permissions, or name another place"),
    errno.EMFILE: ("too many files are open", "raise the limit (ulimit -n)"),
    errno.ENFILE: ("too many files are open on this machine", "close other programs"),
    errno.EISDIR: ("a folder stands where a file belongs", "move it away"),
    errno.ENOTDIR: ("a file stands where a folder belongs", "move it away or name another place"),
    errno.EEXIST: ("what stands there is no folder", "move it away or name another place"),
    errno.ENAMETOOLONG: ("no file can have so long a name", "correct it"),
    errno.EIO: ("reading or writing failed", "see whether the disk is full or damaged"),
    errno.EBUSY: ("another process has a database there in use", "wait for its end or stop it"),
}
"""What is wrong, and what to do about it. (EBUSY is SQLite's lock.)"""

OF_SQLITE = {
    sqlite3.SQLITE_FULL: errno.ENOSPC,
    sqlite3.SQLITE_READONLY: errno.EROFS,
    sqlite3.SQLITE_CANTOPEN: errno.EACCES,
    sqlite3.SQLITE_IOERR: errno.EIO,
    sqlite3.SQLITE_BUSY: errno.EBUSY,
    sqlite3.SQLITE_LOCKED: errno.EBUSY,
}

IN_TEXT = re.compile(r"\(os error (\d+)\)")
"""How libraries written in Rust (safetensors, tokenizers) name the number."""
OF_TORCH = re.compile(r"PytorchStreamWriter failed|inline_container.* unexpected pos")
"""torch.save has no number for a file that it could not write to its end."""


def errors_in(error: BaseException) -> Iterator[BaseException]:
    """The exception, those in the group that it may be, and what they were raised from."""
    yield error
    for inner in error.exceptions if isinstance(error, BaseExceptionGroup) else ():
        yield from errors_in(inner)
    if error.__cause__ is not None:
        yield from errors_in(error.__cause__)


def number_of(error: BaseException) -> int | None:
    """The errno of the trouble with a disk that an exception stands for; None where it stands for
    something else."""
    if isinstance(error, OSError):
        named = error.filename is not None or error.errno not in (
            errno.EACCES,
            errno.EPERM,
        )  # else a socket's
        return error.errno if named else None
    if isinstance(error, sqlite3.OperationalError):
        return OF_SQLITE.get(getattr(error, "sqlite_errorcode", 0) & 0xFF)
    if found := IN_TEXT.search(str(error)):
        return int(found[1])
    return errno.EIO if OF_TORCH.search(str(error)) else None


def disk_trouble(error: BaseException, where: Path | str | None = None) -> str | None:
    """One sentence that names the path and what to do, if the exception is a disk's doing; None
    otherwise.

    `where` is named where the exception has no path of its own.
    """
    for one in errors_in(error):
        if (number := number_of(one)) in TROUBLES:
            what, remedy = TROUBLES[number]
            path = getattr(one, "filename", None) or where or "a file"
            return f"{path}: {what}; {remedy}, then run the same command again: it loses nothing that was finished."
    return None


@contextmanager
def disk_troubles_named(where: Path | str | None = None) -> Iterator[None]:
    """Turns disk errors raised in the block into an InputError of one sentence; other exceptions
    pass."""
    try:
        yield
    except InputError:
        raise  # says already what is to be said, whatever it was raised from
    except Exception as error:
        if (said := disk_trouble(error, where)) is None:
            raise
        raise InputError(said) from error


@contextmanager
def written_at_once(path: Path) -> Iterator[Path]:
    """A temporary path to write to: renamed to `path` if the block succeeds, deleted otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    try:
        yield partial
        partial.replace(path)
    except BaseException:
        with suppress(OSError):
            partial.unlink()
        raise


@contextmanager
def folder_at_once(path: Path) -> Iterator[Path]:
    """An empty temporary folder: replaces `path` if the block succeeds, deleted otherwise."""
    partial = path.with_name(path.name + ".part")
    shutil.rmtree(partial, ignore_errors=True)  # a kill left it
    partial.mkdir(parents=True)
    try:
        yield partial
        if path.exists():
            shutil.rmtree(path)
        partial.rename(path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
