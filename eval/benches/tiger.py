"""EditReward-Bench of TIGER-Lab (hub id `TIGER-Lab/EditReward-Bench`): Parquet in 2pair/, 3pair/ and 4pair/, one row a pair.

Columns: id, num_candidates, instruction, source_image, candidate_1, candidate_2, ranking, comparison_type, and others that are not
read. The K edits of one task are a group, whose name is the id up to its first `_`; `ranking` orders two of them by their letters
("C>B" with comparison_type "BvsC": the second is preferred), and only for K = 2 it can be "A=B".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eval.benches.reading import Layout, Place, bench_row, need, text_of
from eval.benches.records import BenchRow
from rrm.errors import InputError
from rrm.rows.fields import BadRow
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
LAYOUT = Layout(snapshot=True, parts=("2pair", "3pair", "4pair"))


def group_of(raw: Mapping[str, Any], where: str) -> tuple[int, str]:
    """How many edits are ranked together (K), and the name of the group, which no group of another K has."""
    need(raw, COLUMNS, where, "TIGER-Lab's schema")
    try:
        candidates = int(raw["num_candidates"])
    except (TypeError, ValueError):
        candidates = 0
    if candidates not in (2, 3, 4):
        raise InputError(f"{where}: 'num_candidates' is {raw['num_candidates']!r:.60}; it must be 2, 3 or 4.")
    return candidates, f"{candidates}pair/{str(raw['id']).partition('_')[0]}"


def row_of(number: int, raw: Mapping[str, Any], where: str, place: Place) -> BenchRow:
    """The typed row. Its task type names K, as the public folders do."""
    candidates, group = group_of(raw, where)
    try:
        side = ranked(raw)
    except BadRow as error:
        raise InputError(f"{where}: {error}; correct the row.") from error
    return bench_row(
        number,
        where,
        place,
        (raw["source_image"], raw["candidate_1"], raw["candidate_2"]),
        instruction=text_of(raw, "instruction", where),
        label="tie" if side == "same" else side,
        item_id=f"{candidates}pair/{raw['id']}/{raw['comparison_type']}",
        task_type=f"{candidates}pair",
        group=group,
        candidates=candidates,
    )
