"""The reward model on real HTTP servers, well and ill: what each does to the answers."""

from __future__ import annotations

import asyncio
import json
import math
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from PIL import Image

from rrm.chat import waited
from rrm.errors import InputError
from rrm.perf.serving import free_port
from rrm.prompts import write_answer
from rrm.records import EditToJudge, Principle, TaskToDecompose
from rrm.reward import open_reward, servers
from rrm.reward.expectation import RATINGS
from rrm.reward.listing import single_tokens
from rrm.reward.model import RewardModel, Sampling
from rrm.reward.servers import Patience, Server, ServerBackend

PRINCIPLES = (Principle(question="Is the circle red?", category="follow"),)
GREY = Image.new("RGB", (56, 56), "grey")
ALIAS = "edit-rrm/brief/0123456789abcdef"
Response = tuple[int, dict[str, str], bytes]


def encoded(value: Any, status: int = 200, **headers: str) -> Response:
    return (
        status,
        {
            "Content-Type": "application/json",
            **{k.replace("_", "-"): v for k, v in headers.items()},
        },
        json.dumps(value).encode(),
    )


def completion(*texts: Any, **more: Any) -> dict[str, Any]:
    choices = [
        {
            "index": i,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": text},
            **more,
        }
        for i, text in enumerate(texts)
    ]
    return {
        "id": "0",
        "object": "chat.completion",
        "created": 0,
        "model": "rrm",
        "choices": choices,
    }


def index_of(body: dict[str, Any]) -> int:
    return int(re.search(r"edit (\d+)", body["messages"][-1]["content"][-1]["text"])[1])


def good(body: dict[str, Any], number: int = 0) -> Response:
    """A judgement whose score tells which edit was asked about."""
    text = write_answer((1,), 0.0).replace("<score>0.0", f"<score>{index_of(body) * 0.08:.2f}")
    return encoded(completion(*[text] * body["n"]))


class Fake:
    """A server: what it was asked, what it answered well, and how many requests it had at once at
    most."""

    def __init__(
        self,
        answer: Callable[[dict[str, Any], int], Response | None],
        models: Response | None = None,
        seconds: float = 0.0,
    ):
        self.answer, self.seconds = answer, seconds
        self.tokenize: Callable[[str], Response | None] = lambda text: encoded(
            {"tokens": [100 + int(text)]}
        )
        self.models = models or encoded({"object": "list", "data": [{"id": "rrm"}, {"id": ALIAS}]})
        self.asked: list[int] = []
        self.at: list[float] = []
        self.answered: list[int] = []
        self.bodies: list[dict[str, Any]] = []
        self.now = self.most = 0
        self.dead = False
        self.lock = threading.Lock()
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *words: object) -> None:
                pass

            def reply(self, response: Response | None) -> None:
                if response is None or fake.dead:
                    self.close_connection = True
                    return
                status, headers, payload = response
                try:
                    self.send_response(status)
                    for name, value in {**headers, "Content-Length": str(len(payload))}.items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(payload)
                except OSError:  # the client has left
                    self.close_connection = True

            def do_GET(self) -> None:
                self.reply(fake.models)

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if self.path == "/tokenize":
                    self.reply(fake.tokenize(body["prompt"]))
                    return
                with fake.lock:
                    number = len(fake.asked)
                    fake.asked.append(index_of(body))
                    fake.at.append(time.monotonic())
                    fake.bodies.append(body)
                    fake.now += 1
                    fake.most = max(fake.most, fake.now)
                time.sleep(fake.seconds)
                response = fake.answer(body, number)
                with fake.lock:
                    fake.now -= 1
                    if response is not None and response == good(body) and not fake.dead:
                        fake.answered.append(index_of(body))
                self.reply(response)

        class Listening(ThreadingHTTPServer):
            daemon_threads, request_queue_size, block_on_close = True, 64, False

            def handle_error(self, *what: object) -> None:
                pass

        self.http = Listening(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/v1"
        self.thread = threading.Thread(
            target=self.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )
        self.thread.start()

    def die(self) -> None:
        """Drops what it has and accepts nothing any more."""
        self.dead = True
        self.http.shutdown()
        self.http.server_close()


@contextmanager
def running(*fakes: Fake) -> Iterator[list[str]]:
    with ExitStack() as ends:
        for fake in fakes:
            ends.callback(fake.die)
        yield [fake.url for fake in fakes]


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "COOLING", 0.01)
    monkeypatch.setattr(servers, "LONGEST_COOLING", 0.1)


