"""How long to wait for another try: what a server asks for, and what a client thinks of itself."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from email.utils import mktime_tz, parsedate_tz

DOUBLINGS = 64
"""At most, of a wait: more would overflow, and no wait is that long."""
LONGEST_BY_CLOCK = 60.0
"""Seconds of a wait until a date, where the server does not tell its own time: one of the two
clocks may be wrong."""


def asked_wait(headers: Mapping[str, str], now: float) -> float | None:
    """The seconds that a server asks to be left alone for, where its headers say so; `now` is in
    seconds since 1970.

    A date is compared with the server's own `Date`. What is no number or HTTP date, less than
    nothing, endless or over by now says nothing.
    """
    after = headers.get("retry-after", "")
    theirs = date(headers.get("date", ""))
    until = date(after) - now if math.isnan(theirs) else date(after) - theirs
    if math.isnan(theirs) and until > LONGEST_BY_CLOCK:
        until = LONGEST_BY_CLOCK
    waits = (number(headers.get("retry-after-ms", "")) / 1000, number(after), until)
    return next((wait for wait in waits if 0 <= wait < math.inf), None)


def number(text: str) -> float:
    """The number that the text is, nan where it is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def date(text: str) -> float:
    """The seconds since 1970 of an HTTP date in any of its three forms (RFC 9110, 5.6.7), nan where
    the text is none."""
    parts = parsedate_tz(text)
    try:
        return math.nan if parts is None else float(mktime_tz(parts))
    except (ValueError, OverflowError):
        return math.nan


def backoff(doublings: int, first: float, longest: float) -> float:
    """Seconds to wait: `first`, doubled so many times, at most `longest`; with jitter, of which at
    least half is left."""
    return min(longest, first * 2.0 ** min(doublings, DOUBLINGS)) * random.uniform(0.5, 1.0)
