"""Teachers as they are: limits, faults, death. Real servers, the real client."""

import asyncio
import base64
import json
import re
import time
from email.utils import formatdate

import numpy as np
import pytest
from PIL import Image

from data_pipeline.budget import Budget
from data_pipeline.decompose import decompose_call
from data_pipeline.ledger import Ledger
from data_pipeline.passes import DECOMPOSE, LocalEngine
from data_pipeline.perf.rates import sample_tasks
from data_pipeline.run import run
from data_pipeline.settings import DataConfig, Teacher
from data_pipeline.sft_rows import read_table
from data_pipeline.teachers import Call, Teachers, calls_to
from rrm.chat import ChatRequest, Completion
from rrm.chat.faults import fault_of
from rrm.chat.waits import asked_wait
from rrm.errors import InputError
from rrm.images import ImageStore
from rrm.records import Choice, SFTRow, Trace
from rrm.sandbox.build import WorldConfig, build
from rrm.sandbox.fault_server import running_fault_server


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr("data_pipeline.teacher_client.LONGEST_WAIT", 0.1)


@pytest.fixture
def store(tmp_path):
    return ImageStore(tmp_path / "images")


@pytest.fixture
def ledger(tmp_path):
    with Ledger(tmp_path / "ledger.sqlite") as opened:
        yield opened


def config_at(url, tmp_path, teacher=None, **values):
    canned = {"model": "canned", "temperatures": [0.0], **(teacher or {})}
    wide = {"follow": (0, 9), "keep": (0, 9), "quality": (0, 9)}
    base = {
        "out": str(tmp_path / "data"),
        "tasks": "tasks",
        "teacher_url": url,
        "exemplars": None,
        "concurrency": 16,
    }
    roles = {
        "decomposer": canned,
        "thinkers": [canned],
        "gold_teacher": canned,
        "principles": wide,
        "principles_total": (1, 20),
    }
    return DataConfig.model_validate({**base, **roles, **values})


def outcomes_of(config, store, ledger, tasks, check=False):
    """The decompositions of the tasks and the lines that they went through."""

    async def go():
        teachers = Teachers(config, store, ledger, Budget())
        try:
            if check:
                await teachers.check()
            engine = LocalEngine(config, teachers, teachers.clients.values())
            found = [outcome async for outcome in engine.outcomes(DECOMPOSE, tasks)]
            return found, engine.gone()
        finally:
            await teachers.close()

    return asyncio.run(go())


def test_a_configured_limit_is_kept_and_used_to_the_full(store, ledger, tmp_path):
    with running_fault_server(
        requests_per_second=100, canned=True, log=tmp_path / "log.jsonl"
    ) as url:
        config = config_at(url, tmp_path, {"requests_per_minute": 6000})
        tasks = sample_tasks(store, 300, 0)
        begin = time.monotonic()
        found, _ = outcomes_of(config, store, ledger, tasks)
        seconds = time.monotonic() - begin
    assert [outcome.task_id for outcome in found] == [task.task_id for task in tasks]
    assert all(outcome.principles for outcome in found)
    assert 300 / seconds > 80
    asked = sum(
        json.loads(line)["event"] == "asked"
        for line in (tmp_path / "log.jsonl").read_text().splitlines()
    )
    assert asked <= 330


def test_a_limit_nobody_was_told_of_loses_nothing(store, ledger, tmp_path):
    with running_fault_server(requests_per_second=100, canned=True) as url:
        found, gone = outcomes_of(
            config_at(url, tmp_path), store, ledger, sample_tasks(store, 200, 0)
        )
    assert all(outcome.principles for outcome in found)
    assert gone == {}


