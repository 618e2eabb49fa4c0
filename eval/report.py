"""One page about a run that opens offline: `rrm report --config FILE`.

Writes `report.html` (self-contained, no network) and `summary.json` into the run's folder. Every
number is read from what the stages left; a stage that did not run is shown as such.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from markupsafe import Markup

from eval.collect import (
    EDITORS,
    MODELS,
    STAGES,
    Stage,
    read_editors,
    read_json,
    read_metrics,
    read_models,
    read_series,
    read_stages,
    summarise_run,
)
from eval.editrewardbench.examples import Example, read_examples
from eval.figures import COLOURS, Curve, bars, curves, intervals
from eval.wording import FILTERS
from rrm.config import Config
from rrm.errors import InputError
from rrm.images import data_url
from rrm.render.pages import template
from rrm.runtime.stage import write_json, write_text

NAMES = {
    "chance": "Chance",
    "teacher": "Teacher",
    "sft": "RRM, SFT",
    "gcpo": "RRM, SFT + GCPO",
    "copy_source": "Copy the source",
    "base": "Base editor",
    "nft": "After NFT",
    "grpo": "After GRPO",
}
CATEGORIES = {"follow": "Instruction followed", "keep": "Rest preserved", "quality": "Image clean"}
EXAMPLES = 3
PACKAGES = ("edit-rrm", "torch", "transformers", "trl", "datasets", "openai", "diffusers")


class ReportConfig(Config):
    """Which run is reported."""

    run: str
    """The folder that holds the stages' folders."""
    configs: str
    """The folder of the configs that the stages ran with, shown in the report."""


def inlined(path: Path, kind: str = "png") -> str:
    """The image at `path` as a URL that carries it. Raises InputError where it is missing."""
    if not path.is_file():
        raise InputError(f"{path} is missing; run its stage again.")
    return data_url(path.read_bytes(), kind)


def installed(package: str) -> str:
    """The package's version, or that it is absent."""
    try:
        return version(package)
    except ImportError:
        return "not installed"


def config_texts(configs: Path) -> dict[str, str]:
    """Every stage's config as written, where there is one."""
    paths = {stage: configs / f"{stage.replace('-', '_')}.yaml" for stage in STAGES}
    return {
        stage: path.read_text(encoding="utf-8") for stage, path in paths.items() if path.is_file()
    }


def one_curve(
    rows: Sequence[Mapping[str, Any]], step: str, key: str, label: str, colour: str
) -> Curve:
    """One logged number as a curve."""
    return label, colour, *read_series(rows, step, key)


def training_figures(stages: Mapping[str, Stage]) -> dict[str, Markup | None]:
    """The curves of every training that logged something."""
    sft, gcpo = read_metrics(stages["sft"]), read_metrics(stages["gcpo"])
    blue, amber, grey = COLOURS["gcpo"], COLOURS["sft"], COLOURS["chance"]
    gcpo_panels = {
        "Mean reward (win ratio)": ("reward", blue),
        "Tie rate": ("tie_rate", amber),
        "Unreadable": ("unreadable_rate", grey),
    }
    editor_panels = {}
    for title, name in (("DiffusionNFT", "edit-nft"), ("Flow-GRPO", "edit-grpo")):
        rows = read_metrics(stages[name])
        given = one_curve(rows, "epoch", "reward_mean", "reward from the RRM", blue)
        editor_panels[title] = [
            given,
            one_curve(rows, "epoch", "true_reward_mean", "true reward", amber),
        ]
    return {
        "sft": curves(
            {"Loss": [one_curve(sft, "step", "loss", "loss", amber)]}, "step", "SFT loss"
        ),
        "gcpo": curves(
            {
                title: [one_curve(gcpo, "step", key, title, colour)]
                for title, (key, colour) in gcpo_panels.items()
            },
            "step",
            "GCPO training",
        ),
        "editor": curves(editor_panels, "epoch", "Reward of the editors during training"),
    }


def model_figure(rrm: Mapping[str, Mapping[str, Any]]) -> Markup | None:
    """Accuracy with interval per model that was evaluated."""
    rows = {}
    for name in MODELS:
        numbers = rrm[name]
        if numbers["half_tie"] is not None:
            interval = None if numbers["ci95"] is None else [100 * end for end in numbers["ci95"]]
            rows[NAMES[name]] = (COLOURS[name], 100 * numbers["half_tie"], interval)
    return intervals(
        rows, "pairs ranked as people do, % (a tie counts half)", "Accuracy of the reward models"
    )


