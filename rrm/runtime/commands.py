"""Running a typer application: one sentence for a wrong command line, and the exit codes of
`rrm.runtime.stage.command`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import typer
from typer.exceptions import Abort, Exit, TyperException

from rrm.runtime.stage import command


def invoke(app: typer.Typer, name: str, arguments: Sequence[object]) -> None:
    """Runs the application called `name`. A wrong command line is one sentence and SystemExit(2);
    an InputError is the caller's."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    given = [str(argument) for argument in arguments]
    try:
        code = app(given, prog_name=name, standalone_mode=False)
    except TyperException as error:
        called = " ".join([name, *(word for word in given[:1] if not word.startswith("-"))])
        print(f"error: {error.format_message().rstrip('.')}; see {called} --help.", file=sys.stderr)
        raise SystemExit(2) from None
    except Exit as end:
        raise SystemExit(end.exit_code) from None
    except Abort:
        raise KeyboardInterrupt from None
    if isinstance(code, int) and code:
        raise SystemExit(code)


def run_process(app: typer.Typer, name: str, arguments: Sequence[object] | None = None) -> None:
    """The process's command: these arguments, or sys.argv's, ended with one of the exit codes of
    `command`."""
    given = sys.argv[1:] if arguments is None else arguments
    command(lambda: invoke(app, name, given))
