"""Shared by SFT and GCPO around trl's trainers: start-up, divergence checks, resuming, LoRA, saving
the model."""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NoReturn, TypeVar

import torch
from accelerate.utils import broadcast_object_list
from peft import LoraConfig, PeftModel
from torch.optim.lr_scheduler import LambdaLR
from transformers import (
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)
from transformers.integrations import is_deepspeed_zero3_enabled, unset_hf_deepspeed_config

from rrm.errors import InputError
from rrm.prompts import Style
from rrm.runtime.checkpoints import check_whole, checkpoints_in, keep_newest, newest_whole, seal
from rrm.runtime.disk import folder_at_once, written_at_once
from rrm.runtime.signals import asked_to_stop
from rrm.runtime.stage import fingerprint_of, run_stage
from rrm.verifier.checkpoint import Origin, load, save
from rrm.verifier.config import TrainingStage

WINDOW, LEAST = 50, 3
"""Logged steps that a new one is compared with, and the fewest that it can be compared with."""

LAST_LOGGED = (
    "loss",
    "grad_norm",
    "mean_token_accuracy",
    "win_ratio",
    "tie_rate",
    "unreadable_rate",
    "entropy",
)
"""What a checkpoint tells of the end of its training: the last value of each that was logged."""


Stage = TypeVar("Stage", bound=TrainingStage)


def run_training(name: str, config: Stage, train: Callable[[Stage, Path], dict[str, Any]]) -> None:
    """Runs `train(config, out)` as a stage. Raises InputError where `resume_from` lies in the
    folder that would be set aside."""
    inputs: list[str | Path] = [config.data, *([config.base] if Path(config.base).exists() else [])]
    if config.resume_from is not None:
        if config.resume_from.resolve().is_relative_to(config.out.resolve()):
            raise InputError(
                f"resume_from lies in 'out', which is set aside by this change; name another 'out' than {config.out}."
            )
        inputs.append(config.resume_from)
    run_stage(name, config.out, config, inputs, lambda out: train(config, out))


# transformers loads an optimiser onto the device of several processes without a GPU, "cpu:0", which
# torch knows as "cpu" alone
torch.serialization.register_package(
    15,
    lambda storage: None,
    lambda storage, location: storage if location.startswith("cpu:") else None,
)


def start(config: TrainingStage) -> None:
    """Seeds everything, and readies DeepSpeed where it is asked for; call it before a trainer's
    arguments are made.

    Raises InputError where DeepSpeed has no launcher or a config under which no whole model could
    be saved.
    """
    set_seed(config.seed)
    if config.deepspeed is None:
        return
    if "RANK" not in os.environ:
        raise InputError(
            "'deepspeed' needs a launcher, also for one process: start with launch/ or torchrun."
        )
    if not Path(config.deepspeed).is_file():
        raise InputError(f"There is no DeepSpeed config at {config.deepspeed}; launch/ has two.")
    zero = json.loads(Path(config.deepspeed).read_text()).get("zero_optimization", {})
    if zero.get("stage") == 3 and not zero.get("stage3_gather_16bit_weights_on_model_save"):
        raise InputError(
            f"{config.deepspeed} must set stage3_gather_16bit_weights_on_model_save, or no model can be saved."
        )
    if (
        shutil.which("ninja") is None
    ):  # DeepSpeed compiles with it; it lies beside the interpreter where nothing is activated
        os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    if not torch.cuda.is_available():
        import deepspeed

        # DeepSpeed would first compile collectives of its own for the CPU; gloo has them
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        # left to itself DeepSpeed learns the number of processes too late for the batch size of
        # stage 3
        deepspeed.init_distributed("gloo", auto_mpi_discovery=False)


