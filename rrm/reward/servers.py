"""The model on one or several OpenAI-compatible servers: the least busy one is asked, what a dead one leaves goes to the others.

A question ends as a reply or as a named failure before its deadline, once: an attempt that is given up is cancelled before the next begins.
"""

from __future__ import annotations

import asyncio
import math
import os
import re
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import openai
from openai.types.chat import ChatCompletion
from PIL.Image import Image

from rrm.endpoints import asked_wait, backoff, image_part, passing
from rrm.errors import InputError
from rrm.parsing import sound
from rrm.prompts import Style, is_brief
from rrm.records import Failure
from rrm.reward.asking import Answer, Progress, Question, Reply, Token
from rrm.reward.expectation import RATINGS
from rrm.reward.local import LIKELIEST
from rrm.verifier.judge import BRIEF_TOKENS, FULL_TOKENS
from rrm.verifier.messages import Message

ALIAS = re.compile(r"edit-rrm/(?P<style>full|brief|holistic|brief_holistic)/(?P<digest>[0-9a-f]+)")
"""The second name under which `rrm serve` serves a checkpoint: how it is asked, and a hash of its files."""
COOLING, LONGEST_COOLING = 0.5, 30.0
"""Seconds that a server is left alone after its first fault in a row, and at most."""
GIVEN_UP = 8
"""Faults in a row after which a server counts as dead: where all do, a question that finds them at rest fails at once."""
OF_THE_QUESTION = (400, 413, 422)
"""Statuses that blame the question: every server of the model would answer so."""


@dataclass(frozen=True)
class Patience:
    """How long is waited, in seconds, and how many questions are under way."""

    deadline: float = 300.0
    """From the moment a question is first sent until it has failed for good."""
    attempt: float = 100.0
    """For one server's answer."""
    in_flight: int = 32
    """Questions at one server at once."""


class Gone(Exception):
    """A server's fault: another one may answer. `refused`: this one would say the same again."""

    def __init__(self, failure: Failure, wait: float | None = None, refused: bool = False):
        super().__init__(failure.detail)
        self.failure, self.wait, self.refused = failure, wait, refused


class Server:
    """One server: how busy it is, and until when it is left alone."""

    def __init__(self, url: str, key: str, timeout: float):
        self.url = url
        self.client = openai.AsyncOpenAI(base_url=url, api_key=key, max_retries=0, timeout=timeout)
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
        """Leaves the server alone: as long as it asks for, else twice as long with every fault in a row, with jitter.

        Questions that were under way together when it failed are one fault, and a server that says when it will be back is not dead.
        """
        if sent > self.faulted:
            self.faulted = now
            self.faults = self.faults + 1 if wait is None else max(self.faults, 1)
        self.refuses = refused
        pause = backoff(self.faults - 1, COOLING, LONGEST_COOLING) if wait is None else wait
        self.rests_until = max(self.rests_until, now + pause)

    def well(self) -> None:
        """Notes that it has answered."""
        self.faults, self.refuses = 0, False
        self.answers += 1

    def room(self, most: int) -> int:
        """Questions that it may be sent now; one alone where its last answer was a fault: that finds out whether it is back."""
        return (most if self.faults == 0 else 1) - self.busy


