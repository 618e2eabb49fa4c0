"""The sandbox's held-out benchmark, in the public schema of EditScore's EditReward-Bench."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rrm.images import png_bytes
from rrm.sandbox.cases import Case, Edit

TASK_TYPES = {
    "recolour": "color_alter",
    "reshape": "subject-replace",
    "remove": "subject-remove",
    "add": "subject-add",
    "background": "background_change",
}


def task_type(case: Case) -> str:
    """The public name of what the case asks for."""
    return TASK_TYPES[case.steps[0].kind] if len(case.steps) == 1 else "compose"


def follow_share(case: Case, edit: Edit) -> float:
    """The share of steps that were done."""
    return float(np.mean(edit.verdicts[: len(case.steps)]))


def keep_share(case: Case, edit: Edit) -> float:
    """The share of what should be kept that was kept."""
    return float(np.mean(edit.verdicts[len(case.steps) : -1]))


def overall(case: Case, edit: Edit) -> float:
    """What people make of the edit."""
    return edit.utility


def dimension_rows(
    rng: np.random.Generator,
    cases: Sequence[Case],
    edits: Sequence[Sequence[Edit]],
    dimension: str,
    value: Callable[[Case, Edit], float],
    least: float,
    count: int,
) -> list[dict[str, Any]]:
    """`count` pairs (as far as there are) whose values differ by `least` or more, spread over the
    sources, the better edit first."""
    ranked: list[
        tuple[int, int, int, int]
    ] = []  # how many pairs of this source came before, source, better, worse
    for number, (case, several) in enumerate(zip(cases, edits, strict=True)):
        values = [value(case, edit) for edit in several]
        combinations = [
            p
            for p in itertools.combinations(range(len(several)), 2)
            if abs(values[p[0]] - values[p[1]]) >= least
        ]
        for turn, pick in enumerate(rng.permutation(len(combinations))):
            better, worse = sorted(combinations[pick], key=lambda k: -values[k])
            ranked.append((turn, number, better, worse))
    rows = []
    for _, number, better, worse in sorted(sorted(ranked)[:count], key=lambda r: r[1]):
        case = cases[number]
        images = [edits[number][better].image, edits[number][worse].image]
        rows.append(
            {
                "key": [f"s{number:04d}_{better}", f"s{number:04d}_{worse}"],
                "instruction": case.instruction,
                "input_image": case.source,
                "output_images": images,
                "task_type": task_type(case),
                "dimension": dimension,
            }
        )
    return rows


def benchmark_rows(
    rng: np.random.Generator,
    cases: Sequence[Case],
    edits: Sequence[Sequence[Edit]],
    pairs: int,
    others_share: float,
    least: float,
) -> list[dict[str, Any]]:
    """Rows of all three dimensions, `others_share` rows of the two others per row of "overall".

    Overall pairs differ by `least` utility or more, and no gold is a tie.
    """
    others = round(pairs * others_share)
    return [
        *dimension_rows(rng, cases, edits, "prompt_following", follow_share, 1e-6, others),
        *dimension_rows(rng, cases, edits, "consistency", keep_share, 1e-6, others),
        *dimension_rows(rng, cases, edits, "overall", overall, least, pairs),
    ]


def stored(image: Image.Image) -> dict[str, Any]:
    """The image as a Parquet cell."""
    return {"bytes": png_bytes(image), "path": None}


def write_benchmark(out: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Writes the rows as Parquet, which `datasets.load_dataset(folder, split="train")` reads with
    decoded images."""
    import datasets  # slow to import, and nothing else here wants it

    features = datasets.Features(
        {
            "key": datasets.Sequence(datasets.Value("string")),
            "instruction": datasets.Value("string"),
            "input_image": datasets.Image(),
            "output_images": datasets.Sequence(datasets.Image()),
            "task_type": datasets.Value("string"),
            "dimension": datasets.Value("string"),
        }
    )
    cells = [
        {
            **row,
            "input_image": stored(row["input_image"]),
            "output_images": [stored(image) for image in row["output_images"]],
        }
        for row in rows
    ]
    columns = {name: [row[name] for row in cells] for name in features}
    (out / "data").mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_dict(columns, features=features).to_parquet(
        out / "data" / "train-00000-of-00001.parquet"
    )
