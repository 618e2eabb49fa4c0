"""Pre-trains the sandbox's mediocre editor: flow matching on right targets, then on targets of
which half are wrong.

    rrm base editor --out rrm/sandbox/checkpoints/editor-base

The wrong targets were made by the scripted editors that are wrong in one way each, so that there is
something for editor RL to improve. Scenes come from the world's training part. About six minutes on
one CPU core.
"""

from __future__ import annotations

import hashlib
import platform
import time
from pathlib import Path

import diffusers
import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from rrm.editor.flow import noised, velocity_target
from rrm.runtime.stage import write_json
from rrm.sandbox.edits import sample_steps, write_instruction
from rrm.sandbox.models.editor import TinyKontext, tokens_of
from rrm.sandbox.scripted_edits import EDITORS, script_edit
from rrm.sandbox.world import ARTEFACTS, draw, sample_scene

SEED, STEPS, BATCH, LEARNING_RATE, WARMUP = 0, 3000, 32, 6e-3, 100
CLEAN_SHARE = 0.8
"""Share of the steps, the first ones, in which every target is right: shapes are learned far sooner
from those."""
RIGHT_SHARE = 0.5
"""Share of right targets in the steps after that."""
ARTEFACT_WEIGHT = 0.3
"""How often a wrong target is a spoiled one, beside 1 for each editor that is wrong in content."""


def draw_batch(
    rng: np.random.Generator, count: int, right_share: float
) -> tuple[list[Image.Image], list[Image.Image], list[str]]:
    """`count` sources, targets and instructions; `right_share` of the targets are right."""
    sources, targets, instructions = [], [], []
    wrong = [editor for editor in EDITORS if editor != "right"]
    weights = np.array([ARTEFACT_WEIGHT if editor in ARTEFACTS else 1.0 for editor in wrong])
    for _ in range(count):
        scene = sample_scene(rng, held_out=False)
        steps = sample_steps(rng, scene)
        editor = (
            "right"
            if rng.random() < right_share
            else str(rng.choice(wrong, p=weights / weights.sum()))
        )
        sources.append(draw(scene))
        targets.append(script_edit(rng, scene, steps, editor))
        instructions.append(write_instruction(steps))
    return sources, targets, instructions


def learning_rate(step: int, steps: int) -> float:
    """Linear warm-up, then a cosine down to zero, as a share of the peak."""
    if step < WARMUP:
        return (step + 1) / WARMUP
    return 0.5 * (1 + float(np.cos(np.pi * (step - WARMUP) / max(1, steps - WARMUP))))


def pretrain(seed: int, steps: int) -> tuple[TinyKontext, float]:
    """The editor after `steps` of flow matching, and the mean loss of the last tenth of them."""
    torch.manual_seed(seed)
    rng, model = np.random.default_rng(seed), TinyKontext()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate(step, steps))
    losses = []
    for step in (bar := tqdm(range(steps), desc="editor base", mininterval=2)):
        sources, targets, instructions = draw_batch(
            rng, BATCH, 1.0 if step < CLEAN_SHARE * steps else RIGHT_SHARE
        )
        x0 = tokens_of(targets)
        noise, t = torch.randn_like(x0), torch.rand(BATCH)
        v = model.velocity(
            noised(x0, noise, t), t, tokens_of(sources), model.text_ids(instructions)
        )
        loss = torch.nn.functional.mse_loss(v, velocity_target(x0, noise))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        bar.set_postfix(loss=f"{np.mean(losses[-50:]):.4f}", refresh=False)
    return model.eval(), float(np.mean(losses[-max(1, steps // 10) :]))


def make(out: Path, seed: int = SEED, steps: int = STEPS) -> None:
    """Trains, saves, and writes recipe.json beside the weights."""
    torch.set_num_threads(
        1
    )  # one thread adds up in one order: the same seed gives the same weights
    model, loss = pretrain(seed, steps)
    model.save(out)
    write_json(
        out / "recipe.json",
        {
            "command": f"rrm base editor --out {out} --seed {seed}",
            "seed": seed,
            "steps": steps,
            "batch": BATCH,
            "learning_rate": LEARNING_RATE,
            "clean_share": CLEAN_SHARE,
            "right_share": RIGHT_SHARE,
            "artefact_weight": ARTEFACT_WEIGHT,
            "loss_of_last_tenth": round(loss, 5),
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "cpu_seconds": round(time.process_time()),
            "sha256": hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest(),
            "versions": {
                "python": platform.python_version(),
                "torch": torch.__version__,
                "diffusers": diffusers.__version__,
                "numpy": np.__version__,
            },
        },
    )
