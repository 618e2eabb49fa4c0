"""The data card as one page that opens from disk: what the set holds, how it was made, what was
left out, and samples of it."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeVar

import matplotlib
import pyarrow.parquet as pq
import yaml
from markupsafe import Markup
from matplotlib.colors import LinearSegmentedColormap

from rrm.errors import InputError
from rrm.images import ImageStore, data_url, png_bytes
from rrm.parsing import read_answer, thought_of
from rrm.records import Failure, PreferencePair, Quarantined, Record, SFTRow
from rrm.render.pages import template
from rrm.render.plots import STYLE, Bar, histogram, horizontal_bars, inline, new_axes, shortened
from rrm.runtime.stage import write_text

Row = TypeVar("Row", bound=Record)
SFT_SAMPLES, PAIR_SAMPLES, QUARANTINE_SAMPLES = 6, 3, 5
MOST_BARS = 24
SIDE = 256
"""Pixels of the widest image on the page."""
GREY, BLUE, AMBER, GREEN, PURPLE = "#9aa0a6", "#3b7dd8", "#e09f3e", "#2a9d8f", "#b07aa1"
INK_OF_CELL = "#16191d"
AGREEMENT = LinearSegmentedColormap.from_list("agreement", ["#f6ead8", "#8fb6ea", BLUE])
CATEGORIES = {"follow": "Instruction followed", "keep": "Rest preserved", "quality": "Image clean"}
VARIANTS = {
    "T": "teachers think, nothing is verified",
    "V": "no thinking, verified",
    "T+V": "teachers think, and a verifier gives gold verdicts",
    "holistic": "scores without principles",
}
FUNNEL = {
    "tasks": ("tasks", GREY),
    "left_out": ("left out", AMBER),
    "chosen": ("chosen", GREY),
    "decomposed": ("decomposed, tasks of pairs too", GREY),
    "candidates": ("candidates", BLUE),
    "quadruples": ("quadruples judged", BLUE),
    "traces": ("traces", PURPLE),
    "readable_traces": ("readable traces", PURPLE),
    "gold": ("quadruples with gold", BLUE),
    "sft_rows": ("SFT rows", GREEN),
}
OVERLAPS = {
    "image": "the source image is a benchmark's",
    "near_image": "the source image is nearly a benchmark's",
    "instruction": "the instruction is a benchmark's",
    "repeat": "another task has this instruction and nearly this image",
}


@dataclass(frozen=True)
class Picture:
    """An image on the page; a small one is shown enlarged, pixel by pixel."""

    caption: str
    url: str
    small: bool


def picture(store: ImageStore, digest: str, caption: str) -> Picture:
    """The stored image, scaled down to SIDE pixels, as a URL that carries it. Raises InputError
    where the store lacks it."""
    image = store.get(digest)
    small = image.width < SIDE
    image.thumbnail((SIDE, 2 * SIDE))
    return Picture(caption, data_url(png_bytes(image)), small)


def spread(count: int, wanted: int) -> list[int]:
    """The middles of `wanted` equal parts of `count` places; all places where there are no more
    than that."""
    return (
        [(2 * i + 1) * count // (2 * wanted) for i in range(wanted)]
        if count > wanted
        else list(range(count))
    )


def sample_table(path: Path, kind: type[Row], wanted: int) -> list[Row]:
    """So many records of a Parquet file, drawn evenly over it. Raises InputError where it is
    missing."""
    if not path.is_file():
        raise InputError(f"There is no {path}; run the data pipeline again.")
    with pq.ParquetFile(path) as file:
        places = spread(file.metadata.num_rows, wanted)
        ends = list(
            accumulate(
                file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)
            )
        )
        rows = []
        for place in places:  # a row group at a time: the set may not fit into memory
            group = bisect_right(ends, place)
            start = ends[group - 1] if group else 0
            rows += file.read_row_group(group).slice(place - start, 1).to_pylist()
    return [kind.model_validate(row) for row in rows]


def sample_quarantine(path: Path, wanted: int) -> list[Quarantined]:
    """So many of the rows that were left out, drawn evenly over the file. Raises InputError where
    it is missing."""
    if not path.is_file():
        raise InputError(f"There is no {path}; run the data pipeline again.")
    with path.open(encoding="utf-8") as file:
        places = set(spread(sum(1 for _ in file), wanted))
    with path.open(encoding="utf-8") as file:
        return [
            Quarantined.model_validate_json(line)
            for place, line in enumerate(file)
            if place in places
        ]


def agreement_figure(teachers: Iterable[str], pairs: Mapping[str, float]) -> Markup | None:
    """Teacher against teacher, in per cent of equal verdicts. None where there is no pair of
    different ones."""
    table = {
        one: {other: pairs.get(" | ".join(sorted((one, other))), math.nan) for other in teachers}
        for one in teachers
    }
    names = [name for name, row in table.items() if not all(map(math.isnan, row.values()))]
    if len(names) < 2:
        return None
    cells = [[table[one][other] for other in names] for one in names]
    shown = [shortened(name, 32) for name in names]
    with matplotlib.rc_context(STYLE):
        figure, (axis,) = new_axes(1, 3.4 + 0.62 * len(names), 1.2 + 0.5 * len(names))
        axis.grid(visible=False)
        axis.pcolormesh(cells, cmap=AGREEMENT, vmin=0.5, vmax=1, edgecolors="face", linewidth=0)
        for y, row in enumerate(cells):
            for x, share in enumerate(row):
                text, colour = (
                    ("–", GREY) if math.isnan(share) else (f"{100 * share:.1f}", INK_OF_CELL)
                )
                axis.text(
                    x + 0.5, y + 0.5, text, ha="center", va="center", color=colour, fontsize=9
                )
        middles = [i + 0.5 for i in range(len(names))]
        axis.set_xticks(middles, shown, rotation=25, ha="right", rotation_mode="anchor")
        axis.set_yticks(middles, shown)
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
        axis.invert_yaxis()
        return inline(figure, "Agreement between teachers")


def figures(card: Mapping[str, Any], counts: Mapping[str, int]) -> dict[str, Markup | None]:
    """The page's plots; None for those that have nothing to show."""
    met: list[Bar] = []
    for category, words in CATEGORIES.items():
        for whose, colour in (("gold", AMBER), ("selected", BLUE)):
            if found := card["verdicts"][whose].get(category):
                met.append(
                    (
                        f"{words}, {whose}",
                        colour,
                        found["met"],
                        f"{found['met']:.1%} of {found['n']:,}",
                    )
                )
    funnel: list[Bar] = [
        (name, colour, counts[key], f"{counts[key]:,}") for key, (name, colour) in FUNNEL.items()
    ]
    frequent = sorted(card["editors"].items(), key=lambda item: (-item[1], item[0]))[:MOST_BARS]
    editors: list[Bar] = [(name, BLUE, count, f"{count:,}") for name, count in frequent]
    equal = "share of verdicts that equal gold"
    return {
        "funnel": horizontal_bars(funnel, "", "Counts"),
        "agreement": agreement_figure(card["teachers"], card["teacher_agreement"]),
        "verdicts": horizontal_bars(met, "principles met", "Verdicts by category", shares=True),
        "scores": histogram(
            card["scores"], 0.5, 10, "final score", "traces", "Scores of the selected traces"
        ),
        "accuracy": histogram(
            card["selected_accuracy"], 0.05, 1, equal, "traces", "Accuracy of the selected traces"
        ),
        "editors": horizontal_bars(editors, "quadruples", "Editors"),
    }


