"""What servers of the protocol take differently, as options of every config and spec that names
one."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal

from pydantic import Field, field_validator

from rrm.config import Config
from rrm.runtime.secrets import know_fields

OURS = {"model", "messages", "n", "stream"}
"""Fields of a request that `extra` may not set."""


class Dialect(Config):
    """How requests to a server differ from the usual ones."""

    extra: dict[str, Any] = Field(
        default_factory=dict,
        description="fields added to every request; null takes out one of ours: {temperature: null}",
    )
    send_seed: bool = Field(default=True, description="false for servers that do not know 'seed'")
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = Field(
        default="max_tokens",
        description="what the server calls that limit; OpenAI's newer models know only the second",
    )
    one_by_one: bool = Field(
        default=False, description="a request per sample, for servers that do not know 'n'"
    )

    @field_validator("extra", mode="before")
    @classmethod
    def from_json(cls, value: Any) -> Any:
        """Reads the JSON that a spec on one line gives."""
        if not isinstance(value, str):
            return value
        try:
            return json.loads(value)
        except (ValueError, RecursionError) as error:
            raise ValueError('is no JSON; write extra={"enable_thinking": false}') from error

    @field_validator("extra")
    @classmethod
    def only_theirs(cls, extra: dict[str, Any]) -> dict[str, Any]:
        """Refuses fields that have a place of their own, and what no request can hold."""
        if taken := OURS & extra.keys():
            raise ValueError(f"holds '{min(taken)}', which has a place of its own; remove it")
        try:
            json.dumps(extra, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError("holds what JSON cannot") from error
        know_fields(extra)
        return extra

    def record(self) -> dict[str, Any]:
        """All values as JSON has them, but of a dialect only what differs from the usual one."""
        usual = Dialect()
        same = {
            name for name in Dialect.model_fields if getattr(self, name) == getattr(usual, name)
        }
        return self.model_dump(mode="json", exclude=same)

    @property
    def fingerprint(self) -> str:
        """What is added to a fingerprint for fields that may change the answers; a hash, for some
        hold secrets. Empty without any."""
        return f"|extra {content_hash(self.extra)}" if self.extra else ""


def content_hash(value: Any) -> str:
    """A hash of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]
