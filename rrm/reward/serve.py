"""`rrm serve`: vLLM's OpenAI server with the settings that an RRM needs, one process per
replica.

Two images per prompt and no video, the pixel budget that the data was made with, prefix caching,
room for a prompt and a whole trace, vLLM's own sampling defaults (not the checkpoint's). It listens
on 127.0.0.1 unless told otherwise, takes its key from an environment variable and wants it for
everything but /health, answers no page of another origin, decodes no image of more pixels than the
rest of the toolkit does, and neither fetches URLs nor opens files that a request names. It ends
with the command, also where that is killed.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import httpx

from rrm.chat import reached
from rrm.errors import InputError
from rrm.images import MAX_DECODED_PIXELS, MAX_PIXELS
from rrm.reward.keyed import KEY, KeyRequired
from rrm.runtime.secrets import key_of
from rrm.runtime.signals import closed_when_killed
from rrm.runtime.stage import content_digest
from rrm.runtime.watcher import Watcher
from rrm.verifier.checkpoint import check_checkpoint, style_of

log = logging.getLogger(__name__)

NOWHERE = "no-domain.invalid"
"""The only domain that images may be fetched from: a name that the internet's standards keep
unused."""
ROOM = 10_240
"""Tokens of a prompt with two images of the full budget (2 × 1280), principles and rules, and a
trace of 2048."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")
POLL = 0.25


@dataclass(frozen=True)
class Serving:
    """What is served, and how."""

    model: Path
    host: str = "127.0.0.1"
    port: int = 8000
    name: str = "rrm"
    replicas: int = 1
    tensor_parallel: int = 1
    max_length: int | None = None
    """Tokens of prompt and answer; None: as many as the model has positions, 10,240 at most."""
    in_flight: int = 64
    """Sequences that a replica works on at once."""
    dtype: str = "auto"
    gpu_memory: float = 0.9
    """The share of a GPU's memory that a replica takes."""
    cache_gb: int = 1
    """On the CPU: memory for the cache of keys and values."""
    key_variable: str = "RRM_API_KEY"
    media_domains: tuple[str, ...] = ()
    """Hosts that images may be fetched from, for requests that name URLs."""
    media_folder: Path | None = None
    """A folder whose files requests may name."""
    patience: float = 900.0
    """Seconds until it must be healthy."""


def free_port() -> int:
    """A free TCP port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def gpus() -> int:
    """The GPUs that torch sees."""
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def alias(model: Path) -> str:
    """The second name that a checkpoint is served under: how it is asked, and a hash of its files
    (see rrm.reward.listing)."""
    return f"edit-rrm/{style_of(model)}/{content_digest(model)[:16]}"


def length_of(serving: Serving) -> int:
    """The maximum number of tokens of prompt and answer."""
    config = json.loads((serving.model / "config.json").read_text())
    positions = (config.get("text_config") or config).get("max_position_embeddings", ROOM)
    return serving.max_length or min(int(positions), ROOM)


def arguments(serving: Serving, port: int, on_gpu: bool, keyed: bool = False) -> list[str]:
    """The command line of one replica, which may want a key. The key itself is not on it: every
    user of the machine can read it."""
    options: list[str] = [
        "--model", str(serving.model), "--served-model-name", serving.name, alias(serving.model),
        "--host", serving.host, "--port", str(port),
        "--max-model-len", str(length_of(serving)), "--max-num-seqs", str(serving.in_flight),
        "--limit-mm-per-prompt", json.dumps({"image": 2, "video": 0}),
        "--mm-processor-kwargs", json.dumps({"max_pixels": MAX_PIXELS}),
        "--enable-prefix-caching", "--generation-config", "vllm", "--max-logprobs", "20", "--disable-fastapi-docs",
        "--allowed-origins", "[]",
        "--allowed-media-domains", *(serving.media_domains or (NOWHERE,)),
        "--disable-log-stats" if not on_gpu else "--no-enable-log-requests",
    ]  # fmt: skip
    if keyed:
        options += ["--middleware", f"{KeyRequired.__module__}.{KeyRequired.__qualname__}"]
    if serving.media_folder is not None:
        options += ["--allowed-local-media-path", str(serving.media_folder.resolve())]
    if on_gpu:
        return [*options, "--dtype", serving.dtype, "--tensor-parallel-size", str(serving.tensor_parallel),
                "--gpu-memory-utilization", str(serving.gpu_memory)]  # fmt: skip
    return [
        *options,
        "--dtype",
        "float32" if serving.dtype == "auto" else serving.dtype,
        "--enforce-eager",
    ]


def environment(
    serving: Serving, replica: int, on_gpu: bool, base: Mapping[str, str]
) -> dict[str, str]:
    """The environment of one replica: its GPUs, limits on images, the key."""
    found = {
        **base, "VLLM_MAX_IMAGE_PIXELS": str(MAX_DECODED_PIXELS), "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1",
        "VLLM_MEDIA_URL_ALLOW_REDIRECTS": "0",
    }  # fmt: skip
    found.pop(KEY, None)
    if base.get(serving.key_variable):
        found[KEY] = base[serving.key_variable]
    if on_gpu:
        visible = (
            base.get("CUDA_VISIBLE_DEVICES", "").split(",")
            if base.get("CUDA_VISIBLE_DEVICES")
            else None
        )
        first = replica * serving.tensor_parallel
        mine = range(first, first + serving.tensor_parallel)
        return {
            **found,
            "CUDA_VISIBLE_DEVICES": ",".join(visible[i] if visible else str(i) for i in mine),
        }
    # without inductor there is nothing to compile, and dynamo alone stalls the first request for
    # log-probabilities
    return {**found, "VLLM_CPU_KVCACHE_SPACE": str(serving.cache_gb), "TORCHDYNAMO_DISABLE": "1"}


def check(serving: Serving, count: int) -> None:
    """Raises InputError for settings that cannot be served, before vLLM is started."""
    check_checkpoint(serving.model)
    if find_spec("vllm") is None:
        raise InputError(
            "vLLM is not installed; `make setup` brings it for the CPU, pip install 'edit-rrm[serve]' for GPUs."
        )
    if serving.replicas < 1 or serving.tensor_parallel < 1:
        raise InputError("replicas and tensor_parallel must be at least 1.")
    if count and serving.replicas * serving.tensor_parallel > count:
        raise InputError(
            f"{serving.replicas} replica(s) × {serving.tensor_parallel} GPU(s) each need more than the {count} here; lower one of them."
        )
    if not count and serving.tensor_parallel > 1:
        raise InputError("There is no GPU here; leave out --tensor-parallel.")
    text = json.loads((serving.model / "config.json").read_text())
    text = text.get("text_config") or text
    size = text["hidden_size"] // text["num_attention_heads"]
    if not count and size < 32:
        raise InputError(
            f"vLLM's attention on the CPU needs heads of 32 values or more; this model's have {size}."
        )
    for port in range(serving.port, serving.port + serving.replicas):
        with socket.socket(socket.AF_INET6 if ":" in serving.host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((serving.host, port))
            except (OSError, OverflowError) as error:  # taken, not ours to take, or beyond 65535
                reason = getattr(error, "strerror", None) or error
                raise InputError(
                    f"Port {port} of {serving.host} cannot be had ({reason}); choose another --port."
                ) from error


@dataclass
class Replica:
    """A server's process, where it listens and where it writes, and what ends it where this process
    is killed, if anything does."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path
    watcher: Watcher | None = None

    @property
    def healthy(self) -> bool:
        """Whether it answers at /health."""
        try:
            return reached(self.url.removesuffix("/v1") + "/health", 5).is_success
        except httpx.HTTPError:
            return False

    def stop(self) -> None:
        """Ends the process and those that it started, politely first."""
        for how in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError, subprocess.TimeoutExpired):
                os.killpg(self.process.pid, how)
                self.process.wait(10)
        if self.watcher is not None:
            self.watcher.release()