def editor_figures(editors: Mapping[str, Mapping[str, Any]]) -> dict[str, Markup | None]:
    """True reward with interval, and principles met, per editor that was evaluated."""
    known = {name: editors[name] for name in EDITORS if editors[name]["reward"] is not None}
    rows = {
        NAMES[name]: (COLOURS[name], numbers["reward"], numbers["ci95"])
        for name, numbers in known.items()
    }
    series = {
        NAMES[n]: (COLOURS[n], [numbers["by_principle"][c] for c in CATEGORIES])
        for n, numbers in known.items()
    }
    return {
        "reward": intervals(rows, "true reward, 0 to 1", "True reward of the editors"),
        "principles": bars(list(CATEGORIES.values()), series, "Principles met by the editors"),
    }


def example_pairs(examples: Sequence[Example]) -> list[Example]:
    """Two pairs judged right, of different task types if there are any, and a mistake; each of a
    source of its own, filled up with others where one kind is lacking."""
    right = [example for example in examples if example.kind == "right"]
    mistakes = [example for example in examples if example.kind != "right"]
    others = [e for e in right if e.outcome.task_type != right[0].outcome.task_type]
    chosen: dict[str, Example] = {}
    for example in (*right[:1], *others[:1], *mistakes[:1], *right, *mistakes):
        if example.outcome.decided and example.judgements is not None:
            chosen.setdefault(example.outcome.source, example)
    return list(chosen.values())[:EXAMPLES]


def example_edits(folder: Path, example: Example) -> list[dict[str, Any]]:
    """The two edits, the preferred one first, with image, judgement and verdicts."""
    edits = []
    for side, image, judgement in zip(
        "ab", example.images[1:], example.judgements or (), strict=True
    ):
        verdicts = judgement.read.verdicts if judgement.read else [None] * len(judgement.principles)
        edits.append(
            {
                "preferred": example.outcome.label == side,
                "image": inlined(folder / image, "jpeg"),
                "judgement": judgement.model_dump(mode="json"),
                "verdicts": list(zip(judgement.principles, verdicts, strict=True)),
            }
        )
    return sorted(edits, key=lambda edit: not edit["preferred"])


def judged_examples(stage: Stage) -> dict[str, Any] | None:
    """Edits that the last judge of the evaluation judged, images included."""
    models = list((stage.result or {}).get("models", {}))
    if not models:
        return None
    folder = stage.folder / models[-1]
    pairs = [
        {
            "instruction": example.outcome.instruction,
            "task_type": example.outcome.task_type,
            "source": inlined(folder / example.images[0], "jpeg"),
            "edits": example_edits(folder, example),
        }
        for example in example_pairs(read_examples(folder))
    ]
    return {"model": models[-1], "pairs": pairs}


def editor_samples(stage: Stage) -> list[dict[str, Any]] | None:
    """The editors' samples on the first held-out tasks, images included."""
    if not stage.done:
        return None
    folder = stage.folder / "samples"
    rows = read_json(folder / "index.json")
    for row in rows:
        row["source"] = inlined(folder / row["source"])
        for sample in row["samples"].values():
            sample["image"] = inlined(folder / sample["image"])
            sample["verdicts"] = list(zip(row["principles"], sample["verdicts"], strict=True))
    return list(rows)


def paired(stage: Stage, model: str, against: str) -> Mapping[str, Any] | None:
    """The paired difference of two models, where the evaluation made it."""
    for entry in (stage.result or {}).get("compare", []):
        if (entry["model"], entry["against"]) == (model, against):
            return dict(entry)
    return None


def page(config: ReportConfig) -> tuple[str, dict[str, Any]]:
    """The report's HTML and the run's summary."""
    run = Path(config.run)
    stages = read_stages(run)
    models, editors = read_models(stages["eval"]), read_editors(stages["edit-eval"])
    summary = summarise_run(stages, models, editors)
    html = template("eval", "report.html.j2", FILTERS).render(
        run=run.name,
        stages=stages,
        summary=summary,
        rrm=summary["rrm"],
        editor=summary["editor"],
        models={name: models[name] for name in MODELS if name in models},
        editors=editors,
        names=NAMES,
        colours=COLOURS,
        categories=CATEGORIES,
        difference=paired(stages["eval"], "gcpo", "sft"),
        configs=config_texts(Path(config.configs)),
        versions={
            "Python": platform.python_version(),
            **{package: installed(package) for package in PACKAGES},
        },
        training=training_figures(stages),
        model_figure=model_figure(summary["rrm"]),
        editor_figures=editor_figures(summary["editor"]),
        examples=judged_examples(stages["eval"]),
        samples=editor_samples(stages["edit-eval"]),
        has_card=(run / "data" / "card.html").is_file(),
    )
    return html, summary


def write_report(config: ReportConfig) -> Path:
    """Writes the report and the summary; returns the report's path."""
    html, summary = page(config)
    path = Path(config.run) / "report.html"
    write_text(path, html)
    write_json(Path(config.run) / "summary.json", summary)
    return path
