"""Human GSB: of two editors' edits of one item, people say whether the first is better (G), the same (S) or worse (B).

A file of votes, JSONL or CSV: item, vote (G|S|B or good|same|bad), and if known rater and source (the source image).
"""

from __future__ import annotations

import csv
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy.stats import binomtest

from eval.jsonl import read_jsonl
from eval.metrics import clustered_interval, error_of_mean, interval_of, mean
from rrm.errors import InputError

Side = Literal["G", "S", "B"]
VOTES: Mapping[str, Side] = {"g": "G", "good": "G", "s": "S", "same": "S", "b": "B", "bad": "B"}
VALUE: Mapping[Side, int] = {"G": 1, "S": 0, "B": -1}
ITEM = ("item_id", "item", "id")


@dataclass(frozen=True)
class Vote:
    """One person's word on one item. `cluster` is the source image where it is known, else the item."""

    item: str
    side: Side
    rater: str | None
    cluster: str


def text_at(row: Mapping[str, Any], name: str) -> str | None:
    """A field as text; None where it is absent or blank."""
    value = row.get(name)
    return None if value is None or not str(value).strip() else str(value).strip()


def vote_of(row: Mapping[str, Any], where: str) -> Vote:
    """The typed vote. Raises InputError for a row without an item or with a word that is no vote."""
    item = next((found for name in ITEM if (found := text_at(row, name)) is not None), None)
    if item is None:
        raise InputError(f"{where} names no item; give the field 'item'.")
    word = text_at(row, "vote") or ""
    side = VOTES.get(word.lower())
    if side is None:
        raise InputError(f"{where}: the vote '{word}' is none of G, S, B or good, same, bad.")
    source = text_at(row, "source")
    return Vote(item, side, text_at(row, "rater"), f"item:{item}" if source is None else f"source:{source}")


def rows_of(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Where each row of the file stands, and the row."""
    if path.suffix.lower() == ".csv":
        with path.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines)
            for row in reader:
                yield f"{path}, line {reader.line_num}", {str(key).strip().lower(): value for key, value in row.items()}
        return
    for line, value in read_jsonl(path):
        yield f"{path}, line {line}", value


def read_votes(path: str | Path) -> list[Vote]:
    """The votes in a file. Raises InputError where there are none, one cannot be read, or a rater voted twice on an item."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"There is no file at {path}; give a JSONL or CSV file of votes.")
    votes: list[Vote] = []
    seen: set[tuple[str, str]] = set()
    clusters: dict[str, str] = {}
    for where, row in rows_of(path):
        vote = vote_of(row, where)
        if vote.rater is not None and (vote.item, vote.rater) in seen:
            raise InputError(f"{where}: rater '{vote.rater}' voted on item '{vote.item}' before; keep one vote.")
        if clusters.setdefault(vote.item, vote.cluster) != vote.cluster:
            raise InputError(f"{where}: item '{vote.item}' has another source than before; an item has one source.")
        if vote.rater is not None:
            seen.add((vote.item, vote.rater))
        votes.append(vote)
    if not votes:
        raise InputError(f"{path} holds no votes.")
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
        "by_rater": {rater: {"pairs": len(found), "share": mean(found)} for rater, found in sorted(own.items())},
    }


def gsb(votes: Sequence[Vote]) -> dict[str, Any]:
    """Everything that is reported of votes: GSB = (G − B)/(G + S + B), in −1…1, as the seed paper has it.

    `ci95` is clustered by source image where votes name it, else by item. `sign_p` is the exact sign test of G against B over votes;
    it takes them as independent, so that with several votes an item `items_sign_p`, over each item's majority, is the one to quote.
    """
    values = [VALUE[vote.side] for vote in votes]
    clusters = [vote.cluster for vote in votes]
    found = Counter(vote.side for vote in votes)
    sums: dict[str, int] = defaultdict(int)
    for vote in votes:
        sums[vote.item] += VALUE[vote.side]
    centre = mean(values)
    normal = clustered_interval(values, clusters)
    interval = normal and interval_of(max(-1.0, normal[0]), min(1.0, normal[1]))
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
    }
