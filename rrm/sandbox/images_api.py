"""OpenAI's images API, whose one model is the sandbox's scripted editors.

Like the sandbox's teachers it knows nothing but the request: it reads the scene from the image's
pixels and the steps from the prompt, and does them well or badly. The same request with the same
seed gets the same edit.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import secrets
import time
from collections.abc import Mapping
from email.parser import BytesParser
from email.policy import HTTP

import numpy as np
from fastapi import APIRouter, Request, Response
from PIL import Image

from rrm.errors import InputError
from rrm.images import png_bytes, read_image
from rrm.sandbox.edits import Step, parse_instruction
from rrm.sandbox.reading import BLOB, Reading, read_scene
from rrm.sandbox.scripted_edits import EDITORS, script_edit
from rrm.sandbox.world import Scene

MODEL = "sandbox-editor"
RIGHT_SHARE = 0.4
"""Edits that are done right; the others are shared out evenly among the flawed editors."""
MOST_IMAGES = 10
SIZE = re.compile(r"([1-9]\d{0,3})x([1-9]\d{0,3})")

router = APIRouter()


class Refusal(Exception):
    """A request that is answered with an error in OpenAI's form."""

    def __init__(
        self, message: str, param: str | None = None, code: str | None = None, status: int = 400
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


@router.post("/v1/images/edits")
async def images_edits(request: Request) -> Response:
    """OpenAI's image edit."""
    try:
        fields = form_fields(request.headers.get("content-type", ""), await request.body())
        value: Mapping[str, object] = {"created": int(time.time()), "data": edits(fields)}
        status = 200
    except Refusal as refusal:
        value, status = refusal.body, refusal.status
    return Response(json.dumps(value), status, media_type="application/json")


def form_fields(content_type: str, body: bytes) -> dict[str, bytes]:
    """The fields of a multipart form, by name, as they were sent."""
    # the standard library's parser keeps bytes as they are, and FastAPI's own forms need one more
    # dependency
    form = BytesParser(policy=HTTP).parsebytes(
        f"Content-Type: {content_type}\r\n\r\n".encode() + body
    )
    if form.get_content_type() != "multipart/form-data" or not form.is_multipart():
        raise Refusal("The body must be a multipart form.")
    fields: dict[str, bytes] = {}
    for part in form.iter_parts():
        name = str(part.get_param("name", "", "content-disposition")).removesuffix("[]")
        if name in fields:
            raise Refusal(
                f"'{name}' is given more than once; the sandbox's editor takes one.", name
            )
        payload = part.get_payload(decode=True)
        fields[name] = payload if isinstance(payload, bytes) else b""
    return fields


def edits(fields: dict[str, bytes]) -> list[dict[str, str]]:
    """The images of the answer, as OpenAI writes them."""
    texts = {
        name: value.decode(errors="replace") for name, value in fields.items() if name != "image"
    }
    if (model := texts.get("model", MODEL)) != MODEL:
        raise Refusal(f"The model '{model}' does not exist.", "model", "model_not_found", 404)
    if texts.get("response_format", "b64_json") != "b64_json":
        raise Refusal("The sandbox's editor sends images as 'b64_json' alone.", "response_format")
    count = whole_number(texts.get("n", "1"), "n", 1, MOST_IMAGES)
    seed = (
        whole_number(texts["seed"], "seed", 0, 2**63 - 1)
        if "seed" in texts
        else secrets.randbits(63)
    )
    image = decoded(fields.get("image", b""))
    size = wanted_size(texts.get("size", "auto"), image.size)
    scene, steps = understood(read_scene(image), texts.get("prompt", ""))
    asked = f"{image.size}|{texts['prompt']}|{seed}|".encode() + image.tobytes()
    data = []
    for index in range(count):
        rng = np.random.default_rng(
            int.from_bytes(hashlib.sha256(asked + bytes([index])).digest()[:16], "big")
        )
        edited = script_edit(rng, scene, steps, pick_editor(rng))
        if edited.size != size:
            edited = edited.resize(size, Image.Resampling.NEAREST)
        data.append({"b64_json": base64.b64encode(png_bytes(edited)).decode()})
    return data


def whole_number(text: str, name: str, low: int, high: int) -> int:
    """The number that a field holds."""
    if not re.fullmatch(r"\d{1,19}", text) or not low <= int(text) <= high:
        raise Refusal(f"'{name}' must be a whole number from {low} to {high}.", name)
    return int(text)


def decoded(payload: bytes) -> Image.Image:
    """The RGB image in the file."""
    try:
        return read_image(payload)
    except InputError as error:
        raise Refusal(
            "The image data you provided does not represent a valid image.",
            "image",
            "invalid_image_file",
        ) from error


def wanted_size(text: str, own: tuple[int, int]) -> tuple[int, int]:
    """Width and height of the edit: as the request says, or the source's own."""
    if text == "auto":
        return own
    match = SIZE.fullmatch(text)
    if match is None:
        raise Refusal("'size' must be 'auto' or look like '1024x1024'.", "size")
    return int(match[1]), int(match[2])


def understood(seen: Reading, prompt: str) -> tuple[Scene, list[Step]]:
    """The scene that is seen and the steps that are asked for, which can be done in it."""
    steps = parse_instruction(prompt)
    if steps is None:
        raise Refusal("The sandbox's editor does not understand this prompt.", "prompt")
    things = tuple(thing for thing in seen.cells if thing is not BLOB)
    if len(things) < len(seen.cells):
        raise Refusal("The image shows no scene of the sandbox.", "image")
    touched: set[int] = set()
    for step in steps:
        cell = step.cell(seen)
        if cell is None and step.kind != "background":
            raise Refusal(f"There is no {step.name} in the image.", "prompt")
        if cell in touched:
            raise Refusal("The sandbox's editor does one thing with one object.", "prompt")
        touched |= set() if cell is None else {cell}
    return Scene(seen.background, things), steps


def pick_editor(rng: np.random.Generator) -> str:
    """The right editor in RIGHT_SHARE of the draws, else one of the flawed."""
    return (
        "right"
        if rng.random() < RIGHT_SHARE
        else str(rng.choice([name for name in EDITORS if name != "right"]))
    )
