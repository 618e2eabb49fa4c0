"""How fast the RRM of a real size is trained and asked on this GPU, and with how much memory: `make
bench-gpu` → runs/bench/gpu.json.

    rrm perf gpu                              # 3B, all weights, and 7B, LoRA, on CUDA
    rrm perf gpu --size tiny --device cpu     # the same code on a CPU

Random weights of the real shapes, noise for images within the real pixel budget, the sandbox's
tokenizer: nothing is downloaded. What runs are the project's own stages (rrm.verifier.sft and gcpo,
the judge), each in a process of its own, one GPU, without checkpoints. Random weights do not end an
answer early: rollouts and judgements are as long as they may be. Nor can their traces be read:
scores are drawn, so that every trace has a gradient.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from tqdm import tqdm
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    trainer,
)

from rrm.doctor.inputs import measure
from rrm.doctor.memory import (
    GIB,
    KNOWN,
    Shape,
    estimate,
    head_parameters,
    shape_of,
    text_layer_parameters,
    vision_parameters,
)
from rrm.doctor.run import plan_of
from rrm.errors import InputError
from rrm.images import ImageStore
from rrm.perf.verifier import Drawn
from rrm.prompts import write_answer
from rrm.records import EditToJudge, PreferencePair, Principle, SFTRow
from rrm.runtime.stage import peak_rss_mb, write_json
from rrm.sandbox.models.verifier import build_model, build_processor
from rrm.verifier.checkpoint import load_processor, save
from rrm.verifier.config import SFTStage
from rrm.verifier.gcpo.config import GCPOStage
from rrm.verifier.gcpo.train import train as train_gcpo
from rrm.verifier.inference import Verifier
from rrm.verifier.model_card import Origin
from rrm.verifier.sft import train as train_sft

PEAK_FLOPS = (
    ("A100", 312e12), ("A800", 312e12), ("H100 PCIe", 756e12), ("H100 NVL", 835e12), ("H100", 989e12), ("H800", 989e12),
    ("H200", 989e12), ("B200", 2250e12), ("L40S", 362e12),
)  # fmt: skip
"""Dense bfloat16 peaks by a part of the GPU's name, from NVIDIA's data sheets; the first that fits
counts."""

STAGES = ("make", "sft", "gcpo", "score")


@dataclass(frozen=True)
class Size:
    """What is measured at a size."""

    shape: Shape | None
    """None: the sandbox's own."""
    lora: int
    sides: tuple[int, int]
    """Width and height of an image."""
    batch: int
    answer: int
    """Words of an SFT answer."""
    pairs: int
    traces: int
    max_tokens: int
    edits: int
    """Edits that are judged at once."""


SIZES = {
    "3b": Size(KNOWN["Qwen/Qwen2.5-VL-3B-Instruct"], 0, (1008, 980), 2, 400, 2, 4, 512, 8),
    "7b": Size(KNOWN["Qwen/Qwen2.5-VL-7B-Instruct"], 64, (1008, 980), 2, 400, 2, 4, 512, 8),
    "tiny": Size(None, 0, (56, 56), 2, 20, 1, 2, 16, 2),
}


def peak_flops(name: str) -> float | None:
    """The GPU's dense bfloat16 peak; None for one that is not in the table."""
    return next((peak for part, peak in PEAK_FLOPS if part in name), None)


def forward_flops(
    shape: Shape, tokens: float, length: float, scored: float, patches: float
) -> dict[str, float]:
    """FLOPs of a forward: 2 per weight and token (arXiv 2001.08361, §2.1), and causal attention's
    2·L·h·S per token, half of 4·L·h·S.

    `tokens` in sequences of `length`; the head works on `scored` of them, the vision tower on
    `patches`. Left out: the vision tower's attention, which is within windows, embeddings and
    norms.
    """
    text = (
        2.0 * shape.layers * text_layer_parameters(shape) * tokens
        + 2.0 * shape.layers * shape.hidden * length * tokens
    )
    return {
        "text": text + 2.0 * head_parameters(shape) * scored,
        "vision": 2.0 * vision_parameters(shape) * patches,
    }


def training_flops(forward: Mapping[str, float], lora: bool) -> float:
    """Three forwards: the backward is two, one for activations and one for weights. Under LoRA the
    frozen language model's weights need none, and the vision tower no backward. What checkpointing
    works out again is not counted (MFU, not hardware utilisation).
    """
    return (
        2 * forward["text"] + forward["vision"]
        if lora
        else 3 * (forward["text"] + forward["vision"])
    )


