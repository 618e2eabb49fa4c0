"""What the commands of stages share: a config file, overrides of its keys, and the effective config
in print."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from rrm.config import Config

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
