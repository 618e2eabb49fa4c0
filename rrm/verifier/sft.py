"""The cold start: supervised fine-tuning on selected traces, through trl's SFTTrainer.

    python -m rrm.verifier.sft --config configs/sandbox/sft.yaml
    deepspeed --module rrm.verifier.sft --config configs/qwen2_5_vl_7b/sft.yaml       (see launch/)

Input: both images, instruction, principles. Target: the selected trace; loss on the target only (method: arXiv 2604.27505, §SFT).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet as pq
import torch
from trl import SFTConfig, SFTTrainer

from rrm.errors import InputError
from rrm.images import ImageStore
from rrm.prompts import Style
from rrm.records import SFTRow
from rrm.stage import command
from rrm.verifier.checkpoint import load, save
from rrm.verifier.messages import answered, decompose_messages, judge_messages
from rrm.verifier.training import MetricsFile, TrainingStage, check_processes, last_checkpoint, lora, merged, run_training


class SFTStage(TrainingStage):
    """Keys of an SFT config."""

    style: Style = "full"
    batch: int
    accumulate: int = 1
    warmup: float = 0.05
    save_every: int = 100
    log_every: int = 10


def conversation(row: SFTRow, style: Style, store: ImageStore) -> dict[str, Any]:
    """The row in trl's prompt-completion form, with the paths of its images."""
    if row.kind == "decompose":
        prompt, digests = decompose_messages(style, row.instruction), [row.source]
    else:
        if row.edited is None:
            raise InputError(f"SFT row {row.row_id} has no edited image; make the data again.")
        prompt, digests = judge_messages(style, row.instruction, row.principles), [row.source, row.edited]
    return {"prompt": prompt, "completion": answered(row.target), "images": [str(store.path(d)) for d in digests]}


def read_rows(data: Path) -> list[SFTRow]:
    """The rows of sft.parquet. Raises InputError where it is missing or empty."""
    path = data / "sft.parquet"
    if not path.is_file():
        raise InputError(f"There is no {path}; run `make data` first, or correct 'data' in the config.")
    rows = [SFTRow(**row) for row in pq.read_table(path).to_pylist()]
    if not rows:
        raise InputError(f"{path} is empty; nothing can be trained on it. Its folder's card.json says what was dropped.")
    return rows


def build_dataset(rows: list[SFTRow], style: Style, store: ImageStore) -> datasets.Dataset:
    """The rows as a `datasets` table whose images are decoded when they are needed."""
    dataset = datasets.Dataset.from_list([conversation(row, style, store) for row in rows])
    return dataset.cast_column("images", datasets.List(datasets.Image()))


def train(config: SFTStage, out: Path) -> dict[str, Any]:
    """Trains, or carries on from the last checkpoint in `out`, and writes out/model."""
    dataset = build_dataset(read_rows(config.data), config.style, ImageStore(config.data / "images"))
    model, processor = load(config.base, config.dtype)
    arguments = SFTConfig(
        output_dir=str(out / "checkpoints"), max_steps=config.steps, per_device_train_batch_size=config.batch,
        gradient_accumulation_steps=config.accumulate, learning_rate=config.learning_rate, lr_scheduler_type="cosine",
        warmup_steps=config.warmup, seed=config.seed, data_seed=config.seed, save_steps=config.save_every,
        save_total_limit=1, logging_steps=config.log_every, max_length=None, report_to=[], bf16=config.dtype == "bfloat16",
        gradient_checkpointing=config.gradient_checkpointing, deepspeed=config.deepspeed, weight_decay=0.01, adam_beta2=0.99,
        disable_tqdm=False, use_cpu=not torch.cuda.is_available(), dataloader_pin_memory=False,
    )  # fmt: skip
    trainer = SFTTrainer(
        model=model, args=arguments, train_dataset=dataset, processing_class=processor, peft_config=lora(config.lora_rank),
        callbacks=[MetricsFile(out / "metrics.jsonl")],
    )  # fmt: skip
    check_processes(trainer)
    done = trainer.train(resume_from_checkpoint=last_checkpoint(out / "checkpoints"))
    if trainer.is_world_process_zero():
        save(merged(trainer), processor, out / "model", config.style, {"stage": "sft", **config.model_dump(mode="json")})
    return {"rows": len(dataset), "steps": config.steps, "train_loss": round(done.training_loss, 4)}


if __name__ == "__main__":
    command(lambda: run_training("sft", __doc__, SFTStage, train))
