"""`rrm serve` with real vLLM and the shipped checkpoint: what it answers, and what it refuses."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

import httpx
import pytest
from PIL import Image

import rrm
from rrm.errors import InputError
from rrm.images import png_bytes
from rrm.perf.serving import edits
from rrm.records import EditToJudge
from rrm.reward import open_reward
from rrm.reward.local import LocalBackend
from rrm.reward.serve import Serving, alias, free_port, serving_replicas
from rrm.reward.servers import filled
from rrm.verifier.inference import Verifier
from rrm.verifier.messages import judge_messages

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("vllm") is None, reason="the serving extra is not installed"),
]
BASE = Path(rrm.__file__).parent / "sandbox/checkpoints/rrm-base"
KEY = "sesame"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The base URL of one server that wants a key."""
    before, os.environ["RRM_API_KEY"] = os.environ.get("RRM_API_KEY"), KEY
    try:
        with serving_replicas(
            Serving(BASE, port=free_port(), in_flight=32), tmp_path_factory.mktemp("logs")
        ) as replicas:
            yield replicas[0].url
    finally:
        if before is None:
            del os.environ["RRM_API_KEY"]
        else:
            os.environ["RRM_API_KEY"] = before


@pytest.fixture(scope="module")
def asked() -> list[EditToJudge]:
    return list(islice(edits(3), 12))


def post(url: str, image: str, key: str = KEY) -> httpx.Response:
    parts = [
        {"type": "image_url", "image_url": {"url": image}},
        {"type": "text", "text": "caption"},
    ]
    body = {"model": "rrm", "max_tokens": 2, "messages": [{"role": "user", "content": parts}]}
    return httpx.post(
        f"{url}/chat/completions",
        json=body,
        headers={"Authorization": f"Bearer {key}"},
        timeout=120,
    )


def test_greedy_answers_are_those_of_transformers(url: str, asked: list[EditToJudge]) -> None:
    with open_reward(f"server:{url}") as served, open_reward(str(BASE)) as local:
        theirs, ours = served.judge_many(asked), local.judge_many(asked)
    assert served.backend.style == local.backend.style
    assert (
        sum(a.thought == b.thought for a, b in zip(theirs, ours, strict=True)) >= 11
    )  # a near-tie may fall either way


def test_expected_ratings_are_those_of_transformers_however_unlikely_the_digits_are(
    url: str, asked: list[EditToJudge]
) -> None:
    with (
        open_reward(f"server:{url}?mode=logits") as served,
        open_reward(f"rrm:{BASE}?mode=logits") as local,
    ):
        theirs, ours = served.judge_many(asked), local.judge_many(asked)
    assert [j.score for j in theirs] == pytest.approx([j.score for j in ours], abs=1e-3)
    assert [j.mass for j in theirs] == pytest.approx([j.mass for j in ours], rel=1e-2)


def test_several_traces_come_from_one_request(url: str, asked: list[EditToJudge]) -> None:
    with open_reward(f"server:{url}?k=4&temperature=1.0") as served:
        judged = served.judge_many(asked)
    assert all(len(judgement.samples) == 4 for judgement in judged)
    assert all(judgement.score is not None or judgement.failure is not None for judgement in judged)


def test_a_prompt_has_as_many_tokens_as_in_transformers(url: str, asked: list[EditToJudge]) -> None:
    judge = Verifier.load(BASE)
    for edit in asked[:3]:
        messages = judge_messages(judge.style, edit.instruction, edit.principles)
        body = {
            "model": "rrm",
            "max_tokens": 1,
            "messages": filled(messages, (edit.source, edit.edited)),
        }
        answer = httpx.post(
            f"{url}/chat/completions",
            json=body,
            headers={"Authorization": f"Bearer {KEY}"},
            timeout=60,
        )
        expected = judge.inputs([(messages, [edit.source, edit.edited])])["input_ids"].shape[1]
        assert answer.json()["usage"]["prompt_tokens"] == expected


def test_the_server_says_which_weights_it_serves(url: str) -> None:
    with open_reward(f"server:{url}") as served:
        assert served.backend.fingerprint == f"served|{alias(BASE).rpartition('/')[2]}"
    assert LocalBackend.load(BASE).fingerprint.startswith(
        f"checkpoint|{alias(BASE).rpartition('/')[2]}"
    )


def test_a_wrong_key_is_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert post(url, "data:image/png;base64,", key="wrong").status_code == 401
    monkeypatch.setenv("RRM_API_KEY", "wrong")
    with pytest.raises(InputError, match="key in RRM_API_KEY"):
        open_reward(f"server:{url}")


@pytest.mark.parametrize(
    "path", ["/invocations", "/tokenize", "/metrics", "/load", "/v1/models", "/ping", "/version"]
)
def test_nothing_but_the_health_is_told_without_the_key_and_no_other_origin_is_admitted(
    url: str, path: str
) -> None:
    root, foreign = url.removesuffix("/v1"), {"Origin": "http://evil.example"}
    for method in ("GET", "POST", "OPTIONS"):
        assert httpx.request(method, root + path, headers=foreign).status_code == 401
    health = httpx.get(f"{root}/health", headers=foreign)
    assert health.is_success
    assert not [name for name in health.headers if name.startswith("access-control-")]
    assert httpx.get(f"{root}/metrics", headers={"Authorization": f"Bearer {KEY}"}).is_success


@pytest.mark.parametrize(
    "where", ["http://example.com/a.png", "http://127.0.0.1:1/a.png", "file:///etc/hostname"]
)
def test_nothing_that_a_request_names_is_fetched_or_opened(url: str, where: str) -> None:
    answer = post(url, where)
    assert not answer.is_success
    assert "allowed" in answer.text or "local" in answer.text


def test_an_image_that_claims_too_many_pixels_is_refused_and_the_server_lives_on(url: str) -> None:
    bomb = base64.b64encode(png_bytes(Image.new("RGB", (20_000, 6_000)))).decode()
    assert post(url, f"data:image/png;base64,{bomb}").status_code == 400
    fine = base64.b64encode(png_bytes(Image.new("RGB", (56, 56)))).decode()
    assert post(url, f"data:image/png;base64,{fine}").status_code == 200
