"""EditReward-Compass (hub id `DogNeverSleep/EditReward-Compass`): a JSON list of pairs, each judged
in one dimension.

Fields: dimension (IA, VC or VQ), source_image, prompt, winner, loser, label (preference or tie; of
a tie, winner and loser are but two names).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from eval.outcomes import Scores, three_way
from eval.pairs import BenchmarkRow, Label, PairIndex, pair_row
from eval.protocol import (
    Benchmark,
    Cell,
    Citation,
    PublicSet,
    Thresholds,
    label_of_scores,
    pairs_by_dimension,
    share_right,
)
from eval.reading import Layout, RawRow
from rrm import statistics
from rrm.errors import InputError
from rrm.rows.labels import Labels

FIELDS = ("dimension", "source_image", "prompt", "winner", "loser", "label")
DIMENSIONS = ("IA", "VC", "VQ")
LABELS: Mapping[str, Label] = {"preference": "a", "tie": "tie"}


def row_of(row: RawRow, labels: Labels) -> BenchmarkRow:
    """The typed row: a is the winner."""
    row.need(FIELDS, "EditReward-Compass")
    dimension = row.text("dimension")
    if dimension not in DIMENSIONS:
        raise InputError(
            f"{row.where}: 'dimension' is {dimension!r:.60}; it must be one of "
            f"{', '.join(DIMENSIONS)}."
        )
    values = row.values
    return pair_row(
        row,
        (values["source_image"], values["winner"], values["loser"]),
        instruction=row.text("prompt"),
        label=row.choice("label", LABELS),
        item_id=row.name(("id",), str(row.number)),
        task_type=row.name(("task_type",), "all"),
        dimension=dimension,
    )


def right(pair: PairIndex, scores: Scores, margin: float) -> bool:
    """A preference: the winner scores strictly higher. A tie: scores at most the margin apart."""
    return label_of_scores(pair, scores, 0.0 if pair.decided else margin) == three_way(pair.label)


def protocol(pairs: Sequence[PairIndex], scores: Scores, thresholds: Thresholds) -> dict[str, Cell]:
    """The share of right pairs of each dimension, and `macro`, the unweighted mean over them (card
    of the public set).

    A wide margin makes every tie right and no preference wrong, so that only a margin chosen by
    `pick_margin`, which counts what it costs, means anything.
    """

    def cell(members: Sequence[PairIndex]) -> Cell:
        return share_right(
            [right(pair, scores, thresholds.margin) for pair in members], members, scores
        )

    values = [float(right(pair, scores, thresholds.margin)) for pair in pairs]
    dimensions, sources = [pair.dimension for pair in pairs], [pair.source for pair in pairs]
    value, interval = statistics.macro_share(values, dimensions, sources)
    cells = {name: cell(members) for name, members in pairs_by_dimension(pairs).items()}
    return {**cells, "macro": {**cell(pairs), "value": value, "ci95": interval}}


BENCHMARK = Benchmark(
    name="compass",
    title="EditReward-Compass",
    row_of=row_of,
    protocol=protocol,
    citation=Citation("macro", "mean over dimensions", "pairwise"),
    layout=Layout(snapshot=True),
    public=PublicSet("DogNeverSleep/EditReward-Compass"),
)
