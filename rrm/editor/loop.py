"""Editor RL, one loop for both algorithms: sample groups, reward, compare within groups, take a few
steps.

Per epoch: draw `groups` tasks; let `old` make `group_size` samples of each; reward every sample;
advantages by group; `optimiser_steps` steps on what has an advantage; move `old` and `average`
towards `current`; write one row of metrics. A missing reward leaves its sample out, and is counted.
A checkpoint holds all that is random or trained, so that a run carried on is bit for bit the run
that was never interrupted.
"""

from __future__ import annotations

import json
import math
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from rrm.editor.algorithms import Algorithm, ParameterSets, Rollout, algorithm_of
from rrm.editor.groups import Advantages, group_advantages
from rrm.editor.nft import average_decay, blend
from rrm.editor.policy import Policy
from rrm.editor.reward import RewardFn
from rrm.editor.settings import EditorConfig
from rrm.editor.tasks import EditorTask
from rrm.editor.truth import TruthReward, TruthSource
from rrm.errors import InputError
from rrm.records import EditToJudge, Failure
from rrm.runtime.checkpoints import keep_newest, newest_whole, seal
from rrm.runtime.disk import written_at_once
from rrm.runtime.signals import asked_to_stop
from rrm.runtime.trackers import opened_tracker

CHECKPOINTS, STATE, METRICS, MODEL = "checkpoints", "state.pt", "metrics.jsonl", "model"
KEPT = 2
"""Checkpoints kept: the one before the newest is there in case that one is damaged."""
PATIENCE = 5
"""Epochs in a row without one reward after which a run ends."""


