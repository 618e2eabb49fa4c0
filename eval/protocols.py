"""The public protocols of the benchmarks of reward models: what a set of scores amounts to by each one's own rules.

Pure functions of pairs and of scores by edit id. A score that is missing (None) makes its pair wrong, never a tie, and stays in
every denominator. A tie margin is for what a benchmark's rules cannot tell of a pointwise model: when two scores are the same. It is
only ever chosen on validation pairs (`validation_split`, `pick_margin`); without them it is 0.

Intervals are 95% intervals clustered by source (`rrm.statistics.interval_of_share`).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from eval import metrics
from eval.benches import check_kind
from eval.benches.records import Label
from eval.index import PairIndex
from eval.thresholds import Thresholds, pick_margin, pick_thresholds, validation_split
from rrm import statistics

__all__ = ["Thresholds", "pick_margin", "pick_thresholds", "summarise_bench", "validation_split"]

Scores = Mapping[str, float | None]
Cell = dict[str, Any]
ROWS_OF_GROUP = {2: 1, 3: 3, 4: 6}
PUBLIC_RULE = "overall by TIGER-Lab's own code"


def scores_of(pair: PairIndex, scores: Scores) -> tuple[float, float] | None:
    """The scores of both edits; None where one is missing."""
    a, b = (scores.get(name) for name in pair.edit_ids)
    return None if a is None or b is None else (a, b)


def said(pair: PairIndex, scores: Scores, margin: float = 0.0, bad_below: float | None = None) -> Label | None:
    """The label that two scores give: both bad below `bad_below`, a tie up to `margin` apart, else the higher; None if one is missing."""
    found = scores_of(pair, scores)
    if found is None:
        return None
    a, b = found
    if bad_below is not None and max(a, b) < bad_below:
        return "both_bad"
    if abs(a - b) <= margin:
        return "tie"
    return "a" if a > b else "b"


def three_way(label: Label) -> Label:
    """The label among three: two bad edits are the same as a tie."""
    return "tie" if label == "both_bad" else label


def unparseable(pairs: Sequence[PairIndex], scores: Scores) -> int:
    """How many pairs lack a score."""
    return sum(scores_of(pair, scores) is None for pair in pairs)


def cell(right: Sequence[bool], pairs: Sequence[PairIndex], scores: Scores) -> Cell:
    """The share of right pairs, with what it is made of."""
    values = [float(one) for one in right]
    return {
        "value": statistics.mean(values),
        "n": len(pairs),
        "right": sum(right),
        "unparseable": unparseable(pairs, scores),
        "ci95": statistics.interval_of_share(values, [pair.source for pair in pairs]),
    }


def scored(pairs: Sequence[PairIndex], scores: Scores) -> list[metrics.ScoredPair]:
    """The pairs that people decided, the preferred edit's score first."""
    return [
        metrics.ScoredPair(pair.source, pair.task_type, *(scores.get(name) for name in pair.preferred_first))
        for pair in pairs
        if pair.decided
    ]


def by_dimension(pairs: Sequence[PairIndex]) -> dict[str, list[PairIndex]]:
    """The pairs of every dimension, in the order of their names."""
    return {name: [p for p in pairs if p.dimension == name] for name in sorted({pair.dimension for pair in pairs})}


def decisive(pairs: Sequence[PairIndex], scores: Scores) -> Cell:
    """Of the pairs that people decided: the share whose preferred edit scores strictly higher."""
    kept = [pair for pair in pairs if pair.decided]
    return cell([pair.right for pair in scored(kept, scores)], kept, scores)


def editscore(pairs: Sequence[PairIndex], scores: Scores, given: Thresholds) -> dict[str, Cell]:
    """Per dimension the unweighted mean over task types of the share of rows with s0 > s1 strictly; a tie is wrong.

    EditScore (VectorSpaceLab/EditScore, the evaluation of `EditScore/EditReward-Bench`): index 0 is the preferred edit. No margin.
    `groups` are of task types: `value`, the mean over them, is what EditScore's table shows; `pooled` counts all their pairs alike.
    """
    found = {}
    for dimension, members in by_dimension(pairs).items():
        whole = metrics.summarise(scored(members, scores))
        names = ("n", "right", "ties", "unparseable")
        macro = {"value": whole["macro"], "ci95": whole["macro_ci95"], "micro": whole["strict"]}
        groups = {name: {"value": of["macro"], "pooled": of["strict"], "n": of["n"]} for name, of in whole["by_group"].items()}
        found[dimension] = {**macro, **{name: whole[name] for name in names}, "groups": groups}
    return found


