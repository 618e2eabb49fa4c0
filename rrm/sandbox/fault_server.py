"""What a real provider's server does to its clients, around the sandbox's teachers: limits, delays,
faults, and its end.

`rrm fault-server requests_per_second=100 delay=0.2 faults=0.1` (port 8101),
or `running_fault_server(delay=0.2)` in Python. With `canned=true` no teacher thinks: the answers have the
right form and cost next to nothing, so that a client's own speed shows. Which request meets which
fault depends on the seed and on how many requests came before it, and on nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal

import uvicorn
from pydantic import Field

from rrm.config import Config, parse_overrides
from rrm.sandbox import teacher
from rrm.sandbox.canned import App, Message, Receive, Reply, Send, canned_app, send_reply, whole
from rrm.sandbox.fault_injection import (
    FAULTS,
    Fault,
    Window,
    broken,
    closed,
    drop,
    fault_of,
    spoil,
    too_many,
)

MODEL = re.compile(rb'"model"\s*:\s*"([^"\\]*)"')
KEEP_ALIVE = 75
"""Seconds that an idle connection is kept, as nginx does."""


class FaultConfig(Config):
    """What the server does to its clients; every key is also an argument of `rrm fault-server`."""

    requests_per_second: float | None = Field(
        None, gt=0, description="of all models together; more get 429"
    )
    tokens_per_minute: int | None = Field(
        None, ge=1, description="characters / 4, or the tokens that may be written if they are more"
    )
    delay: float = Field(0.0, ge=0, description="seconds before an answer")
    faults: float = Field(0.0, ge=0, le=1, description="share of the requests that meet one")
    kinds: tuple[Fault, ...] = Field(
        FAULTS, min_length=1, description="the faults that are drawn from"
    )
    hang: float = Field(3600.0, gt=0, description="seconds until a connection that hangs is reset")
    dies_after: int | None = Field(
        None, ge=0, description="answers after which the model is gone for good"
    )
    dies_model: str | None = Field(None, description="the model that goes; none: each of them")
    dies_by: Literal["error_503", "reset"] = "error_503"
    """What a model that is gone answers."""
    log: Path | None = Field(None, description="JSONL of requests received and answers sent")
    seed: int = 0
    """Of which request meets which fault."""
    canned: bool = Field(False, description="answers of the right form without a teacher")

    @classmethod
    def given(cls, path: Path | None, settings: Sequence[str]) -> FaultConfig:
        """The config from a file, `key=value` settings, or both. Raises InputError for what is no
        setting."""
        return (
            cls.read(path, settings)
            if path
            else cls.checked(parse_overrides(settings), "the fault server")
        )


def tokens_of(body: bytes) -> int:
    """What a request counts against a token limit before it is answered, by OpenAI's rule: the
    larger of its text and its max_tokens."""
    try:
        value = json.loads(body)
        characters = sum(len(teacher.parts_of(message)[0]) for message in value["messages"])
        written = (value.get("max_completion_tokens") or value.get("max_tokens") or 0) * (
            value.get("n") or 1
        )
    except (ValueError, KeyError, TypeError, AttributeError, teacher.Refused):
        return 1  # not a chat completion: the app behind says what is wrong with it
    return int(max(characters // teacher.CHARACTERS_PER_TOKEN, written, 1))


def model_of(body: bytes) -> str:
    """The model that the request names; searched for from the end, since the images come first."""
    found = MODEL.match(body, max(0, body.rfind(b'"model"')))
    return found[1].decode("utf-8", "replace") if found else ""


async def answer_of(app: App, scope: Message, body: bytes) -> Reply:
    """The app's whole response to a request with this body."""
    messages: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        messages.append(message)

    await app(scope, receive, send)
    headers = tuple(
        (name, value) for name, value in messages[0]["headers"] if name != b"content-length"
    )
    return Reply(
        messages[0]["status"],
        b"".join(message.get("body", b"") for message in messages[1:]),
        headers,
    )


