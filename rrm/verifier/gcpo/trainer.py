"""GCPO: reinforcement learning of the RRM on human preference pairs, through a subclass of trl's GRPOTrainer.

    python -m rrm.verifier.gcpo.trainer --config configs/sandbox/gcpo.yaml

The policy is the RRM. Both images of a pair are judged N times; a trace earns the share of the other image's traces that it stands
on the right side of. Then the pairing is dropped: advantages are rewards less the mean of a trace's own group of N, the loss is the
clipped surrogate per token, averaged over a trace's tokens and over all traces; no KL, no division by a standard deviation. The
mathematics is in rrm.verifier.gcpo.maths; trl samples, batches and takes the steps (gradients are clipped to norm 1, its default).
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from accelerate.utils import gather_object
from pydantic import Field
from torch.utils.data import Sampler
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations import is_deepspeed_zero3_enabled
from trl.models import unwrap_model_for_generation
from trl.trainer.utils import split_pixel_values_by_grid, split_tensor_dict, unsplit_pixel_values_by_grid

from rrm.chat import spare_loopback
from rrm.errors import InputError
from rrm.images import ImageStore
from rrm.parsing import read_answer
from rrm.parsing.marks import score_span
from rrm.records import UNREADABLE, Choice, Failure, FailureKind
from rrm.runtime.disk import written_at_once
from rrm.verifier.checkpoint import load, style_of
from rrm.verifier.fast.lazy_vllm import GRPOConfig, GRPOTrainer
from rrm.verifier.fast.shared_prompts import sharing_prompts
from rrm.verifier.fast.vision import batch_vision_attention, rows_of
from rrm.verifier.gcpo import unreadable
from rrm.verifier.gcpo.maths import (
    clipped_objective,
    clipped_tokens,
    group_advantages,
    kl_estimate,
    mean_over_traces,
    tie_rate,
    weighted_advantage,
    win_loss_ratios,
    zero_variance_groups,
)
from rrm.verifier.gcpo.pairs import PairSampler, build_dataset, draw_pairs, read_pairs
from rrm.verifier.rollout import complete, left_padded, never_sampled
from rrm.verifier.tables import check_images
from rrm.verifier.training import MetricsFile, TrainingStage, Watched, check_processes, finish, lora, run_training, start

Tokens = Literal["all", "score"]
KLTokens = Literal["all", "thought"]


class GCPOStage(TrainingStage):
    """Keys of a GCPO config; `steps` counts updates. `gradient_tokens` and `kl_weight` are off by default: what they switch on departs from the paper."""

    renamed: ClassVar = {
        "pairs": "pairs_per_step",
        "draw_pairs": "pair_count",
        "traces": "traces_per_image",
        "epsilon": "clip_range",
        "tokens": "gradient_tokens",
        "beta": "kl_weight",
    }

    pairs_per_step: int = Field(ge=1)
    """Pairs per update, over all processes."""
    pair_count: int | None = None
    """How many pairs of the data are used, drawn by `seed`; None: all of them."""
    traces_per_image: int = Field(ge=2)
    """N, traces per image."""
    updates: int = Field(default=1, ge=1)
    """Updates on one batch of rollouts; the clip acts from the second one on."""
    micro_batch: int | None = None
    """Traces per forward and process; the accumulation follows. None: all of a process's share at once."""
    adam_beta2: float = 0.99
    warmup: int = 5
    """Updates over which the learning rate rises from 0; it then stays. (The first of them moves nothing.)"""
    clip_range: float = Field(default=0.2, gt=0)
    """The clip: ratios to the sampling policy count within 1 ± clip_range."""
    temperature: float = Field(default=1.0, gt=0)
    """Of sampling; ratios, KL and entropy are those of the policy at this temperature, too."""
    gradient_tokens: Tokens = "all"
    """A departure from the paper if "score": only the tokens of the final score carry the policy gradient. A token's weight stays what it
    is in the paper's loss, 1/L of its trace's L tokens. A trace without a final score then carries none."""
    kl_weight: float = Field(default=0.0, ge=0)
    """A departure from the paper if above 0: weight of the KL to the SFT model (`base`), per token and averaged like the loss, over all L
    tokens of a trace whatever `kl_tokens` selects. Needs a second copy of the model in memory, unless `lora_rank` is set."""
    kl_tokens: KLTokens = "thought"
    """Where the KL is charged when `kl_weight` is above 0: on the thought (every token before those of the final score; the whole trace where
    there is none), or on all tokens."""
    max_tokens: int = 1024
    save_every: int = 20
    """Updates between checkpoints; a multiple of `updates`, since rollouts are not saved."""
    log_every: int = 1
    vllm_server: str | None = None
    """Base URL of a `trl vllm-serve` for the rollouts; None generates in this process. With a server each token's gain is weighted by trl's
    importance ratio between the two samplers."""


