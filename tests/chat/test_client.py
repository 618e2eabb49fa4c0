"""The one chat client against servers that answer oddly, slowly, endlessly or not at all."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rrm.chat import (
    ChatClient,
    ChatRequest,
    Completion,
    Dialect,
    Fault,
    StopRule,
    every_choice,
    patiently,
    reached,
)
from rrm.chat.client import is_loopback
from rrm.chat.faults import fault_of
from rrm.chat.protocol import NoCompletion, read_completion
from rrm.errors import InputError
from rrm.records import Failure
from tests.support.odd_answers import ANSWERS, completion, running_odd

REQUEST = ChatRequest("m", [{"role": "user", "content": "x"}], 64, temperature=0.0)


def asked(url: str, request: ChatRequest = REQUEST, **client: Any) -> Completion | Fault:
    """What one attempt comes to."""

    async def go() -> Completion | Fault:
        opened = ChatClient(url, **client)
        try:
            return await opened.attempt(request)
        finally:
            await opened.close()

    return asyncio.run(go())


def test_every_odd_answer_ends_in_time_as_a_completion_or_a_named_fault():
    with running_odd() as odd:
        for name, (_, kind) in ANSWERS.items():
            odd.now = name
            begin = time.monotonic()
            got = asked(odd.url, timeout=0.4)
            assert time.monotonic() - begin < 2, name
            if kind in (None, "empty", "cut_off"):
                assert isinstance(got, Completion), name
            elif isinstance(got, Completion):  # the parser's part
                assert got.choices[0].refusal or got.choices[0].finish_reason == "content_filter", (
                    name
                )
            else:
                assert got.failure.kind == kind, name
                assert "\n" not in got.failure.detail
                assert len(got.failure.detail) <= 300
                assert "s3cret" not in got.failure.detail + got.cure
                assert (got.scope == "everything") == (kind == "rejected"), name


def test_the_servers_own_words_and_a_cure_are_kept():
    with running_odd() as odd:
        odd.now = "an error in a choice"
        assert "upstream broke" in asked(odd.url).failure.detail
        odd.now = "401"
        got = asked(odd.url, key_variable="MY_KEY")
        assert "Incorrect API key" in got.failure.detail
        assert "MY_KEY" in got.cure
        odd.now = "a redirect"
        assert "http://example.com/v1" in asked(odd.url).failure.detail
        odd.now = "429, until a date"
        assert asked(odd.url).wait == 0.0


PARAMETERS = [
    (
        {"error": {"message": "Unrecognized request argument supplied: seed", "param": None}},
        "send_seed: false",
    ),
    (
        {"error": {"message": "Unsupported parameter: 'max_tokens'.", "param": "max_tokens"}},
        "max_completion_tokens",
    ),
    (
        {
            "error": {
                "message": "parameter.enable_thinking must be set to false for non-streaming calls"
            }
        },
        '"enable_thinking": false',
    ),
    (
        {"detail": [{"type": "extra_forbidden", "loc": ["body", "temperature"], "msg": "no"}]},
        '"temperature": null',
    ),
    ({"error": {"message": "n must be 1", "param": "n"}}, "one_by_one: true"),
    ({"error": {"message": "Model Not Exist"}}, "model's name"),
    ({"error": {"message": "this model does not support image input"}}, "sees images"),
]


@pytest.mark.parametrize(("body", "cure"), PARAMETERS)
def test_a_parameter_that_would_be_refused_every_time_is_named_with_its_cure(body, cure):
    sent = ("model", "messages", "temperature", "seed", "n", "max_tokens")
    fault = fault_of(400, json.dumps(body).encode(), sent, "KEY")
    assert (fault.scope, fault.failure.kind) == ("everything", "rejected")
    assert cure in fault.cure


@pytest.mark.parametrize(
    "words",
    [
        "in an image n pixels are missing",
        "messages[0].content[1]: wrong",
        "The input is too long: reduce max_tokens",
        "This server does not support images larger than 8000 pixels",
        "Image format image/webp is not supported; supported image formats: png",
        "cannot accept the image: too many pixels",
        "The model could not process the image: invalid image data",
        "The model `x` encountered an invalid input: NaN in image embedding",
    ],
)
def test_what_is_wrong_with_one_question_is_of_that_question(words):
    fault = fault_of(
        400,
        json.dumps({"error": {"message": words}}).encode(),
        ("model", "messages", "n", "seed"),
        "KEY",
    )
    assert fault.scope == "question"


@pytest.mark.parametrize(
    "words",
    [
        "The model `gpt-image-1` does not exist or you do not have access to it",
        "invalid model: image-vl",
        "No endpoints found that support image input",
        "Model x does not support image_url content",
    ],
)
def test_a_model_that_is_not_there_or_sees_nothing_stops_a_run(words):
    assert (
        fault_of(
            400, json.dumps({"error": {"message": words}}).encode(), ("model", "messages"), "KEY"
        ).scope
        == "everything"
    )


@pytest.mark.parametrize(
    ("words", "scope"),
    [
        (
            "Rate limit reached on requests per min. Please try again in 20s. Visit https://x/account/billing to add a card",
            "moment",
        ),
        (
            "You exceeded your current quota, please check your plan and billing details. Please retry in 22.1s.",
            "moment",
        ),
        (
            "You exceeded your current quota, please check your plan and billing details.",
            "everything",
        ),
        ("rate limit of 3 per minute: insufficient balance", "everything"),
    ],
)
def test_a_busy_minute_is_waited_for_and_an_empty_account_stops_a_run(words, scope):
    assert (
        fault_of(
            429, json.dumps({"error": {"message": words}}).encode(), ("model", "messages"), "KEY"
        ).scope
        == scope
    )


def test_a_count_of_no_tokens_for_what_was_asked_and_said_is_none():
    def counts(content, prompt, completion):
        usage = {"prompt_tokens": prompt, "completion_tokens": completion}
        got = read_completion(
            {"choices": [{"message": {"content": content}}], "usage": usage},
            ChatRequest("m", [], 9),
        )
        return got.prompt_tokens, got.completion_tokens

    assert counts("words", 0, 0) == (None, None)
    assert counts("words", 7, 2) == (7, 2)
    assert counts("", 7, 0) == (7, 0)


def test_choices_are_checked_before_anyone_sees_them():
    with_tokens = ChatRequest("m", [], 9, top_logprobs=5)
    for logprob in (float("nan"), float("inf"), float("-inf"), True, "high", 1e9, None):
        entry = {"token": "8", "logprob": logprob, "top_logprobs": []}
        with pytest.raises(NoCompletion, match="logprob"):
            read_completion(completion("8", logprobs={"content": [entry]}), with_tokens)
    read = read_completion(
        completion(
            "8", logprobs={"content": [{"token": "8", "logprob": 1e-9, "top_logprobs": []}]}
        ),
        with_tokens,
    )
    assert read.choices[0].tokens[0].probabilities == {"8": 1.0}
    thinking = [
        {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]},
        {"type": "text", "text": "7"},
    ]
    (choice,) = read_completion(completion(thinking), REQUEST).choices
    assert (choice.reasoning, choice.content) == ("Hm.", "7")
    half = read_completion(
        completion("\ud800", finish="\udc00", reasoning="\udfff", refusal="\ud801"), REQUEST
    ).choices[0]
    assert (half.content, half.finish_reason, half.reasoning, half.refusal) == ("?", "?", "?", "?")


@pytest.mark.parametrize("count", [-1, True, float("nan"), 1.5, "12", None, 10**30, [3]])
def test_a_count_of_tokens_that_can_be_none_is_unknown(count):
    read = read_completion(
        completion("x", usage={"prompt_tokens": count, "completion_tokens": 7}), REQUEST
    )
    assert (read.prompt_tokens, read.completion_tokens) == (None, 7)
    assert read_completion(completion("x", usage=[count]), REQUEST).prompt_tokens is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "error",
                    "choices",
                    "message",
                    "content",
                    "code",
                    "param",
                    "detail",
                    "loc",
                    "type",
                    "text",
                    "usage",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(JSON, st.sampled_from([200, 307, 400, 401, 422, 429, 500]))
@settings(deadline=None, max_examples=300)
def test_no_answer_however_odd_is_more_than_a_value(value, status):
    raw = json.dumps(value).encode()
    assert fault_of(status, raw, ("seed", "n"), "KEY").failure.kind
    with suppress(NoCompletion):
        assert read_completion(
            json.loads(raw), ChatRequest("m", [], 9, n=3, top_logprobs=2)
        ).choices


def test_an_error_that_nests_too_deep_is_a_fault_as_well():
    deep = b'{"error": ' * 900 + b"{}" + b"}" * 900
    for status in (200, 400):
        assert fault_of(status, deep, ("seed",), "KEY").failure.kind


def test_null_in_extra_takes_a_field_out_and_an_option_may_be_json():
    request = ChatRequest(
        "m", [], 9, temperature=0.0, seed=3, extra={"temperature": None, "enable_thinking": False}
    )
    body = request.body()
    assert "temperature" not in body
    assert (body["enable_thinking"], body["seed"], body["max_tokens"], body["n"]) == (
        False,
        3,
        9,
        1,
    )
    assert Dialect.checked({"extra": '{"a": 1}'}, "x").extra == {"a": 1}
    for extra in ('{"model": "m"}', "{", '{"a": NaN}', "[1]"):
        with pytest.raises(InputError, match="extra"):
            Dialect.checked({"extra": extra}, "x")


class Script:
    """Stands for a server that answers `n` in its own way."""

    def __init__(self, *script: Completion | Fault):
        self.script, self.seeds = list(script), []

    async def send(self, request: ChatRequest) -> Completion | Fault:
        self.seeds.append((request.n, request.seed))
        return self.script.pop(0)


def one(text: str, tokens: int | None = 5) -> Completion:
    choices = read_completion(completion(text), REQUEST).choices
    return Completion(choices, 10, tokens)


@pytest.mark.parametrize("refuses", [False, True])
def test_a_server_that_ignores_or_refuses_n_is_asked_one_by_one_and_it_is_said_once(
    refuses, capsys
):
    refusal = fault_of(400, b'{"error": {"message": "n must be 1", "param": "n"}}', ("n",), "KEY")
    script = Script(
        refusal if refuses else one("a"),
        *([one("a")] if refuses else []),
        one("b"),
        one("c", None),
        *map(one, "def"),
    )
    client = ChatClient("http://127.0.0.1:9/v1")
    request = ChatRequest("m", [], 9, n=3, seed=7)
    got = asyncio.run(every_choice(client, request, script.send))
    assert [choice.content for choice in got.choices] == ["a", "b", "c"]
    assert (got.prompt_tokens, got.completion_tokens) == (30, None)
    assert script.seeds == [(3, 7), *([(1, 7)] if refuses else []), (1, 8), (1, 9)]
    again = asyncio.run(every_choice(client, request, script.send))
    assert [choice.content for choice in again.choices] == ["d", "e", "f"]
    assert capsys.readouterr().err.count("one answer at a time") == 1


def refusal(scope: str, words: str = "no money") -> Fault:
    return Fault(Failure(kind="rejected", detail=words), scope, cure="top up the account")  # type: ignore[arg-type]


def test_a_run_stops_at_the_third_refusal_of_everything_without_an_answer_between():
    rule = StopRule("The server at x")
    for outcome in (
        refusal("everything"),
        refusal("everything"),
        one("a"),
        *[refusal("question", "too dark")] * 30,
    ):
        rule.note(outcome)
    rule.note(refusal("everything"))
    rule.note(refusal("moment"))
    rule.note(refusal("everything"))
    rule.check()
    rule.note(refusal("everything"))
    with pytest.raises(InputError, match=r"no money.*top up the account"):
        rule.check()


def test_a_refusal_of_unknown_meaning_that_everything_met_from_the_start_stops_a_run_as_well():
    rule = StopRule("The server at x")
    for k in range(60):
        rule.note(refusal("question", f"row {k}"))
    rule.check()
    for _ in range(16):
        rule.note(refusal("question", "wrong moon"))
    with pytest.raises(InputError, match="wrong moon"):
        rule.check()


def test_what_passes_is_tried_again_and_what_does_not_is_not(monkeypatch):
    monkeypatch.setattr("rrm.chat.client.FIRST_WAIT", 0.001)
    with running_odd() as odd:
        for name, attempts in (("503", 4), ("402", 1), ("400, a bad request", 1), ("good", 1)):
            odd.now, odd.bodies = name, []

            async def go() -> None:
                client = ChatClient(odd.url)
                await patiently(lambda: client.attempt(REQUEST), 3, StopRule("The server"))
                await client.close()

            asyncio.run(go())
            assert len(odd.bodies) == attempts, name


def test_proxies_do_not_apply_to_this_machine_and_one_without_its_package_is_a_sentence(
    monkeypatch,
):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with running_odd() as odd:
        assert isinstance(asked(odd.url), Completion)
        assert isinstance(asked(odd.url.replace("127.0.0.1", "localhost")), Completion)
        assert reached(f"{odd.url}/models", 2).is_success
    for name in ("ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "socks5://127.0.0.1:9")
    ChatClient("http://[::1]:8000/v1")
    with pytest.raises(InputError, match="socks"):
        ChatClient("https://api.example.com/v1")
    assert [is_loopback(host) for host in ("127.9.9.9", "::1", "a.localhost", "0.0.0.0")] == [
        True
    ] * 4
    assert not any(map(is_loopback, ("10.0.0.1", "example.com", "127.0.0.1.example.com")))


def test_a_key_goes_into_the_header_and_one_that_cannot_is_refused(monkeypatch):
    monkeypatch.setenv("MY_KEY", "sesame\n")
    with running_odd() as odd:
        asked(odd.url, key_variable="MY_KEY")
        asked(odd.url, key_variable="NO_SUCH_KEY")
    assert odd.headers[0]["Authorization"] == "Bearer sesame"
    assert "Authorization" not in odd.headers[1]
    monkeypatch.setenv("MY_KEY", "ключ")
    with pytest.raises(InputError, match="MY_KEY"):
        ChatClient("http://127.0.0.1/v1", key_variable="MY_KEY")


@pytest.mark.parametrize(
    "url", ["", "localhost:8000", "ftp://x/v1", "http://", "http://[::1/v1", "http://a:b/v1"]
)
def test_what_is_no_address_is_refused_in_a_sentence(url):
    with pytest.raises(InputError, match="is no address of a server"):
        ChatClient(url)


def test_credentials_in_an_address_stand_in_no_failure():
    with running_odd() as odd:
        odd.now = "a page"
        assert "hunter2" not in asked(odd.url.replace("//", "//user:hunter2@")).failure.detail


def test_it_needs_no_torch():
    code = "import rrm.chat, sys; assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
