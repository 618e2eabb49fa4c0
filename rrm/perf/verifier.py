"""How fast the RRM is trained and asked, beside trl and transformers as they come: `make
bench-verifier` → runs/bench/verifier.json.

    rrm perf verifier --rounds 4 --model runs/demo/gcpo/model

Both sides do the same work in one process and in turns: the same weights, prompts, number of traces
and, since an answer may not end early here, number of tokens. A ratio is the median over rounds of
one round's ratio.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm
from transformers import (
    GenerationConfig,
    PrinterCallback,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from rrm.images import ImageStore, open_image
from rrm.package_files import package_file
from rrm.parsing import read_answer
from rrm.prompts import Style
from rrm.records import Failure, PreferencePair
from rrm.runtime.stage import write_json
from rrm.sandbox.edits import decompose, sample_steps, write_instruction
from rrm.sandbox.scripted_edits import EDITORS, script_edit
from rrm.sandbox.world import draw, sample_scene
from rrm.verifier.checkpoint import load
from rrm.verifier.fast.shared_prompts import sharing_prompts
from rrm.verifier.fast.trl_without_vllm import GRPOConfig, GRPOTrainer
from rrm.verifier.gcpo.config import GCPOStage
from rrm.verifier.gcpo.fast import FastGCPOTrainer
from rrm.verifier.gcpo.pairs import build_dataset, pair_rows
from rrm.verifier.gcpo.reading import Read
from rrm.verifier.gcpo.train import arguments
from rrm.verifier.rollout import complete

BASE = package_file("rrm/sandbox/checkpoints/rrm-base")
STYLE: Style = "brief"
PAIRS, TRACES, TOKENS = 8, 8, 64
"""The sandbox's update: pairs × 2 × traces; tokens per trace, about what the demo's RRM writes."""
ALONE = 8
"""Answers that are also generated one at a time in a round."""
STEPS = 3
"""Updates in a row per round and trainer; the first one warms up."""
TARGETS: dict[str, tuple[str, float]] = {
    "gcpo_step_over_trl": ("≤", 1.05),
    "forward_over_stock": ("≤", 1.0),
    "rollout_speedup": ("≥", 3.0),
    "rollout_over_batched_generate": ("≤", 1.0),
}

Turn = Callable[[], Mapping[str, float]]


def sandbox_pairs(store: ImageStore, count: int, seed: int) -> list[PreferencePair]:
    """Two edits of a scene by scripted editors, `count` times. Which is better does not matter to a
    clock."""
    rng = np.random.default_rng(seed)
    pairs = []
    for i in range(count):
        scene = sample_scene(rng)
        steps = sample_steps(rng, scene)
        a, b = (
            store.add(script_edit(rng, scene, steps, str(editor)))
            for editor in rng.choice(EDITORS, 2, replace=False)
        )
        pairs.append(
            PreferencePair(
                pair_id=str(i), source=store.add(draw(scene)), instruction=write_instruction(steps), principles=decompose(steps),
                edited_a=a, edited_b=b, label="a",
            )
        )  # fmt: skip
    return pairs


def in_turns(
    rounds: int, turns: Mapping[str, Turn], progress: str, warm_up: int = 1
) -> dict[str, list[float]]:
    """What every turn measured, by "turn measure", round by round; `warm_up` rounds before the
    first are not kept."""
    found: dict[str, list[float]] = {}
    for round_ in tqdm(range(-warm_up, rounds), desc=progress):
        for name, turn in turns.items():
            for measure, seconds in turn().items():
                if round_ >= 0:
                    found.setdefault(f"{name} {measure}", []).append(seconds)
    return found


def timed(work: Callable[[], object], times: int = 1) -> Turn:
    """The work's seconds, divided by `times`."""

    def turn() -> dict[str, float]:
        begun = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return {"seconds": (time.perf_counter() - begun) / times}

    return turn


def summary(values: Sequence[float]) -> dict[str, float]:
    """Median, number and spread."""
    return {
        "median": statistics.median(values),
        "n": len(values),
        "least": min(values),
        "most": max(values),
    }


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """The summary of ours over theirs, round by round."""
    return summary([a / b for a, b in zip(ours, theirs, strict=True)])


def forwards(
    model: Qwen2_5_VLForConditionalGeneration,
    batch: Mapping[str, torch.Tensor],
    traces: torch.Tensor,
) -> None:
    """Loss of the traces, given the prompts, and its gradient."""
    ids, nothing = batch["input_ids"], torch.zeros_like(traces)
    model(
        **{key: batch[key] for key in ("pixel_values", "image_grid_thw")}, input_ids=torch.cat([ids, traces], 1),
        attention_mask=torch.cat([batch["attention_mask"], nothing + 1], 1),
        mm_token_type_ids=torch.cat([batch["mm_token_type_ids"], nothing], 1),
        labels=torch.cat([torch.full_like(ids, -100), traces], 1),
    ).loss.backward()  # fmt: skip
    model.zero_grad()


