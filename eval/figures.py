"""The report's plots, as inline SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
from markupsafe import Markup

from rrm.render.plots import STYLE, inline, new_axes

COLOURS = {
    "chance": "#9aa0a6",
    "teacher": "#b07aa1",
    "sft": "#e09f3e",
    "gcpo": "#3b7dd8",
    "copy_source": "#9aa0a6",
    "base": "#e09f3e",
    "nft": "#3b7dd8",
    "grpo": "#2a9d8f",
}
Curve = tuple[str, str, Sequence[float], Sequence[float]]
"""Label, colour, steps, values."""


def curves(panels: Mapping[str, Sequence[Curve]], x_label: str, label: str) -> Markup | None:
    """A panel of curves per title, with a legend for several; None where nothing was logged."""
    panels = {title: [curve for curve in lines if curve[2]] for title, lines in panels.items()}
    panels = {title: lines for title, lines in panels.items() if lines}
    if not panels:
        return None
    with matplotlib.rc_context(STYLE):
        figure, axes = new_axes(len(panels), (5.4, 6.6, 9.4)[min(len(panels), 3) - 1], 2.3)
        for axis, (title, lines) in zip(axes, panels.items(), strict=True):
            for name, colour, steps, values in lines:
                axis.plot(
                    steps,
                    values,
                    color=colour,
                    linewidth=1.6,
                    label=name,
                    marker="o" if len(steps) < 2 else None,
                )
            axis.set_title(title, fontsize=10, loc="left")
            axis.set_xlabel(x_label)
            if len(lines) > 1:
                axis.margins(y=0.3)
                axis.legend(fontsize=9, loc="upper left")
        return inline(figure, label)


def intervals(
    rows: Mapping[str, tuple[str, float, Sequence[float] | None]], x_label: str, label: str
) -> Markup | None:
    """A dot with its interval per row: label → (colour, value, interval), from the top."""
    if not rows:
        return None
    with matplotlib.rc_context(STYLE):
        figure, (axis,) = new_axes(1, 6.6, 0.7 + 0.33 * len(rows))
        for place, (colour, value, interval) in enumerate(rows.values()):
            if interval is not None and None not in interval:
                axis.plot(
                    interval,
                    [place, place],
                    color=colour,
                    linewidth=2.4,
                    alpha=0.55,
                    solid_capstyle="round",
                )
            axis.plot([value], [place], "o", color=colour, markersize=7)
        axis.set_yticks(range(len(rows)), list(rows))
        axis.invert_yaxis()
        axis.margins(y=0.18)
        axis.set_xlabel(x_label)
        return inline(figure, label)


def bars(
    groups: Sequence[str], series: Mapping[str, tuple[str, Sequence[float]]], label: str
) -> Markup | None:
    """Bars in per cent, a cluster per group: series label → (colour, share per group)."""
    if not series:
        return None
    with matplotlib.rc_context(STYLE):
        figure, (axis,) = new_axes(1, 6.6, 2.6)
        width = 0.8 / len(series)
        for turn, (name, (colour, shares)) in enumerate(series.items()):
            places = [
                group + (turn - (len(series) - 1) / 2) * width for group in range(len(groups))
            ]
            drawn = axis.bar(
                places, [100 * share for share in shares], width * 0.9, color=colour, label=name
            )
            axis.bar_label(drawn, fmt="%.0f", fontsize=8, padding=1)
        axis.set_xticks(range(len(groups)), list(groups))
        axis.set_ylim(0, 108)
        axis.set_ylabel("met, %")
        axis.grid(visible=False, axis="x")
        figure.legend(loc="outside upper center", ncols=len(series), fontsize=9)
        return inline(figure, label)
