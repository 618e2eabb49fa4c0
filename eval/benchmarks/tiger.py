"""EditReward-Bench of TIGER-Lab (hub id `TIGER-Lab/EditReward-Bench`): Parquet, one row a pair, in
2pair/, 3pair/ and 4pair/.

Columns: id, num_candidates, instruction, source_image, candidate_1, candidate_2, ranking,
comparison_type, and others that are not read. The K edits of one task are a group, named by the id
up to its first `_`; `ranking` orders two of them by their letters ("C>B" with comparison_type
"BvsC": the second is preferred), and only for K = 2 it can be "A=B".
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from eval.outcomes import Scores, Side, side_of, three_way
from eval.pairs import BenchmarkRow, PairIndex, pair_row
from eval.protocol import (
    Benchmark,
    Cell,
    Citation,
    PublicSet,
    Thresholds,
    label_of_scores,
    scores_of,
    share_right,
    unparseable,
)
from eval.reading import Layout, RawRow
from rrm.errors import InputError
from rrm.rows.fields import BadRow
from rrm.rows.labels import Labels
from rrm.rows.pairs import ranked

COLUMNS = (
    "id",
    "num_candidates",
    "instruction",
    "source_image",
    "candidate_1",
    "candidate_2",
    "ranking",
    "comparison_type",
)
PUBLIC_RULE = "overall by TIGER-Lab's own code"


def group_of(row: RawRow) -> tuple[str, str]:
    """ "Kpair" (the folder of K ranked edits), and the group's name, unique over all K."""
    row.need(COLUMNS, "TIGER-Lab's schema")
    try:
        candidates = int(row.values["num_candidates"])
    except (TypeError, ValueError):
        candidates = 0
    if candidates not in (2, 3, 4):
        raise InputError(
            f"{row.where}: 'num_candidates' is {row.values['num_candidates']!r:.60}; it must be "
            "2, 3 or 4."
        )
    part = f"{candidates}pair"
    return part, f"{part}/{str(row.values['id']).partition('_')[0]}"


def row_of(row: RawRow, labels: Labels) -> BenchmarkRow:
    """The typed row. Its task type names K, as the public folders do."""
    part, group = group_of(row)
    try:
        side = ranked(row.values)
    except BadRow as error:
        raise InputError(f"{row.where}: {error}; correct the row.") from error
    values = row.values
    return pair_row(
        row,
        (values["source_image"], values["candidate_1"], values["candidate_2"]),
        instruction=row.text("instruction"),
        label="tie" if side == "same" else side,
        item_id=f"{part}/{values['id']}/{values['comparison_type']}",
        task_type=part,
        group=group,
        candidates=int(values["num_candidates"]),
    )


Groups = dict[tuple[int, str], list[PairIndex]]


def groups_of(pairs: Sequence[PairIndex]) -> Groups:
    """The pairs of every group, by K and the group's name."""
    groups: Groups = defaultdict(list)
    for pair in pairs:
        groups[pair.candidates, pair.group].append(pair)
    return groups


def group_right(group: Sequence[PairIndex], scores: Scores, margin: float) -> bool:
    """Whether all K(K−1)/2 pairs are present and right: K = 2 by the margin, others strictly."""
    candidates = group[0].candidates
    if len(group) < candidates * (candidates - 1) // 2:
        return False
    used = margin if candidates == 2 else 0.0
    return all(label_of_scores(pair, scores, used) == three_way(pair.label) for pair in group)


def margin_on_test_pairs(gaps: Sequence[tuple[Side, float]]) -> float:
    """The first of 0 and all |score differences| with which most K = 2 pairs are right."""

    def right(margin: float) -> int:
        return sum(side == side_of(gap, 0.0, margin) for side, gap in gaps)

    return max([0.0, *sorted({abs(gap) for _, gap in gaps})], key=right)


def by_public_code(pairs: Sequence[PairIndex], scores: Scores) -> Cell:
    """The share of right groups as TIGER-AI-Lab/EditReward's `evaluate/eval_bench.py` counts it.

    Edits with equal scores are ranked by place, the later one first, and a K = 2 pair that people
    decided ignores the margin. A pair that is a tie is right up to a margin that is chosen on the
    test pairs themselves. Groups without all scores are left out.
    """
    groups = [
        group
        for group in groups_of(pairs).values()
        if all(scores_of(pair, scores) for pair in group)
    ]
    two = [pair for group in groups if group[0].candidates == 2 for pair in group]
    gaps = [
        (three_way(pair.label), both[0] - both[1])
        for pair in two
        if (both := scores_of(pair, scores))
    ]
    margin = margin_on_test_pairs(gaps)

    def right(pair: PairIndex) -> bool:
        first, second = scores_of(pair, scores) or (0.0, 0.0)
        if three_way(pair.label) == "tie":
            return abs(first - second) <= margin
        return first > second if pair.label == "a" else second >= first

    cell = share_right(
        [all(map(right, group)) for group in groups], [group[0] for group in groups], scores
    )
    note = (
        f"ties by place, groups without a score left out, K=2 ties up to {margin:g} apart, a "
        "margin chosen on these very pairs"
    )
    return {**cell, "unparseable": 0, "note": note}


def protocol(pairs: Sequence[PairIndex], scores: Scores, thresholds: Thresholds) -> dict[str, Cell]:
    """The share of right groups: over all (186 + 150 + 148), for each K, and by the public code.

    A group is right where all its pairs are: K = 2 counts the three-way label, K = 3 and K = 4 need
    all 3 or 6 pairs. A group with a failure or without a row stays in the denominator. `n` and
    `right` count groups, `unparseable` pairs.
    """
    groups = groups_of(pairs)
    right = {name: group_right(group, scores, thresholds.margin) for name, group in groups.items()}

    def part(candidates: int | None) -> Cell:
        names = [name for name in groups if candidates in (None, name[0])]
        cell = share_right(
            [right[name] for name in names], [groups[name][0] for name in names], scores
        )
        members = [pair for name in names for pair in groups[name]]
        return {**cell, "pairs": len(members), "unparseable": unparseable(members, scores)}

    by_k = {f"K={k}": part(k) for k in sorted({k for k, _ in groups})}
    return {"overall": part(None), **by_k, PUBLIC_RULE: by_public_code(pairs, scores)}


BENCHMARK = Benchmark(
    name="tiger",
    title="EditReward-Bench of TIGER-Lab",
    row_of=row_of,
    protocol=protocol,
    citation=Citation("overall", "groups of which every pair is right", "groups"),
    layout=Layout(snapshot=True, parts=("2pair", "3pair", "4pair")),
    public=PublicSet("TIGER-Lab/EditReward-Bench", 484),
    needs_scores=(PUBLIC_RULE,),
    group_of=group_of,
    items=lambda pairs: len(groups_of(pairs)),
    anchors_note=(
        "counted by TIGER-Lab's code or by the plain rule, as the source has it: see 'overall' and "
        f"'{PUBLIC_RULE}'"
    ),
)
