"""Text files as they are saved: UTF-8 with or without a byte-order mark, UTF-16 and UTF-32 with
one, or an encoding that is named.

Nothing is ever replaced: a file that is not in its encoding is refused, with the line and the
encoding that it is probably in.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, TextIO

from charset_normalizer import from_bytes
from pydantic import AfterValidator

from rrm.errors import InputError

MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # begins with the mark of UTF-16
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
USUAL = ("gb18030", "big5", "cp932", "cp949", "cp1252", "cp1251")
"""What text that is not Unicode is saved in; of those that fit equally well, the first is named
first."""
ESCAPES = ("idna", "punycode", "unicode-escape", "raw-unicode-escape", "undefined")
"""Codecs of names and of source code, not of files."""
PIECE = 1 << 20
SAMPLE = 1 << 14
"""Bytes behind the first fault that an encoding is guessed from."""
ADVICE = "save it as UTF-8, or name its encoding where there is a key or an option 'encoding'"


def known_encoding(name: str) -> str:
    """The name itself; ValueError where it names no encoding of text."""
    try:
        "".encode(name)  # which the codecs from text to text, such as rot13, refuse
        if codecs.lookup(name).name in ESCAPES:
            raise LookupError
    except LookupError as error:
        raise ValueError(
            f"'{name}' is no encoding of text; name one such as utf-8, gb18030, big5 or cp1252"
        ) from error
    return name


Encoding = Annotated[str, AfterValidator(known_encoding)]
"""A config's key: the encoding of those of its text files that are not UTF-8."""


@contextmanager
def open_text(
    path: str | Path, encoding: str | None = None, newline: str | None = None
) -> Iterator[TextIO]:
    """The file's text as a stream without its byte-order mark; `newline` as for `open`.

    A mark decides, then UTF-8 where the file is UTF-8, then `encoding`. Raises InputError where
    there is no such file, it cannot be opened, or, while it is read, where it is not in that
    encoding.
    """
    path = Path(path)
    found = encoding_of(path, encoding)
    try:
        with path.open(encoding=found, newline=newline) as stream:
            yield stream
    except UnicodeDecodeError as error:
        raise undecodable(path, found) from error


def read_text(path: str | Path, encoding: str | None = None) -> str:
    """All of the file's text, its lines ending in a line feed. Raises InputError as `open_text`
    does."""
    with open_text(path, encoding) as stream:
        return stream.read()


def encoding_of(path: Path, given: str | None) -> str:
    """What the file is decoded with. Raises InputError where it cannot be opened, or is UTF-16
    without a mark."""
    try:
        if not path.is_file():
            raise InputError(f"There is no file at {path}; correct the path.")
        with path.open("rb") as stream:
            head = stream.read(SAMPLE)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); make it readable.") from error
    if marked := next((name for mark, name in MARKS if head.startswith(mark)), None):
        return marked
    if given is not None:
        try:
            known_encoding(given)
        except ValueError as error:
            raise InputError(f"{error}.") from error
        odd = (
            b"\0" in head or b"\x1b" in head
        )  # UTF-16 and ISO 2022 are valid UTF-8, and yet something else
        if not odd and first_fault(path, "utf-8") is None:
            return "utf-8"
        plain = codecs.lookup(given).name
        return (
            f"{plain}-le" if plain in ("utf-16", "utf-32") else given
        )  # without a mark, as Windows writes it
    if b"\0" in head:
        raise InputError(
            f"{path} is no UTF-8 text but probably UTF-16 without a byte-order mark; {ADVICE}."
        )
    return "utf-8"


def first_fault(path: Path, encoding: str) -> tuple[int, bytes] | None:
    """The line (from 1) of the first byte that this encoding does not know, and the bytes from
    there on; None without one."""
    decoder = codecs.getincrementaldecoder(encoding)()
    line = 1
    with path.open("rb") as stream:
        while True:
            piece = stream.read(PIECE)
            try:
                decoder.decode(piece, final=not piece)
            except UnicodeDecodeError as error:
                known = error.object[: error.start]
                return line + known.count(b"\n"), error.object[error.start :] + stream.read(SAMPLE)
            if not piece:
                return None
            line += piece.count(b"\n")


def undecodable(path: Path, encoding: str) -> InputError:
    """The error for a file that is not in this encoding."""
    fault = first_fault(path, encoding)
    if fault is None:
        return InputError(f"{path} changed while it was read; read it again.")
    line, rest = fault
    likely = likely_encodings(rest[:SAMPLE]) if encoding.startswith("utf-8") else []
    guess = f", but probably {' or '.join(likely)}" if likely else ""
    return InputError(
        f"{path}, line {line} is not {encoding.removesuffix('-sig')}{guess}; {ADVICE}."
    )


def likely_encodings(sample: bytes) -> list[str]:
    """Those of USUAL that the bytes fit best; at most three."""
    words = b" ".join(
        re.findall(rb"[\x80-\xff][\x40-\xff]*", sample)
    )  # between much ASCII, any encoding seems to fit
    found = list(from_bytes(words, cp_isolation=list(USUAL))) or list(
        from_bytes(sample, cp_isolation=list(USUAL))
    )
    best = min(((match.chaos, -match.coherence) for match in found), default=None)
    fitting = [match.encoding for match in found if (match.chaos, -match.coherence) == best]
    return sorted(fitting, key=USUAL.index)[:3]
