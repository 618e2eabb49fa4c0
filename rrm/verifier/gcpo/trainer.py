"""GCPO (Group Contrastive Preference Optimization, arXiv 2604.27505): RL of the verifier on human
preference pairs.

For a pair whose edit w is preferred to l, the verifier writes N traces for each image, with scores
τ. In the paper's equations:

    r^w_j = (1/N) Σ_k 1[τ^w_j > τ^l_k]        win ratio of a trace of the preferred image      (win_loss_ratios)
    r^l_j = (1/N) Σ_k 1[τ^l_j < τ^w_k]        loss ratio of a trace of the other image
    A_j   = r_j − mean_j r                     over the N traces of the same image              (group_advantages)
    J     = (1/2N) Σ_j (1/L_j) Σ_t min(ρ_jt A_j, clip(ρ_jt, 1 ± ε) A_j),   ρ = π / π_sampling   (clipped_objective, mean_over_traces)

No KL, no division by a standard deviation. An unreadable trace has no τ: all its comparisons are
false and its reward is 0 (this project's rule). The mathematics is in rrm.verifier.gcpo.maths; trl
samples, batches and takes the steps (gradients clipped to norm 1, its default).
rrm.verifier.gcpo.fast computes the same faster.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from torch.utils.data import Sampler

from rrm.records import UNREADABLE
from rrm.verifier.fast.trl_without_vllm import GRPOTrainer
from rrm.verifier.gcpo import maths
from rrm.verifier.gcpo.config import GradientTokens, KLTokens
from rrm.verifier.gcpo.logs import LogsMetrics, RolloutLog
from rrm.verifier.gcpo.pairs import PairSampler
from rrm.verifier.gcpo.reading import Read, read_score, score_mask
from rrm.verifier.gcpo.unreadable import Patience
from rrm.verifier.rollout import never_sampled
from rrm.verifier.training import Watched


class GCPOTrainer(LogsMetrics, Watched, GRPOTrainer):
    """trl's GRPOTrainer over preference pairs: adjacent rows of the data are a pair. B traces of up
    to T tokens, P pairs, G = N."""

    loss_has_a_scale = False

    def __init__(
        self,
        *,
        rollouts: Path,
        gradient_tokens: GradientTokens = "all",
        kl_tokens: KLTokens = "thought",
        **kwargs: Any,
    ):
        # trl asks for a reward function, which sees one process's rows; _calculate_rewards sees all
        # processes' traces
        super().__init__(reward_funcs=read_score, **kwargs)
        self.rollout_log = RolloutLog(rollouts)
        self.add_callback(self.rollout_log)
        self.gradient_tokens, self.kl_tokens = gradient_tokens, kl_tokens
        self.patience = Patience(rollouts, self.num_iterations)
        tokenizer = self.processing_class.tokenizer
        self.suppressed = never_sampled(tokenizer, self.eos_token_ids)
        (self.stand_in,) = tokenizer("?", add_special_tokens=False).input_ids
        if self.use_vllm:
            self.vllm_generation.generation_kwargs["bad_words"] = tokenizer.convert_ids_to_tokens(
                self.suppressed
            )
        else:
            self.generation_kwargs["suppress_tokens"] = self.generation_config.suppress_tokens = (
                self.suppressed
            )

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

    def _generate_single_turn(
        self, prompt_ids: Any, images: Any, multimodal_fields: Any, *args: Any
    ) -> Any:
        """Traces of the prompts. A server may sample special tokens all the same: they become a
        question mark, since a forward with an image's placeholder but no image fails."""
        answers, logps = super()._generate_single_turn(prompt_ids, images, multimodal_fields, *args)
        return [
            [self.stand_in if i in self.suppressed else i for i in ids] for ids in answers
        ], logps

    def read(self, inputs: Any, completions: Any, completion_ids: list[list[int]]) -> list[Read]:
        """The score of each of this process's traces, or why it has none."""
        ends = {*self.eos_token_ids, self.processing_class.tokenizer.pad_token_id}
        return [
            read_score(completion[0]["content"], row["count"], ids[-1] in ends)
            for row, completion, ids in zip(inputs, completions, completion_ids, strict=True)
        ]

    def _calculate_rewards(
        self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any
    ) -> torch.Tensor:
        """Rewards r of all processes' traces in the sampler's order, (B, 1)."""
        own = self.read(inputs, completions, completion_ids_list)
        reads: list[Read] = gather_object(own)
        lengths = torch.tensor(gather_object([len(ids) for ids in completion_ids_list]))
        scores_P2G = torch.tensor([math.nan if isinstance(read, str) else read for read in reads])
        scores_P2G = scores_P2G.view(-1, 2, self.num_generations)
        rewards_P2G = maths.win_loss_ratios(scores_P2G)
        advantages_P2G = maths.group_advantages(rewards_P2G)
        self.log_values(
            **maths.reward_metrics(scores_P2G, rewards_P2G, advantages_P2G, lengths),
            **{kind: reads.count(kind) for kind in UNREADABLE},
        )
        first, step = self.accelerator.process_index * len(own), self.state.global_step + 1
        mine = slice(first, first + len(own))
        texts = [completion[0]["content"] for completion in completions]
        self.rollout_log.write(step, self.accelerator.process_index, {
            "pair_id": [row["pair_id"] for row in inputs], "side": [row["side"] for row in inputs],
            "trace": [i % self.num_generations for i in range(first, first + len(own))], "text": texts,
            "tokens": [len(ids) for ids in completion_ids_list],
            "score": [None if isinstance(read, str) else read for read in own],
            "failure": [read if isinstance(read, str) else None for read in own],
            "reward": rewards_P2G.flatten()[mine].tolist(), "advantage": advantages_P2G.flatten()[mine].tolist(),
        })  # fmt: skip
        if reason := self.patience.reason_to_end(step, reads, texts, self.state.log_history):
            self.end_with(reason)
        return rewards_P2G.reshape(-1, 1).to(self.accelerator.device)

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        begun = time.perf_counter()
        batch = super()._generate_and_score_completions(inputs)
        on_score, on_thought = (
            self.gradient_tokens == "score",
            self.beta > 0 and self.kl_tokens == "thought",
        )
        if on_score or on_thought:
            score_BT = score_mask(batch["completion_ids"], self.processing_class.tokenizer.decode)
            if on_score:
                batch["policy_tokens"] = score_BT
            if on_thought:
                batch["kl_tokens"] = (score_BT.cumsum(1) == 0).float()
        self.log_values(rollout_seconds=time.perf_counter() - begun)
        return batch

    def trace_logps(
        self, model: Any, inputs: Mapping[str, Any]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities and entropies of a micro-batch's traces, (B, T) each."""
        ids, mask = inputs["completion_ids"], inputs["completion_mask"]
        logps, entropy, _ = self._get_per_token_logps_and_entropies(
            model,
            torch.cat([inputs["prompt_ids"], ids], dim=1),
            torch.cat([inputs["prompt_mask"], mask], dim=1),
            ids.shape[1],
            compute_entropy=True,
            **{
                key: inputs.get(key)
                for key in ("pixel_values", "image_grid_thw", "num_images", "mm_token_type_ids")
            },
        )
        return logps, entropy

    def _compute_loss(self, model: Any, inputs: Any) -> torch.Tensor:
        """−J of a micro-batch (with kl_weight: −(J − β·KL)), over the number of micro-batches in
        the update."""
        mask, advantages, epsilon = (
            inputs["completion_mask"],
            inputs["advantages"],
            self.epsilon_low,
        )
        logps, entropy = self.trace_logps(model, inputs)
        # without old log-probabilities there is one update per batch of rollouts, and the policy is
        # still the one that sampled
        ratio = (logps - inputs.get("old_per_token_logps", logps.detach())).exp()
        policy_tokens, kl_tokens = inputs.get("policy_tokens", mask), inputs.get("kl_tokens", mask)
        gain = maths.clipped_objective(ratio, advantages, epsilon) * policy_tokens
        if "importance_sampling_ratio" in inputs:
            gain = gain * inputs["importance_sampling_ratio"]
        if self.beta > 0:
            kl = maths.kl_estimate(logps, inputs["ref_per_token_logps"])
            gain = gain - self.beta * kl * kl_tokens
            self.log_token_means(mask * kl_tokens, kl=kl)
        low, high = maths.clipped_tokens(ratio, advantages, epsilon)
        self.log_token_means(mask * policy_tokens, clip_low=low, clip_high=high)
        self.log_token_means(mask, entropy=entropy)
        return -maths.mean_over_traces(gain, mask) / self.current_gradient_accumulation_steps

    def safe_to_stop(self) -> bool:
        """Rollouts are not saved: only after the last update on them."""
        return self.state.global_step % self.num_iterations == 0
