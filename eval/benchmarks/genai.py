"""GenAI-Bench's image editing (hub id `TIGER-Lab/GenAI-Bench`, config `image_edition`, split
`test_v1`).

Columns: instruct_prompt, source_image, left_output_image, right_output_image, vote_type, and others
that are not read.
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
    decisive,
    label_of_scores,
    share_right,
)
from eval.reading import Layout, RawRow
from rrm.rows.labels import Labels

COLUMNS = (
    "instruct_prompt",
    "source_image",
    "left_output_image",
    "right_output_image",
    "vote_type",
)
VOTES: Mapping[str, Label] = {
    "leftvote": "a",
    "rightvote": "b",
    "bothbad_vote": "both_bad",
    "tievote": "tie",
}


def row_of(row: RawRow, labels: Labels) -> BenchmarkRow:
    """The typed row: a is the left edit, b the right one."""
    row.need(COLUMNS, "GenAI-Bench's image_edition")
    values = row.values
    return pair_row(
        row,
        (values["source_image"], values["left_output_image"], values["right_output_image"]),
        instruction=row.text("instruct_prompt"),
        label=row.choice("vote_type", VOTES),
        item_id=row.name(("id", "vote_id"), str(row.number)),
    )


def protocol(pairs: Sequence[PairIndex], scores: Scores, thresholds: Thresholds) -> dict[str, Cell]:
    """The three rules by which numbers are published; they do not compare with each other.

    `4-class`: left, right, tie, both bad (GenAI-Bench's own); None without a both-bad threshold.
    `3-class`: tie and both bad are one class, given by the margin (EditReward's); to say always
    "the same" scores 45.3 on the public set. `decisive`: only left and right votes, strictly
    (pairwise judges).
    """
    margin = thresholds.margin if thresholds.four_margin is None else thresholds.four_margin
    labels = [label_of_scores(pair, scores, margin, thresholds.bad_below) for pair in pairs]
    four = share_right(
        [label == p.label for label, p in zip(labels, pairs, strict=True)], pairs, scores
    )
    if thresholds.bad_below is None:
        note = "needs a both-bad threshold, chosen on validation pairs"
        four |= {"value": None, "right": None, "ci95": None, "note": note}
    three = [
        label_of_scores(pair, scores, thresholds.margin) == three_way(pair.label) for pair in pairs
    ]
    return {
        "4-class": four,
        "3-class": share_right(three, pairs, scores),
        "decisive": decisive(pairs, scores),
    }


BENCHMARK = Benchmark(
    name="genai",
    title="GenAI-Bench, image editing",
    row_of=row_of,
    protocol=protocol,
    citation=Citation("3-class", "left, right or the same", "three-class"),
    pairwise_citation=Citation("decisive", "of the pairs that people decided", "decisive-pairwise"),
    layout=Layout(
        split="test_v1", config="image_edition", parts=("image_edition",), stem="test_v1"
    ),
    public=PublicSet("TIGER-Lab/GenAI-Bench", 919),
    both_bad=True,
)
