"""Every answer that was paid for, on disk by the content of its call, so that no run asks for it
again.

One SQLite file per data set, beside its folder: it outlives changes of the config, and `kill -9` at
any moment loses none of its rows. What is stored is checked when it is read: an answer that cannot
be read counts as absent.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from data_pipeline.database import Connection, Damaged, Unwritable, open_database
from rrm.records import Choice, Failure

log = logging.getLogger(__name__)

SCHEMA = """
CREATE TABLE IF NOT EXISTS calls (
    key TEXT PRIMARY KEY, stage TEXT, model TEXT, texts TEXT, finish TEXT, prompt_tokens INT, completion_tokens INT, seconds REAL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS images (ref TEXT PRIMARY KEY, digest TEXT, width INT, height INT, look BLOB, failure TEXT) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS looks ON images (digest);
"""
ADDED = {"reasoning": "TEXT", "refusals": "TEXT", "most_prompt": "INT", "most_completion": "INT"}
"""Columns of `calls` that ledgers made before they existed get when they are opened."""
FORMER_PROMPT = 8192
"""Prompt tokens that are taken for the most of a call whose server counted none, where an older
ledger does not say."""
CURE = (
    "it holds answers that were paid for: mend it (sqlite3 FILE .recover | sqlite3 MENDED) and name the mended file in 'ledger', "
    "or move it away to have every answer asked for again"
)
COUNTED = " AND ".join(
    f"TYPEOF({name}) = 'integer' AND {name} >= 0" for name in ("prompt_tokens", "completion_tokens")
)


@dataclass(frozen=True)
class Paid:
    """An answer: its choices, the tokens billed (None: the server didn't say), the seconds it took,
    and the most tokens, of the prompt and of the completion, that the call could take."""

    choices: tuple[Choice, ...]
    prompt_tokens: int | None
    completion_tokens: int | None
    seconds: float
    most: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Seen:
    """An image that was read: its digest in the store, width and height there, and its look
    (`data_pipeline.duplicates`)."""

    digest: str
    size: tuple[int, int]
    look: bytes


@dataclass(frozen=True)
class Bill:
    """Calls and tokens of one stage and model. `unmetered` calls came without a count of tokens:
    they are counted at their most."""

    stage: str
    model: str
    calls: int
    prompt_tokens: int
    completion_tokens: int
    unmetered: int
    seconds: float


class Ledger:
    """The open file. Raises InputError where another run has it open, where it cannot be written,
    or where it is no ledger."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.unwritten: list[tuple[Any, ...]] = []
        self.open()

    def open(self) -> None:
        """Opens the file, or opens it again."""
        self.base = open_database(self.path, CURE, "locking_mode = EXCLUSIVE")
        try:
            self.base.executescript(SCHEMA)
            self.widen(self.base)
        except BaseException:
            self.base.close()
            raise

    def widen(self, base: Connection) -> None:
        """Gives a ledger of an older version the columns that it lacks."""
        there = {row[1] for row in base.execute("PRAGMA table_info(calls)")}
        if not {"key", "texts", "finish", "prompt_tokens"} <= there:
            raise Damaged(
                f"{self.path} is no ledger of calls; move it away, or name another file in 'ledger'."
            )
        for name, kind in ADDED.items():
            if name not in there:
                base.execute(f"ALTER TABLE calls ADD COLUMN {name} {kind}")

    def get(self, key: str) -> Paid | None:
        """The answer to the call with this key, if it was paid for and can be read."""
        columns = "texts, finish, reasoning, refusals, prompt_tokens, completion_tokens, seconds, most_prompt, most_completion"
        row = self.base.execute(f"SELECT {columns} FROM calls WHERE key = ?", (key,)).fetchone()
        if row is None:
            return None
        *lists, prompt, completion, seconds, most_prompt, most_completion = row
        choices = choices_from(*lists)
        if choices is None:
            return None
        return Paid(
            choices,
            counted(prompt),
            counted(completion),
            seconds or 0.0,
            (most_prompt or 0, most_completion or 0),
        )

    def add(self, key: str, stage: str, model: str, paid: Paid) -> None:
        """Notes a finished call; it survives the end of this process when this returns.

        Raises Unwritable where there is no room; then the call is kept in memory, and written when
        the file is closed if there is room.
        """
        row = (
            key,
            stage,
            model,
            *texts_of(paid.choices),
            counted(paid.prompt_tokens),
            counted(paid.completion_tokens),
        )
        try:
            self.write((*row, paid.seconds, *paid.most))
        except Unwritable:
            self.unwritten.append((*row, paid.seconds, *paid.most))
            raise

    def write(self, row: tuple[Any, ...]) -> None:
        """One row of calls."""
        columns = "key, stage, model, texts, finish, reasoning, refusals, prompt_tokens, completion_tokens, seconds"
        places = ", ".join("?" * len(row))
        self.base.execute(
            f"INSERT OR REPLACE INTO calls ({columns}, most_prompt, most_completion) VALUES ({places})",
            row,
        )

    def bills(self, keys: Iterable[str] | None = None) -> list[Bill]:
        """Calls and tokens by stage and model, of all calls or of those with these keys."""
        chosen = ""
        if keys is not None:
            self.base.execute("CREATE TEMP TABLE IF NOT EXISTS chosen (key TEXT PRIMARY KEY)")
            self.base.execute("DELETE FROM chosen")
            self.base.executemany(
                "INSERT OR IGNORE INTO chosen VALUES (?)", ((key,) for key in keys)
            )
            chosen = "WHERE key IN (SELECT key FROM chosen)"
        # what an older ledger does not say of the most that a call could take is estimated: a token
        # per byte of its answer
        rows = self.base.execute(
            "SELECT stage, model, COUNT(*), "
            f"TOTAL(CASE WHEN {COUNTED} THEN prompt_tokens ELSE COALESCE(most_prompt, {FORMER_PROMPT}) END), "
            f"TOTAL(CASE WHEN {COUNTED} THEN completion_tokens ELSE COALESCE(most_completion, LENGTH(CAST(texts AS BLOB))) END), "
            f"SUM(NOT ({COUNTED})), TOTAL(seconds) FROM calls {chosen} GROUP BY stage, model ORDER BY stage, model"
        )
        return [Bill(s, m, n, int(p), int(c), u, seconds) for s, m, n, p, c, u, seconds in rows]

    def image(self, ref: str) -> Seen | Failure | None:
        """What is known of the image under this reference: what was read, why it could not be, or
        None if it is new."""
        row = self.base.execute(
            "SELECT digest, width, height, look, failure FROM images WHERE ref = ?", (ref,)
        ).fetchone()
        if row is None:
            return None
        digest, width, height, look, failure = row
        try:
            return (
                Failure.model_validate_json(failure)
                if failure
                else Seen(str(digest), (int(width), int(height)), bytes(look))
            )
        except (TypeError, ValueError):  # it cannot be read: the image is read again
            return None

    def add_images(self, found: Iterable[tuple[str, Seen | Failure]]) -> None:
        """Notes what was read of images, by reference."""
        rows = [
            (ref, None, None, None, None, seen.model_dump_json())
            if isinstance(seen, Failure)
            else (ref, seen.digest, *seen.size, seen.look, None)
            for ref, seen in found
        ]
        with self.base.whole():
            self.base.executemany("INSERT OR REPLACE INTO images VALUES (?, ?, ?, ?, ?, ?)", rows)

    def look(self, digest: str) -> bytes:
        """The look of a stored image."""
        row = self.base.execute(
            "SELECT look FROM images WHERE digest = ? LIMIT 1", (digest,)
        ).fetchone()
        if row is None:
            raise KeyError(digest)
        return bytes(row[0])

    def close(self) -> None:
        """Writes what there was no room for, if there is room now, and closes the file."""
        try:
            while self.unwritten:
                self.write(self.unwritten[-1])
                self.unwritten.pop()
        except Unwritable:
            log.warning(
                "%d answers found no room in %s and are asked for again",
                len(self.unwritten),
                self.path,
            )
        finally:
            self.base.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def texts_of(choices: Iterable[Choice]) -> tuple[str, ...]:
    """The choices as the columns texts, finish, reasoning and refusals hold them."""
    rows = [(c.content, c.finish_reason, c.reasoning, c.refusal) for c in choices]
    return tuple(json.dumps(column) for column in zip(*rows, strict=True)) if rows else ("[]",) * 4


def choices_from(
    texts: Any, finish: Any, reasoning: Any, refusals: Any
) -> tuple[Choice, ...] | None:
    """The choices in these columns (the last two are empty in rows of older versions), or None
    where they cannot be read."""
    try:
        columns = [
            json.loads(column)
            for column in (texts, finish, reasoning or "null", refusals or "null")
        ]
    except (TypeError, ValueError, RecursionError):
        return None
    if not isinstance(columns[0], list) or not columns[0]:
        return None
    blank = [""] * len(columns[0])
    columns = [blank if column is None else column for column in columns]
    if not all(isinstance(column, list) and len(column) == len(blank) for column in columns):
        return None
    if not all(isinstance(text, str) for column in columns for text in column):
        return None
    return tuple(
        Choice(content=t, finish_reason=f, reasoning=r, refusal=x)
        for t, f, r, x in zip(*columns, strict=True)
    )


def counted(tokens: Any) -> int | None:
    """The number of tokens, or None where it is none."""
    return tokens if type(tokens) is int and 0 <= tokens < 1 << 53 else None
