"""The whole pipeline: tasks → principles → candidates → traces → gold verdicts → SFT rows; and
preference pairs beside them.

`rrm data --config configs/sandbox/data.yaml` writes
    sft.parquet           rows of `rrm.records.SFTRow`; with a validation share sft_validation.parquet beside it, and so for the others
    preferences.parquet   human pairs with a preferred side, rows of `rrm.records.PreferencePair`; same.parquet holds the others
    traces.parquet        every trace that a teacher gave, readable or not, rows of `rrm.records.Trace`
    images/               the image store that every digest refers to
    quarantine.jsonl      what was left out, why, and what it takes to see why
    card.json card.html   how the set was made: counts, agreement, distributions, tokens, money, versions
    work.sqlite           where the run stands
and, beside the folder, <out>.ledger.sqlite: every answer that was paid for. A run that was stopped, or that has another config, asks for
none of them again.
`variant` chooses between thinking without verification (T), verification without thinking (V), both (T+V), and holistic scores
without principles.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from data_pipeline.budget import Budget, price_of
from data_pipeline.candidates import make_candidates
from data_pipeline.card_page import write_page
from data_pipeline.clean import clean
from data_pipeline.export import export
from data_pipeline.intake import take_in
from data_pipeline.ledger import Ledger
from data_pipeline.passes import Engine, LocalEngine, choose, decompose_all, filter_hard, judge_all
from data_pipeline.run_state import RunState
from data_pipeline.settings import SANDBOX, DataConfig
from data_pipeline.stored_images import damaged
from data_pipeline.teachers import Teachers
from rrm.errors import InputError
from rrm.images import ImageStore
from rrm.rows.sources import fingerprint_files
from rrm.runtime import local_servers
from rrm.runtime.stage import previous, run_stage

log = logging.getLogger(__name__)

ENGINES = ("local", "ray")


@contextmanager
def teachers_there(config: DataConfig) -> Iterator[DataConfig]:
    """The config with the addresses of its teachers and editors; "sandbox" starts the sandbox's for
    the duration."""
    addresses = [
        config.teacher_url,
        *(t.base_url for t in config.pool),
        *(e.base_url for e in config.generators),
    ]
    if SANDBOX not in addresses:
        yield config
        return
    with local_servers.running(SANDBOX) as url:
        yield config.with_sandbox_at(url)


def link(source: str, target: str) -> None:
    """Gives the file a second name, unless that is taken."""
    if not os.path.exists(target):
        os.link(source, target)


def adopt_images(earlier: Iterable[Path], images: Path) -> None:
    """Links the images of other folders into a new one, so that they need not be decoded again."""
    if images.exists():
        return
    for folder in earlier:
        if folder.is_dir():
            shutil.copytree(
                folder,
                images,
                copy_function=link,
                ignore=shutil.ignore_patterns("*.part"),
                dirs_exist_ok=True,
            )


def foreseen(config: DataConfig) -> Path:
    """Where a plan or a dry run keeps the images that it read, for the run to come."""
    return Path(config.out).with_name(Path(config.out).name + ".images")


@contextmanager
def opened(
    config: DataConfig, out: Path, images: Path
) -> Iterator[tuple[RunState, Ledger, ImageStore]]:
    """The files of a run."""
    ledger = Ledger(config.ledger_path)
    try:
        state = RunState(out / "work.sqlite")
        try:
            yield state, ledger, ImageStore(images)
        finally:
            state.close()
    finally:
        ledger.close()


def read_in(config: DataConfig, state: RunState, ledger: Ledger, store: ImageStore) -> bool:
    """Reads the inputs and cleans the set, unless that was done and every image in the store is
    sound; whether there was anything to do.

    Raises InputError where images are damaged no sooner than they are stored.
    """
    again = state.result("clean") is None
    take_in(config, state, ledger, store)
    if lost := damaged(state, store):
        again = True
        log.warning(
            "%d stored images are missing or damaged: they are read again from their sources",
            len(lost),
        )
        state.begin()
        take_in(config, state, ledger, store)
        if damaged(state, store):
            raise InputError(
                f"Images in {store.root} change as soon as they are stored; stop whatever else writes there."
            )
    clean(config, state, ledger, store)
    return again


async def go_through(
    config: DataConfig, state: RunState, ledger: Ledger, store: ImageStore, engine: Engine
) -> None:
    """Every pass, in order; those that are done are skipped, but for rows that servers failed to
    answer in an earlier run."""
    state.forget_lost()
    choose(config, state)
    await filter_hard(config, state, engine)
    await make_candidates(config, state, ledger, store)
    await decompose_all(config, state, engine)
    await judge_all(config, state, engine)


async def check_teachers(config: DataConfig, ledger: Ledger, store: ImageStore) -> None:
    """Raises InputError unless every teacher is there."""
    teachers = Teachers(config, store, ledger, Budget())
    try:
        await teachers.check()
    finally:
        await teachers.close()


async def ask_teachers(
    config: DataConfig,
    state: RunState,
    ledger: Ledger,
    store: ImageStore,
    max_cost: float | None,
    engine: str,
) -> dict[str, Any]:
    """Goes through all passes with the teachers; returns those that were gone for good on the way."""
    budget = Budget(price_of(ledger.bills(), config.pool), max_cost)
    teachers = Teachers(config, store, ledger, budget)
    runner: Engine = LocalEngine(config, teachers, teachers.clients.values())
    try:
        if engine == "ray":
            from data_pipeline.cluster import RayEngine  # a cluster, which one machine does without

            runner = RayEngine(config, ledger, store, budget)
            ledger = runner.ledger
        await go_through(config, state, ledger, store, runner)
        return runner.gone()
    finally:
        await runner.close()
        await teachers.close()


def run(
    config: DataConfig, out: Path, max_cost: float | None = None, engine: str = "local"
) -> dict[str, Any]:
    """Makes the data set in `out`; returns the counts and the account of its card."""
    adopt_images([previous(out) / "images", foreseen(config)], out / "images")
    shutil.rmtree(foreseen(config), ignore_errors=True)
    with (
        opened(config, out, out / "images") as (state, ledger, store),
        teachers_there(config) as there,
    ):
        asyncio.run(check_teachers(there, ledger, store))
        read_in(config, state, ledger, store)
        gone = asyncio.run(ask_teachers(there, state, ledger, store, max_cost, engine))
        if read_in(
            config, state, ledger, store
        ):  # images were damaged on the way; every sound answer is in the ledger
            gone = asyncio.run(ask_teachers(there, state, ledger, store, max_cost, engine))
        card = export(config, out, state, ledger, gone)
        write_page(out, card, store)
        return {**card["counts"], "account": card["account"]}


def run_as_stage(
    config: DataConfig, max_cost: float | None = None, engine: str = "local", retry: bool = False
) -> None:
    """Makes the set as a stage: skipped where it is done, resumed where it was interrupted; `retry`
    asks again for what failed."""
    sources = [config.tasks, config.candidates, config.pairs, *config.benchmarks]
    files = [path for where in sources if where for path in fingerprint_files(where)]
    inputs: list[str | Path] = [*files, *([config.exemplars_path] if config.exemplars_path else [])]
    afresh = "what failed is asked for again" if retry else None
    run_stage(
        "data", config.out, config, inputs, lambda out: run(config, out, max_cost, engine), afresh
    )
