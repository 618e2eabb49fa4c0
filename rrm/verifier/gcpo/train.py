"""GCPO as a stage: from the config to trl's arguments, the training, and the model that it leaves."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from rrm.chat import spare_loopback
from rrm.errors import InputError
from rrm.images import ImageStore
from rrm.runtime.trackers import trainer_trackers
from rrm.verifier.checkpoint import load, style_of
from rrm.verifier.fast.trl_without_vllm import GRPOConfig
from rrm.verifier.gcpo.config import GCPOStage
from rrm.verifier.gcpo.fast import FastGCPOTrainer
from rrm.verifier.gcpo.pairs import build_dataset, draw_pairs, read_pairs
from rrm.verifier.gcpo.trainer import GCPOTrainer
from rrm.verifier.tables import check_images
from rrm.verifier.training import MetricsFile, check_processes, finish, lora, run_training, start


def arguments(config: GCPOStage, out: Path, processes: int) -> GRPOConfig:
    """trl's settings for the paper's algorithm; the batch of pairs is the same however many
    processes share it."""
    total = config.pairs_per_step * 2 * config.traces_per_image
    share, rest = divmod(total, processes)
    micro = config.micro_batch or share
    if rest or share % micro:
        raise InputError(
            f"pairs × 2 × traces = {total} does not divide into {processes} process(es) × micro_batch {micro}; change one of them."
        )
    if config.save_every % config.updates:
        raise InputError(
            f"save_every {config.save_every} is not a multiple of updates {config.updates}; rollouts are not saved, so change one of them."
        )
    if config.vllm_server is not None:
        spare_loopback()  # trl's own client would ask a proxy for it
    return GRPOConfig(
        output_dir=str(out / "checkpoints"), max_steps=config.steps, per_device_train_batch_size=micro,
        gradient_accumulation_steps=share // micro, generation_batch_size=total, num_generations=config.traces_per_image,
        num_iterations=config.updates, learning_rate=config.learning_rate, lr_scheduler_type="constant_with_warmup",
        warmup_steps=config.warmup, adam_beta2=config.adam_beta2, loss_type="grpo", scale_rewards=False,
        beta=config.kl_weight, epsilon=config.clip_range, temperature=config.temperature, top_p=1.0, top_k=0,
        max_completion_length=config.max_tokens, seed=config.seed, data_seed=config.seed, save_steps=config.save_every,
        logging_steps=config.log_every, report_to=trainer_trackers(config.report_to, out / "tensorboard"),
        bf16=config.dtype == "bfloat16", deepspeed=config.deepspeed, gradient_checkpointing=config.gradient_checkpointing,
        use_vllm=config.vllm_server is not None, vllm_mode="server", vllm_server_base_url=config.vllm_server, disable_tqdm=False,
        use_cpu=not torch.cuda.is_available(), dataloader_pin_memory=False,
    )  # fmt: skip


def train(config: GCPOStage, out: Path, kind: type[GCPOTrainer] | None = None) -> dict[str, Any]:
    """Trains, or carries on from the last checkpoint in `out`, and writes out/model. `kind` is the
    trainer, for measurements and tests."""
    style = style_of(config.base)
    pairs = draw_pairs(read_pairs(config.data), config.pair_count, config.seed)
    if len(pairs) < config.pairs_per_step:
        raise InputError(
            f"{config.data} holds {len(pairs)} pairs, fewer than one update's {config.pairs_per_step}; lower 'pairs_per_step'."
        )
    store = ImageStore(config.data / "images")
    check_images(
        store, (digest for pair in pairs for digest in (pair.source, pair.edited_a, pair.edited_b))
    )
    dataset = build_dataset(pairs, style, store)
    start(config)
    settings = arguments(config, out, int(os.environ.get("WORLD_SIZE", "1")))
    model, processor = load(config.base, config.dtype, config.fast)
    trainer = (kind or (FastGCPOTrainer if config.fast else GCPOTrainer))(
        model=model, args=settings, train_dataset=dataset, processing_class=processor, peft_config=lora(config.lora_rank),
        callbacks=[MetricsFile(out / "metrics.jsonl")], explosion=config.explosion, keep=config.keep, rollouts=out / "rollouts",
        gradient_tokens=config.gradient_tokens, kl_tokens=config.kl_tokens,
    )  # fmt: skip
    check_processes(trainer)
    trainer.carry_on(out / "checkpoints", config.resume_from)
    rows = {"pairs": len(pairs)}
    return {**rows, **finish("gcpo", trainer, processor, config, style, out, rows)}


def run(config: GCPOStage) -> None:
    """Trains as a stage: skipped where it is done, resumed where it was interrupted."""
    run_training("gcpo", config, train)
