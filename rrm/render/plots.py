"""Plots as SVG that stands inline in a page and takes its ink from the page's text."""

from __future__ import annotations

import html
import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

INK = "#0a0b0c"
"""Replaced by the page's own text colour."""
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "text.parse_math": False,  # a model may be named "a$b$"
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
}
Bar = tuple[str, str, float, str]
"""Name, colour, length, and what is written at its end."""
BLUE = "#3b7dd8"


def new_axes(count: int, width: float, height: float, **shared: Any) -> tuple[Figure, list[Axes]]:
    """A figure (inches) with `count` axes side by side."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(1, count, squeeze=False, **shared)[0]
    for axis in axes:
        axis.grid(visible=True, color=INK, alpha=0.12, linewidth=0.6)
        axis.set_axisbelow(True)
    return figure, list(axes)


def inline(figure: Figure, label: str) -> Markup:
    """The figure as an <svg> element without ids, which would clash with those of another figure."""
    buffer = io.StringIO()
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": label}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg).replace(INK, "currentColor")
    svg = re.sub(r' height="[^"]*pt"', "", svg, count=1)  # the page sets it, from the width
    return Markup(svg.replace("<svg ", f'<svg role="img" aria-label="{html.escape(label)}" ', 1))


def shortened(name: str, length: int) -> str:
    """The name, without its middle where it is longer."""
    return (
        name
        if len(name) <= length
        else f"{name[: length // 2]}…{name[len(name) - (length - 1) // 2 :]}"
    )


def horizontal_bars(
    rows: Sequence[Bar], x_label: str, label: str, shares: bool = False
) -> Markup | None:
    """A bar of a count (or share) per row from the top, with its text at the end. None where all
    are empty."""
    longest = max((length for _, _, length, _ in rows), default=0)
    if not longest:
        return None
    names, colours, lengths, texts = zip(*rows, strict=True)
    with matplotlib.rc_context(STYLE):
        figure, (axis,) = new_axes(1, 6.6, 0.5 + 0.26 * len(rows))
        drawn = axis.barh(range(len(rows)), lengths, 0.72, color=colours)
        axis.bar_label(drawn, labels=texts, padding=4, fontsize=9)
        axis.set_yticks(range(len(rows)), [shortened(name, 44) for name in names])
        axis.set_ylim(len(rows) - 0.4, -0.6)
        axis.grid(visible=False, axis="y")
        axis.tick_params(axis="y", length=0)
        axis.set_xlim(0, 1.3 if shares else 1.16 * longest)
        if shares:
            axis.set_xticks([0, 0.25, 0.5, 0.75, 1])
        else:
            axis.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]))
        axis.xaxis.set_major_formatter("{x:.0%}" if shares else "{x:,.0f}")
        axis.set_xlabel(x_label)
        return inline(figure, label)


def pooled(counts: Mapping[str, int], step: float, top: float) -> list[int]:
    """How many values are nearest to 0, step, … top; those in the middle go up."""
    places = [0] * (round(top / step) + 1)
    for value, count in counts.items():
        places[math.floor(float(value) / step + 0.5)] += count
    return places


def histogram(
    counts: Mapping[str, int], step: float, top: float, x_label: str, y_label: str, label: str
) -> Markup | None:
    """Bars over 0…top, each value counted at the nearest multiple of `step`. None of nothing."""
    if not sum(counts.values()):
        return None
    places = pooled(counts, step, top)
    with matplotlib.rc_context(STYLE):
        figure, (axis,) = new_axes(1, 6.6, 2.2)
        axis.bar([step * i for i in range(len(places))], places, 0.86 * step, color=BLUE)
        axis.set_xlim(-0.7 * step, top + 0.7 * step)
        axis.set_xticks([top * i / 10 for i in range(11)])
        axis.yaxis.set_major_locator(MaxNLocator(4, integer=True, steps=[1, 2, 5, 10]))
        axis.yaxis.set_major_formatter("{x:,.0f}")
        axis.grid(visible=False, axis="x")
        axis.set_xlabel(x_label)
        axis.set_ylabel(y_label)
        return inline(figure, label)