class FaultInjector:
    """An ASGI app that does to the clients of `app` what its config says."""

    def __init__(self, app: App, config: FaultConfig):
        self.app, self.config = app, config
        self.requests = self.tokens = None
        if config.requests_per_second is not None:
            allowed = max(1, int(config.requests_per_second))
            self.requests = Window(allowed, max(1.0, 1 / config.requests_per_second))
        if config.tokens_per_minute is not None:
            self.tokens = Window(config.tokens_per_minute, 60.0)
        self.admitted = 0
        self.answered: Counter[str] = Counter()
        self.log = (
            config.log.open("a", buffering=1) if config.log else None
        )  # a line is flushed as it ends

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serves one request."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        body = await whole(receive)
        if body is None:
            return
        model = model_of(body)
        self.note("asked", body, model)
        reply = self.refused(body, model)
        if reply is not None:
            await send_reply(send, reply)
            return
        self.admitted += 1
        fault = (
            fault_of(self.config.seed, self.admitted, self.config.faults, self.config.kinds)
            if self.config.faults
            else None
        )
        if fault == "hang":
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(closed(receive), self.config.hang)
        else:
            await asyncio.sleep(self.config.delay)
        if self.dead(model):
            fault = self.config.dies_by
        if fault in ("reset", "hang"):
            await drop(receive, send, reset=True)
        elif fault in ("error_500", "error_503"):
            await send_reply(send, broken(int(fault[-3:])))
        else:
            await self.answer(scope, receive, send, body, model, fault)

    async def answer(
        self,
        scope: Message,
        receive: Receive,
        send: Send,
        body: bytes,
        model: str,
        fault: Fault | None,
    ) -> None:
        """Sends the app's answer, with what is wrong with it."""
        reply = await answer_of(self.app, scope, body)
        if reply.status != 200:
            await send_reply(send, reply)
        elif fault == "half_body":
            await send_reply(send, reply, len(reply.body) // 2)
            await drop(receive, send, reset=False)
        else:
            self.answered[model] += 1
            self.note("answered", body, model)
            await send_reply(
                send, Reply(200, spoil(reply.body, fault), reply.headers) if fault else reply
            )

    def dead(self, model: str) -> bool:
        """Whether this model is gone for good."""
        config = self.config
        concerned = config.dies_model in (None, model)
        return (
            config.dies_after is not None
            and concerned
            and self.answered[model] >= config.dies_after
        )

    def refused(self, body: bytes, model: str) -> Reply | None:
        """The 429 for a request over a limit; None for one that is let in, which is then counted."""
        now = time.monotonic()
        tokens = tokens_of(body) if self.tokens else 0
        limits = [
            ("requests per second", self.requests, 1),
            ("tokens per minute", self.tokens, tokens),
        ]
        for what, window, amount in limits:
            if window is not None and (wait := window.wait(now, amount)):
                return too_many(model, what, wait)
        for _, window, amount in limits:
            if window is not None:
                window.take(now, amount)
        return None

    def note(self, event: str, body: bytes, model: str) -> None:
        """Writes a line of the log."""
        if self.log:
            row = {
                "event": event,
                "body": hashlib.sha256(body).hexdigest(),
                "model": model,
                "t": time.time(),
            }
            self.log.write(json.dumps(row) + "\n")


def flags_of(config: FaultConfig) -> list[str]:
    """The command line that gives this config."""
    return [
        f"{name}={json.dumps(value)}"
        for name, value in config.model_dump(mode="json", exclude_defaults=True).items()
    ]


def running_fault_server(**settings: Any) -> AbstractContextManager[str]:
    """Base URL of a server with these settings (the keys of FaultConfig) in a process of its own,
    which ends with the block."""
    return teacher.running_server(
        "fault-server", *flags_of(FaultConfig.checked(settings, "the fault server"))
    )


def serve(config: FaultConfig, host: str, port: int, until_stdin_closes: bool = False) -> None:
    """Serves until the process is stopped, or with `until_stdin_closes` until its parent is gone."""
    if until_stdin_closes:
        threading.Thread(target=teacher.exit_when_stdin_closes, daemon=True).start()
    uvicorn.run(
        FaultInjector(canned_app if config.canned else teacher.app, config),
        host=host,
        port=port,
        timeout_keep_alive=KEEP_ALIVE,
        log_level="error",
        access_log=False,
        lifespan="off",
        proxy_headers=False,
    )