def generation_flops(
    shape: Shape, prompts: int, prompt: int, answers: int, answer: float, patches: float
) -> float:
    """Every distinct prompt read once, with one token scored, and `answers` answers of `answer`
    tokens behind it."""
    read = forward_flops(shape, prompts * prompt, prompt, prompts, patches)
    written = forward_flops(
        shape, answers * answer, 2 * prompt + answer, answers * answer, 0
    )  # a token sees all of the prompt
    return read["text"] + read["vision"] + written["text"]


def mfu(flops: float, seconds: float, peak: float | None) -> float | None:
    """Model FLOPs utilisation; None where the peak is not known."""
    return None if peak is None else round(flops / seconds / peak, 4)


class NoCheckpoints(TrainerCallback):
    """A training that is measured is not carried on: saving its state would take most of the time
    and the disk."""

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Vetoes what the trainer's own callback decided before."""
        control.should_save = False


def build_base(size: Size, device: torch.device, folder: Path) -> None:
    """A checkpoint of random weights in the size's shape, its vocabulary larger than the
    tokenizer's as the real one's is."""
    processor = build_processor()
    processor.image_processor.size.longest_edge = max(
        size.sides[0] * size.sides[1], processor.image_processor.size.longest_edge
    )
    small = build_model(processor)
    if size.shape is None:
        save(small, processor, folder, "brief", Origin(stage="bench"))
        return
    shape, config = size.shape, small.config.to_dict()
    config["text_config"] |= {
        "hidden_size": shape.hidden, "intermediate_size": shape.intermediate, "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads, "num_key_value_heads": shape.kv_heads, "vocab_size": shape.vocab,
        "max_position_embeddings": shape.context, "tie_word_embeddings": shape.tied, "initializer_range": 0.02,
        "layer_types": None, "rope_parameters": {"rope_type": "default", "mrope_section": [16, 24, 24], "rope_theta": 1000000.0},
    }  # fmt: skip
    config["vision_config"] |= {
        "depth": shape.vision_layers, "hidden_size": shape.vision_hidden, "intermediate_size": shape.vision_intermediate,
        "num_heads": shape.vision_heads, "out_hidden_size": shape.hidden, "fullatt_block_indexes": [7, 15, 23, 31],
        "initializer_range": 0.02,
    }  # fmt: skip
    config |= {"tie_word_embeddings": shape.tied}
    torch.set_default_dtype(torch.bfloat16)
    with device:
        model = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(**config))
    torch.set_default_dtype(torch.float32)
    model.generation_config = small.generation_config
    save(model, processor, folder, "full", Origin(stage="bench"))


