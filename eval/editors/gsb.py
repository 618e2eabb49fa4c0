"""Human GSB: of two editors' edits of one item, people say whether the first is better (G), the
same (S) or worse (B).

A file of votes, CSV, JSONL or another format of rows: item, vote (G|S|B, good|same|bad or 好|相同|差),
and if known rater and source (the source image).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy.stats import binomtest

from rrm.errors import InputError
from rrm.records import Label
from rrm.rows.fields import BadRow, bad, missing
from rrm.rows.formats import PLAIN, Reading, whole_rows
from rrm.rows.labels import GSB, Given, Said, counted, decided, said
from rrm.rows.votes import agreement as alpha
from rrm.statistics import error_of_mean, interval_of_mean, interval_or_none, mean

Side = Literal["G", "S", "B"]
SIDES: Mapping[Label, Side] = {"a": "G", "same": "S", "b": "B"}
LABELS: Mapping[Side, Label] = {side: label for label, side in SIDES.items()}
VALUE: Mapping[Side, int] = {"G": 1, "S": 0, "B": -1}
ITEM = ("item_id", "item", "id")


@dataclass(frozen=True)
class Vote:
    """One person's word on one item. `cluster` is the source image where it is known, else the
    item."""

    item: str
    side: Side
    rater: str | None
    cluster: str


def text_at(row: Mapping[str, Any], name: str) -> str | None:
    """A field as text; None where it is absent or blank."""
    value = row.get(name)
    return None if value is None or not str(value).strip() else str(value).strip()


def word_in(row: Mapping[str, Any], where: str) -> Said:
    """What a row says. Raises InputError where it says nothing."""
    word = row.get("vote")
    try:
        if missing(word):
            raise bad("there is no vote; give the field 'vote'")
        return said("vote", word)
    except BadRow as error:
        raise InputError(f"{where}: {error}.") from error


def vote_of(row: Mapping[str, Any], side: Side, where: str) -> Vote:
    """The typed vote. Raises InputError for a row without an item."""
    item = next((found for name in ITEM if (found := text_at(row, name)) is not None), None)
    if item is None:
        raise InputError(f"{where} names no item; give the field 'item'.")
    source = text_at(row, "source")
    return Vote(
        item, side, text_at(row, "rater"), f"item:{item}" if source is None else f"source:{source}"
    )


def read_votes(
    path: str | Path, reading: Reading = PLAIN, given: Given | None = None
) -> list[Vote]:
    """The votes in a file of rows; `given` says what words mean that are none of GSB (a: the first
    edit is better, as good; b: bad).

    Raises InputError where there are none, one cannot be read, it is not certain what one means, or
    a rater voted twice on an item.
    """
    path = Path(path)
    rows = [
        (where, {name.strip().lower(): value for name, value in row.items()})
        for where, row in whole_rows(path, reading)
    ]
    if not rows:
        raise InputError(f"{path} holds no votes.")
    words = [word_in(row, where) for where, row in rows]
    meanings = decided(str(path), counted(str(path), words), given, GSB)
    votes: list[Vote] = []
    seen: set[tuple[str, str]] = set()
    clusters: dict[str, str] = {}
    for (where, row), word in zip(rows, words, strict=True):
        if meanings.leaves_out(word):
            continue
        vote = vote_of(row, SIDES[meanings.of(word)], where)
        if vote.rater is not None and (vote.item, vote.rater) in seen:
            raise InputError(
                f"{where}: rater '{vote.rater}' voted on item '{vote.item}' before; keep one vote."
            )
        if clusters.setdefault(vote.item, vote.cluster) != vote.cluster:
            raise InputError(
                f"{where}: item '{vote.item}' has another source than before; an item has one source."
            )
        if vote.rater is not None:
            seen.add((vote.item, vote.rater))
        votes.append(vote)
    return votes


def sign_test(good: int, bad: int) -> float | None:
    """Two-sided p of as many G as B (exact binomial test, S left out); None without either."""
    return float(binomtest(good, good + bad, 0.5).pvalue) if good + bad else None


def agreement(votes: Sequence[Vote]) -> dict[str, Any] | None:
    """How often two raters of one item say the same; None where no item has two named raters.

    `share` is over all pairs of votes on one item; `by_rater` a rater's own pairs: {pairs, share}.
    """
    by_item: dict[str, list[Vote]] = defaultdict(list)
    for vote in votes:
        if vote.rater is not None:
            by_item[vote.item].append(vote)
    own: dict[str, list[bool]] = defaultdict(list)
    every: list[bool] = []
    for members in by_item.values():
        for first, second in combinations(members, 2):
            same = first.side == second.side
            every.append(same)
            own[str(first.rater)].append(same)
            own[str(second.rater)].append(same)
    if not every:
        return None
    return {
        "pairs": len(every),
        "share": mean(every),
        "by_rater": {
            rater: {"pairs": len(found), "share": mean(found)}
            for rater, found in sorted(own.items())
        },
    }


def gsb(votes: Sequence[Vote]) -> dict[str, Any]:
    """Everything that is reported of votes: GSB = (G − B)/(G + S + B), in −1…1, as the seed paper
    has it.

    `ci95` is clustered by source image where votes name it, else by item. `sign_p` is the exact
    sign test of G against B over votes; it takes them as independent, so that with several votes an
    item `items_sign_p`, over each item's majority, is the one to quote. `alpha` is Krippendorff's,
    of named raters.
    """
    values = [VALUE[vote.side] for vote in votes]
    clusters = [vote.cluster for vote in votes]
    found = Counter(vote.side for vote in votes)
    sums: dict[str, int] = defaultdict(int)
    for vote in votes:
        sums[vote.item] += VALUE[vote.side]
    centre = mean(values)
    normal = interval_of_mean(values, clusters)
    interval = normal and interval_or_none(max(-1.0, normal[0]), min(1.0, normal[1]))
    by_item: dict[str, Counter[Label]] = defaultdict(Counter)
    for vote in votes:
        by_item[vote.item][LABELS[vote.side]] += vote.rater is not None
    signs = Counter(int(np.sign(total)) for total in sums.values())
    return {
        "votes": len(votes),
        "items": len(sums),
        "clusters": len(set(clusters)),
        "raters": len({vote.rater for vote in votes if vote.rater is not None}),
        "G": found["G"],
        "S": found["S"],
        "B": found["B"],
        "gsb": centre,
        "se": error_of_mean(values, clusters),
        "ci95": interval,
        "sign_p": sign_test(found["G"], found["B"]),
        "items_better": signs[1],
        "items_worse": signs[-1],
        "items_sign_p": sign_test(signs[1], signs[-1]),
        "agreement": agreement(votes),
        "alpha": alpha(list(by_item.values())),
    }
