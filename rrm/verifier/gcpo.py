"""GCPO: reinforcement learning of the RRM on human preference pairs, through a subclass of trl's GRPOTrainer.

    python -m rrm.verifier.gcpo --config configs/sandbox/gcpo.yaml

The policy is the RRM. Both images of a pair are judged N times; a trace earns the share of the other image's traces that it stands
on the right side of (rrm.verifier.gcpo_math). Clipped surrogate, no KL, no division by the standard deviation.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch.utils.data import Sampler
from trl import GRPOConfig, GRPOTrainer

from rrm.errors import InputError
from rrm.images import ImageStore
from rrm.parsing import read_trace
from rrm.prompts import Style
from rrm.records import Failure, PreferencePair
from rrm.stage import command
from rrm.verifier.checkpoint import load, save, style_of
from rrm.verifier.gcpo_math import tie_rate, weighted_advantage, win_loss_ratios
from rrm.verifier.messages import judge_messages
from rrm.verifier.training import MetricsFile, TrainingStage, check_processes, last_checkpoint, lora, merged, run_training


class GCPOStage(TrainingStage):
    """Keys of a GCPO config."""

    pairs: int
    """Pairs per update, over all processes."""
    traces: int
    """N, traces per image."""
    micro_batch: int | None = None
    """Traces per forward and process; the accumulation follows. None: all of a process's share at once."""
    adam_beta2: float = 0.99
    epsilon: float = 0.2
    temperature: float = 1.0
    beta: float = 0.0
    """KL to the SFT model on sampled tokens; 0 is the paper's."""
    tokens: Literal["all", "score"] = "all"
    """Tokens that carry the policy gradient; "all" is the paper's, "score" those of the final score alone."""
    max_tokens: int = 1024
    save_every: int = 20
    log_every: int = 1
    vllm_server: str | None = None
    """Base URL of a `trl vllm-serve` for the rollouts; None generates in this process."""


class PairSampler(Sampler[int]):
    """Row indices for pairs in adjacent rows (2i preferred, 2i + 1 other): pairs are permuted, never torn apart.

    Every row comes `traces` times in a run; a chunk of `pairs` pairs comes `repeats` times before the next; a last incomplete
    chunk is left out of that epoch.
    """

    def __init__(self, rows: int, traces: int, pairs: int, repeats: int, seed: int, shuffle: bool = True):
        if rows % 2:
            raise ValueError(f"{rows} rows are not pairs")
        self.total, self.traces, self.pairs, self.repeats, self.shuffle = rows // 2, traces, pairs, repeats, shuffle
        self.generator = torch.Generator().manual_seed(seed)

    def __iter__(self) -> Iterator[int]:
        order = torch.randperm(self.total, generator=self.generator) if self.shuffle else torch.arange(self.total)
        for start in range(0, self.total - self.pairs + 1, self.pairs):
            for _ in range(self.repeats):
                for pair in order[start : start + self.pairs].tolist():
                    for row in (2 * pair, 2 * pair + 1):
                        yield from [row] * self.traces

    def __len__(self) -> int:
        return self.total // self.pairs * self.pairs * self.repeats * 2 * self.traces


UNREADABLE = -1.0
"""Stands for "no score" between the reward function and the trainer: trl would warn of every None as of a mistake."""


def final_score(prompts: list[Any], completions: list[Any], count: list[int], **_: Any) -> list[float]:
    """The score that each trace ends in, UNREADABLE where there is none (a wrong number of verdicts included)."""
    reads = [read_trace(completion[0]["content"], n) for completion, n in zip(completions, count, strict=True)]
    return [UNREADABLE if isinstance(read, Failure) else read.score for read in reads]


