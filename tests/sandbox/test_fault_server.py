"""What the sandbox's fault server does to its clients, over real HTTP."""

import asyncio
import base64
import hashlib
import io
import json
import time

import httpx
import openai
import pytest
from PIL import Image

from rrm import prompts
from rrm.errors import InputError
from rrm.parsing import principle_faults, read_gold, read_holistic, read_principles, read_trace
from rrm.records import Failure, Principle, Verdicts
from rrm.sandbox.fault_injection import FAULTS, Window, fault_of
from rrm.sandbox.fault_server import FaultConfig, flags_of, running_fault_server, tokens_of

PRINCIPLES = [
    Principle(question="Is it red?", category="follow"),
    Principle(question="Is it clean?", category="quality"),
] * 2
JUDGE = prompts.judge_text("full", "make it red", PRINCIPLES)


def body_of(system=prompts.JUDGE_SYSTEM, text=JUDGE, model="some-model", **more):
    return {
        "messages": [{"role": "system", "content": system}, {"role": "user", "content": text}],
        "model": model,
        **more,
    }


def content(reply):
    return reply.json()["choices"][0]["message"]["content"]


def post_all(url, bodies):
    """Every body at once: status and headers of each answer, in the bodies' order."""

    async def run():
        async with httpx.AsyncClient(
            limits=httpx.Limits(max_connections=200), timeout=20
        ) as client:
            replies = await asyncio.gather(
                *(client.post(f"{url}/chat/completions", json=body) for body in bodies)
            )
            return [(reply.status_code, reply.headers) for reply in replies]

    return asyncio.run(run())


def outcomes(url, count, model="some-model"):
    """What each of so many requests in a row came to: a status, or the client's error."""
    found = []
    with httpx.Client(timeout=20) as client:
        for number in range(count):
            try:
                found.append(
                    client.post(
                        f"{url}/chat/completions", json=body_of(model=model, seed=number)
                    ).status_code
                )
            except httpx.HTTPError as error:
                found.append(type(error).__name__)
    return found


@pytest.fixture(scope="module")
def http():
    with httpx.Client() as client:  # a new one for each request would cost more than the request
        yield client


@pytest.fixture(scope="module")
def calm():
    with running_fault_server(canned=True) as url:
        yield url


@pytest.fixture(scope="module")
def slow():
    with running_fault_server(delay=0.3, dies_after=12, canned=True) as url:
        yield url


def test_canned_answers_have_the_form_that_each_prompt_asks_for(calm, http):
    def ask(system, text=JUDGE, **more):
        return http.post(f"{calm}/chat/completions", json=body_of(system, text, **more))

    assert isinstance(read_trace(content(ask(prompts.JUDGE_SYSTEM)), 4), Verdicts)
    assert isinstance(read_trace(content(ask(prompts.SCORE_ONLY_SYSTEM)), 4), Verdicts)
    assert isinstance(
        read_holistic(content(ask(prompts.HOLISTIC_SYSTEM, 'Instruction: "x"'))), Verdicts
    )
    assert len(read_gold(content(ask(prompts.GOLD_SYSTEM)), 4)[0]) == 4
    references = prompts.verify_text("make it red", PRINCIPLES, ["1. [keep] Is it there? yes"])
    assert len(read_gold(content(ask(prompts.VERIFY_SYSTEM, references)), 4)[0]) == 4
    principles = read_principles(
        content(ask(prompts.DECOMPOSE_SYSTEM + "\nWrite 10.", 'Instruction: "x"'))
    )
    assert (
        principle_faults(principles, {"follow": (2, 5), "keep": (2, 5), "quality": (1, 4)}, (8, 12))
        == []
    )
    criteria = json.loads(content(ask(prompts.FILTER_SYSTEM, 'Instruction: "x"')))
    assert {row["criterion"] for row in criteria} == {
        "multi-step",
        "fine-grained",
        "implicit",
        "spatial",
    }


def test_canned_answers_differ_between_samples_and_not_between_calls(calm, http):
    bodies = [
        http.post(f"{calm}/chat/completions", json=body_of(n=8)).json()["choices"] for _ in range(2)
    ]
    texts = [choice["message"]["content"] for choice in bodies[0]]
    assert bodies[0] == bodies[1]
    assert len(set(texts)) > 1


def test_what_is_no_prompt_of_ours_is_refused_in_openais_form(calm, http):
    with (
        openai.OpenAI(base_url=calm, api_key="none", max_retries=0) as client,
        pytest.raises(openai.BadRequestError),
    ):
        client.chat.completions.create(**body_of("Tell me a joke."))
    assert (
        http.post(f"{calm}/elsewhere", json={}).json()["error"]["type"] == "invalid_request_error"
    )


