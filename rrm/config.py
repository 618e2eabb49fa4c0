"""Configs are data: flat YAML whose every key is checked."""

from __future__ import annotations

import difflib
import hashlib
import json
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from rrm.errors import InputError
from rrm.package_files import expand_package_paths
from rrm.rows.text import read_text


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The keys and values at `path`. Raises InputError for a missing file, broken YAML, or anything else than keys and values."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"There is no config at {path}; the examples are in configs/.")
    try:
        values = yaml.safe_load(read_text(path)) or {}
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not valid YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(values, dict):
        raise InputError(f"{path} must hold keys and values, not a {type(values).__name__}.")
    return values


class Config(BaseModel):
    """Base of every stage's config. Paths are relative to the working folder; `package:NAME` is a file that comes with the package."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def check_keys(cls, values: Any) -> Any:
        """Refuses an unknown key, and names the nearest known one."""
        for key in values if isinstance(values, dict) else ():
            if key not in cls.model_fields:
                near = difflib.get_close_matches(str(key), cls.model_fields, n=1, cutoff=0.4)
                hint = f"did you mean '{near[0]}'?" if near else f"known keys: {', '.join(cls.model_fields)}"
                raise ValueError(f"unknown key '{key}'; {hint}")
        return values

    @classmethod
    def read(cls, path: str | Path, **overrides: object) -> Self:
        """The config at `path`, with `overrides` on top.

        Raises InputError for a missing file, broken YAML, an unknown key (naming the nearest known one) or a wrong value.
        """
        values = read_yaml(path)
        values.update({key: value for key, value in overrides.items() if value is not None})
        return cls.checked(values, str(path))

    @classmethod
    def checked(cls, values: dict[str, Any], where_from: str) -> Self:
        """The config with these values. Raises InputError, naming where they are from, for an unknown key or a wrong value."""
        try:
            return cls.model_validate(expand_package_paths(values))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            said = first["msg"].removeprefix("Value error, ").rstrip(".")
            raise InputError(
                f"{where_from}: {f'{where!r}: ' if where else ''}{said}{'' if said.endswith('?') else '.'}"
            ) from error

    def digest(self) -> str:
        """A hash of every value, to tell whether finished work is still what is asked for."""
        return hashlib.sha256(json.dumps(self.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()[:16]
