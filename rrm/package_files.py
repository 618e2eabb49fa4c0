"""Files that come with the package: example configs and the sandbox's checkpoints, in a checkout
and in an installed wheel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

PREFIX = "package:"
_ROOT = Path(__file__).resolve().parents[1]


def package_file(name: str) -> Path:
    """The path of a file or folder that comes with the package, such as `rrm/configs/sandbox` or
    `rrm/sandbox/checkpoints/rrm-base`.

    It is relative to the working folder where it lies below it, so that a run's record names no
    folders of the machine.
    """
    path, here = _ROOT / name, Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def expand_package_paths(value: Any) -> Any:
    """`value` with every string `package:NAME` in it (in lists and mappings, too) replaced by the
    path of `package_file(NAME)`."""
    if isinstance(value, str) and value.startswith(PREFIX):
        return str(package_file(value.removeprefix(PREFIX)))
    if isinstance(value, list):
        return [expand_package_paths(item) for item in value]
    if isinstance(value, dict):
        return {key: expand_package_paths(item) for key, item in value.items()}
    return value