def edits(count: int) -> list[EditToJudge]:
    return [EditToJudge(GREY, GREY, f"edit {i}", PRINCIPLES) for i in range(count)]


def connected(
    urls: list[str],
    asking: Sampling | None = None,
    model: Any = None,
    style: Any = None,
    **patience: Any,
) -> RewardModel:
    waits = Patience(**{"deadline": 20.0, "attempt": 5.0, **patience})
    return RewardModel(ServerBackend.connect(urls, model, style, patience=waits), asking)


def kinds(judgements: list[Any]) -> list[str | None]:
    return [j.failure.kind if j.failure else None for j in judgements]


GARBAGE: list[Response] = [
    (200, {"Content-Type": "application/json"}, b"<html>oops"),
    (200, {"Content-Type": "text/html"}, b"<html>oops"),
    (200, {"Content-Type": "application/json"}, b""),
    (200, {"Content-Type": "application/json"}, b'{"choices": [{"message"'),
    (200, {"Content-Type": "application/json"}, b"\xff\xfe\x00"),
    (200, {"Content-Type": "application/json"}, b"[" * 100_000),
    encoded({}),
    encoded([]),
    encoded("rrm"),
    encoded(None),
    encoded({"choices": None}),
    encoded({"choices": []}),
    encoded({"choices": 3}),
    encoded({"choices": "x"}),
    encoded({"choices": [None]}),
    encoded({"choices": [{"message": None}]}),
    encoded({"choices": [{"message": "text"}]}),
    encoded(completion(17)),
    encoded(completion("a", "b")),
    encoded({"error": "none"}, 500),
    (503, {}, b""),
]

WRONG_ENTRIES: list[dict[str, Any]] = [
    {"logprob": "high"},
    {"logprob": 1e9},
    {"token": 8},
    {"top_logprobs": None},
    {"top_logprobs": [{"token": 9, "logprob": -1.0}]},
]


def test_with_one_server_dying_one_writing_garbage_and_one_slow_every_edit_is_judged_once_and_in_order():
    dying: Fake

    def until_it_dies(body: dict[str, Any], number: int) -> Response | None:
        if number == 15:
            threading.Thread(target=dying.die).start()
        return good(body) if number < 15 else None

    dying = Fake(until_it_dies, seconds=0.01)
    garbage = Fake(lambda body, number: GARBAGE[number % len(GARBAGE)])
    slow = Fake(good, seconds=0.15)
    with (
        running(garbage, dying, slow) as urls,
        connected(urls, in_flight=8, deadline=30.0) as model,
    ):
        ended: list[float] = []
        begin = time.monotonic()
        judgements = model.judge_many(edits(120), done=lambda *_: ended.append(time.monotonic()))
        assert time.monotonic() - begin < 30
    assert kinds(judgements) == [None] * 120
    assert [j.score for j in judgements] == [pytest.approx(i * 0.08) for i in range(120)]
    assert len(ended) == 120
    assert Counter(dying.answered + slow.answered) == Counter(range(120))
    assert len(dying.answered) >= 5
    assert len(garbage.asked) >= 3
    assert slow.most <= 8


def well_again(model: RewardModel) -> RewardModel:
    """As if its servers had never failed."""
    for server in model.backend.servers:
        server.faults, server.faulted, server.rests_until = 0, -math.inf, -math.inf
    return model


def test_garbage_alone_is_a_named_failure_before_the_deadline():
    responses = iter(GARBAGE)
    fake = Fake(lambda body, number: response)
    with running(fake) as urls, connected(urls, deadline=0.15) as model:
        for response in responses:
            begin = time.monotonic()
            assert kinds(well_again(model).judge_many(edits(3))) == ["server_gone"] * 3, response
            assert time.monotonic() - begin < 1
    assert len(fake.asked) >= 3 * len(GARBAGE)


