"""A list of answers that servers of OpenAI's protocol have been seen to give, and a server that
gives them one after another."""

from __future__ import annotations

import gzip
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Raw = Callable[[Any, str], None]
"""What is written to a connection, given what the good answer would be as text."""
SLOW = 0.05
"""Seconds between the bytes of what comes drop by drop."""


def completion(
    *texts: Any, finish: Any = "stop", usage: Any = None, logprobs: Any = None, **message: Any
) -> dict[str, Any]:
    """A chat completion."""
    choices = [
        {
            "index": i,
            "finish_reason": finish,
            "logprobs": logprobs,
            "message": {"role": "assistant", "content": t, **message},
        }
        for i, t in enumerate(texts)
    ]
    usage = (
        {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
        if usage is None
        else usage
    )
    return {
        "id": "0",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": choices,
        "usage": usage,
    }


def response(status: int, payload: bytes, *headers: str, kind: str = "application/json") -> bytes:
    """An answer as it goes over the wire."""
    lines = [
        f"HTTP/1.1 {status} X",
        f"Content-Type: {kind}",
        f"Content-Length: {len(payload)}",
        "Connection: close",
        *headers,
        "",
        "",
    ]
    return "\r\n".join(lines).encode() + payload


def whole(value: Any, status: int = 200, *headers: str) -> Raw:
    """An answer of this JSON."""
    return lambda connection, text: connection.sendall(
        response(status, json.dumps(value).encode(), *headers)
    )


def of_text(make: Callable[[str], Any]) -> Raw:
    """An answer whose JSON holds the good text."""
    return lambda connection, text: connection.sendall(
        response(200, json.dumps(make(text)).encode())
    )


def plain(payload: bytes, status: int = 200, *headers: str, kind: str = "application/json") -> Raw:
    """An answer of these bytes."""
    return lambda connection, text: connection.sendall(
        response(status, payload, *headers, kind=kind)
    )


def said(message: str, **more: Any) -> dict[str, Any]:
    """An error as OpenAI's servers write it."""
    return {"error": {"message": message, "type": "x", "param": None, "code": None, **more}}


def drop_by_drop(connection: Any, head: bytes) -> None:
    """A byte at a time, for ever."""
    connection.sendall(head)
    while True:
        connection.sendall(b"a")
        time.sleep(SLOW)


def endless(connection: Any, text: str) -> None:
    """A body without an end."""
    connection.sendall(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n"
    )
    while True:
        connection.sendall(b" " * 2**16)


def reset(connection: Any, text: str) -> None:
    """A TCP reset."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def bomb(connection: Any, text: str) -> None:
    """A small body that unpacks to 300 MB."""
    connection.sendall(response(200, BOMB, "Content-Encoding: gzip"))


BOMB = gzip.compress(bytes(300 * 2**20), 9)
NAN = {
    "content": [
        {
            "token": "8",
            "logprob": float("nan"),
            "top_logprobs": [{"token": "8", "logprob": float("nan")}],
        }
    ]
}
BODY = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 90000\r\n\r\n"
HTML = b"<!doctype html><html><head><style>p {}</style></head><body>Sign in</body></html>"

ANSWERS: dict[str, tuple[Raw, str | None]] = {
    # what reads as an answer
    "good": (of_text(completion), None),
    "content in parts": (of_text(lambda text: completion([{"type": "text", "text": text[:5]}, {"type": "text", "text": text[5:]}])), None),
    "the thought apart": (of_text(lambda text: completion(text, reasoning_content="Let me see.")), None),
    "usage of garbage": (of_text(lambda text: completion(text, usage={"prompt_tokens": -1, "completion_tokens": True})), None),
    "no usage, no id": (of_text(lambda text: {"choices": completion(text)["choices"]}), None),
    "gzip": (
        lambda c, text: c.sendall(response(200, gzip.compress(json.dumps(completion(text)).encode()), "Content-Encoding: gzip")),
        None,
    ),
    "logprobs that nobody asked for": (of_text(lambda text: completion(text, logprobs=NAN)), None),
    # what reads as none
    "content null": (whole(completion(None)), "empty"),
    "cut off in the thought": (whole(completion(None, finish="length", reasoning_content="Let me …")), "cut_off"),
    "cut off": (whole(completion("It looks", finish="length")), "cut_off"),
    "filtered": (whole(completion("", finish="content_filter")), "refused"),
    "refusal": (whole(completion(None, refusal="I can't help with that.")), "refused"),
    # no completion
    "a page": (plain(HTML, kind="text/html"), "server_gone"),
    "nothing": (plain(b""), "server_gone"),
    "half of the JSON": (plain(json.dumps(completion("fine"))[:40].encode()), "server_gone"),
    "invalid UTF-8": (plain(b'{"choices": "\xff\xfe\x00"}'), "server_gone"),
    "nested deep": (plain(b"[" * 100_000), "server_gone"),
    "a JSON list": (whole([]), "server_gone"),
    "a JSON string": (whole("overloaded"), "server_gone"),
    "null": (whole(None), "server_gone"),
    "choices null": (whole({"choices": None}), "server_gone"),
    "no choices": (whole(completion()), "server_gone"),
    "a choice null": (whole({"choices": [None]}), "server_gone"),
    "message null": (whole({"choices": [{"message": None}]}), "server_gone"),
    "content a number": (whole(completion(17)), "server_gone"),
    "too many choices": (of_text(lambda text: completion(text, text)), "server_gone"),
    "an error in 200": (whole(said("upstream broke")), "server_gone"),
    "an error in 200 of a passing code": (whole(said("slow down", code=429)), "server_gone"),
    "an error in a choice": (whole({"choices": [{"finish_reason": "error", "error": said("upstream broke")["error"]}]}), "server_gone"),
    "an error in 200 about money": (whole(said("Insufficient Balance", code=402)), "rejected"),
    # time, size, connection
    "a slow body": (lambda c, text: drop_by_drop(c, BODY), "timed_out"),
    "a slow header": (lambda c, text: drop_by_drop(c, b"HTTP/1.1 200 OK\r\nX-Header: "), "timed_out"),
    "an endless body": (endless, "server_gone"),
    "a bomb": (bomb, "server_gone"),
    "a reset": (reset, "server_gone"),
    "no HTTP": (lambda c, text: c.sendall(b"SSH-2.0-OpenSSH\r\n"), "server_gone"),
    "a coding nobody asked for": (plain(b"\x1b", 200, "Content-Encoding: br"), "server_gone"),
    # statuses
    "a redirect": (plain(b"", 307, "Location: http://example.com/v1?key=s3cret"), "rejected"),
    "400, a bad request": (whole(said("the prompt holds nothing"), 400), "bad_row"),
    "400, an image": (whole(said("cannot load the image"), 400), "image_unreadable"),
    "400, too long": (whole(said("This model's maximum context length is 8192 tokens, reduce max_tokens"), 400), "bad_row"),
    "400, the filter": (whole(said("Input data may contain inappropriate content.", code="data_inspection_failed"), 400), "refused"),
    "400, the account": (whole(said("Access denied, is your account in good standing?", code="Arrearage"), 400), "rejected"),
    "400, a parameter": (whole(said("Unsupported value: 'temperature' does not support 0", param="temperature"), 400), "rejected"),
    "422, a parameter": (
        whole({"message": {"detail": [{"type": "extra_forbidden", "loc": ["body", "max_tokens"], "msg": "no"}]}}, 422), "rejected"
    ),
    "401, with the header that was sent": (
        whole(said("Incorrect API key: Authorization: Bearer s3cret-of-a-client"), 401), "rejected"
    ),
    "401": (whole(said("Incorrect API key provided"), 401), "rejected"),
    "402": (whole(said("Insufficient Balance"), 402), "rejected"),
    "403": (whole(said("not you"), 403), "rejected"),
    "404": (whole(said("no such path"), 404), "rejected"),
    "405": (plain(b"Method Not Allowed", 405, kind="text/plain"), "rejected"),
    "413": (plain(b"<h1>Request Entity Too Large</h1>", 413, kind="text/html"), "bad_row"),
    "429": (whole(said("slow down"), 429, "Retry-After: 0"), "server_gone"),
    "429, in ms": (whole(said("slow down"), 429, "Retry-After-Ms: 10"), "server_gone"),
    "429, until a date": (
        whole(said("slow down"), 429, f"Retry-After: {formatdate(7e8 + 0.0, usegmt=True)}", f"Date: {formatdate(7e8, usegmt=True)}"),
        "server_gone",
    ),
    "429, no quota left": (whole(said("You exceeded your current quota", code="insufficient_quota"), 429), "rejected"),
    "500": (whole(said("oops"), 500), "server_gone"),
    "503": (plain(b"", 503), "server_gone"),
}  # fmt: skip
"""What is answered, and the kind of failure that it is; None where it is an answer."""


class Odd:
    """A server that gives the answer that `now` names to every question, and the headers and bodies
    that it was sent."""

    def __init__(self, good: Callable[[dict[str, Any]], str]):
        self.now, self.good = "good", good
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        odd = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *words: object) -> None:
                pass

            def do_GET(self) -> None:
                self.connection.sendall(response(200, json.dumps({"data": [{"id": "m"}]}).encode()))

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                odd.bodies.append(body)
                odd.headers.append(dict(self.headers))
                with suppress(OSError):  # the client has left
                    ANSWERS[odd.now][0](self.connection, odd.good(body))
                self.close_connection = True

        class Listening(ThreadingHTTPServer):
            daemon_threads, request_queue_size, block_on_close = True, 64, False

            def handle_error(self, *what: object) -> None:
                pass

        self.http = Listening(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/v1"
        threading.Thread(
            target=self.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        ).start()


@contextmanager
def running_odd(good: Callable[[dict[str, Any]], str] = lambda body: "fine") -> Iterator[Odd]:
    """The server, for as long as the block lasts."""
    odd = Odd(good)
    try:
        yield odd
    finally:
        odd.http.shutdown()
        odd.http.server_close()
