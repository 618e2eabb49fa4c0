"""How good editors truly are on held-out tasks whose truth is known, beside copying the source:
`rrm edit-eval`.

Every editor starts from the same noise. Leaves `evaluation.json`, and `samples/` with an
`index.json` for the report.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from pydantic import Field
from tqdm import tqdm

from rrm.config import Config
from rrm.editor.policy import LoadPolicy, Policy
from rrm.editor.tasks import EditorTask, read_tasks
from rrm.editor.truth import Truth, TruthSource
from rrm.errors import InputError
from rrm.records import Failure
from rrm.runtime.stage import run_stage, write_json
from rrm.statistics import mean_over_clusters

COPY = "copy_source"
CATEGORIES = ("follow", "keep", "quality")
EditFn = Callable[[Sequence[EditorTask], int], list[Image.Image]]
"""(tasks, seed) → one edited image per task."""


class EvaluateConfig(Config):
    """Which editors are compared, on how many held-out tasks and seeds."""

    renamed: ClassVar = {"seeds": "seed_count", "steps": "sampling_steps"}

    out: Path
    """Folder of the evaluation."""
    tasks: Path
    """Folder in the Edit-R1 format; its test split is used."""
    base: Path
    """Folder of the editor before training."""
    nft: Path | None = None
    """Folder of the editor after DiffusionNFT."""
    grpo: Path | None = None
    """Folder of the editor after Flow-GRPO."""
    task_count: int = Field(200, ge=2)
    """Test tasks used, the first ones."""
    seed_count: int = Field(3, ge=1)
    """Samples per task, each from noise of its own."""
    sampling_steps: int = Field(15, ge=1)
    """Euler steps of a sample."""
    shown: int = Field(6, ge=0, description="tasks whose samples are saved")

    def editors(self) -> dict[str, Path]:
        """The folders of the trained editors, by name."""
        named = {"base": self.base, "nft": self.nft, "grpo": self.grpo}
        return {name: path for name, path in named.items() if path is not None}


def rounded_mean(values: np.ndarray, sources: Sequence[str]) -> tuple[float, list[float] | None]:
    """`mean_over_clusters` with four digits: samples of one source count once."""
    centre, interval = mean_over_clusters(list(values), sources)
    return round(float(centre or 0.0), 4), interval and [round(end, 4) for end in interval]


def category_share(truth: Truth, category: str) -> float:
    """Share of the category's principles that hold, of one edit."""
    judged = zip(truth.verdicts, truth.principles, strict=True)
    return float(
        np.mean([verdict for verdict, principle in judged if principle.category == category])
    )


def summary_of(
    truths: Sequence[Truth], sources: Sequence[str], base: np.ndarray | None
) -> dict[str, Any]:
    """One editor's numbers over its samples; `base` holds the base editor's rewards of the same
    samples, where there are."""
    rewards = np.array([truth.reward for truth in truths])
    reward, interval = rounded_mean(rewards, sources)
    summary = {
        "reward": reward,
        "ci95": interval,
        "all_pass": round(float(np.mean([all(truth.verdicts) for truth in truths])), 4),
        "by_principle": {
            c: round(float(np.mean([category_share(t, c) for t in truths])), 4) for c in CATEGORIES
        },
        "n": len(truths),
        "sources": len(set(sources)),
    }
    if base is not None:
        gain, gain_interval = rounded_mean(rewards - base, sources)
        summary |= {"gain_over_base": gain, "gain_ci95": gain_interval}
    return summary


def editing_with(model: Policy, steps: int) -> EditFn:
    """The trained editor as a function of tasks and a seed."""
    return lambda tasks, seed: model.edit(
        [t.source for t in tasks], [t.instruction for t in tasks], seed, steps
    )


def truths_of(
    source: TruthSource, tasks: Sequence[EditorTask], images: Sequence[Image.Image]
) -> list[Truth]:
    """The truth about one edit of each task. Raises InputError for a task outside the sandbox, of
    which nothing is known."""
    truths = []
    for task, image in zip(tasks, images, strict=True):
        truth = source.truth(task.source, image, task.instruction)
        if isinstance(truth, Failure):
            raise InputError(
                f"Only sandbox tasks have a truth to evaluate against, and one here is {truth.detail}."
            )
        truths.append(truth)
    return truths


def evaluate(
    config: EvaluateConfig,
    out: Path,
    tasks: Sequence[EditorTask],
    load_policy: LoadPolicy,
    truth: TruthSource,
) -> dict[str, Any]:
    """Every editor's summary; also written to `out/evaluation.json`, with the first tasks' samples
    beside it."""
    editors: dict[str, EditFn] = {COPY: lambda asked, seed: [task.source for task in asked]}
    editors |= {
        name: editing_with(load_policy(path), config.sampling_steps)
        for name, path in config.editors().items()
    }
    sources = [task.source_digest for task in tasks] * config.seed_count
    truths: dict[str, list[Truth]] = {name: [] for name in editors}
    shown: dict[str, list[Image.Image]] = {}
    for name, edit in editors.items():
        for seed in tqdm(range(config.seed_count), desc=f"evaluate {name}", mininterval=2):
            images = edit(tasks, seed)
            truths[name] += truths_of(truth, tasks, images)
            shown.setdefault(name, images[: config.shown])
    base = np.array([one.reward for one in truths["base"]])
    result = {
        name: summary_of(t, sources, None if name in (COPY, "base") else base)
        for name, t in truths.items()
    }
    write_json(out / "evaluation.json", result)
    save_samples(out / "samples", tasks, truths, shown)
    return result


def save_samples(
    folder: Path,
    tasks: Sequence[EditorTask],
    truths: dict[str, list[Truth]],
    shown: dict[str, list[Image.Image]],
) -> None:
    """`<task>_source.png` and `<task>_<editor>.png` for the first tasks, and `index.json` that says
    what each is."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for index in range(len(shown[COPY])):
        tasks[index].source.save(folder / f"{index}_source.png")
        samples = {}
        for name, images in shown.items():
            images[index].save(folder / f"{index}_{name}.png")
            truth = truths[name][index]
            samples[name] = {
                "image": f"{index}_{name}.png",
                "reward": round(truth.reward, 4),
                "verdicts": list(truth.verdicts),
            }
        questions = [principle.question for principle in truths[COPY][index].principles]
        source = {
            "instruction": tasks[index].instruction,
            "source": f"{index}_source.png",
            "principles": questions,
        }
        rows.append({**source, "samples": samples})
    write_json(folder / "index.json", rows)


def run(config: EvaluateConfig, load_policy: LoadPolicy, truth: TruthSource) -> None:
    """Evaluates the editors that the config names, as a stage."""
    tasks = read_tasks(config.tasks, "test", truth=truth)[: config.task_count]
    torch.set_num_threads(1)
    weights = [
        path
        for folder in config.editors().values()
        for path in [folder, *sorted(folder.glob("*.safetensors"))]
    ]
    inputs = [config.tasks / "test_metadata.jsonl", config.tasks, *weights]
    run_stage(
        "editor-evaluate",
        config.out,
        config,
        inputs,
        lambda out: evaluate(config, out, tasks, load_policy, truth),
    )