def test_probabilities_of_the_wrong_type_are_a_servers_fault_as_well():
    wrong: list[Any] = [
        {"content": 3},
        {"content": [None]},
        *(
            {"content": [{"token": "8", "logprob": 0.0, "top_logprobs": []} | entry]}
            for entry in WRONG_ENTRIES
        ),
    ]
    fake = Fake(
        lambda body, number: encoded(completion(write_answer((1,), 8.0), logprobs=logprobs))
    )
    with (
        running(fake) as urls,
        connected(urls, Sampling(mode="expectation"), deadline=0.15) as model,
    ):
        for logprobs in wrong:
            assert kinds(well_again(model).judge_many(edits(2))) == ["server_gone"] * 2, logprobs


def test_half_a_surrogate_pair_in_an_answer_is_no_reason_to_lose_the_others():
    def half(body: dict[str, Any], number: int) -> Response:
        return encoded(completion("\ud800")) if index_of(body) == 1 else good(body)

    refusing = encoded(
        {
            "choices": [
                {"finish_reason": "stop", "message": {"content": None, "refusal": "no \udc00"}}
            ]
        }
    )
    with running(Fake(half)) as urls, connected(urls) as model:
        assert kinds(model.judge_many(edits(3))) == [None, "unparseable", None]
    with running(Fake(lambda body, number: refusing)) as urls, connected(urls) as model:
        assert kinds(model.judge_many(edits(1))) == ["refused"]


def test_the_least_busy_server_is_asked_and_one_without_faults_first():
    backend = ServerBackend(
        ["http://a/v1", "http://b/v1", "http://c/v1"],
        "rrm",
        "brief",
        "x",
        patience=Patience(in_flight=4),
    )
    a, b, c = backend.servers
    a.busy, b.busy, c.busy = 2, 1, 3
    assert backend.choose(0.0) is b
    b.faults = 1  # tried one question at a time, and only where no other has room
    assert backend.choose(0.0) is a
    a.busy = c.busy = 4
    assert backend.choose(0.0) is None
    b.busy = 0
    assert backend.choose(0.0) is b
    b.rests_until = 1.0
    assert backend.choose(0.5) is None
    assert backend.choose(1.0) is b


def test_a_fast_server_gets_more_of_the_work_than_a_slow_one():
    fast, slow = Fake(good, seconds=0.01), Fake(good, seconds=0.2)
    with running(fast, slow) as urls, connected(urls, in_flight=2) as model:
        assert kinds(model.judge_many(edits(24))) == [None] * 24
    assert len(fast.asked) > 2 * len(slow.asked) > 0
    assert max(fast.most, slow.most) <= 2


def test_questions_under_way_together_when_a_server_fails_are_one_fault():
    server = Server("http://a/v1", "KEY", 1.0)
    for late in (0.0, 0.1, 0.2):
        server.fault(1.0, 2.0 + late, None)
    assert server.faults == 1
    server.fault(3.0, 3.5, None)
    assert server.faults == 2
    for sent in range(4, 14):
        server.fault(sent, sent + 0.5, 7.0)
    assert (server.faults, server.rests_until) == (2, 20.5)


def test_a_server_rests_for_half_a_second_after_its_first_fault_and_twice_as_long_after_each_but_never_too_long(
    monkeypatch,
):
    monkeypatch.setattr(servers, "COOLING", 0.5)
    monkeypatch.setattr(servers, "LONGEST_COOLING", 30.0)
    monkeypatch.setattr("random.uniform", lambda low, high: high)
    server = Server("http://a/v1", "KEY", 1.0)
    rests = []
    for second in range(8):
        server.fault(100.0 * second, 100.0 * second + 1, None)
        rests.append(server.rests_until - 100.0 * second - 1)
    assert rests == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    server.faults = 5000  # a day of them
    server.fault(1000.0, 1001.0, None)
    assert server.rests_until == 1031.0


@pytest.mark.parametrize("header", [{"Retry_After": "0.4"}, {"Retry_After_Ms": "400"}])
def test_a_server_that_asks_to_be_left_alone_is_left_alone_for_as_long_however_many_were_under_way(
    header,
):
    def at_first(body: dict[str, Any], number: int) -> Response:
        time.sleep(0.05)  # all of them are there
        return (
            good(body)
            if number >= 12
            else encoded({"error": {"message": "slow down"}}, 429, **header)
        )

    fake = Fake(at_first)
    with running(fake) as urls, connected(urls, in_flight=12) as model:
        assert kinds(model.judge_many(edits(12))) == [None] * 12
    assert fake.at[12] - fake.at[0] >= 0.4
    assert Counter(fake.answered) == Counter(range(12))