def step_of(line: str) -> float:
    """The step of a line of metrics; infinity for one that was torn."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf


class MetricsFile(TrainerCallback):
    """Writes every log of the main process as a line of JSON; lines after the step that a run
    resumes from are dropped.

    A number that is none (a mean over no readable trace, say) is null there.
    """

    def __init__(self, path: Path):
        self.path = path

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Drops what the resumed run will log again."""
        if state.is_world_process_zero and self.path.exists():
            lines = [
                line
                for line in self.path.read_text(errors="replace").splitlines()
                if step_of(line) <= state.global_step
            ]
            with written_at_once(self.path) as partial:
                partial.write_text("".join(line + "\n" for line in lines))

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Logs with every checkpoint, so that a mean over steps never straddles the point that a
        run resumes from."""
        control.should_log = control.should_log or control.should_save

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
            known = {
                key: None if isinstance(v, float) and not math.isfinite(v) else v
                for key, v in logs.items()
            }
            with self.path.open("a") as file:
                file.write(json.dumps({"step": state.global_step, **known}) + "\n")


class StopAtSafePoint(TrainerCallback):
    """Ends a training that was asked to stop after the update that it is in, with a checkpoint; in
    all processes alike."""

    def __init__(self, trainer: Watched, asked: Callable[[], bool]):
        self.trainer, self.asked = trainer, asked

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """After every update."""
        mine = torch.tensor([float(self.asked())], device=args.device)
        anyone = (
            bool(self.trainer.accelerator.gather(mine).any())
            if args.world_size > 1
            else self.asked()
        )
        if anyone and self.trainer.safe_to_stop():
            control.should_log = control.should_save = control.should_training_stop = True


def times_usual(value: float, earlier: Sequence[float]) -> float | None:
    """The value over the median of the last ones before it that are not 0; None where too few were
    logged.

    A 0 (the norm of a GCPO step in which every comparison is tied) says nothing about what is
    usual.
    """
    usual = [e for e in earlier[-WINDOW:] if e > 0]
    return value / median(usual) if len(usual) >= LEAST else None


def trouble(
    loss: float,
    norm: float,
    losses: Sequence[float],
    norms: Sequence[float],
    explosion: float | None,
) -> str | None:
    """What is wrong with an update of this loss and gradient norm, given those logged earlier; None
    if nothing is."""
    if not math.isfinite(loss):
        return f"the loss was {loss}"
    if not math.isfinite(norm) or norm < 0:  # DeepSpeed reports -1 for a norm that overflowed
        return f"the gradient norm was {norm}"
    for name, value, earlier in (("loss", loss, losses), ("gradient norm", norm, norms)):
        times = times_usual(value, earlier)
        if explosion is not None and times is not None and times > explosion:
            return (
                f"the {name} was {value:.3g}, {times:.0f} times the median of the last logged ones"
            )
    return None


class Watched(Trainer):
    """Mixin: stops the training before a diverging step is applied, and makes a resumed run
    identical to an uninterrupted one.

    A mixin: it stands before trl's trainer in a class's bases.
    """

    loss_has_a_scale = True
    """Whether a loss many times the usual one means anything; a policy gradient's is about 0."""

    def __init__(self, *args: Any, explosion: float | None = None, keep: int = 2, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.explosion, self.keep = explosion, keep
        self.args.logging_nan_inf_filter = (
            False  # it would put an average in the place of a loss that is not finite
        )
        self.losses: list[torch.Tensor] = []
        self.begin, self.seconds_before = time.monotonic(), 0.0
        self.resumed_from: Path | None = None

    def carry_on(self, checkpoints: Path, otherwise: Path | None) -> None:
        """Trains from the newest whole checkpoint in the folder, from the one named otherwise, or
        from the base.

        Raises InputError where the one named otherwise is not whole, and KeyboardInterrupt where
        the run was asked to stop: after the update that it was in, with a checkpoint of it.
        """
        found: list[Path | None] = [None]
        if self.is_world_process_zero():
            found = [newest_whole(checkpoints) or otherwise]
            if found[0] is not None and found[0] == otherwise:
                check_whole(otherwise)
        self.resumed_from = broadcast_object_list(found)[0]
        if self.resumed_from is not None:
            lines = read_state(self.resumed_from)["log_history"]
            self.seconds_before = max((line.get("seconds", 0.0) for line in lines), default=0.0)
        self.begin = time.monotonic()
        with asked_to_stop() as asked:
            self.add_callback(StopAtSafePoint(self, asked))
            self.train(
                resume_from_checkpoint=None if self.resumed_from is None else str(self.resumed_from)
            )
        if self.state.global_step < self.args.max_steps:
            raise KeyboardInterrupt

    def safe_to_stop(self) -> bool:
        """Whether a run resumed from a checkpoint of the update that was just made would be the
        uninterrupted one."""
        return True

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the seconds of training so far, those before a resume included."""
        logs["seconds"] = round(self.seconds_before + time.monotonic() - self.begin, 2)
        super().log(logs, start_time)

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Keeps the losses of an update."""
        loss = super().training_step(*args, **kwargs)
        self.losses.append(loss.detach().float().mean())
        return loss

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        loss = self.accelerator.gather(torch.stack(self.losses).sum().reshape(1)).mean().item()
        self.losses.clear()
        lines = [line for line in self.state.log_history[-WINDOW:] if "grad_norm" in line]
        losses, norms = (
            [line["loss"] for line in lines if self.loss_has_a_scale],
            [line["grad_norm"] for line in lines],
        )
        self._stop_at(
            trouble(loss, float(norm), losses, norms, self.explosion), self.state.global_step + 1
        )
        return norm

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        self.check_weights()
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()  # the manifest says that everyone's files are there
        if self.is_world_process_zero():
            checkpoints = Path(self.args.output_dir)
            seal(checkpoints / f"checkpoint-{self.state.global_step}")
            keep_newest(checkpoints, self.keep)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if isinstance(self.model, PeftModel):
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        # a saved Qwen2.5-VL names its weights otherwise than the model does: the trainer's own
        # loading finds none, and only warns
        saved = Qwen2_5_VLForConditionalGeneration.from_pretrained(
            resume_from_checkpoint, dtype=self.model.dtype
        )
        self.model.load_state_dict(saved.state_dict())

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            set_learning_rate(self.lr_scheduler, self.args.learning_rate)

    def check_weights(self) -> None:
        """Raises InputError where a trained weight is not finite, in every process alike."""
        shards = [
            getattr(p, "ds_tensor", p).detach() for p in self.model.parameters() if p.requires_grad
        ]
        bad = torch.tensor(
            [float(any(not bool(shard.isfinite().all()) for shard in shards))],
            device=self.args.device,
        )
        broken = bool(self.accelerator.gather(bad).any())
        self._stop_at(
            "a weight was not finite after it" if broken else None, self.state.global_step
        )

    def _stop_at(self, what: str | None, step: int) -> None:
        if what is None:
            return
        written = next(iter(checkpoints_in(Path(self.args.output_dir))), None)
        good = written or self.resumed_from
        how = (
            f"carry on from the last good checkpoint with 'resume_from: {good}', a lower 'learning_rate' and another 'out'"
            if good
            else "no checkpoint was written before it: start again with a lower 'learning_rate'"
        )
        self.end_with(f"Training stopped at step {step} because {what}; {how}.")

    def end_with(self, sentence: str) -> NoReturn:
        """Ends the training with an InputError; every process must call it at the same place."""
        if not self.is_world_process_zero():
            time.sleep(
                10
            )  # the main process stops at the same place; a launcher ends it with the first process that fails
            raise SystemExit(2)
        self.callback_handler.on_train_end(
            self.args, self.state, self.control
        )  # ends the progress bar before the sentence
        raise InputError(sentence)


def set_learning_rate(scheduler: LambdaLR, rate: float) -> None:
    """Makes a scheduler that was loaded with another run's peak learning rate follow its curve at
    this one."""
    scheduler.base_lrs = [rate for _ in scheduler.base_lrs]
    for group, curve in zip(scheduler.optimizer.param_groups, scheduler.lr_lambdas, strict=True):
        group["initial_lr"], group["lr"] = rate, rate * curve(scheduler.last_epoch)
    scheduler._last_lr = [group["lr"] for group in scheduler.optimizer.param_groups]


def read_state(checkpoint: Path) -> dict[str, Any]:
    """trainer_state.json of a whole checkpoint."""
    return dict(json.loads((checkpoint / "trainer_state.json").read_text()))


def check_processes(trainer: Trainer) -> None:
    """Raises InputError where the launcher started several processes that do not train together."""
    started, together = int(os.environ.get("WORLD_SIZE", "1")), trainer.accelerator.num_processes
    if started != together:
        raise InputError(
            f"{started} processes were started but {together} train together; check the launcher and its environment."
        )


def lora(rank: int) -> LoraConfig | None:
    """LoRA on every linear layer of the language model, α = 2·rank; None for rank 0, which trains
    all weights."""
    if rank == 0:
        return None
    modules = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
    return LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=modules, task_type="CAUSAL_LM")


