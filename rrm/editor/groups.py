"""Groups of samples of one task: their identity, advantages, and the low-variance filter (arXiv
2510.16888)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

FilterRule = Literal["paper", "code", "none"]
NormalizeOver = Literal["group", "epoch"]
EPSILON = 1e-4


def group_id(source_digest: str, instruction: str, requirement: str | None) -> str:
    """What samples must share to be compared: source image, instruction and requirement; never the
    words alone."""
    return hashlib.sha256(
        json.dumps([source_digest, instruction, requirement]).encode()
    ).hexdigest()[:16]


@dataclass(frozen=True)
class Advantages:
    """Advantages (B,), NaN where a sample is left out, and what was left out why."""

    values: np.ndarray
    missing_rewards: int
    lone_samples: int
    groups: int
    dropped_high_and_flat: int
    dropped_flat: int
    dropped_high: int

    @property
    def kept(self) -> np.ndarray:
        """Which samples have an advantage, (B,) bool."""
        return ~np.isnan(self.values)


def drop_reason(rewards: np.ndarray, rule: FilterRule, high: float, flat: float) -> str | None:
    """Why the filter drops a group with these rewards (all present); None where it keeps it.

    "paper" drops what is both high and flat: nothing is left to learn, and the noise would be
    normalised into a signal. "code", the published program, keeps only std > flat and mean < high;
    of what it drops, "flat" is named first.
    """
    mean, std = rewards.mean(), rewards.std()
    if rule == "paper":
        return "high_and_flat" if mean > high and std < flat else None
    if rule == "code" and std <= flat:
        return "flat"
    return "high" if rule == "code" and mean >= high else None


def group_advantages(
    rewards: Sequence[float | None],
    groups: Sequence[str],
    *,
    normalize_over: NormalizeOver = "epoch",
    rule: FilterRule = "paper",
    high: float = 0.9,
    flat: float = 0.05,
) -> Advantages:
    """A = (R − mean of its group) / (std + 1e-4), std of the group or of all rewards of the epoch
    (both uncorrected).

    A reward of None, or one that is not finite, is missing: it has no part in any mean or std and
    its sample no advantage. A sample that is then alone in its group cannot be compared, and is
    left out too. The epoch's std is taken before the filter.
    """
    table = np.array([np.nan if reward is None else reward for reward in rewards], np.float64)
    present = np.isfinite(table)
    epoch_std = float(table[present].std()) if present.any() else 0.0
    names = np.array(groups)
    values = np.full(len(table), np.nan)
    dropped = {"high_and_flat": 0, "flat": 0, "high": 0}
    lone = 0
    unique = list(dict.fromkeys(groups))
    for name in unique:
        members = (names == name) & present
        if members.sum() < 2:
            lone += int(members.sum())
            continue
        own = table[members]
        reason = drop_reason(own, rule, high, flat)
        if reason is not None:
            dropped[reason] += 1
            continue
        values[members] = (own - own.mean()) / (
            (own.std() if normalize_over == "group" else epoch_std) + EPSILON
        )
    return Advantages(
        values,
        missing_rewards=int((~present).sum()),
        lone_samples=lone,
        groups=len(unique),
        dropped_high_and_flat=dropped["high_and_flat"],
        dropped_flat=dropped["flat"],
        dropped_high=dropped["high"],
    )
