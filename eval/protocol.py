"""What a benchmark is, and what protocols share: thresholds, labels from scores, cells of results.

A score that is missing (None) makes its pair wrong, never a tie, and stays in every denominator.
Thresholds are only ever chosen on validation pairs; without them the tie margin is 0.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.outcomes import Outcome, Scores, outcomes_of_scores, side_of
from eval.pairs import BenchmarkRow, Label, PairIndex
from eval.reading import Layout, RawRow
from rrm import statistics
from rrm.errors import InputError
from rrm.rows.formats import Reading
from rrm.rows.labels import Given, Labels

Cell = dict[str, Any]
"""{"value", "n", "right", "unparseable", "ci95", …} of one number of a protocol."""
Floats = NDArray[np.float64]
WHOLE = Layout()


@dataclass(frozen=True)
class Thresholds:
    """When two scores are a tie, and when both are bad.

    Scores at most `margin` apart are a tie. Where two bad edits are a class of their own, scores
    below `bad_below` are bad, and of the others those at most `four_margin` apart (`margin`, where
    it is None) are a tie.
    """

    margin: float = 0.0
    bad_below: float | None = None
    four_margin: float | None = None


Protocol = Callable[[Sequence[PairIndex], Scores, Thresholds], dict[str, Cell]]
"""The numbers of a benchmark's own protocol, by name."""


@dataclass(frozen=True)
class Citation:
    """The number by which a benchmark is cited: the protocol's cell, and its rule in words."""

    cell: str
    rule: str
    """May name the cell as {name}."""
    anchors: str | None = None
    """The protocol of the published numbers (eval/anchors.yaml) that compare with it."""


@dataclass(frozen=True)
class PublicSet:
    """The set that published numbers are of."""

    hub_id: str
    items: int | None = None
    """How many items (`Benchmark.items`) it has, where known."""


def every_row_alone(row: RawRow) -> tuple[str, str]:
    """All rows are one part; each is a group of its own."""
    return "", str(row.number)


@dataclass(frozen=True)
class Benchmark:
    """A data set of edits that people compared, with its protocol."""

    name: str
    """The value of --bench."""
    title: str
    row_of: Callable[[RawRow, Labels], BenchmarkRow | None]
    """The typed row; None for a row that is left out. Raises InputError, naming the row."""
    protocol: Protocol
    citation: Citation
    pairwise_citation: Citation | None = None
    """For judges that are shown both edits, where it differs."""
    layout: Layout = WHOLE
    public: PublicSet | None = None
    resizes: bool = False
    """Whether its protocol resizes edits to their source's size before they are judged."""
    both_bad: bool = False
    """Whether two bad edits are a class of their own, with a threshold."""
    needs_scores: tuple[str, ...] = ()
    """Cells of the protocol that a pairwise judge, which gives no scores, has no number for."""
    group_of: Callable[[RawRow], tuple[str, str]] = every_row_alone
    """(part, group) of a row: a limit takes the first groups of every part."""
    items: Callable[[Sequence[PairIndex]], int] = len
    """How many items the cited number counts, to recognise the public set."""
    decide_labels: Callable[[str, Reading, Given | None], Labels] | None = None
    """What the labels mean, read from all rows, where the schema does not fix it."""
    merge_votes: Callable[[Sequence[PairIndex]], tuple[list[PairIndex], dict[str, Any]]] | None = (
        None
    )
    """Every pair once, labelled by the votes on it, and counts of the votes."""
    anchors_note: str = "by the same rule, to stand beside the first number"
    note: str | None = None
    """What a reader of its numbers has to know whatever the judge."""

    def citation_of(self, pairwise: bool) -> Citation:
        """The number to cite of a judge of this kind."""
        return (self.pairwise_citation if pairwise else None) or self.citation


def scores_of(pair: PairIndex, scores: Scores) -> tuple[float, float] | None:
    """The scores of both edits; None where one is missing."""
    a, b = (scores.get(name) for name in pair.edit_ids)
    return None if a is None or b is None else (a, b)


def label_of_scores(
    pair: PairIndex, scores: Scores, margin: float = 0.0, bad_below: float | None = None
) -> Label | None:
    """Both bad below `bad_below`, a tie up to `margin` apart, else the higher score."""
    both = scores_of(pair, scores)
    if both is None:
        return None
    return "both_bad" if bad_below is not None and max(both) < bad_below else side_of(*both, margin)


def unparseable(pairs: Sequence[PairIndex], scores: Scores) -> int:
    """How many pairs lack a score."""
    return sum(scores_of(pair, scores) is None for pair in pairs)


def share_right(right: Sequence[bool], pairs: Sequence[PairIndex], scores: Scores) -> Cell:
    """The share of right pairs, its counts and its interval clustered by source."""
    values = [float(one) for one in right]
    return {
        "value": statistics.mean(values),
        "n": len(pairs),
        "right": sum(right),
        "unparseable": unparseable(pairs, scores),
        "ci95": statistics.interval_of_share(values, [pair.source for pair in pairs]),
    }


