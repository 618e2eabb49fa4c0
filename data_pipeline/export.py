"""The run state → the set's files: SFT rows, preference pairs, all traces, what was left out, and
the card."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.card import Tally, money_rows, prompt_hashes, quarantine_counts, versions
from data_pipeline.ledger import Ledger
from data_pipeline.run_state import RunState
from data_pipeline.settings import DataConfig
from data_pipeline.sft_rows import decompose_row, judge_row, write_table
from data_pipeline.traces import Judged
from rrm.parsing import thought_of
from rrm.records import PreferencePair, SFTRow, Trace
from rrm.runtime.secrets import mask
from rrm.runtime.stage import account, write_json

SPLITS = {"train": "", "validation": "_validation"}
"""What is added to a file's name."""


def judged_rows(config: DataConfig, state: RunState, split: str) -> Iterator[SFTRow]:
    """The SFT rows of the quadruples with a selected trace."""
    for quadruple, outcome in state.judged(split):
        judged = Judged.model_validate_json(outcome)
        if judged.selected is not None:
            yield judge_row(quadruple, judged, config.thinks)


def decompose_rows(
    config: DataConfig, state: RunState, split: str, judge_count: int
) -> Iterator[SFTRow]:
    """Examples of decomposing, as many as make `decompose_share` of all rows (or as there are
    decomposed tasks), drawn by seed.

    Where nothing was to be judged, all of them.
    """
    known = state.decomposed_numbers(split)
    share = config.decompose_share
    count = (
        min(len(known), round(judge_count * share / (1 - share)))
        if state.candidate_count()
        else len(known)
    )
    for i in np.random.default_rng(config.seed).permutation(len(known))[:count]:
        yield decompose_row(*state.decomposed(known[int(i)]))


def traces(state: RunState, tally: Tally) -> Iterator[Trace]:
    """Every trace, in order; the tally is kept on the way."""
    for quadruple, outcome in state.judged():
        judged = Judged.model_validate_json(outcome)
        tally.add(quadruple, judged)
        yield from judged.traces


def account_of(state: RunState, counts: Mapping[str, int]) -> dict[str, Any]:
    """What became of the edits and the human pairs (of the tasks, where there are neither): each
    came out, or failed, itself or with its task."""
    names = (
        ("sft_judge", "preferences", "same")
        if state.candidate_count() + state.pair_count()
        else ("sft_decompose",)
    )
    made = sum(count for name, count in counts.items() if name.removesuffix("_validation") in names)
    failed = state.failure_counts()
    return account(made + failed.total(), made, failed)


def export(
    config: DataConfig, out: Path, state: RunState, ledger: Ledger, gone: dict[str, Any]
) -> dict[str, Any]:
    """Writes every file of the set; returns its card."""
    tally = Tally()
    write_table(out / "traces.parquet", Trace, traces(state, tally))
    counts: dict[str, int] = {
        **state.task_counts(),
        **{
            name: tally.counts[name] for name in ("quadruples", "traces", "readable_traces", "gold")
        },
    }
    for split, suffix in SPLITS.items():
        if split == "validation" and not config.validation_share:
            continue
        judged = unthought = 0
        for row in judged_rows(config, state, split):
            judged += 1
            unthought += not thought_of(row.target, config.variant == "holistic")
        decomposed = decompose_rows(config, state, split, judged) if config.decomposes else iter(())
        written = write_table(
            out / f"sft{suffix}.parquet",
            SFTRow,
            chain(judged_rows(config, state, split), decomposed),
        )
        preferred = state.ready_pairs(split, same=False, decomposes=config.decomposes)
        counts |= {f"sft_judge{suffix}": judged, f"sft_decompose{suffix}": written - judged}
        if config.thinks:
            counts[f"sft_without_a_thought{suffix}"] = unthought
        counts[f"preferences{suffix}"] = write_table(
            out / f"preferences{suffix}.parquet", PreferencePair, preferred
        )
        same = state.ready_pairs(split, same=True, decomposes=config.decomposes)
        counts[f"same{suffix}"] = write_table(out / f"same{suffix}.parquet", PreferencePair, same)
    kinds: Counter[tuple[str, str]] = Counter()
    with (out / "quarantine.jsonl").open("w", encoding="utf-8") as file:
        for bad in state.quarantined():
            kinds[bad.stage, bad.failure.kind] += 1
            file.write(mask(bad.model_dump_json()) + "\n")
    counts["quarantined"] = kinds.total()
    card = {
        "variant": config.variant,
        "config": config.what(),
        "digest": config.digest(),
        "counts": counts,
        "account": account_of(state, counts),
        "passes": {
            name: state.result(name)
            for name in ("read", "clean", "choose", "filter", "make")
            if state.result(name)
        },
        "pairs": state.result("pairs"),
        **tally.rows(),
        "failures": {
            "traces": dict(sorted(tally.failures.items())),
            "quarantined": quarantine_counts(kinds),
        },
        "teachers_gone": gone,
        "bill": money_rows(ledger.bills(state.used_keys()), config.pool),
        "prompts": prompt_hashes(),
        "versions": versions(),
    }
    write_json(out / "card.json", card)
    return card
