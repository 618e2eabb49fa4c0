"""Asking the teachers: OpenAI-compatible servers, through the `openai` client, each within its own limits.

A call that is answered is in the ledger before anyone sees the answer. What a server does to its clients is lived with here: rate limits
(429, Retry-After), 5xx, time-outs, broken connections, half an answer; what remains is a named failure.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from typing import Any

import openai
from aiolimiter import AsyncLimiter
from openai.types.chat import ChatCompletion

from data_pipeline.budget import Budget
from data_pipeline.ledger import Ledger, Paid
from data_pipeline.settings import DataConfig, Teacher
from rrm.endpoints import asked_wait, backoff, passing
from rrm.errors import InputError
from rrm.images import ImageStore, data_url
from rrm.records import Choice, Failure, FailureKind

ATTEMPTS = 5
"""Times that a request is sent before a broken connection, a time-out or a 5xx counts as a lost call."""
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0
"""Seconds before another try, where the server does not say how many: they double every time."""
CONNECTIONS = 16
"""Of one client."""
IMAGES_KEPT = 64
"""Images whose data URL is kept in memory."""
BURST_SECONDS = 0.02
"""A server that allows n requests per second is sent n·BURST_SECONDS of them at once, at least one."""
SMALLEST_IMAGE_TOKEN = 28 * 28
NEVER = (openai.NotFoundError, openai.AuthenticationError, openai.PermissionDeniedError)


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

    @cached_property
    def key(self) -> str:
        """A hash of all but the address: the same model elsewhere gives the same answers."""
        parts = {name: value for name, value in asdict(self).items() if name not in ("base_url", "stage")}
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


Answer = Paid | Failure


def calls_to(
    teacher: Teacher, stage: str, system: str, text: str, images: tuple[str, ...], seed: int, samples: int | None = None
) -> list[Call]:
    """The requests for all of a teacher's answers to one prompt: per variant and temperature, in this order."""
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
        )
        for persona in teacher.personas
        for temperature in teacher.temperatures
        for n, own_seed in shares
    ]


def one_call(teacher: Teacher, stage: str, system: str, text: str, images: tuple[str, ...], seed: int) -> Call:
    """The request for a single answer, at the teacher's first temperature and with its first prompt variant."""
    return calls_to(teacher, stage, system, text, images, seed, samples=1)[0]


def kind_of(error: openai.APIStatusError) -> FailureKind:
    """What it means that a server answered with this error, after all tries."""
    if passing(error.status_code):
        return "server_gone"
    return "image_unreadable" if "image" in error.message.lower() else "refused"


