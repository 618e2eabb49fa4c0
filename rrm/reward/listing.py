"""What servers report about themselves: the models they list, and ids of single tokens."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence

from rrm.chat import ChatClient, Fault, waited
from rrm.chat.faults import parsed
from rrm.errors import InputError

ALIAS = re.compile(r"edit-rrm/(?P<style>full|brief|holistic|brief_holistic)/(?P<digest>[0-9a-f]+)")
"""The second name under which `rrm serve` serves a checkpoint: how it is asked, and a hash of its
files."""
LONGEST = 2**20
"""Bytes of the longest answer about the ids of a text's tokens."""


def listed(urls: Sequence[str], key_variable: str) -> dict[str, list[str]]:
    """The models that each server lists; a server that is not there is left out, for it may come
    later, and others do its work.

    Raises InputError where none is there.
    """

    async def look(url: str) -> list[str] | Fault:
        async with ChatClient(url, key_variable=key_variable) as client:
            got = await client.models()
            return got if not isinstance(got, Fault) or got.scope == "moment" else []

    async def look_at_all() -> list[list[str] | Fault]:
        return list(await asyncio.gather(*map(look, urls)))

    found = dict(zip(urls, waited(look_at_all()), strict=True))
    there = {url: got for url, got in found.items() if not isinstance(got, Fault)}
    if not there:
        why = next(got.failure.detail for got in found.values() if isinstance(got, Fault))
        raise InputError(
            f"No server answers at {', '.join(urls)} ({why}); give base URLs that end in /v1, "
            "or start one with `rrm serve --model FOLDER`."
        )
    return there


async def single_tokens(
    url: str, model: str, key_variable: str, texts: Sequence[str]
) -> dict[str, int]:
    """Token ids of those texts that are a single token for the vLLM server at this base URL; empty
    where the server does not support the request or does not answer."""
    found = {}
    async with ChatClient(url.removesuffix("/v1"), key_variable=key_variable, timeout=20) as client:
        for text in texts:
            got = await client.exchange(
                "/tokenize", {"model": model, "prompt": text, "add_special_tokens": False}, LONGEST
            )
            if isinstance(got, Fault) and got.scope == "moment":  # it has died
                return {}
            value = parsed(got) if isinstance(got, bytes) else {}
            if value is None:  # it writes what is no JSON
                return {}
            match value:
                case {"tokens": [int(token)]}:
                    found[text] = token
    return found
