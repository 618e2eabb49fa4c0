"""Numbers as text; a dash for a missing one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

Ends = Sequence[float | None] | None
"""An interval, None or with None ends where it could not be worked out."""
MISSING = "–"


def percent(share: float | None) -> str:
    """A share in per cent, without the sign."""
    return MISSING if share is None else f"{100 * share:.1f}"


def points(difference: float | None) -> str:
    """A signed difference of shares, in percentage points."""
    return MISSING if difference is None else f"{100 * difference:+.1f}".replace("-", "−")


def two_digits(value: float | None) -> str:
    """A score or a reward."""
    return MISSING if value is None else f"{value:.2f}"


def change(difference: float | None) -> str:
    """A signed difference of rewards."""
    return MISSING if difference is None else f"{difference:+.2f}".replace("-", "−")


def span(interval: Ends, show: Callable[[float | None], str]) -> str:
    """Both ends of an interval."""
    if interval is None or None in interval:
        return MISSING
    return f"{show(interval[0])} to {show(interval[1])}"


def percent_span(interval: Ends) -> str:
    """An interval of shares, in per cent."""
    return span(interval, percent)


def points_span(interval: Ends) -> str:
    """An interval of a difference of shares, in percentage points."""
    return span(interval, points)


def span_of_rewards(interval: Ends) -> str:
    """An interval of rewards."""
    return span(interval, two_digits)


def change_span(interval: Ends) -> str:
    """An interval of a difference of rewards."""
    return span(interval, change)


def excludes_zero(interval: Ends) -> bool:
    """Whether the interval lies on one side of zero."""
    ends = [end for end in interval or () if end is not None]
    return len(ends) == 2 and (min(ends) > 0 or max(ends) < 0)


def duration(seconds: float | None) -> str:
    """Minutes and seconds."""
    if seconds is None:
        return MISSING
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


FILTERS = {
    "percent": percent,
    "points": points,
    "two_digits": two_digits,
    "change": change,
    "percent_span": percent_span,
    "points_span": points_span,
    "span_of_rewards": span_of_rewards,
    "change_span": change_span,
    "excludes_zero": excludes_zero,
    "duration": duration,
}
"""What the report's template may call."""
