"""What SFT and GCPO share around trl's trainers: the metrics file, resuming, LoRA."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

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

from rrm.errors import InputError


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
