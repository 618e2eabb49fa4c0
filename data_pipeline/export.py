"""The workbook → the set's files: SFT rows, preference pairs, all traces, what was left out, and the card."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from rrm.parsing import thought_of
from rrm.records import PreferencePair, SFTRow, Trace
from rrm.runtime.secrets import mask
from rrm.runtime.stage import account, write_json

from data_pipeline.card import Tally, money_rows, prompt_hashes, quarantine_counts, versions
from data_pipeline.judge import Judged
from data_pipeline.ledger import Ledger
from data_pipeline.passes import CHOSEN, ready
from data_pipeline.rows import decompose_row, judge_row, write_table
from data_pipeline.run_state import Workbook
from data_pipeline.settings import DataConfig

SPLITS = {"train": "", "validation": "_validation"}
"""What is added to a file's name."""


def judged_rows(config: DataConfig, book: Workbook, condition: str) -> Iterator[SFTRow]:
    """The SFT rows of the quadruples with a selected trace."""
    for quadruple, outcome in book.quadruples(f"q.outcome IS NOT NULL AND {condition}"):
        judged = Judged.model_validate_json(outcome or "")
        if judged.selected is not None:
            yield judge_row(quadruple, judged, config.thinks)


def decompose_rows(config: DataConfig, book: Workbook, split: str, judge_count: int) -> Iterator[SFTRow]:
    """Examples of decomposing, as many as make `decompose_share` of all rows (or as there are decomposed tasks), drawn by seed.

    Where nothing was to be judged, all of them.
    """
    condition = f"origin = 'task' AND {CHOSEN} AND split = ? AND principles IS NOT NULL AND principles != '[]'"
    known = [row[0] for row in book.run(f"SELECT n FROM tasks WHERE {condition} ORDER BY task_id", (split,))]
    share = config.decompose_share
    count = min(len(known), round(judge_count * share / (1 - share))) if book.count("quadruples") else len(known)
    for i in np.random.default_rng(config.seed).permutation(len(known))[:count]:
        yield decompose_row(*book.decomposed(known[int(i)]))


def traces(book: Workbook, tally: Tally) -> Iterator[Trace]:
    """Every trace, in order; the tally is kept on the way."""
    for quadruple, outcome in book.quadruples("q.outcome IS NOT NULL"):
        judged = Judged.model_validate_json(outcome or "")
        tally.add(quadruple, judged)
        yield from judged.traces


def account_of(book: Workbook, counts: Mapping[str, int]) -> dict[str, Any]:
    """What became of the edits and the human pairs (of the tasks, where there are neither): each came out, or failed, itself or with its
    task."""
    parts = {"quadruples": "quadruple_id", "pairs": "pair_id"} if book.count("quadruples") + book.count("pairs") else {}
    names = ("sft_judge", "preferences", "same") if parts else ("sft_decompose",)
    made = sum(count for name, count in counts.items() if name.removesuffix("_validation") in names)
    kind, of_row = "json_extract(q.failure, '$.kind')", "q.stage NOT IN ('read', 'make', 'benchmark')"
    queries = [f"SELECT {kind}, COUNT(*) FROM quarantine q WHERE q.stage IN ('read', 'make') GROUP BY 1"]
    for table, key in parts.items():
        joined = f"{table} r JOIN quarantine q ON q.key IN (r.{key}, r.task_id)"
        queries.append(f"SELECT {kind}, COUNT(*) FROM {joined} WHERE {of_row} GROUP BY 1")
    if not parts:
        queries.append(f"SELECT {kind}, COUNT(*) FROM quarantine q WHERE {of_row} GROUP BY 1")
    failed: Counter[str] = Counter()
    for query in queries:
        for name, count in book.run(query):
            failed[name] += count
    return account(made + failed.total(), made, failed)


def export(config: DataConfig, out: Path, book: Workbook, ledger: Ledger, gone: dict[str, Any]) -> dict[str, Any]:
    """Writes every file of the set; returns its card."""
    tally = Tally()
    write_table(out / "traces.parquet", Trace, traces(book, tally))
    counts: dict[str, int] = {
        "tasks": book.count("tasks WHERE origin = 'task'"),
        "left_out": book.count("tasks WHERE origin = 'task' AND left_out IS NOT NULL"),
        "chosen": book.count(f"tasks WHERE origin = 'task' AND {CHOSEN}"),
        "decomposed": book.count("tasks WHERE principles IS NOT NULL AND principles != '[]'"),
        "candidates": book.count("quadruples"),
        **{name: tally.counts[name] for name in ("quadruples", "traces", "readable_traces", "gold")},
    }
    for split, suffix in SPLITS.items():
        if split == "validation" and not config.validation_share:
            continue
        here = f"t.split = '{split}'"
        judged = unthought = 0
        for row in judged_rows(config, book, here):
            judged += 1
            unthought += not thought_of(row.target, config.variant == "holistic")
        decomposed = decompose_rows(config, book, split, judged) if config.decomposes else iter(())
        written = write_table(out / f"sft{suffix}.parquet", SFTRow, chain(judged_rows(config, book, here), decomposed))
        paired = f"{ready(config)} AND {here}"
        preferred = book.pairs(f"{paired} AND p.label != 'same'")
        counts |= {f"sft_judge{suffix}": judged, f"sft_decompose{suffix}": written - judged}
        if config.thinks:
            counts[f"sft_without_a_thought{suffix}"] = unthought
        counts[f"preferences{suffix}"] = write_table(out / f"preferences{suffix}.parquet", PreferencePair, preferred)
        same = book.pairs(f"{paired} AND p.label = 'same'")
        counts[f"same{suffix}"] = write_table(out / f"same{suffix}.parquet", PreferencePair, same)
    kinds: Counter[tuple[str, str]] = Counter()
    with (out / "quarantine.jsonl").open("w", encoding="utf-8") as file:
        for bad in book.quarantined():
            kinds[bad.stage, bad.failure.kind] += 1
            file.write(mask(bad.model_dump_json()) + "\n")
    counts["quarantined"] = kinds.total()
    used = (row[0] for row in book.run("SELECT key FROM used"))
    card = {
        "variant": config.variant,
        "config": config.what(),
        "digest": config.digest(),
        "counts": counts,
        "account": account_of(book, counts),
        "passes": {name: book.result(name) for name in ("read", "clean", "choose", "filter", "make") if book.result(name)},
        "pairs": book.result("pairs"),
        **tally.rows(),
        "failures": {"traces": dict(sorted(tally.failures.items())), "quarantined": quarantine_counts(kinds)},
        "teachers_gone": gone,
        "bill": money_rows(ledger.bills(used), config.pool),
        "prompts": prompt_hashes(),
        "versions": versions(),
    }
    write_json(out / "card.json", card)
    return card
