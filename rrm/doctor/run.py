"""`rrm doctor`: everything that can be looked at before a training is paid for."""

from __future__ import annotations

import ctypes
import json
import shutil
import sys
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen2_5_VLProcessor

from rrm.config import read_yaml
from rrm.doctor import checks, inputs, machine
from rrm.doctor.checks import Check, TrainingConfig
from rrm.doctor.inputs import Lengths
from rrm.doctor.machine import Gpu
from rrm.doctor.memory import GIB, KNOWN, Estimate, Plan, Shape, shape_of
from rrm.errors import InputError
from rrm.images import MAX_PIXELS, TOKEN_SIDE, ImageStore
from rrm.records import SFTRow
from rrm.verifier.checkpoint import load_processor, style_of
from rrm.verifier.config import SFTStage
from rrm.verifier.gcpo.config import GCPOStage

TEXT_TOKENS, ANSWER_TOKENS = 1200, 2048
"""A full-style prompt's text with ten questions, and an answer, where no data says how long they
are."""


def read_config(path: Path) -> TrainingConfig:
    """The SFT or GCPO config at `path`: what has pairs and traces is GCPO's. Raises InputError for
    anything else."""
    kind = (
        GCPOStage if {"pairs_per_step", "traces_per_image"} & read_yaml(path).keys() else SFTStage
    )
    return kind.read(path)


def gpus_here() -> list[Gpu]:
    """This machine's GPUs."""
    found = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        found.append(
            Gpu(
                properties.name, properties.total_memory / GIB, (properties.major, properties.minor)
            )
        )
    return found


def driver_version() -> int:
    """The highest CUDA version that the driver serves, as CUDA writes it: 12040 is 12.4. Only where
    there is a GPU."""
    found = ctypes.c_int(0)
    ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(found))
    return found.value


