"""The model on one or several OpenAI-compatible servers: the least busy one is asked, what a dead
one leaves goes to the others.

A question ends as a reply or as a named failure before its deadline, once: an attempt that is given
up is cancelled before the next begins.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from PIL.Image import Image

from rrm.chat import (
    ChatClient,
    ChatRequest,
    Completion,
    Dialect,
    Fault,
    StopRule,
    every_choice,
    image_part,
    waited,
)
from rrm.chat.client import Send
from rrm.chat.faults import is_transient
from rrm.chat.waits import backoff
from rrm.errors import InputError
from rrm.prompts import Style, longest_trace
from rrm.records import Failure
from rrm.reward.backend import LIKELIEST, Progress, Question, Reply
from rrm.reward.expectation import RATINGS
from rrm.reward.listing import ALIAS, listed, single_tokens
from rrm.verifier.messages import Message

log = logging.getLogger(__name__)

COOLING, LONGEST_COOLING = 0.5, 30.0
"""Seconds that a server is left alone after its first fault in a row, and at most."""
GIVEN_UP = 8
"""Faults in a row after which a server counts as dead: where all do, a question that finds them at
rest fails at once."""


@dataclass(frozen=True)
class Patience:
    """How long is waited, in seconds, and how many questions are under way."""

    deadline: float = 300.0
    """From the moment a question is first sent until it has failed for good."""
    attempt: float = 100.0
    """For one server's answer."""
    in_flight: int = 32
    """Questions at one server at once."""


class Server:
    """State of one server: requests in flight, faults in a row, and when it may be tried again."""

    def __init__(self, url: str, key_variable: str, timeout: float):
        self.url = url
        self.client = ChatClient(url, key_variable=key_variable, timeout=timeout)
        self.busy = 0
        self.faults = 0
        """In a row."""
        self.refuses = False
        """Whether the last of them was a refusal."""
        self.answers = 0
        self.ill: Failure | None = None
        """What it failed with last."""
        self.faulted = self.rests_until = -math.inf

    def fault(self, sent: float, now: float, wait: float | None, refused: bool = False) -> None:
        """Leaves the server alone: as long as it asks for, else twice as long with every fault in a
        row, with jitter.

        Questions that were under way together when it failed are one fault, and a server that says
        when it will be back is not dead.
        """
        if sent > self.faulted:
            self.faulted = now
            self.faults = self.faults + 1 if wait is None else max(self.faults, 1)
        self.refuses = refused
        pause = backoff(self.faults - 1, COOLING, LONGEST_COOLING) if wait is None else wait
        self.rests_until = max(self.rests_until, now + pause)

    def well(self) -> None:
        """Resets the fault count after an answer."""
        self.faults, self.refuses = 0, False
        self.answers += 1

    def room(self, most: int) -> int:
        """Questions that it may be sent now; one alone where its last answer was a fault: that
        finds out whether it is back."""
        return (most if self.faults == 0 else 1) - self.busy


