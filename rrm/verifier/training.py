"""What SFT and GCPO share around trl's trainers: the metrics file, resuming, LoRA."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from peft import LoraConfig, PeftModel
from transformers import (
    Qwen2_5_VLForConditionalGeneration,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_utils import get_last_checkpoint

from rrm.config import Config
from rrm.errors import InputError
from rrm.stage import run_stage


class TrainingStage(Config):
    """Keys that SFT and GCPO share."""

    data: Path
    """Folder of the data stage: sft.parquet, preferences.parquet and images/."""
    base: str
    """Checkpoint folder or hub id to start from."""
    out: Path
    steps: int
    learning_rate: float
    seed: int = 0
    lora_rank: int = 0
    """0 trains all weights."""
    dtype: str = "float32"
    deepspeed: str | None = None
    gradient_checkpointing: bool = False


Stage = TypeVar("Stage", bound=TrainingStage)


def run_training(name: str, about: str | None, kind: type[Stage], train: Callable[[Stage, Path], dict[str, Any]]) -> None:
    """The command of a training stage: reads --config and runs `train(config, out)` as a stage."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)
    config = kind.read(parser.parse_args().config)
    inputs: list[str | Path] = [config.data, *([config.base] if Path(config.base).exists() else [])]
    run_stage(name, config.out, config, inputs, lambda out: train(config, out))


class MetricsFile(TrainerCallback):
    """Writes every log of the main process as a line of JSON; lines after the step that a run resumes from are dropped."""

    def __init__(self, path: Path):
        self.path = path

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Drops what the resumed run will log again."""
        if state.is_world_process_zero and self.path.exists():
            lines = [line for line in self.path.read_text().splitlines() if json.loads(line)["step"] <= state.global_step]
            self.path.write_text("".join(line + "\n" for line in lines))

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Appends one line."""
        if state.is_world_process_zero and logs is not None and "train_runtime" not in logs:
            with self.path.open("a") as file:
                file.write(json.dumps({"step": state.global_step, **logs}) + "\n")


def last_checkpoint(folder: Path) -> str | None:
    """The newest complete checkpoint in the folder, if any."""
    if not folder.is_dir():
        return None
    for unfinished in folder.glob("checkpoint-*"):
        if not (unfinished / "trainer_state.json").is_file():
            unfinished.rename(unfinished.with_name("unfinished-" + unfinished.name))
    return get_last_checkpoint(str(folder))


def check_processes(trainer: Trainer) -> None:
    """Raises InputError where the launcher started several processes that do not train together."""
    started, together = int(os.environ.get("WORLD_SIZE", "1")), trainer.accelerator.num_processes
    if started != together:
        raise InputError(
            f"{started} processes were started but {together} train together; check the launcher and its environment."
        )


def lora(rank: int) -> LoraConfig | None:
    """LoRA on every linear layer of the language model, α = 2·rank; None for rank 0, which trains all weights."""
    if rank == 0:
        return None
    modules = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
    return LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=modules, task_type="CAUSAL_LM")


def merged(trainer: Trainer) -> Qwen2_5_VLForConditionalGeneration:
    """The trained model without wrappers, adapters merged."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    return model.merge_and_unload() if isinstance(model, PeftModel) else model