def test_a_limit_on_tokens_is_kept(store, ledger, tmp_path):
    tasks = sample_tasks(store, 10, 0)
    with running_fault_server(canned=True) as url:
        config = config_at(url, tmp_path, {"tokens_per_minute": 60_000, "max_tokens": 2000})
        begin = time.monotonic()
        outcomes_of(config, store, ledger, tasks)
        free = time.monotonic() - begin
        # an estimate of a call is a quarter of the prompt's bytes and 256 tokens: a minute's worth
        # is there at once, the rest is waited for
        tight = config_at(
            url,
            tmp_path,
            {"tokens_per_minute": 1800, "max_tokens": 2000, "version": "2"},
            timeout=5,
        )
        begin = time.monotonic()
        with pytest.raises(TimeoutError):
            asyncio.run(asyncio.wait_for(ask_all(tight, store, ledger, tasks), timeout=free + 3))
    paid = sum(bill.calls for bill in ledger.bills()) - len(tasks)
    assert 0 < paid < len(tasks)


async def ask_all(config, store, ledger, tasks):
    teachers = Teachers(config, store, ledger, Budget())
    try:
        await asyncio.gather(*(teachers.ask(decompose_call(task, config)) for task in tasks))
    finally:
        await teachers.close()


@pytest.mark.parametrize(
    "kind", ["error_500", "error_503", "reset", "half_body", "no_choices", "hang"]
)
def test_what_passes_is_lived_through(store, ledger, tmp_path, kind):
    with running_fault_server(canned=True, faults=0.3, kinds=[kind], seed=3) as url:
        config = config_at(url, tmp_path, timeout=0.5)
        tasks = sample_tasks(store, 24, 0)
        found, gone = outcomes_of(config, store, ledger, tasks)
    assert all(outcome.principles for outcome in found)
    assert gone == {}
    assert sum(bill.calls for bill in ledger.bills()) == len(tasks)


@pytest.mark.parametrize(
    ("kind", "failure"),
    [("null", "empty"), ("refusal", "refused"), ("prose", "unparseable"), ("cut_off", "cut_off")],
)
def test_an_answer_that_says_nothing_is_asked_for_again_and_then_quarantined_with_what_was_said(
    store, ledger, tmp_path, kind, failure
):
    with running_fault_server(canned=True, faults=1.0, kinds=[kind]) as url:
        (found,), _ = outcomes_of(
            config_at(url, tmp_path), store, ledger, sample_tasks(store, 1, 0)
        )
    assert found.failure.kind == failure
    answers = found.evidence["answers"]
    assert len(answers) == 3
    assert (
        len({answer["key"] for answer in answers}) == 3
    )  # asked again with what was wrong: another prompt each time
    assert all(answer["model"] == "canned" and answer["wrong"] for answer in answers)
    with running_fault_server(canned=True, faults=0.5, kinds=[kind], seed=1) as url:
        again, _ = outcomes_of(
            config_at(url, tmp_path, {"version": "2"}), store, ledger, sample_tasks(store, 12, 0)
        )
    assert sum(outcome.failure is None for outcome in again) >= 9


def test_the_question_put_again_says_what_was_wrong(store, ledger, tmp_path):
    with running_fault_server(canned=True) as url:
        strict = config_at(
            url, tmp_path, principles={"follow": (1, 2), "keep": (0, 9), "quality": (0, 9)}
        )
        seen = []
        ask = Teachers.ask

        async def watched(self, call):
            seen.append(call.text)
            return await ask(self, call)

        Teachers.ask = watched
        try:
            (found,), _ = outcomes_of(strict, store, ledger, sample_tasks(store, 1, 0))
        finally:
            Teachers.ask = ask
    assert found.failure is not None
    assert len(seen) == 3
    assert "You answered before" not in seen[0]
    assert "Instruction Following" in seen[1].partition("cannot be used")[2]