def merged(
    base: str, adapter: Path, dtype: str
) -> tuple[Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor]:
    """The base with the adapter in its weights, and the base's processor."""
    model, processor = load(base, dtype)
    return PeftModel.from_pretrained(model, adapter).merge_and_unload(), processor


def figures(log_history: Sequence[Mapping[str, Any]]) -> dict[str, int | float]:
    """Steps, seconds and the last logged values of a training, from its log."""
    lines = [line for line in log_history if "loss" in line]
    if not lines:
        return {}
    last = {key: line[key] for line in lines for key in LAST_LOGGED if line.get(key) is not None}
    ended = {"steps": lines[-1]["step"], "seconds": lines[-1]["seconds"]}
    return {**ended, **{key: float(f"{last[key]:.4g}") for key in LAST_LOGGED if key in last}}


def origin(
    stage: str,
    config: TrainingStage,
    rows: dict[str, int],
    processes: int,
    log: Sequence[Mapping[str, Any]],
) -> Origin:
    """Where a checkpoint of this training comes from."""
    return Origin(
        stage=stage, config=config.model_dump(mode="json"), base=config.base,
        base_fingerprint=fingerprint_of(Path(config.base)) if Path(config.base).exists() else None,
        data_fingerprint=fingerprint_of(config.data), rows=rows, seed=config.seed, processes=processes, training=figures(log),
    )  # fmt: skip


