"""Editor RL with a reward model (or a known truth) as its reward: `rrm edit --config
configs/sandbox/edit_nft.yaml`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from rrm.editor.loop import train
from rrm.editor.policy import LoadPolicy
from rrm.editor.reward import RewardFn, RRMReward
from rrm.editor.settings import EditorConfig
from rrm.editor.tasks import EditorTask, check_rewardable, read_tasks
from rrm.editor.truth import TruthReward, TruthSource
from rrm.errors import InputError
from rrm.runtime.stage import run_stage


@contextmanager
def opened_reward(
    config: EditorConfig, tasks: Sequence[EditorTask], truth: TruthSource | None
) -> Iterator[RewardFn]:
    """The reward that the config names; what was started for it ends with the block. Raises
    InputError where it can't judge a task."""
    if config.rrm is None:
        if truth is None:
            raise InputError(
                "'reward: truth' needs tasks whose truth is known; name a reward model under 'rrm'."
            )
        check_rewardable(tasks, truth)
        yield TruthReward(truth)
        return
    from rrm.reward import open_reward  # the RRM's libraries load only where an RRM is asked

    with open_reward(config.rrm) as model:
        check_rewardable(tasks, needs_principles=model.needs_principles)
        yield RRMReward(model)


def inputs_of(config: EditorConfig) -> list[Path]:
    """What the run depends on: weights and tables by their content, which a folder's listing of
    sizes would not show."""
    paths = [
        config.tasks,
        config.tasks / "train_metadata.jsonl",
        config.base,
        *sorted(config.base.glob("*.safetensors")),
    ]
    if config.rrm is not None and not config.rrm.startswith("server:"):
        folder = Path(config.rrm.partition("?")[0].removeprefix("rrm:").removeprefix("serve:"))
        paths += [folder, *sorted(folder.glob("*.safetensors"))]
    return [*paths, config.principles] if config.principles is not None else paths


def run(config: EditorConfig, load_policy: LoadPolicy, truth: TruthSource | None = None) -> None:
    """Trains one editor as the config says, as a stage; where `truth` is known, it is logged beside
    the reward."""
    config.check()
    tasks = read_tasks(config.tasks, "train", config.principles, truth)
    base = load_policy(config.base)
    torch.set_num_threads(1)  # one thread adds up in one order, and is no slower at this size

    def work(out: Path) -> dict[str, Any]:
        with opened_reward(config, tasks, truth) as reward:
            return train(config, out, tasks, reward, base, truth)

    run_stage(f"editor-{config.algorithm}", config.out, config, inputs_of(config), work)