def plan_of(
    config: TrainingConfig,
    processes: int,
    cuda: bool,
    lengths: Lengths | None,
    answer: int | None = None,
) -> Plan:
    """What the config asks of a process, with the lengths of the data where it could be read."""
    zero: dict[str, Any] = {}
    if config.deepspeed and Path(config.deepspeed).is_file():
        zero = json.loads(Path(config.deepspeed).read_text()).get("zero_optimization", {})
    default_image = 2 * MAX_PIXELS // TOKEN_SIDE**2
    common: dict[str, Any] = {
        "processes": processes, "weight_bytes": 4 if config.dtype == "float32" else 2,
        "prompt": max(lengths.prompts) if lengths else default_image + TEXT_TOKENS,
        "image": max(lengths.images) if lengths else default_image,
        "deepspeed": config.deepspeed is not None, "zero": zero.get("stage", 0),
        "bucket": int(zero.get("reduce_bucket_size", Plan.bucket)), "live": int(zero.get("stage3_max_live_parameters", Plan.live)),
        "overlap": bool(zero.get("overlap_comm", False)), "lora": config.lora_rank, "checkpointing": config.gradient_checkpointing,
        "cuda": cuda,
    }  # fmt: skip
    if isinstance(config, SFTStage):
        return Plan(micro=config.batch, answer=answer or ANSWER_TOKENS, **common)
    share = max(1, config.pairs_per_step * 2 * config.traces_per_image // processes)
    return Plan(
        micro=config.micro_batch or share, answer=config.max_tokens, rollouts=share, traces=config.traces_per_image,
        server=config.vllm_server is not None, reference=config.kl_weight > 0 and not config.lora_rank, **common,
    )  # fmt: skip


def free_at(path: Path) -> int:
    """Free bytes where the path is or will be."""
    place = path.resolve()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def shape_in_cache(base: str) -> Shape | None:
    """The shape of a base: of its folder, the known ones', or the hub's cache."""
    found = shape_of(base)
    if found is None and base.count("/") == 1:
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(base, "config.json")
        found = (
            Shape.of_config(json.loads(Path(cached).read_text()))
            if isinstance(cached, str)
            else None
        )
    return found


def answers_of(
    config: TrainingConfig, processor: Qwen2_5_VLProcessor, sample: int
) -> list[int] | None:
    """Tokens of the answers that SFT teaches, which GCPO's will resemble; None where the data has
    none."""
    try:
        _, rows = inputs.sample_of(config.data / "sft.parquet", SFTRow, sample)
    except InputError:
        return None
    return [
        len(processor.tokenizer(row.target).input_ids) + 2 for row in rows if row.kind == "judge"
    ] or None


def check_interconnect(here: list[Gpu]) -> Check:
    """Whether the GPUs reach one another's memory."""
    apart = [i for i in range(1, len(here)) if not torch.cuda.can_device_access_peer(0, i)]
    if apart:
        return Check(
            "interconnect",
            "warning",
            f"GPU 0 does not reach GPU {apart[0]} directly: gradients go through the host, slowly.",
        )
    return Check("interconnect", "ok", "the GPUs reach one another directly.")


def examine(
    path: Path, gpus: int | None, gpu_memory: float | None, sample: int, like: str | None = None
) -> tuple[list[Check], Estimate | None, float | None]:
    """All checks of a config, the memory estimate where the model's shape is known, and the GPU
    memory it is held against.

    `like` is a checkpoint of the base's shape, for a base that is not made yet.
    """
    config = read_config(path)
    here = gpus_here()
    found = machine.check_versions(
        needed := machine.requirements(
            ["train", *(["serve"] if getattr(config, "vllm_server", None) else [])]
        ),
        {r.name: machine.installed(r.name) for r in needed},
        machine.tested_versions(Path("constraints.txt")),
    )
    found.append(
        machine.check_pairing(torch.__version__, machine.installed("torchvision") or "0.0")
    )
    found.append(machine.check_gpus(here, gpus, config.dtype == "bfloat16"))
    if here:
        found.append(machine.check_driver(torch.version.cuda, driver_version()))
    if len(here) > 1:
        found.append(check_interconnect(here))
    planned = gpus or len(here)
    processes = max(1, planned)
    memory = gpu_memory or min((gpu.gib for gpu in here), default=None)
    found.append(
        Check(
            "config",
            "ok",
            f"{path} is a valid {'SFT' if isinstance(config, SFTStage) else 'GCPO'} config.",
        )
    )
    found.append(checks.check_bfloat16(config))
    found.append(machine.check_deepspeed(config.deepspeed))
    base = checks.check_base(config.base, checks.find_on_hub)
    found.append(base)
    data, rows, drawn = inputs.check_rows(config, sample)
    found += [data, checks.check_batch(config, processes, rows)]
    server = getattr(config, "vllm_server", None)
    found.append(checks.check_server(server, config.base))
    shape = shape_in_cache(config.base) or (shape_in_cache(like) if like else None)
    lengths, answers = None, None
    store = ImageStore(config.data / "images")
    images = inputs.check_images(drawn, store) if drawn else None
    if images is not None:
        found.append(images)
    local = Path(config.base).is_dir() or ("cache" in base.says and base.status == "ok")
    if images is not None and images.status == "ok" and base.status == "ok" and local:
        style = config.style if isinstance(config, SFTStage) else style_of(config.base)
        processor = load_processor(config.base)
        lengths = inputs.measure(drawn, style, store, processor)
        answers = (
            list(lengths.answers) if lengths.answers else answers_of(config, processor, sample)
        )
        found.append(inputs.check_parity(drawn, style, store, processor, config.base))
        shown = [image for row in drawn[:1] for image in inputs.asked(row, style, store)[1]]
        size = processor.image_processor.size
        expected = [
            inputs.image_tokens([image], size.shortest_edge, size.longest_edge) for image in shown
        ]
        found.append(checks.check_server_tokens(server, shown, expected))
        if shape is not None:
            found.append(inputs.check_lengths(config, lengths, answers, shape.context))
    else:
        found.append(
            Check(
                "tokens",
                "not checked",
                "that needs readable data and a base that is on this machine.",
            )
        )
        found.append(
            Check(
                "tokens by vLLM",
                "not checked",
                "that needs readable data and a base that is on this machine.",
            )
        )
        found.append(
            Check(
                "lengths",
                "not checked",
                "that needs readable data and a base that is on this machine.",
            )
        )
    if shape is None:
        found.append(
            Check(
                "memory",
                "not checked",
                f"the shape of {config.base} is not known here; name a checkpoint of its shape, as with --like {next(iter(KNOWN))}.",
            )
        )
        return found, None, memory
    plan = plan_of(
        config,
        processes,
        planned > 0,
        lengths,
        max(answers) if answers and isinstance(config, SFTStage) else None,
    )
    found.append(checks.check_disk(config, shape, plan, free_at(config.out)))
    said, estimated = checks.check_memory(shape, plan, memory)
    found.append(said)
    return found, estimated, memory


def table_of(found: Estimate, memory: float | None) -> list[str]:
    """The estimate as lines: what stays, what each phase adds, the total."""
    lines = ["", "memory per GPU, GiB"]
    lines += [f"  {name:42s} {size / GIB:8.2f}" for name, size in found.resident.items()]
    for phase, parts in found.phases.items():
        if parts:
            lines.append(
                f"  + {phase}: {sum(parts.values()) / GIB:.2f}{'  (the peak)' if phase == found.worst else ''}"
            )
            lines += [f"      {name:38s} {size / GIB:8.2f}" for name, size in parts.items() if size]
    lines.append(
        f"  {'CUDA and fragmentation (allowance)':42s} {(found.total - found.tensors) / GIB:8.2f}"
    )
    lines.append(
        f"  {'total':42s} {found.total / GIB:8.2f}{'' if memory is None else f' of {memory:.0f}'}"
    )
    return lines


def doctor(
    path: Path,
    gpus: int | None,
    gpu_memory: float | None,
    sample: int,
    like: str | None,
    as_json: bool,
) -> bool:
    """Prints what was found; whether nothing failed."""
    with redirect_stdout(sys.stderr):  # DeepSpeed logs to stdout, which is for the result
        found, estimated, memory = examine(path, gpus, gpu_memory, sample, like)
    well = all(check.status != "fail" for check in found)
    if as_json:
        parts = None if estimated is None else {
            "resident": estimated.resident, "phases": estimated.phases, "tensors": estimated.tensors, "total": estimated.total,
            "gpu_gib": memory,
        }  # fmt: skip
        print(
            json.dumps(
                {"well": well, "checks": [asdict(check) for check in found], "memory_bytes": parts},
                indent=1,
                ensure_ascii=False,
            )
        )
        return well
    for check in found:
        print(f"{check.status:12s} {check.name}: {check.says}")
    for line in table_of(estimated, memory) if estimated else ():
        print(line)
    return well