def finish(
    stage: str,
    trainer: Watched,
    processor: Qwen2_5_VLProcessor,
    config: TrainingStage,
    style: Style,
    out: Path,
    rows: dict[str, int],
) -> dict[str, int | float]:
    """Leaves out/model, whole and merged, and under LoRA out/adapter; the training's figures. Every
    process must call it."""
    trainer.check_weights()
    model = trainer.accelerator.unwrap_model(trainer.model)
    if is_deepspeed_zero3_enabled():
        weights = trainer.accelerator.get_state_dict(
            trainer.model_wrapped
        )  # from all processes, for the main one
        # else a model that the main process loads would be spread over all of them again
        unset_hf_deepspeed_config()
    else:
        weights = model.state_dict()
    if trainer.is_world_process_zero():
        made_by = origin(
            stage, config, rows, trainer.accelerator.num_processes, trainer.state.log_history
        )
        if isinstance(model, PeftModel):
            model.save_pretrained(out / "adapter", state_dict=weights, save_embedding_layers=False)
            model, weights = merged(config.base, out / "adapter", config.dtype)[0], None
        with folder_at_once(out / "model") as folder:
            save(model, processor, folder, style, made_by, weights)
    trainer.accelerator.wait_for_everyone()
    return figures(trainer.state.log_history)
