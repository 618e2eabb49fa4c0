"""From judgements to what is reported of a model, and the table that is printed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from eval import metrics
from eval.index import PairIndex, Truth
from eval.wording import percent, percent_span
from rrm import statistics
from rrm.records import Judgement

HEADLINE = "overall"
"""The dimension whose numbers stand for the model."""
HEADLINE_KEYS = ("strict", "half_tie", "ci95", "n", "ties", "unparseable")
QUALITY_BANDS = (("unusable", 0.0), ("partly usable", 5.0), ("nearly usable", 8.0), ("right in every point", 10.0))
"""Name and lower bound of what people make of an edit, 0–10."""


def scored_pairs(pairs: Sequence[PairIndex], judgements: Mapping[str, Judgement]) -> list[metrics.ScoredPair]:
    """The pairs with the scores of both edits, that of the preferred one first."""
    found = []
    for pair in pairs:
        preferred, other = (judgements[name].score for name in pair.preferred_first)
        found.append(metrics.ScoredPair(pair.source, pair.task_type, preferred, other))
    return found


def band_of(utility: float) -> str:
    """The quality band of an edit."""
    return next(name for name, low in reversed(QUALITY_BANDS) if utility >= low - 1e-9)


def score_by_quality(judgements: Mapping[str, Judgement], truths: Mapping[str, Truth]) -> dict[str, dict[str, Any]]:
    """Per quality band: how many edits, how many of them without a score, and the mean score of the rest."""
    bands: dict[str, list[float | None]] = {name: [] for name, _ in QUALITY_BANDS}
    for name, judgement in judgements.items():
        bands[band_of(truths[name].utility)].append(judgement.score)
    table = {}
    for band, scores in bands.items():
        readable = [score for score in scores if score is not None]
        table[band] = {"n": len(scores), "unscored": len(scores) - len(readable), "mean_score": statistics.mean(readable)}
    return table


def verdicts_report(judgements: Mapping[str, Judgement], truths: Mapping[str, Truth]) -> statistics.VerdictAccuracy:
    """How well the verdicts on all edits agree with the truth; a holistic judgement has none, and is left out."""
    given = {name: None if j.read is None else j.read.verdicts for name, j in judgements.items()}
    return statistics.verdict_accuracy(
        [(verdicts, truths[name].verdicts) for name, verdicts in given.items() if verdicts != ()]
    )


def summarise_model(
    pairs: Sequence[PairIndex], judgements: Mapping[str, Judgement], truths: Mapping[str, Truth] | None
) -> dict[str, Any]:
    """Everything that is reported of one model, by the pairs that people decided.

    Without truth its verdicts and edit qualities are unknown, and left None.
    """
    pairs = [pair for pair in pairs if pair.decided]
    scores = scored_pairs(pairs, judgements)
    dimensions = {
        dimension: metrics.summarise([s for s, p in zip(scores, pairs, strict=True) if p.dimension == dimension])
        for dimension in sorted({pair.dimension for pair in pairs})
    }
    verdicts = verdicts_report(judgements, truths) if truths else None
    headline = dimensions.get(HEADLINE)
    balanced = None if verdicts is None else verdicts.balanced
    return {
        "edits": len(judgements),
        "headline": headline and {**{key: headline[key] for key in HEADLINE_KEYS}, "verdict_balanced_accuracy": balanced},
        "dimensions": dimensions,
        "verdict_balanced_accuracy": balanced,
        "verdicts": None if verdicts is None else vars(verdicts),
        "failures": dict(Counter(j.failure.kind for j in judgements.values() if j.failure is not None)),
        "score_by_quality": score_by_quality(judgements, truths) if truths else None,
    }


def compare(
    pairs: Sequence[PairIndex], judgements: Mapping[str, Mapping[str, Judgement]], wanted: Sequence[tuple[str, str]]
) -> list[dict[str, Any]]:
    """Per (model, against): the paired difference of their accuracies on the headline dimension."""
    kept = [pair for pair in pairs if pair.decided and pair.dimension == HEADLINE]
    scored = {name: scored_pairs(kept, found) for name, found in judgements.items()}
    return [
        {"model": name, "against": other, **metrics.paired_difference(scored[name], scored[other])} for name, other in wanted
    ]


def table(summaries: Mapping[str, Mapping[str, Any]]) -> str:
    """A line per model and dimension. Accuracies in per cent; the interval is that of `ties ½`."""
    head = ("model", "dimension", "n", "strict", "ties ½", "95%", "macro", "ties", "unread", "verdicts")
    lines = [head]
    for model, summary in summaries.items():
        for dimension, d in summary["dimensions"].items():
            shares = (percent(d["strict"]), percent(d["half_tie"]), percent_span(d["ci95"]), percent(d["macro"]))
            rest = (str(d["ties"]), str(d["unparseable"]), percent(summary["verdict_balanced_accuracy"]))
            lines.append((model, dimension, str(d["n"]), *shares, *rest))
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(w) if i < 2 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True)))
        for line in lines
    )