def test_a_needed_teacher_that_dies_stops_the_run_and_what_was_paid_for_stays(
    store, ledger, tmp_path
):
    tasks = sample_tasks(store, 60, 0)
    with running_fault_server(canned=True, dies_after=20, dies_by="reset") as url:
        config = config_at(url, tmp_path, give_up_after=2, patience=3)
        with pytest.raises(InputError, match="gone for good"):
            outcomes_of(config, store, ledger, tasks)
    paid = sum(bill.calls for bill in ledger.bills())
    assert paid == 20
    with running_fault_server(canned=True, log=tmp_path / "log.jsonl") as url:
        found, _ = outcomes_of(config_at(url, tmp_path), store, ledger, tasks)
        asked = sum(
            json.loads(line)["event"] == "asked"
            for line in (tmp_path / "log.jsonl").read_text().splitlines()
        )
    assert all(outcome.principles for outcome in found)
    assert asked == len(tasks) - paid


def test_a_thinker_that_dies_leaves_the_work_to_the_others_and_the_card_says_so(tmp_path):
    world = tmp_path / "world"
    sizes = {
        "train_tasks": 12,
        "test_tasks": 1,
        "candidates_per_task": 3,
        "pair_tasks": 1,
        "pair_count": 1,
    }
    build(WorldConfig(out=str(world), benchmark_sources=2, benchmark_pairs=2, **sizes), world)
    with running_fault_server(dies_after=10, dies_model="sandbox-hasty") as url:
        careful = {"model": "sandbox-careful", "temperatures": [0.0]}
        values = {
            "tasks": str(world / "tasks"),
            "candidates": str(world / "candidates.jsonl"),
            "decomposer": careful,
            "gold_teacher": careful,
            "thinkers": [{"model": "sandbox-lenient"}, {"model": "sandbox-hasty"}],
        }
        config = config_at(url, tmp_path, **values, give_up_after=2, patience=1)
        out = tmp_path / "data"
        out.mkdir()
        run(config, out)
    card = json.loads((out / "card.json").read_text())
    assert sum(row.kind == "judge" for row in read_table(out / "sft.parquet", SFTRow)) == 36
    hasty = card["teachers"]["sandbox-hasty"]
    assert hasty["readable"] == 20
    assert hasty["failures"] == {"server_gone": 72 - 20}
    assert set(card["teachers_gone"]) == {"sandbox-hasty"}
    assert "503" in card["teachers_gone"]["sandbox-hasty"]["why"]
    assert "sandbox-hasty" in (out / "card.html").read_text()
    traces = read_table(out / "traces.parquet", Trace)
    assert all(trace.failure.kind == "server_gone" for trace in traces if trace.read is None)


def test_a_missing_server_is_found_before_anything_is_asked_and_a_list_of_models_is_a_hint(
    store, ledger, tmp_path
):
    with running_fault_server(canned=True) as url:
        outcomes_of(
            config_at(url, tmp_path, {"model": "not-listed-but-there"}),
            store,
            ledger,
            [],
            check=True,
        )
    with pytest.raises(InputError, match=r"No teacher answers at http://127\.0\.0\.1:9/v1"):
        outcomes_of(config_at("http://127.0.0.1:9/v1", tmp_path), store, ledger, [], check=True)


def test_calls_are_one_per_variant_temperature_and_if_need_be_sample():
    teacher = Teacher(model="m", temperatures=(0.3, 1.0), samples=3, personas=("", "Be strict."))
    together = calls_to(teacher, "think", "S", "T", ("i",), seed=5)
    assert [(call.system, call.temperature, call.n) for call in together] == [
        ("S", 0.3, 3),
        ("S", 1.0, 3),
        ("S\nBe strict.", 0.3, 3),
        ("S\nBe strict.", 1.0, 3),
    ]
    alone = calls_to(
        teacher.model_copy(update={"one_by_one": True}), "think", "S", "T", ("i",), seed=5
    )
    assert len(alone) == 12
    assert [(call.n, call.seed) for call in alone[:3]] == [(1, 5), (1, 6), (1, 7)]
    assert len({call.key for call in alone}) == 12


