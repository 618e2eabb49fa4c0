"""What a model said of one seed's benchmark, as its evaluation left it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from eval import metrics
from eval.ablation.study import Study
from eval.cache import JudgedRow, read_records
from eval.index import PairIndex, Truth, edit_id, read_index
from eval.summary import scored_pairs
from rrm.records import Judgement
from rrm.runtime.stage import DONE


@dataclass(frozen=True)
class Judged:
    """One model's judgements of one seed's benchmark."""

    pairs: list[PairIndex]
    truths: dict[str, Truth]
    judgements: dict[str, Judgement]
    seed: int

    @property
    def scored(self) -> list[metrics.ScoredPair]:
        """The pairs with both scores; sources of different seeds are different clusters."""
        return [
            metrics.ScoredPair(f"{self.seed}/{pair.source}", pair.task_type, pair.preferred, pair.other)
            for pair in scored_pairs(self.pairs, self.judgements)
        ]


@cache
def index_of_bench(bench: str) -> tuple[list[PairIndex], dict[str, Truth]]:
    """The pairs of a benchmark and the truth about its edits; read once."""
    return read_index("editscore", bench, None, True)


def judged_here(study: Study, seed: int, name: str) -> Judged | None:
    """The model's judgements, or None where its evaluation is not done in the study's folder."""
    folder = study.folder(seed, f"eval-{name}")
    if not (folder / DONE).is_file():
        return None
    pairs, truths = index_of_bench(str(study.folder(seed, "world", "benchmark")))
    rows = read_records(folder / name / "rows.jsonl", JudgedRow, f"delete {folder / DONE} and run the study again")
    found = {edit_id(row.source, row.instruction, row.requirement, row.edited): row.judgement for row in rows}
    return Judged(pairs, truths, {name: found[name] for name in truths}, seed)
