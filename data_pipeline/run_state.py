"""Where a run stands: every task, quadruple and pair with what came of it, in one SQLite file inside the set's folder.

Rows keep the order of the input files (`n`). Nothing here was paid for: what teachers said is in the ledger.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sqlite3
import zlib
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

from rrm.errors import InputError
from rrm.records import Failure, PreferencePair, Principle, Quadruple, Quarantined, Task

from data_pipeline.database import Connection, Damaged, open_database

log = logging.getLogger(__name__)

SCHEMA = """
CREATE TABLE tasks (
    n INTEGER PRIMARY KEY, task_id TEXT UNIQUE, source TEXT, instruction TEXT, requirement TEXT, origin TEXT,
    split TEXT, left_out TEXT, chosen TEXT, hard TEXT, principles TEXT
);
CREATE TABLE names (name TEXT, instruction TEXT, task_id TEXT, PRIMARY KEY (name, instruction, task_id)) WITHOUT ROWID;
CREATE INDEX sources ON tasks (source, instruction);
CREATE TABLE quadruples (n INTEGER PRIMARY KEY, quadruple_id TEXT UNIQUE, task_id TEXT, edited TEXT, editor TEXT, outcome TEXT);
CREATE INDEX edits ON quadruples (task_id);
CREATE TABLE pairs (n INTEGER PRIMARY KEY, pair_id TEXT UNIQUE, task_id TEXT, edited_a TEXT, edited_b TEXT, label TEXT);
CREATE TABLE votes (n INTEGER PRIMARY KEY, pair TEXT, label TEXT, rater TEXT, place TEXT);
CREATE TABLE quarantine (n INTEGER PRIMARY KEY, stage TEXT, key TEXT, failure TEXT, evidence TEXT);
CREATE INDEX reasons ON quarantine (key);
CREATE TABLE passes (name TEXT PRIMARY KEY, result TEXT) WITHOUT ROWID;
CREATE TABLE used (key TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE stored (digest TEXT PRIMARY KEY, size INT, changed INT) WITHOUT ROWID;
"""
VERSION = zlib.crc32(SCHEMA.encode()) & 0x7FFFFFFF
"""A workbook with other tables is of another version, and begun anew."""
LOST = f"json_extract(failure, '$.kind') IN {('server_gone', 'timed_out', 'rejected', 'not_asked')}"
"""Failures that say nothing of the row."""
OUTCOME = "UPDATE quadruples SET outcome = NULL WHERE quadruple_id = ?"
RESET = {
    "filter": "UPDATE tasks SET hard = NULL WHERE task_id = ?",
    "decompose": "UPDATE tasks SET principles = NULL WHERE task_id = ?",
    "think": OUTCOME,
    "verify": OUTCOME,
}
"""What takes back the outcome of a row, by the stage at which it failed."""
SLAB = 1000
"""Rows that are read, and outcomes that are written, at once."""


def short_hash(*parts: str) -> str:
    """A name made from content."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


class Workbook:
    """The open file; one that was left before its inputs were all read, or that is damaged, is begun anew.

    Raises InputError where it is in use or cannot be written.
    """

    def __init__(self, path: Path):
        self.path = path
        if not path.exists() or not self.usable():
            self.begin()

    def usable(self) -> bool:
        """Opens the file; whether it is sound, of this version, and its inputs were all read."""
        with suppress(Damaged):
            self.base = self.open()
            if self.base.execute("PRAGMA quick_check(1)").fetchone() == ("ok",):
                version = self.base.execute("PRAGMA user_version").fetchone()[0]
                if version == VERSION and self.result("read") is not None:
                    return True
                self.base.close()
                return False
        log.warning("%s is damaged and is made anew; nothing in it was paid for", self.path)
        return False

    def open(self) -> Connection:
        """A connection."""
        return open_database(self.path, "delete it (nothing in it was paid for) and run the same command again")

    def begin(self) -> None:
        """An empty workbook in place of whatever lies there."""
        if hasattr(self, "base"):
            self.base.close()
        self.delete()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.base = self.open()
        self.base.executescript(f"{SCHEMA}; PRAGMA user_version = {VERSION}")

    def delete(self) -> None:
        """Deletes the file and its logs."""
        for leftover in self.path.parent.glob(self.path.name + "*"):
            leftover.unlink()

    def close(self) -> None:
        """Closes the file, and deletes it where its inputs were not all read: it would be begun anew anyway."""
        useless = False
        with suppress(InputError):  # a disk that is full is told by what met it first
            useless = self.result("read") is None
        self.base.close()
        if useless:
            self.delete()

    def run(self, query: str, values: Iterable[Any] = ()) -> sqlite3.Cursor:
        """One statement."""
        return self.base.execute(query, tuple(values))

    def many(self, query: str, rows: Iterable[tuple[Any, ...]]) -> None:
        """One statement for every row, in one transaction."""
        with self.whole():
            self.base.executemany(query, rows)

    def whole(self) -> AbstractContextManager[None]:
        """A transaction: all that the block writes, or nothing."""
        return self.base.whole()

    def count(self, what: str, values: Iterable[Any] = ()) -> int:
        """How many rows there are, `what` being a table with or without a condition."""
        return int(self.run(f"SELECT COUNT(*) FROM {what}", values).fetchone()[0])

    def result(self, name: str) -> dict[str, Any] | None:
        """What a pass ended with, or None if it has not ended."""
        try:
            row = self.run("SELECT result FROM passes WHERE name = ?", (name,)).fetchone()
        except sqlite3.OperationalError:  # killed before its tables were made
            return None
        return None if row is None else dict(json.loads(row[0]))

    def finish(self, name: str, result: dict[str, Any]) -> None:
        """Notes that a pass has ended."""
        self.run("INSERT OR REPLACE INTO passes VALUES (?, ?)", (name, json.dumps(result)))

    def slabs(self, query: str, values: Iterable[Any] = ()) -> Iterator[tuple[Any, ...]]:
        """The rows of a query that selects `n` first, with `n > ?` as its last condition and no order; read slab by slab, so that
        rows may be written meanwhile."""
        last = -1
        while rows := self.run(f"{query} ORDER BY 1 LIMIT {SLAB}", (*values, last)).fetchall():
            yield from rows
            last = rows[-1][0]

    def add_task(self, task: Task, origin: str) -> bool:
        """Adds the task unless it is there; whether it was new. A task of a pair may turn out to be one of the tasks, too."""
        cursor = self.run(
            "INSERT OR IGNORE INTO tasks (task_id, source, instruction, requirement, origin) VALUES (?, ?, ?, ?, ?)",
            (task.task_id, task.source, task.instruction, task.requirement, origin),
        )
        return cursor.rowcount == 1

    def add_quadruple(self, quadruple_id: str, task_id: str, edited: str, editor: str) -> bool:
        """Adds the candidate unless it is there; whether it was new."""
        cursor = self.run(
            "INSERT OR IGNORE INTO quadruples (quadruple_id, task_id, edited, editor) VALUES (?, ?, ?, ?)",
            (quadruple_id, task_id, edited, editor),
        )
        return cursor.rowcount == 1

    def quarantine(self, rows: Iterable[Quarantined]) -> None:
        """Notes rows that are left out."""
        self.base.executemany(
            "INSERT INTO quarantine (stage, key, failure, evidence) VALUES (?, ?, ?, ?)",
            [(q.stage, q.key, q.failure.model_dump_json(), json.dumps(q.evidence)) for q in rows],
        )

    def quarantined(self) -> Iterator[Quarantined]:
        """The rows that are left out."""
        for _, stage, key, failure, evidence in self.slabs(
            "SELECT n, stage, key, failure, evidence FROM quarantine WHERE n > ?"
        ):
            yield Quarantined(stage=stage, key=key, failure=Failure.model_validate_json(failure), evidence=json.loads(evidence))

    def forget_lost(self) -> None:
        """Takes back what became of rows that servers failed to answer, so that a run that carries on asks for them again."""
        with self.whole():
            for stage, reset in RESET.items():
                if stage == "filter" and self.result("filter") is not None:  # which tasks are hard is settled
                    continue
                rows = [row[0] for row in self.run(f"SELECT key FROM quarantine WHERE stage = ? AND {LOST}", (stage,))]
                self.base.executemany(reset, [(key,) for key in rows])
                self.run(f"DELETE FROM quarantine WHERE stage = ? AND {LOST}", (stage,))
                if rows:
                    self.base.executemany("DELETE FROM passes WHERE name = ?", [("decompose",), ("judge",)])

    def use(self, keys: Iterable[str]) -> None:
        """Notes the ledger's keys that this set was made with."""
        self.base.executemany("INSERT OR IGNORE INTO used VALUES (?)", ((key,) for key in keys))

    def tasks(self, condition: str) -> Iterator[Task]:
        """The tasks that meet the condition, in order."""
        columns = "n, task_id, source, instruction, requirement"
        for row in self.slabs(f"SELECT {columns} FROM tasks WHERE ({condition}) AND n > ?"):
            yield task_from(row[1:])

    def decomposed(self, n: int) -> tuple[Task, tuple[Principle, ...]]:
        """The task in this row, and its principles."""
        row = self.run("SELECT task_id, source, instruction, requirement, principles FROM tasks WHERE n = ?", (n,)).fetchone()
        return task_from(row[:4]), principles_from(row[4])

    def quadruples(self, condition: str) -> Iterator[tuple[Quadruple, str | None]]:
        """The decomposed quadruples that meet the condition, with their outcome, in order."""
        columns = "q.n, q.quadruple_id, q.edited, q.editor, t.principles, q.outcome, t.task_id, t.source, t.instruction, t.requirement"
        query = f"SELECT {columns} FROM quadruples q JOIN tasks t USING (task_id) WHERE ({condition}) AND q.n > ?"
        for _, quadruple_id, edited, editor, principles, outcome, *task in self.slabs(query):
            fields = {"quadruple_id": quadruple_id, "edited": edited, "editor": editor}
            yield Quadruple(task=task_from(task), principles=principles_from(principles), **fields), outcome

    def pairs(self, condition: str) -> Iterator[PreferencePair]:
        """The pairs that meet the condition, in order."""
        columns = "p.n, p.pair_id, p.edited_a, p.edited_b, p.label, t.principles, t.source, t.instruction, t.requirement"
        query = f"SELECT {columns} FROM pairs p JOIN tasks t USING (task_id) WHERE ({condition}) AND p.n > ?"
        for _, pair_id, edited_a, edited_b, label, principles, source, instruction, requirement in self.slabs(query):
            yield PreferencePair(
                pair_id=pair_id,
                source=source,
                instruction=instruction,
                requirement=requirement,
                principles=principles_from(principles),
                edited_a=edited_a,
                edited_b=edited_b,
                label=label,
            )


def task_from(row: Iterable[Any]) -> Task:
    """The task in a row of its columns."""
    task_id, source, instruction, requirement = row
    return Task(task_id=task_id, source=source, instruction=instruction, requirement=requirement)


def principles_from(text: str | None) -> tuple[Principle, ...]:
    """The principles in a column; none where the column is empty."""
    return tuple(Principle.model_validate(row) for row in json.loads(text)) if text else ()


def principles_text(principles: Iterable[Principle]) -> str:
    """The principles as a column holds them."""
    return json.dumps([p.model_dump() for p in principles], ensure_ascii=False)
