"""From what the study's stages left to its evidence: every number per seed and pooled, paired
tests, and the targets."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetensors import safe_open

from eval.ablation.archive import Archive, recipe
from eval.ablation.judged import Judged, judged_here
from eval.ablation.study import AblationConfig, Study
from eval.collect import read_json
from eval.editrewardbench.sandbox_truth import QUALITY_BANDS, band_of
from eval.outcomes import accuracies, paired_difference
from rrm import statistics
from rrm.runtime.stage import DONE
from rrm.sandbox.language import agrees

PACKAGES = (
    "edit-rrm",
    "torch",
    "transformers",
    "trl",
    "peft",
    "tokenizers",
    "numpy",
    "scipy",
    "pillow",
)
COMPARED = (
    ("gcpo", "sft-tv"),
    ("sft-tv", "sft-t"),
    ("sft-tv", "sft-v"),
    ("sft-tv", "sft-holistic"),
)
"""(model, against): who is compared with whom on the same pairs, beside the sizes and the remedies.
"""


def mean_scores(found: Sequence[Judged]) -> dict[str, float | None]:
    """The mean score of readable judgements by quality of the edit, and of all of them."""
    scores: dict[str, list[float]] = {name: [] for name, _ in QUALITY_BANDS}
    for one in found:
        for name, judgement in one.judgements.items():
            if judgement.score is not None:
                scores[band_of(one.truths[name].utility)].append(judgement.score)
    return {
        **{band: statistics.mean(values) for band, values in scores.items()},
        "all": statistics.mean([v for s in scores.values() for v in s]),
    }


def measures(found: Sequence[Judged]) -> dict[str, Any]:
    """All numbers of one model over one or several seeds' benchmarks."""
    shares = accuracies([outcome for one in found for outcome in one.outcomes])
    judgements = [
        (name, j, one.truths[name]) for one in found for name, j in one.judgements.items()
    ]
    given = [
        (None if j.read is None else j.read.verdicts, truth.verdicts) for _, j, truth in judgements
    ]
    verdicts = statistics.verdict_accuracy([(said, truth) for said, truth in given if said != ()])
    consistent = [
        agrees(j.thought, j.read.verdicts)
        for _, j, _ in judgements
        if j.read is not None and j.read.verdicts
    ]
    checked = [bool(value) for value in consistent if value is not None]
    readable = sum(j.read is not None for _, j, _ in judgements)
    return {
        **{name: shares[name] for name in ("strict", "half_tie", "n", "right", "ties")},
        "unparseable": shares["unreadable"],
        "ci95": shares["half_tie_ci95"],
        "strict_ci95": shares["strict_ci95"],
        "tie_rate": shares["ties"] / shares["n"],
        "edits": len(judgements),
        "trace_validity": readable / len(judgements),
        "verdict_balanced_accuracy": verdicts.balanced,
        "verdict_recall_met": verdicts.recall_of_1,
        "verdict_recall_not_met": verdicts.recall_of_0,
        "thoughts_complete": statistics.mean([float(value is not None) for value in consistent]),
        "verdicts_agree_with_thought": statistics.mean(checked),
        "mean_score_by_quality": mean_scores(found),
    }


def compared(first: Sequence[Judged], second: Sequence[Judged]) -> dict[str, Any]:
    """How much better the first model is on the same pairs: overall, and the difference of verdicts
    and of scores."""
    ours, theirs = (
        [outcome for one in found for outcome in one.outcomes] for found in (first, second)
    )
    by_seed = {
        str(a.seed): paired_difference(a.outcomes, b.outcomes) for a, b in zip(first, second, strict=True)
    }  # fmt: skip
    stricter = [
        (f"{a.seed}/{name}", judgement.score - other.score)
        for a, b in zip(first, second, strict=True)
        for name, judgement in a.judgements.items()
        if judgement.score is not None and (other := b.judgements[name]).score is not None
    ]
    shifts = [shift for _, shift in stricter]
    return {
        "pooled": paired_difference(ours, theirs),
        "seeds": by_seed,
        "score_shift": statistics.mean(shifts),
        "score_shift_ci95": statistics.interval_of_mean(shifts, [name for name, _ in stricter]),
    }


def target(what: str, least: float, values: Mapping[int, float | None]) -> dict[str, Any]:
    """Whether a number reaches what was aimed at, for every seed that there is one of."""
    known = {str(seed): value for seed, value in values.items() if value is not None}
    return {
        "what": what,
        "at_least": least,
        "seeds": known,
        "met": bool(known) and all(v >= least for v in known.values()),
    }


