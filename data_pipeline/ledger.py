"""Every answer that was paid for, on disk by the content of its call, so that no run asks for it again.

One SQLite file per data set, beside its folder: it outlives changes of the config, and `kill -9` at any moment loses none of its rows.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from rrm.errors import InputError
from rrm.records import Failure

SCHEMA = """
CREATE TABLE IF NOT EXISTS calls (
    key TEXT PRIMARY KEY, stage TEXT, model TEXT, texts TEXT, finish TEXT, prompt_tokens INT, completion_tokens INT, seconds REAL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS images (ref TEXT PRIMARY KEY, digest TEXT, width INT, height INT, look BLOB, failure TEXT) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS looks ON images (digest);
"""


@dataclass(frozen=True)
class Paid:
    """An answer: the texts of its choices, why each ended, the tokens billed (None: the server didn't say), the seconds it took."""

    texts: tuple[str, ...]
    finish: tuple[str, ...]
    prompt_tokens: int | None
    completion_tokens: int | None
    seconds: float


@dataclass(frozen=True)
class Seen:
    """An image that was read: its digest in the store, width and height there, and its look (`data_pipeline.duplicates`)."""

    digest: str
    size: tuple[int, int]
    look: bytes


@dataclass(frozen=True)
class Bill:
    """Calls and tokens of one stage and model; `unmetered` calls came without a count of tokens."""

    stage: str
    model: str
    calls: int
    prompt_tokens: int
    completion_tokens: int
    unmetered: int
    seconds: float


class Ledger:
    """The open file. Raises InputError where another run has it open, or where it is no ledger."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.open()

    def open(self) -> None:
        """Opens the file, or opens it again."""
        try:
            # shared with the threads of one process, which use it in turn
            self.base = sqlite3.connect(self.path, isolation_level=None, timeout=5.0, check_same_thread=False)
            self.base.execute("PRAGMA locking_mode = EXCLUSIVE")
            self.base.execute("PRAGMA journal_mode = WAL")
            self.base.execute("PRAGMA synchronous = NORMAL")
            self.base.executescript(SCHEMA)
        except sqlite3.OperationalError as error:
            raise InputError(f"{self.path} is in use by another run; wait for that one, or stop it ({error}).") from error
        except sqlite3.DatabaseError as error:
            raise InputError(
                f"{self.path} is no ledger of calls ({error}); move it away, or name another file in 'ledger'."
            ) from error

    def get(self, key: str) -> Paid | None:
        """The answer to the call with this key, if it was paid for."""
        row = self.base.execute(
            "SELECT texts, finish, prompt_tokens, completion_tokens, seconds FROM calls WHERE key = ?", (key,)
        ).fetchone()
        if row is None:
            return None
        texts, finish, *numbers = row
        return Paid(tuple(json.loads(texts)), tuple(json.loads(finish)), *numbers)

    def add(self, key: str, stage: str, model: str, paid: Paid) -> None:
        """Notes a finished call; it survives the end of this process when this returns."""
        texts, finish = json.dumps(paid.texts), json.dumps(paid.finish)
        numbers = (paid.prompt_tokens, paid.completion_tokens, paid.seconds)
        self.base.execute(
            "INSERT OR REPLACE INTO calls VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (key, stage, model, texts, finish, *numbers)
        )

    def bills(self, keys: Iterable[str] | None = None) -> list[Bill]:
        """Calls and tokens by stage and model, of all calls or of those with these keys."""
        chosen = ""
        if keys is not None:
            self.base.execute("CREATE TEMP TABLE IF NOT EXISTS chosen (key TEXT PRIMARY KEY)")
            self.base.execute("DELETE FROM chosen")
            self.base.executemany("INSERT OR IGNORE INTO chosen VALUES (?)", ((key,) for key in keys))
            chosen = "WHERE key IN (SELECT key FROM chosen)"
        rows = self.base.execute(
            "SELECT stage, model, COUNT(*), TOTAL(prompt_tokens), TOTAL(completion_tokens), SUM(prompt_tokens IS NULL), TOTAL(seconds) "
            f"FROM calls {chosen} GROUP BY stage, model ORDER BY stage, model"
        )
        return [Bill(s, m, n, int(p), int(c), u, seconds) for s, m, n, p, c, u, seconds in rows]

    def image(self, ref: str) -> Seen | Failure | None:
        """What is known of the image under this reference: what was read, why it could not be, or None if it is new."""
        row = self.base.execute("SELECT digest, width, height, look, failure FROM images WHERE ref = ?", (ref,)).fetchone()
        if row is None:
            return None
        digest, width, height, look, failure = row
        return Failure.model_validate_json(failure) if failure else Seen(digest, (width, height), look)

    def add_images(self, found: Iterable[tuple[str, Seen | Failure]]) -> None:
        """Notes what was read of images, by reference."""
        rows = [
            (ref, None, None, None, None, seen.model_dump_json())
            if isinstance(seen, Failure)
            else (ref, seen.digest, *seen.size, seen.look, None)
            for ref, seen in found
        ]
        self.base.execute("BEGIN")
        self.base.executemany("INSERT OR REPLACE INTO images VALUES (?, ?, ?, ?, ?, ?)", rows)
        self.base.execute("COMMIT")

    def look(self, digest: str) -> bytes:
        """The look of a stored image."""
        row = self.base.execute("SELECT look FROM images WHERE digest = ? LIMIT 1", (digest,)).fetchone()
        if row is None:
            raise KeyError(digest)
        return bytes(row[0])

    def close(self) -> None:
        """Closes the file."""
        self.base.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
