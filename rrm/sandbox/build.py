"""Builds a sandbox world: tasks, candidates, human preferences, a held-out benchmark, and the truth
about them.

`rrm world --config configs/sandbox/world.yaml` writes
    tasks/            a dataset in the Edit-R1 format: images/, train_metadata.jsonl, test_metadata.jsonl (held-out scenes)
    candidates.jsonl  {"task", "instruction", "image", "editor"}: edits of the train tasks, "task" being the metadata's image
    pairs.jsonl       {"source", "instruction", "edited_a", "edited_b", "label"}: what people prefer, on other tasks
    benchmark/        held-out pairs in the schema of EditScore's EditReward-Bench
    truth.jsonl       what is true of every edit of the candidates, the pairs and the benchmark; no stage of the pipeline reads it
Paths inside a JSONL file are relative to its folder.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image
from pydantic import Field
from tqdm import tqdm

from rrm.config import Config
from rrm.images import png_bytes
from rrm.runtime.stage import run_stage
from rrm.sandbox.benchmark import benchmark_rows, write_benchmark
from rrm.sandbox.cases import Case, Edit, sample_cases, scripted_images, true_edit
from rrm.sandbox.edits import decompose

SAME_BELOW = 1.0
"""Difference in utility that people don't notice."""


class WorldConfig(Config):
    """How large a world to build."""

    renamed: ClassVar = {"pairs": "pair_count"}

    out: str
    """Folder of the world."""
    seed: int = 0
    """Of every draw."""
    train_tasks: int = Field(1100, ge=1)
    """Tasks for the data pipeline and the editor."""
    test_tasks: int = Field(400, ge=1)
    """Held-out tasks for the editor's evaluation."""
    candidates_per_task: int = Field(5, ge=2, le=8)
    """Scripted edits of each task, one of them right."""
    pair_tasks: int = Field(500, ge=1)
    """Other tasks, for human pairs."""
    pair_count: int = Field(1500, ge=1)
    """Human pairs."""
    benchmark_sources: int = Field(320, ge=1)
    """Held-out scenes of the benchmark."""
    benchmark_pairs: int = Field(640, ge=1)
    """Pairs of its dimension "overall"."""
    benchmark_others: float = Field(0.75, ge=0)
    """Rows of each of the two other dimensions per row of "overall"; the public set has about three
    quarters."""
    editor_base: str | None = None
    """Folder of an editor whose samples join the edits; None: scripted edits only."""
    editor_samples: int = Field(2, ge=0)
    """Its samples of each task that has some."""
    editor_share: float = Field(0.4, ge=0, le=1)
    """Share of the tasks with samples of it."""