def group_right(rows: Sequence[PairIndex], scores: Scores, margin: float) -> bool:
    """Whether all rows of a group of K edits are there and right: K = 2 by its 3-way label with the margin, others strictly."""
    candidates = rows[0].candidates
    used = margin if candidates == 2 else 0.0
    whole = len(rows) >= ROWS_OF_GROUP.get(candidates, candidates * (candidates - 1) // 2)
    return whole and all(said(row, scores, used) == three_way(row.label) for row in rows)


def groups_of(pairs: Sequence[PairIndex]) -> dict[tuple[int, str], list[PairIndex]]:
    """The rows of every group, by K and the group's name."""
    groups: dict[tuple[int, str], list[PairIndex]] = defaultdict(list)
    for pair in pairs:
        groups[pair.candidates, pair.group].append(pair)
    return groups


def public_margin(gaps: Sequence[tuple[Label, float]]) -> float:
    """The first of 0 and all |score differences| with which most K = 2 pairs are right three-way: chosen on these very pairs."""

    def right(margin: float) -> int:
        return sum(side == ("tie" if abs(gap) <= margin else "a" if gap > 0 else "b") for side, gap in gaps)

    return max([0.0, *sorted({abs(gap) for _, gap in gaps})], key=right)


def tiger_public(pairs: Sequence[PairIndex], scores: Scores) -> Cell:
    """The share of right groups as TIGER-Lab's own code counts it (TIGER-AI-Lab/EditReward, `evaluate/eval_bench.py`).

    Edits with equal scores are ranked by their place, the later one first, and a K = 2 pair that people decided ignores the margin. A
    pair that is a tie is right up to a margin that is chosen on the test pairs themselves. Groups without all scores are left out.
    """
    groups = [rows for rows in groups_of(pairs).values() if all(scores_of(row, scores) is not None for row in rows)]
    two = [row for rows in groups if rows[0].candidates == 2 for row in rows]
    gaps = [(three_way(row.label), found[0] - found[1]) for row in two if (found := scores_of(row, scores)) is not None]
    margin = public_margin(gaps)

    def right(row: PairIndex) -> bool:
        first, second = scores_of(row, scores) or (0.0, 0.0)
        if three_way(row.label) == "tie":
            return abs(first - second) <= margin
        return first > second if row.label == "a" else second >= first

    counted = cell([all(map(right, rows)) for rows in groups], [rows[0] for rows in groups], scores)
    note = "ties by place, groups without a score left out, "
    return {**counted, "unparseable": 0, "note": f"{note}K=2 ties up to {margin:g} apart, a margin chosen on these very pairs"}


def tiger(pairs: Sequence[PairIndex], scores: Scores, given: Thresholds) -> dict[str, Cell]:
    """The share of right groups: `overall`, over all groups, and for each K; and the same by the public code's rule.

    TIGER-Lab's EditReward-Bench (TIGER-AI-Lab/EditReward, `evaluate/`): K = 2 counts the 3-way label, K = 3 and K = 4 need all 3
    or 6 pairs right, and overall = right groups / all groups (186 + 150 + 148). A group with a failure, or with a row missing,
    stays in the denominator. `n` and `right` count groups, `unparseable` pairs.
    """
    groups = groups_of(pairs)
    right = {name: group_right(rows, scores, given.margin) for name, rows in groups.items()}

    def part(wanted: int | None) -> Cell:
        names = [name for name in groups if wanted in (None, name[0])]
        whole = cell([right[name] for name in names], [groups[name][0] for name in names], scores)
        rows = [row for name in names for row in groups[name]]
        return {**whole, "pairs": len(rows), "unparseable": unparseable(rows, scores)}

    by_k = {f"K={k}": part(k) for k in sorted({k for k, _ in groups})}
    return {"overall": part(None), **by_k, PUBLIC_RULE: tiger_public(pairs, scores)}


def genai(pairs: Sequence[PairIndex], scores: Scores, given: Thresholds) -> dict[str, Cell]:
    """The three conventions that GenAI-Bench's numbers are published by; they are not comparable with each other.

    `4-class`: left, right, tie, both bad (GenAI-Bench's own, TIGER-AI-Lab/GenAI-Bench); None without a both-bad threshold.
    `3-class`: tie and both bad are one class, given by the margin (EditReward, TIGER-AI-Lab/EditReward); to say always "the same"
    scores 45.3 on the public set. `decisive`: only the left and right votes, strictly (pairwise judges).
    """
    margin = given.margin if given.four_margin is None else given.four_margin
    four = cell([said(p, scores, margin, given.bad_below) == p.label for p in pairs], pairs, scores)
    if given.bad_below is None:
        four |= {"value": None, "right": None, "ci95": None, "note": "needs a both-bad threshold, chosen on validation pairs"}
    three = cell([said(p, scores, given.margin) == three_way(p.label) for p in pairs], pairs, scores)
    return {"4-class": four, "3-class": three, "decisive": decisive(pairs, scores)}


def compass_right(pair: PairIndex, scores: Scores, margin: float) -> bool:
    """A preference: the winner scores strictly higher, by however little. A tie: the scores are at most the margin apart."""
    return said(pair, scores, 0.0 if pair.decided else margin) == three_way(pair.label)


def compass(pairs: Sequence[PairIndex], scores: Scores, given: Thresholds) -> dict[str, Cell]:
    """The share of right pairs of each dimension (IA, VC, VQ), and `macro`, the unweighted mean over the dimensions.

    EditReward-Compass (card of `DogNeverSleep/EditReward-Compass`). A wide margin makes every tie right and no preference wrong,
    so that a margin means nothing unless it was chosen by `pick_margin`, whose measure it does cost something.
    """
    right = [compass_right(pair, scores, given.margin) for pair in pairs]
    dimensions, sources = [pair.dimension for pair in pairs], [pair.source for pair in pairs]
    value, interval = statistics.macro_share([float(one) for one in right], dimensions, sources)
    found = {
        name: cell([compass_right(pair, scores, given.margin) for pair in members], members, scores)
        for name, members in by_dimension(pairs).items()
    }
    return {**found, "macro": {**cell(right, pairs, scores), "value": value, "ci95": interval}}


def own_pairs(pairs: Sequence[PairIndex], scores: Scores, given: Thresholds) -> dict[str, Cell]:
    """A preference set of one's own: `strict` and `half_tie` over the decided pairs; `same`, the others, for themselves.

    `half_tie` counts a tie of the model ½. A pair of `same` is right where the scores are at most the margin apart.
    """
    kept, rest = [pair for pair in pairs if pair.decided], [pair for pair in pairs if not pair.decided]
    whole = metrics.summarise(scored(kept, scores))
    counts = {name: whole[name] for name in ("n", "right", "ties", "unparseable")}
    return {
        "strict": {"value": whole["strict"], **counts, "ci95": whole["strict_ci95"]},
        "half_tie": {"value": whole["half_tie"], **counts, "ci95": whole["ci95"]},
        "same": cell([said(pair, scores, given.margin) == "tie" for pair in rest], rest, scores),
    }


CONVENTIONS: Mapping[str, Callable[[Sequence[PairIndex], Scores, Thresholds], dict[str, Cell]]] = {
    "editscore": editscore,
    "tiger": tiger,
    "genai": genai,
    "compass": compass,
    "jsonl": own_pairs,
}


def principled(pairs: Sequence[PairIndex], scores: Scores) -> dict[str, Any]:
    """The same measure for every benchmark: per dimension `metrics.summarise` over the pairs that people decided.

    It is the strict accuracy and the one with ties counted ½, over pairs (`strict`, `half_tie`) and as the mean over task types
    (`macro`, `macro_half_tie`), all with intervals.
    """
    found = {}
    for dimension, members in by_dimension([pair for pair in pairs if pair.decided]).items():
        known = scored(members, scores)
        half = [pair.half_tie for pair in known]
        value, interval = statistics.macro_share(half, [pair.task_type for pair in known], [pair.source for pair in known])
        found[dimension] = {**metrics.summarise(known), "macro_half_tie": value, "macro_half_tie_ci95": interval}
    return found


def summarise_bench(
    kind: str,
    pairs: Sequence[PairIndex],
    scores: Scores,
    margin: float = 0.0,
    bad_below: float | None = None,
    four_margin: float | None = None,
) -> dict[str, Any]:
    """Everything that scores by edit id amount to on these pairs, by the benchmark's own rules and by one for all benchmarks.

    {"convention": {name: {"value", "n", "right", "unparseable", "ci95", …}}, "principled": {dimension: …}, and counts}. The
    thresholds are to be chosen on other pairs; `bad_below` and `four_margin` are for GenAI-Bench's four classes (`Thresholds`).
    Raises InputError for a kind that is none.
    """
    check_kind(kind)
    same = sum(not pair.decided for pair in pairs)
    note = "The margin is 0: only equal scores are a tie." if margin == 0 else f"Scores up to {margin:g} apart are a tie."
    return {
        "kind": kind,
        "pairs": len(pairs),
        "sources": len({pair.source for pair in pairs}),
        "labels": dict(Counter(pair.label for pair in pairs)),
        "ties_in_gold": same,
        "unparseable": unparseable(pairs, scores),
        "margin": margin,
        "margin_note": note,
        "bad_below": bad_below,
        "four_margin": four_margin,
        "convention": CONVENTIONS[kind](pairs, scores, Thresholds(margin, bad_below, four_margin)),
        "principled": principled(pairs, scores),
    }
