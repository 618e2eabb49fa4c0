"""Why an attempt brought no completion: the one table from a status and a server's words to a
fault."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from rrm.records import Failure, FailureKind
from rrm.runtime.screen import shown

LONGEST_DETAIL = 300
"""Characters of a server's words that are kept."""
DEPTH = 8
"""Levels of an error's JSON that are looked through."""
Scope = Literal["moment", "question", "everything"]
"""What would meet the same fault again: nothing, a little later; this question; every question."""

OF_ONE = frozenset(["model", "messages", "prompt", "image"])
"""Fields whose value is another in every request, or has a cure of its own."""
WINDOW = re.compile(
    r"context.{0,12}(length|window)|(input|prompt).{0,20}too long|too many (input )?tokens|input tokens",
    re.IGNORECASE,
)
FILTER = re.compile(
    r"content.?(filter|policy|management|moderation)|moderation|inspection|responsible.?ai|inappropriate|safety system|sensitive.(content|word|info)|敏感|违规|审核",
    re.IGNORECASE,
)
MONEY = re.compile(
    r"arrear|insufficient.{0,3}(balance|quota|funds|credit)|good standing|credit balance|余额|欠费",
    re.IGNORECASE,
)
QUOTA = re.compile(r"exceeded your current quota|billing", re.IGNORECASE)
"""What an empty account is told, and a busy minute as well, which also says when it ends."""
SOON = re.compile(
    r"(try again|retry) (in|after) [0-9]|per[ -]?(second|minute|min)\b", re.IGNORECASE
)
_INSIDE = r"(?<![\w/'\"`.-])(images?|inputs?|outputs?|content|returned)(?![\w-])"
NO_MODEL = re.compile(
    rf"model((?!{_INSIDE}).){{0,60}}(not.{{0,3}}(exist|found)|(unknown|invalid)(?! (error|input|output)))"
    r"|(invalid|unknown|no such) model(?! (in|out)put)",
    re.IGNORECASE,
)
BLIND = re.compile(
    r"(not|n't|no).{0,20}(support|accept|endpoints).{0,30}(image|vision|multi.?modal)|not a (multi.?modal|vision)",
    re.IGNORECASE,
)
ONE_IMAGE = re.compile(
    r"image/(?!text)\w+|\b(this|the) image\b|\bimage.{0,30}\b(format|larger|bigger|smaller|size|dimension|pixel|resolution)",
    re.IGNORECASE,
)
"""What is said of an image that was sent, not of images as such."""
_SPOILT = r"(load|decod|read|open|process|download|fetch|identif|invalid|corrupt|truncat|broken|format|unsupported|large|small|dimension|pixel)"
SPOILT = re.compile(rf"{_SPOILT}.{{0,40}}image|image.{{0,40}}{_SPOILT}", re.IGNORECASE)
TAG = re.compile(r"<(script|style)\b.*?</\1\s*>|<[^>]*>", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True)
class Fault:
    """Why one attempt brought no completion, and what else would meet the same."""

    failure: Failure
    scope: Scope
    wait: float | None = None
    """Seconds that the server asks to be left alone for."""
    cure: str = ""
    """What a user can do about a fault that meets everything."""
    field: str = ""
    """The field of the request that the server objects to."""
    reached: bool = True
    """Whether a server was there at all."""
    limited: bool = False
    """Whether the server takes no more requests for now (429)."""

    @property
    def told(self) -> Failure:
        """The failure with what can be done about it."""
        if not self.cure:
            return self.failure
        said = self.failure.detail[: LONGEST_DETAIL - len(self.cure) - 2].rstrip(".")
        return self.failure.model_copy(update={"detail": f"{said}; {self.cure}"})


def is_transient(kind: FailureKind, detail: str, wait: float | None = None) -> Fault:
    """A fault after which the same request may be answered."""
    return Fault(Failure(kind=kind, detail=one_line(detail)), "moment", wait)


def one_line(text: str) -> str:
    """The text on one line, without keys and control characters, at most `LONGEST_DETAIL`
    characters of it."""
    return shown(" ".join(text.split()))[:LONGEST_DETAIL]


