"""What the scores of a benchmark's edits amount to: means over groups and over samples, each with
its clustered error.

Pure functions. An edit without a score stays in every n; it enters no mean except the one that says
that it counts it as 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from eval.editors.items import ItemResult
from rrm.statistics import error_of_macro, macro, p_of

Estimate = dict[str, Any]
"""{mean, se, ci95}; None for what cannot be worked out."""


def estimate(values: Sequence[float], groups: Sequence[str], clusters: Sequence[str]) -> Estimate:
    """The unweighted mean over groups of each one's mean, with the standard error and 95% interval
    clustered by source.

    With one group that is the mean over samples.
    """
    centre, interval = macro(values, groups, clusters)
    if centre is None:
        return {"mean": None, "se": None, "ci95": None}
    return {"mean": centre, "se": error_of_macro(values, groups, clusters), "ci95": interval}


def over_groups(
    results: Sequence[ItemResult], measure: str, missing: float | None = None
) -> Estimate:
    """The mean over groups of one measure. Results without a score are left out, or count as
    `missing` where that is a number."""
    values = [(result.scores.get(measure, missing), result) for result in results]
    had = [(value, result) for value, result in values if value is not None]
    return estimate([v for v, _ in had], [r.group for _, r in had], [r.source for _, r in had])


def over_samples(results: Sequence[ItemResult], measure: str) -> Estimate:
    """The mean over judged samples of one measure, whatever their groups."""
    had = [result for result in results if measure in result.scores]
    return estimate([r.scores[measure] for r in had], [""] * len(had), [r.source for r in had])


def counts(results: Sequence[ItemResult]) -> dict[str, Any]:
    """n and what it is made of: judged, missing (no file), unreadable (a file that is no image),
    failed (the judge gave no score).

    `failures` counts the same by kind.
    """
    kinds = Counter(result.failure.kind for result in results if result.failure is not None)
    missing, unreadable = kinds["missing"], kinds["image_unreadable"]
    return {
        "n": len(results),
        "judged": sum(result.failure is None for result in results),
        "missing": missing,
        "unreadable": unreadable,
        "failed": sum(kinds.values()) - missing - unreadable,
        "failures": dict(sorted(kinds.items())),
    }


def summarise(results: Sequence[ItemResult], measures: Sequence[str]) -> dict[str, Any]:
    """Everything that is reported of one set of edits.

    `overall` is the unweighted mean, over the groups with a judged sample, of the judged samples'
    means; `samples` the mean over judged samples; `missing_as_0` is `overall` with every edit that
    has no score counted as 0, so that it is a lower bound.
    """
    groups = sorted({result.group for result in results})
    members = {group: [result for result in results if result.group == group] for group in groups}
    return {
        **counts(results),
        "groups": len(groups),
        "groups_judged": len({result.group for result in results if result.failure is None}),
        "overall": {measure: over_groups(results, measure) for measure in measures},
        "samples": {measure: over_samples(results, measure) for measure in measures},
        "missing_as_0": {measure: over_groups(results, measure, 0.0) for measure in measures},
        "by_group": {
            group: {
                **counts(found),
                "scores": {measure: over_samples(found, measure) for measure in measures},
            }
            for group, found in members.items()
        },
    }


def paired(
    first: Sequence[ItemResult], second: Sequence[ItemResult], measure: str
) -> dict[str, Any]:
    """How much higher `first` scores than `second` on the items that both have a score for: {n,
    left_out, mean, se, ci95, p}.

    The mean is over groups; `p` is that of no difference, two-sided, from the same clustered error
    (`rrm.statistics.p_of`).
    """
    other = {result.item_id: result for result in second}
    both = [
        (r, other[r.item_id])
        for r in first
        if measure in r.scores and measure in getattr(other.get(r.item_id), "scores", ())
    ]
    changes = [a.scores[measure] - b.scores[measure] for a, b in both]
    found = estimate(changes, [a.group for a, _ in both], [a.source for a, _ in both])
    p = p_of(found["mean"], found["se"], changes) if changes else None
    items = {result.item_id for result in first} | other.keys()
    return {"n": len(both), "left_out": len(items) - len(both), **found, "p": p}
