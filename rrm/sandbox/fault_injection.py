"""What may go wrong between a client and a provider: a limit reached, an error, an answer that is
spoilt, a connection that breaks."""

from __future__ import annotations

import json
import math
import random
import re
import socket
import struct
from collections import deque
from typing import Literal, get_args

from rrm.sandbox.canned import Receive, Reply, Send, error

Fault = Literal[
    "error_500",
    "error_503",
    "reset",
    "half_body",
    "hang",
    "no_choices",
    "null",
    "refusal",
    "prose",
    "cut_off",
    "one_too_few",
]
FAULTS: tuple[Fault, ...] = get_args(Fault)
LAST_ROW = re.compile(r",?\s*\{[^{}]*\}(?=\s*\][^\]]*\Z)")
REFUSAL = "I'm sorry, but I can't help with that."
PROSE = "Most of it looks fine, perhaps 7 out of 10."


class Window:
    """An allowance of `allowed` in any stretch of `seconds`."""

    def __init__(self, allowed: float, seconds: float):
        self.allowed, self.seconds = allowed, seconds
        self.taken: deque[tuple[float, float]] = deque()
        self.used = 0.0

    def wait(self, now: float, amount: float) -> float:
        """Seconds until this amount would be allowed: 0 if it is now, the whole stretch if it never
        is."""
        while self.taken and self.taken[0][0] <= now - self.seconds:
            self.used -= self.taken.popleft()[1]
        excess = self.used + amount - self.allowed
        if excess <= 0:
            return 0.0
        for when, size in self.taken:
            excess -= size
            if excess <= 0:
                return when + self.seconds - now
        return self.seconds

    def take(self, now: float, amount: float) -> None:
        """Counts an amount as used."""
        self.taken.append((now, amount))
        self.used += amount


def fault_of(seed: int, number: int, share: float, kinds: tuple[Fault, ...]) -> Fault | None:
    """The fault that the request of this number meets, or None."""
    rng = random.Random(f"{seed}|{number}")
    return rng.choice(kinds) if rng.random() < share else None


def too_many(model: str, what: str, wait: float) -> Reply:
    """The answer to a request over a limit."""
    milliseconds = math.ceil(wait * 1000)
    message = f"Rate limit reached for {model} on {what}. Please try again in {milliseconds}ms."
    headers = (
        (b"retry-after", f"{milliseconds / 1000:.3f}".encode()),
        (b"retry-after-ms", str(milliseconds).encode()),
    )
    return error(429, message, what.split()[0], "rate_limit_exceeded", *headers)


def broken(status: int) -> Reply:
    """A server's own mistake."""
    if status == 503:
        return error(
            503, "The engine is currently overloaded, please try again later.", "server_error", None
        )
    return error(
        500,
        "The server had an error while processing your request. Sorry about that!",
        "server_error",
        None,
    )


def spoil(body: bytes, fault: Fault) -> bytes:
    """A chat completion with this fault in it."""
    value = json.loads(body)
    for choice in value.get("choices", []):
        message, text = choice["message"], choice["message"]["content"]
        if fault == "cut_off":
            message["content"], choice["finish_reason"] = text[: len(text) // 2], "length"
        elif fault == "one_too_few":
            message["content"] = LAST_ROW.sub("", text)
        else:
            message["content"] = {"null": None, "refusal": REFUSAL, "prose": PROSE}.get(fault, text)
    if fault == "no_choices":
        value["choices"] = []
    return json.dumps(value).encode()


async def closed(receive: Receive) -> None:
    """Waits until the connection is gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def drop(receive: Receive, send: Send, reset: bool) -> None:
    """Ends the connection under the client: by a TCP reset, or after what was sent.

    ASGI has no word for it (a server answers 500 for an app that sends nothing), hence uvicorn's
    own transport.
    """
    transport = send.__self__.transport  # type: ignore[attr-defined]
    if transport.is_closing():  # the client left first
        return
    if reset:
        transport.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
        )
        transport.abort()
    else:
        transport.close()
    await closed(receive)
