"""GCPO's trainer with the same losses and gradients in less time; `fast: false` in a config
switches to the plain one.

- Rollouts in this process read every prompt once per group (rrm.verifier.rollout) instead of once per trace.
- The update's forward reads a prompt that several traces answer once (rrm.verifier.fast.shared_prompts).
- Traces with an advantage of 0 (all those of a group with equal rewards) have no gradient: they are read without a graph.
- The vision tower's attention is one batched call (rrm.verifier.fast.vision); checkpoint.load(fast=True) installs it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers.integrations import is_deepspeed_zero3_enabled
from trl.models import unwrap_model_for_generation
from trl.trainer.utils import (
    split_pixel_values_by_grid,
    split_tensor_dict,
    unsplit_pixel_values_by_grid,
)

from rrm.verifier.fast.shared_prompts import sharing_prompts
from rrm.verifier.fast.vision import batch_vision_attention, rows_of
from rrm.verifier.gcpo.maths import zero_advantage
from rrm.verifier.gcpo.trainer import GCPOTrainer
from rrm.verifier.rollout import complete, left_padded

ROWS = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask", "mm_token_type_ids")
"""What a forward needs that has one row per trace."""


def select_traces(inputs: Mapping[str, Any], rows: torch.Tensor) -> dict[str, Any]:
    """What a forward of these rows of a micro-batch needs; pixel values of all its images are
    concatenated."""
    counts, grid = torch.tensor(inputs["num_images"], device=rows.device), inputs["image_grid_thw"]
    images = rows_of(rows, counts)
    return {
        **{name: inputs[name][rows] for name in ROWS}, "num_images": counts[rows].tolist(), "image_grid_thw": grid[images],
        "pixel_values": inputs["pixel_values"][rows_of(images, grid.prod(1))],
    }  # fmt: skip


class FastGCPOTrainer(GCPOTrainer):
    """GCPOTrainer without repeated or needless forwards."""

    _buffered_inputs: list[dict[str, Any]] | None

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        if self.ref_model is not None:
            batch_vision_attention(self.accelerator.unwrap_model(self.ref_model))

    def _generate_single_turn(
        self, prompt_ids: Any, images: Any, multimodal_fields: Any, *args: Any
    ) -> Any:
        """Rollouts; a vLLM server's, and those of weights sharded by ZeRO-3, are trl's own."""
        if self.use_vllm or is_deepspeed_zero3_enabled():
            return super()._generate_single_turn(prompt_ids, images, multimodal_fields, *args)
        batch = left_padded(
            prompt_ids, multimodal_fields, self.processing_class.tokenizer.pad_token_id
        )
        options = self.args.gradient_checkpointing_kwargs
        with unwrap_model_for_generation(
            self.model_wrapped, self.accelerator, gradient_checkpointing_kwargs=options
        ) as model:
            return complete(model, batch, self.generation_config), None

    def _prepare_inputs(self, generation_batch: Any) -> dict[str, Any]:
        """A micro-batch in the sampler's order, so that traces that share prompt and images stay
        together; trl would shuffle them.

        An update goes over the whole batch, so the order changes nothing else.
        """
        parts = self.args.steps_per_generation
        if self._step % (parts * self.num_iterations) == 0 or self._buffered_inputs is None:
            batch = split_pixel_values_by_grid(
                self._generate_and_score_completions(generation_batch)
            )
            self._buffered_inputs = [
                unsplit_pixel_values_by_grid(part) for part in split_tensor_dict(batch, parts)
            ]
        return self._buffered_inputs[self._step % parts]

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Any,
        attention_mask: Any,
        logits_to_keep: int,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Log-probabilities of the traces; a prompt that several traces answer is read once."""
        with sharing_prompts(model, input_ids.shape[1] - logits_to_keep):
            return super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, *args, **kwargs
            )

    def trace_logps(
        self, model: Any, inputs: Mapping[str, Any]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities and entropies, (B, T) each; zero-advantage traces are read without a
        graph, for what is logged.

        All traces have a graph with KL, and under ZeRO-3, where every forward is all processes'
        together. Else one row always has one, since every process owes a backward.
        """
        without_graph = zero_advantage(inputs["advantages"])
        without_graph[0] &= not bool(without_graph.all())
        if self.beta > 0 or is_deepspeed_zero3_enabled() or not bool(without_graph.any()):
            return super().trace_logps(model, inputs)
        constant, trained = without_graph.nonzero()[:, 0], (~without_graph).nonzero()[:, 0]
        with torch.no_grad():
            of_constant = super().trace_logps(
                self.accelerator.unwrap_model(model), select_traces(inputs, constant)
            )
        of_trained = super().trace_logps(model, select_traces(inputs, trained))
        order = torch.cat([constant, trained]).argsort()
        logps, entropy = (
            torch.cat(both)[order] for both in zip(of_constant, of_trained, strict=True)
        )
        return logps, entropy
