"""Asking the teachers: OpenAI-compatible servers, each within its own limits.

A call that is answered is in the ledger before anyone sees the answer; one that is not is a named
failure.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property, lru_cache
from typing import Any

from data_pipeline.budget import Budget
from data_pipeline.ledger import Ledger, Paid
from data_pipeline.settings import DataConfig, Teacher
from data_pipeline.stored_images import unreadable
from data_pipeline.teacher_client import TeacherClient
from rrm.chat import ChatRequest
from rrm.errors import InputError
from rrm.images import ImageStore, data_url
from rrm.records import Failure

IMAGES_KEPT = 64
"""Images whose data URL is kept in memory."""
SMALLEST_IMAGE_TOKEN = 28 * 28


@dataclass(frozen=True)
class Call:
    """One request: everything that its answer depends on, and where to send it."""

    stage: str
    model: str
    system: str
    text: str
    images: tuple[str, ...]
    temperature: float
    n: int
    seed: int
    max_tokens: int
    version: str = ""
    base_url: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def key(self) -> str:
        """A hash of all but the address: the same model elsewhere gives the same answers."""
        parts = {
            name: value for name, value in asdict(self).items() if name not in ("base_url", "stage")
        }
        # a field of its own only where it is set: the keys of earlier versions stay what they were
        if not self.extra:
            del parts["extra"]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


Answer = Paid | Failure


def calls_to(
    teacher: Teacher,
    stage: str,
    system: str,
    text: str,
    images: tuple[str, ...],
    seed: int,
    samples: int | None = None,
) -> list[Call]:
    """The requests for all of a teacher's answers to one prompt: per variant and temperature, in
    this order."""
    wanted = teacher.samples if samples is None else samples
    shares = [(1, seed + k) for k in range(wanted)] if teacher.one_by_one else [(wanted, seed)]
    return [
        Call(
            stage=stage,
            model=teacher.model,
            system=f"{system}\n{persona}" if persona else system,
            text=text,
            images=images,
            temperature=temperature,
            n=n,
            seed=own_seed,
            max_tokens=teacher.max_tokens,
            version=teacher.version,
            base_url=teacher.base_url,
            extra=teacher.extra,
        )
        for persona in teacher.personas
        for temperature in teacher.temperatures
        for n, own_seed in shares
    ]


def one_call(
    teacher: Teacher, stage: str, system: str, text: str, images: tuple[str, ...], seed: int
) -> Call:
    """The request for a single answer, at the teacher's first temperature and with its first prompt
    variant."""
    return calls_to(teacher, stage, system, text, images, seed, samples=1)[0]


class Teachers:
    """Every teacher of the config, for one event loop. With several processes each takes its
    `share` of the limits."""

    def __init__(
        self,
        config: DataConfig,
        store: ImageStore,
        ledger: Ledger,
        budget: Budget,
        share: float = 1.0,
    ):
        self.config, self.store, self.ledger, self.budget = config, store, ledger, budget
        self.url = lru_cache(maxsize=IMAGES_KEPT)(
            lambda digest: data_url(store.verified_bytes(digest))
        )
        self.clients: dict[tuple[str, str], TeacherClient] = {}
        for teacher in config.pool:
            address = teacher.base_url or config.teacher_url
            if (address, teacher.model) not in self.clients:
                self.clients[address, teacher.model] = TeacherClient(
                    address, teacher, config, share
                )
        self.needed = {self.client_of(t.model, t.base_url) for t in config.needed}
        self.thinkers = {self.client_of(t.model, t.base_url) for t in config.thinkers}
        self.under_way: dict[str, asyncio.Task[Answer]] = {}
        self.stopped: InputError | None = None

    def client_of(self, model: str, base_url: str | None) -> TeacherClient:
        """The connection to this model."""
        return self.clients[base_url or self.config.teacher_url, model]

    async def close(self) -> None:
        """Closes every connection."""
        for client in self.clients.values():
            await client.client.close()

    async def check(self) -> None:
        """Raises InputError unless every server is there and answers the models asked of it."""
        await asyncio.gather(*(client.check() for client in self.clients.values()))

    async def ask(self, call: Call) -> Answer:
        """The answer, from the ledger where it is there already, or why there is none; a call that
        is under way is not made twice.

        Raises InputError where a teacher that nothing can do without is gone, where the budget is
        spent, and once answers cannot be kept.
        """
        if self.stopped:
            raise self.stopped
        known = self.ledger.get(call.key)
        if known is not None:
            return known
        if (same := self.under_way.get(call.key)) is not None:
            return await same
        self.under_way[call.key] = asyncio.ensure_future(self.ask_anew(call))
        try:
            return await self.under_way[call.key]
        finally:
            del self.under_way[call.key]

    def stop(self, why: InputError) -> None:
        """Nothing more is asked: what is on its way is kept, and whoever asks is told why."""
        self.stopped = self.stopped or why

    async def ask_anew(self, call: Call) -> Answer:
        """The teacher's answer, in the ledger when this returns, or why there is none."""
        client = self.client_of(call.model, call.base_url)
        async with client.places:
            if self.stopped:
                raise self.stopped
            if client.gone is None:
                try:
                    request = self.request(call)
                except InputError as error:
                    return unreadable(self.store, call.images, error)
                answer = await self.paid_for(client, call, request)
            else:
                client.unasked += 1
                answer = client.gone
        if (
            isinstance(answer, Failure)
            and client.gone
            and (client in self.needed or all(other.gone for other in self.thinkers))
        ):
            raise InputError(client.why_gone())
        return answer

    async def paid_for(self, client: TeacherClient, call: Call, request: ChatRequest) -> Answer:
        """What the teacher answers within the budget, in the ledger when this returns."""
        prompt, completion = self.most_prompt_tokens(call), call.n * call.max_tokens
        async with self.budget.reserved(
            client.teacher, prompt * client.requests_for(call.n), completion
        ) as settle:
            got = await client.ask(request, prompt // 4 + call.n * 256)
            if isinstance(got, Failure):
                return got
            answer, seconds = got
            most = (prompt * client.requests_for(call.n), completion)
            paid = Paid(
                answer.choices,
                answer.prompt_tokens,
                answer.completion_tokens,
                round(seconds, 3),
                most,
            )
            settle(paid.prompt_tokens, paid.completion_tokens)
            try:
                self.ledger.add(call.key, call.stage, call.model, paid)
            except InputError as error:  # no room: nothing more is asked
                self.stop(error)
                raise
            return paid

    def request(self, call: Call) -> ChatRequest:
        """The request as OpenAI's protocol has it. Raises InputError where a stored image is
        missing or damaged."""
        content: list[dict[str, Any]] = [
            {"type": "image_url", "image_url": {"url": self.url(i)}} for i in call.images
        ]
        content.append({"type": "text", "text": call.text})
        messages: list[dict[str, Any]] = [
            {"role": "system", "content": call.system},
            {"role": "user", "content": content},
        ]
        client = self.client_of(call.model, call.base_url)
        return client.request(
            messages, call.max_tokens, call.n, call.temperature, call.seed, call.extra
        )

    def most_prompt_tokens(self, call: Call) -> int:
        """A bound on the prompt's tokens: a byte each, and a token per 28×28 pixels of the images."""
        words = len(call.system.encode()) + len(call.text.encode())
        return words + len(call.images) * (self.config.max_pixels // SMALLEST_IMAGE_TOKEN + 8)