Read = float | FailureKind


def read_score(text: str, count: int, ended: bool) -> Read:
    """The trace's score, or why it has none: a trace that met the length limit is cut off."""
    read = read_answer(Choice(content=text, finish_reason="stop" if ended else "length"), count)
    return read.kind if isinstance(read, Failure) else read.score


def score_tokens(pieces: Sequence[str]) -> list[bool]:
    """Whether each token (as text) lies in the number of the score that ends the trace."""
    begin, end = score_span("".join(pieces)) or (0, 0)
    found, place = [], 0
    for piece in pieces:
        found.append(begin <= place < end)
        place += len(piece)
    return found


METRICS = {
    "completions/mean_length": "trace_length",
    "sampling/importance_sampling_ratio/mean": "server_ratio",
    "sampling/sampling_logp_difference/mean": "server_logp_difference",
}
"""What trl logs under a path that is kept, and our name for it."""

ROLLOUTS = pa.schema([
    ("step", pa.int64()), ("pair_id", pa.string()), ("side", pa.string()), ("trace", pa.int64()), ("text", pa.string()),
    ("tokens", pa.int64()), ("score", pa.float64()), ("failure", pa.string()), ("reward", pa.float64()), ("advantage", pa.float64()),
])  # fmt: skip


NO_ADVANTAGE = 1e-6
"""Advantages are multiples of 1/N²: what is nearer to 0 is rounding."""

ROWS = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask", "mm_token_type_ids")
"""What a forward needs that has one row per trace."""


def picked(inputs: Mapping[str, Any], rows: torch.Tensor) -> dict[str, Any]:
    """What a forward of these rows of a micro-batch needs; the images of all its rows lie one after another."""
    counts, grid = torch.tensor(inputs["num_images"], device=rows.device), inputs["image_grid_thw"]
    images = rows_of(rows, counts)
    return {
        **{name: inputs[name][rows] for name in ROWS}, "num_images": counts[rows].tolist(), "image_grid_thw": grid[images],
        "pixel_values": inputs["pixel_values"][rows_of(images, grid.prod(1))],
    }  # fmt: skip


