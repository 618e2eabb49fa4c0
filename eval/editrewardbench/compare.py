"""`editrewardbench compare A B`: two results on the same pairs, and the pairs that changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.editrewardbench.results import read_outcomes, read_summary
from eval.outcomes import Outcome, by_dimension
from eval.wording import MISSING, percent, points, points_span
from rrm import statistics
from rrm.errors import InputError

SHOWN = 20
"""Changed pairs that are printed; the result holds all of them."""


def refuse_other_benchmark(
    first: Mapping[str, Any], second: Mapping[str, Any], names: tuple[str, str]
) -> None:
    """Raises InputError unless both results are of the same benchmark, content and protocol."""
    benchmarks = first["bench"], second["bench"]
    if len({(b["kind"], b["content_hash"]) for b in benchmarks}) == 1:
        return
    sizes = [", edits at their source's size" if b["resized"] else "" for b in benchmarks]
    parts = [
        f"{name} is of {b['kind']} at {b['where']} (content {b['content_hash']}, {b['pairs']} "
        f"pairs{size})"
        for name, b, size in zip(names, benchmarks, sizes, strict=True)
    ]
    raise InputError(
        f"These results are not of the same pairs: {'; '.join(parts)}. Run both on the same "
        "data, --limit and --resize."
    )


def in_step(
    first: Sequence[Outcome], second: Sequence[Outcome]
) -> tuple[list[Outcome], list[Outcome]]:
    """The outcomes on the pairs of both results, in one order. Raises InputError without any."""

    def name(o: Outcome) -> tuple[str, str, int]:
        return o.item, o.dimension, o.number

    by_name = {name(o): o for o in second}
    shared = [o for o in first if name(o) in by_name]
    if not shared:
        raise InputError(
            "The results share no pair: their validation shares leave different ones; run both "
            "with the same."
        )
    return shared, [by_name[name(o)] for o in shared]


def edit_scores(outcomes: Sequence[Outcome]) -> dict[str, float | None]:
    """The score of every edit."""
    return {name: score for o in outcomes for name, score in zip(o.edits, o.scores, strict=True)}


def differences(first: Sequence[Outcome], second: Sequence[Outcome], seed: int) -> dict[str, Any]:
    """How much more accurate the first result is on these pairs, with tests."""
    sources, tasks = [o.source for o in first], [o.task_type for o in first]
    right = [o.right for o in first], [o.right for o in second]
    halves = [o.half_tie for o in first], [o.half_tie for o in second]
    sides = [o.side or "unreadable" for o in first], [o.side or "unreadable" for o in second]
    return {
        "n": len(first),
        "sources": len(set(sources)),
        "first": sum(right[0]) / len(first),
        "second": sum(right[1]) / len(first),
        "strict": vars(statistics.bootstrap_difference(*right, sources, seed=seed)),
        "half_tie": vars(statistics.bootstrap_difference(*halves, sources, seed=seed)),
        "macro": vars(statistics.bootstrap_difference(*right, sources, tasks, seed=seed)),
        "mcnemar": vars(statistics.mcnemar(*right)),
        "agreement": statistics.agreement(*sides),
        "kappa": statistics.kappa(*sides),
    }


def changed(first: Sequence[Outcome], second: Sequence[Outcome]) -> list[dict[str, Any]]:
    """The pairs that only one of both has right, the first result's own first."""
    rows = [
        {
            "item": a.item,
            "number": a.number,
            "dimension": a.dimension,
            "task_type": a.task_type,
            "instruction": a.instruction,
            "right": "first" if a.right else "second",
            "label": a.label,
            "first": {"side": a.side, "scores": a.scores, "failure": a.failure},
            "second": {"side": b.side, "scores": b.scores, "failure": b.failure},
        }
        for a, b in zip(first, second, strict=True)
        if a.right != b.right
    ]
    return sorted(rows, key=lambda row: row["right"] != "first")


def compare_results(first: Path, second: Path, seed: int = 0) -> dict[str, Any]:
    """The comparison of two results' folders. Raises InputError unless they share pairs."""
    summaries = read_summary(first), read_summary(second)
    refuse_other_benchmark(*summaries, (str(first), str(second)))
    of_first, of_second = in_step(read_outcomes(first), read_outcomes(second))
    second_by_dimension = by_dimension(of_second)
    scores = edit_scores(of_first), edit_scores(of_second)
    return {
        "bench": summaries[0]["bench"],
        "first": {"folder": str(first), "reward": summaries[0]["reward"]},
        "second": {"folder": str(second), "reward": summaries[1]["reward"]},
        "left_out": max(summary["result"]["n"] for summary in summaries) - len(of_first),
        "seed": seed,
        "resamples": statistics.RESAMPLES,
        "dimensions": {
            name: differences(members, second_by_dimension[name], seed)
            for name, members in by_dimension(of_first).items()
        },
        "spearman": statistics.rank_correlation(
            [scores[0][name] for name in scores[0]], [scores[1][name] for name in scores[0]]
        ),
        "changed": changed(of_first, of_second),
    }


def p_text(p: float | None) -> str:
    """A p-value."""
    return MISSING if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"


def number(value: float | None) -> str:
    """A correlation or an agreement."""
    return MISSING if value is None else f"{value:.2f}".replace("-", "−")


def described(result: Mapping[str, Any]) -> str:
    """The comparison for a person: a block per dimension, then the first of the changed pairs."""
    lines = [f"A  {result['first']['reward']['spec']}", f"B  {result['second']['reward']['spec']}"]
    lines.append(
        f"on {result['bench']['kind']}, content {result['bench']['content_hash']}; differences "
        "are A − B in points"
    )
    lines.append(
        f"intervals and p: {result['resamples']} resamples of whole source images, task types "
        "varying with them; none where they cannot be estimated (one source, one of a whole task "
        "type, no variation)"
    )
    if result["left_out"]:
        lines.append(f"{result['left_out']} pairs that only one of both holds are left out")
    for name, d in result["dimensions"].items():
        m = d["mcnemar"]
        lines += [
            "",
            f"{name}: {d['n']} pairs of {d['sources']} sources; A {percent(d['first'])}%, B "
            f"{percent(d['second'])}%",
        ]
        for key, title in (
            ("strict", "strict"),
            ("half_tie", "ties ½"),
            ("macro", "macro over task types"),
        ):
            difference = d[key]
            lines.append(
                f"  {title:<22} {points(difference['value']):>6}  95% "
                f"{points_span(difference['interval'])}  p {p_text(difference['p'])}"
            )
        lines.append(
            f"  McNemar, exact         only A right {m['only_first']}, only B right "
            f"{m['only_second']}, p {p_text(m['p'])}"
        )
        lines.append(
            f"  same outcome           {percent(d['agreement'])}%, Cohen's κ {number(d['kappa'])}"
        )
    if result["spearman"] is not None:
        lines += ["", f"Spearman's ρ of the edits' scores {number(result['spearman'])}"]
    lines += ["", f"{len(result['changed'])} pairs changed" + (":" if result["changed"] else ".")]
    for row in result["changed"][:SHOWN]:
        lines.append(
            f"  only {'A' if row['right'] == 'first' else 'B'}  {row['dimension']}  "
            f"{row['item']}  {row['instruction'][:80]}"
        )
    if len(result["changed"]) > SHOWN:
        lines.append("  … all of them with --json")
    return "\n".join(lines)
