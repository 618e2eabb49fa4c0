"""DiffusionNFT (arXiv 2509.16117), as Edit-R1 trains editors with it (arXiv 2510.16888), as pure
functions.

Shapes: B samples, N tokens of C channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

SMALLEST_WEIGHT = 1e-5


@dataclass(frozen=True)
class NFTLoss:
    """The loss (B,), its two parts (B,), and how far v has gone from v_old: mean squared difference
    (B,)."""

    total: Tensor
    policy: Tensor
    reference: Tensor
    from_old: Tensor


def optimality(advantages: Tensor, a_max: float) -> Tensor:
    """r = clip(clip(A, ±A_max)/(2·A_max) + ½, 0, 1): the probability that a sample is a good one,
    (B,)."""
    return (advantages.clamp(-a_max, a_max) / (2 * a_max) + 0.5).clamp(0, 1)


def normalised_error(x_hat: Tensor, x0: Tensor) -> Tensor:
    """mean (x̂ − x0)² / w with w = stopgrad(mean |x̂ − x0|), at least 1e-5 and in float64: (B,)."""
    weight = (x_hat.double() - x0.double()).abs().mean((1, 2)).clamp(min=SMALLEST_WEIGHT).detach()
    return ((x_hat - x0) ** 2).mean((1, 2)) / weight


def nft_loss(
    v: Tensor,
    v_old: Tensor,
    v_ref: Tensor,
    x_t: Tensor,
    x0: Tensor,
    t: Tensor,
    r: Tensor,
    *,
    beta: float,
    a_max: float,
    ref_weight: float,
) -> NFTLoss:
    """The loss of B samples x0 (B, N, C) with velocities (B, N, C) at x_t, times t (B,) and
    optimality r (B,).

        v⁺ = β·v + (1−β)·v_old        v⁻ = (1+β)·v_old − β·v        x̂± = x_t − t·v±
        loss = (A_max/β)·[r·L⁺ + (1−r)·L⁻] + λ_ref·mean (v − v_ref)²

    At v = v_old its gradient in v is clip(A, ±A_max)·∇L(v), while its value does not depend on the
    reward: plot rewards and `from_old`, not this loss.
    """
    time = t[:, None, None]
    positive = normalised_error(x_t - time * (beta * v + (1 - beta) * v_old), x0)
    negative = normalised_error(x_t - time * ((1 + beta) * v_old - beta * v), x0)
    policy = a_max / beta * (r * positive + (1 - r) * negative)
    reference = ((v - v_ref) ** 2).mean((1, 2))
    from_old = ((v - v_old).detach() ** 2).mean((1, 2))
    return NFTLoss(policy + ref_weight * reference, policy.detach(), reference.detach(), from_old)


def old_decay(step: int, slope: float = 0.001, most: float = 0.5) -> float:
    """d = min(slope·step, most), in old ← d·old + (1−d)·new after each epoch."""
    return min(slope * step, most)


def average_decay(step: int, most: float = 0.9) -> float:
    """d = min((1+s)/(10+s), most), in the moving average of the weights that are evaluated."""
    return min((1 + step) / (10 + step), most)


@torch.no_grad()
def blend(target: torch.nn.Module, newer: torch.nn.Module, decay: float) -> None:
    """target ← decay·target + (1−decay)·newer, parameter by parameter, in place."""
    for ours, theirs in zip(target.parameters(), newer.parameters(), strict=True):
        ours.copy_(decay * ours + (1 - decay) * theirs)
