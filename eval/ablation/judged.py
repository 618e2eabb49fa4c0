"""What a model said of one seed's benchmark, as its evaluation left it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from eval.ablation.study import Study
from eval.benchmarks import read_benchmark
from eval.cache import JudgedRow, read_records
from eval.editrewardbench.sandbox_truth import EditTruth, truths_of
from eval.outcomes import Outcome, outcomes_of_scores
from eval.pairs import PairIndex, edit_id
from rrm.records import Judgement
from rrm.runtime.stage import DONE


@dataclass(frozen=True)
class Judged:
    """One model's judgements of one seed's benchmark."""

    pairs: list[PairIndex]
    truths: dict[str, EditTruth]
    judgements: dict[str, Judgement]
    seed: int

    @property
    def outcomes(self) -> list[Outcome]:
        """What came of every pair; sources of different seeds are different clusters."""
        scores = {name: judgement.score for name, judgement in self.judgements.items()}
        return [
            outcome.model_copy(update={"source": f"{self.seed}/{outcome.source}"})
            for outcome in outcomes_of_scores(self.pairs, scores)
        ]


@cache
def index_of_benchmark(folder: str) -> tuple[list[PairIndex], dict[str, EditTruth]]:
    """The pairs of a benchmark and the truth about its edits; read once."""
    pairs = [row.pair for row in read_benchmark("editscore", folder)]
    return pairs, truths_of(lambda: read_benchmark("editscore", folder))


def judged_here(study: Study, seed: int, name: str) -> Judged | None:
    """The model's judgements, or None where its evaluation is not done in the study's folder."""
    folder = study.folder(seed, f"eval-{name}")
    if not (folder / DONE).is_file():
        return None
    pairs, truths = index_of_benchmark(str(study.folder(seed, "world", "benchmark")))
    rows = read_records(
        folder / name / "rows.jsonl", JudgedRow, f"delete {folder / DONE} and run the study again"
    )
    found = {
        edit_id(row.source, row.instruction, row.requirement, row.edited): row.judgement
        for row in rows
    }
    return Judged(pairs, truths, {name: found[name] for name in truths}, seed)