class GCPOTrainer(GRPOTrainer):
    """GRPOTrainer over preference pairs: adjacent rows are a pair, and rewards are win and loss ratios."""

    def __init__(self, *args: Any, tokens: Literal["all", "score"] = "all", rollouts: Path | None = None, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.gradient_tokens = tokens
        self.rollouts = rollouts

    def _pairs_per_generation(self) -> int:
        rows = self.args.generation_batch_size // self.num_generations
        if rows % 2:
            raise InputError(
                f"a generation batch of {rows} prompts tears a pair apart; make traces × pairs × 2 divide into it."
            )
        return rows // 2

    def _get_train_sampler(self, dataset: Any = None) -> Sampler[int]:
        repeats = self.num_iterations * self.args.steps_per_generation
        rows = len(self.train_dataset if dataset is None else dataset)
        return PairSampler(rows, self.num_generations, self._pairs_per_generation(), repeats, self.args.seed)

    def _get_eval_sampler(self, eval_dataset: Any) -> Sampler[int]:
        return PairSampler(len(eval_dataset), self.num_generations_eval, 1, 1, self.args.seed, shuffle=False)

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> torch.Tensor:
        scores = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)  # (all processes' rows, 1)
        scores = torch.where(scores == UNREADABLE, torch.nan, scores)
        mode = "train" if self.model.training else "eval"
        group = self.num_generations if mode == "train" else self.num_generations_eval
        scores_P2G = scores[:, 0].view(-1, 2, group)
        ratios = win_loss_ratios(scores_P2G)
        metrics = self._metrics[mode]
        metrics["win_ratio"].append(ratios[:, 0].mean().item())
        metrics["tie_rate"].append(tie_rate(scores_P2G).item())
        metrics["unreadable_rate"].append(scores.isnan().float().mean().item())
        metrics["score_mean"].append(scores.nanmean().item())
        if self.rollouts is not None and mode == "train":
            self._write_rollouts(prompts, completions, scores, ratios)
        return ratios.reshape(-1, 1)

    def _write_rollouts(self, prompts: Any, completions: Any, scores: torch.Tensor, ratios: torch.Tensor) -> None:
        first = self.accelerator.process_index * len(prompts)
        mine = slice(first, first + len(prompts))
        assert self.rollouts is not None
        self.rollouts.mkdir(parents=True, exist_ok=True)
        table = pa.table({
            "text": [completion[0]["content"] for completion in completions],
            "score": pa.array([None if s != s else s for s in scores[mine, 0].tolist()], pa.float64()),
            "reward": ratios.reshape(-1)[mine].tolist(),
        })  # fmt: skip
        pq.write_table(table, self.rollouts / f"step-{self.state.global_step:06d}-{self.accelerator.process_index}.parquet")

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        batch = super()._generate_and_score_completions(inputs)
        mode = "train" if self.model.training else "eval"
        lengths = batch["completion_mask"].sum(1)
        value = weighted_advantage(batch["advantages"], lengths)
        self._metrics[mode]["weighted_advantage"].append(self.accelerator.gather(value).mean().item())
        if self.gradient_tokens == "score":
            batch["advantages"] = batch["advantages"][:, None] * self.score_tokens(batch["completion_ids"])
        return batch

    def score_tokens(self, ids_BT: torch.Tensor) -> torch.Tensor:
        """1 for the tokens of the final score, up to the end of its tag, (B, T)."""
        tokenizer = self.processing_class.tokenizer
        mask = torch.zeros(ids_BT.shape, device=ids_BT.device)
        for row, ids in enumerate(ids_BT.tolist()):
            pieces = [tokenizer.decode([i]) for i in ids]
            text = "".join(pieces)
            begin, end = text.rfind("<score>"), text.rfind("</score>")
            place = 0
            for column, piece in enumerate(pieces):
                if begin >= 0 and begin + len("<score>") <= place < end:
                    mask[row, column] = 1.0
                place += len(piece)
        return mask


def pair_rows(pair: PreferencePair, style: Style, store: ImageStore) -> list[dict[str, Any]]:
    """The pair as two adjacent rows of trl's prompt form, the preferred image first."""
    edits = (pair.edited_a, pair.edited_b) if pair.label == "a" else (pair.edited_b, pair.edited_a)
    prompt = judge_messages(style, pair.instruction, pair.principles)
    return [
        {"prompt": prompt, "images": [str(store.path(pair.source)), str(store.path(edit))], "count": len(pair.principles)}
        for edit in edits
    ]


