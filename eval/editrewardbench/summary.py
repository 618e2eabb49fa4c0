"""From outcomes to summary.json and to the table that is printed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from eval.editrewardbench.overlap import Training
from eval.outcomes import Outcome, accuracies, breakdown, by_dimension
from eval.wording import percent, percent_span
from rrm.records import Failure
from rrm.runtime.stage import account, account_line

HEADLINE = "overall"
LISTED = 12
"""Values of labels that are printed."""


def headline_dimension(dimensions: Sequence[str]) -> str:
    """The dimension to report first: overall if there is one, else the first."""
    return HEADLINE if HEADLINE in dimensions else sorted(dimensions)[0]


def account_of(failures: Sequence[Failure | None]) -> dict[str, Any]:
    """How many judgements or votes there are, how many with a score or choice, how many failed."""
    kinds = Counter(str(failure.kind) for failure in failures if failure is not None)
    return account(len(failures), len(failures) - kinds.total(), kinds)


def most_frequent_failure(failures: Sequence[Failure | None]) -> str:
    """The most frequent failure, in its own words."""
    texts = Counter(
        f"{f.kind}: {f.detail}" if f.detail else f.kind for f in failures if f is not None
    )
    return texts.most_common(1)[0][0] if texts else "nothing failed"


def result_of(outcomes: Sequence[Outcome], failures: Sequence[Failure | None]) -> dict[str, Any]:
    """Everything that is counted on the pairs and their judgements or votes."""
    dimensions = {name: breakdown(members) for name, members in by_dimension(outcomes).items()}
    compared = [o.consistent for o in outcomes if o.consistent is not None]
    return {
        **accuracies(outcomes),
        "labels": dict(Counter(o.label for o in outcomes)),
        "account": account_of(failures),
        "unreadable_pairs": dict(Counter(o.failure or "empty" for o in outcomes if o.side is None)),
        "same_in_both_orders": fmean(compared) if compared else None,
        "headline": headline_dimension(list(dimensions)),
        "dimensions": dimensions,
    }


def passes_of(
    each_pass: Sequence[Sequence[Outcome]], together: Sequence[Outcome]
) -> dict[str, Any] | None:
    """Of K passes: each one alone (Avg@1), their mean and standard deviation, and the score means
    (Avg@K).

    On the dimension overall; where a benchmark has none, on all pairs, with `macro` the mean over
    its dimensions.
    """
    if len(each_pass) < 2:
        return None

    def shares(outcomes: Sequence[Outcome]) -> dict[str, Any]:
        part = [o for o in outcomes if o.dimension == HEADLINE]
        parts = breakdown(
            part or [o.model_copy(update={"task_type": o.dimension}) for o in outcomes]
        )
        return {name: parts[name] for name in ("strict", "half_tie", "macro", "ties", "unreadable")}

    each = [shares(outcomes) for outcomes in each_pass]
    names = ("strict", "half_tie", "macro")
    return {
        "k": len(each_pass),
        "macro_over": "mean over "
        + ("task types" if any(o.dimension == HEADLINE for o in together) else "dimensions"),
        "each": each,
        "avg_at_1": {name: fmean(one[name] for one in each) for name in names},
        "std": {name: stdev(one[name] for one in each) for name in names},
        "avg_at_k": shares(together),
    }


def overlap_of(outcomes: Sequence[Outcome], manifest: str, training: Training) -> dict[str, Any]:
    """What is shared with the training data, and the numbers without it."""
    apart = [o for o in outcomes if o.shared is None]
    return {
        "manifest": manifest,
        "training_rows": training.rows,
        "training_images": len(training.looks),
        "training_rows_unreadable": training.unreadable,
        "pairs": len(outcomes),
        "same_image_and_instruction": sum(o.shared == "task" for o in outcomes),
        "same_image": sum(o.shared == "image" for o in outcomes),
        "sources": len({o.source for o in outcomes if o.shared is not None}),
        "without": {
            name: {
                key: value for key, value in breakdown(members).items() if not key.startswith("by_")
            }
            for name, members in by_dimension(apart).items()
        },
    }


def aligned(lines: Sequence[Sequence[str]], left: int = 1) -> str:
    """A table of text, the first columns to the left and the others to the right."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            c.ljust(w) if i < left else c.rjust(w)
            for i, (c, w) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def table_row(name: str, cell: Mapping[str, Any]) -> tuple[str, ...]:
    """A row of the printed table."""
    shares = (percent(cell["strict"]), percent_span(cell["strict_ci95"]), percent(cell["half_tie"]))
    return (name, str(cell["n"]), *shares, str(cell["ties"]), str(cell["unreadable"]))