def build_data(size: Size, folder: Path) -> None:
    """Rows and pairs enough for every update, all of one length: what differs is the noise in the
    images."""
    rng = np.random.default_rng(0)
    store = ImageStore(folder / "images")
    width, height = size.sides

    def picture() -> str:
        coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        return store.add(coarse.resize((width, height), Image.Resampling.BICUBIC))

    principles = tuple(
        Principle(question=f"Is the red circle {place}?", category="follow")
        for place in ("gone", "blue", "left", "right")
    )
    target = " ".join(["red circle"] * (size.answer // 2)) + "\n" + write_answer((1, 0, 1, 1), 5.0)
    common: dict[str, Any] = {"instruction": "make the red circle blue", "principles": principles}
    rows = [
        SFTRow(
            row_id=str(i), kind="judge", source=picture(), edited=picture(), target=target, **common
        )
        for i in range(size.batch * 2)
    ]
    pairs = [
        PreferencePair(
            pair_id=str(i),
            source=picture(),
            edited_a=picture(),
            edited_b=picture(),
            label="a",
            **common,
        )
        for i in range(size.pairs * 2)
    ]
    for name, records in (("sft", rows), ("preferences", pairs)):
        pq.write_table(
            pa.Table.from_pylist([record.model_dump() for record in records]),
            folder / f"{name}.parquet",
        )


def configs(size: Size, work: Path, steps: int, cuda: bool) -> tuple[SFTStage, GCPOStage]:
    """The configs of both stages, as of configs/qwen2_5_vl_3b/sft.yaml and
    configs/qwen2_5_vl_7b/gcpo_lora.yaml, for one process."""
    common: dict[str, Any] = {
        "data": work / "data", "base": str(work / "base"), "steps": steps, "learning_rate": 1e-5, "lora_rank": size.lora,
        "gradient_checkpointing": True, "save_every": 10**6, "log_every": 1, "explosion": None,
        "dtype": "bfloat16" if cuda else "float32", "deepspeed": "launch/zero2.json" if cuda and not size.lora else None,
    }  # fmt: skip
    sft = SFTStage(
        out=work / "sft",
        batch=size.batch,
        style="brief" if size.shape is None else "full",
        **common,
    )
    gcpo = GCPOStage(
        out=work / "gcpo",
        pairs_per_step=size.pairs,
        traces_per_image=size.traces,
        micro_batch=size.batch,
        max_tokens=size.max_tokens,
        **common,
    )
    return sft, gcpo


def peak_memory(cuda: bool) -> dict[str, float | str]:
    """The most that this process held: of GPU memory (allocated, and with what the allocator
    reserved), or resident on a CPU."""
    if not cuda:
        return {"peak_gib": round(peak_rss_mb() / 1024, 3), "peak_of": "resident set"}
    allocated, reserved = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
    return {
        "peak_gib": round(allocated / GIB, 3),
        "reserved_gib": round(reserved / GIB, 3),
        "peak_of": "allocated on the GPU",
    }


def steps_of(folder: Path) -> list[dict[str, Any]]:
    """The logged steps of a training; the first warms up and is not counted."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def measure_stage(stage: str, size: Size, work: Path, steps: int, cuda: bool) -> dict[str, Any]:
    """Runs a stage in this process and says what it took."""
    sft, gcpo = configs(size, work, steps, cuda)
    if stage == "make":
        build_base(size, torch.device("cuda" if cuda else "cpu"), work / "base")
        (work / "data").mkdir(parents=True, exist_ok=True)
        build_data(size, work / "data")
        return {}
    shape, processor, store = (
        shape_of(str(work / "base")),
        load_processor(str(work / "base")),
        ImageStore(work / "data/images"),
    )
    assert shape is not None
    rows = [SFTRow(**row) for row in pq.read_table(work / "data/sft.parquet").to_pylist()]
    lengths = measure(rows[:1], sft.style, store, processor)
    prompt, image, answer = lengths.prompts[0], lengths.images[0], (lengths.answers or (0,))[0]
    patches = image * shape.patches_per_token
    peak = peak_flops(torch.cuda.get_device_name()) if cuda else None
    found: dict[str, Any] = {"prompt_tokens": prompt, "image_tokens": image}
    if stage == "score":
        judge = Verifier.load(work / "base", batch=size.edits)
        judge.max_new_tokens = size.max_tokens
        row = rows[0]
        assert row.edited is not None
        edit = EditToJudge(
            store.get(row.source), store.get(row.edited), row.instruction, row.principles
        )
        edits = [
            edit,
            *(
                EditToJudge(
                    edit.edited, edit.source, f"{row.instruction} {'!' * i}", row.principles
                )
                for i in range(1, size.edits)
            ),
        ]
        judge.judge_many(edits)
        begin = time.perf_counter()
        for _ in range(steps):
            judge.judge_many(edits)
        if cuda:
            torch.cuda.synchronize()
        seconds = (time.perf_counter() - begin) / steps
        flops = generation_flops(
            shape, size.edits, prompt, size.edits, size.max_tokens, size.edits * patches
        )
        return found | {
            "batch": size.edits, "seconds": round(seconds, 4), "samples_per_s": round(size.edits / seconds, 4),
            "tokens_per_s": round(size.edits * size.max_tokens / seconds, 2), "mfu": mfu(flops, seconds, peak), **peak_memory(cuda),
        }  # fmt: skip
    trainer.DEFAULT_CALLBACKS.append(NoCheckpoints)
    if stage == "sft":
        train_sft(sft, work / "sft")
        lines = steps_of(work / "sft")
        seconds = (lines[-1]["seconds"] - lines[0]["seconds"]) / (len(lines) - 1)
        plan = plan_of(sft, 1, cuda, lengths, answer)
        tokens = float(size.batch * (prompt + answer))
        flops = training_flops(
            forward_flops(
                shape, tokens, prompt + answer, size.batch * answer, size.batch * patches
            ),
            size.lora > 0,
        )
        found |= {
            "answer_tokens": answer,
            "batch": size.batch,
            "samples_per_s": round(size.batch / seconds, 4),
        }
    else:
        train_gcpo(gcpo, work / "gcpo", Drawn)
        lines = steps_of(work / "gcpo")
        rollout = mean(line["rollout_seconds"] for line in lines[1:])
        update = mean(line["update_seconds"] for line in lines[1:])
        seconds, traces = rollout + update, size.pairs * 2 * size.traces
        length = mean(line["trace_length"] for line in lines[1:])
        plan = plan_of(gcpo, 1, cuda, lengths)
        tokens = traces * (prompt + length)
        written = generation_flops(
            shape, size.pairs * 2, prompt, traces, length, size.pairs * 2 * patches
        )
        learned = training_flops(
            forward_flops(
                shape,
                tokens,
                prompt + length,
                traces * length,
                traces / plan.micro * plan.seen(plan.micro) * patches,
            ),
            size.lora > 0,
        )
        flops = written + learned
        found |= {
            "trace_tokens": round(length, 1), "traces": traces, "samples_per_s": round(traces / seconds, 4),
            "rollout_seconds": round(rollout, 4), "update_seconds": round(update, 4),
            "rollout_tokens_per_s": round(traces * length / rollout, 2), "rollout_mfu": mfu(written, rollout, peak),
            "update_mfu": mfu(learned, update, peak),
        }  # fmt: skip
    estimated = estimate(shape, plan)
    return found | {
        "seconds": round(seconds, 4), "tokens_per_s": round(tokens / seconds, 2), "mfu": mfu(flops, seconds, peak),
        **peak_memory(cuda), "estimated_tensors_gib": round(estimated.tensors / GIB, 3), "estimated_gib": round(estimated.total / GIB, 3),
    }  # fmt: skip


def run_size(name: str, device: str, steps: int, work: Path) -> dict[str, Any]:
    """Every stage of a size, each in a process of its own; what they measured."""
    environment = {**os.environ, **({} if device == "cuda" else {"CUDA_VISIBLE_DEVICES": ""})}
    if device == "cuda":
        environment |= {
            "CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
        }
        if not SIZES[name].lora:  # DeepSpeed wants a launcher's environment, also for one process
            environment |= {
                "RANK": "0",
                "LOCAL_RANK": "0",
                "WORLD_SIZE": "1",
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": "29533",
            }
    found: dict[str, Any] = {"lora_rank": SIZES[name].lora}
    for stage in tqdm(STAGES, desc=name):
        options = [
            "--size",
            name,
            "--device",
            device,
            "--steps",
            str(steps),
            "--stage",
            stage,
            "--work",
            str(work),
        ]
        done = subprocess.run(
            [sys.executable, "-m", "rrm", "perf", "gpu", *options],
            capture_output=True,
            text=True,
            check=False,
            env=environment,
        )
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no output"])[-1]
            raise InputError(f"the stage '{stage}' of size {name} failed: {last}")
        measured = json.loads((work / f"{stage}.json").read_text())
        if measured:
            found[stage] = measured
            tqdm.write(f"{name} {stage}: {json.dumps(measured)}")
        for leftover in ("sft", "gcpo"):  # models of gigabytes
            shutil.rmtree(work / leftover, ignore_errors=True)
    return found


def run(
    sizes: Sequence[str] | None,
    device: str,
    steps: int,
    out: Path,
    stage: str | None = None,
    work: Path | None = None,
) -> None:
    """Measures each size in processes of its own and writes the figures to `out`; with `stage` it
    is such a process, working in `work`."""
    for name in sizes or ():
        if name not in SIZES:
            raise InputError(f"There is no size {name!r}; give one of {', '.join(SIZES)}.")
    if steps < 2:
        raise InputError("--steps must be at least 2: the first update is not counted.")
    cuda = device == "cuda"
    if cuda and not torch.cuda.is_available():
        raise InputError(
            "no CUDA GPU is visible; run this on a GPU machine, or try the code with --size tiny --device cpu."
        )
    if stage and work and sizes:
        measured = measure_stage(stage, SIZES[sizes[0]], work, steps, cuda)
        write_json(work / f"{stage}.json", measured)
        return
    results: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if cuda else "cpu", "torch": torch.__version__,
        "peak_flops": peak_flops(torch.cuda.get_device_name()) if cuda else None, "steps": steps, "sizes": {},
    }  # fmt: skip
    for name in sizes or ["3b", "7b"]:
        folder = out.parent / f"gpu-{name}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        results["sizes"][name] = run_size(name, device, steps, folder)
        write_json(out, results)
        shutil.rmtree(folder)
    print(f"→ {out}")
