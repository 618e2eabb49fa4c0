"""What a run's folder holds, for the report: stages, their numbers, and a summary of them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from eval.cache import read_jsonl
from rrm.errors import InputError
from rrm.runtime.stage import DONE, STARTED, read_note

STAGES = ("world", "data", "sft", "gcpo", "eval", "edit-nft", "edit-grpo", "edit-eval")
MODELS = ("chance", "teacher", "sft", "gcpo")
MODEL_KEYS = ("strict", "half_tie", "ci95", "n", "ties", "unparseable", "verdict_balanced_accuracy")
EDITORS = ("copy_source", "base", "nft", "grpo")
EDITOR_KEYS = ("reward", "all_pass", "by_principle", "ci95")


@dataclass(frozen=True)
class Stage:
    """A stage's folder and, when done, its cost (seconds, peak resident set in MB) and result."""

    name: str
    folder: Path
    state: Literal["done", "unfinished", "not run"]
    seconds: float | None = None
    peak_rss_mb: float | None = None
    result: Mapping[str, Any] | None = None

    @property
    def done(self) -> bool:
        """Whether it ran to its end."""
        return self.state == "done"


def without_nan(value: Any) -> Any:
    """The value with None in place of every NaN, which JSON does not know."""
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, list):
        return [without_nan(entry) for entry in value]
    if isinstance(value, dict):
        return {key: without_nan(entry) for key, entry in value.items()}
    return value


def read_json(path: Path) -> Any:
    """The JSON value at `path`. Raises InputError where there is none."""
    try:
        return without_nan(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing; run its stage again.") from error
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON ({error}); run its stage again.") from error


def read_stage(run: Path, name: str) -> Stage:
    """The stage of the run's folder."""
    folder = run / name
    if (folder / DONE).is_file():
        try:
            report = without_nan(read_note(folder / DONE, "seconds", "peak_rss_mb", "result"))
        except ValueError as error:
            raise InputError(f"{error}; run its stage again.") from error
        return Stage(
            name, folder, "done", report["seconds"], report["peak_rss_mb"], report["result"]
        )
    return Stage(name, folder, "unfinished" if (folder / STARTED).is_file() else "not run")


def read_stages(run: Path) -> dict[str, Stage]:
    """All stages, by name and in order. Raises InputError where there is no run at all."""
    if not run.is_dir():
        raise InputError(
            f"There is no run at {run}; make one first, or correct 'run' in the config."
        )
    return {name: read_stage(run, name) for name in STAGES}


def read_metrics(stage: Stage) -> list[dict[str, Any]]:
    """What the stage logged, step by step; nothing where it did not run."""
    path = stage.folder / "metrics.jsonl"
    return [without_nan(row) for _, row in read_jsonl(path)] if path.is_file() else []


def read_models(stage: Stage) -> dict[str, dict[str, Any]]:
    """Every judge's summary, by name, with its headline numbers; nothing without an evaluation."""
    headlines = (stage.result or {}).get("models", {})
    return {
        name: {**read_json(stage.folder / name / "summary.json"), "headline": headline}
        for name, headline in headlines.items()
    }


def read_editors(stage: Stage) -> dict[str, dict[str, Any]]:
    """Every editor's numbers, by name; nothing where their evaluation is not done."""
    return dict(read_json(stage.folder / "evaluation.json")) if stage.done else {}


def read_series(
    rows: Sequence[Mapping[str, Any]], step: str, key: str
) -> tuple[list[float], list[float]]:
    """Steps and values of one logged number, where it was logged."""
    points = [
        (row[step], row[key])
        for row in rows
        if row.get(key) is not None and row.get(step) is not None
    ]
    return [float(x) for x, _ in points], [float(y) for _, y in points]


def summarise_run(
    stages: Mapping[str, Stage],
    models: Mapping[str, Mapping[str, Any]],
    editors: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """The run in numbers; the same keys whatever was run, with None for what was not."""

    def headline(name: str) -> Mapping[str, Any]:
        return models.get(name, {}).get("headline") or {}

    return {
        "rrm": {name: {key: headline(name).get(key) for key in MODEL_KEYS} for name in MODELS},
        "editor": {
            name: {key: editors.get(name, {}).get(key) for key in EDITOR_KEYS} for name in EDITORS
        },
        "seconds": {name: stage.seconds for name, stage in stages.items()},
        "peak_rss_mb": {name: stage.peak_rss_mb for name, stage in stages.items()},
    }
