"""The cold start: supervised fine-tuning on selected traces, through trl's SFTTrainer.

    rrm sft --config configs/sandbox/sft.yaml
    deepspeed --module rrm.verifier.sft --config configs/qwen2_5_vl_7b/sft.yaml       (see launch/)

Input: both images, instruction, principles. Target: the selected trace; loss on the target only
(method: arXiv 2604.27505, §SFT).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

import datasets
import torch
from torch.utils.data import Sampler
from trl import SFTConfig, SFTTrainer

from rrm.errors import InputError
from rrm.images import ImageStore
from rrm.prompts import Style
from rrm.records import SFTRow
from rrm.runtime.trackers import trainer_trackers
from rrm.stage_options import run_as_module
from rrm.verifier.checkpoint import load
from rrm.verifier.config import SFTStage
from rrm.verifier.messages import answered, decompose_messages, judge_messages
from rrm.verifier.tables import check_images, read_table
from rrm.verifier.training import (
    MetricsFile,
    Watched,
    check_processes,
    finish,
    lora,
    run_training,
    start,
)


def conversation(row: SFTRow, style: Style, store: ImageStore) -> dict[str, Any]:
    """The row in trl's prompt-completion form, with the paths of its images."""
    if row.kind == "decompose":
        prompt, digests = decompose_messages(style, row.instruction, row.requirement), [row.source]
    else:
        if row.edited is None:
            raise InputError(f"SFT row {row.row_id} has no edited image; make the data again.")
        prompt = judge_messages(style, row.instruction, row.principles, row.requirement)
        digests = [row.source, row.edited]
    return {
        "prompt": prompt,
        "completion": answered(row.target),
        "images": [str(store.path(d)) for d in digests],
    }


def read_rows(data: Path) -> list[SFTRow]:
    """The rows of sft.parquet. Raises InputError where it is missing, empty or damaged."""
    path = data / "sft.parquet"
    rows = read_table(path, SFTRow)
    if not rows:
        raise InputError(
            f"{path} is empty; nothing can be trained on it. Its folder's card.json says what was dropped."
        )
    return rows


def build_dataset(rows: list[SFTRow], style: Style, store: ImageStore) -> datasets.Dataset:
    """The rows as a `datasets` table whose images are decoded when they are needed."""
    dataset = datasets.Dataset.from_list([conversation(row, style, store) for row in rows])
    return dataset.cast_column("images", datasets.List(datasets.Image()))


class UpdateSampler(Sampler[int]):
    """Row indices of a whole run: one permutation after another, without a gap, `per_update` of
    them for each of the `updates`.

    So an update holds the same rows whether they are accumulated or spread over processes.
    """

    def __init__(self, rows: int, per_update: int, updates: int, seed: int):
        self.rows, self.length, self.seed = rows, per_update * updates, seed

    def order(self) -> Iterator[int]:
        """Infinite stream of row indices."""
        for epoch in count():
            generator = torch.Generator().manual_seed(self.seed + epoch)
            yield from torch.randperm(self.rows, generator=generator).tolist()

    def __iter__(self) -> Iterator[int]:
        return islice(self.order(), self.length)

    def __len__(self) -> int:
        return self.length


class WatchedSFT(Watched, SFTTrainer):
    """trl's SFTTrainer, watched, over whole updates."""

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        rows = len(self.train_dataset if train_dataset is None else train_dataset)
        per_update = (
            self.args.train_batch_size
            * self.args.gradient_accumulation_steps
            * self.args.world_size
        )
        return UpdateSampler(rows, per_update, self.args.max_steps, self.args.seed)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """`epoch` is passes over the rows."""
        rows = (
            self.args.train_batch_size
            * self.args.gradient_accumulation_steps
            * self.args.world_size
            * self.state.global_step
        )
        self.state.epoch = rows / len(self.train_dataset)
        super().log(logs, start_time)


def train(config: SFTStage, out: Path) -> dict[str, Any]:
    """Trains, or carries on from the last checkpoint in `out`, and writes out/model."""
    rows = read_rows(config.data)
    store = ImageStore(config.data / "images")
    check_images(store, (digest for row in rows for digest in (row.source, row.edited) if digest))
    dataset = build_dataset(rows, config.style, store)
    start(config)
    arguments = SFTConfig(
        output_dir=str(out / "checkpoints"), max_steps=config.steps, per_device_train_batch_size=config.batch,
        gradient_accumulation_steps=config.accumulate, learning_rate=config.learning_rate, lr_scheduler_type="cosine",
        warmup_steps=config.warmup, seed=config.seed, data_seed=config.seed, save_steps=config.save_every,
        logging_steps=config.log_every, max_length=None, report_to=trainer_trackers(config.report_to, out / "tensorboard"), bf16=config.dtype == "bfloat16",
        gradient_checkpointing=config.gradient_checkpointing, deepspeed=config.deepspeed, weight_decay=0.01, adam_beta2=0.99,
        disable_tqdm=False, use_cpu=not torch.cuda.is_available(), dataloader_pin_memory=False,
        # every token of an update weighs the same, however it is spread
        average_tokens_across_devices=True,
    )  # fmt: skip
    model, processor = load(config.base, config.dtype, config.fast)
    trainer = WatchedSFT(
        model=model, args=arguments, train_dataset=dataset, processing_class=processor, peft_config=lora(config.lora_rank),
        callbacks=[MetricsFile(out / "metrics.jsonl")], explosion=config.explosion, keep=config.keep,
    )  # fmt: skip
    check_processes(trainer)
    trainer.carry_on(out / "checkpoints", config.resume_from)
    kinds: Counter[str] = Counter(row.kind for row in rows)
    return {
        "rows": len(rows),
        **finish("sft", trainer, processor, config, config.style, out, kinds),
    }


def run(config: SFTStage) -> None:
    """Trains as a stage: skipped where it is done, resumed where it was interrupted."""
    run_training("sft", config, train)


if __name__ == "__main__":
    run_as_module("rrm sft", SFTStage, run)
