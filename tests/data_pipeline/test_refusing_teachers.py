"""Teachers that refuse, and what is spent: a run stops at the first few refusals that every row
would meet, and carries on from there."""

import json
import sqlite3
from collections import Counter
from contextlib import closing
from types import SimpleNamespace

import pytest
from PIL import Image

from data_pipeline.budget import price_of
from data_pipeline.ledger import Ledger
from data_pipeline.run import run
from data_pipeline.settings import DataConfig
from data_pipeline.teachers import Call
from rrm.chat import ChatClient, Completion
from rrm.chat.faults import fault_of
from rrm.cli import invoke
from rrm.errors import InputError, NothingMade
from rrm.records import Choice

TASKS = 30
PRINCIPLES = json.dumps(
    [
        {"question": "Is the square blue?", "category": "Instruction Following"},
        {"question": "Is everything else as it was?", "category": "Feature Preservation"},
        {"question": "Does it look clean?", "category": "Image Quality"},
    ]
)
TRACE = (
    "It is blue.\n"
    + json.dumps([{"question": i, "score": 1} for i in (1, 2, 3)])
    + "\n<score>7.5</score>"
)
GOLD = json.dumps([{"question": i, "gold": 1, "reason": "seen"} for i in (1, 2, 3)])
MONEY = fault_of(402, b'{"error": {"message": "Insufficient Balance"}}', (), "KEY")