def start(serving: Serving, replica: int, on_gpu: bool, logs: Path) -> Replica:
    """Starts one replica, with its output in a file."""
    port = serving.port + replica
    logs.mkdir(parents=True, exist_ok=True)
    log = logs / f"vllm-{port}.log"
    # `vllm serve` looks for a package of that name, which vllm-cpu is not
    keyed = key_of(serving.key_variable) is not None
    line = [
        sys.executable,
        "-m",
        "vllm.entrypoints.openai.api_server",
        *arguments(serving, port, on_gpu, keyed),
    ]
    where = environment(serving, replica, on_gpu, os.environ)
    with log.open("wb") as output:
        process = subprocess.Popen(
            line, stdout=output, stderr=subprocess.STDOUT, env=where, start_new_session=True
        )
    host = "127.0.0.1" if serving.host in ("0.0.0.0", "::") else serving.host
    return Replica(
        process,
        f"http://{f'[{host}]' if ':' in host else host}:{port}/v1",
        log,
        Watcher(process.pid),
    )


def wait_until_healthy(replicas: Sequence[Replica], patience: float) -> None:
    """Returns when every replica is healthy. Raises InputError where one ends or takes too long,
    with its last words."""
    end = time.monotonic() + patience
    for replica in replicas:
        while not replica.healthy:
            said = last_error(replica.log)
            if replica.process.poll() is not None:
                raise InputError(
                    f"The server ended before it was ready ({said}); the whole of it is in {replica.log}."
                )
            if time.monotonic() > end:
                raise InputError(
                    f"The server was not ready within {patience:.0f} s ({said}); see {replica.log}."
                )
            time.sleep(POLL)


def last_error(log: Path) -> str:
    """The last line of the log that names an error, else the last line."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if "Error" in line]
    return (errors or lines or ["it wrote nothing"])[-1][-300:]


@contextmanager
def serving_replicas(serving: Serving, logs: Path) -> Iterator[list[Replica]]:
    """All replicas, healthy; they are stopped when the block is left."""
    count = gpus()
    check(serving, count)
    with closed_when_killed(), ExitStack() as running:
        replicas = []
        for number in range(serving.replicas):
            replicas.append(start(serving, number, count > 0, logs))
            running.callback(replicas[-1].stop)
        wait_until_healthy(replicas, serving.patience)
        yield replicas


def serve(serving: Serving, logs: Path) -> None:
    """The command: serves until it is stopped, or until every replica has ended. A replica that
    ends is named; the others go on."""
    log.info("starting %d server(s) for %s (logs in %s)", serving.replicas, serving.model, logs)
    with serving_replicas(serving, logs) as replicas:
        spec = "server:" + ",".join(replica.url for replica in replicas)
        keyed = key_of(serving.key_variable) is not None
        print(f"ready: {spec}" + (f", key in ${serving.key_variable}" if keyed else ""), flush=True)
        if not keyed and serving.host not in LOOPBACK:
            log.warning(
                "whoever reaches %s may use it; set $%s to a key",
                serving.host,
                serving.key_variable,
            )
        alive = list(replicas)
        while alive:
            for replica in [r for r in alive if r.process.poll() is not None]:
                alive.remove(replica)
                replica.stop()  # what it started may live on
                log.warning(
                    "%s has ended (%s); %d left", replica.url, last_error(replica.log), len(alive)
                )
            time.sleep(1)
    raise InputError(f"Every server has ended; their last words are in {logs}.")
