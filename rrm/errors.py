"""The exceptions that a user is meant to read. Exit codes of all commands: see
`rrm.runtime.stage.command`."""

from __future__ import annotations

from rrm.runtime.screen import shown


class InputError(Exception):
    """Something the user gave cannot be used; the message is one sentence that says what to do.

    Every command turns it into that sentence on stderr and exit code 2. Keys are masked in it and
    control characters written out: it may quote a server.
    """

    def __init__(self, message: str):
        super().__init__(shown(message))


class NothingMade(Exception):
    """A stage or command came to its end and not one row came out; the message says how many
    failed, by kind.

    Every command turns it into that sentence on stderr and exit code 1.
    """
