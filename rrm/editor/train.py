"""Editor RL with the RRM (or the sandbox's truth) as its reward.

python -m rrm.editor.train --config configs/sandbox/edit_nft.yaml
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from rrm.editor.loop import train
from rrm.editor.reward import RewardFn, RRMReward, TruthReward
from rrm.editor.settings import EditorConfig
from rrm.editor.tasks import EditorTask, check_rewardable, read_tasks
from rrm.runtime.stage import run_stage
from rrm.sandbox.models.editor import TinyKontext


@contextmanager
def opened_reward(config: EditorConfig, tasks: Sequence[EditorTask]) -> Iterator[RewardFn]:
    """The reward that the config names; what was started for it ends with the block. Raises InputError where it can't judge a task."""
    if config.rrm is None:
        check_rewardable(tasks, truth=True, needs_principles=False)
        yield TruthReward()
        return
    from rrm.reward import open_reward  # the RRM's libraries load only where an RRM is asked

    with open_reward(config.rrm) as model:
        check_rewardable(tasks, truth=False, needs_principles=model.needs_principles)
        yield RRMReward(model)


def inputs_of(config: EditorConfig) -> list[Path]:
    """What the run depends on: weights and tables by their content, which a folder's listing of sizes would not show."""
    paths = [config.tasks, config.tasks / "train_metadata.jsonl", config.base, *sorted(config.base.glob("*.safetensors"))]
    if config.rrm is not None and not config.rrm.startswith("server:"):
        folder = Path(config.rrm.partition("?")[0].removeprefix("rrm:").removeprefix("serve:"))
        paths += [folder, *sorted(folder.glob("*.safetensors"))]
    return [*paths, config.principles] if config.principles is not None else paths


def run(config: EditorConfig) -> None:
    """Trains one editor as the config says, as a stage."""
    config.check()
    tasks = read_tasks(config.tasks, "train", config.principles)
    base = TinyKontext.load(config.base)
    torch.set_num_threads(1)  # one thread adds up in one order, and is no slower at this size

    def work(out: Path) -> dict[str, Any]:
        with opened_reward(config, tasks) as reward:
            return train(config, out, tasks, reward, base)

    run_stage(f"editor-{config.algorithm}", config.out, config, inputs_of(config), work)