def test_no_second_sees_more_requests_than_are_allowed(tmp_path):
    allowed, log = 20, tmp_path / "log.jsonl"
    with running_fault_server(requests_per_second=allowed, canned=True, log=log) as url:
        waves = []
        for wave in range(8):
            waves += post_all(url, [body_of(seed=wave * 30 + k) for k in range(30)])
            time.sleep(0.12)
    times = [
        row["t"]
        for row in map(json.loads, log.read_text().splitlines())
        if row["event"] == "answered"
    ]
    assert len(times) == sum(status == 200 for status, _ in waves) >= 2 * allowed
    assert max(sum(start <= t < start + 0.98 for t in times) for start in times) <= allowed
    limited = [headers for status, headers in waves if status == 429]
    assert len(limited) == 240 - len(times) > 0
    for headers in limited:
        assert 0 < float(headers["retry-after"]) <= 1
        assert float(headers["retry-after-ms"]) == pytest.approx(
            1000 * float(headers["retry-after"])
        )


def test_a_client_that_waits_as_long_as_it_is_told_is_let_in(http):
    with running_fault_server(requests_per_second=2, canned=True) as url:
        assert [
            http.post(f"{url}/chat/completions", json=body_of()).status_code for _ in range(2)
        ] == [200, 200]
        refused = http.post(f"{url}/chat/completions", json=body_of())
        assert refused.status_code == 429
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"
        time.sleep(float(refused.headers["retry-after"]))
        assert http.post(f"{url}/chat/completions", json=body_of()).status_code == 200


def test_tokens_are_limited_over_a_minute():
    with (
        running_fault_server(tokens_per_minute=2500, canned=True) as url,
        openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client,
    ):
        for _ in range(2):
            client.chat.completions.create(**body_of(max_tokens=1000))
        with pytest.raises(openai.RateLimitError) as caught:
            client.chat.completions.create(**body_of(max_tokens=1000))
    assert 50 < float(caught.value.response.headers["retry-after"]) <= 60
    assert "tokens per minute" in caught.value.message


def test_tokens_are_the_larger_of_the_text_and_what_may_be_written():
    def size(**more):
        return tokens_of(json.dumps(body_of("s" * 400, "t" * 400, **more)).encode())

    assert (size(), size(max_tokens=300, n=2), size(max_completion_tokens=100)) == (200, 600, 200)


def test_a_window_says_how_long_to_wait():
    window = Window(3, 1.0)
    for now in (0.0, 0.25, 0.5):
        assert window.wait(now, 1) == 0
        window.take(now, 1)
    assert (window.wait(0.75, 1), window.wait(0.75, 2)) == (0.25, 0.5)
    assert (window.wait(1.0, 1), window.wait(1.0, 4)) == (0, 1.0)


def test_an_answer_takes_as_long_as_the_delay(slow):
    started = time.perf_counter()
    assert [status for status, _ in post_all(slow, [body_of()] * 10)] == [200] * 10
    assert 0.3 <= time.perf_counter() - started < 2


def test_a_broken_connection_is_the_clients_connection_error(http):
    kinds = ("reset", "half_body", "hang")
    expected = {
        "reset": httpx.ReadError,
        "hang": httpx.ReadError,
        "half_body": httpx.RemoteProtocolError,
    }
    with running_fault_server(faults=1, kinds=kinds, hang=0.05, canned=True) as url:
        drawn = [fault_of(0, number, 1, kinds) for number in range(1, 9)]
        assert set(drawn) == set(kinds)
        for kind in drawn:
            with pytest.raises(expected[kind]):
                http.post(f"{url}/chat/completions", json=body_of())
        with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
            for _ in range(8):
                with pytest.raises(openai.APIConnectionError):
                    client.chat.completions.create(**body_of())


def test_a_hang_outlasts_a_client_that_gives_up(http):
    with running_fault_server(faults=1, kinds=["hang"], canned=True) as url:
        with pytest.raises(httpx.ReadTimeout):
            http.post(f"{url}/chat/completions", json=body_of(), timeout=0.3)
        assert http.get(f"{url}/models").status_code == 200


def test_each_spoilt_answer_is_spoilt_in_its_way(calm, http):
    good = content(http.post(f"{calm}/chat/completions", json=body_of()))
    kinds = (
        "error_500",
        "error_503",
        "no_choices",
        "null",
        "refusal",
        "prose",
        "cut_off",
        "one_too_few",
    )
    met = {}
    with running_fault_server(faults=1, kinds=kinds, canned=True) as url:
        for number in range(1, 61):
            met[fault_of(0, number, 1, kinds)] = http.post(
                f"{url}/chat/completions", json=body_of()
            )
    assert (met["error_500"].status_code, met["error_503"].status_code) == (500, 503)
    assert (
        met["error_500"].json()["error"]["type"]
        == met["error_503"].json()["error"]["type"]
        == "server_error"
    )
    assert met["no_choices"].json()["choices"] == []
    assert content(met["null"]) is None
    assert read_trace(content(met["refusal"]), 4).kind == "refused"
    assert read_trace(content(met["prose"]), 4).kind == "unparseable"
    assert read_trace(content(met["one_too_few"]), 3).verdicts == read_trace(good, 4).verdicts[:3]
    assert met["cut_off"].json()["choices"][0]["finish_reason"] == "length"
    assert good.startswith(content(met["cut_off"]))
    assert isinstance(read_trace(content(met["cut_off"]), 4), Failure)


