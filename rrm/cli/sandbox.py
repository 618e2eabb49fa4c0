"""What stands in on a laptop: the sandbox's teachers, with faults if wanted, and its pre-trained
checkpoints."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, Literal

import typer

from rrm.runtime import local_servers


def start_teacher() -> AbstractContextManager[str]:
    """Base URL of a teacher server of the sandbox, which ends with the block."""
    from rrm.sandbox.teacher import running_teacher

    return running_teacher()


local_servers.register("sandbox", start_teacher)

UntilStdinCloses = Annotated[bool, typer.Option("--until-stdin-closes", hidden=True)]


def teacher(
    host: str = "127.0.0.1", port: int = 8100, until_stdin_closes: UntilStdinCloses = False
) -> None:
    """Serve the sandbox's teachers over OpenAI's protocol."""
    from rrm.sandbox.teacher import serve

    serve(host, port, until_stdin_closes)


def fault_server(
    config: Annotated[
        Path | None, typer.Option(help="YAML with any of the settings of the fault server")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="settings, such as delay=0.2 faults=0.1"),
    ] = None,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="print the settings, and run nothing")
    ] = False,
    host: str = "127.0.0.1",
    port: int = 8101,
    until_stdin_closes: UntilStdinCloses = False,
) -> None:
    """Serve the sandbox's teachers as a real provider would: limits, delays, faults, and an end."""
    from rrm.sandbox.fault_server import FaultConfig, serve

    effective = FaultConfig.given(config, settings or ())
    if print_config:
        print(effective.as_yaml())
    else:
        serve(effective, host, port, until_stdin_closes)


def base(
    model: Annotated[Literal["verifier", "editor"], typer.Argument(help="which checkpoint")],
    out: Annotated[Path, typer.Option(help="its folder")],
    seed: int = 0,
    hidden: Annotated[int, typer.Option(help="verifier: width")] = 128,
    layers: Annotated[int, typer.Option(help="verifier: layers of the language model")] = 4,
) -> None:
    """Pre-train a checkpoint that ships with the sandbox again (up to an hour)."""
    if model == "editor":
        from rrm.sandbox.models import editor_pretraining

        editor_pretraining.make(out, seed)
    else:
        from rrm.sandbox.models import verifier_pretraining

        verifier_pretraining.make(out, seed, hidden, layers)
