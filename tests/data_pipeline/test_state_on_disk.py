"""What lies on the disk is believed only where it is sound: answers, the run state, stored images;
and no room is no loss."""

import json
import os
import sqlite3
from contextlib import closing

import pytest
from PIL import Image

from data_pipeline.budget import price_of
from data_pipeline.database import Damaged, Unwritable
from data_pipeline.ledger import Ledger, Paid
from data_pipeline.run import run
from data_pipeline.run_state import RunState
from data_pipeline.settings import DataConfig, Teacher
from data_pipeline.teachers import Teachers
from rrm.errors import InputError
from rrm.images import ImageStore
from rrm.records import Choice
from rrm.sandbox.fault_server import running_fault_server

FORMER = (
    "CREATE TABLE calls (key TEXT PRIMARY KEY, stage TEXT, model TEXT, texts TEXT, finish TEXT, prompt_tokens INT, "
    "completion_tokens INT, seconds REAL) WITHOUT ROWID"
)
TASKS = 12


def rows_into(path, *rows):
    """A ledger as earlier versions made it."""
    with closing(sqlite3.connect(path)) as base:
        base.execute(FORMER)
        base.executemany("INSERT INTO calls VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
        base.commit()


def test_a_ledger_of_an_earlier_version_is_read_and_written(tmp_path):
    rows_into(
        tmp_path / "l.sqlite", ("k", "think", "m", '["yes", "no"]', '["stop", "length"]', 7, 2, 0.5)
    )
    with Ledger(tmp_path / "l.sqlite") as ledger:
        assert ledger.get("k").choices == (Choice("yes"), Choice("no", finish_reason="length"))
        new = Paid((Choice("8", "it is blue", "stop", "no"),), 1, 1, 0.1, (10, 20))
        ledger.add("new", "think", "m", new)
    with Ledger(tmp_path / "l.sqlite") as ledger:
        assert ledger.get("new") == new


@pytest.mark.parametrize(
    ("texts", "finish"),
    [
        ('[[{"type": "text", "text": "x"}]]', '["stop"]'),
        ("[null]", '["stop"]'),
        ("[7]", '["stop"]'),
        ("[]", "[]"),
        ('["x"]', "[]"),
        ('["x"]', "[null]"),
        ('{"x": 1}', '["stop"]'),
        ('["x', '["stop"]'),
        (None, None),
        ("[" * 100_000, '["stop"]'),
    ],
)
def test_a_stored_answer_that_cannot_be_read_counts_as_absent(tmp_path, texts, finish):
    rows_into(tmp_path / "l.sqlite", ("k", "think", "m", texts, finish, 7, 2, 0.5))
    with Ledger(tmp_path / "l.sqlite") as ledger:
        assert ledger.get("k") is None
        ledger.add("k", "think", "m", Paid((Choice("x"),), 1, 1, 0.1))
        assert ledger.get("k").choices == (Choice("x"),)


@pytest.mark.parametrize(
    "counted",
    [(None, None), (100, None), (-5, 1), (True, True), (float("nan"), 1), (1, 10**30), ("7", 1)],
)
def test_a_call_without_a_count_of_tokens_costs_the_most_it_can_also_after_a_restart(
    tmp_path, counted
):
    teacher = Teacher(model="m", price_in=1e6, price_out=1e6)
    with Ledger(tmp_path / "l.sqlite") as ledger:
        ledger.add("k", "think", "m", Paid((Choice("x"),), *counted, 0.1, most=(30, 40)))
    with Ledger(tmp_path / "l.sqlite") as ledger:
        (bill,) = ledger.bills()
        assert bill.unmetered == 1
        assert price_of([bill], [teacher]) == 70


def test_what_an_earlier_version_did_not_count_is_not_free(tmp_path):
    rows_into(tmp_path / "l.sqlite", ("k", "think", "m", '["four"]', '["stop"]', None, None, 0.5))
    with Ledger(tmp_path / "l.sqlite") as ledger:
        (bill,) = ledger.bills()
    assert bill.unmetered == 1
    assert bill.prompt_tokens > 0
    assert bill.completion_tokens >= 4


def no_room(monkeypatch, pages):
    """No ledger that is opened may grow beyond so many pages, as on a disk that is full."""
    opened = Ledger.open

    def small(self):
        opened(self)
        self.base.execute(f"PRAGMA max_page_count = {pages}")

    monkeypatch.setattr(Ledger, "open", small)


def test_what_finds_no_room_is_written_when_the_ledger_is_closed_if_there_is_some_by_then(
    tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        no_room(patch, 1)
        ledger = Ledger(tmp_path / "l.sqlite")
        large = Paid((Choice("x" * 50_000),), 1, 1, 0.1)
        with pytest.raises(Unwritable, match="no room to write"):
            ledger.add("k", "think", "m", large)
        ledger.base.execute("PRAGMA max_page_count = 1000")
        ledger.close()
    with Ledger(tmp_path / "l.sqlite") as ledger:
        assert ledger.get("k") == large


def test_a_file_that_cannot_be_written_is_told_from_one_that_is_damaged(tmp_path):
    (tmp_path / "l.sqlite").mkdir()
    with pytest.raises(Unwritable, match="cannot be written"):
        Ledger(tmp_path / "l.sqlite")
    with closing(sqlite3.connect(tmp_path / "other.sqlite")) as base:
        base.execute("CREATE TABLE calls (x)")
    with pytest.raises(Damaged, match="is no ledger of calls"):
        Ledger(tmp_path / "other.sqlite")


def test_a_damaged_run_state_is_made_anew(tmp_path, capsys):
    path = tmp_path / "work.sqlite"
    for damage in (b"not a database " * 100, b"", None):
        state = RunState(path)
        state._many("INSERT INTO used VALUES (?)", ((f"{i:064}",) for i in range(2000)))
        state.finish("read", {})
        state.close()
        whole = path.read_bytes()
        path.write_bytes(whole[:4096] + b"\xff" * 4096 + whole[8192:] if damage is None else damage)
        state = RunState(path)
        assert state.result("read") is None
        state.close()
    assert capsys.readouterr().err.count("is damaged and is made anew") == 2


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """A file of tasks with images of their own, and the file itself."""
    folder = tmp_path_factory.mktemp("tasks")
    rows = []
    for i in range(TASKS):
        Image.effect_noise((32, 32), 40 + i).convert("RGB").save(folder / f"{i}.png")
        rows.append({"image": f"{i}.png", "instruction": f"Make object {i} blue"})
    (folder / "tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "tasks.jsonl"


def config_of(tasks, out, url, **values):
    canned = {"model": "canned", "temperatures": [0.0]}
    wide = {"follow": (0, 9), "keep": (0, 9), "quality": (0, 9)}
    roles = {
        "decomposer": canned,
        "thinkers": [canned],
        "gold_teacher": canned,
        "principles": wide,
        "principles_total": (1, 20),
    }
    base = {
        "out": str(out),
        "tasks": str(tasks),
        "teacher_url": url,
        "exemplars": None,
        "concurrency": 4,
    }
    return DataConfig.model_validate({**base, **roles, **values})


@pytest.fixture
def asked(monkeypatch):
    """The keys of the calls that reach a server, in order."""
    keys = []
    request_of = Teachers.request

    def watched(self, call):
        request = request_of(self, call)
        keys.append(call.key)
        return request

    monkeypatch.setattr(Teachers, "request", watched)
    return keys


@pytest.fixture(scope="module")
def url():
    with running_fault_server(canned=True) as started:
        yield started


def test_a_full_disk_stops_the_asking_and_the_run_carries_on_later(
    tasks, tmp_path, monkeypatch, asked, url
):
    config = config_of(tasks, tmp_path / "data", url, concurrency=2)
    with monkeypatch.context() as patch:
        no_room(patch, 12)
        with pytest.raises(InputError, match="no room to write"):
            run(config, tmp_path / "data")
    with Ledger(config.ledger_path) as ledger:
        paid = sum(bill.calls for bill in ledger.bills())
    assert 0 < paid < TASKS
    assert len(asked) <= paid + 2
    assert run(config, tmp_path / "data")["decomposed"] == TASKS
    assert len(asked) <= TASKS + 2
    assert len(set(asked)) == TASKS


def test_where_the_run_state_cannot_be_written_nothing_more_is_asked_and_what_is_on_its_way_is_kept(
    tasks, tmp_path, monkeypatch, asked, url
):
    config = config_of(tasks, tmp_path / "data", url, concurrency=1)

    def full(self, keys):
        raise Unwritable("no room")

    with monkeypatch.context() as patch:
        patch.setattr("data_pipeline.passes.AT_ONCE", 2)
        patch.setattr(RunState, "use", full)
        with pytest.raises(Unwritable):
            run(config, tmp_path / "data")
    with Ledger(config.ledger_path) as ledger:
        assert sum(bill.calls for bill in ledger.bills()) == len(asked) < TASKS
    assert run(config, tmp_path / "data")["decomposed"] == TASKS
    assert len(asked) == TASKS


@pytest.mark.parametrize("damage", ["replaced", "replaced, of the same size and time", "gone"])
def test_a_damaged_stored_image_is_never_sent_and_is_stored_again(
    tasks, tmp_path, monkeypatch, asked, url, damage
):
    out = tmp_path / "data"
    config = config_of(tasks, out, url)
    store = ImageStore(out / "images")
    sent = []
    verified = ImageStore.verified_bytes

    def watched(self, digest):
        content = verified(self, digest)
        sent.append((digest, content))
        return content

    def spoil():
        for path in sorted((out / "images").rglob("*.png"))[:3]:
            stat, content = path.stat(), path.read_bytes()
            path.unlink()
            if damage != "gone":
                path.write_bytes(content[:-20] + bytes(20))
            if damage.endswith("time"):
                os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))

    monkeypatch.setattr(ImageStore, "verified_bytes", watched)
    choose = "data_pipeline.run.choose"
    with monkeypatch.context() as patch:
        from data_pipeline.passes import choose as really

        spoiled = []

        def choose_and_spoil(config, state):
            really(config, state)
            if not spoiled:
                spoil()
                spoiled.append(True)

        patch.setattr(choose, choose_and_spoil)
        counts = run(config, out)
    assert all(store.path(digest).read_bytes() == content for digest, content in sent)
    assert counts["decomposed"] == TASKS
    assert len(asked) == len(set(asked)) == TASKS
    assert all(store.holds(path.stem) for path in (out / "images").rglob("*.png"))


def test_teachers_are_checked_before_images_are_read(tasks, tmp_path, monkeypatch):
    monkeypatch.setattr("data_pipeline.run.take_in", lambda *_: pytest.fail("read"))
    with pytest.raises(InputError, match="No teacher answers"):
        run(config_of(tasks, tmp_path / "data", "http://127.0.0.1:9/v1"), tmp_path / "data")