class Drawn(FastGCPOTrainer):
    """Scores are drawn: traces of an untrained model cannot be read, and would all have an
    advantage of 0, which costs less."""

    def read(self, inputs: Any, completions: Any, completion_ids: list[list[int]]) -> list[Read]:
        """A score for every trace, whatever it says."""
        return list(np.random.default_rng().uniform(0, 10, len(completion_ids)).tolist())


class HalfDecided(Drawn):
    """In half of the pairs every trace of the preferred image beats every one of the other: their
    traces have advantages of 0."""

    def read(self, inputs: Any, completions: Any, completion_ids: list[list[int]]) -> list[Read]:
        """Scores apart for every other pair."""
        drawn = super().read(inputs, completions, completion_ids)
        sure = [
            20.0 * (row["side"] == "preferred") if int(row["pair_id"]) % 2 else None
            for row in inputs
        ]
        return [score if known is None else known for score, known in zip(drawn, sure, strict=True)]


class Clock(TrainerCallback):
    """Seconds of every update but the first, and how many of them its rollouts took."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.rollouts: list[float] = []

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Notes the time."""
        self.ends.append(time.perf_counter())

    def measured(self) -> dict[str, float]:
        """Means over the updates, which are then forgotten."""
        step = (self.ends[-1] - self.ends[0]) / (len(self.ends) - 1)
        rollout = statistics.mean(self.rollouts[1:])
        self.ends, self.rollouts = [], []
        return {"step": step, "rollout": rollout, "update": step - rollout}


def stepping(trainer: GRPOTrainer) -> Turn:
    """`STEPS` updates of the trainer."""
    clock = Clock()
    trainer.add_callback(clock)
    trainer.remove_callback(PrinterCallback)
    inner = trainer._generate_and_score_completions

    def generate(inputs: Any) -> Any:
        begun = time.perf_counter()
        found = inner(inputs)
        clock.rollouts.append(time.perf_counter() - begun)
        return found

    trainer._generate_and_score_completions = generate

    def turn() -> dict[str, float]:
        trainer.train()
        return clock.measured()

    return turn


def reward(prompts: Any, completions: Any, count: list[int], **_: Any) -> list[float]:
    """What trl's own trainer is given for a reward: the score, 0 where there is none."""
    reads = [
        read_answer(completion[0]["content"], n)
        for completion, n in zip(completions, count, strict=True)
    ]
    return [0.0 if isinstance(read, Failure) else read.score for read in reads]


def without_logs(settings: GRPOConfig) -> GRPOConfig:
    """The settings, with traces of exactly `TOKENS` tokens, nothing saved and no bar."""
    settings.generation_kwargs = {"min_new_tokens": TOKENS}
    settings.save_strategy, settings.disable_tqdm, settings.logging_steps = "no", True, STEPS + 1
    return settings