class RolloutFolder(TrainerCallback):
    """Deletes what was sampled for the steps that a resumed run does again, perhaps with other processes."""

    def __init__(self, folder: Path):
        self.folder = folder

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Before any process writes: they wait for one another when the first rewards are made."""
        if state.is_world_process_zero:
            for path in self.folder.glob("step-*"):
                if int(path.name.split("-")[1]) > state.global_step:
                    path.unlink()


class GCPOTrainer(Watched, GRPOTrainer):
    """GRPOTrainer over preference pairs: adjacent rows are a pair, rewards are win and loss ratios, the loss is gcpo_math's."""

    loss_has_a_scale = False
    _buffered_inputs: list[dict[str, Any]] | None

    def __init__(self, *, rollouts: Path, tokens: Tokens = "all", kl_tokens: KLTokens = "thought", **kwargs: Any):
        # trl asks for a reward function, which sees one process's rows; rewards are made in _calculate_rewards, from all of them
        super().__init__(reward_funcs=read_score, **kwargs)
        self.rollouts = rollouts
        self.readable_until: int | None = None
        self.add_callback(RolloutFolder(rollouts))
        self.gradient_tokens, self.kl_tokens = tokens, kl_tokens
        tokenizer = self.processing_class.tokenizer
        self.suppressed = never_sampled(tokenizer, self.eos_token_ids)
        (self.stand_in,) = tokenizer("?", add_special_tokens=False).input_ids
        if self.use_vllm:
            self.vllm_generation.generation_kwargs["bad_words"] = tokenizer.convert_ids_to_tokens(self.suppressed)
        else:
            self.generation_kwargs["suppress_tokens"] = self.generation_config.suppress_tokens = self.suppressed
        if self.ref_model is not None:
            batch_vision_attention(self.accelerator.unwrap_model(self.ref_model))

    def safe_to_stop(self) -> bool:
        """Rollouts are not saved: after the last update on them."""
        return self.state.global_step % self.num_iterations == 0

    def _get_train_sampler(self, dataset: Any = None) -> Sampler[int]:
        args = self.args
        return PairSampler(
            total=len(self.train_dataset) // 2,
            traces=self.num_generations,
            pairs=args.generation_batch_size // (2 * self.num_generations),
            repeats=self.num_iterations * args.steps_per_generation,
            batches=math.ceil(args.max_steps / self.num_iterations),
            seed=args.seed,
        )

    def read(self, inputs: Any, completions: Any, completion_ids: list[list[int]]) -> list[Read]:
        """What can be read from each of this process's traces."""
        ends = {*self.eos_token_ids, self.processing_class.tokenizer.pad_token_id}
        return [
            read_score(completion[0]["content"], row["count"], ids[-1] in ends)
            for row, completion, ids in zip(inputs, completions, completion_ids, strict=True)
        ]

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> torch.Tensor:
        """Win and loss ratios of all processes' traces in the sampler's order, (traces, 1)."""
        own = self.read(inputs, completions, completion_ids_list)
        reads: list[Read] = gather_object(own)
        lengths = torch.tensor(gather_object([len(ids) for ids in completion_ids_list]))
        scores_P2G = torch.tensor([math.nan if isinstance(read, str) else read for read in reads])
        scores_P2G = scores_P2G.view(-1, 2, self.num_generations)
        ratios_P2G = win_loss_ratios(scores_P2G)
        advantages_P2G = group_advantages(ratios_P2G)
        preferred, other = scores_P2G.unbind(1)
        self._log_values(
            win_ratio=ratios_P2G[:, 0].mean(), loss_ratio=ratios_P2G[:, 1].mean(), tie_rate=tie_rate(scores_P2G),
            unreadable_rate=scores_P2G.isnan().float().mean(), score_preferred=preferred.nanmean(), score_other=other.nanmean(),
            weighted_advantage=weighted_advantage(advantages_P2G.flatten(), lengths),
            zero_variance_groups=zero_variance_groups(ratios_P2G), **{kind: reads.count(kind) for kind in UNREADABLE},
        )  # fmt: skip
        first = self.accelerator.process_index * len(own)
        step, mine = self.state.global_step + 1, slice(first, first + len(own))
        columns = {
            "step": [step] * len(own),
            "pair_id": [row["pair_id"] for row in inputs],
            "side": [row["side"] for row in inputs],
            "trace": [i % self.num_generations for i in range(first, first + len(own))],
            "text": [completion[0]["content"] for completion in completions],
            "tokens": [len(ids) for ids in completion_ids_list],
            "score": [None if isinstance(read, str) else read for read in own],
            "failure": [read if isinstance(read, str) else None for read in own],
            "reward": ratios_P2G.flatten()[mine].tolist(),
            "advantage": advantages_P2G.flatten()[mine].tolist(),
        }
        with written_at_once(self.rollouts / f"step-{step:06d}-{self.accelerator.process_index}.parquet") as partial:
            pq.write_table(pa.table(columns, ROLLOUTS), partial)
        self._end_if_hopeless(step, reads, columns["text"])
        return ratios_P2G.reshape(-1, 1).to(self.accelerator.device)

    def _end_if_hopeless(self, step: int, reads: Sequence[Read], texts: Sequence[str]) -> None:
        """Ends the run where the traces of too many updates in a row, those before a resume included, could not be read."""
        if self.readable_until is None:
            self.readable_until = unreadable.last_readable(self.state.log_history)
        reach = step + self.num_iterations - 1  # the last update that is made on these traces
        if any(not isinstance(read, str) for read in reads):
            self.readable_until = reach
        elif reach - self.readable_until >= unreadable.PATIENCE:
            self.end_with(unreadable.hopeless(step, reads, texts, self.rollouts))

    def _generate_single_turn(self, prompt_ids: Any, images: Any, multimodal_fields: Any, *args: Any) -> Any:
        """Rollouts in this process read every prompt once; a vLLM server's, and those of weights sharded by ZeRO-3, are trl's own."""
        if self.use_vllm or is_deepspeed_zero3_enabled():
            answers, logps = super()._generate_single_turn(prompt_ids, images, multimodal_fields, *args)
            return [self.as_text(ids) for ids in answers], logps
        batch = left_padded(prompt_ids, multimodal_fields, self.processing_class.tokenizer.pad_token_id)
        options = self.args.gradient_checkpointing_kwargs
        with unwrap_model_for_generation(self.model_wrapped, self.accelerator, gradient_checkpointing_kwargs=options) as model:
            return complete(model, batch, self.generation_config), None

    def as_text(self, ids: list[int]) -> list[int]:
        """An answer's tokens with a question mark for every special one that ends nothing: a server may not have kept to what it was told,
        and a forward with an image's place but no image stops the training."""
        return [self.stand_in if i in self.suppressed else i for i in ids]

    def _get_per_token_logps_and_entropies(
        self, model: Any, input_ids: Any, attention_mask: Any, logits_to_keep: int, *args: Any, **kwargs: Any
    ) -> Any:
        """Log-probabilities of the traces; a prompt that several traces answer is read once."""
        with sharing_prompts(model, input_ids.shape[1] - logits_to_keep):
            return super()._get_per_token_logps_and_entropies(model, input_ids, attention_mask, logits_to_keep, *args, **kwargs)

    def _prepare_inputs(self, generation_batch: Any) -> dict[str, Any]:
        """A micro-batch, in the sampler's order: trl would shuffle a batch of rollouts, and part traces that share prompt and images.

        An update goes over the whole batch, so its order changes nothing else.
        """
        parts = self.args.steps_per_generation
        if self._step % (parts * self.num_iterations) == 0 or self._buffered_inputs is None:
            batch = split_pixel_values_by_grid(self._generate_and_score_completions(generation_batch))
            self._buffered_inputs = [unsplit_pixel_values_by_grid(part) for part in split_tensor_dict(batch, parts)]
        return self._buffered_inputs[self._step % parts]

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        begun = time.perf_counter()
        batch = super()._generate_and_score_completions(inputs)
        on_score, on_thought = self.gradient_tokens == "score", self.beta > 0 and self.kl_tokens == "thought"
        if on_score or on_thought:
            score_BT = self.score_mask(batch["completion_ids"])
            if on_score:
                batch["policy_tokens"] = score_BT
            if on_thought:
                batch["kl_tokens"] = (score_BT.cumsum(1) == 0).float()
        self._log_values(rollout_seconds=time.perf_counter() - begun)
        return batch

    def score_mask(self, ids_BT: torch.Tensor) -> torch.Tensor:
        """1 for the tokens of the final score, (B, T)."""
        decode = self.processing_class.tokenizer.decode
        pieces = {i: decode([i]) for i in ids_BT.unique().tolist()}
        rows = [score_tokens([pieces[i] for i in ids]) for ids in ids_BT.tolist()]
        return torch.tensor(rows, dtype=torch.float32, device=ids_BT.device)

    def policy(self, model: Any, inputs: Mapping[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities and entropies of a micro-batch's traces, (B, T) each.

        Without KL, a trace whose advantage is 0 (all those of a group with equal rewards) has no gradient: it is read without a graph, for
        what is logged. One row always has a graph, since every process owes a backward; and under ZeRO-3, where every forward is all
        processes' together, all have.
        """
        at_rest = inputs["advantages"].abs() < NO_ADVANTAGE
        at_rest[0] &= not bool(at_rest.all())
        if self.beta > 0 or is_deepspeed_zero3_enabled() or not bool(at_rest.any()):
            return self.read_traces(model, inputs)
        resting, moving = at_rest.nonzero()[:, 0], (~at_rest).nonzero()[:, 0]
        with torch.no_grad():
            quiet = self.read_traces(self.accelerator.unwrap_model(model), picked(inputs, resting))
        loud = self.read_traces(model, picked(inputs, moving))
        order = torch.cat([resting, moving]).argsort()
        return torch.cat([quiet[0], loud[0]])[order], torch.cat([quiet[1], loud[1]])[order]

    def read_traces(self, model: Any, inputs: Mapping[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities and entropies of all traces of these inputs, (B, T) each."""
        ids, mask = inputs["completion_ids"], inputs["completion_mask"]
        logps, entropy, _ = self._get_per_token_logps_and_entropies(
            model,
            torch.cat([inputs["prompt_ids"], ids], dim=1),
            torch.cat([inputs["prompt_mask"], mask], dim=1),
            ids.shape[1],
            compute_entropy=True,
            **{key: inputs.get(key) for key in ("pixel_values", "image_grid_thw", "num_images", "mm_token_type_ids")},
        )
        return logps, entropy

    def _compute_loss(self, model: Any, inputs: Any) -> torch.Tensor:
        """−(1/B) Σ_i (1/L_i) Σ_t [min(ρA, clip(ρ, 1 ± ε)A) − β·KL] of a micro-batch, over the number of micro-batches in the update."""
        mask = inputs["completion_mask"]
        logps, entropy = self.policy(model, inputs)
        # without them there is one update per batch of rollouts, and the policy is still the one that sampled
        ratio = (logps - inputs.get("old_per_token_logps", logps.detach())).exp()
        policy_tokens, kl_tokens = inputs.get("policy_tokens", mask), inputs.get("kl_tokens", mask)
        gain = clipped_objective(ratio, inputs["advantages"], self.epsilon_low) * policy_tokens
        if "importance_sampling_ratio" in inputs:
            gain = gain * inputs["importance_sampling_ratio"]
        if self.beta > 0:
            kl = kl_estimate(logps, inputs["ref_per_token_logps"])
            gain = gain - self.beta * kl * kl_tokens
            self._log_token_means(mask * kl_tokens, kl=kl)
        low, high = clipped_tokens(ratio, inputs["advantages"], self.epsilon_low)
        self._log_token_means(mask * policy_tokens, clip_low=low, clip_high=high)
        self._log_token_means(mask, entropy=entropy)
        return -mean_over_traces(gain, mask) / self.current_gradient_accumulation_steps

    def _log_values(self, **values: torch.Tensor | float) -> None:
        for name, value in values.items():
            self._metrics["train"][name].append(float(value))

    def _log_token_means(self, mask_BT: torch.Tensor, **values_BT: torch.Tensor) -> None:
        """Means over the tokens that the mask leaves, in all processes."""
        sums = torch.stack([mask_BT.sum(), *((value.detach() * mask_BT).sum() for value in values_BT.values())]).float()
        count, *totals = self.accelerator.reduce(sums, reduction="sum").tolist()
        self._log_values(**{name: total / max(count, 1) for name, total in zip(values_BT, totals, strict=True)})

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Logs under plain names; `epoch` is passes over the pairs, `update_seconds` forwards and backwards without rollouts."""
        metrics = self._metrics["train"]
        if steps := metrics.pop("step_time", None):
            self._log_values(update_seconds=(sum(steps) - sum(metrics.get("rollout_seconds", []))) / len(steps))
        metrics.pop("frac_reward_zero_std", None)  # zero_variance_groups
        for name in [name for name in metrics if "/" in name]:
            values = metrics.pop(name)
            if name in METRICS:
                metrics[METRICS[name]] = values
        pairs = self.args.generation_batch_size / (2 * self.num_generations)
        self.state.epoch = self.state.global_step / self.num_iterations * pairs / (len(self.train_dataset) // 2)
        super().log(logs, start_time)


def arguments(config: GCPOStage, out: Path, processes: int) -> GRPOConfig:
    """trl's settings for the paper's algorithm; the batch of pairs is the same however many processes share it."""
    total = config.pairs_per_step * 2 * config.traces_per_image
    share, rest = divmod(total, processes)
    micro = config.micro_batch or share
    if rest or share % micro:
        raise InputError(
            f"pairs × 2 × traces = {total} does not divide into {processes} process(es) × micro_batch {micro}; change one of them."
        )
    if config.save_every % config.updates:
        raise InputError(
            f"save_every {config.save_every} is not a multiple of updates {config.updates}; rollouts are not saved, so change one of them."
        )
    if config.vllm_server is not None:
        spare_loopback()  # trl's own client would ask a proxy for it
    return GRPOConfig(
        output_dir=str(out / "checkpoints"), max_steps=config.steps, per_device_train_batch_size=micro,
        gradient_accumulation_steps=share // micro, generation_batch_size=total, num_generations=config.traces_per_image,
        num_iterations=config.updates, learning_rate=config.learning_rate, lr_scheduler_type="constant_with_warmup",
        warmup_steps=config.warmup, adam_beta2=config.adam_beta2, loss_type="grpo", scale_rewards=False,
        beta=config.kl_weight, epsilon=config.clip_range, temperature=config.temperature, top_p=1.0, top_k=0,
        max_completion_length=config.max_tokens, seed=config.seed, data_seed=config.seed, save_steps=config.save_every,
        logging_steps=config.log_every, report_to=[],
        bf16=config.dtype == "bfloat16", deepspeed=config.deepspeed, gradient_checkpointing=config.gradient_checkpointing,
        use_vllm=config.vllm_server is not None, vllm_mode="server", vllm_server_base_url=config.vllm_server, disable_tqdm=False,
        use_cpu=not torch.cuda.is_available(), dataloader_pin_memory=False,
    )  # fmt: skip


def train(config: GCPOStage, out: Path, kind: type[GCPOTrainer] = GCPOTrainer) -> dict[str, Any]:
    """Trains, or carries on from the last checkpoint in `out`, and writes out/model; `kind` is for those who measure or test."""
    style = style_of(config.base)
    pairs = draw_pairs(read_pairs(config.data), config.pair_count, config.seed)
    if len(pairs) < config.pairs_per_step:
        raise InputError(
            f"{config.data} holds {len(pairs)} pairs, fewer than one update's {config.pairs_per_step}; lower 'pairs_per_step'."
        )
    store = ImageStore(config.data / "images")
    check_images(store, (digest for pair in pairs for digest in (pair.source, pair.edited_a, pair.edited_b)))
    dataset = build_dataset(pairs, style, store)
    start(config)
    settings = arguments(config, out, int(os.environ.get("WORLD_SIZE", "1")))
    model, processor = load(config.base, config.dtype)
    trainer = kind(
        model=model, args=settings, train_dataset=dataset, processing_class=processor, peft_config=lora(config.lora_rank),
        callbacks=[MetricsFile(out / "metrics.jsonl")], explosion=config.explosion, keep=config.keep, rollouts=out / "rollouts",
        tokens=config.gradient_tokens, kl_tokens=config.kl_tokens,
    )  # fmt: skip
    check_processes(trainer)
    trainer.carry_on(out / "checkpoints", config.resume_from)
    rows = {"pairs": len(pairs)}
    return {**rows, **finish("gcpo", trainer, processor, config, style, out, rows)}


def run(config: GCPOStage) -> None:
    """Trains as a stage: skipped where it is done, resumed where it was interrupted."""
    run_training("gcpo", config, train)
