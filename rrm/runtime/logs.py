"""Progress and notices as log records: with time and level on a terminal, as plain lines elsewhere,
always on stderr.

Results that a user asked for are printed on stdout. A library user who sets up logging differently
gets the same records.
"""

from __future__ import annotations

import logging
import sys

from rich.console import Console
from rich.logging import RichHandler
from tqdm import tqdm

from rrm.runtime.screen import shown

ROOTS = ("rrm", "data_pipeline", "eval")


class Plain(logging.Handler):
    """Writes the message as a line to whatever sys.stderr is, without tearing a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        """Writes one record."""
        with tqdm.external_write_mode(file=sys.stderr):
            mark = "warning: " if record.levelno >= logging.WARNING else ""
            print(mark + self.format(record), file=sys.stderr, flush=True)


class OnTerminal(RichHandler):
    """Rich's handler, without tearing a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        """Writes one record."""
        with tqdm.external_write_mode(file=sys.stderr):
            super().emit(record)


def masked(record: logging.LogRecord) -> bool:
    """Masks keys and writes control characters out, since a terminal handler bypasses the guarded
    streams. Keeps every record."""
    record.msg, record.args = shown(record.getMessage()), ()
    return True


def set_up() -> None:
    """Shows records from INFO on; a second call changes nothing. Call it before the streams are
    guarded."""
    if any(
        isinstance(handler, Plain | OnTerminal) for handler in logging.getLogger(ROOTS[0]).handlers
    ):
        return
    if sys.stderr.isatty():
        handler: logging.Handler = OnTerminal(
            console=Console(file=sys.stderr),
            show_path=False,
            markup=False,
            highlighter=None,
            log_time_format="[%H:%M:%S]",
        )
    else:
        handler = Plain()
    handler.addFilter(masked)
    for name in ROOTS:
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO)
        logger.addHandler(handler)