@pytest.mark.parametrize(
    ("status", "said", "kind"),
    [
        (400, "the prompt is too long", "bad_row"),
        (400, "cannot load the image", "image_unreadable"),
        (422, "no", "bad_row"),
        (401, "not with this key", "rejected"),
        (403, "not you", "rejected"),
        (404, "no such model", "rejected"),
    ],
)
def test_what_a_server_refuses_is_named_and_not_asked_again(status, said, kind):
    def refuse(body: dict[str, Any], number: int) -> Response:
        return encoded({"error": {"message": said}}, status) if index_of(body) == 1 else good(body)

    fake = Fake(refuse)
    with running(fake) as urls, connected(urls) as model:
        judgements = model.judge_many(edits(3))
    assert kinds(judgements) == [None, kind, None]
    assert said in judgements[1].failure.detail
    assert sorted(fake.asked) == [0, 1, 2]
    assert model.backend.servers[0].faults == 0


@pytest.mark.parametrize("status", [408, 409, 429, 500, 503])
def test_what_passes_is_asked_again(status):
    fake = Fake(
        lambda body, number: (
            encoded({"error": {"message": "later"}}, status) if number == 0 else good(body)
        )
    )
    with running(fake) as urls, connected(urls) as model:
        assert kinds(model.judge_many(edits(1))) == [None]
    assert fake.asked == [0, 0]


def refusing(status: int) -> Fake:
    return Fake(lambda body, number: encoded({"error": {"message": "not here"}}, status))


@pytest.mark.parametrize("status", [401, 403, 404, 405])
def test_one_server_that_is_set_up_wrongly_costs_no_question_while_another_is_well_and_is_named(
    status, capsys
):
    wrong, well = refusing(status), Fake(good, seconds=0.03)
    with running(wrong, well) as urls, connected(urls, in_flight=4) as model:
        begin = time.monotonic()
        judgements = model.judge_many(edits(60))
        seconds = time.monotonic() - begin
    assert [j.score for j in judgements] == [pytest.approx(i * 0.08) for i in range(60)]
    assert sorted(well.asked) == list(range(60))
    # 4 at once, then one after each rest: of 0.005, 0.01, 0.02 and 0.04 s at least, and of 0.05 s
    # ever after
    assert 4 <= len(wrong.asked) <= 4 + 4 + seconds / 0.05
    assert len(set(wrong.asked)) == len(wrong.asked)  # none was sent there twice
    said = capsys.readouterr().err
    assert (
        f"warning: one server answered nothing, and others did its work: {urls[0]}: status {status}"
        in said
    )
    assert urls[1] not in said


def test_what_every_server_refuses_is_refused_after_each_was_asked_once():
    def not_this(body: dict[str, Any], number: int) -> Response:
        return (
            encoded({"error": {"message": "not this"}}, 403) if index_of(body) == 1 else good(body)
        )

    fakes = [Fake(not_this), Fake(not_this)]
    with running(*fakes) as urls, connected(urls) as model:
        judgements = model.judge_many(edits(4))
    assert kinds(judgements) == [None, "rejected", None, None]
    assert "status 403" in judgements[1].failure.detail
    assert "not this" in judgements[1].failure.detail
    assert [fake.asked.count(1) for fake in fakes] == [1, 1]


def test_where_every_server_refuses_everything_the_run_stops_at_the_first_few_in_their_words():
    fakes = [refusing(402), refusing(404)]
    with running(*fakes) as urls, connected(urls, in_flight=4, deadline=60.0) as model:
        begin = time.monotonic()
        with pytest.raises(InputError, match=r"not here.*run the same command again"):
            model.judge_many(edits(100))
        assert time.monotonic() - begin < 5
        assert sum(len(fake.asked) for fake in fakes) <= 2 * 8
        with pytest.raises(InputError, match="not here"):
            model.decompose_many([TaskToDecompose(GREY, "edit 1")])


