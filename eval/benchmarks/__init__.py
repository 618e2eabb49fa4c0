"""Benchmarks of reward models: one file each, found by their constant `BENCHMARK`.

A file of this folder says all that is particular to one public set: its layout on the hub and on
disk, how a row is read, its protocol, which number is cited, and which public set it is of.
"""

from __future__ import annotations

import pkgutil
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from eval.outcomes import Scores, breakdown, by_dimension
from eval.pairs import BenchmarkRow, PairIndex, at_source_size
from eval.protocol import Benchmark, Thresholds, decided_outcomes, unparseable
from eval.reading import RawRow, raw_rows
from rrm.errors import InputError
from rrm.rows.formats import PLAIN, Reading
from rrm.rows.labels import BY_WORDS, Given, Labels


def discovered() -> dict[str, Benchmark]:
    """The benchmarks of this folder's files, by name."""
    modules = [
        import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)
    ]
    return {module.BENCHMARK.name: module.BENCHMARK for module in modules}


BENCHMARKS: Mapping[str, Benchmark] = discovered()


def benchmark_of(name: str) -> Benchmark:
    """The benchmark of this name. Raises InputError, naming all, for any other."""
    if name not in BENCHMARKS:
        raise InputError(f"'{name}' is no kind of benchmark; name one of {', '.join(BENCHMARKS)}.")
    return BENCHMARKS[name]


def limited(benchmark: Benchmark, rows: Iterable[RawRow], limit: int) -> Iterator[RawRow]:
    """The rows of the first `limit` groups of every part (`Benchmark.group_of`)."""
    groups: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        part, group = benchmark.group_of(row)
        # Rows of a group need not stand together: a group that was begun is read to its end.
        if len(groups[part]) < limit:
            groups[part].add(group)
        if group in groups[part]:
            yield row


def labels_at(
    name: str, where: str, reading: Reading = PLAIN, given: Given | None = None
) -> Labels:
    """What the labels mean. Raises InputError where neither the data nor `given` says."""
    benchmark = benchmark_of(name)
    if benchmark.decide_labels is not None:
        return benchmark.decide_labels(where, reading, given)
    if given:
        own = ", ".join(f"'{other.name}'" for other in BENCHMARKS.values() if other.decide_labels)
        raise InputError(
            f"The labels of '{name}' mean what its schema says; give 'labels' for {own} alone."
        )
    return BY_WORDS


def read_benchmark(
    name: str,
    where: str,
    limit: int | None = None,
    resize: bool = False,
    reading: Reading = PLAIN,
    labels: Labels = BY_WORDS,
) -> Iterator[BenchmarkRow]:
    """The rows at `where` (folder, file, or hub id with optional @revision), in their order.

    `limit` keeps the first groups of every part: rows of every dimension of editscore, whole groups
    of every K of tiger, rows of all others. With `resize` the edits come at their source's size.
    Raises InputError, naming the row, for what is not in the benchmark's schema, and for no rows.
    """
    benchmark = benchmark_of(name)
    rows: Iterator[RawRow] = raw_rows(where, benchmark.layout, reading)
    empty = True
    for raw in rows if limit is None else limited(benchmark, rows, limit):
        row = benchmark.row_of(raw, labels)
        if row is not None:
            empty = False
            yield at_source_size(row) if resize else row
    if empty:
        raise InputError(f"{where} holds no rows.")


@dataclass(frozen=True)
class OpenBenchmark:
    """A benchmark that was read once: its pairs without images."""

    benchmark: Benchmark
    pairs: list[PairIndex]
    rows: Callable[[], Iterator[BenchmarkRow]]
    """Reads the rows of these pairs again, with their images."""
    votes: dict[str, Any] | None
    """Of a preference set of one's own: how labels were read, what several votes came to."""


def open_benchmark(
    name: str,
    where: str,
    limit: int | None = None,
    resize: bool = False,
    reading: Reading = PLAIN,
    given: Given | None = None,
) -> OpenBenchmark:
    """The benchmark as `read_benchmark` reads it, with votes on one pair merged."""
    benchmark = benchmark_of(name)
    labels = labels_at(name, where, reading, given)

    def every_row() -> Iterator[BenchmarkRow]:
        return read_benchmark(name, where, limit, resize, reading, labels)

    pairs = [row.pair for row in every_row()]
    if benchmark.merge_votes is None:
        return OpenBenchmark(benchmark, pairs, every_row, None)
    merged, votes = benchmark.merge_votes(pairs)
    if not merged:
        raise InputError(
            f"{where} holds no pair of two different images that votes do not contradict."
        )
    numbers = {pair.number for pair in merged}
    rows = {"labels": labels.rows(), **votes}
    return OpenBenchmark(
        benchmark, merged, lambda: (row for row in every_row() if row.pair.number in numbers), rows
    )


def summarise(
    name: str, pairs: Sequence[PairIndex], scores: Scores, thresholds: Thresholds | None = None
) -> dict[str, Any]:
    """What scores by edit id amount to, by the benchmark's own rules and by one for all benchmarks.

    {"convention": {name: cell}, "principled": {dimension: …}, and counts}; `principled` is
    `breakdown` over the pairs that people decided. The thresholds are to be chosen on other pairs.
    """
    benchmark, given = benchmark_of(name), thresholds or Thresholds()
    decided = decided_outcomes(pairs, scores)
    note = (
        f"Scores up to {given.margin:g} apart are a tie."
        if given.margin
        else "The margin is 0: only equal scores are a tie."
    )
    return {
        "kind": name,
        "pairs": len(pairs),
        "sources": len({pair.source for pair in pairs}),
        "labels": dict(Counter(pair.label for pair in pairs)),
        "ties_in_gold": sum(not pair.decided for pair in pairs),
        "unparseable": unparseable(pairs, scores),
        "margin": given.margin,
        "margin_note": note,
        "bad_below": given.bad_below,
        "four_margin": given.four_margin,
        "convention": benchmark.protocol(pairs, scores, given),
        "principled": {name: breakdown(members) for name, members in by_dimension(decided).items()},
    }