class Line:
    """The connection to one model on one server, with its limits; `gone` says why nothing is asked of it any more."""

    def __init__(self, address: str, teacher: Teacher, config: DataConfig, share: float):
        variable = teacher.key_variable or config.key_variable
        self.address, self.teacher, self.config = address, teacher, config
        places = max(1, round((teacher.concurrency or config.concurrency) * share))
        key = os.environ.get(variable) or "none"
        # the client's time per request grows with its open connections, so each has few
        self.clients = [
            openai.AsyncOpenAI(base_url=address, api_key=key, max_retries=0, timeout=config.timeout)
            for _ in range(-(-places // CONNECTIONS))
        ]
        self.places: asyncio.LifoQueue[openai.AsyncOpenAI] = asyncio.LifoQueue()
        for place in range(places):
            self.places.put_nowait(self.clients[place // CONNECTIONS])
        self.requests = limiter(teacher.requests_per_minute, share)
        self.tokens = limiter(teacher.tokens_per_minute, share, burst=60.0)
        self.not_before = 0.0
        self.lost_in_a_row = 0
        self.gone: Failure | None = None
        self.unasked = 0

    async def turn(self, tokens: int) -> None:
        """Waits until a request of so many tokens may be sent."""
        while (wait := self.not_before - time.monotonic()) > 0:
            await asyncio.sleep(wait)
        if self.requests:
            await self.requests.acquire()
        if self.tokens:
            await self.tokens.acquire(min(tokens, self.tokens.max_rate))

    async def send(
        self, client: openai.AsyncOpenAI, body: dict[str, Any], tokens: int
    ) -> tuple[ChatCompletion, float] | Failure:
        """The completion and the seconds that it took, after as many tries as it needs, or why there is none."""
        patient_until = time.monotonic() + self.config.patience
        tried = waits = 0
        while True:
            await self.turn(tokens)
            begin = time.monotonic()
            try:
                # chat.completions.create() would first walk through every message in search of files: half of a short call's time
                completion = await client.post("/chat/completions", body=body, cast_to=ChatCompletion)
                if completion.choices:
                    return completion, time.monotonic() - begin
                failure = Failure(kind="empty", detail="an answer without choices")
            except openai.RateLimitError as error:
                if error.code == "insufficient_quota":
                    return self.give_up(Failure(kind="server_gone", detail=error.message[:200]))
                wait = asked_wait(error.response.headers, time.time())
                if wait is None:
                    wait = backoff(waits, FIRST_WAIT, LONGEST_WAIT)
                if too_long := self.leave_alone(wait, error):
                    return too_long
                waits += 1
                if self.not_before < patient_until:
                    continue
                return Failure(kind="server_gone", detail=f"429 for {self.config.patience:g} s")
            except openai.APITimeoutError:
                failure = Failure(kind="timed_out", detail=f"no answer within {self.config.timeout:g} s")
            except openai.APIConnectionError as error:
                failure = Failure(kind="server_gone", detail=str(error.__cause__ or error)[:200])
            except NEVER as error:
                return self.give_up(Failure(kind="server_gone", detail=f"{error.status_code}: {error.message}"[:200]))
            except openai.APIStatusError as error:
                failure = Failure(kind=kind_of(error), detail=f"{error.status_code}: {error.message}"[:200])
                if not passing(error.status_code):
                    return failure
                if too_long := self.leave_alone(asked_wait(error.response.headers, time.time()) or 0.0, error):
                    return too_long
            except (openai.APIError, ValueError) as error:  # a body that is not JSON, or not a completion
                failure = Failure(kind="unparseable", detail=f"not a completion: {error}"[:200])
            tried += 1
            if tried == ATTEMPTS or self.gone or max(time.monotonic(), self.not_before) > patient_until:
                return failure
            await asyncio.sleep(backoff(tried, FIRST_WAIT, LONGEST_WAIT))

    @asynccontextmanager
    async def place(self) -> AsyncIterator[openai.AsyncOpenAI]:
        """A connection of this teacher's, once one is free."""
        client = await self.places.get()
        try:
            yield client
        finally:
            self.places.put_nowait(client)

    def leave_alone(self, seconds: float, error: openai.APIStatusError) -> Failure | None:
        """Sends nothing for so long; where that is more than the patience there is, the teacher is gone for good, and why comes back."""
        if seconds > self.config.patience:
            detail = f"{error.status_code}, and again in {seconds:.0f} s: {error.message}"[:200]
            return self.give_up(Failure(kind="server_gone", detail=detail))
        self.not_before = max(self.not_before, time.monotonic() + seconds)
        return None

    def give_up(self, why: Failure) -> Failure:
        """Notes that this teacher is gone for good."""
        self.gone = self.gone or why
        return why

    def note(self, outcome: object) -> None:
        """Counts calls lost in a row; after enough of them the teacher is gone for good."""
        lost = isinstance(outcome, Failure) and outcome.kind in ("server_gone", "timed_out")
        self.lost_in_a_row = self.lost_in_a_row + 1 if lost else 0
        if isinstance(outcome, Failure) and self.lost_in_a_row >= self.config.give_up_after:
            self.give_up(outcome)


def limiter(per_minute: float | None, share: float, burst: float = BURST_SECONDS) -> AsyncLimiter | None:
    """A limiter for `share` of so much per minute, `burst` seconds of it at once."""
    if per_minute is None:
        return None
    per_second = per_minute / 60 * share
    at_once = max(1.0, per_second * burst)
    return AsyncLimiter(at_once, at_once / per_second)


class Teachers:
    """Every teacher of the config, for one event loop. With several processes each takes its `share` of the limits."""

    def __init__(self, config: DataConfig, store: ImageStore, ledger: Ledger, budget: Budget, share: float = 1.0):
        self.config, self.store, self.ledger, self.budget = config, store, ledger, budget
        self.url = lru_cache(maxsize=IMAGES_KEPT)(lambda digest: data_url(store.verified_bytes(digest)))
        self.lines: dict[tuple[str, str], Line] = {}
        for teacher in config.pool:
            address = teacher.base_url or config.teacher_url
            if (address, teacher.model) not in self.lines:
                self.lines[address, teacher.model] = Line(address, teacher, config, share)
        self.needed = {self.line(t.model, t.base_url) for t in config.needed}
        self.thinkers = {self.line(t.model, t.base_url) for t in config.thinkers}
        self.under_way: dict[str, asyncio.Task[Answer]] = {}
        self.stopped: InputError | None = None

    def line(self, model: str, base_url: str | None) -> Line:
        """The connection to this model."""
        return self.lines[base_url or self.config.teacher_url, model]

    async def close(self) -> None:
        """Closes every connection."""
        for line in self.lines.values():
            for client in line.clients:
                await client.close()

    async def check(self) -> None:
        """Raises InputError unless every server is there and serves the models asked of it."""
        for address, lines in by_address(self.lines.values()).items():
            try:
                served = {model.id async for model in lines[0].clients[0].with_options(max_retries=2).models.list()}
            except openai.APIConnectionError as error:
                raise InputError(gone(address)) from error
            except openai.NotFoundError:
                continue  # a server without a list; a wrong model shows at the first call
            except openai.APIStatusError as error:
                raise InputError(f"The teacher at {address} refuses: {error.message}.") from error
            for model in (line.teacher.model for line in lines):
                if model not in served:
                    known = ", ".join(sorted(served))
                    raise InputError(f"The teacher at {address} has no model '{model}'; it serves {known}.")

    async def ask(self, call: Call) -> Answer:
        """The answer, from the ledger where it is there already, or why there is none; a call that is under way is not made twice.

        Raises InputError where a teacher that nothing can do without is gone, where the budget is spent, and once answers cannot be kept.
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
        line = self.line(call.model, call.base_url)
        async with line.place() as client:
            if self.stopped:
                raise self.stopped
            if line.gone is None:
                try:
                    body = self.body(call)
                except (
                    InputError
                ) as error:  # a stored image that is not what it was; deleted, it is stored again before the run ends
                    for digest in call.images:
                        if not self.store.holds(digest):
                            self.store.path(digest).unlink(missing_ok=True)
                    return Failure(kind="image_unreadable", detail=str(error)[:300])
                most = (self.most_prompt_tokens(call), call.n * call.max_tokens)
                async with self.budget.reserved(line.teacher, *most) as settle:
                    sent = await line.send(client, body, self.most_prompt_tokens(call) // 4 + call.n * 256)
                    line.note(sent)
                    if isinstance(sent, Failure):
                        failure = sent
                    else:
                        paid = paid_of(*sent, most)
                        settle(paid.prompt_tokens, paid.completion_tokens)
                        try:
                            self.ledger.add(call.key, call.stage, call.model, paid)
                        except InputError as error:
                            self.stop(error)
                            raise
                        return paid
            else:
                line.unasked += 1
                failure = line.gone
        if line.gone and (line in self.needed or all(other.gone for other in self.thinkers)):
            raise InputError(
                f"'{call.model}' at {line.address} is gone for good ({line.gone.detail}) and nothing can go on without it; "
                "mend it and run the same command again: every answer so far is kept."
            )
        return failure

    def body(self, call: Call) -> dict[str, Any]:
        """The request as OpenAI's protocol has it."""
        content: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": self.url(i)}} for i in call.images]
        content.append({"type": "text", "text": call.text})
        messages = [{"role": "system", "content": call.system}, {"role": "user", "content": content}]
        settings = {"model": call.model, "temperature": call.temperature, "n": call.n, "seed": call.seed}
        limit = self.line(call.model, call.base_url).teacher.max_tokens_field
        return {**settings, limit: call.max_tokens, "messages": messages}

    def most_prompt_tokens(self, call: Call) -> int:
        """A bound on the prompt's tokens: a byte each, and a token per 28×28 pixels of the images."""
        words = len(call.system.encode()) + len(call.text.encode())
        return words + len(call.images) * (self.config.max_pixels // SMALLEST_IMAGE_TOKEN + 8)


def paid_of(completion: ChatCompletion, seconds: float, most: tuple[int, int]) -> Paid:
    """What the ledger keeps of a completion."""
    choices = tuple(
        Choice(content=c.message.content or "", finish_reason=str(c.finish_reason), refusal=c.message.refusal or "")
        for c in completion.choices
    )
    usage = completion.usage
    prompt, completed = (usage.prompt_tokens, usage.completion_tokens) if usage else (None, None)
    return Paid(choices, prompt, completed, round(seconds, 3), most)


def by_address(lines: Iterable[Line]) -> dict[str, list[Line]]:
    """The lines to each server."""
    found: dict[str, list[Line]] = {}
    for line in lines:
        found.setdefault(line.address, []).append(line)
    return found


def gone(url: str) -> str:
    """What to say of a server that does not answer."""
    return (
        f"No teacher answers at {url}; start it (python -m rrm.sandbox.teacher --port 8100, or vllm serve), correct 'teacher_url', "
        "or set 'teacher_url: sandbox', then run the same command again."
    )