def fault_of(
    status: int, raw: bytes, sent: Collection[str], key_variable: str, wait: float | None = None
) -> Fault:
    """What it means that a server answers a request with this status and body; `sent` are the names
    of the request's fields.

    Its own words are kept. A status of 200 stands for a body that holds an error in place of an
    answer.
    """
    value = parsed(raw)
    code, param, said = words_of(value, raw)
    detail = one_line(
        f"status {status}: {said}" if status >= 300 else f"an error in place of an answer: {said}"
    )
    status = status if status >= 300 else status_in(value)
    known = f"{code} {said}"

    def everything(cure: str, field: str = "") -> Fault:
        return Fault(Failure(kind="rejected", detail=detail), "everything", cure=cure, field=field)

    if 300 <= status < 400:
        return everything("give the address that it leads to as the base URL")
    if status in (408, 409, 425) or status >= 500:
        return is_transient("server_gone", detail, wait)
    if status == 402 or MONEY.search(known) or (QUOTA.search(known) and not SOON.search(said)):
        return everything("top up the account")
    if status == 429:
        return replace(is_transient("server_gone", detail, wait), limited=True)
    if FILTER.search(known) or status == 451:
        return Fault(Failure(kind="refused", detail=detail), "question")
    if status in (401, 403):
        return everything(f"set {key_variable} to a key that it takes")
    if BLIND.search(known) and not ONE_IMAGE.search(said):
        return everything("name a model that sees images")
    if status in (404, 405, 410) or NO_MODEL.search(known):
        return everything("correct the model's name, or the base URL (most end in /v1)")
    if WINDOW.search(known):
        return Fault(Failure(kind="bad_row", detail=detail), "question")
    if field := field_in(value, param, said, sent):
        return everything(cure_of(field), field)
    kind: FailureKind = (
        "image_unreadable" if SPOILT.search(said) or param.startswith("image") else "bad_row"
    )
    return Fault(Failure(kind=kind, detail=detail), "question")


def parsed(raw: bytes) -> Any:
    """The body as JSON, None where it is none."""
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        return None


def holds_error(value: Any) -> bool:
    """Whether an answer's JSON is an error in place of a completion."""
    return isinstance(value, dict) and bool(error_in(value)) and not sound_choices(value)


def sound_choices(value: dict[str, Any]) -> bool:
    """Whether there is a choice without an error of its own."""
    choices = value.get("choices")
    return isinstance(choices, list) and any(
        isinstance(c, dict) and not c.get("error") for c in choices
    )


def error_in(value: dict[str, Any]) -> Any:
    """The error in an answer's JSON, wherever it stands: at the top, or in a choice."""
    choices = value.get("choices")
    inside = (
        [c.get("error") for c in choices if isinstance(c, dict)]
        if isinstance(choices, list)
        else []
    )
    return value.get("error") or next(filter(None, inside), None)


def status_in(value: Any) -> int:
    """The status that an error behind a status of 200 names, 500 where it names none."""
    error = error_in(value) if isinstance(value, dict) else None
    code = error.get("code") if isinstance(error, dict) else None
    return code if type(code) is int and 400 <= code < 600 else 500


def words_of(value: Any, raw: bytes) -> tuple[str, str, str]:
    """(code, parameter, words) of an error's body in any of the forms that servers write."""
    error = error_in(value) if isinstance(value, dict) else None
    holder = error if isinstance(error, dict) else value if isinstance(value, dict) else {}
    code = " ".join(
        str(holder[name]) for name in ("code", "type") if isinstance(holder.get(name), str)
    )
    param = holder.get("param")
    said = (
        error
        if isinstance(error, str)
        else holder.get("message") or holder.get("detail") or holder.get("error_msg")
    )
    if said is None or said == "":
        said = (
            value
            if value not in (None, "")
            else TAG.sub(" ", raw[:20_000].decode("utf-8", "replace")).strip() or "no words"
        )
    return (
        code,
        param if isinstance(param, str) else "",
        said if isinstance(said, str) else compact(said),
    )


def compact(value: Any) -> str:
    """A JSON value on one line."""
    try:
        return json.dumps(value, ensure_ascii=False)
    except (ValueError, RecursionError):
        return "nested too deep"


def field_in(value: Any, param: str, said: str, sent: Collection[str]) -> str | None:
    """The field of the request that the server objects to, where it names one that would be the
    same in every request."""
    names = {*sent, "max_tokens", "enable_thinking", "stream"} - OF_ONE
    last = re.split(r"[.\[\]]+", param.strip("]."))[-1] if param else ""
    if last in names:
        return last
    for name in (*places(value), *re.findall(r"[\w.]+", said)):
        plain = name.rpartition(".")[2]
        if plain in names and (
            len(plain) > 1 or re.search(rf"['\"`]{plain}['\"`]|parameter:? {plain}\b", said)
        ):
            return plain
    return None


def places(value: Any, depth: int = DEPTH) -> Iterator[str]:
    """The last names of pydantic's places of errors, wherever they stand in the JSON, down to a
    depth."""
    if depth == 0:
        return
    if isinstance(value, dict):
        loc = value.get("loc")
        if isinstance(loc, list) and len(loc) <= 3 and isinstance(loc[-1] if loc else None, str):
            yield loc[-1]
        for inner in value.values():
            yield from places(inner, depth - 1)
    elif isinstance(value, list):
        for inner in value:
            yield from places(inner, depth - 1)


def cure_of(field: str) -> str:
    """What to set where a server objects to a field."""
    match field:
        case "seed":
            return "set send_seed: false"
        case "max_tokens" | "max_completion_tokens":
            other = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}[
                field
            ]
            return f"set max_tokens_field: {other}, or another max_tokens"
        case "n":
            return "set one_by_one: true"
        case "enable_thinking":
            return 'set extra: {"enable_thinking": false}'
        case "stream":
            return "name a model that answers without streaming"
    return f'set {field} to what it takes, or leave it out with extra: {{"{field}": null}}'
