"""The config of GCPO."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from rrm.verifier.config import TrainingStage

GradientTokens = Literal["all", "score"]
KLTokens = Literal["all", "thought"]


class GCPOStage(TrainingStage):
    """Keys of a GCPO config; `steps` counts updates. `gradient_tokens` and `kl_weight` depart from
    the paper and are off by default."""

    renamed: ClassVar = {
        "pairs": "pairs_per_step",
        "draw_pairs": "pair_count",
        "traces": "traces_per_image",
        "epsilon": "clip_range",
        "tokens": "gradient_tokens",
        "beta": "kl_weight",
    }

    pairs_per_step: int = Field(ge=1)
    """Pairs per update, over all processes."""
    pair_count: int | None = None
    """How many pairs of the data are used, drawn by `seed`; None: all of them."""
    traces_per_image: int = Field(ge=2)
    """N, traces per image."""
    updates: int = Field(default=1, ge=1)
    """Updates on one batch of rollouts; the clip acts from the second one on."""
    micro_batch: int | None = None
    """Traces per forward and process; the accumulation follows. None: all of a process's share at
    once."""
    adam_beta2: float = 0.99
    """AdamW's second decay rate."""
    warmup: int = 5
    """Updates over which the learning rate rises from 0; it then stays. (The first of them moves
    nothing.)"""
    clip_range: float = Field(default=0.2, gt=0)
    """The clip: ratios to the sampling policy count within 1 ± clip_range."""
    temperature: float = Field(default=1.0, gt=0)
    """Of sampling; ratios, KL and entropy are those of the policy at this temperature, too."""
    gradient_tokens: GradientTokens = "all"
    """A departure from the paper if "score": only the tokens of the final score carry the policy
    gradient. A token's weight stays what it is in the paper's loss, 1/L of its trace's L tokens. A
    trace without a final score then carries none."""
    kl_weight: float = Field(default=0.0, ge=0)
    """A departure from the paper if above 0: weight of the KL to the SFT model (`base`), per token
    and averaged like the loss, over all L tokens of a trace whatever `kl_tokens` selects. Needs a
    second copy of the model in memory, unless `lora_rank` is set."""
    kl_tokens: KLTokens = "thought"
    """Where the KL is charged when `kl_weight` is above 0: on the thought (every token before those
    of the final score; the whole trace where there is none), or on all tokens."""
    max_tokens: int = 1024
    """Of a trace."""
    save_every: int = 20
    """Updates between checkpoints; a multiple of `updates`, since rollouts are not saved."""
    log_every: int = 1
    """Updates between logs."""
    vllm_server: str | None = None
    """Base URL of a `trl vllm-serve` for the rollouts; None generates in this process. With a
    server each token's gain is weighted by trl's importance ratio between the two samplers."""
