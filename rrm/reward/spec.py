"""A reward model from a line of text, as configs and commands name it."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import ClassVar
from urllib.parse import parse_qsl

from pydantic import Field

from rrm.chat import Dialect
from rrm.errors import InputError
from rrm.prompts import Style
from rrm.records import Mode
from rrm.reward.backend import Backend
from rrm.reward.model import RewardModel, Sampling

FORMS = "a checkpoint folder, rrm:FOLDER?mode=…&k=…&temperature=…, serve:FOLDER, or server:URL,URL?model=…"


class SpecOptions(Dialect):
    """What may stand behind the question mark."""

    renamed: ClassVar = {"attempt": "timeout"}

    send_seed: bool = Field(False, description="true for servers whose answers a seed repeats")

    mode: Mode = "reasoning"
    """reasoning: the score in a trace; expectation: the mean over the score tokens; logits: the rating without a trace."""
    k: int = 1
    """Traces per edit, whose mean counts (Avg@K)."""
    temperature: float | None = Field(default=None, ge=0)
    """0.7 unless set where several traces are asked for, else 0."""
    seed: int = 0
    """Of sampling."""
    batch: int = Field(default=64, gt=0)
    """In this process: rows that go through the model together."""
    model: str | None = None
    """Its name at the server; None: the one that it serves."""
    style: Style | None = None
    """Prompt style; None: as the server says, else full."""
    key: str = "RRM_API_KEY"
    """The environment variable that holds the servers' key."""
    deadline: float = Field(default=300.0, gt=0)
    """Seconds until an edit has failed for good."""
    timeout: float = Field(default=100.0, gt=0)
    """Seconds for one server's answer."""
    in_flight: int = Field(default=32, gt=0)
    """Questions at one server at once."""
    max_tokens: int | None = Field(default=None, gt=0)
    """Of a trace; None: the style's own limit."""


def open_reward(spec: str) -> RewardModel:
    """The reward model that a spec names; the caller closes it (`with open_reward(…) as model`).

    A spec is a checkpoint folder, `rrm:FOLDER?mode=expectation`,
    `server:http://127.0.0.1:8000/v1,http://…/v1?k=4&temperature=0.7`, or `serve:FOLDER`, for which
    a vLLM server is started and, with the model, stopped; modes are reasoning, expectation and
    logits. Raises InputError for anything else.
    """
    where, _, query = spec.partition("?")
    pairs = parse_qsl(query, keep_blank_values=True)
    if len(dict(pairs)) < len(pairs):
        raise InputError(f"The reward '{spec}' names an option twice; leave one out.")
    options = SpecOptions.checked(dict(pairs), f"The reward '{spec}'")
    temperature = (
        options.temperature if options.temperature is not None else 0.7 if options.k > 1 else 0.0
    )
    sampling = Sampling(options.mode, options.k, temperature, options.seed, options.max_tokens)
    if not where.startswith("serve:"):
        return RewardModel(open_backend(where, options, spec), sampling)
    from rrm.reward.serve import Serving, free_port, serving_replicas

    with ExitStack() as started:
        serving = Serving(
            Path(where.removeprefix("serve:")),
            port=free_port(),
            in_flight=options.in_flight * options.k,
        )
        replicas = started.enter_context(serving_replicas(serving, Path("runs/serve")))
        backend = open_backend(
            "server:" + ",".join(replica.url for replica in replicas), options, spec
        )
        return RewardModel(backend, sampling, started.pop_all())


def open_backend(where: str, options: SpecOptions, spec: str) -> Backend:
    """The model at `where`."""
    if where.startswith("server:"):
        from rrm.reward.servers import Patience, ServerBackend

        urls = [
            url.strip().rstrip("/")
            for url in where.removeprefix("server:").split(",")
            if url.strip()
        ]
        if not urls or not all(url.startswith(("http://", "https://")) for url in urls):
            raise InputError(
                f"The reward '{spec}' names no server; write server:http://127.0.0.1:8000/v1."
            )
        return ServerBackend.connect(
            urls, options.model, options.style, key_variable=options.key,
            patience=Patience(options.deadline, min(options.timeout, options.deadline), options.in_flight), dialect=options,
        )  # fmt: skip
    folder = where.removeprefix("rrm:")
    if not Path(folder).is_dir():
        raise InputError(f"There is no checkpoint at {folder}; a reward is {FORMS}.")
    from rrm.reward.local import LocalBackend

    return LocalBackend.load(folder, options.batch)