def read_pairs(data: Path) -> list[PreferencePair]:
    """The decided pairs of preferences.parquet. Raises InputError where it is missing, empty, or holds a "same"."""
    path = data / "preferences.parquet"
    if not path.is_file():
        raise InputError(f"There is no {path}; run `make data` first, or correct 'data' in the config.")
    pairs = [PreferencePair(**row) for row in pq.read_table(path).to_pylist()]
    if not pairs:
        raise InputError(f"{path} is empty; GCPO needs human preference pairs.")
    if any(pair.label == "same" for pair in pairs):
        raise InputError(f"{path} holds pairs labelled 'same'; GCPO leaves them out: keep them in same.parquet.")
    return pairs


def build_dataset(pairs: list[PreferencePair], style: Style, store: ImageStore) -> datasets.Dataset:
    """Rows 2i and 2i + 1 are pair i."""
    dataset = datasets.Dataset.from_list([row for pair in pairs for row in pair_rows(pair, style, store)])
    return dataset.cast_column("images", datasets.List(datasets.Image()))


def arguments(config: GCPOStage, out: Path, processes: int) -> GRPOConfig:
    """trl's settings for the paper's algorithm; the batch of pairs is the same however many processes share it."""
    total = config.pairs * 2 * config.traces
    share, rest = divmod(total, processes)
    micro = config.micro_batch or share
    if rest or share % micro:
        raise InputError(
            f"pairs × 2 × traces = {total} does not divide into {processes} process(es) × micro_batch {micro}; change one of them."
        )
    return GRPOConfig(
        output_dir=str(out / "checkpoints"), max_steps=config.steps, per_device_train_batch_size=micro,
        gradient_accumulation_steps=share // micro, generation_batch_size=total, num_generations=config.traces,
        learning_rate=config.learning_rate, lr_scheduler_type="constant_with_warmup", warmup_steps=5, adam_beta2=config.adam_beta2,
        loss_type="grpo", scale_rewards=False, beta=config.beta, epsilon=config.epsilon, temperature=config.temperature, top_p=1.0,
        top_k=0, max_completion_length=config.max_tokens, seed=config.seed, data_seed=config.seed, save_steps=config.save_every,
        save_total_limit=1, logging_steps=config.log_every, report_to=[], bf16=config.dtype == "bfloat16",
        deepspeed=config.deepspeed, gradient_checkpointing=config.gradient_checkpointing, use_vllm=config.vllm_server is not None,
        vllm_mode="server", vllm_server_base_url=config.vllm_server, disable_tqdm=False, use_cpu=not torch.cuda.is_available(), dataloader_pin_memory=False,
    )  # fmt: skip


def train(config: GCPOStage, out: Path) -> dict[str, Any]:
    """Trains, or carries on from the last checkpoint in `out`, and writes out/model."""
    style = style_of(config.base)
    dataset = build_dataset(read_pairs(config.data), style, ImageStore(config.data / "images"))
    model, processor = load(config.base, config.dtype)
    settings = arguments(config, out, int(os.environ.get("WORLD_SIZE", "1")))
    if len(dataset) < 2 * config.pairs:
        raise InputError(
            f"{config.data} holds {len(dataset) // 2} pairs, fewer than one update's {config.pairs}; lower 'pairs'."
        )
    trainer = GCPOTrainer(
        model=model, args=settings, train_dataset=dataset, processing_class=processor, reward_funcs=final_score,
        peft_config=lora(config.lora_rank), callbacks=[MetricsFile(out / "metrics.jsonl")], tokens=config.tokens,
        rollouts=out / "rollouts",
    )  # fmt: skip
    check_processes(trainer)
    trainer.train(resume_from_checkpoint=last_checkpoint(out / "checkpoints"))
    if trainer.is_world_process_zero():
        save(merged(trainer), processor, out / "model", style, {"stage": "gcpo", **config.model_dump(mode="json")})
    return {"pairs": len(dataset) // 2, "steps": config.steps}


if __name__ == "__main__":
    command(lambda: run_training("gcpo", __doc__, GCPOStage, train))