def targets(
    models: Mapping[str, Mapping[str, Any]], comparisons: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """What was to be reached, and whether it was, seed by seed."""

    def of(name: str, key: str) -> dict[int, float | None]:
        return {
            int(seed): found[key] for seed, found in models.get(name, {}).get("seeds", {}).items()
        }

    gains: dict[str, Any] = {}
    for comparison in comparisons:
        if (comparison["model"], comparison["against"]) == ("gcpo", "sft-tv"):
            gains = comparison["seeds"]
    before, after = (
        of("sft-tv", "verdict_balanced_accuracy"),
        of("gcpo", "verdict_balanced_accuracy"),
    )
    kept = {
        seed: a - b
        for seed, a in after.items()
        if a is not None and (b := before.get(seed)) is not None
    }
    return [
        target("verdict balanced accuracy after SFT", 0.95, before),
        target("pairs (ties half) after SFT", 0.70, of("sft-tv", "half_tie")),
        target("pairs (ties half) after GCPO", 0.85, of("gcpo", "half_tie")),
        target("paired gain of GCPO", 0.10, {int(s): d["half_tie"] for s, d in gains.items()}),
        target(
            "1 − p of that gain",
            0.999,
            {int(s): None if d["p"] is None else 1 - d["p"] for s, d in gains.items()},
        ),
        target("change of verdict accuracy by GCPO", -0.01, kept),
        target(
            "verdict list agrees with the thought after GCPO",
            0.98,
            of("gcpo", "verdicts_agree_with_thought"),
        ),
    ]


def stage_seconds(study: Study, known: Archive) -> dict[str, float]:
    """Seconds of every stage that is done, here or in what is known."""
    done = {name: study.config.out / name / DONE for name in study.jobs}
    here = {name: read_json(path)["seconds"] for name, path in done.items() if path.is_file()}
    return {
        name: seconds
        for name in study.jobs
        if (seconds := here.get(name, known.seconds.get(name))) is not None
    }


def human_pairs(study: Study, known: Archive) -> dict[str, int]:
    """How many pairs GCPO had on each seed, unless a number was drawn of them: here or in what is
    known."""
    trained = {str(seed): study.folder(seed, "gcpo", DONE) for seed in study.config.seeds}
    return known.pairs | {
        seed: read_json(path)["result"]["pairs"] for seed, path in trained.items() if path.is_file()
    }


def judged_models(study: Study, known: Archive) -> dict[str, list[Judged]]:
    """By model, its judgements on each seed: of this study's folder, else those that the same
    recipe gave before."""
    found: dict[str, list[Judged]] = {}
    for name in dict.fromkeys(
        name.partition("/eval-")[2] for name in study.jobs if "/eval-" in name
    ):
        each = (
            judged_here(study, seed, name)
            or known.by_recipe.get(recipe(study, f"seed{seed}/eval-{name}"))
            for seed in study.config.seeds
            if f"seed{seed}/eval-{name}" in study.jobs
        )
        found[name] = [one for one in each if one is not None]
    return found


def collect(
    study: Study, command: str, by_model: Mapping[str, Sequence[Judged]], known: Archive
) -> dict[str, Any]:
    """The evidence as it stands: what is done is in it, what is not is named."""
    config: AblationConfig = study.config
    models = {
        name: {
            "seeds": {str(one.seed): measures([one]) for one in found},
            "pooled": measures(found),
        }
        for name, found in by_model.items()
        if found
    }
    sizes = [size for size in config.bases if size != config.main]
    wanted = [
        *COMPARED,
        *(("sft-tv", f"sft-tv-{size}") for size in sizes),
        *(("gcpo", f"gcpo-{size}") for size in sizes),
    ]
    wanted += [(f"gcpo-{name}", "gcpo") for name in config.remedies]
    wanted += [(f"gcpo-{size}", f"sft-tv-{size}") for size in sizes]
    comparisons = []
    for name, other in wanted:
        shared = {one.seed for one in by_model.get(name, ())} & {
            one.seed for one in by_model.get(other, ())
        }
        if shared:
            first, second = (
                [one for one in by_model[model] if one.seed in shared] for model in (name, other)
            )
            comparisons.append({"model": name, "against": other, **compared(first, second)})
    seconds = stage_seconds(study, known)
    return {
        "command": command,
        "config": config.model_dump(mode="json"),
        "versions": {package: version(package) for package in PACKAGES},
        "machine": {
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "system": platform.system(),
        },
        "stages": {
            "done": len(seconds),
            "planned": len(study.jobs),
            "seconds_in_all": round(sum(seconds.values())),
        },
        "unfinished": [name for name in study.jobs if name not in seconds],
        "targets": targets(models, comparisons),
        "models": models,
        "comparisons": comparisons,
        "sizes": {size: parameters(Path(base)) for size, base in config.bases.items()},
        "seconds": seconds,
        "pairs": human_pairs(study, known),
    }


def parameters(checkpoint: Path) -> int | None:
    """How many weights the checkpoint has; None for one that is not a local folder."""
    if not checkpoint.is_dir():
        return None
    total = 0
    for file in checkpoint.glob("*.safetensors"):
        with safe_open(file, "np") as tensors:
            total += sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118 - not a dict
    return total
