"""The passes on Ray Data: the same work on every row as on one machine, the same outcomes in the
same order.

Every node sees the set's folder under the same path (a shared file system). The ledger is one actor
on the driver's node; each worker keeps to its share of the teachers' limits and of the budget.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from data_pipeline.budget import Budget, price_of
from data_pipeline.flow import in_order
from data_pipeline.ledger import Bill, Ledger, Paid, Seen
from data_pipeline.passes import PASSES, Pass
from data_pipeline.settings import DataConfig
from data_pipeline.teachers import Teachers
from rrm.errors import InputError
from rrm.images import ImageStore
from rrm.records import Failure, Record

Row = TypeVar("Row", bound=Record)
Outcome = TypeVar("Outcome", bound=Record)
SLAB, BATCH = 20_000, 128
"""Rows of one Ray dataset, and of one call of a worker."""
STOP = "stop: "
CPU_SHARE = 0.5
"""CPUs that a worker takes: it waits for teachers most of the time."""


class Keeper:
    """The ledger in an actor, and which teachers are gone, as the workers saw it."""

    def __init__(self, path: str):
        self.ledger = Ledger(path)
        self.missing: dict[str, dict[str, Any]] = {}

    def get(self, key: str) -> Paid | None:
        """As the ledger's."""
        return self.ledger.get(key)

    def add(self, key: str, stage: str, model: str, paid: Paid) -> None:
        """As the ledger's."""
        self.ledger.add(key, stage, model, paid)

    def bills(self) -> list[Bill]:
        """As the ledger's, of all calls."""
        return self.ledger.bills()

    def image(self, ref: str) -> Seen | Failure | None:
        """As the ledger's."""
        return self.ledger.image(ref)

    def add_images(self, found: list[tuple[str, Seen | Failure]]) -> None:
        """As the ledger's."""
        self.ledger.add_images(found)

    def note_gone(self, model: str, why: str, unasked: int) -> None:
        """Notes a teacher that a worker has given up on, and further calls that were not made."""
        seen = self.missing.setdefault(model, {"why": why, "calls_not_made": 0})
        seen["calls_not_made"] += unasked

    def gone(self) -> dict[str, dict[str, Any]]:
        """The teachers that are gone for good."""
        return self.missing

    def close(self) -> None:
        """Closes the file."""
        self.ledger.close()


def told_by(reference: Any) -> Any:
    """The keeper's answer; what it raised is raised as itself, without Ray's account of where."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error


class RemoteLedger(Ledger):
    """The ledger as seen from a worker or the driver: every question goes to the keeper."""

    def __init__(self, keeper: Any):
        self.keeper = keeper

    def get(self, key: str) -> Paid | None:
        """The answer to the call with this key, if it was paid for."""
        return cast("Paid | None", told_by(self.keeper.get.remote(key)))

    def add(self, key: str, stage: str, model: str, paid: Paid) -> None:
        """Notes a finished call; it is on disk when this returns."""
        told_by(self.keeper.add.remote(key, stage, model, paid))

    def bills(self, keys: Iterable[str] | None = None) -> list[Bill]:
        """Calls and tokens by stage and model, of all calls."""
        assert keys is None
        return cast("list[Bill]", told_by(self.keeper.bills.remote()))

    def image(self, ref: str) -> Seen | Failure | None:
        """What is known of the image under this reference."""
        return cast("Seen | Failure | None", told_by(self.keeper.image.remote(ref)))

    def add_images(self, found: Iterable[tuple[str, Seen | Failure]]) -> None:
        """Notes what was read of images, by reference."""
        told_by(self.keeper.add_images.remote(list(found)))


class Worker:
    """Does a pass's work on batches of rows, with connections of its own to the teachers."""

    def __init__(
        self, name: str, config: str, images: str, keeper: Any, share: float, left: float | None
    ):
        self.which = PASSES[name]
        self.config = DataConfig.model_validate_json(config)
        self.keeper = keeper
        self.loop = asyncio.new_event_loop()
        budget = Budget(0.0, None if left is None else left * share)
        self.teachers = Teachers(
            self.config, ImageStore(images), RemoteLedger(keeper), budget, share
        )

    async def outcomes(self, rows: list[Record]) -> list[str]:
        """The outcome of every row, as JSON; where the run must stop, STOP and the reason in place
        of those that are missing."""
        made: list[str] = []
        try:
            async for outcome in in_order(
                rows, lambda row: self.which.work(row, self.teachers, self.config), BATCH
            ):
                made.append(outcome.model_dump_json())
        except InputError as error:
            made += [STOP + str(error)] * (len(rows) - len(made))
        return made

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """A batch of rows (JSON) → their outcomes (JSON), in the same order."""
        rows = [self.which.row.model_validate_json(text) for text in batch["row"]]
        outcomes = self.loop.run_until_complete(self.outcomes(rows))
        for client in self.teachers.clients.values():
            if client.gone:
                ray.get(
                    self.keeper.note_gone.remote(
                        client.teacher.model, client.gone.detail, client.unasked
                    )
                )
                client.unasked = 0
        return {"outcome": np.array(outcomes, dtype=object)}