class ServerBackend:
    """Servers that all serve the same model."""

    def __init__(
        self, urls: Sequence[str], model: str, style: Style, fingerprint: str, *, key: str, patience: Patience, max_tokens: int | None = None,
    ):  # fmt: skip
        self.model, self.style, self.fingerprint, self.patience = model, style, fingerprint, patience
        self.max_tokens = max_tokens or (BRIEF_TOKENS if is_brief(style) else FULL_TOKENS)
        self.servers = [Server(url, key, patience.attempt) for url in urls]
        self.freed = asyncio.Event()
        self.token_ids: dict[str, int] = {}
        """Ids of texts that are single tokens, where the servers tell them."""

    @classmethod
    def connect(
        cls, urls: Sequence[str], model: str | None = None, style: Style | None = None, *, key_variable: str = "RRM_API_KEY",
        patience: Patience | None = None, max_tokens: int | None = None,
    ) -> ServerBackend:  # fmt: skip
        """The backend for these base URLs (ending in /v1), after a look at what they serve.

        `rrm serve` tells style and weights itself; of any other server the model must be named. Raises InputError where none answers,
        where they serve different weights, or where the model is not among what they serve.
        """
        key = os.environ.get(key_variable) or "none"
        served: dict[str, list[str]] = {}
        for url in urls:
            try:
                with openai.OpenAI(base_url=url, api_key=key, max_retries=1, timeout=20) as client:
                    served[url] = [str(entry.id) for entry in client.models.list()]
            except openai.AuthenticationError as error:
                raise InputError(f"The server at {url} wants a key; set {key_variable} to it.") from error
            except (openai.APIError, AttributeError, TypeError, ValueError):  # none there, or none of OpenAI's protocol
                continue  # it may come later; the others do its work meanwhile
        if not served:
            raise InputError(
                f"No server answers at {', '.join(urls)}; give base URLs that end in /v1, or start one with `rrm serve --model FOLDER`."
            )
        known = {
            url: next((found for name in names if (found := ALIAS.fullmatch(name))), None) for url, names in served.items()
        }
        digests = {found["digest"] for found in known.values() if found}
        if len(digests) > 1:
            raise InputError(f"The servers at {', '.join(served)} serve different weights; give those of one model.")
        first = next((found for found in known.values() if found), None)
        if first is not None and model is None and all(known.values()):
            model = first[0]
        if model is None:
            raise InputError(
                f"Name the model: the server at {next(iter(served))} has {', '.join(next(iter(served.values())))}."
            )
        for url, names in served.items():
            if model not in names:
                raise InputError(f"The server at {url} has no model '{model}'; it serves {', '.join(names)}.")
        ours = first is not None and all(known.values())
        asked: Any = style or (first["style"] if first is not None and ours else "full")
        weights = f"served|{first['digest']}" if first is not None and ours else f"endpoint|{model}"
        backend = cls(urls, model, asked, weights, key=key, patience=patience or Patience(), max_tokens=max_tokens)
        if ours:
            backend.token_ids = single_tokens(next(iter(served)), model, key, RATINGS)
        return backend

    async def close(self) -> None:
        """Closes every connection, and says on stderr which server was of no use while others were."""
        for server in self.servers:
            await server.client.close()
            if server.ill is not None and not server.answers and any(other.answers for other in self.servers):
                print(f"note: one server answered nothing, and others did its work: {server.ill.detail}", file=sys.stderr)

    async def ask(self, questions: Sequence[Question], progress: Progress) -> list[Reply]:
        """The reply to each question, in their order, whichever server gave it."""
        places = asyncio.Semaphore(self.patience.in_flight * len(self.servers))  # of this call, so of this event loop

        async def one(question: Question) -> Reply:
            async with places:
                reply = await self.reply(question)
            progress()
            return reply

        return list(await asyncio.gather(*(one(question) for question in questions)))

    async def reply(self, question: Question) -> Reply:
        """The first whole answer of a server within the deadline, or the failure that was met last.

        A server that refuses the question is not asked it again, and the failure is `refused` only where every server refuses.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + self.patience.deadline
        body = self.body(question)
        last: Failure | None = None
        refusing: set[Server] = set()
        while (left := end - (now := loop.time())) > 0:
            server = self.choose(now, refusing)
            if server is None:
                if all(s in refusing or (s.faults >= GIVEN_UP and s.rests_until > now) for s in self.servers):
                    last = last or Failure(kind="server_gone", detail="every server failed time after time")
                    break
                await self.wait(left, now)
                continue
            server.busy += 1
            try:
                async with asyncio.timeout(min(left, self.patience.attempt)):
                    reply = await send(server.client, body, question)
                server.well()
                return reply
            except Gone as gone:
                last = server.ill = gone.failure
                if gone.refused:
                    refusing.add(server)
                if len(refusing) < len(self.servers):  # else it may be the question, which is no reason to rest
                    server.fault(now, loop.time(), gone.wait, gone.refused)
            except TimeoutError:
                if last is None or left >= self.patience.attempt:  # else the deadline cut this attempt short, and says nothing
                    waited = min(left, self.patience.attempt)
                    last = server.ill = Failure(kind="timed_out", detail=f"{server.url} did not answer within {waited:.3g} s")
                server.fault(now, loop.time(), None)
            finally:
                server.busy -= 1
                self.freed.set()
        if last is None:
            last = Failure(kind="timed_out", detail=f"no server had room within {self.patience.deadline:g} s")
        refused = all(s in refusing or s.refuses for s in self.servers)
        return last.model_copy(update={"kind": "refused"}) if refused else last

    def choose(self, now: float, refusing: Collection[Server] = ()) -> Server | None:
        """The server that is asked next: of those with room the least busy, faultless ones first, none that has refused."""
        most = self.patience.in_flight
        able = [s for s in self.servers if s not in refusing and s.rests_until <= now and s.room(most) > 0]
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

    def body(self, q: Question) -> dict[str, Any]:
        """The question as OpenAI's protocol has it, every setting that a server has its own mind about spelt out.

        No seed: vLLM's engine on the CPU dies of a request with a seed that it has to set aside, and elsewhere the batch decides, too.
        """
        body: dict[str, Any] = {
            "model": self.model, "messages": filled(q.messages, q.images), "n": q.answers, "max_tokens": q.max_tokens,
            "temperature": q.temperature, "top_p": 1.0,
        }  # fmt: skip
        if q.alternatives:
            body |= {"logprobs": True, "top_logprobs": LIKELIEST}
        if q.watched and all(text in self.token_ids for text in q.watched):  # vLLM's own: exact, however unlikely they are
            body |= {"top_logprobs": 0, "logprob_token_ids": [self.token_ids[text] for text in q.watched]}
        return body


def single_tokens(url: str, model: str, key: str, texts: Sequence[str]) -> dict[str, int]:
    """The ids of those texts that are one token for the vLLM server at this base URL; none where it does not tell, or is gone."""
    found = {}
    with httpx.Client(base_url=url.removesuffix("/v1"), headers={"Authorization": f"Bearer {key}"}, timeout=20) as client:
        try:
            for text in texts:
                response = client.post("/tokenize", json={"model": model, "prompt": text, "add_special_tokens": False})
                match response.json() if response.is_success else None:
                    case {"tokens": [int(token)]}:
                        found[text] = token
        except (httpx.HTTPError, ValueError, RecursionError):  # it has died, or writes what is no JSON
            return {}
    return found


def filled(messages: Sequence[Message], images: Sequence[Image]) -> list[dict[str, Any]]:
    """The messages with their image slots filled, in order; a text alone as a plain string, which every server takes."""
    rest = iter(images)

    def content(parts: Sequence[Mapping[str, Any]]) -> Any:
        if len(parts) == 1 and parts[0]["type"] == "text":
            return parts[0]["text"]
        return [image_part(next(rest)) if part["type"] == "image" else dict(part) for part in parts]

    return [{"role": message["role"], "content": content(message["content"])} for message in messages]


async def send(client: openai.AsyncOpenAI, body: dict[str, Any], question: Question) -> Reply:
    """The server's reply, or why it gives none to this question. Raises Gone for a server's fault."""
    try:
        # `chat.completions.create` looks through every message for files first, which costs more than all else here
        completion = await client.post("/chat/completions", body=body, cast_to=ChatCompletion)
    except openai.APITimeoutError as error:
        raise Gone(Failure(kind="timed_out", detail=f"{client.base_url} did not answer in time")) from error
    except openai.APIStatusError as error:
        said = " ".join(str(error.message).split())[:300]
        if error.status_code in OF_THE_QUESTION:
            return Failure(kind="image_unreadable" if "image" in said.lower() else "bad_row", detail=said)
        failure = Failure(kind="server_gone", detail=f"{client.base_url}: status {error.status_code}: {said}")
        wait = asked_wait(error.response.headers, time.time())
        raise Gone(failure, wait, refused=not passing(error.status_code)) from error
    except (openai.APIError, ValueError, RecursionError) as error:  # what is no JSON, or nests too deep
        raise Gone(Failure(kind="server_gone", detail=f"{client.base_url}: {' '.join(str(error).split())[:200]}")) from error
    try:
        return answers_of(completion, question)
    except (AttributeError, TypeError, ValueError, OverflowError) as error:  # the client does not check what it is sent
        raise Gone(Failure(kind="server_gone", detail=f"{client.base_url} sent no chat completion")) from error


def answers_of(completion: ChatCompletion, question: Question) -> Reply:
    """The answers in a completion. Raises AttributeError, TypeError, ValueError or OverflowError where it is not what was asked for."""
    if len(completion.choices) != question.answers:
        raise ValueError(f"{len(completion.choices)} choices instead of {question.answers}")
    found = []
    for choice in completion.choices:
        if choice.message.refusal and not choice.message.content:
            return Failure(kind="refused", detail=sound(choice.message.refusal[:200]))
        text = choice.message.content or ""
        if not isinstance(text, str):
            raise TypeError("the content is no text")
        tokens = []
        for entry in (choice.logprobs.content or ()) if question.alternatives and choice.logprobs else ():
            likely = {entry.token: math.exp(entry.logprob)}
            likely |= {top.token: math.exp(top.logprob) for top in entry.top_logprobs}
            if not all(isinstance(token, str) for token in likely):
                raise TypeError("a token is no text")
            tokens.append(Token(entry.token, likely))
        found.append(Answer(sound(text), choice.finish_reason != "length", tuple(tokens)))
    return tuple(found)
