"""`editrewardbench report DIR`: one page about a result that opens offline."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from markupsafe import Markup

from eval.editrewardbench.examples import read_examples
from eval.editrewardbench.results import read_outcomes, read_summary
from eval.figures import COLOURS, intervals
from eval.outcomes import Outcome, accuracies
from eval.wording import FILTERS
from rrm.errors import InputError
from rrm.images import data_url
from rrm.render.pages import template
from rrm.render.plots import BLUE, histogram
from rrm.runtime.stage import write_text

PAGE = "report.html"
GAPS = (0.0, 0.5, 1.0, 2.0, 4.0, 10.0)
"""Ends of the bins of score differences; 0 stands for a tie."""
TITLES = {
    "mistake": "Most certain mistakes",
    "unreadable": "Without an outcome",
    "right": "Most certain and right",
}


def inlined(path: Path) -> str:
    """The JPEG at `path` as a URL that carries it. Raises InputError where it is missing."""
    if not path.is_file():
        raise InputError(f"{path} is missing; run the same `editrewardbench run` again.")
    return data_url(path.read_bytes(), "jpeg")


def in_percent(interval: Sequence[float] | None) -> list[float] | None:
    """An interval of shares in per cent."""
    return None if interval is None else [100 * end for end in interval]


def rows_of(
    cells: Mapping[str, Mapping[str, Any]], colour: str
) -> dict[str, tuple[str, float, Sequence[float] | None]]:
    """What `intervals` draws: the strict accuracy of every cell that holds pairs."""
    return {
        f"{name} ({cell['n']})": (colour, 100 * cell["strict"], in_percent(cell["strict_ci95"]))
        for name, cell in cells.items()
        if cell["strict"] is not None
    }


def task_figure(dimension: Mapping[str, Any]) -> Markup | None:
    """Accuracy with interval per task type, and of all of them together."""
    rows = rows_of({"all pairs": dimension}, COLOURS["chance"]) | rows_of(
        dimension["by_task"], BLUE
    )
    return intervals(
        rows, "pairs right, % (95% interval, clustered by source)", "Accuracy by task type"
    )


def score_figure(outcomes: Sequence[Outcome]) -> Markup | None:
    """How often each score was given, every edit counted once."""
    scores = {
        name: score
        for o in outcomes
        for name, score in zip(o.edits, o.scores, strict=True)
        if score is not None
    }
    counts = Counter(f"{score:.6f}" for score in scores.values())
    return histogram(counts, 0.5, 10.0, "score", "edits", "Scores given")


def gap_bins(outcomes: Sequence[Outcome]) -> dict[str, dict[str, Any]]:
    """Accuracy by score difference, of the pairs that people decided; no empty bins."""
    decided = [(o, o.gap) for o in outcomes if o.decided]
    bins = {"no difference": [o for o, gap in decided if gap == 0]}
    for low, high in pairwise(GAPS):
        bins[f"up to {high:g}"] = [o for o, gap in decided if gap is not None and low < gap <= high]
    return {name: accuracies(members) for name, members in bins.items() if members}


def gap_figure(outcomes: Sequence[Outcome]) -> Markup | None:
    """Whether a larger difference of the scores means that they are right more often."""
    rows = rows_of(gap_bins(outcomes), BLUE)
    return intervals(
        rows, "pairs right, %, by the difference of the two scores", "Accuracy by score difference"
    )


def examples_of(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The pairs to look at, images included, by their title."""
    titled: dict[str, list[dict[str, Any]]] = {}
    for example in read_examples(folder):
        images = [inlined(folder / name) for name in example.images]
        titled.setdefault(TITLES[example.kind], []).append(
            {**example.model_dump(mode="json"), "images": images}
        )
    return titled


def page(folder: Path) -> str:
    """The page about the result in this folder. Raises InputError where there is none."""
    summary, outcomes = read_summary(folder), read_outcomes(folder)
    result = summary["result"]
    headline = [o for o in outcomes if o.dimension == result["headline"]]
    return template("eval", "bench.html.j2", FILTERS).render(
        name=folder.resolve().name,
        summary=summary,
        result=result,
        headline=result["dimensions"][result["headline"]],
        tasks=task_figure(result["dimensions"][result["headline"]]),
        scores=score_figure(outcomes),
        gaps=gap_figure(headline),
        examples=examples_of(folder),
    )


def write_page(folder: Path) -> Path:
    """Writes the page into the result's folder; returns its path."""
    write_text(folder / PAGE, page(folder))
    return folder / PAGE