def test_a_call_is_known_by_all_that_its_answer_depends_on():
    call = Call("think", "m", "S", "T", ("i",), 0.7, 2, 0, 100)
    same = Call("verify", "m", "S", "T", ("i",), 0.7, 2, 0, 100, base_url="http://elsewhere/v1")
    assert call.key == same.key
    others = [
        Call("think", "n", "S", "T", ("i",), 0.7, 2, 0, 100),
        Call("think", "m", "S2", "T", ("i",), 0.7, 2, 0, 100),
        Call("think", "m", "S", "T2", ("i",), 0.7, 2, 0, 100),
        Call("think", "m", "S", "T", ("j",), 0.7, 2, 0, 100),
        Call("think", "m", "S", "T", ("i",), 0.8, 2, 0, 100),
        Call("think", "m", "S", "T", ("i",), 0.7, 3, 0, 100),
        Call("think", "m", "S", "T", ("i",), 0.7, 2, 1, 100),
        Call("think", "m", "S", "T", ("i",), 0.7, 2, 0, 101),
        Call("think", "m", "S", "T", ("i",), 0.7, 2, 0, 100, version="2"),
    ]
    assert len({call.key, *(other.key for other in others)}) == 10


def test_no_prompt_takes_more_tokens_than_the_bound(store, ledger, tmp_path):
    image = Image.fromarray(np.zeros((1500, 1500, 3), np.uint8))
    config = config_at("http://127.0.0.1:9/v1", tmp_path)
    teachers = Teachers(config, store, ledger, Budget())
    call = Call("think", "canned", "système", "質問", (store.add(image),), 0.0, 1, 0, 10)
    words = len("système質問".encode())
    assert teachers.most_prompt_tokens(call) >= words + config.max_pixels // (28 * 28)


def test_the_same_model_named_with_other_limits_is_refused(tmp_path):
    with pytest.raises(ValueError, match="named twice"):
        config_at("http://x/v1", tmp_path, thinkers=[{"model": "canned", "requests_per_minute": 5}])


def test_a_thinker_listed_twice_is_refused_unless_it_is_asked_differently(tmp_path):
    again = {"model": "m", "base_url": "http://y/v1"}
    with pytest.raises(ValueError, match="would think the same twice"):
        config_at("http://x/v1", tmp_path, thinkers=[{"model": "m"}, again])
    config_at("http://x/v1", tmp_path, thinkers=[{"model": "m"}, {**again, "temperatures": [1.0]}])
    config_at("http://x/v1", tmp_path, thinkers=[{"model": "m"}, {**again, "version": "2"}])


def test_a_call_that_is_under_way_is_not_made_twice(store, ledger, tmp_path):
    (task,) = sample_tasks(store, 1, 0)
    with running_fault_server(canned=True, delay=0.2, log=tmp_path / "log.jsonl") as url:
        config = config_at(url, tmp_path)

        async def together():
            teachers = Teachers(config, store, ledger, Budget())
            try:
                return await asyncio.gather(
                    *(teachers.ask(decompose_call(task, config)) for _ in range(5))
                )
            finally:
                await teachers.close()

        answers = asyncio.run(together())
    assert len({answer.choices for answer in answers}) == 1
    asked = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert sum(event["event"] == "asked" for event in asked) == 1


def test_a_server_that_asks_for_more_patience_than_there_is_counts_as_gone(store, ledger, tmp_path):
    with running_fault_server(canned=True, requests_per_second=0.02) as url:
        config = config_at(url, tmp_path, patience=2)
        begin = time.monotonic()
        with pytest.raises(InputError, match=r"gone for good \(again in \d+ s: status 429"):
            outcomes_of(config, store, ledger, sample_tasks(store, 30, 0))
    assert time.monotonic() - begin < 10
    assert sum(bill.calls for bill in ledger.bills()) == 1


QUESTION = ChatRequest(model="canned", messages=[], max_tokens=1)
DONE = Completion((Choice("an answer"),))


