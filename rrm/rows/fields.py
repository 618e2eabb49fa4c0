"""What a field of a row holds: text, an image, or nothing; whatever its format stores it as.

A field that is None, NaN, blank or empty counts as missing. What cannot be used raises BadRow with
the reason.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from typing import Any

from rrm.records import Failure, FailureKind

ImageRef = str | bytes
"""A path as it is written in the row, or an encoded image."""

DATA_URL = re.compile(r"data:[^,]{0,200};base64,", re.IGNORECASE)
BASE64_IMAGE = re.compile(
    r"(iVBORw0KGgo|/9j/|UklGR|R0lGOD|SUkqA|TU0AK)[A-Za-z0-9+/\s]{200,}={0,2}\s*"
)
"""What PNG, JPEG, WebP, GIF and TIFF look like in base64."""
LONGEST_PATH = 4096


class BadRow(Exception):
    """A row that cannot be used, and why."""

    def __init__(self, kind: FailureKind, detail: str):
        super().__init__(detail)
        self.failure = Failure(kind=kind, detail=detail[:300])


def bad(detail: str) -> BadRow:
    """The exception for a row whose fields do not do."""
    return BadRow("bad_row", detail)


def missing(value: Any) -> bool:
    """Whether a field holds nothing."""
    if isinstance(value, str):
        return not value.strip()
    if isinstance(value, dict) and value.keys() == {"bytes", "path"}:
        return not value["bytes"] and missing(value["path"])
    return value is None or value != value or value in (b"", [], {})


def first_of(values: Mapping[str, Any], names: Sequence[str]) -> tuple[str, Any] | None:
    """The first of these fields that holds something, and what."""
    return next(
        ((name, values[name]) for name in names if name in values and not missing(values[name])),
        None,
    )


def needed(values: Mapping[str, Any], what: str, names: Sequence[str]) -> tuple[str, Any]:
    """The first of these fields that holds something, and what; BadRow where none does."""
    found = first_of(values, names)
    if found is None:
        raise bad(
            f"'{names[0]}' is missing"
            if len(names) == 1
            else f"no {what}: all of {', '.join(names)} are missing"
        )
    return found


def encodable(name: str, text: str) -> str:
    """The text; BadRow where it holds half a character, which no file can hold."""
    if re.search("[\ud800-\udfff]", text):
        raise bad(f"'{name}' holds half a character (a lone surrogate)")
    return text


def embedded(name: str, text: str) -> bytes | None:
    """The image that a text holds as a data URL or in base64; None where it may be a path. BadRow
    for whatever is neither."""
    found = DATA_URL.match(text)
    if found or BASE64_IMAGE.fullmatch(text):
        try:
            return base64.b64decode(
                "".join(text[found.end() if found else 0 :].split()), validate=True
            )
        except (binascii.Error, ValueError) as error:
            raise bad(f"'{name}' holds an image whose base64 is not whole ({error})") from error
    if len(text) > LONGEST_PATH:
        raise bad(
            f"'{name}' holds {len(text)} characters, which are neither a path nor an image in base64"
        )
    if re.match(r"(https?|s3|gs|hf)://", text):
        raise bad(
            f"'{name}' is an address ({text[:80]}): nothing is fetched; download the images and give their paths"
        )
    return None


def as_text(name: str, value: Any) -> str:
    """The text in a field: itself, the only one of a list or of one language, or the English one of
    several languages."""
    if isinstance(value, dict):
        texts = {language: text for language, text in value.items() if not missing(text)}
        if "en" not in texts and len(texts) != 1:
            raise bad(f"'{name}' holds {len(texts)} texts, none of them under 'en'")
        return as_text(name, texts.get("en", next(iter(texts.values()))))
    if isinstance(value, list) and len(value) == 1:
        return as_text(name, value[0])
    if isinstance(value, list):
        raise bad(f"'{name}' holds {len(value)} texts, not one")
    if not isinstance(value, str) or missing(value):
        raise bad(f"'{name}' must be text, not {type(value).__name__}")
    if "\ufffd" in value:
        raise bad(
            f"'{name}' holds U+FFFD, which stands for what was lost when the text was decoded wrongly; save it anew"
        )
    return encodable(name, value.strip())


def as_image(name: str, value: Any) -> ImageRef:
    """The image in a field: a path, bytes, a data URL or base64, {"bytes", "path"}, or a list of
    one."""
    if isinstance(value, dict) and value.keys() == {"bytes", "path"}:
        value = value["bytes"] or value["path"]
    if isinstance(value, list) and (len(value) == 1 or name == "input_images"):
        return as_image(name, value[0])
    if isinstance(value, list):
        raise bad(f"'{name}' holds {len(value)} images, not one")
    if isinstance(value, bytes) and value:
        return value
    if not isinstance(value, str) or missing(value):
        raise bad(f"'{name}' must be the path or the bytes of an image, not {type(value).__name__}")
    found = embedded(name, value)
    return encodable(name, value) if found is None else found


def optional_text(values: Mapping[str, Any], names: Sequence[str]) -> str | None:
    """The text in the first of these fields that holds something, or None."""
    found = first_of(values, names)
    return as_text(*found) if found else None
