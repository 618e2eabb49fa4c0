"""Whoever asks a chat server makes the same of the same odd answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from odd_answers import ANSWERS, Odd, running_odd
from PIL import Image

from eval.editors.items import EditItem
from eval.editors.judge import AnswerRows, Judge, JudgeSettings
from eval.editors.prompts import consistency_question
from eval.editrewardbench.specs import endpoint_of
from eval.editrewardbench.vlm import VlmJudge
from eval.judges import Edit
from rrm.chat import ChatClient
from rrm.prompts import write_answer
from rrm.records import Failure, Principle
from rrm.reward import open_reward, servers

GREY = Image.new("RGB", (56, 56), "grey")
PRINCIPLES = (Principle(question="Is the circle red?", category="follow"),)
TIMEOUT = 0.3


def kind_of(failure: Failure | None) -> str | None:
    return None if failure is None else failure.kind


def by_vlm(odd: Odd, tmp_path: Path) -> str | None:
    with endpoint_of(VlmJudge, f"vlm:{odd.url}?model=m&timeout={TIMEOUT}", None) as judge:
        (judgement,) = judge.gather([judge.judge(Edit("e", GREY, GREY, "redden it", ()))], lambda *found: None)
    return kind_of(judgement.failure)


def by_server(odd: Odd, tmp_path: Path) -> str | None:
    with open_reward(f"server:{odd.url}?model=m&deadline={TIMEOUT}&attempt={TIMEOUT}") as model:
        return kind_of(model.judge(GREY, GREY, "redden it", PRINCIPLES).failure)


def by_editors_judge(odd: Odd, tmp_path: Path) -> str | None:
    settings = JudgeSettings(url=odd.url, model="m", timeout=TIMEOUT, retries=0)
    item = EditItem("i", "add", "en", "redden it", True, "o.png", GREY, "s")

    async def go() -> Any:
        async with ChatClient(settings.url, timeout=TIMEOUT) as client:
            judge = Judge(settings, AnswerRows(tmp_path / f"{len(odd.bodies)}.jsonl"), client)
            return await judge.answer(item, consistency_question("redden it"), GREY)

    return kind_of(asyncio.run(go()).failure)


USERS: dict[str, tuple[Callable[[Odd, Path], str | None], str]] = {
    "vlm": (by_vlm, "Fine. <score>7.5</score>"),
    "server": (by_server, write_answer((1,), 8.0)),
    "editors judge": (by_editors_judge, '{"reasoning": "fine", "score": [7, 8]}'),
}


@pytest.mark.parametrize("user", USERS)
def test_every_user_makes_the_same_of_the_same_answer(user, tmp_path, monkeypatch):
    monkeypatch.setattr("eval.endpoint.RETRIES", 0)
    monkeypatch.setattr(servers, "GIVEN_UP", 1)
    ask, text = USERS[user]
    found = {}
    with running_odd(lambda body: text) as odd:
        for odd.now in ANSWERS:
            found[odd.now] = ask(odd, tmp_path)
    assert found == {name: kind for name, (_, kind) in ANSWERS.items()}