def decided_outcomes(pairs: Sequence[PairIndex], scores: Scores) -> list[Outcome]:
    """The outcomes of the pairs that people decided, without a margin."""
    return outcomes_of_scores([pair for pair in pairs if pair.decided], scores)


def decisive(pairs: Sequence[PairIndex], scores: Scores) -> Cell:
    """Of the pairs that people decided: the share whose preferred edit scores strictly higher."""
    decided = [pair for pair in pairs if pair.decided]
    return share_right([o.right for o in decided_outcomes(decided, scores)], decided, scores)


def counts_of(accuracies: Mapping[str, Any]) -> Cell:
    """The counts of `eval.outcomes.accuracies` under a cell's names."""
    return {
        **{name: accuracies[name] for name in ("n", "right", "ties")},
        "unparseable": accuracies["unreadable"],
    }


def pairs_by_dimension(pairs: Sequence[PairIndex]) -> dict[str, list[PairIndex]]:
    """The pairs of every dimension, in the order of their names."""
    names = sorted({pair.dimension for pair in pairs})
    return {name: [pair for pair in pairs if pair.dimension == name] for name in names}


def validation_split(
    pairs: Sequence[PairIndex], share: float, seed: int
) -> tuple[list[PairIndex], list[PairIndex]]:
    """(validation, test): the pairs of a share of the sources, and all others.

    Which sources depends on their pixels and the seed alone. A share above 0 takes at least one
    source and leaves at least one.
    """
    if not 0 <= share < 1:
        raise InputError(
            f"A validation share of {share:g} is not possible; give one of at least 0 and below 1."
        )
    sources = {pair.source for pair in pairs}
    drawn = sorted(sources, key=lambda name: hashlib.sha256(f"{seed}|{name}".encode()).hexdigest())
    count = min(max(round(share * len(drawn)), 1), len(drawn) - 1) if share and drawn else 0
    held = set(drawn[:count])
    return [pair for pair in pairs if pair.source in held], [
        pair for pair in pairs if pair.source not in held
    ]


def cuts_between(values: Floats) -> Floats:
    """One cut per way to split the values by `<=`: 0, the middles between them, the largest."""
    steps = np.unique(np.append(values, 0.0))
    if len(steps) < 2:
        return np.zeros(1)
    return np.concatenate([[0.0], (steps[1:-1] + steps[2:]) / 2, steps[-1:]])


def scored_pairs(
    pairs: Sequence[PairIndex], scores: Scores
) -> tuple[list[PairIndex], Floats, Floats]:
    """The pairs with both scores, and the scores of a and of b.

    Groups of more than two edits are ranked without a margin, and are left out.
    """
    scored = [
        (pair, both)
        for pair in pairs
        if pair.candidates == 2 and (both := scores_of(pair, scores)) is not None
    ]
    a, b = (np.array([both[side] for _, both in scored], float) for side in (0, 1))
    return [pair for pair, _ in scored], a, b


def right_by_margin(
    labels: Sequence[str], a: Floats, b: Floats, margins: Floats
) -> NDArray[np.bool_]:
    """Per margin (rows) and pair (columns), whether a, b or tie is the label; both_bad never is."""
    tied = np.abs(a - b)[None, :] <= margins[:, None]
    label = np.array(labels, dtype=object)[None, :]
    higher = ((a > b)[None, :] & (label == "a")) | ((a < b)[None, :] & (label == "b"))
    return np.where(tied, label == "tie", higher)


def pick_margin(pairs: Sequence[PairIndex], scores: Scores) -> float:
    """The tie margin with the highest three-way accuracy on these pairs; the smallest of several.

    0 where no pair has both scores. A pair without a score is wrong at any margin.
    """
    scored, a, b = scored_pairs(pairs, scores)
    if not scored:
        return 0.0
    margins = cuts_between(np.abs(a - b))
    labels = ["tie" if pair.label == "both_bad" else pair.label for pair in scored]
    return float(margins[np.argmax(right_by_margin(labels, a, b, margins).sum(axis=1))])


def pick_thresholds(pairs: Sequence[PairIndex], scores: Scores) -> Thresholds:
    """`pick_margin`, and the both-bad threshold and margin with the highest four-way accuracy.

    The two margins differ: where two bad edits are not a tie, few pairs are one. Of several the
    smallest margin, then the lowest threshold. Without a scored pair there is no threshold.
    """
    scored, a, b = scored_pairs(pairs, scores)
    if not scored:
        return Thresholds()
    labels = [pair.label for pair in scored]
    margins = cuts_between(np.abs(a - b))
    best = np.maximum(a, b)
    steps = np.unique(best)
    # Below the lowest level no edit is bad; above the highest all are.
    levels = np.concatenate([steps[:1], (steps[:-1] + steps[1:]) / 2, steps[-1:] + 1.0])
    bad = best[:, None] < levels[None, :]
    gold_bad = np.array([label == "both_bad" for label in labels])
    right = right_by_margin(labels, a, b, margins).astype(float) @ (~bad).astype(float)
    right += (gold_bad[:, None] & bad).sum(axis=0)
    row, column = np.unravel_index(np.argmax(right), right.shape)
    return Thresholds(pick_margin(pairs, scores), float(levels[column]), float(margins[row]))
