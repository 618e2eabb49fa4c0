"""When two scores are the same, and when both are bad: thresholds fixed on validation pairs, which no result is of."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eval.index import PairIndex
from rrm.errors import InputError

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Thresholds:
    """Scores at most `margin` apart are a tie. Where two bad edits are a class of their own, those below `bad_below` are bad, and
    of the others those at most `four_margin` apart are a tie (`margin`, where it is None)."""

    margin: float = 0.0
    bad_below: float | None = None
    four_margin: float | None = None


def validation_split(pairs: Sequence[PairIndex], share: float, seed: int) -> tuple[list[PairIndex], list[PairIndex]]:
    """(validation, test): the pairs of a share of the sources, and all others; no source is on both sides.

    Which sources depends on their pixels and the seed alone. A share above 0 takes at least one source and leaves at least one.
    """
    if not 0 <= share < 1:
        raise InputError(f"A validation share of {share:g} is not possible; give one of at least 0 and below 1.")
    drawn = sorted({pair.source for pair in pairs}, key=lambda name: hashlib.sha256(f"{seed}|{name}".encode()).hexdigest())
    count = min(max(round(share * len(drawn)), 1), len(drawn) - 1) if share and drawn else 0
    held = set(drawn[:count])
    return [pair for pair in pairs if pair.source in held], [pair for pair in pairs if pair.source not in held]


def between(values: Floats) -> Floats:
    """0, the middles between neighbouring values, and the largest: one threshold for each way to part them by `<=`."""
    steps = np.unique(np.append(values, 0.0))
    return np.concatenate([[0.0], (steps[1:-1] + steps[2:]) / 2, steps[-1:]]) if len(steps) > 1 else np.zeros(1)


def known(pairs: Sequence[PairIndex], scores: Mapping[str, float | None]) -> tuple[list[PairIndex], Floats, Floats]:
    """The pairs with both scores, and the scores of a and of b. Groups of more than two edits are ranked without a margin: left out."""
    kept, first, second = [], [], []
    for pair in pairs:
        a, b = (scores.get(name) for name in pair.edit_ids)
        if pair.candidates == 2 and a is not None and b is not None:
            kept.append(pair)
            first.append(a)
            second.append(b)
    return kept, np.array(first, float), np.array(second, float)


def right_by_margin(labels: Sequence[str], a: Floats, b: Floats, margins: Floats) -> NDArray[np.bool_]:
    """Per margin (rows) and pair (columns), whether a, b or tie is what the label says; no margin makes both_bad right."""
    tied = np.abs(a - b)[None, :] <= margins[:, None]
    label = np.array(labels, dtype=object)[None, :]
    return np.where(tied, label == "tie", ((a > b)[None, :] & (label == "a")) | ((a < b)[None, :] & (label == "b")))


def pick_margin(pairs: Sequence[PairIndex], scores: Mapping[str, float | None]) -> float:
    """The tie margin with the highest accuracy over a, b and the same on these validation pairs; the smallest of several.

    A pair without a score is wrong at any margin. 0 where nothing can be learnt: no pair has both scores.
    """
    kept, a, b = known(pairs, scores)
    if not kept:
        return 0.0
    margins = between(np.abs(a - b))
    labels = ["tie" if pair.label == "both_bad" else pair.label for pair in kept]
    return float(margins[np.argmax(right_by_margin(labels, a, b, margins).sum(axis=1))])


def pick_thresholds(pairs: Sequence[PairIndex], scores: Mapping[str, float | None]) -> Thresholds:
    """`pick_margin`, and the both-bad threshold and margin that give the highest accuracy over a, b, tie and both bad.

    The two margins differ: where two bad edits are not a tie, few pairs are one. Of several the smallest margin, then the lowest
    threshold. Without a pair that has both scores there is no threshold.
    """
    kept, a, b = known(pairs, scores)
    if not kept:
        return Thresholds()
    labels = [pair.label for pair in kept]
    margins = between(np.abs(a - b))
    best = np.maximum(a, b)
    steps = np.unique(best)
    # Below the lowest none is bad; above the highest all are, however far.
    levels = np.concatenate([steps[:1], (steps[:-1] + steps[1:]) / 2, steps[-1:] + 1.0])
    bad = best[:, None] < levels[None, :]
    gold_bad = np.array([label == "both_bad" for label in labels])
    right = right_by_margin(labels, a, b, margins).astype(float) @ (~bad).astype(float) + (gold_bad[:, None] & bad).sum(axis=0)
    row, column = np.unravel_index(np.argmax(right), right.shape)
    return Thresholds(pick_margin(pairs, scores), float(levels[column]), float(margins[row]))