def measure(model_path: Path, rounds: int, work: Path) -> dict[str, Any]:
    """All ratios and what they are made of."""
    store = ImageStore(work / "images")
    pairs = sandbox_pairs(store, PAIRS, seed=0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    ours, processor = load(model_path, "float32", fast=True)
    stock = Qwen2_5_VLForConditionalGeneration.from_pretrained(model_path, dtype=torch.float32)
    for model in (ours, stock):
        model.to(device)  # type: ignore[arg-type]
    rows = [row for pair in pairs for row in pair_rows(pair, STYLE, store)]
    batch = batch_of(processor, [row for row in rows for _ in range(TRACES)], device)
    one = [batch_of(processor, [row], device) for row in rows[:ALONE]]
    count = len(rows) * TRACES
    sampled = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        max_new_tokens=TOKENS,
        min_new_tokens=TOKENS,
        disable_compile=True,
    )
    traces = torch.randint(
        256, 512, (count, TOKENS), generator=torch.Generator().manual_seed(0)
    ).to(device)
    found = in_turns(
        rounds,
        {
            "rollout ours": timed(lambda: complete(ours, batch, sampled), count),
            "rollout batched": timed(
                lambda: stock.generate(**batch, generation_config=sampled), count
            ),
            "rollout alone": timed(
                lambda: [stock.generate(**each, generation_config=sampled) for each in one],
                len(one),
            ),
        },
        "rollouts",
    )

    def sharing(model: Qwen2_5_VLForConditionalGeneration) -> None:
        with sharing_prompts(model, batch["input_ids"].shape[1]):
            forwards(model, batch, traces)

    found |= in_turns(
        rounds,
        {
            "forward ours": timed(lambda: sharing(ours)),
            "forward unshared": timed(lambda: forwards(ours, batch, traces)),
            "forward stock": timed(lambda: forwards(stock, batch, traces)),
        },
        "forward and backward",
    )
    dataset = build_dataset(pairs, STYLE, store)
    stage = GCPOStage(
        data=work, base=str(model_path), out=work / "gcpo", steps=STEPS, pairs_per_step=PAIRS, traces_per_image=TRACES, learning_rate=3e-5,
        max_tokens=TOKENS,
    )  # fmt: skip
    common = {"train_dataset": dataset, "processing_class": processor}
    kinds = {"gcpo ours": Drawn, "gcpo half decided": HalfDecided}
    trainers = {
        **{
            name: kind(
                model=ours,
                args=without_logs(arguments(stage, work / name, 1)),
                rollouts=work / name,
                **common,
            )
            for name, kind in kinds.items()
        },
        "gcpo trl": GRPOTrainer(
            model=stock,
            args=without_logs(arguments(stage, work / "trl", 1)),
            reward_funcs=reward,
            **common,
        ),
    }
    found |= in_turns(
        rounds,
        {name: stepping(trainer) for name, trainer in trainers.items()},
        "updates",
        warm_up=0,
    )
    ratios = {
        "gcpo_step_over_trl": ratio(found["gcpo ours step"], found["gcpo trl step"]),
        "gcpo_rollout_over_trl": ratio(found["gcpo ours rollout"], found["gcpo trl rollout"]),
        "gcpo_update_over_trl": ratio(found["gcpo ours update"], found["gcpo trl update"]),
        "gcpo_update_half_decided_over_all_open": ratio(
            found["gcpo half decided update"], found["gcpo ours update"]
        ),
        "forward_over_stock": ratio(found["forward ours seconds"], found["forward stock seconds"]),
        "forward_unshared_over_stock": ratio(
            found["forward unshared seconds"], found["forward stock seconds"]
        ),
        "rollout_speedup": ratio(found["rollout alone seconds"], found["rollout ours seconds"]),
        "rollout_over_batched_generate": ratio(
            found["rollout ours seconds"], found["rollout batched seconds"]
        ),
    }
    return {
        **{name: value["median"] for name, value in ratios.items()},
        "ratios": ratios,
        "seconds": {name: summary(values) for name, values in found.items()},
        "targets": {name: f"{sign} {value}" for name, (sign, value) in TARGETS.items()},
        "setting": {
            "model": str(model_path), "pairs": PAIRS, "traces": TRACES, "tokens": TOKENS, "rounds": rounds,
            "updates_per_round": STEPS - 1, "torch_threads": torch.get_num_threads(), "device": str(device),
            **{name: version(name) for name in ("torch", "transformers", "trl")},
        },
    }  # fmt: skip


def batch_of(
    processor: Qwen2_5_VLProcessor, rows: Sequence[Mapping[str, Any]], device: torch.device
) -> dict[str, torch.Tensor]:
    """The prompts of these rows as one left-padded batch."""
    prompts = [
        processor.apply_chat_template(row["prompt"], add_generation_prompt=True, tokenize=False)
        for row in rows
    ]
    images = [[open_image(path) for path in row["images"]] for row in rows]
    batch = processor(
        text=prompts, images=images, return_tensors="pt", padding=True, padding_side="left"
    )
    return dict(batch.to(device))


def table(result: Mapping[str, Any]) -> str:
    """The ratios beside their targets, as text."""
    lines = [f"{'':32}{'median':>8}{'least':>8}{'most':>8}{'n':>4}  target"]
    for name, found in result["ratios"].items():
        met = ""
        if name in TARGETS:
            sign, value = TARGETS[name]
            met = f"{sign} {value}: {'met' if (found['median'] <= value) == (sign == '≤') else 'not met'}"
        lines.append(
            f"{name:32}{found['median']:8.3f}{found['least']:8.3f}{found['most']:8.3f}{found['n']:4}  {met}"
        )
    return "\n".join(lines)


def run(model: Path, rounds: int, out: Path) -> None:
    """Measures, prints the table, and writes the figures to `out`."""
    with tempfile.TemporaryDirectory() as work:
        result = measure(model, rounds, Path(work))
    out.parent.mkdir(parents=True, exist_ok=True)
    write_json(out, result)
    print(f"{result['setting']['model']}\n{table(result)}\n{out}")
