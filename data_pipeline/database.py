"""SQLite files whose faults are sentences: no room, no permission, in use, damaged."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self, TypeVar

from rrm.errors import InputError

FULL = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)
SHUT = (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_AUTH)
BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
BROKEN = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
Result = TypeVar("Result")


class Unwritable(InputError):
    """The file cannot be written for lack of room or permission."""


class Damaged(InputError):
    """The file is no SQLite file, or a damaged one."""


def failure_of(error: sqlite3.Error, path: Path, cure: str) -> Exception:
    """The error as a sentence; `cure` says what to do with a damaged file. One that is no fault of
    the file's comes back as it is."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in FULL:
        return Unwritable(
            f"There is no room to write {path} ({error}); make room and run the same command again to carry on."
        )
    if code in SHUT:
        return Unwritable(
            f"{path} cannot be written ({error}); make it and its folder writable, then run the same command again."
        )
    if code in BUSY:
        return InputError(
            f"{path} is in use by another run; wait for that one, or stop it ({error})."
        )
    return (
        Damaged(f"{path} is damaged, or another kind of file ({error}); {cure}.")
        if code in BROKEN
        else error
    )


class Cursor(sqlite3.Cursor):
    """A cursor of `Connection`."""

    connection: Connection

    def told(self, call: Callable[..., Result], *values: Any) -> Result:
        """What the call gives; an error of SQLite's is raised as a sentence."""
        try:
            return call(*values)
        except sqlite3.Error as error:
            with suppress(sqlite3.Error):
                # a statement that is left open holds the file's lock after its connection is closed
                self.close()
            raise failure_of(error, self.connection.path, self.connection.cure) from error

    def execute(self, query: str, values: Any = ()) -> Self:
        """As sqlite3's."""
        return self.told(super().execute, query, values)

    def executemany(self, query: str, rows: Iterable[Any]) -> Self:
        """As sqlite3's."""
        return self.told(super().executemany, query, rows)

    def executescript(self, script: str) -> sqlite3.Cursor:
        """As sqlite3's."""
        return self.told(super().executescript, script)

    def fetchone(self) -> Any:
        """As sqlite3's."""
        return self.told(super().fetchone)

    def fetchall(self) -> list[Any]:
        """As sqlite3's."""
        return self.told(super().fetchall)

    def __next__(self) -> Any:
        return self.told(super().__next__)


class Connection(sqlite3.Connection):
    """A connection that commits when it is told to, and whose errors are sentences.

    Cursors are made by `cursor`: only there does sqlite3 forget those that are gone.
    """

    path = Path()
    cure = ""

    def execute(self, query: str, values: Any = ()) -> sqlite3.Cursor:
        """As sqlite3's, which goes past `cursor`."""
        return self.cursor(Cursor).execute(query, values)

    def executemany(self, query: str, rows: Iterable[Any]) -> sqlite3.Cursor:
        """As sqlite3's."""
        return self.cursor(Cursor).executemany(query, rows)

    def executescript(self, script: str) -> sqlite3.Cursor:
        """As sqlite3's."""
        return self.cursor(Cursor).executescript(script)

    @contextmanager
    def whole(self) -> Iterator[None]:
        """A transaction: all that the block writes, or nothing."""
        self.execute("BEGIN")
        try:
            yield
            self.execute("COMMIT")
        except BaseException:
            if self.in_transaction:
                self.execute("ROLLBACK")
            raise


def open_database(path: Path, cure: str, *pragmas: str) -> Connection:
    """The file at `path`, made if need be, with a write-ahead log. Raises Unwritable, Damaged, or
    InputError where it is in use."""
    try:
        # shared with the threads of one process, which use it in turn
        base = sqlite3.connect(
            path, isolation_level=None, timeout=5.0, check_same_thread=False, factory=Connection
        )
    except sqlite3.Error as error:
        raise failure_of(error, path, cure) from error
    base.path, base.cure = path, cure
    try:
        for pragma in (*pragmas, "journal_mode = WAL", "synchronous = NORMAL"):
            base.execute(f"PRAGMA {pragma}")
    except BaseException:
        base.close()
        raise
    return base