def good(request, **usage):
    """A sound completion of any of the pipeline's requests."""
    system = request.messages[0]["content"]
    text = PRINCIPLES if system.startswith("You decompose") else GOLD if "gold" in system else TRACE
    return Completion(
        (Choice(text),) * request.n, **{"prompt_tokens": 100, "completion_tokens": 50, **usage}
    )


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A folder with tasks.jsonl and candidates.jsonl."""
    folder = tmp_path_factory.mktemp("inputs")
    tasks, candidates = [], []
    for i in range(TASKS):
        for name in ("source", "edited"):
            Image.effect_noise((32, 32), 40 + i).convert("RGB").save(folder / f"{name}{i}.png")
        tasks.append({"image": f"source{i}.png", "instruction": f"Make square {i} blue"})
        candidates.append(
            {
                "task": f"source{i}.png",
                "instruction": f"Make square {i} blue",
                "image": f"edited{i}.png",
            }
        )
    for name, rows in (("tasks", tasks), ("candidates", candidates)):
        (folder / f"{name}.jsonl").write_text(
            "".join(json.dumps({**row, "editor": "e"}) + "\n" for row in rows)
        )
    return folder


def config_of(inputs, out, thinkers=({},), teacher=None, **values):
    one = {"model": "m", "temperatures": [0.0], "samples": 1, **(teacher or {})}
    wide = {"follow": (0, 9), "keep": (0, 9), "quality": (0, 9)}
    return DataConfig.model_validate(
        {
            "out": str(out),
            "tasks": str(inputs / "tasks.jsonl"),
            "candidates": str(inputs / "candidates.jsonl"),
            "teacher_url": "http://teacher/v1",
            "exemplars": None,
            "concurrency": 4,
            "decompose_share": 0.0,
            "decomposer": one,
            "thinkers": [{**one, "temperatures": [0.7], **thinker} for thinker in thinkers],
            "gold_teacher": one,
            "principles": wide,
            "principles_total": (1, 20),
            **values,
        }
    )


@pytest.fixture
def server(monkeypatch):
    """What answers: `server.reply(request, number)`; and every request that was sent."""

    server = SimpleNamespace(reply=lambda request, number: good(request), sent=[])

    async def attempt(self, request, within=None):
        server.sent.append(request)
        return server.reply(request, len(server.sent))

    async def models(self, within=20.0):
        return ["m", "other"]

    monkeypatch.setattr(ChatClient, "attempt", attempt)
    monkeypatch.setattr(ChatClient, "models", models)
    monkeypatch.setattr("data_pipeline.teacher_client.LONGEST_WAIT", 0.01)
    return server


def seen_in(out, query):
    with closing(sqlite3.connect(out / "work.sqlite")) as base:
        return base.execute(query).fetchall()


@pytest.mark.parametrize("answered", [0, 12, 40, 75])
def test_an_empty_account_stops_the_run_in_the_servers_own_words_and_costs_no_row(
    inputs, tmp_path, server, answered
):
    config = config_of(inputs, tmp_path / "data")
    server.reply = lambda request, number: good(request) if number <= answered else MONEY
    with pytest.raises(
        InputError,
        match=r"refuses .*402: Insufficient Balance.*top up the account, then run the same command again",
    ):
        run(config, tmp_path / "data")
    assert len(server.sent) <= answered + 7  # three refusals, and what was on its way
    paid = len(server.sent)
    server.reply = lambda request, number: good(request)
    counts = run(config, tmp_path / "data")
    assert counts["sft_judge"] == TASKS
    assert counts["quarantined"] == 0
    assert len(server.sent) - paid == 3 * TASKS - answered


def test_a_field_that_the_server_refuses_stops_the_run_and_can_be_left_out(
    inputs, tmp_path, server
):
    def no_seed(request, number):
        body = request.body()
        if "seed" in body:
            said = {
                "message": {
                    "detail": [
                        {"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "not permitted"}
                    ]
                }
            }
            return fault_of(422, json.dumps(said).encode(), body, "KEY")
        return good(request)

    server.reply = no_seed
    with pytest.raises(InputError, match="send_seed: false"):
        run(config_of(inputs, tmp_path / "data"), tmp_path / "data")
    assert len(server.sent) <= 7
    quiet = config_of(
        inputs,
        tmp_path / "other",
        teacher={"send_seed": False, "extra": {"enable_thinking": False}},
    )
    assert run(quiet, tmp_path / "other")["sft_judge"] == TASKS
    assert all(
        "seed" not in request.body() and request.body()["enable_thinking"] is False
        for request in server.sent[-TASKS:]
    )


def test_a_row_that_is_refused_for_its_own_sake_is_set_apart_and_the_run_goes_on(
    inputs, tmp_path, server
):
    def picky(request, number):
        odd = "square 7 " in str(request.messages[1]["content"][-1]["text"])
        return fault_of(403, b"forbidden", (), "KEY") if odd else good(request)

    server.reply = picky
    counts = run(config_of(inputs, tmp_path / "data"), tmp_path / "data")
    assert (counts["sft_judge"], counts["quarantined"]) == (TASKS - 1, 1)


def test_what_a_server_failed_to_answer_is_asked_for_again_by_a_run_that_carries_on(
    inputs, tmp_path, server
):
    config = config_of(inputs, tmp_path / "data", give_up_after=5)
    lost = fault_of(503, b"overloaded", (), "KEY")

    def dies(request, number):
        odd = "square 3 " in str(request.messages[1]["content"][-1]["text"])
        return lost if odd or number > 70 else good(request)

    server.reply = dies
    with pytest.raises(InputError, match="gone for good"):
        run(config, tmp_path / "data")
    assert seen_in(tmp_path / "data", "SELECT COUNT(*) FROM quarantine")[0][0] >= 1
    server.reply = lambda request, number: good(request)
    counts = run(config, tmp_path / "data")
    assert (counts["sft_judge"], counts["quarantined"]) == (TASKS, 0)


def test_a_thinker_that_refuses_leaves_the_work_to_the_others(inputs, tmp_path, server):
    server.reply = lambda request, number: MONEY if request.model == "other" else good(request)
    counts = run(config_of(inputs, tmp_path / "data", ({}, {"model": "other"})), tmp_path / "data")
    assert counts["sft_judge"] == TASKS
    card = json.loads((tmp_path / "data/card.json").read_text())
    assert "Insufficient Balance" in card["teachers_gone"]["other"]["why"]
    assert sum(request.model == "other" for request in server.sent) <= 7


@pytest.mark.parametrize("how", ["ignored", "refused"])
def test_a_server_that_does_not_know_n_is_asked_one_by_one(inputs, tmp_path, server, how, capsys):
    def without_n(request, number):
        if request.n == 1:
            return good(request)
        if how == "refused":
            said = b'{"error": {"message": "unknown field \\"n\\"", "param": "n"}}'
            return fault_of(400, said, request.body(), "KEY")
        return Completion(good(request).choices[:1], 100, 50)

    server.reply = without_n
    config = config_of(inputs, tmp_path / "data", ({"samples": 3},), variant="T")
    counts = run(config, tmp_path / "data")
    assert counts["readable_traces"] == 3 * TASKS
    thought = [request for request in server.sent if request.n == 1 and request.temperature == 0.7]
    assert Counter(request.seed for request in thought).keys() <= {0, 1, 2}
    assert capsys.readouterr().err.count("does not take 'n'") == 1
    with Ledger(config.ledger_path) as ledger:
        think = next(bill for bill in ledger.bills() if bill.stage == "think")
    assert think.completion_tokens == 3 * TASKS * 50


@pytest.mark.parametrize("usage", [{}, {"prompt_tokens": None, "completion_tokens": None}])
def test_no_limit_is_exceeded_over_several_runs_also_where_usage_is_missing(
    inputs, tmp_path, server, usage
):
    teacher = {"price_in": 10.0, "price_out": 100.0, "max_tokens": 60}
    config = config_of(inputs, tmp_path / "data", teacher=teacher)
    server.reply = lambda request, number: good(request, **usage)
    for _ in range(3):
        with pytest.raises(InputError, match="--max-cost"):
            run(config, tmp_path / "data", max_cost=0.5)
        with Ledger(config.ledger_path) as ledger:
            assert 0.4 < price_of(ledger.bills(), config.pool) <= 0.5
            assert sum(bill.calls for bill in ledger.bills()) == len(server.sent)
    least = 60 * 100e-6 + 1280 * 10e-6  # of a call at its most: its answer and an image
    assert 0 < len(server.sent) <= (0.5 / least if usage else TASKS * 3)


def test_the_key_of_a_call_is_that_of_earlier_versions_unless_it_has_extra_fields():
    call = Call("think", "m", "S", "T", ("i",), 0.7, 2, 0, 100)
    assert call.key == "a58ebf0cbb41dc182bd1b98273da067e08c9cad2bca6eed13be8cfa19ad267ae"
    assert Call("think", "m", "S", "T", ("i",), 0.7, 2, 0, 100, extra={"top_k": 1}).key != call.key


def test_the_digest_of_a_set_is_that_of_earlier_versions_unless_a_teacher_has_extra_fields(
    inputs, tmp_path
):
    plain = config_of(inputs, tmp_path / "data")
    assert "extra" not in plain.what()["decomposer"]
    assert (
        config_of(inputs, tmp_path / "data", teacher={"send_seed": False}).digest()
        == plain.digest()
    )
    assert (
        config_of(inputs, tmp_path / "data", teacher={"extra": {"top_k": 1}}).digest()
        != plain.digest()
    )


def test_the_last_line_says_what_became_of_the_edits_and_a_set_without_a_row_is_an_error(
    inputs, tmp_path, server, capsys
):
    written = tmp_path / "data.yaml"
    written.write_text(
        json.dumps(config_of(inputs, tmp_path / "data", asks=1).model_dump(mode="json"))
    )
    server.reply = lambda request, number: Completion((Choice("Nice picture."),), 100, 50)
    with pytest.raises(
        NothingMade, match=f"{TASKS} rows in, 0 out, {TASKS} failed: {TASKS} unparseable"
    ):
        invoke(["data", "--config", str(written)])

    def prose_for_some(request, number):
        odd = "square 7 " in str(request.messages[1]["content"][-1]["text"])
        return Completion((Choice("Nice picture."),), 100, 50) if odd else good(request)

    server.reply = prose_for_some
    written.write_text(
        json.dumps(
            config_of(
                inputs, tmp_path / "data", asks=1, ledger=str(tmp_path / "other.sqlite")
            ).model_dump(mode="json")
        )
    )
    invoke(["data", "--config", str(written), "--retry"])
    assert (
        capsys.readouterr()
        .err.strip()
        .endswith(f"{TASKS} rows in, {TASKS - 1} out, 1 failed: 1 unparseable")
    )
