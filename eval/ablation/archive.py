"""Every judgement of a study in one file beside its evidence: from it every number can be worked
out anew, and the study gone on with elsewhere."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet

from eval.ablation.judged import Judged
from eval.ablation.study import Job, Study
from eval.editrewardbench.sandbox_truth import EditTruth
from eval.pairs import PairIndex
from rrm.errors import InputError
from rrm.records import Judgement
from rrm.runtime.disk import written_at_once
from rrm.runtime.stage import fingerprint_of

FILE, EVIDENCE = "judgements.parquet", "verifier.json"


@dataclass(frozen=True)
class Archive:
    """What is known of a study without its runs: judgements by the recipe that led to them, how
    long each stage took, human pairs by seed."""

    by_recipe: dict[str, Judged] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    pairs: dict[str, int] = field(default_factory=dict)


def folder_in(spec: str) -> str:
    """The checkpoint folder that a judge's spec names; empty for any other judge."""
    return spec.removeprefix("rrm:").partition("?")[0] if spec.startswith("rrm:") else ""


def recipe(study: Study, job: str) -> str:
    """A hash of everything that is configured from the world to this job's result, a shipped
    checkpoint's content included."""
    one = study.jobs[job]
    named = [
        Path(str(path))
        for path in (one.keys.get("base"), *map(folder_in, one.keys.get("judges", {}).values()))
        if path
    ]
    shipped = [
        path for path in named if path.is_dir() and not path.is_relative_to(study.config.out)
    ]
    parts = {
        "job": one.name,
        "stage": one.stage,
        "keys": one.keys,
        "checkpoints": [fingerprint_of(path) for path in shipped],
        "needs": [recipe(study, name) for name in one.needs],
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]


def without_principles(judgement: Judgement) -> str:
    """The judgement without its principles, which the instruction gives, as JSON."""
    return judgement.model_dump_json(exclude={"principles"}, exclude_defaults=True)


def write_archive(study: Study, found: Mapping[str, Sequence[Judged]], folder: Path) -> None:
    """Writes `folder/judgements.parquet`.

    Rows of kind `pair` and `edit` describe a seed's benchmark and the truth about it, those of kind
    `judgement` what a model said.
    """
    rows: list[dict[str, Any]] = []
    for seed in dict.fromkeys(one.seed for judged in found.values() for one in judged):
        bench = next(one for judged in found.values() for one in judged if one.seed == seed)
        of_seed = {"seed": seed, "model": None, "recipe": None}
        rows += [
            {**of_seed, "kind": "pair", "edit": None, "value": json.dumps(asdict(pair))}
            for pair in bench.pairs
        ]
        rows += [
            {**of_seed, "kind": "edit", "edit": name, "value": json.dumps(asdict(truth))}
            for name, truth in bench.truths.items()
        ]
    for model, judged in found.items():
        for one in judged:
            whence = {
                "seed": one.seed,
                "model": model,
                "recipe": recipe(study, f"seed{one.seed}/eval-{model}"),
            }
            rows += [
                {
                    **whence,
                    "kind": "judgement",
                    "edit": name,
                    "value": without_principles(judgement),
                }
                for name, judgement in one.judgements.items()
            ]
    columns = ("kind", "seed", "model", "recipe", "edit", "value")
    schema = pa.schema([(name, pa.int64() if name == "seed" else pa.string()) for name in columns])
    with written_at_once(folder / FILE) as partial:
        parquet.write_table(
            pa.Table.from_pylist(rows, schema), partial, compression="zstd", compression_level=19
        )


def read_archive(folder: Path) -> Archive:
    """What an earlier study left in its evidence folder. Raises InputError where nothing lies
    there."""
    if not (folder / FILE).is_file() or not (folder / EVIDENCE).is_file():
        raise InputError(
            f"{folder} holds no {FILE} and {EVIDENCE}; name the evidence folder of an earlier run."
        )
    pairs: dict[int, list[PairIndex]] = {}
    truths: dict[int, dict[str, EditTruth]] = {}
    found: dict[tuple[str, int], dict[str, Judgement]] = {}
    for row in parquet.read_table(folder / FILE).to_pylist():
        seed, value = row["seed"], json.loads(row["value"])
        if row["kind"] == "pair":
            pairs.setdefault(seed, []).append(
                PairIndex(**{**value, "edited": tuple(value["edited"])})
            )
        elif row["kind"] == "edit":
            truths.setdefault(seed, {})[row["edit"]] = EditTruth(
                tuple(value["verdicts"]), value["utility"]
            )
        else:
            found.setdefault((row["recipe"], seed), {})[row["edit"]] = Judgement.model_validate(
                value
            )
    judged = {
        name: Judged(pairs[seed], truths[seed], said, seed) for (name, seed), said in found.items()
    }
    evidence = json.loads((folder / EVIDENCE).read_text())
    return Archive(judged, evidence["seconds"], evidence["pairs"])


def left_to_run(study: Study, known: Archive) -> dict[str, Job]:
    """The jobs without those that only lead to judgements that are known already."""
    wanted: set[str] = set()

    def want(name: str) -> None:
        if name not in wanted:
            wanted.add(name)
            for before in study.jobs[name].needs:
                want(before)

    for name in study.jobs:
        if "/eval-" in name and recipe(study, name) not in known.by_recipe:
            want(name)
    return {name: job for name, job in study.jobs.items() if name in wanted}