def test_an_account_that_runs_dry_loses_nothing_that_was_answered_and_is_told_at_the_end():
    fake = Fake(
        lambda body, number: (
            good(body)
            if number < 4
            else encoded({"error": {"message": "Insufficient Balance"}}, 402)
        )
    )
    with running(fake) as urls, pytest.raises(InputError, match=r"Insufficient Balance.*top up"):  # noqa: SIM117
        with connected(urls, in_flight=1) as model:
            judgements = model.judge_many(edits(40))
    assert kinds(judgements) == [None] * 4 + ["rejected"] * 36
    assert len(fake.asked) == 7


def test_where_one_server_refuses_and_the_others_are_dead_the_failure_is_not_named_refused():
    dead = Fake(lambda body, number: None)
    with running(refusing(401), dead) as urls, connected(urls, deadline=60.0) as model:
        begin = time.monotonic()
        assert kinds(model.judge_many(edits(3))) == ["server_gone"] * 3
        assert time.monotonic() - begin < 5
    wrong = refusing(404)
    with (
        running(wrong, Fake(good, seconds=1.0)) as urls,
        connected(urls, deadline=0.3, attempt=0.1) as model,
    ):
        assert kinds(model.judge_many(edits(1))) == ["timed_out"]
    assert wrong.asked == [0]


def test_the_key_is_sent_and_one_that_is_wanted_and_missing_is_named(monkeypatch):
    locked = Fake(good, encoded({"error": {"message": "no"}}, 401))
    with (
        running(locked) as urls,
        pytest.raises(InputError, match=r"Name the model.*may want a key in MY_KEY"),
    ):
        open_reward(f"server:{urls[0]}?key=MY_KEY")
    monkeypatch.setenv("MY_KEY", "sesame")
    with running(Fake(good)) as urls:
        model = open_reward(f"server:{urls[0]}?key=MY_KEY&in_flight=3")
        assert model.backend.servers[0].client.key == "sesame"
        assert model.backend.patience.in_flight == 3
        model.close()


def listing(*names: str) -> Response:
    return encoded({"object": "list", "data": [{"id": name} for name in names]})


def test_servers_of_different_weights_are_refused():
    other = Fake(good, listing("rrm", "edit-rrm/brief/fedcba9876543210"))
    with (
        running(Fake(good), other) as urls,
        pytest.raises(InputError, match="serve different weights"),
    ):
        ServerBackend.connect(urls)


def test_a_foreign_server_needs_a_model_by_name():
    with running(Fake(good, listing("qwen"))) as urls:
        with pytest.raises(InputError, match=r"Name the model.* has qwen"):
            ServerBackend.connect(urls)
        backend = ServerBackend.connect(urls, "qwen")
        assert (backend.style, backend.fingerprint, backend.token_ids) == (
            "full",
            "endpoint|qwen",
            {},
        )
        asyncio.run(backend.close())


def test_a_server_of_ours_tells_style_weights_and_the_ids_of_the_digits():
    with running(Fake(good)) as urls:
        backend = ServerBackend.connect(
            [*urls, f"http://127.0.0.1:{free_port()}/v1"]
        )  # the other may come later
        assert (backend.model, backend.style, backend.fingerprint) == (
            ALIAS,
            "brief",
            "served|0123456789abcdef",
        )
        assert backend.token_ids == {str(digit): 100 + digit for digit in range(6)}
        asyncio.run(backend.close())


def test_without_ids_of_the_digits_the_likeliest_tokens_are_asked_for():
    fake = Fake(good)
    fake.tokenize = lambda text: None
    with running(fake) as urls, connected(urls, Sampling(mode="logits")) as model:
        body = model.backend.request(
            model._question(edits(1)[0], (), (GREY, GREY), model.sampling)
        ).body()
    assert body["top_logprobs"] == 20
    assert "logprob_token_ids" not in body


def test_a_server_that_dies_or_writes_garbage_when_it_is_asked_for_ids_tells_none():
    fake = Fake(good)
    wrong = (None, 3, "7", {"0": 7}, ["7"], [7.0], [None], [], [7, 8])
    with running(fake) as urls:
        for response in (*GARBAGE[:6], None):
            fake.tokenize = lambda text: encoded({"tokens": [7]}) if text < "3" else response  # noqa: B023
            assert waited(single_tokens(urls[0], "rrm", "KEY", RATINGS)) == {}, response
        fake.tokenize = lambda text: GARBAGE[6 + int(text)]
        assert (
            waited(single_tokens(urls[0], "rrm", "KEY", [str(i) for i in range(len(GARBAGE) - 6)]))
            == {}
        )
        fake.tokenize = lambda text: encoded({"tokens": [7] if text == "9" else wrong[int(text)]})
        assert waited(single_tokens(urls[0], "rrm", "KEY", [str(i) for i in range(10)])) == {"9": 7}
    assert waited(single_tokens(f"http://127.0.0.1:{free_port()}/v1", "rrm", "KEY", RATINGS)) == {}


