"""Published numbers, to stand beside one's own where benchmark, dimension and protocol are the
same.

`rrm anchors [benchmark]` prints them with their sources. The numbers themselves are in
anchors.yaml.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Literal

import yaml
from pydantic import Field

from rrm.errors import InputError
from rrm.records import Record


class Anchor(Record):
    """One published number: what was measured, how, of which model, and where it stands."""

    benchmark: str
    dimension: str
    protocol: str
    setting: str | None = None
    """What else it depends on, such as Avg@4 or the stage of training."""
    model: str
    value: float
    unit: Literal["percent", "share", "points", "0-10", "1-5"]
    source: str = Field(min_length=1)


@cache
def anchors() -> tuple[Anchor, ...]:
    """Every published number that the project knows."""
    values = yaml.safe_load((files("eval") / "anchors.yaml").read_text(encoding="utf-8"))
    return tuple(
        Anchor.model_validate(
            {**{key: value for key, value in block.items() if key != "values"}, **row}
        )
        for block in values
        for row in block["values"]
    )


def anchors_for(benchmark: str, dimension: str, protocol: str) -> list[Anchor]:
    """The published numbers of this benchmark where dimension and protocol are these; others are
    not comparable and stay out."""
    wanted = (benchmark, dimension, protocol)
    return [
        anchor
        for anchor in anchors()
        if (anchor.benchmark, anchor.dimension, anchor.protocol) == wanted
    ]


def anchor_table(found: Sequence[Anchor]) -> str:
    """The numbers as lines with their sources."""
    if not found:
        return "no number was published for this dimension and protocol"
    head = ("benchmark", "dimension", "protocol", "model", "setting", "value", "source")
    rows = [
        (
            a.benchmark,
            a.dimension,
            a.protocol,
            a.model,
            a.setting or "–",
            f"{a.value:g} ({a.unit})",
            a.source,
        )
        for a in found
    ]
    widths = [max(len(row[place]) for row in (head, *rows)) for place in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (head, *rows)
    )


def print_anchors(benchmark: str | None = None) -> None:
    """Prints the published numbers of a benchmark, or of all. Raises InputError where none is
    known."""
    known = sorted({anchor.benchmark for anchor in anchors()})
    if benchmark is not None and benchmark not in known:
        raise InputError(
            f"No number of a benchmark '{benchmark}' is known; give one of {', '.join(known)}."
        )
    print(anchor_table([anchor for anchor in anchors() if benchmark in (None, anchor.benchmark)]))
