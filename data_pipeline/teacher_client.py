"""The connection to one teacher: how fast it is asked, how long it is waited for, and when it is
given up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from aiolimiter import AsyncLimiter

from data_pipeline.settings import DataConfig, Teacher
from rrm.chat import ChatClient, ChatRequest, Completion, Fault, StopRule, every_choice
from rrm.chat.waits import backoff
from rrm.errors import InputError
from rrm.records import Failure
from rrm.runtime.secrets import know_fields

ATTEMPTS = 5
"""Times that a request is sent before a broken connection, a time-out or a 5xx counts as a lost
call."""
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0
"""Seconds before another try, where the server does not say how many: they double every time."""
BURST_SECONDS = 0.02
"""A server that allows n requests per second is sent n·BURST_SECONDS of them at once, at least one.
"""
PROBE_TOKENS = 16
Got = TypeVar("Got")


class TeacherClient:
    """One model on one server, with its limits; `gone` says why nothing is asked of it any more."""

    def __init__(self, address: str, teacher: Teacher, config: DataConfig, share: float):
        self.address, self.teacher, self.config = address, teacher, config
        know_fields(teacher.extra)
        self.client = ChatClient(
            address,
            key_variable=teacher.key_variable or config.key_variable,
            timeout=config.timeout,
        )
        self.rule = StopRule(f"The teacher '{teacher.model}' at {self.client.where}")
        self.places = asyncio.Semaphore(
            max(1, round((teacher.concurrency or config.concurrency) * share))
        )
        self.requests = limiter(teacher.requests_per_minute, share)
        self.tokens = limiter(teacher.tokens_per_minute, share, burst=60.0)
        self.not_before = 0.0
        self.lost_in_a_row = 0
        self.gone: Failure | None = None
        self.unasked = 0
        self.knows_n = False
        """Whether the server has given several answers to one request."""

    def requests_for(self, n: int) -> int:
        """The requests that n answers may take: one each, until the server has shown that it knows
        `n`."""
        return 1 if self.knows_n and not self.client.one_by_one else n

    async def ask(self, request: ChatRequest, tokens: int) -> tuple[Completion, float] | Failure:
        """All the answers that a request wants and the seconds that they took, or why there are
        none."""
        seconds = 0.0
        alone = asyncio.Lock()  # answers that are asked for one by one take one of the places

        async def send(part: ChatRequest) -> Completion | Fault:
            nonlocal seconds
            async with alone:
                got, took = await self.send(part, tokens)
            seconds += took
            return got

        got = await every_choice(self.client, request, send)
        self.note(got)
        if isinstance(got, Fault):
            return got.told
        self.knows_n = self.knows_n or (request.n > 1 and not self.client.one_by_one)
        return got, seconds

    async def send(self, request: ChatRequest, tokens: int) -> tuple[Completion | Fault, float]:
        """What one request comes to after as many tries as it needs, and the seconds that the last
        of them took."""
        patient_until = time.monotonic() + self.config.patience
        tried = waits = 0
        while True:
            await self.turn(tokens)
            if self.gone is not None:
                return Fault(self.gone, "everything"), 0.0
            begin = time.monotonic()
            got = await self.client.attempt(request)
            took = time.monotonic() - begin
            if isinstance(got, Fault) and got.field == "n" and request.n > 1:
                return got, took
            self.rule.note(got)
            if not isinstance(got, Fault) or got.scope != "moment":
                if isinstance(got, Fault) and self.rule.reason is not None:
                    self.give_up(got.failure)
                return got, took
            wait = (
                backoff(waits, FIRST_WAIT, LONGEST_WAIT)
                if got.wait is None and got.limited
                else got.wait or 0.0
            )
            if too_long := self.leave_alone(wait, got):
                return too_long, took
            waits += got.limited
            tried += not got.limited
            if (
                tried == ATTEMPTS
                or self.gone
                or max(time.monotonic(), self.not_before) > patient_until
            ):
                return got, took
            if not got.limited:
                await asyncio.sleep(backoff(tried, FIRST_WAIT, LONGEST_WAIT))

    async def turn(self, tokens: int) -> None:
        """Waits until a request of so many tokens may be sent."""
        while (wait := self.not_before - time.monotonic()) > 0:
            await asyncio.sleep(wait)
        if self.requests:
            await self.requests.acquire()
        if self.tokens:
            await self.tokens.acquire(min(tokens, self.tokens.max_rate))

    def leave_alone(self, seconds: float, fault: Fault) -> Fault | None:
        """Sends nothing for so long; where that is more than the patience there is, the teacher is
        gone for good, and why comes back."""
        if seconds > self.config.patience:
            failure = fault.failure.model_copy(
                update={"detail": f"again in {seconds:.0f} s: {fault.failure.detail}"}
            )
            return replace(fault, failure=self.give_up(failure))
        self.not_before = max(self.not_before, time.monotonic() + seconds)
        return None

    def give_up(self, why: Failure) -> Failure:
        """Notes that this teacher is gone for good."""
        self.gone = self.gone or why
        return why

    def note(self, outcome: object) -> None:
        """Counts calls lost in a row; after enough of them the teacher is gone for good."""
        lost = isinstance(outcome, Fault) and outcome.scope == "moment"
        self.lost_in_a_row = self.lost_in_a_row + 1 if lost else 0
        if isinstance(outcome, Fault) and self.lost_in_a_row >= self.config.give_up_after:
            self.give_up(outcome.failure)

    def why_gone(self) -> str:
        """What to tell the user of a teacher that nothing can do without, and that is gone."""
        detail = self.gone.detail if self.gone else ""
        return self.rule.reason or (
            f"'{self.teacher.model}' at {self.client.where} is gone for good ({detail}) and nothing can go on without it; "
            "mend it and run the same command again: every answer so far is kept."
        )

    async def check(self) -> None:
        """Raises InputError unless the server is there and answers this model. Its list of models
        is a hint: where the model is not on it, one short question shows."""
        listed = await self.tried(self.client.models)
        if isinstance(listed, Fault) and not listed.reached:
            raise InputError(self.nobody(listed))
        names = [] if isinstance(listed, Fault) else listed
        if self.teacher.model in names:
            return
        question = [{"role": "user", "content": "Say yes."}]
        request = self.request(
            question, PROBE_TOKENS, 1, self.teacher.temperatures[0], 0, self.teacher.extra
        )
        got = await self.tried(lambda: self.client.attempt(request))
        if isinstance(got, Fault) and got.scope == "everything":
            known = f"; it lists {', '.join(names[:8])}" if names else ""
            raise InputError(
                f"{self.rule.who} refuses ({got.failure.detail.rstrip('.')}{known}); {got.cure}."
            )
        if isinstance(got, Fault) and got.scope == "moment" and not got.limited:
            raise InputError(self.nobody(got))

    async def tried(self, ask: Callable[[], Awaitable[Got]]) -> Got:
        """What comes of asking at most three times."""
        for waits in range(3):
            got = await ask()
            if not isinstance(got, Fault) or got.scope != "moment" or got.limited:
                break
            await asyncio.sleep(backoff(waits, FIRST_WAIT, LONGEST_WAIT))
        return got

    def nobody(self, fault: Fault) -> str:
        """What to say of a server that does not answer."""
        return (
            f"No teacher answers at {self.client.where} ({fault.failure.detail}); start it (rrm teacher --port 8100, "
            "or vllm serve), correct 'teacher_url', or set 'teacher_url: sandbox', then run the same command again."
        )

    def request(
        self,
        messages: list[dict[str, Any]],
        max_tokens: int,
        n: int,
        temperature: float,
        seed: int,
        extra: Mapping[str, Any],
    ) -> ChatRequest:
        """A request in the server's dialect."""
        teacher = self.teacher
        return ChatRequest(
            model=teacher.model,
            messages=messages,
            max_tokens=max_tokens,
            n=n,
            temperature=temperature,
            seed=seed if teacher.send_seed else None,
            max_tokens_field=teacher.max_tokens_field,
            extra=extra,
        )


def limiter(
    per_minute: float | None, share: float, burst: float = BURST_SECONDS
) -> AsyncLimiter | None:
    """A limiter for `share` of so much per minute, `burst` seconds of it at once."""
    if per_minute is None:
        return None
    per_second = per_minute / 60 * share
    at_once = max(1.0, per_second * burst)
    return AsyncLimiter(at_once, at_once / per_second)