LISTS = [
    (200, {"Content-Type": "text/html"}, b"<html>a page"),
    (200, {"Content-Type": "application/json"}, b"[" * 100_000),
    listing(),
    listing("another"),
    *(encoded({"error": {"message": "no list here"}}, status) for status in (401, 403, 404, 405)),
]


@pytest.mark.parametrize("models", LISTS)
def test_the_list_of_models_is_a_hint(models, capsys):
    with running(Fake(good, models)) as urls:
        with connected(urls, model="rrm", style="brief") as model:
            assert kinds(model.judge_many(edits(1))) == [None]
        with pytest.raises(InputError, match="Name the model"):
            ServerBackend.connect(urls)
    assert ("lists no model 'rrm', but another" in capsys.readouterr().err) == (
        models == listing("another")
    )


def test_where_nobody_is_there_it_is_a_sentence():
    with pytest.raises(InputError, match=r"No server answers at .*give base URLs that end in /v1"):
        ServerBackend.connect([f"http://127.0.0.1:{free_port()}/v1"], "rrm")


def test_a_server_that_does_not_answer_is_a_named_failure():
    with (
        running(Fake(good, seconds=1.0)) as urls,
        connected(urls, deadline=0.3, attempt=0.1) as model,
    ):
        begin = time.monotonic()
        judgements = model.judge_many(edits(2))
        assert time.monotonic() - begin < 0.8
    assert kinds(judgements) == ["timed_out"] * 2
    assert (
        "did not answer within 0.1 s" in judgements[0].failure.detail + judgements[1].failure.detail
    )


def test_where_every_server_is_dead_all_fail_at_once_and_none_waits_for_its_deadline():
    fakes = [Fake(lambda body, number: None), Fake(lambda body, number: None)]
    with running(*fakes) as urls, connected(urls, in_flight=4, deadline=60.0) as model:
        begin = time.monotonic()
        judgements = model.judge_many(edits(60))
        assert time.monotonic() - begin < 5
    assert kinds(judgements) == ["server_gone"] * 60
    assert sum(len(fake.asked) for fake in fakes) < 60


def test_a_server_that_was_given_up_works_again_when_it_is_back():
    well = threading.Event()
    fake = Fake(lambda body, number: good(body) if well.is_set() else None)
    with running(fake) as urls, connected(urls) as model:
        assert kinds(model.judge_many(edits(4))) == ["server_gone"] * 4
        well.set()
        time.sleep(servers.LONGEST_COOLING)
        assert kinds(model.judge_many(edits(4))) == [None] * 4


def test_what_is_sent_spells_out_sampling_and_asks_for_what_a_mode_reads():
    fake = Fake(good)
    with running(fake) as urls:
        for asking in (Sampling(), Sampling(k=3, temperature=0.7), Sampling(mode="expectation")):
            with connected(urls, asking) as model:
                judgement = model.judge_many(edits(1))[0]
            assert (judgement.failure is None) == (asking.mode == "reasoning")
        with connected(urls, Sampling(mode="logits")) as model:
            question = model._question(edits(1)[0], (), (GREY, GREY), model.sampling)
            body = model.backend.request(question).body()
    greedy, several, weighed = fake.bodies
    assert (greedy["n"], greedy["temperature"], greedy["top_p"], greedy["max_tokens"]) == (
        1,
        0.0,
        1.0,
        128,
    )
    assert "logprobs" not in greedy
    assert "seed" not in several
    assert (several["n"], several["temperature"]) == (3, 0.7)
    assert (weighed["logprobs"], weighed["top_logprobs"]) == (True, 20)
    assert (body["max_tokens"], body["logprob_token_ids"]) == (1, [100, 101, 102, 103, 104, 105])
    assert [part["type"] for part in greedy["messages"][-1]["content"]] == [
        "image_url",
        "image_url",
        "text",
    ]
