"""What the commands of stages share: a config file, overrides of its keys, and the effective config
in print."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from rrm.config import Config
from rrm.runtime.commands import run_process

ConfigFile = Annotated[
    Path, typer.Option("--config", help="YAML file of the stage; configs/ has examples")
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...", help="keys of the config with other values, such as seed=1"
    ),
]
PrintConfig = Annotated[
    bool, typer.Option("--print-config", help="print the effective config, and run nothing")
]
Out = Annotated[str | None, typer.Option("--out", help="another folder than the config's 'out'")]

Kind = TypeVar("Kind", bound=Config)


def run_stage_command(
    kind: type[Kind],
    run: Callable[[Kind], object],
    config: Path,
    overrides: list[str] | None,
    print_config: bool,
    **values: object,
) -> None:
    """Reads the config, and prints it or runs its stage; `values` that are not None are set on top
    of the file's."""
    effective = kind.read(config, overrides or (), **values)
    if print_config:
        print(effective.as_yaml())
    else:
        run(effective)


def run_as_module(name: str, kind: type[Kind], run: Callable[[Kind], object]) -> None:
    """The process's command where a launcher starts a stage by its module instead of by `rrm`."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

    @app.command()
    def stage(
        config: ConfigFile,
        overrides: Overrides = None,
        print_config: PrintConfig = False,
        local_rank: Annotated[int | None, typer.Option("--local_rank", hidden=True)] = None,
    ) -> None:
        run_stage_command(kind, run, config, overrides, print_config)

    run_process(app, name)
