"""GCPO's mathematics (Group Contrastive Preference Optimization, arXiv 2604.27505), as pure functions.

Shapes: P pairs, 2 images of a pair (0 = preferred, 1 = other), G traces per image, T tokens. A trace without a readable score has
the score NaN: every comparison with it is false, on both sides, and its own ratio is 0.
"""

from __future__ import annotations

import torch


def win_loss_ratios(scores_P2G: torch.Tensor) -> torch.Tensor:
    """Win ratios of the preferred image's traces and loss ratios of the other's, (P, 2, G) in 0…1.

    r^w_j = (1/N) Σ_k 1[τ^w_j > τ^l_k] and r^l_j = (1/N) Σ_k 1[τ^l_j < τ^w_k]. Strict, so ties earn nothing; the denominator is N
    whatever is unreadable.
    """
    if scores_P2G.ndim != 3 or scores_P2G.shape[1] != 2:
        raise ValueError(f"scores must be (pairs, 2, traces), not {tuple(scores_P2G.shape)}")
    preferred, other = scores_P2G[:, 0, :, None], scores_P2G[:, 1, None, :]
    wins_PGG = (preferred > other).to(torch.float32)  # False wherever either side is NaN
    return torch.stack([wins_PGG.mean(2), wins_PGG.mean(1)], dim=1)


def tie_rate(scores_P2G: torch.Tensor) -> torch.Tensor:
    """Share of the P·G·G comparisons of two readable scores that are equal; NaN where there is none."""
    preferred, other = scores_P2G[:, 0, :, None], scores_P2G[:, 1, None, :]
    readable = ~(preferred.isnan() | other.isnan())
    return ((preferred == other) & readable).sum() / readable.sum()


def group_advantages(rewards_XG: torch.Tensor) -> torch.Tensor:
    """A_j = r_j − mean_j r over the last axis; no division by a standard deviation."""
    return rewards_XG - rewards_XG.mean(-1, keepdim=True)


def weighted_advantage(advantages_B: torch.Tensor, lengths_B: torch.Tensor) -> torch.Tensor:
    """(1/G) Σ A_i / L_i with L_i the trace's length in tokens: above 0 when good traces are the shorter ones."""
    return (advantages_B / lengths_B.clamp(min=1)).mean()


def clipped_loss(
    logps_BT: torch.Tensor, old_logps_BT: torch.Tensor, advantages_B: torch.Tensor, mask_BT: torch.Tensor, epsilon: float
) -> torch.Tensor:
    """The paper's loss: −min(ρA, clip(ρ, 1±ε)A) per token, averaged over each trace's tokens, then over all 2N traces.

    `train` leaves this to trl's `loss_type="grpo"` with β = 0; this is the reference that a test compares it with.
    """
    ratio = (logps_BT - old_logps_BT).exp()
    advantage = advantages_B[:, None]
    gain = torch.minimum(ratio * advantage, ratio.clamp(1 - epsilon, 1 + epsilon) * advantage)
    return -((gain * mask_BT).sum(1) / mask_BT.sum(1).clamp(min=1)).mean()