def sft_sample(row: SFTRow, store: ImageStore) -> dict[str, Any]:
    """An SFT row as the template shows it; verdicts and score are read from its target."""
    read = None
    if row.kind == "judge":
        read = read_answer(row.target, len(row.principles))
    failure = read if isinstance(read, Failure) else None
    scored = None if isinstance(read, Failure) else read
    verdicts = scored.verdicts if scored and scored.verdicts else [None] * len(row.principles)
    pictures = [picture(store, row.source, "Source")]
    if row.edited is not None:
        pictures.append(picture(store, row.edited, "Edited"))
    return {
        "row": row,
        "pictures": pictures,
        "checks": list(zip(row.principles, verdicts, strict=True)),
        "thought": thought_of(row.target, holistic=not row.principles)
        if row.kind == "judge"
        else None,
        "score": scored.score if scored else None,
        "failure": failure,
    }


def pair_sample(pair: PreferencePair, store: ImageStore) -> dict[str, Any]:
    """A preference pair as the template shows it."""
    sides = {"Source": pair.source, "a": pair.edited_a, "b": pair.edited_b}
    return {
        "pair": pair,
        "pictures": [picture(store, digest, caption) for caption, digest in sides.items()],
    }


def quarantine_sample(bad: Quarantined, store: ImageStore) -> dict[str, Any]:
    """A row that was left out as the template shows it: its images, the answers that could not be
    used, and whatever else is known."""
    known = dict(bad.evidence)
    pictures = [
        picture(store, known.pop(key), key.capitalize())
        for key in ("source", "edited")
        if key in known
    ]
    instruction, answers = known.pop("instruction", None), known.pop("answers", [])
    rest = yaml.safe_dump(known, sort_keys=False, allow_unicode=True, width=120) if known else ""
    return {
        "bad": bad,
        "pictures": pictures,
        "instruction": instruction,
        "answers": answers,
        "rest": rest,
    }


