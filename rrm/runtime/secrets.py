"""Keys and passwords, masked wherever text leaves the process: files, pages, messages, the screen.

What is masked: the value of every key that a client has read (`key_of`), of `extra` fields and URLs
that carry one (`know_fields`, `know_url`), of environment variables named …KEY, …TOKEN, …SECRET or
…PASSWORD; and whatever looks like a credential in a URL or an Authorization header, whoever wrote
it.
"""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Mapping
from itertools import takewhile
from typing import Any
from urllib.parse import quote, unquote, urlsplit

MASK = "***"
SHORTEST = 8
"""Characters of the shortest key that is masked: a shorter one is no secret, and stands in ordinary
text."""
PART = 12
"""Characters of the shortest part of a key that is masked, where a message was cut inside of it."""
PLAUSIBLE = 16
"""Characters from which the value of an environment variable with a telling name counts as a key.
"""

_NAMES_A_KEY = re.compile(
    r"(?:^|[_-])(?:api)?(?:key|token|secret|password|passwd|credential|authorization)s?$", re.I
)
_PLAUSIBLE = r"(?=[\w.~+/=-]*\d)(?=[\w.~+/=-]*[a-z])[\w.~+/=-]{8,}"
"""What a header may carry: of letters and digits. The words of a sentence, and JSON's numbers and
null, are none."""
_CREDENTIALS = {
    # user:password@ of a URL
    "://": (re.compile(r"(?<=://)[^/\s?#\"'<>\\\u0080-\U0010ffff]+@"), MASK + "@"),
    # ?api_key=…, but not ?key=VARIABLE, by which a reward's spec names where the key is
    "=": (
        re.compile(
            r"([?&;](?i:(?:[\w-]*[_-]|api|access|auth|client|refresh|secret|session)?(?:key|token|secret|password|signature)|sig|auth)=)(?![A-Z][A-Z0-9_]*(?:[&\s#\"'<>\\]|$))[^&\s#\"'<>\\]+"
        ),
        r"\1" + MASK,
    ),
    # Authorization: Bearer …, also as JSON and as JSON in a string
    "authorization": (
        re.compile(
            r"(authorization\\*[\"']?\s*[:=]\s*\\*[\"']?)"
            rf"(?:((?:bearer|basic|token)\s+)[^\s\"'<>\\,]+|((?:[\w-]+\s+)?){_PLAUSIBLE})",
            re.I | re.A,
        ),
        r"\1\2\3" + MASK,
    ),
    "api-key": (
        re.compile(
            rf"(api-key=|api-key\\*[\"']?\s*[:=]\s*\\*[\"']?(?={_PLAUSIBLE}))[^\s\"'<>\\,]+",
            re.I | re.A,
        ),
        r"\1" + MASK,
    ),
    # Bearer … alone; a sentence about a flag bearer has no such word with a digit in it
    "bearer": (re.compile(r"(bearer\s+)(?=[^\s\"'<>\\]*\d)[\w.~+/=-]{16,}", re.I), r"\1" + MASK),
}
"""What a text must hold in small letters to be looked through → what is looked for, and what takes
its place."""
_known: list[str] = []
"""The longest first: the form that JSON gives a key before the key itself."""


def mask(text: str) -> str:
    """The text with every known key and every credential replaced by ***; JSON and HTML stay
    well-formed."""
    if len(text) < SHORTEST:
        return text
    for key in _known:
        if key[:PART] in text or key[-PART:] in text:
            text = _without(text, key)
    small = text.lower()
    for sign, (pattern, replacement) in _CREDENTIALS.items():
        if sign in small:
            text = pattern.sub(replacement, text)
    return text


def masked(value: Any) -> Any:
    """A value of JSON's kinds with every text in it masked."""
    if isinstance(value, str):
        return mask(value)
    if isinstance(value, Mapping):
        return {name: masked(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [masked(part) for part in value]
    return value


def know(secret: str) -> None:
    """From now on `mask` masks this text, and parts of it. One that is short or a plain number is
    left alone."""
    if len(secret) < SHORTEST or secret.isdecimal():
        return
    forms = {secret, quote(secret, safe=""), json.dumps(secret)[1:-1]}
    _known[:] = sorted({*_known, *forms}, key=len, reverse=True)


def key_of(variable: str) -> str | None:
    """The key in this environment variable, which is known from now on; None where it is not set or
    empty."""
    key = os.environ.get(variable) or None
    if key is not None:
        know(key.strip())
    return key


def know_url(url: str) -> None:
    """Makes the password in a URL known, if it has one, also in the form in which it is sent."""
    parts = urlsplit(url)
    if parts.password:
        pair = f"{unquote(parts.username or '')}:{unquote(parts.password)}"
        know(parts.password)
        know(unquote(parts.password))
        know(base64.b64encode(pair.encode()).decode().rstrip("="))


def know_fields(fields: Mapping[str, Any]) -> None:
    """Makes known what stands, at any depth, under a name such as `api_key` or `token`."""
    for name, value in fields.items():
        if isinstance(value, Mapping):
            know_fields(value)
        elif isinstance(value, str) and _NAMES_A_KEY.search(name):
            know(value)


def _without(text: str, key: str) -> str:
    """The text without the key, and without a beginning or end of it that a cut has left."""
    text = text.replace(key, MASK)
    if len(key) <= PART or '"' in key or "\\" in key:  # half of an escape would be no JSON
        return text
    return _without_beginning(_without_beginning(text, key)[::-1], key[::-1])[::-1]


def _without_beginning(text: str, key: str) -> str:
    while (begin := text.find(key[:PART])) >= 0:
        pairs = zip(text[begin : begin + len(key)], key, strict=False)
        shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        text = text[:begin] + MASK + text[begin + shared :]
    return text


def _of_environment(environment: Mapping[str, str]) -> None:
    for name, value in environment.items():
        if (
            _NAMES_A_KEY.search(name)
            and len(value) >= PLAUSIBLE
            and not re.search(r"\s|^[~/.]", value)
        ):
            know(value)


_of_environment(os.environ)
