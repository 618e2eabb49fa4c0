"""The one exception that a user is meant to read."""


class InputError(Exception):
    """Something the user gave cannot be used; the message is one sentence that says what to do.

    Every command turns it into that sentence on stderr and exit code 2.
    """