def number(value: float | None) -> str:
    """A count with commas, other numbers with two digits; a dash for what is missing."""
    return "–" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:,.2f}"


def percent(share: float | None) -> str:
    """A share in per cent; a dash for what is missing."""
    return "–" if share is None else f"{share:.1%}"


def money(amount: float) -> str:
    """An amount with two digits, small ones with as many as they need."""
    return f"{amount:,.2f}" if amount >= 0.1 or not amount else f"{amount:.2g}"


def counted(count: int, word: str) -> str:
    """So many of something, in the singular or plural."""
    return f"{count:,} {word}" if count == 1 else f"{count:,} {word}s"


def page(out: Path, card: Mapping[str, Any], store: ImageStore) -> str:
    """The page's HTML."""
    counts = dict.fromkeys(FUNNEL, 0) | card["counts"]
    both = {
        name: counts.get(name, 0) + counts.get(f"{name}_validation", 0)
        for name in ("sft_judge", "sft_decompose", "preferences", "same")
    }
    counts |= {
        "sft_rows": both["sft_judge"] + both["sft_decompose"],
        "pairs": both["preferences"],
        "same_pairs": both["same"],
    }
    filters = {"number": number, "percent": percent, "money": money, "counted": counted}
    return template("data_pipeline", "card.html.j2", filters).render(
        name=out.resolve().name,
        card=card,
        counts=counts,
        clean=card["passes"].get("clean", {}),
        votes=card.get("pairs"),
        variants=VARIANTS,
        overlaps=OVERLAPS,
        most_editors=MOST_BARS,
        kinds=sorted({kind for by in card["failures"]["quarantined"].values() for kind in by}),
        config=yaml.safe_dump(card["config"], sort_keys=False, allow_unicode=True, width=120),
        figures=figures(card, counts),
        sft=[
            sft_sample(row, store) for row in sample_table(out / "sft.parquet", SFTRow, SFT_SAMPLES)
        ],
        pairs=[
            pair_sample(pair, store)
            for pair in sample_table(out / "preferences.parquet", PreferencePair, PAIR_SAMPLES)
        ],
        quarantined=[
            quarantine_sample(bad, store)
            for bad in sample_quarantine(out / "quarantine.jsonl", QUARANTINE_SAMPLES)
        ],
    )


def write_page(out: Path, card: dict[str, Any], store: ImageStore) -> Path:
    """Writes `card.html` beside the set's files, at once or not at all; returns its path.

    The page is self-contained and runs nothing; the same set and card give the same bytes. Raises
    InputError where a file of the set or an image is missing.
    """
    path = out / "card.html"
    write_text(path, page(out, card, store))
    return path
