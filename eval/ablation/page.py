"""The evidence as a page: tables in Markdown, and plots beside it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import jinja2
import matplotlib
from matplotlib.figure import Figure

from eval.editrewardbench.sandbox_truth import QUALITY_BANDS
from eval.wording import FILTERS, MISSING
from rrm.render.plots import STYLE, new_axes
from rrm.runtime.stage import write_text

BLUE, ORANGE, GREY, GREEN, VIOLET = "#3b7dd8", "#e09f3e", "#9aa0a6", "#2a9d8f", "#b07aa1"
LABELS = {
    "chance": "chance",
    "noiseless": "teachers without an error",
    "sandbox-lenient": "teacher, lenient (T)",
    "sandbox-hasty": "teacher, hasty (T)",
    "sft-holistic": "holistic SFT (VIEScore-style)",
    "sft-t": "RRM, T",
    "sft-v": "RRM, V",
    "sft-tv": "RRM, T+V",
    "gcpo": "RRM, T+V, GCPO",
}
SHORT = {"noiseless": "teachers without an error", "sft-tv": "T+V", "gcpo": "T+V+GCPO"}


def label(name: str, evidence: Mapping[str, Any]) -> str:
    """What a model is called in the tables."""
    others = list(evidence["config"]["bases"])[1:]
    if name in LABELS:
        return LABELS[name]
    if name == "base":
        return "base, asked to judge"
    for size in others:
        made = {
            f"base-{size}": f"{size}: base, asked to judge",
            f"sft-tv-{size}": f"{size}: RRM, T+V",
            f"gcpo-{size}": f"{size}: RRM, T+V, GCPO",
        }
        if name in made:
            return made[name]
    keys = evidence["config"]["remedies"].get(name.removeprefix("gcpo-"))
    if keys:
        return "GCPO with " + ", ".join(f"{key}: {value}" for key, value in keys.items())
    return f"GCPO on {name.removeprefix('gcpo-n')} pairs"


def axes_of(count: int, width: float, height: float) -> Any:
    """Axes on white, since the page shows the plot as an image."""
    figure, axes = new_axes(count, width, height)
    figure.set_facecolor("white")
    return figure, axes


def keep(figure: Figure, path: Path) -> None:
    """Writes the figure as SVG that is the same for the same numbers."""
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": path.stem}):
        figure.savefig(path, format="svg", metadata={"Date": None})


def dots(evidence: Mapping[str, Any], names: list[str], path: Path) -> None:
    """Pair accuracy of each model: pooled with its interval, every seed a small mark."""
    with matplotlib.rc_context(STYLE):
        figure, (axis,) = axes_of(1, 7.2, 0.8 + 0.32 * len(names))
        for place, name in enumerate(names):
            found = evidence["models"][name]
            colour = BLUE if name.startswith("gcpo") else ORANGE if name.startswith("sft") else GREY
            ends = found["pooled"]["ci95"] or ()  # none where it could not be estimated
            axis.plot(
                ends,
                [place] * len(ends),
                color=colour,
                linewidth=2.6,
                alpha=0.5,
                solid_capstyle="round",
            )
            axis.plot([found["pooled"]["half_tie"]], [place], "o", color=colour, markersize=7)
            axis.plot(
                [s["half_tie"] for s in found["seeds"].values()],
                [place] * len(found["seeds"]),
                "|",
                color=colour,
                markersize=11,
            )
        axis.set_yticks(range(len(names)), [label(name, evidence) for name in names], fontsize=9)
        axis.margins(y=0.6 / len(names))
        axis.invert_yaxis()
        axis.set_xlabel("pair accuracy, ties half (bar: 95%, marks: seeds)")
        keep(figure, path)


def curve(
    evidence: Mapping[str, Any], points: Sequence[tuple[int, Mapping[str, Any]]], path: Path
) -> None:
    """Pair accuracy and verdict accuracy against the number of human pairs."""
    with matplotlib.rc_context(STYLE):
        figure, axes = axes_of(2, 7.2, 2.6)
        places = [max(count, 4) for count, _ in points]
        for axis, key, title in zip(
            axes,
            ("half_tie", "verdict_balanced_accuracy"),
            ("pairs, ties half", "verdicts, balanced"),
            strict=True,
        ):
            values = [found[key] for _, found in points]
            axis.plot(places, values, "o-", color=BLUE, linewidth=1.6)
            if key == "half_tie":
                lows, highs = zip(
                    *(found["ci95"] or (math.nan, math.nan) for _, found in points), strict=True
                )
                axis.fill_between(places, lows, highs, color=BLUE, alpha=0.15, linewidth=0)
            axis.set_xscale("log")
            axis.set_xticks(places, [str(count) for count, _ in points])
            axis.minorticks_off()
            axis.set_title(title, fontsize=10, loc="left")
            axis.set_xlabel("human pairs (0: SFT alone)")
        keep(figure, path)


def strictness(evidence: Mapping[str, Any], path: Path) -> None:
    """Mean score by what the edit is worth, before and after GCPO."""
    with matplotlib.rc_context(STYLE):
        figure, (axis,) = axes_of(1, 7.2, 2.6)
        bands = [name for name, _ in QUALITY_BANDS]
        for name, colour in (("noiseless", GREY), ("sft-tv", ORANGE), ("gcpo", BLUE)):
            if name in evidence["models"]:
                means = evidence["models"][name]["pooled"]["mean_score_by_quality"]
                axis.plot(
                    range(len(bands)),
                    [means[band] for band in bands],
                    "o-",
                    color=colour,
                    label=SHORT[name],
                )
        axis.set_xticks(range(len(bands)), bands)
        axis.set_ylabel("mean score")
        axis.set_ylim(-0.3, 10.3)
        axis.legend(fontsize=9)
        keep(figure, path)


def curve_points(evidence: Mapping[str, Any]) -> list[tuple[int, dict[str, Any]]]:
    """(pairs, measures) of the learning curve, over the seeds that it was run on: SFT alone, the
    drawn numbers, all pairs."""
    seeds = [str(seed) for seed in evidence["config"]["curve_seeds"]]
    names = [(0, "sft-tv"), *((count, f"gcpo-n{count}") for count in evidence["config"]["curve"])]
    if seeds and all(seed in evidence["pairs"] for seed in seeds):
        names.append((round(mean(evidence["pairs"][seed] for seed in seeds)), "gcpo"))
    points = []
    for count, name in names:
        found = evidence["models"].get(name, {}).get("seeds", {})
        if seeds and all(seed in found for seed in seeds):
            points.append(
                (count, found[seeds[0]] if len(seeds) == 1 else evidence["models"][name]["pooled"])
            )
    return points


def write_page(evidence: Mapping[str, Any], folder: Path) -> None:
    """Writes verifier.md and its plots into the folder."""
    models = evidence["models"]
    order = [name for name in models if not name.startswith("gcpo-n")]
    dots(evidence, order, folder / "verifier-pairs.svg")
    strictness(evidence, folder / "verifier-scores.svg")
    points = curve_points(evidence)
    if len(points) > 1:
        curve(evidence, points, folder / "verifier-curve.svg")
    loader = jinja2.FileSystemLoader(Path(__file__).parents[1] / "templates")
    environment = jinja2.Environment(
        loader=loader,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
    )
    environment.filters.update(FILTERS)
    environment.filters["label"] = lambda name: label(name, evidence)
    environment.filters["probability"] = lambda p: (
        MISSING if p is None else "< .0001" if p < 1e-4 else f"{p:.4f}".lstrip("0")
    )
    text = environment.get_template("verifier.md").render(
        evidence=evidence, order=order, points=points, bands=[name for name, _ in QUALITY_BANDS]
    )
    write_text(folder / "verifier.md", text)
