"""An OpenAI-compatible server whose models are the sandbox's teachers.

`rrm teacher --port 8100`, then any OpenAI client at http://127.0.0.1:8100/v1. The
server knows nothing but the request: it reads the scenes from the images' pixels, and its task from
the system prompt (one of `rrm.prompts`). The same request with the same seed gets the same answer.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import json
import os
import re
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import lru_cache, partial
from typing import Any, cast

import httpx
import numpy as np
import uvicorn
from fastapi import FastAPI, Request, Response
from PIL import Image, UnidentifiedImageError

from rrm import prompts
from rrm.chat import reached
from rrm.records import Category, Principle
from rrm.sandbox import images_api
from rrm.sandbox.personas import PERSONAS, Role, Seen, Sight, answer
from rrm.sandbox.photo_teacher import PHOTO_PERSONAS, photo_author
from rrm.sandbox.reading import Reading, read_scene

ROLES: dict[Role, str] = {
    "filter": prompts.FILTER_SYSTEM,
    "decompose": prompts.DECOMPOSE_SYSTEM,
    "judge": prompts.JUDGE_SYSTEM,
    "score_only": prompts.SCORE_ONLY_SYSTEM,
    "holistic": prompts.HOLISTIC_SYSTEM,
    "verify": prompts.VERIFY_SYSTEM,
    "gold": prompts.GOLD_SYSTEM,
}
QUESTION = re.compile(r"^\d+\. \[(follow|keep|quality)\] (.+)$", re.MULTILINE)
QUOTED = re.compile(r"^((?:Instruction|Requirement): )(\".*\")$", re.MULTILINE)
TAGS = re.compile(r"^<(?:reference|answer)>\n|\n</(?:reference|answer)>$", re.MULTILINE)
CHARACTERS_PER_TOKEN = 4
START_SECONDS = 60.0


class Refused(Exception):
    """A request that is answered with an error in OpenAI's form."""

    def __init__(
        self, message: str, status: int = 400, param: str | None = None, code: str | None = None
    ):
        super().__init__(message)
        self.status = status
        self.body = {
            "error": {
                "message": message,
                "type": "invalid_request_error",
                "param": param,
                "code": code,
            }
        }


@lru_cache(maxsize=65536)
def read_bytes(digest: bytes, payload: bytes) -> Reading:
    """What the image file shows."""
    return read_scene(open_bytes(digest, payload))


def open_bytes(digest: bytes, payload: bytes) -> Image.Image:
    """The image in the file, its pixels as they lie: a teacher of photos is not shown what an EXIF
    tag says."""
    try:
        with Image.open(io.BytesIO(payload)) as image:
            return image.convert("RGB")
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError) as error:
        raise Refused(
            "The image data you provided does not represent a valid image.", param="messages"
        ) from error


def decode_url(url: str, read: Callable[[bytes, bytes], Seen]) -> tuple[bytes, Seen]:
    """Digest of the image in a data URL, and what is read from that and its bytes."""
    head, comma, body = url.partition(",")
    if not comma or not head.startswith("data:image/") or not head.endswith(";base64"):
        raise Refused(
            "Images must be given as data URLs (data:image/png;base64,…).",
            param="messages",
            code="invalid_image_url",
        )
    try:
        payload = base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Refused(
            "The image is not valid base64.", param="messages", code="invalid_base64_image"
        ) from error
    digest = hashlib.sha256(payload).digest()
    return digest, read(digest, payload)


def parts_of(message: dict[str, Any]) -> tuple[str, list[str]]:
    """Text and image URLs of one message."""
    content = message.get("content") or ""
    if isinstance(content, str):
        return content, []
    try:
        texts = [part["text"] for part in content if part["type"] == "text"]
        urls = [part["image_url"]["url"] for part in content if part["type"] == "image_url"]
    except (KeyError, TypeError) as error:
        raise Refused(
            "A content part has no 'type', 'text' or 'image_url'.", param="messages"
        ) from error
    return "\n".join(texts), urls


def bare(text: str) -> str:
    """What a text says, without its delimiters: what a teacher draws depends on what it is asked,
    and not on how that is set apart."""
    said = re.sub(rf"{re.escape(prompts.DATA)}\s", "", text)
    said = QUOTED.sub(lambda found: found[1] + json.loads(found[2]), said)
    return TAGS.sub("", said)


def look(
    messages: list[dict[str, Any]], read: Callable[[bytes, bytes], Seen]
) -> tuple[Sight[Seen], bytes]:
    """What the system prompt and the last user message show, and a hash of it. Raises Refused for a
    request of another kind."""
    if not isinstance(messages, list) or not all(isinstance(m, dict) for m in messages):
        raise Refused("'messages' must be a list of messages.", param="messages")
    system = "\n".join(parts_of(m)[0] for m in messages if m.get("role") == "system")
    role = next((name for name, prompt in ROLES.items() if system.startswith(prompt)), None)
    user = [m for m in messages if m.get("role") == "user"]
    if role is None or not user:
        raise Refused(
            "A sandbox teacher knows only the system prompts of rrm.prompts, with a user message.",
            param="messages",
        )
    text, urls = parts_of(user[-1])
    seen = [decode_url(url, read) for url in urls]
    wanted = 1 if role in ("decompose", "filter") else 2
    if len(seen) != wanted:
        raise Refused(
            f"This prompt goes with {wanted} image(s), not {len(seen)}.", param="messages"
        )
    asked, _, rest = text.partition(prompts.ANSWERED_BEFORE)[0].partition("\nQuestions:\n")
    try:
        instruction = str(
            json.JSONDecoder().raw_decode(asked.partition("Instruction: ")[2])[0]
        ).strip()
    except ValueError as error:
        raise Refused("There is no instruction, as a JSON string.", param="messages") from error
    questions = QUESTION.findall(rest.partition("\nReference judgements:\n")[0])
    if not questions and role not in ("filter", "decompose", "holistic"):
        raise Refused("There are no numbered questions to judge.", param="messages")
    principles = tuple(
        Principle(question=question, category=cast(Category, category))
        for category, question in questions
    )
    key = hashlib.sha256(
        "\0".join(map(bare, [system, text])).encode() + b"".join(digest for digest, _ in seen)
    ).digest()
    return Sight(role, instruction, principles, tuple(reading for _, reading in seen)), key


