"""Servers that a name stands for in place of a URL, started for as long as they are used. Whoever
composes a run registers them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from rrm.errors import InputError

_STARTERS: dict[str, Callable[[], AbstractContextManager[str]]] = {}


def register(name: str, start: Callable[[], AbstractContextManager[str]]) -> None:
    """Lets `name` stand for a server; `start()` gives its base URL, and the server ends with the
    block."""
    _STARTERS[name] = start


@contextmanager
def running(name: str) -> Iterator[str]:
    """Base URL of the server that `name` stands for, while the block lasts. Raises InputError where
    nothing does."""
    if name not in _STARTERS:
        raise InputError(f"'{name}' stands for no server here; give a base URL that ends in /v1.")
    with _STARTERS[name]() as url:
        yield url
