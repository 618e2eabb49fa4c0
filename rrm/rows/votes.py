"""Several votes on one pair → one verdict; and how far raters agree."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import krippendorff
import numpy as np

from rrm.records import Label

LABELS: tuple[Label, ...] = ("a", "b", "same")
SWAPPED: Mapping[Label, Label] = {"a": "b", "b": "a", "same": "same"}


@dataclass(frozen=True)
class Vote:
    """What one row says of a pair, who says so where that is known, and where it stands."""

    label: Label
    rater: str | None
    place: str


@dataclass(frozen=True)
class Verdict:
    """What the votes on a pair come to: the label (None: no vote is left) and the share of the
    counted votes that say so.

    `named` counts the named raters' labels; `apart` are the votes that are left out, each with the
    reason.
    """

    label: Label | None
    share: float
    named: Mapping[Label, int]
    apart: tuple[tuple[Vote, str], ...]

    @property
    def contradicted(self) -> bool:
        """Whether votes say the opposite of one another."""
        return bool(self.apart)


def settled(votes: Sequence[Vote]) -> Verdict:
    """One verdict: what most votes say, "same" where two labels have the most; a vote for the other
    side is left out.

    A named rater has one vote, however often it stands there, and none where it says different
    things of one pair.
    """
    own: defaultdict[str, list[Vote]] = defaultdict(list)
    for vote in votes:
        if vote.rater is not None:
            own[vote.rater].append(vote)
    torn = {rater for rater, given in own.items() if len({vote.label for vote in given}) > 1}
    apart = [
        (vote, f"rater '{vote.rater}' says different things of this pair")
        for vote in votes
        if vote.rater in torn
    ]
    named = Counter(given[0].label for rater, given in own.items() if rater not in torn)
    counts = named + Counter(vote.label for vote in votes if vote.rater is None)
    if not counts:
        return Verdict(None, 0.0, named, tuple(apart))
    most = max(counts.values())
    leading = [label for label in LABELS if counts[label] == most]
    label: Label = leading[0] if len(leading) == 1 else "same"
    if counts["a"] and counts["b"]:
        told = ", ".join(f"{counts[name]} {name}" for name in LABELS if counts[name])
        reason = f"other votes on this pair say the opposite ({told}): it counts as {label}"
        apart += [
            (vote, reason)
            for vote in votes
            if vote.rater not in torn and vote.label not in (label, "same")
        ]
    return Verdict(label, counts[label] / counts.total(), named, tuple(apart))


class Ballot:
    """The votes on all pairs of a set, counted pair by pair."""

    def __init__(self) -> None:
        self.votes, self.pairs = Counter[Label](), Counter[Label]()
        self.raters: set[str] = set()
        self.compared: list[Mapping[Label, int]] = []
        self.contradicted = self.apart = 0
        self.shares: Counter[float] = Counter()

    def settle(self, votes: Sequence[Vote]) -> Verdict:
        """The verdict on one more pair."""
        verdict = settled(votes)
        self.votes.update(vote.label for vote in votes)
        self.raters |= {vote.rater for vote in votes if vote.rater is not None}
        if len(votes) > 1:
            self.shares[round(verdict.share, 2)] += 1
        self.contradicted += verdict.contradicted
        self.apart += len(verdict.apart)
        if verdict.label is not None:
            self.pairs[verdict.label] += 1
        if sum(verdict.named.values()) > 1:
            self.compared.append(verdict.named)
        return verdict

    def rows(self) -> dict[str, Any]:
        """What is told of them: votes and pairs by label, how many pairs were voted on several
        times (by the share of votes that say what counts) or contradicted, and how far named raters
        agree (Krippendorff's alpha over `pairs_compared`)."""
        return {
            "votes": {label: self.votes[label] for label in LABELS},
            "pairs": {label: self.pairs[label] for label in LABELS},
            "voted_several_times": self.shares.total(),
            "shares": {f"{share:g}": count for share, count in sorted(self.shares.items())},
            "contradicted": self.contradicted,
            "votes_set_apart": self.apart,
            "raters": len(self.raters),
            "alpha": agreement(self.compared),
            "pairs_compared": len(self.compared),
        }


def agreement(counts: Sequence[Mapping[Label, int]]) -> float | None:
    """Krippendorff's alpha (nominal) of the raters' labels, from how often each label was given to
    each pair: 1 for perfect agreement, 0 for what chance gives. None where no pair has two raters,
    or all say the same of everything."""
    table = np.array(
        [[found.get(label, 0) for label in LABELS] for found in counts if sum(found.values()) > 1]
    )
    if not len(table) or np.count_nonzero(table.sum(axis=0)) < 2:
        return None
    alpha = float(krippendorff.alpha(value_counts=table, level_of_measurement="nominal"))
    return round(alpha, 4) if math.isfinite(alpha) else None