def parse_body(payload: bytes) -> dict[str, Any]:
    """The request's JSON object."""
    try:
        body = json.loads(payload)
    except ValueError as error:
        raise Refused("The body is not valid JSON.") from error
    if not isinstance(body, dict):
        raise Refused("The body must be a JSON object.")
    return body


def number(body: dict[str, Any], name: str, default: float, low: float, high: float) -> float:
    """A numeric field of the request."""
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise Refused(f"'{name}' must be a number from {low:g} to {high:g}.", param=name)
    return float(value)


def complete(body: dict[str, Any]) -> dict[str, Any]:
    """The chat completion for a request."""
    model = body.get("model")
    if model not in PERSONAS and model not in PHOTO_PERSONAS:
        raise Refused(f"The model '{model}' does not exist.", 404, "model", "model_not_found")
    if body.get("stream"):
        raise Refused("A sandbox teacher does not stream.", param="stream")
    sight: Sight[Any]
    sight, key = look(
        body.get("messages") or [], open_bytes if model in PHOTO_PERSONAS else read_bytes
    )
    count = int(number(body, "n", 1, 1, 128))
    temperature = number(body, "temperature", 1.0, 0, 2)
    limit = "max_completion_tokens" if "max_completion_tokens" in body else "max_tokens"
    cut = int(number(body, limit, 1e6, 1, 1e6)) * CHARACTERS_PER_TOKEN
    seed = body.get("seed")
    if seed is None:
        seed = secrets.randbits(63)
    photo = PHOTO_PERSONAS.get(model)
    write = photo_author(photo, sight) if photo else partial(answer, PERSONAS[model], sight)
    choices, written = [], 0
    for index in range(count):
        draw = "greedy" if temperature == 0 else f"{seed}|{index}"
        entropy = hashlib.sha256(f"{model}|{draw}|".encode() + key).digest()
        rng = np.random.default_rng(int.from_bytes(entropy[:16], "big"))
        text = write(rng, 0.5 + 0.5 * temperature)
        reason = "stop" if len(text) <= cut else "length"
        message = {"role": "assistant", "content": text[:cut], "refusal": None}
        choices.append(
            {"index": index, "message": message, "logprobs": None, "finish_reason": reason}
        )
        written += len(text[:cut]) // CHARACTERS_PER_TOKEN
    shown = sum(len(parts_of(m)[0]) for m in body["messages"]) // CHARACTERS_PER_TOKEN + 4 * len(
        sight.readings
    )
    usage = {"prompt_tokens": shown, "completion_tokens": written, "total_tokens": shown + written}
    head = {
        "id": f"chatcmpl-{secrets.token_hex(12)}",
        "object": "chat.completion",
        "created": int(time.time()),
    }
    return {**head, "model": model, "choices": choices, "usage": usage}


def respond(value: dict[str, Any], status: int = 200) -> Response:
    """The value as a JSON response."""
    return Response(json.dumps(value), status, media_type="application/json")


app = FastAPI(title="Sandbox teachers", openapi_url=None)
app.include_router(images_api.router)


@app.post("/v1/chat/completions")
async def chat_completions(request: Request) -> Response:
    """OpenAI's chat completion."""
    try:
        return respond(complete(parse_body(await request.body())))
    except Refused as refused:
        return respond(refused.body, refused.status)


@app.get("/v1/models")
async def models() -> Response:
    """The teachers."""
    rows = [
        {"id": name, "object": "model", "created": 0, "owned_by": "sandbox"}
        for name in (*PERSONAS, *PHOTO_PERSONAS, images_api.MODEL)
    ]
    return respond({"object": "list", "data": rows})


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(url: str) -> bool:
    """Whether a server lists its models at this base URL."""
    try:
        return reached(f"{url}/models", 2).is_success
    except httpx.HTTPError:
        return False


@contextmanager
def running_server(name: str, *flags: str) -> Iterator[str]:
    """Base URL of `rrm name` with these flags, in a process of its own, which ends with the block
    (or with this process)."""
    port = free_port()
    url = f"http://127.0.0.1:{port}/v1"
    command = [
        sys.executable,
        "-m",
        "rrm",
        name,
        "--port",
        str(port),
        "--until-stdin-closes",
        *flags,
    ]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True
    )
    try:
        deadline = time.monotonic() + START_SECONDS
        while not answers(url):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the server {name} did not start (exit code {process.poll()})")
            time.sleep(0.05)
        yield url
    finally:
        process.terminate()
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdin:
            process.stdin.close()


def running_teacher() -> AbstractContextManager[str]:
    """Base URL of a teacher server in a process of its own, which ends with the block (or with this
    process)."""
    return running_server("teacher")


def exit_when_stdin_closes() -> None:
    """Ends the server with the process that started it, however that one ended."""
    sys.stdin.read()
    os._exit(0)


def serve(host: str, port: int, until_stdin_closes: bool = False) -> None:
    """Serves the teachers until the process is stopped, or with `until_stdin_closes` until its
    parent is gone."""
    if until_stdin_closes:
        threading.Thread(target=exit_when_stdin_closes, daemon=True).start()
    uvicorn.run(app, host=host, port=port, log_level="error", access_log=False, lifespan="off")
