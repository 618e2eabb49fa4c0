"""Rectified flow as pure functions: noising, ODE and SDE steps, and the Flow-GRPO loss (arXiv
2505.05470).

t runs from 1 (noise) to 0 (image): x_t = (1−t)·x0 + t·ε, velocity v = ε − x0, x̂0 = x_t − t·v.
Shapes: B samples, N tokens of C channels; a time is a float or a tensor that broadcasts as (B, 1,
1).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

VelocityFn = Callable[[Tensor, Tensor], Tensor]
"""(x_t (B, N, C), t (B,)) → velocity (B, N, C)."""


def time_schedule(steps: int) -> list[float]:
    """`steps` + 1 times, evenly from 1 to 0."""
    return [1 - index / steps for index in range(steps + 1)]


def noised(x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """x_t = (1−t)·x0 + t·ε for t (B,)."""
    t = t[:, None, None]
    return (1 - t) * x0 + t * noise


def velocity_target(x0: Tensor, noise: Tensor) -> Tensor:
    """v = ε − x0, what flow matching regresses on."""
    return noise - x0


def euler_step(x: Tensor, v: Tensor, s: float, s_next: float) -> Tensor:
    """x at time s_next along the ODE dx/dt = v."""
    return x + (s_next - s) * v


def sample_ode(velocity: VelocityFn, noise: Tensor, times: Sequence[float]) -> Tensor:
    """x0 (B, N, C) from noise (B, N, C) by Euler steps through `times`."""
    x = noise
    for s, s_next in pairwise(times):
        x = euler_step(x, velocity(x, x.new_full((len(x),), s)), s, s_next)
    return x


def sde_deviation(s: float, first_below_one: float, noise_level: float) -> float:
    """sd = noise_level·sqrt(s/(1−s)); at s = 1 the schedule's next time stands in the denominator."""
    return noise_level * math.sqrt(s / (1 - (first_below_one if s == 1 else s)))


def sde_mean(x: Tensor, v: Tensor, s: float, s_next: float, sd: float) -> Tensor:
    """x(1 + sd²·dt/(2s)) + v(1 + sd²(1−s)/(2s))·dt, with dt = s_next − s < 0."""
    dt = s_next - s
    return x * (1 + sd**2 * dt / (2 * s)) + v * (1 + sd**2 * (1 - s) / (2 * s)) * dt


def log_density(x_next: Tensor, mean: Tensor, sd: float, dt: float) -> Tensor:
    """Mean over dimensions of the Gaussian log-density of x_next under (mean, sd²·(−dt)): (B,)."""
    variance = sd**2 * -dt
    squared = (x_next.float() - mean.float()) ** 2
    return (-squared / (2 * variance)).mean((1, 2)) - 0.5 * math.log(2 * math.pi * variance)


@dataclass(frozen=True)
class SDEStep:
    """One stochastic step: from x at time s to x_next at s_next, and the log-density (B,) of having
    gone there."""

    s: float
    s_next: float
    sd: float
    x: Tensor
    x_next: Tensor
    logp: Tensor


def sde_step(x: Tensor, v: Tensor, noise: Tensor, s: float, s_next: float, sd: float) -> SDEStep:
    """x' = mean + sd·sqrt(−dt)·z.

    x' is rounded to x's dtype before its log-density is taken, so that the stored x' has exactly
    that density again and the ratio of the first pass is exactly 1.
    """
    mean = sde_mean(x.float(), v.float(), s, s_next, sd)
    x_next = (mean + sd * math.sqrt(s - s_next) * noise.float()).to(x.dtype)
    return SDEStep(s, s_next, sd, x, x_next, log_density(x_next, mean, sd, s_next - s))


def sample_sde(
    velocity: VelocityFn,
    noise: Tensor,
    times: Sequence[float],
    sde_steps: int,
    noise_level: float,
    rng: torch.Generator,
) -> tuple[Tensor, list[SDEStep]]:
    """x0 (B, N, C) and the stochastic steps: the first `sde_steps` intervals by SDE, the rest by
    ODE."""
    x, taken = noise, []
    for index, (s, s_next) in enumerate(pairwise(times)):
        v = velocity(x, x.new_full((len(x),), s))
        if index < sde_steps:
            z = torch.randn(x.shape, generator=rng)
            taken.append(sde_step(x, v, z, s, s_next, sde_deviation(s, times[1], noise_level)))
            x = taken[-1].x_next
        else:
            x = euler_step(x, v, s, s_next)
    return x, taken


def mean_kl(mean: Tensor, mean_ref: Tensor, sd: float) -> Tensor:
    """(mean − mean_ref)²/(2·sd²), averaged over dimensions: (B,). As published, without dt."""
    return ((mean.float() - mean_ref.float()) ** 2).mean((1, 2)) / (2 * sd**2)


def clipped_loss(
    logp: Tensor, logp_old: Tensor, advantages: Tensor, clip: float, a_max: float
) -> tuple[Tensor, Tensor]:
    """(loss (B,), ratio (B,)): max(−A·ratio, −A·clip(ratio, 1−c, 1+c)) with A clipped to ±a_max."""
    ratio = torch.exp(logp - logp_old)
    a = advantages.clamp(-a_max, a_max)
    return torch.maximum(-a * ratio, -a * ratio.clamp(1 - clip, 1 + clip)), ratio
