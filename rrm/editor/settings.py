"""The config of editor RL."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from rrm.config import Config
from rrm.editor.groups import FilterRule, NormalizeOver
from rrm.errors import InputError
from rrm.runtime.trackers import ReportTo

NFT_ONLY = ("nft_beta", "ref_weight", "timesteps")
GRPO_ONLY = ("noise", "sde_steps", "clip_range", "kl_weight")


class EditorConfig(Config):
    """What one run of editor RL is made of; settings of the algorithm that is not chosen are
    refused.

    The numbers are those of the sandbox; the global batch is `groups` × `group_size` samples,
    whatever it runs on.
    """

    renamed: ClassVar = {
        "steps": "sampling_steps",
        "lr": "learning_rate",
        "checkpoint_every": "save_every",
        "spread": "normalize_over",
        "beta": "nft_beta",
        "clip": "clip_range",
        "kl": "kl_weight",
    }

    out: Path
    """Folder of the training."""
    tasks: Path
    """Folder in the Edit-R1 format; its train split is used."""
    principles: Path | None = None
    """Rows with each task's principles; None: as far as the tasks' truth is known, from there."""
    base: Path
    """Folder of the editor to start from."""
    algorithm: Literal["nft", "grpo"]
    """nft: DiffusionNFT; grpo: Flow-GRPO."""
    reward: Literal["rrm", "truth"]
    """rrm: a reward model's score; truth: the true reward, where it is known."""
    rrm: str | None = None
    """A checkpoint folder, or any reward of `rrm.reward`: `server:http://127.0.0.1:8000/v1`,
    `rrm:FOLDER?mode=expectation`."""

    seed: int = 0
    """Of tasks, noise and order."""
    epochs: int = Field(ge=1)
    """Rounds of sampling and training."""
    groups: int = Field(8, ge=1)
    """Tasks per epoch."""
    group_size: int = Field(12, ge=2)
    """Samples per task."""
    sampling_steps: int = Field(6, ge=2)
    """Denoising steps of a rollout."""
    optimiser_steps: int = Field(ge=1, description="per epoch")
    learning_rate: float = Field(gt=0)
    """Of AdamW."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Gradients are clipped to this norm."""
    save_every: int = Field(6, ge=1)
    """Epochs between checkpoints."""
    report_to: ReportTo = "none"
    """Where metrics go beside metrics.jsonl; tensorboard writes into `out`/tensorboard."""

    a_max: float = Field(5.0, gt=0)
    """Advantages are clipped to ± this."""
    normalize_over: NormalizeOver = "epoch"
    """What a group's advantages are divided by: the std of the epoch's rewards, or of the group's."""
    filter: FilterRule = "paper"
    """Which groups are left out: paper (high mean and low std), code (the rule of the published code), or none."""
    filter_mean: float = 0.9
    """A group whose mean reward is above it counts as high."""
    filter_std: float = 0.05
    """A group whose std is below it counts as flat."""

    nft_beta: float = Field(1.0, gt=0)
    """DiffusionNFT: strength of the guidance between positive and negative velocity."""
    ref_weight: float = Field(1e-4, ge=0)
    """DiffusionNFT: weight of the distance to the base."""
    timesteps: int = Field(2, ge=1, description="trained per sample, of the rollout's own")

    noise: float = Field(0.7, gt=0)
    """Flow-GRPO: noise level of the SDE steps."""
    sde_steps: int = Field(4, ge=1)
    """Flow-GRPO: stochastic steps of a rollout; the others are deterministic."""
    clip_range: float = Field(1e-4, gt=0)
    """Flow-GRPO: ratios count within 1 ± this."""
    kl_weight: float = Field(0.04, ge=0)
    """Flow-GRPO: weight of the KL to the base."""

    def check(self) -> None:
        """Raises InputError for settings that contradict each other or would do nothing."""
        idle = GRPO_ONLY if self.algorithm == "nft" else NFT_ONLY
        if given := sorted(set(idle) & self.model_fields_set):
            raise InputError(
                f"'{given[0]}' does nothing with algorithm: {self.algorithm}; remove it from the config."
            )
        if (self.rrm is None) != (self.reward != "rrm"):
            raise InputError(
                f"With reward: {self.reward}, 'rrm' must {'name a model' if self.rrm is None else 'be absent'}."
            )
        if self.algorithm == "nft" and self.timesteps > self.sampling_steps:
            raise InputError(
                f"'timesteps' is {self.timesteps}, but a rollout has only {self.sampling_steps} steps."
            )
        if self.algorithm == "grpo" and self.sde_steps >= self.sampling_steps:
            raise InputError(
                f"'sde_steps' is {self.sde_steps}; with {self.sampling_steps} steps it can be {self.sampling_steps - 1} at most."
            )