def base_images(
    config: WorldConfig, rng: np.random.Generator, cases: Sequence[Case]
) -> list[list[Image.Image]]:
    """The base editor's samples of each case: `editor_samples` for a share of the cases, none for
    the others."""
    samples: list[list[Image.Image]] = [[] for _ in cases]
    if config.editor_base is None or config.editor_samples == 0:
        return samples
    # imports torch, which a world of scripted edits does without
    from rrm.sandbox.models.editor import TinyKontext

    editor = TinyKontext.load(config.editor_base)
    chosen = np.flatnonzero(rng.random(len(cases)) < config.editor_share)
    if not len(chosen):  # few cases, and none was drawn
        return samples
    for _ in range(config.editor_samples):
        for part in tqdm(
            np.array_split(chosen, max(1, len(chosen) // 64)), desc="base editor", leave=False
        ):
            asked = [cases[i] for i in part]
            seed = int(rng.integers(2**31))
            images = editor.edit(
                [c.source for c in asked], [c.instruction for c in asked], seed=seed, steps=6
            )
            for i, image in zip(part, images, strict=True):
                samples[i].append(image)
    return samples


def edits_of(config: WorldConfig, part: int, cases: Sequence[Case], name: str) -> list[list[Edit]]:
    """All edits of each case, no two of a case alike."""
    rng = np.random.default_rng([config.seed, part])
    sampled = base_images(config, rng, cases)
    edits = []
    for case, images in zip(tqdm(cases, desc=name), sampled, strict=True):
        found = {
            image.tobytes(): (editor, image)
            for editor, image in scripted_images(rng, case, config.candidates_per_task)
        }
        for image in images:
            found.setdefault(image.tobytes(), ("base", image))
        edits.append([true_edit(case, editor, image) for editor, image in found.values()])
    return edits


def save(path: Path, image: Image.Image) -> None:
    """Writes the image as PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png_bytes(image))


def write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Writes the rows as JSONL."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def digest(image: Image.Image) -> str:
    """The name of the image in every image store."""
    return hashlib.sha256(png_bytes(image)).hexdigest()


def truth_row(part: str, case: Case, edit: Edit) -> dict[str, Any]:
    """What is true of an edit."""
    return {
        "part": part,
        "source": digest(case.source),
        "edited": digest(edit.image),
        "instruction": case.instruction,
        "editor": edit.editor,
        "principles": [principle.model_dump() for principle in decompose(case.steps)],
        "verdicts": list(edit.verdicts),
        "utility": round(edit.utility, 4),
    }


def write_tasks(out: Path, split: str, cases: Sequence[Case]) -> None:
    """One split of the task folder."""
    rows = []
    for number, case in enumerate(cases):
        name = f"images/{split}_{number:05d}.png"
        save(out / name, case.source)
        rows.append({"prompt": case.instruction, "image": name, "requirement": None})
    write_lines(out / f"{split}_metadata.jsonl", rows)


def write_candidates(out: Path, cases: Sequence[Case], edits: Sequence[Sequence[Edit]]) -> int:
    """The candidates of the train tasks; returns how many."""
    rows = []
    for number, (case, several) in enumerate(zip(cases, edits, strict=True)):
        for k, edit in enumerate(several):
            name = f"candidates/{number:05d}_{k}_{edit.editor}.png"
            save(out / name, edit.image)
            task = f"images/train_{number:05d}.png"
            rows.append(
                {
                    "task": task,
                    "instruction": case.instruction,
                    "image": name,
                    "editor": edit.editor,
                }
            )
    write_lines(out / "candidates.jsonl", rows)
    return len(rows)


def human_label(utility_a: float, utility_b: float) -> str:
    """Which of two edits people prefer."""
    if abs(utility_a - utility_b) < SAME_BELOW:
        return "same"
    return "a" if utility_a > utility_b else "b"


def write_pairs(
    out: Path, config: WorldConfig, cases: Sequence[Case], edits: Sequence[Sequence[Edit]]
) -> dict[str, int]:
    """The human pairs; returns how many have each label."""
    rng = np.random.default_rng([config.seed, 40])
    per_task = -(-config.pair_count // len(cases))
    rows: list[dict[str, Any]] = []
    for number, (case, several) in enumerate(zip(cases, edits, strict=True)):
        save(out / f"pairs/{number:05d}_source.png", case.source)
        names = [f"pairs/{number:05d}_{k}_{edit.editor}.png" for k, edit in enumerate(several)]
        for name, edit in zip(names, several, strict=True):
            save(out / name, edit.image)
        combinations = list(itertools.combinations(range(len(several)), 2))
        for pick in rng.permutation(len(combinations))[:per_task]:
            a, b = rng.permutation(combinations[pick])
            row = {"source": f"pairs/{number:05d}_source.png", "instruction": case.instruction}
            label = human_label(several[a].utility, several[b].utility)
            rows.append({**row, "edited_a": names[a], "edited_b": names[b], "label": label})
    rows = rows[: config.pair_count]
    write_lines(out / "pairs.jsonl", rows)
    return {label: sum(row["label"] == label for row in rows) for label in ("a", "b", "same")}


def build(config: WorldConfig, out: Path) -> dict[str, Any]:
    """Writes the world; returns its sizes."""
    taken: set[str] = set()
    rng = np.random.default_rng([config.seed, 0])
    train = sample_cases(rng, config.train_tasks, False, taken)
    others = sample_cases(rng, config.pair_tasks, False, taken)
    test = sample_cases(rng, config.test_tasks, True, taken)
    bench = sample_cases(rng, config.benchmark_sources, True, taken)
    write_tasks(out / "tasks", "train", train)
    write_tasks(out / "tasks", "test", test)
    groups = [("candidates", train, 1), ("pairs", others, 2), ("benchmark", bench, 3)]
    edits = {name: edits_of(config, part, cases, name) for name, cases, part in groups}
    count = write_candidates(out, train, edits["candidates"])
    labels = write_pairs(out, config, others, edits["pairs"])
    rows = benchmark_rows(
        np.random.default_rng([config.seed, 50]),
        bench,
        edits["benchmark"],
        config.benchmark_pairs,
        config.benchmark_others,
        SAME_BELOW,
    )
    write_benchmark(out / "benchmark", rows)
    everything = [
        (name, c, e)
        for name, cases, _ in groups
        for c, several in zip(cases, edits[name], strict=True)
        for e in several
    ]
    write_lines(out / "truth.jsonl", (truth_row(name, c, e) for name, c, e in everything))
    shares = {
        d: sum(row["dimension"] == d for row in rows)
        for d in ("overall", "prompt_following", "consistency")
    }
    sampled = sum(edit.editor == "base" for _, _, edit in everything)
    sizes = {
        "train_tasks": len(train),
        "test_tasks": len(test),
        "candidates": count,
        "base_editor_samples": sampled,
    }
    return {**sizes, "pairs": labels, "benchmark": shares}


def run(config: WorldConfig) -> None:
    """Draws the world as a stage: skipped where it is done."""
    inputs = [config.editor_base] if config.editor_base and config.editor_samples else []
    run_stage("world", config.out, config, inputs, lambda out: build(config, out))
