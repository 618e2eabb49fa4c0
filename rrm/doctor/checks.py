"""What a check is, and the checks of a config by itself: batch, precision, base, server, disk,
memory."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import httpx
from PIL import Image

from rrm.chat import image_part, reached
from rrm.doctor.memory import (
    GIB,
    Estimate,
    Plan,
    Shape,
    estimate,
    parameters,
    suggestions,
    trained_parameters,
)
from rrm.errors import InputError
from rrm.verifier.config import SFTStage
from rrm.verifier.gcpo.config import GCPOStage

Status = Literal["ok", "warning", "fail", "not checked"]
TrainingConfig = SFTStage | GCPOStage


@dataclass(frozen=True)
class Check:
    """One thing looked at, and one sentence on it."""

    name: str
    status: Status
    says: str
    figures: dict[str, Any] = field(default_factory=dict)


def check_batch(config: TrainingConfig, processes: int, rows: int | None) -> Check:
    """Whether an update divides into the processes, and how often the data is gone through."""
    if isinstance(config, SFTStage):
        update, unit = config.batch * config.accumulate * processes, "rows"
        how = f"batch {config.batch} × accumulate {config.accumulate} × {processes} processes = {update} rows an update"
    else:
        total = config.pairs_per_step * 2 * config.traces_per_image
        share, rest = divmod(total, processes)
        micro = config.micro_batch or share
        if rest or share % micro:
            says = f"pairs × 2 × traces = {total} does not divide into {processes} processes × micro_batch {micro}; change one of them."
            return Check("batch", "fail", says)
        update, unit = config.pairs_per_step, "pairs"
        how = f"{total} traces an update, {share} for each of {processes} processes, {share // micro} × {micro} at once"
    if rows is None:
        return Check("batch", "ok", f"{how}.", {"update": update})
    if rows < update:
        return Check(
            "batch", "fail", f"{how}, and the data has {rows} {unit}; make the update smaller."
        )
    passes = config.steps * update / rows
    return Check(
        "batch",
        "ok",
        f"{how}; {config.steps} steps go {passes:.2f} times through {rows} {unit}.",
        {"passes": passes},
    )


def check_bfloat16(config: TrainingConfig) -> Check:
    """Whether small steps survive: without DeepSpeed no float32 copy of bfloat16 weights is kept."""
    if config.dtype == "bfloat16" and config.deepspeed is None and not config.lora_rank:
        says = "bfloat16 without deepspeed keeps no float32 copy of the weights, and rounds small steps away; set deepspeed: launch/zero2.json."
        return Check("precision", "fail", says)
    return Check(
        "precision",
        "ok",
        f"{config.dtype}{' with float32 master weights' if config.deepspeed else ''}.",
    )


def check_base(base: str, find: Callable[[str], str]) -> Check:
    """Whether the base is there. `find` says of a hub id where it is: "cached", "online" or
    "nowhere"."""
    from rrm.verifier.checkpoint import check_checkpoint

    if Path(base).exists() or base.startswith(("runs/", ".", "/")):
        try:
            check_checkpoint(base)
        except InputError as error:
            return Check("base", "fail", str(error))
        return Check("base", "ok", f"{base} is a Qwen2.5-VL checkpoint.")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", base):
        return Check(
            "base",
            "fail",
            f"'{base}' is neither a folder nor a hub id (owner/name); correct 'base'.",
        )
    where = find(base)
    if where == "cached":
        return Check("base", "ok", f"{base} is in the hub's cache.")
    if where == "online":
        return Check(
            "base",
            "warning",
            f"{base} is not in the cache; download it once before many processes do: hf download {base}",
        )
    return Check(
        "base",
        "fail",
        f"{base} is neither in the hub's cache nor reachable; download it, or give a folder.",
    )


def find_on_hub(base: str) -> str:
    """Where a hub id is: "cached" (its weights too), "online" or "nowhere"."""
    from huggingface_hub import HfApi, snapshot_download

    try:
        folder = Path(
            snapshot_download(
                base, local_files_only=True, allow_patterns=["*.json", "*.safetensors"]
            )
        )
        if any(folder.glob("*.safetensors")):
            return "cached"
    except Exception:  # the hub's client raises many kinds for what is not there
        pass
    try:
        HfApi().model_info(base, timeout=10)
    except Exception:
        return "nowhere"
    return "online"


def checkpoint_bytes(shape: Shape, plan: Plan) -> float:
    """A training's checkpoint: the weights, DeepSpeed's copy of them, master weights and moments.
    Under LoRA the adapters alone."""
    trained = trained_parameters(shape, plan)
    per = plan.weight_bytes if not plan.lora else 4
    return trained * (2 * plan.weight_bytes + 12 if plan.deepspeed else 3 * per)


def check_disk(config: TrainingConfig, shape: Shape, plan: Plan, free: int) -> Check:
    """Free space where the results go, against the checkpoints that are kept, one that is being
    written, the model, and the rollouts."""
    needed = checkpoint_bytes(shape, plan) * (config.keep + 1) + plan.weight_bytes * parameters(
        shape
    )
    if isinstance(config, GCPOStage):
        needed += (
            4.0
            * config.steps
            * config.pairs_per_step
            * 2
            * config.traces_per_image
            * config.max_tokens
        )  # about four characters a token
    says = f"{free / GIB:.1f} GiB are free for {config.out}, which takes up to {needed / GIB:.1f} ({config.keep} checkpoints kept)"
    if free < needed:
        return Check(
            "disk", "fail", f"{says}; free some, or lower 'keep'.", {"needed_gib": needed / GIB}
        )
    return Check("disk", "ok", f"{says}.", {"needed_gib": needed / GIB})


def check_server(address: str | None, base: str) -> Check:
    """Whether the vLLM server answers, and with the model to start from."""
    if address is None:
        return Check("vLLM server", "ok", "not used: the trainer generates in its own process.")
    try:
        reached(f"{address}/health", 5).raise_for_status()
        model = reached(f"{address}/v1/models", 5).raise_for_status().json()["data"][0]["id"]
    except (httpx.HTTPError, ValueError, KeyError, IndexError):
        return Check(
            "vLLM server",
            "warning",
            f"nothing answers at {address}; launch/gcpo.sh starts a server on this machine by itself.",
        )
    if model != base:
        return Check(
            "vLLM server",
            "fail",
            f"{address} serves {model}, not {base}; start it with --model {base}.",
        )
    return Check("vLLM server", "ok", f"{address} serves {model}.")


def check_server_tokens(
    address: str | None, images: Sequence[Image.Image], expected: Sequence[int]
) -> Check:
    """Whether the server's vLLM gives images the tokens that training gives them (vLLM's render
    endpoint, which trl uses)."""
    name = "tokens by vLLM"
    if address is None:
        return Check(name, "not checked", "no vllm_server is set.")
    content = [image_part(image) for image in images]
    try:
        model = reached(f"{address}/v1/models", 5).raise_for_status().json()["data"][0]["id"]
        body = {"model": model, "messages": [{"role": "user", "content": content}], "max_tokens": 1}
        answer = (
            reached(f"{address}/v1/chat/completions/render", 60, body).raise_for_status().json()
        )
        found = [place["length"] for place in answer["features"]["mm_placeholders"]["image"]]
    except (httpx.HTTPError, ValueError, KeyError, IndexError, TypeError):
        return Check(name, "not checked", "no server answers.")
    if found != list(expected):
        says = f"vLLM gives the images {found} tokens, training {list(expected)}; serve the checkpoint that training starts from."
        return Check(name, "fail", says)
    return Check(name, "ok", f"vLLM gives the images {found} tokens, as training does.")


def check_memory(shape: Shape, plan: Plan, gib: float | None) -> tuple[Check, Estimate]:
    """The estimate against the GPU's memory; where it does not fit, what would bring how much."""
    found = estimate(shape, plan)
    total = found.total / GIB
    figures = {"total_gib": round(total, 2), "phase": found.worst}
    if gib is None:
        return Check(
            "memory",
            "ok",
            f"a process needs about {total:.1f} GiB at its peak, the {found.worst}.",
            figures,
        ), found
    shown = f"a GPU needs about {total:.1f} of {gib:.0f} GiB at its peak, the {found.worst}"
    if total <= 0.9 * gib:
        return Check("memory", "ok", f"{shown}.", figures), found
    options = [(s.change, s.estimate.total / GIB) for s in suggestions(shape, plan, gib * GIB)]
    figures |= {
        "suggestions": [
            {"change": change, "total_gib": round(needs, 2)} for change, needs in options
        ]
    }
    told = (
        "; ".join(f"{change} → {needs:.1f}" for change, needs in options)
        or "nothing is left to change: use larger GPUs"
    )
    return Check(
        "memory", "warning" if total <= gib else "fail", f"{shown}; {told}.", figures
    ), found
