"""The config of SFT, and the keys that it shares with GCPO; read without torch."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from rrm.config import Config
from rrm.prompts import Style
from rrm.runtime.trackers import ReportTo


class TrainingStage(Config):
    """Keys that SFT and GCPO share."""

    data: Path
    """Folder of the data stage: sft.parquet, preferences.parquet and images/."""
    base: str
    """Checkpoint folder or hub id to start from."""
    out: Path
    """Folder of the training; the model is in out/model."""
    steps: int
    """Optimiser updates."""
    learning_rate: float
    """The highest, after the warm-up."""
    seed: int = 0
    """Of weights that are new, of order and sampling."""
    lora_rank: int = 0
    """0 trains all weights."""
    dtype: str = "float32"
    """float32 or bfloat16: of the weights."""
    deepspeed: str | None = None
    """DeepSpeed config, such as launch/zero2.json; needs a launcher."""
    gradient_checkpointing: bool = False
    """Saves memory, costs a second forward."""
    report_to: ReportTo = "none"
    """Tracker of the metrics, besides out/metrics.jsonl: none, trackio, tensorboard (files in
    out/tensorboard) or wandb."""
    fast: bool = True
    """false: the plain path of trl and transformers, with the same losses and gradients but slower
    (rrm/verifier/fast)."""
    keep: int = Field(default=2, ge=1)
    """Checkpoints kept: where a run goes wrong, the last one may lie too near to it."""
    explosion: float | None = 100.0
    """The run stops at a gradient norm (in SFT also a loss) of more than this many times the median
    of the last 50 logged; None: only at one that is not finite."""
    resume_from: Path | None = None
    """A checkpoint of another run to carry on from, optimiser state and step included; the learning
    rate is this config's."""


class SFTStage(TrainingStage):
    """Keys of an SFT config."""

    style: Style = "full"
    """Prompt style that the verifier is trained in, and asked in from then on."""
    batch: int
    """Rows per forward and process."""
    accumulate: int = 1
    """Forwards per update."""
    warmup: float = 0.05
    """Share of the updates over which the learning rate rises; it then falls along a cosine."""
    save_every: int = 100
    """Updates between checkpoints."""
    log_every: int = 10
    """Updates between logs."""
