"""Configs are data: flat YAML whose every key is checked."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from rrm.errors import InputError
from rrm.package_files import expand_package_paths
from rrm.rows.text import read_text


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The keys and values at `path`. Raises InputError for a missing file, broken YAML, or anything
    else than keys and values."""
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


def parse_overrides(pairs: Sequence[str]) -> dict[str, Any]:
    """`key=value` arguments as keys and values: values are YAML, `a.b=c` sets the key b within a.
    Raises InputError for another form."""
    values: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not all(name.split(".")):
            raise InputError(
                f"{pair!r} is no override; write key=value, such as learning_rate=1e-5 or teacher.model=NAME."
            )
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise InputError(
                f"{pair!r}: the value is not valid YAML: {' '.join(str(error).split())}."
            ) from error
        *parents, key = name.split(".")
        inner = values
        for parent in parents:
            inner = inner.setdefault(parent, {})
            if not isinstance(inner, dict):
                raise InputError(
                    f"{pair!r} sets a key within {parent!r}, which another override gives a value."
                )
        inner[key] = value
    return values


def merged(values: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """`values` with `overrides` on top, mapping by mapping."""
    result = dict(values)
    for key, value in overrides.items():
        below = result.get(key)
        result[key] = (
            merged(below, value)
            if isinstance(value, Mapping) and isinstance(below, Mapping)
            else value
        )
    return result


class Config(BaseModel):
    """Base of every stage's config. Paths are relative to the working folder; `package:NAME` is a
    file that comes with the package."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    renamed: ClassVar[Mapping[str, str]] = {}
    """Former names of keys: giving one is an error that names the key of today."""
    synonyms: ClassVar[Mapping[str, str]] = {}
    """Further names under which a key may be given."""

    @model_validator(mode="before")
    @classmethod
    def check_keys(cls, values: Any) -> Any:
        """Reads synonyms, and refuses an unknown key, naming the nearest known one."""
        if not isinstance(values, dict):
            return values
        for other, key in cls.synonyms.items():
            if other in values and key in values:
                raise ValueError(f"'{other}' and '{key}' are one key; give one of them")
        values = {cls.synonyms.get(key, key): value for key, value in values.items()}
        for key in values:
            if key in cls.renamed:
                raise ValueError(f"'{key}' is now called '{cls.renamed[key]}'")
            if key not in cls.model_fields:
                near = difflib.get_close_matches(str(key), cls.model_fields, n=1, cutoff=0.4)
                hint = (
                    f"did you mean '{near[0]}'?"
                    if near
                    else f"known keys: {', '.join(cls.model_fields)}"
                )
                raise ValueError(f"unknown key '{key}'; {hint}")
        return values

    @classmethod
    def read(cls, path: str | Path, overrides: Sequence[str] = (), **values: object) -> Self:
        """The config at `path`, with `key=value` overrides and then `values` that are not None on
        top.

        Raises InputError for a missing file, broken YAML, an unknown key (naming the nearest known
        one) or a wrong value.
        """
        given = merged(read_yaml(path), parse_overrides(overrides))
        given.update({key: value for key, value in values.items() if value is not None})
        return cls.checked(given, str(path))

    @classmethod
    def checked(cls, values: dict[str, Any], where_from: str) -> Self:
        """The config with these values. Raises InputError, naming where they are from, for an
        unknown key or a wrong value."""
        try:
            return cls.model_validate(expand_package_paths(values))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            said = first["msg"].removeprefix("Value error, ").rstrip(".")
            raise InputError(
                f"{where_from}: {f'{where!r}: ' if where else ''}{said}{'' if said.endswith('?') else '.'}"
            ) from error

    @classmethod
    def descriptions(cls) -> dict[str, str]:
        """What every key means, in one line."""
        return {
            key: " ".join((field.description or "").split())
            for key, field in cls.model_fields.items()
        }

    def as_yaml(self) -> str:
        """Every key with its value, its meaning as a comment above it."""
        texts, values = self.descriptions(), self.model_dump(mode="json")
        return "\n".join(
            (f"# {texts[key]}\n" if texts[key] else "")
            + yaml.safe_dump({key: value}, allow_unicode=True, sort_keys=False).rstrip()
            for key, value in values.items()
        )

    def digest(self) -> str:
        """A hash of every value, to tell whether finished work is still what is asked for."""
        return hashlib.sha256(
            json.dumps(self.model_dump(mode="json"), sort_keys=True).encode()
        ).hexdigest()[:16]
