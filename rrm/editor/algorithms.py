"""The two algorithms as the loop sees them: how samples are made, and which losses train on them."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from rrm.editor.flow import (
    SDEStep,
    clipped_loss,
    log_density,
    mean_kl,
    noised,
    sample_sde,
    sde_mean,
    time_schedule,
)
from rrm.editor.nft import nft_loss, old_decay, optimality
from rrm.editor.policy import Policy
from rrm.editor.settings import EditorConfig


class ParameterSets:
    """The editor's named weights: `current` is trained, `old` makes the samples, `ref` is the base,
    `average` is delivered."""

    TRAINED = ("current", "old", "average")

    def __init__(self, base: Policy):
        self.current = copy.deepcopy(base).train()
        self.old, self.ref, self.average = (
            copy.deepcopy(base).eval().requires_grad_(False) for _ in range(3)
        )


@dataclass(frozen=True)
class Rollout:
    """B samples: x0, source (B, N, C), text_ids (B, L), and for Flow-GRPO the stochastic steps that
    led to x0."""

    x0: Tensor
    source: Tensor
    text_ids: Tensor
    sde_steps: list[SDEStep]


@dataclass(frozen=True)
class Term:
    """One part of a step's loss: per-sample values (b,) to average and differentiate, and
    per-sample numbers to log."""

    loss: Tensor
    log: dict[str, Tensor]


class Algorithm(Protocol):
    """What the loop needs to know of an algorithm."""

    terms_per_sample: int

    def rollout(
        self, model: Policy, source: Tensor, text_ids: Tensor, rng: torch.Generator
    ) -> Rollout:
        """Samples of `model`, without gradients."""

    def keeps(self, advantages: Tensor) -> Tensor:
        """Which of the advantages (b,) are worth a forward pass, (b,) bool."""

    def terms(
        self, sets: ParameterSets, rollout: Rollout, part: Tensor, a: Tensor, rng: torch.Generator
    ) -> Iterator[Term]:
        """`terms_per_sample` losses on the samples with indices `part` (b,) and advantages `a`
        (b,)."""

    def old_decay(self, step: int) -> float:
        """d in old ← d·old + (1−d)·current after an epoch that ended with optimiser step number
        `step`."""


class NFT:
    """DiffusionNFT (arXiv 2509.16117): forward-process training on the samples, contrasted by their
    optimality."""

    def __init__(self, config: EditorConfig):
        self.config = config
        self.times = time_schedule(config.sampling_steps)
        self.terms_per_sample = config.timesteps

    def rollout(
        self, model: Policy, source: Tensor, text_ids: Tensor, rng: torch.Generator
    ) -> Rollout:
        """ODE samples; only x0 matters."""
        return Rollout(
            model.sample(source, text_ids, rng, self.config.sampling_steps), source, text_ids, []
        )

    def keeps(self, advantages: Tensor) -> Tensor:
        """All: at advantage 0 the loss still holds v near v_old."""
        return torch.ones_like(advantages, dtype=torch.bool)

    def terms(
        self, sets: ParameterSets, rollout: Rollout, part: Tensor, a: Tensor, rng: torch.Generator
    ) -> Iterator[Term]:
        """The loss at `timesteps` of the rollout's own times per sample, in an order drawn for each
        sample."""
        x0, source, text_ids = rollout.x0[part], rollout.source[part], rollout.text_ids[part]
        own_times = torch.tensor(self.times[:-1])
        order = torch.rand(len(part), len(own_times), generator=rng).argsort(1)
        for chosen in order[:, : self.config.timesteps].T:
            t = own_times[chosen]
            x_t = noised(x0, torch.randn(x0.shape, generator=rng), t)
            with torch.no_grad():
                v_old = sets.old.velocity(x_t, t, source, text_ids)
                v_ref = sets.ref.velocity(x_t, t, source, text_ids)
            loss = nft_loss(
                sets.current.velocity(x_t, t, source, text_ids),
                *(v_old, v_ref, x_t, x0, t, optimality(a, self.config.a_max)),
                beta=self.config.nft_beta,
                a_max=self.config.a_max,
                ref_weight=self.config.ref_weight,
            )
            yield Term(loss.total, {"from_old": loss.from_old, "from_ref": loss.reference})

    def old_decay(self, step: int) -> float:
        """min(0.001·step, 0.5)."""
        return old_decay(step)


class GRPO:
    """Flow-GRPO (arXiv 2505.05470): policy gradient on the transitions of an SDE with the flow's
    marginals."""

    def __init__(self, config: EditorConfig):
        self.config = config
        self.times = time_schedule(config.sampling_steps)
        self.terms_per_sample = config.sde_steps

    def rollout(
        self, model: Policy, source: Tensor, text_ids: Tensor, rng: torch.Generator
    ) -> Rollout:
        """Samples whose first `sde_steps` intervals are stochastic, with their log-densities."""
        noise = torch.randn(source.shape, generator=rng)
        with torch.no_grad():
            x0, steps = sample_sde(
                lambda x, t: model.velocity(x, t, source, text_ids),
                *(noise, self.times, self.config.sde_steps, self.config.noise, rng),
            )
        return Rollout(x0, source, text_ids, steps)

    def keeps(self, advantages: Tensor) -> Tensor:
        """Those that are not 0."""
        return advantages != 0

    def terms(
        self, sets: ParameterSets, rollout: Rollout, part: Tensor, a: Tensor, rng: torch.Generator
    ) -> Iterator[Term]:
        """The clipped loss and the KL from the base at each stochastic step."""
        source, text_ids = rollout.source[part], rollout.text_ids[part]
        for step in rollout.sde_steps:
            x, t = step.x[part], torch.full((len(part),), step.s)
            mean = sde_mean(
                x, sets.current.velocity(x, t, source, text_ids), step.s, step.s_next, step.sd
            )
            with torch.no_grad():
                mean_ref = sde_mean(
                    x, sets.ref.velocity(x, t, source, text_ids), step.s, step.s_next, step.sd
                )
            logp = log_density(step.x_next[part], mean, step.sd, step.s_next - step.s)
            policy, ratio = clipped_loss(
                logp, step.logp[part], a, self.config.clip_range, self.config.a_max
            )
            kl = mean_kl(mean, mean_ref, step.sd)
            ratio = ratio.detach()
            outside = ((ratio - 1).abs() > self.config.clip_range).float()
            yield Term(
                policy + self.config.kl_weight * kl,
                {"kl": kl.detach(), "ratio": ratio, "clip_fraction": outside},
            )

    def old_decay(self, step: int) -> float:
        """0: every epoch's samples come from the current weights."""
        return 0.0


def algorithm_of(config: EditorConfig) -> Algorithm:
    """The algorithm that the config names."""
    return NFT(config) if config.algorithm == "nft" else GRPO(config)
