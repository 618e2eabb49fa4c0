"""What GCPO logs: metrics under plain names, and every trace with its score, reward and advantage
as Parquet files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from rrm.runtime.disk import written_at_once

METRICS = {
    "completions/mean_length": "trace_length",
    "sampling/importance_sampling_ratio/mean": "server_ratio",
    "sampling/sampling_logp_difference/mean": "server_logp_difference",
}
"""trl's name of a metric that is kept, and ours."""

COLUMNS = pa.schema([
    ("step", pa.int64()), ("pair_id", pa.string()), ("side", pa.string()), ("trace", pa.int64()), ("text", pa.string()),
    ("tokens", pa.int64()), ("score", pa.float64()), ("failure", pa.string()), ("reward", pa.float64()), ("advantage", pa.float64()),
])  # fmt: skip


class RolloutLog(TrainerCallback):
    """Writes the traces of a step, a file per process. What was sampled for steps that a resumed
    run repeats is deleted."""

    def __init__(self, folder: Path):
        self.folder = folder

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Runs before any process writes: they wait for one another when the first rewards are
        computed."""
        if state.is_world_process_zero:
            for path in self.folder.glob("step-*"):
                if int(path.name.split("-")[1]) > state.global_step:
                    path.unlink()

    def write(self, step: int, process: int, columns: Mapping[str, Sequence[object]]) -> None:
        """Writes one process's traces of a step; `columns` are those of COLUMNS but `step`."""
        table = pa.table({"step": [step] * len(columns["text"]), **columns}, COLUMNS)
        with written_at_once(self.folder / f"step-{step:06d}-{process}.parquet") as partial:
            pq.write_table(table, partial)


class LogsMetrics:
    """The part of a trl trainer that collects and renames metrics."""

    def log_values(self: Any, **values: torch.Tensor | float) -> None:
        """Adds values to what the next log averages."""
        for name, value in values.items():
            self._metrics["train"][name].append(float(value))

    def log_token_means(self: Any, mask_BT: torch.Tensor, **values_BT: torch.Tensor) -> None:
        """Adds means over the tokens that the mask selects, over all processes."""
        sums = torch.stack(
            [mask_BT.sum(), *((value.detach() * mask_BT).sum() for value in values_BT.values())]
        ).float()
        count, *totals = self.accelerator.reduce(sums, reduction="sum").tolist()
        self.log_values(
            **{name: total / max(count, 1) for name, total in zip(values_BT, totals, strict=True)}
        )

    def log(self: Any, logs: dict[str, float], start_time: float | None = None) -> None:
        """Logs under plain names; `epoch` is passes over the pairs, `update_seconds` forwards and
        backwards without rollouts."""
        metrics = self._metrics["train"]
        if steps := metrics.pop("step_time", None):
            self.log_values(
                update_seconds=(sum(steps) - sum(metrics.get("rollout_seconds", []))) / len(steps)
            )
        metrics.pop("frac_reward_zero_std", None)  # zero_variance_groups
        for name in [name for name in metrics if "/" in name]:
            values = metrics.pop(name)
            if name in METRICS:
                metrics[METRICS[name]] = values
        pairs = self.args.generation_batch_size / (2 * self.num_generations)
        self.state.epoch = (
            self.state.global_step / self.num_iterations * pairs / (len(self.train_dataset) // 2)
        )
        super().log(logs, start_time)  # type: ignore[misc]
