"""GCPO's mathematics (Group Contrastive Preference Optimization, arXiv 2604.27505), as pure
functions.

Shapes: P pairs, 2 images of a pair (0 = preferred, 1 = other), G traces per image, B traces, T
tokens. A trace without a readable score has the score NaN: every comparison with it is false, on
both sides, and its own ratio is 0.

The paper's loss is −mean_over_traces(clipped_objective(…)): per token, averaged over a trace's
tokens, over the N traces, over both groups (1/2N) and over the pairs. The trainer may add
β·kl_estimate(…) per token before averaging.
"""

from __future__ import annotations

import torch


def win_loss_ratios(scores_P2G: torch.Tensor) -> torch.Tensor:
    """Win ratios of the preferred image's traces and loss ratios of the other's, (P, 2, G) in 0…1.

    r^w_j = (1/N) Σ_k 1[τ^w_j > τ^l_k] and r^l_j = (1/N) Σ_k 1[τ^l_j < τ^w_k]. Strict, so ties earn
    nothing; the denominator is N whatever is unreadable.
    """
    if scores_P2G.ndim != 3 or scores_P2G.shape[1] != 2:
        raise ValueError(f"scores must be (pairs, 2, traces), not {tuple(scores_P2G.shape)}")
    preferred, other = scores_P2G[:, 0, :, None], scores_P2G[:, 1, None, :]
    wins_PGG = (preferred > other).to(torch.float32)  # False wherever either side is NaN
    return torch.stack([wins_PGG.mean(2), wins_PGG.mean(1)], dim=1)


def tie_rate(scores_P2G: torch.Tensor) -> torch.Tensor:
    """Share of the P·G·G comparisons of two readable scores that are equal; NaN where there is
    none."""
    preferred, other = scores_P2G[:, 0, :, None], scores_P2G[:, 1, None, :]
    readable = ~(preferred.isnan() | other.isnan())
    return ((preferred == other) & readable).sum() / readable.sum()


def group_advantages(rewards_XG: torch.Tensor) -> torch.Tensor:
    """A_j = r_j − mean_j r over the last axis; no division by a standard deviation."""
    return rewards_XG - rewards_XG.mean(-1, keepdim=True)


def zero_variance_groups(rewards_XG: torch.Tensor) -> torch.Tensor:
    """Share of the groups (last axis) whose rewards are all equal: they move nothing."""
    return (rewards_XG.amax(-1) == rewards_XG.amin(-1)).to(torch.float32).mean()


def weighted_advantage(advantages_B: torch.Tensor, lengths_B: torch.Tensor) -> torch.Tensor:
    """(1/G) Σ A_i / L_i with L_i the trace's length in tokens: above 0 when good traces are the
    shorter ones."""
    return (advantages_B / lengths_B.clamp(min=1)).mean()


def clipped_objective(
    ratio_BT: torch.Tensor, advantages_B: torch.Tensor, epsilon: float
) -> torch.Tensor:
    """min(ρA, clip(ρ, 1 ± ε)·A) per token, (B, T), with ρ = π(token) / π_sampling(token)."""
    advantage = advantages_B[:, None]
    return torch.minimum(ratio_BT * advantage, ratio_BT.clamp(1 - epsilon, 1 + epsilon) * advantage)


def clipped_tokens(
    ratio_BT: torch.Tensor, advantages_B: torch.Tensor, epsilon: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Where the clip takes the gradient away, (B, T) each: ρ below 1 − ε with A < 0 (low), ρ above
    1 + ε with A > 0 (high)."""
    advantage = advantages_B[:, None]
    return (ratio_BT < 1 - epsilon) & (advantage < 0), (ratio_BT > 1 + epsilon) & (advantage > 0)


def kl_estimate(logps_BT: torch.Tensor, reference_logps_BT: torch.Tensor) -> torch.Tensor:
    """exp(d) − d − 1 with d = log π_ref − log π, (B, T): GRPO's estimate of KL(π ‖ π_ref) on the
    sampled tokens, never below 0."""
    difference = reference_logps_BT - logps_BT
    return difference.exp() - difference - 1


def mean_over_traces(values_BT: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
    """(1/B) Σ_i (1/L_i) Σ_t over the L_i tokens that the mask leaves of trace i."""
    return ((values_BT * mask_BT).sum(1) / mask_BT.sum(1).clamp(min=1)).mean()


def zero_advantage(advantages_B: torch.Tensor) -> torch.Tensor:
    """Whether each advantage is 0 but for rounding, (B,): advantages are multiples of 1/N², far
    above 1e-6."""
    return advantages_B.abs() < 1e-6


def reward_metrics(
    scores_P2G: torch.Tensor,
    rewards_P2G: torch.Tensor,
    advantages_P2G: torch.Tensor,
    lengths_B: torch.Tensor,
) -> dict[str, torch.Tensor]:
    """What is logged of a batch of rollouts; scores of unreadable traces are NaN."""
    preferred, other = scores_P2G.unbind(1)
    return {
        "win_ratio": rewards_P2G[:, 0].mean(), "loss_ratio": rewards_P2G[:, 1].mean(), "tie_rate": tie_rate(scores_P2G),
        "unreadable_rate": scores_P2G.isnan().float().mean(), "score_preferred": preferred.nanmean(), "score_other": other.nanmean(),
        "weighted_advantage": weighted_advantage(advantages_P2G.flatten(), lengths_B),
        "zero_variance_groups": zero_variance_groups(rewards_P2G),
    }  # fmt: skip
