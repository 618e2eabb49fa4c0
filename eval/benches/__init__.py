"""The public benchmarks of reward models, each read into the same typed rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Literal, get_args

from eval.benches import compass, editscore, genai, pairs_jsonl, tiger
from eval.benches.reading import Layout, Place, Raw, raw_rows
from eval.benches.records import BenchRow, Label, Order, at_source_size, shown
from rrm.errors import InputError
from rrm.rows.formats import PLAIN, Reading
from rrm.rows.labels import BY_WORDS, Given, Labels, counted, decided
from rrm.rows.pairs import LABEL_COLUMNS, said_in

__all__ = ["KINDS", "OWN", "BenchRow", "Kind", "Label", "Order", "check_kind", "labels_at", "read_bench", "shown"]

Kind = Literal["editscore", "tiger", "genai", "compass", "jsonl"]
KINDS: tuple[Kind, ...] = get_args(Kind)
OWN: Kind = "jsonl"
"""Any preference set."""
Read = Callable[[int, Mapping[str, Any], str, Place], BenchRow | None]
READERS: Mapping[str, tuple[Layout, Read]] = {
    "editscore": (editscore.LAYOUT, editscore.row_of),
    "tiger": (tiger.LAYOUT, tiger.row_of),
    "genai": (genai.LAYOUT, genai.row_of),
    "compass": (compass.LAYOUT, compass.row_of),
    "jsonl": (pairs_jsonl.LAYOUT, pairs_jsonl.row_of),
}


def check_kind(kind: str) -> None:
    """Raises InputError unless `kind` is one of KINDS."""
    if kind not in KINDS:
        raise InputError(f"'{kind}' is no kind of benchmark; name one of {', '.join(KINDS)}.")


def limited(kind: str, rows: Iterable[tuple[int, Raw]], limit: int) -> Iterator[tuple[int, Raw]]:
    """The first `limit` rows per dimension (editscore), whole groups per K (tiger), or rows (all others)."""
    seen: Counter[str] = Counter()
    groups: dict[int, set[str]] = {}
    for number, (where, raw, place) in rows:
        if kind == "tiger":
            candidates, group = tiger.group_of(raw, where)
            known = groups.setdefault(candidates, set())
            if len(known) < limit:
                known.add(group)
            # Rows of a group need not stand together: a group that was begun is read to its end.
            keep = group in known
        else:
            part = str(raw.get("dimension")) if kind == "editscore" else ""
            seen[part] += 1
            keep = seen[part] <= limit
        if keep:
            yield number, (where, raw, place)


def labels_at(kind: str, where: str, reading: Reading = PLAIN, given: Given | None = None) -> Labels:
    """What the labels of a preference set of one's own mean, from all of its rows; every other kind has labels that its schema fixes.

    Raises InputError where that is not certain, and `given` does not say it.
    """
    check_kind(kind)
    if kind != OWN:
        if given:
            raise InputError(f"The labels of '{kind}' mean what its schema says; give 'labels' for '{OWN}' alone.")
        return BY_WORDS
    rows = raw_rows(where, READERS[kind][0], replace(reading, columns=LABEL_COLUMNS))
    return decided(where, counted(where, said_in(raw for _, raw, _ in rows)), given)


def read_bench(
    kind: str,
    where: str,
    limit: int | None = None,
    resize: bool = False,
    reading: Reading = PLAIN,
    labels: Labels = BY_WORDS,
) -> Iterator[BenchRow]:
    """The rows of the benchmark of this kind at `where` (folder, file, or hub id with optional @revision), in its order; `labels` is what
    `labels_at` says of it.

    `limit` keeps the first so many rows of every dimension of editscore, whole groups of every K of tiger, and rows of all others.
    With `resize` the edits come at their source's size; without, as they are, which is how a reward is asked while it trains an editor.
    Raises InputError, which names the row, for what is not in the kind's schema, and for no rows at all.
    """
    check_kind(kind)
    layout, row_of = READERS[kind]
    if kind == OWN:
        row_of = partial(pairs_jsonl.row_of, labels=labels)
    rows: Iterator[tuple[int, Raw]] = enumerate(raw_rows(where, layout, reading))
    found = False
    for number, (place_name, raw, place) in rows if limit is None else limited(kind, rows, limit):
        row = row_of(number, raw, place_name, place)
        if row is not None:
            found = True
            yield at_source_size(row) if resize else row
    if not found:
        raise InputError(f"{where} holds no rows.")