class Scripted:
    """Attempts, each of which meets what comes next: a completion, or an error's status and
    headers."""

    def __init__(self, *script):
        self.script, self.at = list(script), []

    async def attempt(self, request, within=None):
        self.at.append(time.monotonic())
        step = self.script.pop(0)
        if isinstance(step, Completion):
            return step
        status, headers = step
        return fault_of(status, b"no", (), "KEY", asked_wait(headers, time.time()))


def sent_to(tmp_path, *script, **values):
    """What a line makes of the script, the seconds between the tries, and the line."""
    scripted = Scripted(*script)

    async def go():
        teachers = Teachers(config_at("http://x/v1", tmp_path, **values), None, None, Budget())
        line = teachers.client_of("canned", None)
        line.client.attempt = scripted.attempt
        try:
            got = await line.ask(QUESTION, 1)
            await asyncio.wait_for(line.turn(1), 10)
            return got, line
        finally:
            await teachers.close()

    outcome, line = asyncio.run(go())
    return outcome, np.diff(scripted.at), line


@pytest.mark.parametrize(
    ("headers", "least"),
    [
        ({"retry-after-ms": "300"}, 0.3),
        ({"retry-after": "0.3"}, 0.3),
        ({}, 0.05),  # half of LONGEST_WAIT
        ({"retry-after": "-5"}, 0.05),
        ({"retry-after": "Sun, 06 Nov 1994 08:49:37 GMT"}, 0.05),
    ],
)
def test_a_server_that_limits_is_left_alone_for_as_long_as_it_asks_or_else_for_a_while(
    tmp_path, headers, least
):
    (completion, _), (pause,), _ = sent_to(tmp_path, (429, headers), DONE)
    assert completion is DONE
    assert least <= pause < 5


@pytest.mark.parametrize("status", [429, 503])
def test_a_server_that_names_a_time_too_far_off_counts_as_gone_and_nobody_waits_for_it(
    tmp_path, status
):
    now = time.time()
    headers = {
        "retry-after": formatdate(now + 3600, usegmt=True),
        "date": formatdate(now, usegmt=True),
    }
    failure, _, line = sent_to(tmp_path, (status, headers), patience=5)
    assert failure == line.gone
    assert failure.kind == "server_gone"
    assert (
        3500
        < float(re.fullmatch(rf"again in (\d+) s: status {status}: no", failure.detail)[1])
        <= 3600
    )


def test_a_server_out_of_order_is_left_alone_for_as_long_as_it_asks(tmp_path):
    (completion, _), (pause,), _ = sent_to(tmp_path, (503, {"retry-after": "0.7"}), DONE)
    assert completion is DONE
    assert pause >= 0.7


@pytest.mark.parametrize(
    ("status", "kind", "tries"),
    [(408, "server_gone", 5), (409, "server_gone", 5), (422, "bad_row", 1)],
)
def test_what_may_pass_is_sent_five_times_and_a_refusal_once(tmp_path, status, kind, tries):
    failure, pauses, _ = sent_to(tmp_path, *[(status, {})] * 5)
    assert (failure.kind, len(pauses) + 1) == (kind, tries)


def test_an_image_of_several_calls_is_read_once_and_sent_as_it_is_stored(
    store, ledger, tmp_path, monkeypatch
):
    digest = store.add(Image.new("RGB", (2000, 1000), "red"))
    stored = store.path(digest).read_bytes()
    read, stored_bytes = [], store.verified_bytes
    monkeypatch.setattr(
        store, "verified_bytes", lambda digest: read.append(digest) or stored_bytes(digest)
    )
    teachers = Teachers(config_at("http://x/v1", tmp_path), store, ledger, Budget())
    call = Call("think", "canned", "S", "T", (digest, digest), 0.0, 1, 0, 10)
    for _ in range(3):
        *images, text = teachers.request(call).messages[1]["content"]
        url = "data:image/png;base64," + base64.b64encode(stored).decode()
        assert images == [{"type": "image_url", "image_url": {"url": url}}] * 2
        assert text == {"type": "text", "text": "T"}
    assert read == [digest]
