"""GenAI-Bench's image editing part (hub id `TIGER-Lab/GenAI-Bench`, config `image_edition`, split `test_v1`).

Columns: instruct_prompt, source_image, left_output_image, right_output_image, vote_type, and others that are not read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eval.benches.reading import Layout, Place, bench_row, name_of, need, one_of, text_of
from eval.benches.records import BenchRow, Label

COLUMNS = ("instruct_prompt", "source_image", "left_output_image", "right_output_image", "vote_type")
VOTES: Mapping[str, Label] = {"leftvote": "a", "rightvote": "b", "bothbad_vote": "both_bad", "tievote": "tie"}
LAYOUT = Layout(split="test_v1", config="image_edition", parts=("image_edition",), stem="test_v1")


def row_of(number: int, raw: Mapping[str, Any], where: str, place: Place) -> BenchRow:
    """The typed row: a is the left edit, b the right one."""
    need(raw, COLUMNS, where, "GenAI-Bench's image_edition")
    return bench_row(
        number,
        where,
        place,
        (raw["source_image"], raw["left_output_image"], raw["right_output_image"]),
        instruction=text_of(raw, "instruct_prompt", where),
        label=one_of(raw, "vote_type", VOTES, where),
        item_id=name_of(raw, ("id", "vote_id"), str(number)),
    )