class RayEngine:
    """A Ray cluster (RAY_ADDRESS), or one on this machine where there is none. Takes over the
    ledger until it is closed."""

    def __init__(self, config: DataConfig, ledger: Ledger, store: ImageStore, budget: Budget):
        logging.getLogger("ray.data").setLevel(logging.WARNING)
        ray.init(
            address=os.environ.get("RAY_ADDRESS"),
            ignore_reinit_error=True,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
        self.config, self.own, self.store = config, ledger, store
        self.limit = budget.limit
        self.workers = max(1, int(ray.cluster_resources().get("CPU", 1)))
        ledger.close()
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        # the ledger's order of writes is its own affair: nothing reads an answer before it is there
        self.keeper: Any = (
            ray.remote(Keeper)
            .options(num_cpus=0, scheduling_strategy=here)
            .remote(str(Path(ledger.path).resolve()))
        )
        self.ledger = RemoteLedger(self.keeper)

    async def outcomes(
        self, which: Pass[Row, Outcome], rows: Iterable[Row]
    ) -> AsyncGenerator[Outcome]:
        """The outcome of every row, in order."""
        source = iter(rows)
        while slab := list(islice(source, SLAB)):
            for outcome in self.slab(which, slab):
                yield outcome

    def slab(self, which: Pass[Row, Outcome], rows: list[Row]) -> Iterator[Outcome]:
        """The outcome of every row of one dataset, as they come."""
        ray.data.DataContext.get_current().execution_options.preserve_order = True
        ray.data.DataContext.get_current().enable_progress_bars = False
        blocks = -(-len(rows) // BATCH)
        workers = min(self.workers, blocks)
        data = ray.data.from_items(
            [{"row": row.model_dump_json()} for row in rows], override_num_blocks=blocks
        )
        left = (
            None
            if self.limit is None
            else self.limit - price_of(self.ledger.bills(), self.config.pool)
        )
        arguments = (
            which.name,
            self.config.model_dump_json(),
            str(self.store.root.resolve()),
            self.keeper,
            1 / workers,
            left,
        )
        made = data.map_batches(
            Worker,
            batch_size=BATCH,
            fn_constructor_args=arguments,
            num_cpus=CPU_SHARE,
            compute=ray.data.ActorPoolStrategy(size=workers),
        )
        for row in made.iter_rows():
            if row["outcome"].startswith(STOP):
                raise InputError(row["outcome"].removeprefix(STOP))
            yield which.outcome.model_validate_json(row["outcome"])

    def stop(self, why: InputError) -> None:
        """Closing ends the workers; the answers that they had are in the ledger."""

    async def close(self) -> None:
        """Ends it, and gives the ledger back."""
        ray.get(self.keeper.close.remote())
        ray.kill(self.keeper)
        ray.shutdown()
        self.own.open()

    def gone(self) -> dict[str, dict[str, Any]]:
        """The teachers that are gone for good, as the workers saw it."""
        return cast("dict[str, dict[str, Any]]", ray.get(self.keeper.gone.remote()))
