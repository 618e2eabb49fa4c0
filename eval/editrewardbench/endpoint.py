"""Vision-language models behind an OpenAI-compatible server as judges of single edits."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Sequence
from contextlib import ExitStack
from typing import Self, TypeVar

from PIL import Image

from eval.editrewardbench.judges import Done, Edit, Principles
from rrm.chat import ChatClient, ChatRequest, Dialect, Fault, StopRule, image_part, patiently
from rrm.errors import InputError
from rrm.images import fit
from rrm.parsing import judgement_of, read_principles
from rrm.prompts import DECOMPOSE_SYSTEM, HOLISTIC_SYSTEM, JUDGE_SYSTEM, decompose_text, judge_text
from rrm.records import Choice, Failure, Judgement, TaskToDecompose

T = TypeVar("T")
RETRIES = 4
"""Of transient failures."""
IN_FLIGHT = 32
"""Requests at once."""


class EndpointJudge:
    """Judges by principles, as a teacher of the data pipeline does: one chat completion per edit,
    all edits of a batch at once.

    `url` is the server's base URL (ending in /v1); `name` stands for it in the fingerprint where
    the URL changes from run to run. The key is read from the environment variable `key_variable`. A
    `seed` is sent where the server's `dialect` takes one, and is part of the fingerprint.
    """

    needs_principles = True

    def __init__(
        self,
        url: str,
        model: str,
        *,
        key_variable: str,
        temperature: float,
        max_tokens: int,
        timeout: float,
        seed: int | None = None,
        dialect: Dialect | None = None,
        name: str | None = None,
    ):
        self.url, self.model, self.key_variable, self.seed = url, model, key_variable, seed
        self.temperature, self.max_tokens, self.timeout = temperature, max_tokens, timeout
        self.dialect = dialect or Dialect()
        self.fingerprint = f"endpoint|{name or url}|{model}|{temperature}|{max_tokens}" + (
            "" if seed is None else f"|seed {seed}"
        )
        self.fingerprint += self.dialect.fingerprint
        self.rule = StopRule(f"The server at {url}")

    def __enter__(self) -> Self:
        with ExitStack() as opened:
            self.runner = opened.enter_context(asyncio.Runner())
            self.client = ChatClient(self.url, key_variable=self.key_variable, timeout=self.timeout)
            opened.callback(lambda: self.runner.run(self.client.close()))
            self.open = opened.pop_all()
        self.slots = asyncio.Semaphore(IN_FLIGHT)
        return self

    def __exit__(self, *exception: object) -> None:
        self.open.close()

    def prompt(
        self, instruction: str, principles: Principles, requirement: str | None = None
    ) -> str:
        """The system prompt and the text behind the images."""
        return f"{JUDGE_SYSTEM}\n{judge_text('full', instruction, principles, requirement)}"

    async def answer(
        self, system: str, images: Sequence[Image.Image], text: str
    ) -> Choice | Failure:
        """The answer, or why there is none. Images are shrunk to the pixel budget. Never raises."""
        try:
            parts = [*(image_part(fit(image)) for image in images), {"type": "text", "text": text}]
        except (InputError, OSError, ValueError) as error:
            return Failure(kind="image_unreadable", detail=str(error)[:300])
        request = ChatRequest(
            self.model,
            [{"role": "system", "content": system}, {"role": "user", "content": parts}],
            self.max_tokens,
            temperature=self.temperature,
            seed=self.seed if self.dialect.send_seed else None,
            extra=self.dialect.extra,
            max_tokens_field=self.dialect.max_tokens_field,
        )
        async with self.slots:
            reply = await patiently(lambda: self.client.attempt(request), RETRIES, self.rule)
        return reply.told if isinstance(reply, Fault) else reply.choices[0]

    async def judge(self, edit: Edit) -> Judgement:
        """The judgement of one edit."""
        text = judge_text("full", edit.instruction, edit.principles, edit.requirement)
        answer = await self.answer(JUDGE_SYSTEM, (edit.source, edit.edited), text)
        if isinstance(answer, Failure):
            return Judgement(principles=edit.principles, failure=answer)
        return judgement_of(answer, edit.principles)

    def gather(self, requests: Iterable[Awaitable[T]], done: Done[T]) -> list[T]:
        """Awaits all requests at once, giving `done` each answer; returns them in order."""

        async def one(place: int, work: Awaitable[T]) -> T:
            answer = await work
            done(place, answer)
            return answer

        async def together() -> list[T]:
            return list(
                await asyncio.gather(*(one(place, work) for place, work in enumerate(requests)))
            )

        return self.runner.run(together())

    def judge_many(self, edits: Sequence[Edit], done: Done[Judgement]) -> None:
        """Gives `done` one judgement per edit. Raises InputError where the server refuses all."""
        judgements = self.gather((self.judge(edit) for edit in edits), done)
        self.check([judgement.failure for judgement in judgements])

    def decompose_many(
        self, tasks: Sequence[TaskToDecompose], done: Done[Principles | Failure]
    ) -> None:
        """Gives `done` the model's own principles of each task. Raises as `judge_many` does."""

        async def one(task: TaskToDecompose) -> Principles | Failure:
            text = decompose_text("full", task.instruction, task.requirement)
            answer = await self.answer(DECOMPOSE_SYSTEM, (task.source,), text)
            return answer if isinstance(answer, Failure) else read_principles(answer)

        answers = self.gather((one(task) for task in tasks), done)
        self.check([answer if isinstance(answer, Failure) else None for answer in answers])

    def check(self, failures: Sequence[Failure | None]) -> None:
        """Raises InputError where the server refuses everything, or was gone for all of these."""
        self.rule.check()
        last = failures[-1] if failures else None
        if last is not None and all(
            failure is not None and failure.kind == "server_gone" for failure in failures
        ):
            raise InputError(
                f"The server at {self.url} does not answer ({last.detail}); start it, and the "
                "same command carries on."
            )


class VlmJudge(EndpointJudge):
    """Asks for one score from 0 to 10 per edit in VIEScore's way, without principles."""

    needs_principles = False

    def prompt(
        self, instruction: str, principles: Principles, requirement: str | None = None
    ) -> str:
        """The system prompt and the text behind the images."""
        return f"{HOLISTIC_SYSTEM}\n{judge_text('holistic', instruction, (), requirement)}"

    async def judge(self, edit: Edit) -> Judgement:
        """The judgement of one edit."""
        text = judge_text("holistic", edit.instruction, (), edit.requirement)
        answer = await self.answer(HOLISTIC_SYSTEM, (edit.source, edit.edited), text)
        if isinstance(answer, Failure):
            return Judgement(failure=answer)
        return judgement_of(answer, ())

    def decompose_many(
        self, tasks: Sequence[TaskToDecompose], done: Done[Principles | Failure]
    ) -> None:
        """No principles: it is asked without any."""
        for place, _ in enumerate(tasks):
            done(place, ())
