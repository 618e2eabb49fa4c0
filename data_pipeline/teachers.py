"""Asking the teachers: OpenAI-compatible servers, through the `openai` client alone."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from typing import Any

import openai
from openai.types.chat import ChatCompletion
from pydantic import Field
from tqdm import tqdm

from data_pipeline.journal import Journal
from rrm.config import Config
from rrm.errors import InputError
from rrm.images import ImageStore
from rrm.records import Failure, FailureKind

Answer = tuple[str, ...] | Failure
URLS_KEPT = 512
"""Images whose data URL is kept in memory."""


class Teacher(Config):
    """A model and how it is asked."""

    model: str
    url: str | None = None
    temperatures: tuple[float, ...] = Field((0.7,), min_length=1)
    samples: int = Field(2, ge=1)
    persona: str = ""


@dataclass(frozen=True)
class Call:
    """One request: everything that its answer depends on, and where to send it (None: the config's own server)."""

    stage: str
    model: str
    system: str
    text: str
    images: tuple[str, ...]
    temperature: float
    n: int
    seed: int
    url: str | None = None

    @cached_property
    def key(self) -> str:
        """A hash of all but the address: the same model elsewhere gives the same answers."""
        parts = {name: value for name, value in asdict(self).items() if name != "url"}
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def instructed(system: str, teacher: Teacher) -> str:
    """The system prompt with the teacher's persona."""
    return f"{system}\n{teacher.persona}" if teacher.persona else system


class Teachers:
    """The open connections to every server of the pool."""

    def __init__(self, url: str, store: ImageStore, concurrency: int, timeout: float, key_variable: str):
        self.url, self.concurrency, self.timeout = url, concurrency, timeout
        self.key = os.environ.get(key_variable) or "none"
        self.clients: dict[str, openai.AsyncOpenAI] = {}
        self.data_url = lru_cache(maxsize=URLS_KEPT)(lambda digest: data_url(store, digest))

    def client(self, url: str | None) -> openai.AsyncOpenAI:
        """The client of the server at this address."""
        address = url or self.url
        if address not in self.clients:
            self.clients[address] = openai.AsyncOpenAI(base_url=address, api_key=self.key, max_retries=3, timeout=self.timeout)
        return self.clients[address]

    async def close(self) -> None:
        """Closes every connection."""
        for client in self.clients.values():
            await client.close()

    async def check(self, pool: Iterable[Teacher]) -> None:
        """Raises InputError unless every server is there and serves the models asked of it."""
        for url, wanted in by_url(pool).items():
            address = url or self.url
            try:
                served = {model.id async for model in self.client(url).with_options(max_retries=0).models.list()}
            except openai.APIConnectionError as error:
                raise InputError(gone(address)) from error
            except openai.NotFoundError:
                continue  # a server without a list; a wrong model shows at the first call
            except openai.APIStatusError as error:
                raise InputError(f"The teacher at {address} refuses: {error.message}.") from error
            for model in wanted:
                if model not in served:
                    known = ", ".join(sorted(served))
                    raise InputError(f"The teacher at {address} has no model '{model}'; it serves {known}.")

    async def ask(self, call: Call) -> Answer:
        """The texts of the answer's choices, or why there are none.

        Raises InputError where the server is gone, does not know the model or takes no request from us.
        """
        content: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": self.data_url(i)}} for i in call.images]
        content.append({"type": "text", "text": call.text})
        messages = [{"role": "system", "content": call.system}, {"role": "user", "content": content}]
        settings = {"model": call.model, "temperature": call.temperature, "n": call.n, "seed": call.seed}
        try:
            # chat.completions.create() would first walk through every message in search of files: half of a short call's time
            completion = await self.client(call.url).post(
                "/chat/completions", body={**settings, "messages": messages}, cast_to=ChatCompletion
            )
        except openai.APITimeoutError:
            return Failure(kind="timed_out", detail=f"no answer within {self.timeout:g} s")
        except openai.APIConnectionError as error:
            raise InputError(gone(call.url or self.url)) from error
        except (openai.NotFoundError, openai.AuthenticationError, openai.PermissionDeniedError) as error:
            raise InputError(f"The teacher at {call.url or self.url} refuses '{call.model}': {error.message}.") from error
        except openai.APIStatusError as error:
            return Failure(kind=kind_of(error), detail=f"{error.status_code}: {error.message}"[:200])
        return tuple(choice.message.content or choice.message.refusal or "" for choice in completion.choices)


def kind_of(error: openai.APIStatusError) -> FailureKind:
    """What it means that a server answered with this error, after the client's retries."""
    if error.status_code >= 429:
        return "server_gone"
    return "image_unreadable" if "image" in error.message.lower() else "refused"


def data_url(store: ImageStore, digest: str) -> str:
    """The stored image as a data URL."""
    return "data:image/png;base64," + base64.b64encode(store.path(digest).read_bytes()).decode()


def by_url(pool: Iterable[Teacher]) -> dict[str | None, set[str]]:
    """The models wanted of each server."""
    wanted: dict[str | None, set[str]] = {}
    for teacher in pool:
        wanted.setdefault(teacher.url, set()).add(teacher.model)
    return wanted


def gone(url: str) -> str:
    """What to say of a server that does not answer."""
    return (
        f"No teacher answers at {url}; start it (python -m rrm.sandbox.teacher --port 8100, or vllm serve), correct 'teacher_url', "
        "or set 'teacher_url: sandbox', then run the same command again."
    )


async def ask_all(teachers: Teachers, journal: Journal, calls: Sequence[Call], name: str) -> dict[str, Answer]:
    """An answer for every call, by its key: from the journal where it holds one, else from the teacher, and then noted there."""
    found: dict[str, Answer] = {call.key: journal.answers[call.key] for call in calls if call.key in journal.answers}
    todo = {call.key: call for call in calls if call.key not in found}
    queue: Iterator[Call] = iter(todo.values())
    with tqdm(total=len(found) + len(todo), initial=len(found), desc=name, unit="call") as bar:

        async def work() -> None:
            for call in queue:
                answer = await teachers.ask(call)
                found[call.key] = answer
                if not isinstance(answer, Failure):
                    journal.add(call.key, answer)
                bar.update()

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(teachers.concurrency):
                    group.create_task(work())
        except ExceptionGroup as several:
            raise several.exceptions[0] from None
    return found
