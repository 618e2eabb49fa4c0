"""What judging an editor left behind, as files and as tables for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from eval.anchors import anchor_table, anchors_for
from eval.cache import read_records
from eval.editors.aggregate import Estimate, counts, paired
from eval.editors.items import Bench, ItemResult
from eval.editors.judge import JudgeSettings
from eval.wording import MISSING, percent, points, points_span
from rrm.errors import InputError
from rrm.runtime.stage import account, read_note, write_json, write_text

RESULTS, SUMMARY = "results.jsonl", "summary.json"
VERSIONS = ("edit-rrm", "openai", "pillow", "numpy", "scipy")
PROTOCOLS = {"gedit": ("full-en", ("SC", "PQ", "O")), "imgedit": ("basic", ("overall",))}
"""Benchmark → the protocol and dimensions of the published numbers that its report prints."""
AGAIN = "run the same `judge` again: what was answered is kept"
NOTE = "Scores depend on the judge and its prompts: published numbers are of another judge, and no target for these."


def write_results(out: Path, results: Sequence[ItemResult]) -> None:
    """Writes results.jsonl, one line per item, at once or not at all."""
    write_text(out / RESULTS, "".join(result.model_dump_json() + "\n" for result in results))


def read_results(out: Path) -> list[ItemResult]:
    """The results that `judge` left in the folder. Raises InputError where there are none."""
    if not (out / RESULTS).is_file():
        raise InputError(f"{out} holds no {RESULTS}; run `judge --out {out}` to its end first.")
    return read_records(out / RESULTS, ItemResult, AGAIN)


def read_summary(out: Path) -> dict[str, Any]:
    """The summary that `judge` left in the folder. Raises InputError where there is none."""
    if not (out / SUMMARY).is_file():
        raise InputError(f"{out} holds no {SUMMARY}; run `judge --out {out}` to its end first.")
    try:
        return read_note(out / SUMMARY, "benchmark", "digests", "judge")
    except ValueError as error:
        raise InputError(f"{error}; {AGAIN}.") from error


def account_of(results: Sequence[ItemResult]) -> dict[str, Any]:
    """How many edits there are, how many of them have scores, and why the others have none."""
    found = counts(results)
    return account(found["n"], found["judged"], found["failures"])


def write_report(
    out: Path,
    bench: Bench,
    results: Sequence[ItemResult],
    settings: JudgeSettings,
    about: Mapping[str, Any],
) -> dict[str, Any]:
    """Writes results.jsonl and summary.json, which says how the scores came about, and returns the
    summary."""
    write_results(out, results)
    summary = {
        "benchmark": bench.name,
        **about,
        "judge": settings.record(),
        "account": account_of(results),
        "versions": {package: version(package) for package in VERSIONS},
        **bench.summarise(results),
    }
    write_json(out / SUMMARY, summary)
    return summary


def shown(found: Estimate) -> str:
    """A mean with its standard error and 95% interval."""
    if found["mean"] is None:
        return MISSING
    if found["ci95"] is None:
        return f"{found['mean']:.2f}"
    low, high = found["ci95"]
    return f"{found['mean']:.2f} ± {found['se']:.2f} [{low:.2f}, {high:.2f}]"


def columns(rows: Sequence[Sequence[str]]) -> str:
    """The rows under each other, the first column to the left and the others to the right."""
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if not place else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def table(found: Mapping[str, Any], measures: Sequence[str]) -> str:
    """One set of edits: a line per group, then the means over groups, over samples, and with what
    has no score as 0."""

    def line(
        name: str, numbers: Mapping[str, Any] | None, scores: Mapping[str, Estimate]
    ) -> list[str]:
        kinds = ("n", "judged", "missing", "unreadable", "failed")
        return [
            name,
            *(str(numbers[kind]) if numbers else "" for kind in kinds),
            *(shown(scores[m]) for m in measures),
        ]

    rows = [["", "n", "judged", "missing", "unreadable", "failed", *measures]]
    rows += [
        line(group, numbers, numbers["scores"]) for group, numbers in found["by_group"].items()
    ]
    rows.append(
        line(
            f"mean over {found['groups_judged']} of {found['groups']} groups",
            found,
            found["overall"],
        )
    )
    rows.append(line("mean over samples", None, found["samples"]))
    rows.append(line("… with no score as 0", None, found["missing_as_0"]))
    failures = ", ".join(f"{kind}: {count}" for kind, count in found["failures"].items())
    return columns(rows) + (f"\nwithout a score: {failures}" if failures else "")


def tables(bench: Bench, summary: Mapping[str, Any]) -> str:
    """Every set of the benchmark, with standard errors and 95% intervals clustered by source image."""
    parts = [
        "mean ± standard error [95% interval] of more source images like these, the groups as given; means are over judged",
        "edits; no interval where it cannot be estimated: one source image, one for a whole group, or no variation",
    ]
    for name in ("full", "intersection"):
        if name in summary and summary[name]["n"]:
            parts += ["", f"{bench.name}, {name} set", table(summary[name], bench.measures)]
    return "\n".join(parts)


def published(bench: Bench, results: Sequence[ItemResult]) -> str:
    """The published numbers of the benchmark, which are of English instructions, and why they are
    no target."""
    protocol, dimensions = PROTOCOLS[bench.name]
    if any(result.language != "en" for result in results):
        return "published: numbers of English instructions alone are known"
    found = [
        anchor
        for dimension in dimensions
        for anchor in anchors_for(bench.name, dimension, protocol)
    ]
    return f"published ({protocol})\n{anchor_table(found)}\n{NOTE}"


def check_comparable(first: Path, second: Path) -> None:
    """Raises InputError unless both folders hold results of one benchmark by one judge with the
    same prompts."""
    one, other = (read_summary(folder) for folder in (first, second))
    parts = {
        "benchmark": [
            (summary["benchmark"], summary["digests"]["content"]) for summary in (one, other)
        ],
        "prompts": [summary["digests"]["prompts"] for summary in (one, other)],
        "judge": [
            [summary["judge"][name] for name in ("model", "temperature", "max_tokens")]
            for summary in (one, other)
        ],
    }
    differing = [name for name, (a, b) in parts.items() if a != b]
    if differing:
        raise InputError(
            f"{first} and {second} differ in {', '.join(differing)}; judge both alike before comparing them."
        )


def comparison(bench: Bench, first: Sequence[ItemResult], second: Sequence[ItemResult]) -> str:
    """The first editor less the second, on the items that both have a score for."""
    rows = [["first − second", "n", "left out", "difference", "p"]]
    for measure in bench.measures:
        found = paired(first, second, measure)
        p = MISSING if found["p"] is None else f"{found['p']:.3g}"
        rows.append([measure, str(found["n"]), str(found["left_out"]), shown(found), p])
    return columns(rows)


def gsb_text(found: Mapping[str, Any]) -> str:
    """GSB and all that goes with it, for people; in percentage points, as papers print it."""
    error = MISSING if found["se"] is None else percent(found["se"])
    lines = [
        f"GSB {points(found['gsb'])} ± {error} (95% interval {points_span(found['ci95'])}, {found['clusters']} clusters)",
        f"{found['votes']} votes on {found['items']} items by {found['raters'] or 'unnamed'} raters: "
        f"G {found['G']}, S {found['S']}, B {found['B']}",
        f"sign test of G against B: p = {p_text(found['sign_p'])} over votes, {p_text(found['items_sign_p'])} over items "
        f"({found['items_better']} better, {found['items_worse']} worse)",
    ]
    agreed = found["agreement"]
    if agreed is not None:
        alpha = MISSING if found["alpha"] is None else f"{found['alpha']:.2f}"
        share = f"{percent(agreed['share'])}% of {agreed['pairs']} pairs of votes"
        lines.append(f"agreement of raters: {share}, Krippendorff's alpha {alpha}")
        lines += [
            f"  {name}: {percent(own['share'])}% of {own['pairs']}"
            for name, own in agreed["by_rater"].items()
        ]
    return "\n".join(lines)


def p_text(p: float | None) -> str:
    """A p value; a dash where there is none."""
    return MISSING if p is None else f"{p:.3g}"