@pytest.mark.parametrize("seed", [3, 4])
def test_faults_depend_on_the_seed_and_the_number_of_the_request_alone(seed):
    kinds = ("error_500", "error_503", "reset", "half_body")
    expected = {
        None: 200,
        "error_500": 500,
        "error_503": 503,
        "reset": "ReadError",
        "half_body": "RemoteProtocolError",
    }
    with running_fault_server(faults=0.5, kinds=kinds, seed=seed, canned=True) as url:
        assert outcomes(url, 30) == [
            expected[fault_of(seed, number, 0.5, kinds)] for number in range(1, 31)
        ]


def test_the_share_of_faults_and_their_kinds_are_as_asked_for():
    drawn = [fault_of(0, number, 0.2, FAULTS) for number in range(5000)]
    met = [fault for fault in drawn if fault]
    assert drawn != [fault_of(1, number, 0.2, FAULTS) for number in range(5000)]
    assert 0.18 < len(met) / len(drawn) < 0.22
    assert set(met) == set(FAULTS)


@pytest.mark.parametrize(("dies_by", "end"), [("error_503", 503), ("reset", "ReadError")])
def test_a_model_that_died_stays_dead_and_the_others_live(dies_by, end):
    with running_fault_server(
        dies_after=3, dies_model="mortal", dies_by=dies_by, canned=True
    ) as url:
        assert outcomes(url, 6, "mortal") == [200, 200, 200, end, end, end]
        assert outcomes(url, 4, "other") == [200] * 4
        assert outcomes(url, 1, "mortal") == [end]


def test_a_model_gives_no_more_answers_than_it_lives_for_however_many_are_in_flight(slow):
    assert (
        sorted(status for status, _ in post_all(slow, [body_of(model="mortal")] * 20))
        == [200] * 12 + [503] * 8
    )


def test_the_log_has_a_line_per_request_and_per_answer(tmp_path, http):
    log = tmp_path / "log.jsonl"
    bodies = [json.dumps(body_of(seed=k)).encode() for k in range(3)]
    with running_fault_server(requests_per_second=2, canned=True, log=log) as url:
        for body in bodies:
            http.post(f"{url}/chat/completions", content=body)
        rows = [json.loads(line) for line in log.read_text().splitlines()]
    digests = [hashlib.sha256(body).hexdigest() for body in bodies]
    assert [row["body"] for row in rows if row["event"] == "asked"] == digests
    assert [row["body"] for row in rows if row["event"] == "answered"] == digests[:2]
    assert {row["model"] for row in rows} == {"some-model"}
    assert all(abs(row["t"] - time.time()) < 20 for row in rows)


def test_behind_the_faults_is_the_sandboxs_teacher(http):
    picture = io.BytesIO()
    Image.new("RGB", (8, 8)).save(picture, "PNG")
    image = {
        "type": "image_url",
        "image_url": {
            "url": "data:image/png;base64," + base64.b64encode(picture.getvalue()).decode()
        },
    }
    text = {"type": "text", "text": 'Instruction: "make the red circle blue"'}
    asked = body_of(prompts.DECOMPOSE_SYSTEM, [image, text], "sandbox-careful", temperature=0)
    with running_fault_server() as url:
        assert http.post(f"{url}/chat/completions", json=body_of()).status_code == 404
        reply = http.post(f"{url}/chat/completions", json=asked)
    assert "Is the red circle blue now?" in [
        principle.question for principle in read_principles(content(reply))
    ]


def test_a_wrong_setting_is_named():
    with pytest.raises(InputError, match="rain"):
        FaultConfig.given(None, ["rain=1"])
    with pytest.raises(InputError, match="faults"):
        FaultConfig.given(None, ["faults=2"])


def test_a_file_gives_settings_and_flags_go_before_it(tmp_path):
    path = tmp_path / "faults.yaml"
    path.write_text("delay: 0.5\nseed: 3\n")
    config = FaultConfig.given(path, ["seed=4"])
    assert (config.delay, config.seed) == (0.5, 4)
    assert flags_of(config) == ["delay=0.5", "seed=4"]
