"""A model behind an OpenAI-compatible server as a judge: a teacher, or any other one to compare with."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Iterable, Sequence
from contextlib import ExitStack
from typing import Any, Self, TypeVar

import openai
from PIL import Image

from eval.judges import Done, Edit, Principles
from rrm.endpoints import image_part
from rrm.errors import InputError
from rrm.images import fit
from rrm.parsing import read_principles, read_trace, thought_of
from rrm.prompts import DECOMPOSE_SYSTEM, JUDGE_SYSTEM, decompose_text, judge_text
from rrm.records import Failure, Judgement, TaskToDecompose

REFUSED = (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError)
SANDBOX = "sandbox"
T = TypeVar("T")


class EndpointJudge:
    """Asks for one chat completion per edit, all edits of a batch at once.

    `url` is the server's base URL (ending in /v1), or "sandbox" for the sandbox's own teacher, which is started and stopped
    with the judge. The key is read from the environment variable named `key_variable`; a local server needs none. A `seed` is
    sent along where there is one, and is part of the fingerprint.
    """

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
    ):
        self.url, self.model, self.key_variable, self.seed = url, model, key_variable, seed
        self.temperature, self.max_tokens, self.timeout = temperature, max_tokens, timeout
        self.fingerprint = f"endpoint|{url}|{model}|{temperature}|{max_tokens}" + ("" if seed is None else f"|seed {seed}")
        self.open = ExitStack()

    def __enter__(self) -> Self:
        url = self.url
        if url == SANDBOX:
            from rrm.sandbox.teacher import running_teacher

            url = self.open.enter_context(running_teacher())
        self.runner = self.open.enter_context(asyncio.Runner())
        key = os.environ.get(self.key_variable) or "none"
        self.client = openai.AsyncOpenAI(base_url=url, api_key=key, timeout=self.timeout, max_retries=4)
        self.open.callback(lambda: self.runner.run(self.client.close()))
        return self

    def __exit__(self, *exception: object) -> None:
        self.open.close()

    def prompt(self, instruction: str, principles: Principles, requirement: str | None = None) -> str:
        """The system prompt and the text behind the images."""
        return f"{JUDGE_SYSTEM}\n{judge_text('full', instruction, principles, requirement)}"

    async def answer(self, system: str, images: Sequence[Image.Image], text: str) -> str | Failure:
        """The model's words, or why there are none; it is shown the images within the pixel budget.

        Raises InputError where the server will never answer.
        """
        parts = [*(image_part(fit(image)) for image in images), {"type": "text", "text": text}]
        messages: Any = [{"role": "system", "content": system}, {"role": "user", "content": parts}]
        try:
            reply = await self.client.chat.completions.create(
                model=self.model,
                messages=messages,
                temperature=self.temperature,
                max_tokens=self.max_tokens,
                seed=openai.omit if self.seed is None else self.seed,
            )
        except REFUSED as error:
            raise InputError(f"The server at {self.url} refuses model '{self.model}': {error.message}") from error
        except openai.APITimeoutError as error:
            return Failure(kind="timed_out", detail=str(error))
        except openai.BadRequestError as error:
            return Failure(kind="bad_row", detail=error.message[:200])
        except openai.APIError as error:
            return Failure(kind="server_gone", detail=str(error)[:200])
        if not reply.choices:
            return Failure(kind="empty", detail="no choices")
        return reply.choices[0].message.content or ""

    async def judge(self, edit: Edit) -> Judgement:
        """The judgement of one edit."""
        text = judge_text("full", edit.instruction, edit.principles, edit.requirement)
        answer = await self.answer(JUDGE_SYSTEM, (edit.source, edit.edited), text)
        if isinstance(answer, Failure):
            return Judgement(principles=edit.principles, failure=answer)
        read = read_trace(answer, len(edit.principles))
        if isinstance(read, Failure):
            return Judgement(principles=edit.principles, thought=thought_of(answer), failure=read)
        return Judgement(principles=edit.principles, thought=thought_of(answer), read=read)

    def gather(self, asked: Iterable[Awaitable[T]], done: Done[T]) -> list[T]:
        """Awaits all of them at once, giving `done` each as it comes; returns them in order."""

        async def one(place: int, work: Awaitable[T]) -> T:
            found = await work
            done(place, found)
            return found

        async def together() -> list[T]:
            return list(await asyncio.gather(*(one(place, work) for place, work in enumerate(asked))))

        return self.runner.run(together())

    def judge_many(self, edits: Sequence[Edit], done: Done[Judgement]) -> None:
        """Gives `done` one judgement per edit; InputError where the server answered none of them."""
        judgements = self.gather((self.judge(edit) for edit in edits), done)
        if edits and all(j.failure is not None and j.failure.kind == "server_gone" for j in judgements):
            raise InputError(f"The server at {self.url} does not answer; start it, and the same command carries on.")

    def decompose_many(self, tasks: Sequence[TaskToDecompose], done: Done[Principles | Failure]) -> None:
        """Gives `done` the model's own principles for each task."""

        async def one(task: TaskToDecompose) -> Principles | Failure:
            text = decompose_text("full", task.instruction, task.requirement)
            answer = await self.answer(DECOMPOSE_SYSTEM, (task.source,), text)
            return answer if isinstance(answer, Failure) else read_principles(answer)

        self.gather((one(task) for task in tasks), done)
