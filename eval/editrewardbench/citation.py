"""How a benchmark's own numbers are cited: in words, and beside published ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.anchors import Anchor, anchors_for
from eval.pairs import PairIndex
from eval.protocol import Benchmark, Citation
from eval.wording import percent, percent_span


def size_note(benchmark: Benchmark, resized: bool) -> str:
    """At which size edits were shown to the judge, and whose way that is."""
    if not resized:
        return "Edits were judged at their own size, as rrm score and the training of editors do."
    whose = (
        "EditScore's protocol does so"
        if benchmark.resizes
        else "the benchmark's protocol does not ask for it"
    )
    return (
        f"Edits were judged at their source's size ({whose}); rrm score and the training of "
        "editors do not resize."
    )


def is_public(benchmark: Benchmark, where: str, pairs: Sequence[PairIndex]) -> bool:
    """Whether this is the set that numbers were published of, by hub id or number of items."""
    public = benchmark.public
    if public is None:
        return False
    from_hub = where.partition("@")[0] == public.hub_id and not Path(where).exists()
    return from_hub or benchmark.items(pairs) == public.items


def published(benchmark: Benchmark, citation: Citation) -> list[dict[str, Any]]:
    """The published numbers by the citation's protocol, each with the line that is printed."""
    if citation.anchors is None:
        return []
    return [
        {**anchor.model_dump(), "line": f"{anchor.value:g} ({anchor.unit})  {name_of(anchor)}"}
        for anchor in anchors_for(benchmark.name, "overall", citation.anchors)
    ]


def name_of(anchor: Anchor) -> str:
    """The model and its setting."""
    return f"{anchor.model} {anchor.setting or ''}".rstrip()


def cited_cell(citation: Citation, convention: Mapping[str, Any]) -> dict[str, Any]:
    """The number to cite, with its name and rule; the first one where the set lacks it."""
    name = citation.cell if citation.cell in convention else next(iter(convention))
    return {"name": name, "rule": citation.rule.format(name=name), **convention[name]}


def line_of(name: str, cell: Mapping[str, Any]) -> str:
    """One number of a protocol in words; where there is none, why."""
    if cell["value"] is None:
        return f"{name}: none" + (f"; {cell['note']}" if "note" in cell else "")
    counted = f"{cell['right']} of {cell['n']} right, {cell['unparseable']} unreadable"
    line = f"{name}: {percent(cell['value'])}%, 95% {percent_span(cell['ci95'])} ({counted})"
    return line + (f"; {cell['note']}" if "note" in cell else "")


def group_lines(name: str, cell: Mapping[str, Any]) -> list[str]:
    """A line for each group of task types in a dimension of EditScore's."""
    return [
        f"{name}, {group}: {percent(part['value'])}% mean over its task types (as EditScore's "
        f"table), {percent(part['pooled'])}% of its {part['n']} pairs together"
        for group, part in cell.get("groups", {}).items()
    ]


def lines_of(protocol: Mapping[str, Any]) -> list[str]:
    """A line for each number of the benchmark's public convention, then what its tie margin is."""
    lines = [
        line
        for name, cell in protocol["convention"].items()
        for line in (line_of(name, cell), *group_lines(name, cell))
    ]
    return [*lines, protocol["margin_note"]]
