"""What clients of OpenAI-compatible servers share: images as parts of a message, and how long to wait for another try."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from email.utils import mktime_tz, parsedate_tz
from typing import Any

from PIL.Image import Image

from rrm.images import data_url, png_bytes

DOUBLINGS = 64
"""At most, of a wait: more would overflow, and no wait is that long."""


def image_part(image: Image) -> dict[str, Any]:
    """An image, as it is, as a part of a chat message."""
    return {"type": "image_url", "image_url": {"url": data_url(png_bytes(image))}}


def passing(status: int) -> bool:
    """Whether a server that answers with this status may answer the same request well a little later."""
    return status in (408, 409, 429) or status >= 500


def asked_wait(headers: Mapping[str, str], now: float) -> float | None:
    """The seconds that a server asks to be left alone for, where its headers say so; `now` is in seconds since 1970.

    What is no number or HTTP date, less than nothing, endless or over by now says nothing.
    """
    after = headers.get("retry-after", "")
    waits = (number(headers.get("retry-after-ms", "")) / 1000, number(after), date(after) - now)
    return next((wait for wait in waits if 0 <= wait < math.inf), None)


def number(text: str) -> float:
    """The number that the text is, nan where it is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def date(text: str) -> float:
    """The seconds since 1970 of an HTTP date in any of its three forms (RFC 9110, 5.6.7), nan where the text is none."""
    parts = parsedate_tz(text)
    try:
        return math.nan if parts is None else float(mktime_tz(parts))
    except (ValueError, OverflowError):
        return math.nan


def backoff(doublings: int, first: float, longest: float) -> float:
    """Seconds to wait: `first`, doubled so many times, at most `longest`; with jitter, of which at least half is left."""
    return min(longest, first * 2.0 ** min(doublings, DOUBLINGS)) * random.uniform(0.5, 1.0)
