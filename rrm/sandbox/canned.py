"""Answers of the right form from a teacher that looks at nothing, and the HTTP they go out by:
`canned_app` is an ASGI app."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

from rrm.prompts import write_answer, write_principles
from rrm.records import Category, Principle
from rrm.sandbox import teacher
from rrm.sandbox.personas import hardness

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]
CANNED_SHARE = 0.75
"""Of the canned verdicts, those that are 1."""
CANNED: dict[Category, tuple[str, ...]] = {
    "follow": (
        "Was what the instruction asks for carried out?",
        "Is the change in the right place?",
        "Is the change complete?",
        "Does the change have the colour that was asked for?",
    ),
    "keep": (
        "Are the other objects unchanged?",
        "Is the background unchanged?",
        "Does everything keep its place in the frame?",
        "Is the light the same as before?",
    ),
    "quality": ("Is the image clean?", "Are the edges free of halos?"),
}
CANNED_PRINCIPLES = write_principles(
    [Principle(question=text, category=name) for name, texts in CANNED.items() for text in texts]
)
CANNED_CRITERIA = json.dumps([{"criterion": name, "met": 1} for name in hardness("")])


@dataclass(frozen=True)
class Reply:
    """A whole response."""

    status: int
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()


def error(
    status: int, message: str, kind: str, code: str | None, *headers: tuple[bytes, bytes]
) -> Reply:
    """An error in OpenAI's form."""
    value = {"error": {"message": message, "type": kind, "param": None, "code": code}}
    return Reply(status, json.dumps(value).encode(), headers)


async def whole(receive: Receive) -> bytes | None:
    """The request's body; None where the client left before its end."""
    parts = []
    while (message := await receive())["type"] == "http.request":
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)
    return None


async def send_reply(send: Send, reply: Reply, sent: int | None = None) -> None:
    """Sends the response; with `sent`, all of its head and so many bytes of its body."""
    headers = [*reply.headers, (b"content-length", str(len(reply.body)).encode())]
    if all(name != b"content-type" for name, _ in reply.headers):
        headers.append((b"content-type", b"application/json"))
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send(
        {"type": "http.response.body", "body": reply.body[:sent], "more_body": sent is not None}
    )


def canned_text(role: teacher.Role, count: int, draw: bytes) -> str:
    """An answer of the right form on `count` questions; `draw` (32 bytes) settles its verdicts."""
    if role == "decompose":
        return CANNED_PRINCIPLES
    if role == "filter":
        return CANNED_CRITERIA
    verdicts = [int(draw[k % len(draw)] < CANNED_SHARE * 256) for k in range(count)]
    if role in ("verify", "gold"):
        return json.dumps(
            [
                {"question": k, "gold": v, "reason": "as can be seen"}
                for k, v in enumerate(verdicts, 1)
            ]
        )
    if role == "holistic":
        return f"Natural.\n<score>{draw[0] * 20 // 255 / 2}</score>"
    return "Compared point by point.\n" + write_answer(
        verdicts, round(20 * sum(verdicts) / count) / 2
    )


def canned(body: bytes) -> dict[str, Any]:
    """The chat completion of a teacher that looks at nothing."""
    value = teacher.parse_body(body)
    messages = value.get("messages") or [{}]
    system, text = teacher.parts_of(messages[0])[0], teacher.parts_of(messages[-1])[0]
    role = next((name for name, prompt in teacher.ROLES.items() if system.startswith(prompt)), None)
    count = len(teacher.QUESTION.findall(text.partition("\nReference judgements:\n")[0]))
    if role is None or (not count and role in ("judge", "score_only", "verify", "gold")):
        raise teacher.Refused(
            "A canned teacher knows only the prompts of rrm.prompts.", param="messages"
        )
    seen = hashlib.sha256(body)
    choices, written = [], 0
    for index in range(value.get("n") or 1):
        draw = seen.copy()
        draw.update(bytes([index % 256]))
        answer = canned_text(role, count, draw.digest())
        message = {"role": "assistant", "content": answer, "refusal": None}
        choices.append(
            {"index": index, "message": message, "logprobs": None, "finish_reason": "stop"}
        )
        written += len(answer) // teacher.CHARACTERS_PER_TOKEN
    shown = (len(system) + len(text)) // teacher.CHARACTERS_PER_TOKEN
    usage = {"prompt_tokens": shown, "completion_tokens": written, "total_tokens": shown + written}
    head = {
        "id": f"chatcmpl-{seen.hexdigest()[:24]}",
        "object": "chat.completion",
        "created": int(time.time()),
    }
    return {**head, "model": value.get("model"), "choices": choices, "usage": usage}


async def canned_app(scope: Message, receive: Receive, send: Send) -> None:
    """An ASGI app that answers any model's chat completion at once, in the right form and without
    looking."""
    if scope["method"] == "GET" and scope["path"] == "/v1/models":
        models = [{"id": "canned", "object": "model", "created": 0, "owned_by": "sandbox"}]
        await send_reply(send, Reply(200, json.dumps({"object": "list", "data": models}).encode()))
    elif scope["method"] == "POST" and scope["path"] == "/v1/chat/completions":
        try:
            reply = Reply(200, json.dumps(canned(await whole(receive) or b"")).encode())
        except teacher.Refused as refused:
            reply = Reply(refused.status, json.dumps(refused.body).encode())
        await send_reply(send, reply)
    else:
        await send_reply(
            send, error(404, f"There is no {scope['path']} here.", "invalid_request_error", None)
        )