class EditorRun:
    """Everything that changes from epoch to epoch."""

    def __init__(self, config: EditorConfig, base: Policy):
        self.sets = ParameterSets(base)
        self.optimizer = torch.optim.AdamW(
            self.sets.current.parameters(), lr=config.learning_rate, weight_decay=0.0
        )
        self.rng = torch.Generator().manual_seed(config.seed)
        self.epoch = 0
        self.step = 0
        self.rows: list[dict[str, Any]] = []

    def save(self, checkpoints: Path) -> None:
        """Writes the whole state as the newest of the folder's checkpoints."""
        state: dict[str, Any] = {
            name: getattr(self.sets, name).state_dict() for name in ParameterSets.TRAINED
        }
        state |= {"optimizer": self.optimizer.state_dict(), "rng": self.rng.get_state()}
        state |= {"epoch": self.epoch, "step": self.step, "rows": json.dumps(self.rows)}
        folder = checkpoints / f"checkpoint-{self.epoch}"
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(state, folder / STATE)
        seal(folder)
        keep_newest(checkpoints, KEPT)

    def load(self, checkpoint: Path) -> None:
        """Takes up the state of a checkpoint."""
        state = torch.load(checkpoint / STATE, weights_only=True)
        for name in ParameterSets.TRAINED:
            getattr(self.sets, name).load_state_dict(state[name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.rng.set_state(state["rng"])
        self.epoch, self.step, self.rows = state["epoch"], state["step"], json.loads(state["rows"])


def train(
    config: EditorConfig,
    out: Path,
    tasks: list[EditorTask],
    reward: RewardFn,
    base: Policy,
    truth: TruthSource | None = None,
) -> dict[str, Any]:
    """Trains `base` on the tasks, from the newest whole checkpoint in `out` if there is one;
    returns the last metrics row.

    Leaves `out/model` (the average weights) and `out/metrics.jsonl`. Raises InputError where there
    are too few tasks, where no reward was had for `PATIENCE` epochs, and where an update would
    spoil the weights.
    """
    if len(tasks) < config.groups:
        raise InputError(
            f"{config.tasks} has {len(tasks)} training tasks for {config.groups} groups; lower 'groups'."
        )
    algorithm, run = algorithm_of(config), EditorRun(config, base)
    if (checkpoint := newest_whole(out / CHECKPOINTS)) is not None:
        run.load(checkpoint)
    with written_at_once(out / METRICS) as partial:
        # rows written after the checkpoint belong to epochs that are about to be run again
        partial.write_text("".join(json.dumps(row) + "\n" for row in run.rows))
    bar = tqdm(
        total=config.epochs, initial=run.epoch, desc=f"editor {config.algorithm}", mininterval=2
    )
    tracker = opened_tracker(config.report_to, f"editor-{config.algorithm}", out / "tensorboard")
    with bar, asked_to_stop() as asked, tracker as report:
        while run.epoch < config.epochs:
            begin = time.monotonic()
            row = {"epoch": run.epoch, **one_epoch(config, algorithm, run, tasks, reward, truth)}
            row["seconds"] = round(time.monotonic() - begin, 2)
            run.rows.append(row)
            run.epoch += 1
            with (out / METRICS).open("a") as file:
                file.write(json.dumps(row) + "\n")
            report(row, run.epoch)
            if run.epoch % config.save_every == 0 or run.epoch == config.epochs or asked():
                run.save(out / CHECKPOINTS)
            bar.update()
            bar.set_postfix(reward=row["reward_mean"], true=row["true_reward_mean"], refresh=False)
            if asked() and run.epoch < config.epochs:
                raise KeyboardInterrupt
    run.sets.average.save(out / MODEL)
    return run.rows[-1]


def one_epoch(
    config: EditorConfig,
    algorithm: Algorithm,
    run: EditorRun,
    tasks: list[EditorTask],
    reward: RewardFn,
    truth: TruthSource | None,
) -> dict[str, Any]:
    """Samples, rewards and steps of one epoch; returns its metrics."""
    drawn = torch.randperm(len(tasks), generator=run.rng)[: config.groups].tolist()
    asked = [tasks[index] for index in drawn for _ in range(config.group_size)]
    source = run.sets.old.encode([task.source for task in asked])
    text_ids = run.sets.old.text_ids([task.instruction for task in asked])
    rollout = algorithm.rollout(run.sets.old, source, text_ids, run.rng)

    images = run.sets.old.decode(rollout.x0)
    edits = [
        EditToJudge(t.source, image, t.instruction, t.principles, t.requirement)
        for t, image in zip(asked, images, strict=True)
    ]
    answers = [named_where_not_finite(answer) for answer in reward(edits)]
    truths = (
        answers if isinstance(reward, TruthReward) else TruthReward(truth)(edits) if truth else []
    )

    advantages = group_advantages(
        [None if isinstance(answer, Failure) else answer for answer in answers],
        [task.group for task in asked],
        normalize_over=config.normalize_over,
        rule=config.filter,
        high=config.filter_mean,
        flat=config.filter_std,
    )
    metrics = reward_metrics(answers, truths, advantages)
    check_rewarded(answers, [*run.rows, metrics])
    metrics |= optimise(config, algorithm, run, rollout, advantages)
    blend(run.sets.old, run.sets.current, algorithm.old_decay(run.step))
    blend(run.sets.average, run.sets.current, average_decay(run.step))
    return metrics


def named_where_not_finite(reward: float | Failure) -> float | Failure:
    """The reward; one that is NaN or infinite is missing."""
    if isinstance(reward, Failure) or math.isfinite(reward):
        return reward
    return Failure(kind="unparseable", detail=f"a reward of {reward}")


def check_rewarded(answers: Sequence[float | Failure], rows: Sequence[dict[str, Any]]) -> None:
    """Raises InputError where the last `PATIENCE` rows of metrics, the one of these answers
    included, have no reward at all."""
    if len(rows) < PATIENCE or any(row["reward_mean"] is not None for row in rows[-PATIENCE:]):
        return
    kinds = ", ".join(f"{count} {kind}" for kind, count in rows[-1]["missing_kinds"].items())
    details = dict.fromkeys(
        answer.detail[:160] for answer in answers if isinstance(answer, Failure) and answer.detail
    )
    raise InputError(
        f"Training stopped: not one edit of the last {PATIENCE} epochs got a reward ({kinds} in the last one"
        f"{''.join('; ' + detail for detail in list(details)[:3])}); see to the reward and run the same command again: it"
        " carries on from the newest checkpoint."
    )


def optimise(
    config: EditorConfig,
    algorithm: Algorithm,
    run: EditorRun,
    rollout: Rollout,
    advantages: Advantages,
) -> dict[str, Any]:
    """`optimiser_steps` steps over the samples that have an advantage, each on its own share of
    them; returns what to log."""
    a = torch.from_numpy(advantages.values).float()
    kept = torch.from_numpy(advantages.kept) & algorithm.keeps(a)
    order = kept.nonzero().flatten()
    order = order[torch.randperm(len(order), generator=run.rng)]
    parts = [part for part in order.chunk(config.optimiser_steps) if len(part)]
    logs: defaultdict[str, list[float]] = defaultdict(list)
    for part in parts:
        run.optimizer.zero_grad()
        for term in algorithm.terms(run.sets, rollout, part, a[part], run.rng):
            (term.loss.mean() / algorithm.terms_per_sample).backward()
            for name, values in term.log.items():
                logs[name].append(float(values.mean()))
                if name == "ratio" and part is parts[0]:
                    logs["ratio_off_at_first"].append(float((values - 1).abs().max()))
        norm = torch.nn.utils.clip_grad_norm_(run.sets.current.parameters(), config.max_grad_norm)
        if not norm.isfinite():
            raise InputError(
                f"Training stopped at epoch {run.epoch} because the gradient norm was {float(norm)}; start again with a lower 'learning_rate'."
            )
        logs["grad_norm"].append(float(norm))
        run.optimizer.step()
        run.step += 1
    means = {name: float(f"{np.mean(values):.6g}") for name, values in logs.items()}
    return {"trained_samples": len(order), "optimiser_steps": len(parts), **means}


def reward_metrics(
    answers: list[float | Failure], truths: list[float | Failure], advantages: Advantages
) -> dict[str, Any]:
    """Rewards as given and as true (None outside the sandbox), and what was left out."""
    given = [answer for answer in answers if not isinstance(answer, Failure)]
    true = [truth for truth in truths if not isinstance(truth, Failure)]
    return {
        "reward_mean": round(float(np.mean(given)), 4) if given else None,
        "reward_std": round(float(np.std(given)), 4) if given else None,
        "true_reward_mean": round(float(np.mean(true)), 4) if true else None,
        "samples": len(answers),
        "missing_rewards": advantages.missing_rewards,
        "missing_kinds": dict(
            Counter(answer.kind for answer in answers if isinstance(answer, Failure))
        ),
        "lone_samples": advantages.lone_samples,
        "groups": advantages.groups,
        "dropped_high_and_flat": advantages.dropped_high_and_flat,
        "dropped_flat": advantages.dropped_flat,
        "dropped_high": advantages.dropped_high,
    }
