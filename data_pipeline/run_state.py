"""Run state: every task, quadruple and pair with what came of it, in one SQLite file inside the
set's folder. Its SQL is all here.

Rows keep the order of the input files (`n`). Nothing here was paid for: what teachers said is in
the ledger.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sqlite3
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

from data_pipeline.database import Connection, Damaged, open_database
from rrm.errors import InputError
from rrm.records import Failure, Label, PreferencePair, Principle, Quadruple, Quarantined, Task

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
"""A file with other tables is of another version, and begun anew."""
CHOSEN = "chosen IS NOT NULL AND left_out IS NULL"
LISTED = "origin = 'task' AND left_out IS NULL"
"""Tasks of the input list, not those that only human pairs brought."""
TO_EDIT = "chosen IN ('all', 'random', 'hard')"
WITH_CANDIDATES = "task_id IN (SELECT task_id FROM quadruples)"
WITH_EDITS = f"{WITH_CANDIDATES} OR task_id IN (SELECT task_id FROM pairs)"
DECOMPOSED = "principles IS NOT NULL AND principles != '[]'"
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
BATCH = 1000
"""Rows that are read, and outcomes that are written, at once."""


def short_hash(*parts: str) -> str:
    """A name made from content."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


class RunState:
    """The open file; one that was left before its inputs were all read, or that is damaged, is
    begun anew.

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
        return open_database(
            self.path, "delete it (nothing in it was paid for) and run the same command again"
        )

    def begin(self) -> None:
        """An empty file in place of whatever lies there."""
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
        """Closes the file, and deletes it where its inputs were not all read: it would be begun
        anew anyway."""
        useless = False
        with suppress(InputError):  # a disk that is full is told by what met it first
            useless = self.result("read") is None
        self.base.close()
        if useless:
            self.delete()

    def transaction(self) -> AbstractContextManager[None]:
        """All that the block writes, or nothing."""
        return self.base.whole()

    def _run(self, query: str, *values: Any) -> sqlite3.Cursor:
        return self.base.execute(query, values)

    def _many(self, query: str, rows: Iterable[tuple[Any, ...]]) -> None:
        with self.transaction():
            self.base.executemany(query, rows)

    def _count(self, what: str, *values: Any) -> int:
        """Number of rows of a table, with or without a condition."""
        return int(self._run(f"SELECT COUNT(*) FROM {what}", *values).fetchone()[0])

    def result(self, name: str) -> dict[str, Any] | None:
        """What a pass ended with, or None if it has not ended."""
        try:
            row = self._run("SELECT result FROM passes WHERE name = ?", name).fetchone()
        except sqlite3.OperationalError:  # killed before its tables were made
            return None
        return None if row is None else dict(json.loads(row[0]))

    def finish(self, name: str, result: dict[str, Any]) -> None:
        """Notes that a pass has ended."""
        self._run("INSERT OR REPLACE INTO passes VALUES (?, ?)", name, json.dumps(result))

    def _batches(self, query: str) -> Iterator[tuple[Any, ...]]:
        """The rows of a query that selects `n` first, with `n > ?` as its last condition and no
        order; read in batches, so that rows may be written meanwhile."""
        last = -1
        while rows := self._run(f"{query} ORDER BY 1 LIMIT {BATCH}", last).fetchall():
            yield from rows
            last = rows[-1][0]

    def add_task(self, task: Task, origin: str) -> bool:
        """Adds the task unless it is there; whether it was new. A task of a pair may turn out to be
        one of the tasks, too."""
        cursor = self._run(
            "INSERT OR IGNORE INTO tasks (task_id, source, instruction, requirement, origin) VALUES (?, ?, ?, ?, ?)",
            *(task.task_id, task.source, task.instruction, task.requirement, origin),
        )
        return cursor.rowcount == 1

    def add_quadruple(self, quadruple_id: str, task_id: str, edited: str, editor: str) -> bool:
        """Adds the candidate unless it is there; whether it was new."""
        cursor = self._run(
            "INSERT OR IGNORE INTO quadruples (quadruple_id, task_id, edited, editor) VALUES (?, ?, ?, ?)",
            *(quadruple_id, task_id, edited, editor),
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
        for _, stage, key, failure, evidence in self._batches(
            "SELECT n, stage, key, failure, evidence FROM quarantine WHERE n > ?"
        ):
            yield Quarantined(
                stage=stage,
                key=key,
                failure=Failure.model_validate_json(failure),
                evidence=json.loads(evidence),
            )

    def forget_lost(self) -> None:
        """Takes back what became of rows that servers failed to answer, so that a run that carries
        on asks for them again."""
        with self.transaction():
            for stage, reset in RESET.items():
                if (
                    stage == "filter" and self.result("filter") is not None
                ):  # which tasks are hard is settled
                    continue
                rows = [
                    row[0]
                    for row in self._run(
                        f"SELECT key FROM quarantine WHERE stage = ? AND {LOST}", stage
                    )
                ]
                self.base.executemany(reset, [(key,) for key in rows])
                self._run(f"DELETE FROM quarantine WHERE stage = ? AND {LOST}", stage)
                if rows:
                    self.base.executemany(
                        "DELETE FROM passes WHERE name = ?", [("decompose",), ("judge",)]
                    )

    def use(self, keys: Iterable[str]) -> None:
        """Notes the ledger's keys that this set was made with."""
        self.base.executemany("INSERT OR IGNORE INTO used VALUES (?)", ((key,) for key in keys))

    def _tasks(self, condition: str) -> Iterator[Task]:
        columns = "n, task_id, source, instruction, requirement"
        for row in self._batches(f"SELECT {columns} FROM tasks WHERE ({condition}) AND n > ?"):
            yield task_from(row[1:])

    # reading the inputs

    def name_task(self, image: str, instruction: str, task_id: str) -> None:
        """Notes under which image name and instruction candidates may refer to a task."""
        self._run("INSERT OR IGNORE INTO names VALUES (?, ?, ?)", image, instruction, task_id)

    def tasks_named(self, image: str, instruction: str, requirement: str | None) -> list[str]:
        """Ids of the listed tasks with this image name, instruction and, unless it is None,
        requirement."""
        table = "names JOIN tasks t USING (task_id) WHERE name = ? AND names.instruction = ?"
        return self._task_ids(table, image, instruction, requirement)

    def tasks_of_source(self, source: str, instruction: str, requirement: str | None) -> list[str]:
        """Ids of the listed tasks with this source (digest), instruction and, unless it is None,
        requirement."""
        return self._task_ids(
            "tasks t WHERE t.source = ? AND t.instruction = ?", source, instruction, requirement
        )

    def _task_ids(
        self, table: str, name: str, instruction: str, requirement: str | None
    ) -> list[str]:
        query = f"SELECT task_id FROM {table} AND origin = 'task' AND (? IS NULL OR t.requirement = ?) ORDER BY t.n"
        return [row[0] for row in self._run(query, name, instruction, requirement, requirement)]

    def add_pair(self, pair_id: str, task_id: str, edited_a: str, edited_b: str) -> str:
        """Adds the pair unless it is there; returns which edit is its first."""
        self._run("INSERT OR IGNORE INTO pairs (pair_id, task_id, edited_a, edited_b) VALUES (?, ?, ?, ?)",
                  pair_id, task_id, edited_a, edited_b)  # fmt: skip
        return str(self._run("SELECT edited_a FROM pairs WHERE pair_id = ?", pair_id).fetchone()[0])

    def add_vote(self, pair_id: str, label: str, rater: str | None, place: str) -> None:
        """Adds what one row says of a pair."""
        self._run(
            "INSERT INTO votes (pair, label, rater, place) VALUES (?, ?, ?, ?)",
            pair_id,
            label,
            rater,
            place,
        )

    def votes(self) -> Iterator[tuple[str, Label, str | None, str]]:
        """Pair id, label, rater and place of every vote, pair by pair, in the order of the rows."""
        yield from self._run("SELECT pair, label, rater, place FROM votes ORDER BY pair, n")

    def pair_of(self, pair_id: str) -> tuple[str, str, str, str, str | None]:
        """First and second edit, source, instruction and requirement of a pair."""
        query = "SELECT p.edited_a, p.edited_b, t.source, t.instruction, t.requirement FROM pairs p JOIN tasks t USING (task_id)"
        row: tuple[str, str, str, str, str | None] = self._run(
            f"{query} WHERE p.pair_id = ?", pair_id
        ).fetchone()
        return row

    def settle_pair(self, pair_id: str, name: str, label: str) -> None:
        """Gives a pair its final name and label."""
        self._run("UPDATE pairs SET pair_id = ?, label = ? WHERE pair_id = ?", name, label, pair_id)

    def drop_pair(self, pair_id: str) -> None:
        """Deletes a pair that no vote settles."""
        self._run("DELETE FROM pairs WHERE pair_id = ?", pair_id)

    def drop_votes(self) -> None:
        """Deletes all votes, once every pair is settled."""
        self._run("DELETE FROM votes")

    def pair_count(self) -> int:
        """Number of pairs."""
        return self._count("pairs")

    def candidate_count(self) -> int:
        """Number of quadruples."""
        return self._count("quadruples")

    # images in the store

    def image_digests(self) -> list[str]:
        """Digests of all images that rows refer to."""
        columns = (
            ("source", "tasks"),
            ("edited", "quadruples"),
            ("edited_a", "pairs"),
            ("edited_b", "pairs"),
        )
        query = " UNION ".join(f"SELECT {column} FROM {table}" for column, table in columns)
        return [row[0] for row in self._run(query)]

    def sound_stamp(self, digest: str) -> tuple[int, int] | None:
        """Size and change time of an image's file when it was last found sound."""
        row: tuple[int, int] | None = self._run(
            "SELECT size, changed FROM stored WHERE digest = ?", digest
        ).fetchone()
        return row

    def note_sound(self, rows: Iterable[tuple[str, int, int]]) -> None:
        """Notes digest, size and change time of files that were found sound."""
        self._many("INSERT OR REPLACE INTO stored VALUES (?, ?, ?)", rows)

    # cleaning and splitting

    def sources(self) -> list[str]:
        """Digests of all source images, sorted."""
        return [row[0] for row in self._run("SELECT DISTINCT source FROM tasks ORDER BY source")]

    def set_splits(self, rows: Iterable[tuple[str, str]]) -> None:
        """Sets the split of every task of a source; rows are (split, source)."""
        self._many("UPDATE tasks SET split = ? WHERE source = ?", rows)

    def all_tasks(self) -> Iterator[tuple[int, Task, str]]:
        """Number, task and origin of every task, in order."""
        columns = "n, task_id, source, instruction, requirement, origin"
        for n, *task, origin in self._batches(f"SELECT {columns} FROM tasks WHERE n > ?"):
            yield n, task_from(task), origin

    def leave_out(self, rows: Iterable[tuple[str, int]]) -> None:
        """Leaves tasks out; rows are (reason, number)."""
        self._many("UPDATE tasks SET left_out = ? WHERE n = ?", rows)

    def clear_quarantine(self, *stages: str) -> None:
        """Deletes what these stages quarantined, before they run again."""
        for stage in stages:
            self._run("DELETE FROM quarantine WHERE stage = ?", stage)

    # choosing tasks

    def choose_pairs_own(self) -> None:
        """Chooses the tasks that only human pairs brought."""
        self._run("UPDATE tasks SET chosen = 'pair' WHERE origin = 'pair' AND left_out IS NULL")

    def choose_all(self) -> None:
        """Chooses every listed task."""
        self._run(f"UPDATE tasks SET chosen = 'all' WHERE {LISTED}")

    def choose_first(self, count: int, rank: Callable[[str], str]) -> None:
        """Chooses the first `count` listed tasks in the order of the rank of their ids."""
        self._run("CREATE TEMP TABLE ranks (n INTEGER PRIMARY KEY, rank TEXT)")
        rows = self._batches(f"SELECT n, task_id FROM tasks WHERE {LISTED} AND n > ?")
        self._many("INSERT INTO ranks VALUES (?, ?)", ((n, rank(task_id)) for n, task_id in rows))
        first = "SELECT n FROM ranks ORDER BY rank LIMIT ?"
        self._run(f"UPDATE tasks SET chosen = 'random' WHERE n IN ({first})", count)

    def choose_pairs_listed(self) -> None:
        """Chooses the tasks that human pairs are on and that were not chosen otherwise."""
        of_pairs = "task_id IN (SELECT task_id FROM pairs)"
        self._run(
            f"UPDATE tasks SET chosen = 'pair' WHERE chosen IS NULL AND left_out IS NULL AND {of_pairs}"
        )

    def choose_only(self, task_ids: Iterable[str]) -> None:
        """Chooses these tasks, and of the others only those that human pairs are on."""
        self._run("UPDATE tasks SET chosen = NULL WHERE chosen != 'pair'")
        self._many(
            "UPDATE tasks SET chosen = 'all' WHERE task_id = ?",
            ((task_id,) for task_id in task_ids),
        )

    def chosen_count(self, listed: bool = False) -> int:
        """Number of chosen tasks, all or the listed ones."""
        return self._count(f"tasks WHERE {CHOSEN}" + (" AND origin = 'task'" if listed else ""))

    def chosen_for_pairs_count(self) -> int:
        """Number of tasks that were chosen since human pairs are on them."""
        return self._count("tasks WHERE chosen = 'pair'")

    def listed_count(self, with_candidates: bool = False) -> int:
        """Number of listed tasks that are not left out, all or those with candidates."""
        return self._count(
            f"tasks WHERE {LISTED}" + (f" AND {WITH_CANDIDATES}" if with_candidates else "")
        )

    def listed_tasks(self, with_candidates: bool = False) -> Iterator[Task]:
        """The listed tasks that are not left out, all or those with candidates."""
        return self._tasks(LISTED + (f" AND {WITH_CANDIDATES}" if with_candidates else ""))

    def candidates_of_listed_count(self) -> int:
        """Number of quadruples of listed tasks that are not left out."""
        return self._count(
            "quadruples q JOIN tasks t USING (task_id) WHERE t.origin = 'task' AND t.left_out IS NULL"
        )

    # the hard filter

    def unfiltered(self, rank: Callable[[str], str]) -> Iterator[Task]:
        """The listed tasks that are neither drawn nor filtered yet, in the order of the rank of
        their ids."""
        tasks = self._tasks(f"{LISTED} AND (chosen IS NULL OR chosen = 'pair') AND hard IS NULL")
        self._run("CREATE TEMP TABLE IF NOT EXISTS queue (rank TEXT PRIMARY KEY, task TEXT)")
        self._run("DELETE FROM queue")
        self._many(
            "INSERT INTO queue VALUES (?, ?)",
            ((rank(t.task_id), t.model_dump_json()) for t in tasks),
        )
        last = ""
        page = "SELECT rank, task FROM queue WHERE rank > ? ORDER BY rank LIMIT 1000"
        while rows := self._run(page, last).fetchall():
            yield from (Task.model_validate_json(task) for _, task in rows)
            last = rows[-1][0]

    def hard_counts(self) -> tuple[int, int]:
        """Number of tasks that were kept as hard, and that were asked about."""
        return self._count("tasks WHERE chosen = 'hard'"), self._count(
            "tasks WHERE hard IS NOT NULL"
        )

    def set_hard(self, task_id: str, criteria: Iterable[str], chosen: bool) -> None:
        """Notes the criteria of hardness that a task meets, and whether it is chosen for them."""
        self._run("UPDATE tasks SET hard = ? WHERE task_id = ?", ",".join(criteria), task_id)
        if chosen:
            self._run("UPDATE tasks SET chosen = 'hard' WHERE task_id = ?", task_id)

    # candidates

    def tasks_to_edit(self) -> Iterator[Task]:
        """The chosen tasks that generators edit."""
        return self._tasks(TO_EDIT)

    def to_edit_count(self) -> int:
        """Number of those."""
        return self._count(f"tasks WHERE {TO_EDIT}")

    def candidates_of(self, task_id: str) -> list[tuple[str, str, str]]:
        """Quadruple id, edit and generator of a task's candidates, in order."""
        query = "SELECT quadruple_id, edited, editor FROM quadruples WHERE task_id = ? ORDER BY n"
        return self._run(query, task_id).fetchall()

    # decomposition

    def undecomposed(self, only_with_edits: bool) -> Iterator[Task]:
        """The chosen tasks without principles yet, all or those with edits to judge."""
        return self._tasks(f"{_needed(only_with_edits)} AND principles IS NULL")

    def decomposition_counts(self, only_with_edits: bool) -> tuple[int, int]:
        """Number of chosen tasks to decompose, and of those that are done."""
        needed = _needed(only_with_edits)
        return self._count(f"tasks WHERE {needed}"), self._count(
            f"tasks WHERE {needed} AND principles IS NOT NULL"
        )

    def set_principles(self, task_id: str, principles: Iterable[Principle]) -> None:
        """Notes a task's principles; none where its decomposition failed."""
        self._run(
            "UPDATE tasks SET principles = ? WHERE task_id = ?",
            principles_text(principles),
            task_id,
        )

    def decomposed_numbers(self, split: str) -> list[int]:
        """Numbers of the split's listed tasks with principles, in the order of their ids."""
        condition = f"origin = 'task' AND {CHOSEN} AND split = ? AND {DECOMPOSED}"
        return [
            row[0]
            for row in self._run(f"SELECT n FROM tasks WHERE {condition} ORDER BY task_id", split)
        ]

    # judging

    def unjudged(self, decomposes: bool) -> Iterator[Quadruple]:
        """The quadruples that are ready and have no outcome yet."""
        condition = f"{_ready(decomposes)} AND t.chosen != 'pair' AND q.outcome IS NULL"
        return (quadruple for quadruple, _ in self._quadruples(condition))

    def judging_counts(self, decomposes: bool) -> tuple[int, int]:
        """Number of quadruples that are ready, and of those with an outcome."""
        ready = f"quadruples q JOIN tasks t USING (task_id) WHERE {_ready(decomposes)} AND t.chosen != 'pair'"
        return self._count(ready), self._count(f"{ready} AND q.outcome IS NOT NULL")

    def unjudged_count(self) -> int:
        """Number of quadruples of chosen tasks without an outcome, decomposed or not."""
        condition = "t.chosen IS NOT NULL AND t.chosen != 'pair' AND t.left_out IS NULL AND q.outcome IS NULL"
        return self._count(f"quadruples q JOIN tasks t USING (task_id) WHERE {condition}")

    def not_asked_count(self, stage: str) -> int:
        """Number of rows at which a dry run would have asked in this stage."""
        return self._count("quarantine WHERE stage = ? AND failure LIKE '%not_asked%'", stage)

    def set_outcome(self, quadruple_id: str, outcome: str) -> None:
        """Notes what came of a quadruple, as JSON."""
        self._run("UPDATE quadruples SET outcome = ? WHERE quadruple_id = ?", outcome, quadruple_id)

    # the written set

    def judged(self, split: str | None = None) -> Iterator[tuple[Quadruple, str]]:
        """The quadruples with an outcome (JSON), of all splits or one, in order."""
        condition = "q.outcome IS NOT NULL" + ("" if split is None else f" AND t.split = '{split}'")
        return ((quadruple, outcome or "") for quadruple, outcome in self._quadruples(condition))

    def ready_pairs(self, split: str, same: bool, decomposes: bool) -> Iterator[PreferencePair]:
        """The split's pairs that are ready for GCPO: decided ones, or those labelled same."""
        return self._pairs(
            f"{_ready(decomposes)} AND t.split = '{split}' AND p.label {'=' if same else '!='} 'same'"
        )

    def used_keys(self) -> Iterator[str]:
        """The ledger's keys that this set was made with."""
        return (row[0] for row in self._run("SELECT key FROM used"))

    def task_counts(self) -> dict[str, int]:
        """What the card says of tasks and candidates."""
        return {
            "tasks": self._count("tasks WHERE origin = 'task'"),
            "left_out": self._count("tasks WHERE origin = 'task' AND left_out IS NOT NULL"),
            "chosen": self.chosen_count(listed=True),
            "decomposed": self._count(f"tasks WHERE {DECOMPOSED}"),
            "candidates": self.candidate_count(),
        }

    def failure_counts(self) -> Counter[str]:
        """Kinds of failures of the edits and human pairs (of the tasks, where there are neither),
        each itself or with its task."""
        parts = (
            {"quadruples": "quadruple_id", "pairs": "pair_id"}
            if self.candidate_count() + self.pair_count()
            else {}
        )
        kind, of_row = (
            "json_extract(q.failure, '$.kind')",
            "q.stage NOT IN ('read', 'make', 'benchmark')",
        )
        queries = [
            f"SELECT {kind}, COUNT(*) FROM quarantine q WHERE q.stage IN ('read', 'make') GROUP BY 1"
        ]
        for table, key in parts.items():
            joined = f"{table} r JOIN quarantine q ON q.key IN (r.{key}, r.task_id)"
            queries.append(f"SELECT {kind}, COUNT(*) FROM {joined} WHERE {of_row} GROUP BY 1")
        if not parts:
            queries.append(f"SELECT {kind}, COUNT(*) FROM quarantine q WHERE {of_row} GROUP BY 1")
        failed: Counter[str] = Counter()
        for query in queries:
            for name, count in self._run(query):
                failed[name] += count
        return failed

    def decomposed(self, n: int) -> tuple[Task, tuple[Principle, ...]]:
        """The task in this row, and its principles."""
        row = self._run(
            "SELECT task_id, source, instruction, requirement, principles FROM tasks WHERE n = ?", n
        ).fetchone()
        return task_from(row[:4]), principles_from(row[4])

    def _quadruples(self, condition: str) -> Iterator[tuple[Quadruple, str | None]]:
        columns = "q.n, q.quadruple_id, q.edited, q.editor, t.principles, q.outcome, t.task_id, t.source, t.instruction, t.requirement"
        query = f"SELECT {columns} FROM quadruples q JOIN tasks t USING (task_id) WHERE ({condition}) AND q.n > ?"
        for _, quadruple_id, edited, editor, principles, outcome, *task in self._batches(query):
            fields = {"quadruple_id": quadruple_id, "edited": edited, "editor": editor}
            yield (
                Quadruple(task=task_from(task), principles=principles_from(principles), **fields),
                outcome,
            )

    def _pairs(self, condition: str) -> Iterator[PreferencePair]:
        columns = "p.n, p.pair_id, p.edited_a, p.edited_b, p.label, t.principles, t.source, t.instruction, t.requirement"
        query = f"SELECT {columns} FROM pairs p JOIN tasks t USING (task_id) WHERE ({condition}) AND p.n > ?"
        for (
            _,
            pair_id,
            edited_a,
            edited_b,
            label,
            principles,
            source,
            instruction,
            requirement,
        ) in self._batches(query):
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


def _needed(only_with_edits: bool) -> str:
    return f"{CHOSEN} AND ({WITH_EDITS})" if only_with_edits else CHOSEN


def _ready(decomposes: bool) -> str:
    """The condition on a quadruple (or pair) and its task that makes it ready to be judged."""
    decomposed = " AND t.principles IS NOT NULL AND t.principles != '[]'" if decomposes else ""
    return f"t.chosen IS NOT NULL AND t.left_out IS NULL{decomposed}"


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
