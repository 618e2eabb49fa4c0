"""Terminal output: keys are masked, and control sequences from models or servers are escaped."""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, TextIO

from rrm.runtime.secrets import mask

# Control characters of C0 and C1, lone surrogates, and those that turn the direction of text.
_CONTROL = r"\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff"
_UNPRINTABLE = re.compile(f"[{_CONTROL}]")
# A progress bar returns to the line's start and goes up a line; nothing else may.
_OF_A_BAR = r"\r|\x1b\[A"
_ON_SCREEN = re.compile(f"({_OF_A_BAR})|[{_CONTROL}]")


def printable(text: str) -> str:
    """The text with its control characters written out (an escape is `\\u001b`); line breaks and
    tabs stay."""
    return _UNPRINTABLE.sub(lambda found: _written_out(found[0]), text.replace("\r\n", "\n"))


def shown(text: str) -> str:
    """A foreign text for a message, a log or the terminal: masked, its control characters written
    out."""
    return printable(mask(text))


class Screen:
    """Wraps a text stream: masks keys and escapes control characters; progress bars work unchanged."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        """Writes the text, masked; returns the length of what was given."""
        self._stream.write(
            _ON_SCREEN.sub(lambda found: found[1] or _written_out(found[0]), mask(text))
        )
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def guarded_screen() -> Iterator[None]:
    """While the block lasts, whatever is printed goes through a `Screen`, and so does an uncaught
    exception."""
    before = sys.stdout, sys.stderr
    sys.excepthook = print_traceback
    sys.stdout, sys.stderr = Screen(before[0]), Screen(before[1])  # type: ignore[assignment]
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def print_traceback(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """What the interpreter prints of an exception that nothing catches, masked."""
    traceback.print_exception(kind, error, trace, file=Screen(sys.stderr))


def _written_out(character: str) -> str:
    return f"\\u{ord(character):04x}"  # a form that JSON has, too