class ServerBackend:
    """Servers that all serve the same model."""

    def __init__(
        self, urls: Sequence[str], model: str, style: Style, fingerprint: str, *, key_variable: str = "RRM_API_KEY",
        patience: Patience | None = None, max_tokens: int | None = None, dialect: Dialect | None = None,
    ):  # fmt: skip
        self.model, self.style, self.patience = model, style, patience or Patience()
        self.dialect = dialect or Dialect(send_seed=False)
        self.fingerprint = fingerprint + self.dialect.fingerprint
        self.max_tokens = max_tokens or longest_trace(style)
        self.servers = [Server(url, key_variable, self.patience.attempt) for url in urls]
        for server in self.servers:
            server.client.one_by_one = self.dialect.one_by_one
        self.rule = StopRule(
            f"{'The server' if len(urls) == 1 else 'Every server'} at {', '.join(urls)}"
        )
        self.freed = asyncio.Event()
        self.token_ids: dict[str, int] = {}
        """Ids of texts that are single tokens, where the servers tell them."""

    @classmethod
    def connect(
        cls, urls: Sequence[str], model: str | None = None, style: Style | None = None, *, key_variable: str = "RRM_API_KEY",
        patience: Patience | None = None, max_tokens: int | None = None, dialect: Dialect | None = None,
    ) -> ServerBackend:  # fmt: skip
        """The backend for these base URLs (ending in /v1), after a look at what they list.

        `rrm serve` tells style and weights itself; of any other server the model must be named.
        Raises InputError where none is there, where they serve different weights, and where no
        model is named and none can be told from the lists.
        """
        served = listed(urls, key_variable)
        known = {
            url: next((found for name in names if (found := ALIAS.fullmatch(name))), None)
            for url, names in served.items()
        }
        digests = {found["digest"] for found in known.values() if found}
        if len(digests) > 1:
            raise InputError(
                f"The servers at {', '.join(served)} serve different weights; give those of one model."
            )
        first = next((found for found in known.values() if found), None)
        if first is not None and model is None and all(known.values()):
            model = first[0]
        if model is None:
            url, names = next(iter(served.items()))
            has = (
                f"has {', '.join(names)}"
                if names
                else f"lists none; it may want a key in {key_variable}"
            )
            raise InputError(f"Name the model, with model=NAME: the server at {url} {has}.")
        for url, names in served.items():
            if names and model not in names:
                log.warning(
                    "the server at %s lists no model '%s', but %s", url, model, ", ".join(names[:8])
                )
        ours = first is not None and all(known.values())
        asked: Any = style or (first["style"] if first is not None and ours else "full")
        weights = f"served|{first['digest']}" if first is not None and ours else f"endpoint|{model}"
        backend = cls(
            urls,
            model,
            asked,
            weights,
            key_variable=key_variable,
            patience=patience,
            max_tokens=max_tokens,
            dialect=dialect,
        )
        if ours:
            backend.token_ids = waited(
                single_tokens(next(iter(served)), model, key_variable, RATINGS)
            )
        return backend

    @property
    def stopped(self) -> str | None:
        """Why nothing more is asked, where every server refuses everything and nobody was told so."""
        return None if self.rule.told else self.rule.reason

    async def close(self) -> None:
        """Closes every connection, and says on stderr which server was of no use while others were."""
        for server in self.servers:
            await server.client.close()
            if (
                server.ill is not None
                and not server.answers
                and any(other.answers for other in self.servers)
            ):
                log.warning(
                    "one server answered nothing, and others did its work: %s", server.ill.detail
                )

    async def ask(self, questions: Sequence[Question], progress: Progress) -> list[Reply]:
        """The reply to each question, in their order, whichever server gave it.

        Raises InputError where all servers refuse everything: before anything is asked, or at the
        end where nothing was answered.
        """
        self.rule.check()
        places = asyncio.Semaphore(
            self.patience.in_flight * len(self.servers)
        )  # of this call, so of this event loop

        async def one(place: int, question: Question) -> Reply:
            async with places:
                reply = await self.reply(question)
            progress(place, reply)
            return reply

        replies = await asyncio.gather(
            *(one(place, question) for place, question in enumerate(questions))
        )
        if all(isinstance(reply, Failure) for reply in replies):
            self.rule.check()
        return list(replies)

    async def reply(self, question: Question) -> Reply:
        """The first whole answer of a server within the deadline, or the failure that was met last.

        A server that refuses the question is not asked it again, and the failure is `refused` only
        where every server refuses.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + self.patience.deadline
        try:
            request = self.request(question)
        except (OSError, ValueError) as error:  # an image that cannot be written as a PNG
            return Failure(kind="image_unreadable", detail=str(error)[:300])
        last: Fault | None = None
        refusing: set[Server] = set()
        while self.rule.reason is None and (left := end - (now := loop.time())) > 0:
            server = self.choose(now, refusing)
            if server is None:
                if all(
                    s in refusing or (s.faults >= GIVEN_UP and s.rests_until > now)
                    for s in self.servers
                ):
                    last = last or is_transient(
                        "server_gone", "every server failed time after time"
                    )
                    break
                await self.wait(left, now)
                continue
            server.busy += 1
            try:
                got = await every_choice(server.client, request, self.sender(server, end))
            finally:
                server.busy -= 1
                self.freed.set()
            if isinstance(got, Completion):
                server.well()
                self.rule.note(got)
                return got.choices
            if got.scope == "question":
                self.rule.note(got)
                return got.failure
            late = got.failure.kind == "timed_out"
            if (
                last is None or not late or left >= self.patience.attempt
            ):  # else the deadline cut it short, and it says nothing
                last, server.ill = got, got.failure
            if got.scope == "everything":
                refusing.add(server)
            if len(refusing) < len(
                self.servers
            ):  # else it may be the question, which is no reason to rest
                server.fault(now, loop.time(), got.wait, got.scope == "everything")
        return self.given_up(last, refusing)

    def given_up(self, last: Fault | None, refusing: Collection[Server]) -> Failure:
        """The failure of a question that no server answers: `rejected` where every server refuses
        it."""
        if self.rule.reason is not None and last is None:
            return Failure(kind="rejected", detail=self.rule.reason[:300])
        if last is None:
            return Failure(
                kind="timed_out", detail=f"no server had room within {self.patience.deadline:g} s"
            )
        if all(s in refusing or s.refuses for s in self.servers):
            self.rule.note(last)
            return last.told.model_copy(update={"kind": "rejected"})
        return (
            last.told
            if last.scope == "moment"
            else last.told.model_copy(update={"kind": "server_gone"})
        )

    def sender(self, server: Server, end: float) -> Send:
        """What makes one request to this server, whose faults name it."""

        async def send(request: ChatRequest) -> Completion | Fault:
            left = end - asyncio.get_running_loop().time()
            got = await server.client.attempt(request, max(left, 0.0))
            if (
                not isinstance(got, Fault)
                or got.scope == "question"
                or server.client.where in got.failure.detail
            ):
                return got
            return replace(
                got,
                failure=got.failure.model_copy(
                    update={"detail": f"{server.client.where}: {got.failure.detail}"}
                ),
            )

        return send

    def choose(self, now: float, refusing: Collection[Server] = ()) -> Server | None:
        """The server that is asked next: of those with room the least busy, faultless ones first,
        none that has refused."""
        most = self.patience.in_flight
        able = [
            s
            for s in self.servers
            if s not in refusing and s.rests_until <= now and s.room(most) > 0
        ]
        return min(able, key=lambda s: (s.faults > 0, s.busy), default=None)

    async def wait(self, left: float, now: float) -> None:
        """Until a place is free or a resting server may be tried again."""
        rests = [s.rests_until - now for s in self.servers if s.rests_until > now]
        self.freed.clear()
        try:
            async with asyncio.timeout(min([left, *rests, 1.0])):
                await self.freed.wait()
        except TimeoutError:
            pass

    def request(self, q: Question) -> ChatRequest:
        """The question as OpenAI's protocol has it, every setting that a server has its own mind
        about spelt out.

        No seed unless it is wanted: vLLM's engine on the CPU dies of a request with a seed that it
        has to set aside, and elsewhere the batch decides, too.
        """
        extra, alternatives = dict(self.dialect.extra), LIKELIEST if q.alternatives else None
        if q.watched and all(
            text in self.token_ids for text in q.watched
        ):  # vLLM's own: exact, however unlikely they are
            extra["logprob_token_ids"], alternatives = (
                [self.token_ids[text] for text in q.watched],
                0,
            )
        return ChatRequest(
            self.model, filled(q.messages, q.images), q.max_tokens, n=q.answers, temperature=q.temperature, top_p=1.0,
            seed=q.seed if self.dialect.send_seed else None, top_logprobs=alternatives, extra=extra,
            max_tokens_field=self.dialect.max_tokens_field,
        )  # fmt: skip


def filled(messages: Sequence[Message], images: Sequence[Image]) -> list[dict[str, Any]]:
    """The messages with their image slots filled, in order; a text alone as a plain string, which
    every server takes."""
    rest = iter(images)

    def content(parts: Sequence[Mapping[str, Any]]) -> Any:
        if len(parts) == 1 and parts[0]["type"] == "text":
            return parts[0]["text"]
        return [image_part(next(rest)) if part["type"] == "image" else dict(part) for part in parts]

    return [
        {"role": message["role"], "content": content(message["content"])} for message in messages
    ]
