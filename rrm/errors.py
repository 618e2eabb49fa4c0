"""The exceptions that a user is meant to read. Exit codes of all commands: see `rrm.stage.command`."""


class InputError(Exception):
    """Something the user gave cannot be used; the message is one sentence that says what to do.

    Every command turns it into that sentence on stderr and exit code 2.
    """


class NothingMade(Exception):
    """A stage or command came to its end and not one row came out; the message says how many failed, by kind.

    Every command turns it into that sentence on stderr and exit code 1.
    """
