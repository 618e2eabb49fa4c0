"""One run at a time per output folder: an operating-system lock, released when the process ends."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import shlex
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from rrm.errors import InputError
from rrm.runtime.secrets import mask

log = logging.getLogger(__name__)

NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EACCES, errno.EPERM, errno.EROFS}
"""What a file system without locks answers, or a parent folder in which the lock file cannot be
made."""

held: set[int] = set()
"""Descriptors of the locks of this process."""


def forget_after_fork() -> None:
    """A child closes its copies: while it had one open, a lock would outlive the process that holds
    it."""
    for descriptor in held:
        os.close(descriptor)
    held.clear()


os.register_at_fork(after_in_child=forget_after_fork)


def lock_path(out: str | Path) -> Path:
    """The lock file of an output folder: beside it, since the folder itself may be moved aside."""
    folder = Path(out).resolve()
    return folder.with_name(folder.name + ".lock")


def take(path: Path) -> int | None:
    """The descriptor of the locked file; None where another run holds it. Raises OSError where
    there are no locks."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            return None
        except FileNotFoundError:
            pass  # its last holder deleted the file between our opening and locking it
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def own_description() -> bytes:
    """Who holds a lock, for those whom it keeps out."""
    command = mask(shlex.join(sys.orig_argv))[:300]
    since = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    return json.dumps(
        {"pid": os.getpid(), "host": socket.gethostname(), "command": command, "since": since}
    ).encode()


def holder(path: Path) -> str:
    """Who holds the lock, in words."""
    try:
        said = json.loads(path.read_text())
        return f"process {said['pid']} on {said['host']}, since {said['since']}: {said['command']}"
    except (OSError, ValueError, KeyError, TypeError):  # it is writing this, or has just ended
        return "another process"


@contextmanager
def locked(out: str | Path) -> Iterator[None]:
    """While the block lasts, no other process that asks for it gets this output folder; of a
    distributed job, rank 0 asks.

    Raises InputError, which says who holds the folder, before anything in it was touched. Where the
    file system has no locks, that is said on stderr and the block runs. The lock file is
    `<out>.lock`; `kill -9` of its holder frees it.
    """
    if int(os.environ.get("RANK", "0")) > 0:
        yield
        return
    if Path(out).exists() and not Path(out).is_dir():
        raise InputError(f"{out} is a file; name a folder for 'out'.")
    path = lock_path(out)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = take(path)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        why = f"no lock at {path} ({error.strerror}): a second run on {out} at the same time would not be noticed"
        log.warning("%s", why)
        yield
        return
    if descriptor is None:
        raise InputError(
            f"{out} is in use by another run ({holder(path)}); wait for its end or stop it, or name another 'out'."
        )
    held.add(descriptor)
    try:
        with suppress(OSError):  # a full disk: then it is only not said who holds it
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, own_description(), 0)
        yield
    finally:
        if descriptor in held:  # else this is a child, which has no lock to give back
            held.remove(descriptor)
            with suppress(OSError):
                path.unlink()
            os.close(descriptor)
