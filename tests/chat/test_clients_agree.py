"""Whoever asks a chat server makes the same of the same odd answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from data_pipeline.budget import Budget
from data_pipeline.ledger import Ledger, Paid
from data_pipeline.settings import DataConfig
from data_pipeline.teachers import Teachers, one_call
from eval.cache import AnswerCache
from eval.editors.items import EditItem
from eval.editors.judge import AnswerRow, Judge, JudgeSettings
from eval.editors.prompts import consistency_question
from eval.editrewardbench.endpoint import VlmJudge
from eval.editrewardbench.judges import Edit
from eval.editrewardbench.specs import endpoint_of, sampling_of
from rrm.chat import ChatClient
from rrm.images import ImageStore
from rrm.parsing import read_answer
from rrm.prompts import write_answer
from rrm.records import Failure, Principle
from rrm.reward import open_reward, servers
from tests.support.odd_answers import ANSWERS, Odd, running_odd

GREY = Image.new("RGB", (56, 56), "grey")
PRINCIPLES = (Principle(question="Is the circle red?", category="follow"),)
TIMEOUT = 0.3


def kind_of(failure: Failure | None) -> str | None:
    return None if failure is None else failure.kind


def by_vlm(odd: Odd, tmp_path: Path) -> str | None:
    with endpoint_of(VlmJudge, f"vlm:{odd.url}?model=m&timeout={TIMEOUT}", None) as judge:
        (judgement,) = judge.gather(
            [judge.judge(Edit("e", GREY, GREY, "redden it", ()))], lambda *found: None
        )
    return kind_of(judgement.failure)


def by_server(odd: Odd, tmp_path: Path) -> str | None:
    with open_reward(f"server:{odd.url}?model=m&deadline={TIMEOUT}&timeout={TIMEOUT}") as model:
        return kind_of(model.judge(GREY, GREY, "redden it", PRINCIPLES).failure)


def by_editors_judge(odd: Odd, tmp_path: Path) -> str | None:
    settings = JudgeSettings(url=odd.url, model="m", timeout=TIMEOUT, retries=0)
    item = EditItem("i", "add", "en", "redden it", True, "o.png", GREY, "s")

    async def go() -> Any:
        async with ChatClient(settings.url, timeout=TIMEOUT) as client:
            judge = Judge(
                settings, AnswerCache(tmp_path / f"{len(odd.bodies)}.jsonl", AnswerRow), client
            )
            return await judge.answer(item, consistency_question("redden it"), GREY)

    return kind_of(asyncio.run(go()).failure)


def by_teachers(odd: Odd, tmp_path: Path) -> str | None:
    teacher = {"model": "m", "temperatures": [0.0], "samples": 1}
    roles = {"decomposer": teacher, "thinkers": [teacher], "gold_teacher": teacher}
    config = DataConfig.model_validate(
        {
            "out": str(tmp_path / "data"),
            "tasks": "t",
            "teacher_url": odd.url,
            "timeout": TIMEOUT,
            "patience": 0.01,
            **roles,
        }
    )

    async def go() -> Paid | Failure:
        with Ledger(tmp_path / f"{len(odd.bodies)}.sqlite") as ledger:
            teachers = Teachers(config, ImageStore(tmp_path / "images"), ledger, Budget())
            call = one_call(config.gold_teacher, "think", "system", "question", (), 0)
            try:
                return await teachers.paid_for(
                    teachers.client_of("m", None), call, teachers.request(call)
                )
            finally:
                await teachers.close()

    got = asyncio.run(go())
    read = got if isinstance(got, Failure) else read_answer(got.choices[0], 1)
    return kind_of(read if isinstance(read, Failure) else None)


USERS: dict[str, tuple[Callable[[Odd, Path], str | None], str]] = {
    "vlm": (by_vlm, "Fine. <score>7.5</score>"),
    "server": (by_server, write_answer((1,), 8.0)),
    "teachers": (by_teachers, write_answer((1,), 8.0)),
    "editors judge": (by_editors_judge, '{"reasoning": "fine", "score": [7, 8]}'),
}


@pytest.mark.parametrize("user", USERS)
def test_every_user_makes_the_same_of_the_same_answer(user, tmp_path, monkeypatch):
    monkeypatch.setattr("eval.editrewardbench.endpoint.RETRIES", 0)
    monkeypatch.setattr(servers, "GIVEN_UP", 1)
    monkeypatch.setattr("data_pipeline.teacher_client.ATTEMPTS", 1)
    ask, text = USERS[user]
    found = {}
    with running_odd(lambda body: text) as odd:
        for odd.now in ANSWERS:
            found[odd.now] = ask(odd, tmp_path)
    assert found == {name: kind for name, (_, kind) in ANSWERS.items()}


def test_what_a_server_takes_differently_is_sent_and_what_may_change_an_answer_is_in_the_fingerprint():
    where, extra = (
        "vlm:http://127.0.0.1:9/v1?model=m",
        'extra={"enable_thinking":false,"temperature":null}',
    )
    usual, other = (
        endpoint_of(VlmJudge, where, 3),
        endpoint_of(VlmJudge, f"{where}&{extra}&send_seed=false", 3),
    )
    assert usual.fingerprint != other.fingerprint
    assert sampling_of(where, 0).keys() == {
        "model",
        "key",
        "temperature",
        "max_tokens",
        "timeout",
        "seed",
    }
    assert sampling_of(f"{where}&{extra}", 0)["extra"] == {
        "enable_thinking": False,
        "temperature": None,
    }
    with running_odd(lambda body: USERS["vlm"][1]) as odd:
        spec = f"vlm:{odd.url}?model=m&{extra}&send_seed=false&max_tokens_field=max_completion_tokens&max_tokens=9"
        with endpoint_of(VlmJudge, spec, 3) as judge:
            judge.judge_many([Edit("e", GREY, GREY, "redden it", ())], lambda *found: None)
        with open_reward(
            f"server:{odd.url}?model=m&style=holistic&seed=5&send_seed=true&{extra}"
        ) as model:
            model.judge(GREY, GREY, "redden it")
    vlm, server = odd.bodies
    assert vlm["max_completion_tokens"] == 9
    assert not {"seed", "temperature", "max_tokens"} & vlm.keys()
    assert vlm["enable_thinking"] is server["enable_thinking"] is False
    assert server["seed"] == 5
    assert "temperature" not in server