def table(summary: Mapping[str, Any]) -> str:
    """The result for a person: per dimension, then per task type of the headline dimension."""
    result = summary["result"]
    lines: list[tuple[str, ...]] = [("", "n", "right, %", "95%", "ties ½, %", "ties", "unread")]
    for name, cell in result["dimensions"].items():
        lines.append(table_row(name, cell))
        if len(cell["by_task"]) > 1:
            macro = (
                percent(cell["macro"]),
                percent_span(cell["macro_ci95"]),
                percent(cell["macro_half_tie"]),
            )
            lines.append(("  mean over task types", "", *macro, "", ""))
    headline = result["dimensions"][result["headline"]]
    if len(headline["by_task"]) > 1:
        lines += [
            table_row(f"  {result['headline']}: {task}", cell)
            for task, cell in headline["by_task"].items()
        ]
    return aligned(lines)


def headline_line(headline: Mapping[str, Any]) -> str:
    """The number by which the benchmark is cited."""
    return (
        f"{percent(headline['value'])}% (95% {percent_span(headline['ci95'])}): {headline['rule']}"
    )


def described(summary: Mapping[str, Any]) -> str:
    """All that is printed at the end of a run."""
    bench, reward, result = summary["bench"], summary["reward"], summary["result"]
    lines = [
        f"{reward['spec']}  on  {bench['kind']} at {bench['where']} (content "
        f"{bench['content_hash']})",
        headline_line(summary["headline"]),
        table(summary),
    ]
    if result["same_in_both_orders"] is not None:
        lines.append(
            f"both orders came to the same in {percent(result['same_in_both_orders'])}% of the "
            "readable pairs"
        )
    passes = summary["passes"]
    if passes is not None:
        one, std, many = passes["avg_at_1"], passes["std"], passes["avg_at_k"]
        lines.append(
            f"{passes['k']} passes: Avg@1 {percent(one['strict'])}% (±{percent(std['strict'])} "
            "between passes), "
            f"Avg@{passes['k']} {percent(many['strict'])}%; {passes['macro_over']} "
            f"{percent(one['macro'])}% and {percent(many['macro'])}%"
        )
    lines.append(bench["size_note"])
    lines += [f"protocol  {line}" for line in summary["protocol_lines"]]
    if summary["anchors"]:
        lines.append(f"published ({summary['headline']['rule']}), {summary['anchors_note']}:")
        lines += [f"  {anchor['line']}" for anchor in summary["anchors"]]
    lines += label_lines(bench["votes"])
    if summary["overlap"] is not None:
        lines += overlap_lines(summary["overlap"])
    return "\n".join([*lines, *(f"note: {note}" for note in summary["notes"])])


def last_line(summary: Mapping[str, Any]) -> str:
    """What became of the judgements or votes that the result goes back to."""
    what = "votes" if summary["reward"]["pairwise"] else "judgements"
    return f"{what}: {account_line(summary['result']['account'])}"


def label_lines(votes: Mapping[str, Any] | None) -> list[str]:
    """As what the labels of a preference set were read."""
    if votes is None:
        return []
    read = (
        f"{row['value']!r} ({row['rows']}) as {row['read_as'] or 'left out'}"
        for row in votes["labels"][:LISTED]
    )
    pairs = ", ".join(f"{count} {label}" for label, count in votes["pairs"].items())
    return [f"labels read: {', '.join(read)}; pairs: {pairs}"]


def overlap_lines(overlap: Mapping[str, Any]) -> list[str]:
    """What is shared with the training data, for a person."""
    both, image = overlap["same_image_and_instruction"], overlap["same_image"]
    shared = f"{both} pairs of the same image and instruction, {image} more of the same image"
    lines = [f"overlap with {overlap['manifest']}: {shared}, of {overlap['pairs']}"]
    if both or image:
        for name, cell in overlap["without"].items():
            share = (
                f"{percent(cell['strict'])}% right of {cell['n']} (95% "
                f"{percent_span(cell['strict_ci95'])})"
            )
            lines.append(f"  without them, {name}: {share}")
    if overlap["training_rows_unreadable"]:
        lines.append(
            f"  {overlap['training_rows_unreadable']} rows of the training data cannot be read; "
            "nothing is known of them"
        )
    return lines
