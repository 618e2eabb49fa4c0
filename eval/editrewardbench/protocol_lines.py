"""A benchmark's own protocol in words, and the published numbers that were had by the same one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.anchors import anchors_for
from eval.index import PairIndex
from eval.protocols import PUBLIC_RULE
from eval.wording import percent, percent_span

TITLES = {
    "editscore": "EditReward-Bench of EditScore",
    "tiger": "EditReward-Bench of TIGER-Lab",
    "genai": "GenAI-Bench, image editing",
    "compass": "EditReward-Compass",
    "jsonl": "a preference set of one's own",
}
HEADLINES = {
    ("editscore", False): ("overall", "mean over task types, dimension {name}, a tie is wrong"),
    ("tiger", False): ("overall", "groups of which every pair is right"),
    ("genai", False): ("3-class", "left, right or the same"),
    ("genai", True): ("decisive", "of the pairs that people decided"),
    ("compass", False): ("macro", "mean over dimensions"),
    ("jsonl", False): ("strict", "pairs that people decided, a tie is wrong"),
}
"""Which number of a benchmark's convention is the one to cite, and its rule."""
PROTOCOLS = {
    ("editscore", False): "pointwise-macro",
    ("tiger", False): "groups",
    ("tiger", True): "groups",
    ("genai", False): "three-class",
    ("genai", True): "decisive-pairwise",
    ("compass", False): "pairwise",
    ("compass", True): "pairwise",
}
"""The protocol by which published numbers are comparable, by benchmark and whether the judge is pairwise."""


RESIZES = frozenset({"editscore"})
"""Benchmarks whose own protocol brings an edit to its source's size before it is judged; all others show it as it is."""
PUBLIC = {
    "editscore": ("EditScore/EditReward-Bench", 1238),
    "tiger": ("TIGER-Lab/EditReward-Bench", 484),
    "genai": ("TIGER-Lab/GenAI-Bench", 919),
    "compass": ("DogNeverSleep/EditReward-Compass", None),
}
"""The set that published numbers are of: its hub id, and how many items of the headline it has (pairs; TIGER-Lab: groups), where known."""


def size_line(bench: str, resized: bool) -> str:
    """At which size edits were shown to the judge, and whose way that is."""
    if resized:
        whose = "EditScore's protocol does so" if bench in RESIZES else "the benchmark's protocol does not ask for it"
        return f"Edits were judged at their source's size ({whose}); rrm score and the training of editors do not resize."
    return "Edits were judged at their own size, as rrm score and the training of editors do."


def is_public(bench: str, data: str, pairs: Sequence[PairIndex]) -> bool:
    """Whether these are the pairs that numbers were published of: by the hub id that was read, or by how many there are."""
    hub_id, size = PUBLIC.get(bench, ("", None))
    if bench == "tiger":
        items = len({(pair.candidates, pair.group) for pair in pairs})
    else:
        items = sum(bench != "editscore" or pair.dimension == "overall" for pair in pairs)
    return (data.partition("@")[0] == hub_id and not Path(data).exists()) or items == size


def anchors_note(bench: str) -> str:
    """To which number of a result the published ones stand."""
    if bench == "tiger":
        return f"counted by TIGER-Lab's code or by the plain rule, as the source has it: see 'overall' and '{PUBLIC_RULE}'"
    return "by the same rule, to stand beside the first number"


def published(bench: str, pairwise: bool) -> list[dict[str, Any]]:
    """The published numbers by the protocol of a judge like this run's, each with the line that is printed."""
    protocol = PROTOCOLS.get((bench, pairwise))
    if protocol is None:
        return []
    return [
        {**anchor.model_dump(), "line": f"{anchor.value:g} ({anchor.unit})  {anchor.model} {anchor.setting or ''}".rstrip()}
        for anchor in anchors_for(bench, "overall", protocol)
    ]


def headline_of(bench: str, pairwise: bool, convention: Mapping[str, Any]) -> dict[str, Any]:
    """The number by which this benchmark is cited: its rule in words, and the cell of the convention that holds it."""
    name, rule = HEADLINES.get((bench, pairwise), HEADLINES[bench, False])
    if name not in convention:  # a set of EditScore's schema without the dimension overall
        name = next(iter(convention))
    return {"name": name, "rule": rule.format(name=name), **convention[name]}


def line_of(name: str, cell: Mapping[str, Any]) -> str:
    """One number of a protocol in words; where there is none, why."""
    if cell["value"] is None:
        return f"{name}: none" + (f"; {cell['note']}" if "note" in cell else "")
    counted = f"{cell['right']} of {cell['n']} right, {cell['unparseable']} unreadable"
    said = f"{name}: {percent(cell['value'])}%, 95% {percent_span(cell['ci95'])} ({counted})"
    return said + (f"; {cell['note']}" if "note" in cell else "")


def group_lines(name: str, cell: Mapping[str, Any]) -> list[str]:
    """A line for each group of task types in a dimension of EditScore's."""
    return [
        f"{name}, {group}: {percent(found['value'])}% mean over its task types (as EditScore's table), "
        f"{percent(found['pooled'])}% of its {found['n']} pairs together"
        for group, found in cell.get("groups", {}).items()
    ]


def lines_of(protocol: Mapping[str, Any]) -> list[str]:
    """A line for each number of the benchmark's public convention, then what its tie margin is."""
    lines = [line for name, cell in protocol["convention"].items() for line in (line_of(name, cell), *group_lines(name, cell))]
    return [*lines, protocol["margin_note"]]
