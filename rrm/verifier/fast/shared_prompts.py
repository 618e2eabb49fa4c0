"""Training forwards over groups of traces in which the prompt that a group shares is read once.

Hidden states and gradients are those of reading it again for every trace: later tokens do not
change what earlier ones are. trl's own forward reads prompt and images once per trace.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import DynamicCache
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import (
    Qwen2_5_VLModel,
    Qwen2_5_VLModelOutputWithPast,
)

from rrm.verifier.rollout import distinct_prompts


@contextmanager
def sharing_prompts(model: torch.nn.Module, prompt: int) -> Iterator[None]:
    """Meanwhile the Qwen2.5-VL in `model` reads rows' first `prompt` tokens, and their images, once
    where they are equal.

    A cache carries the prompt to its traces. Gradient checkpointing keeps none, ZeRO-3 gathers the
    weights in the order of one forward, and a sliding window cuts it: with these, nothing is
    shared.
    """
    inner = next(module for module in model.modules() if isinstance(module, Qwen2_5_VLModel))
    language = inner.language_model
    if (
        language.gradient_checkpointing
        or language.has_sliding_layers
        or is_deepspeed_zero3_enabled()
    ):
        yield
        return
    before, stock = vars(inner).get("forward"), inner.forward

    def forward(**given: Any) -> Any:
        known = (
            "input_ids",
            "attention_mask",
            "pixel_values",
            "image_grid_thw",
            "mm_token_type_ids",
        )
        others = [value for name, value in given.items() if name not in known]
        if any(given.get(name) is None for name in known) or any(
            value is not None and value is not False for value in others
        ):
            return stock(**given)
        ids, mask, pixels, grid, kinds = (given[name] for name in known)
        first, copies, images = distinct_prompts(
            ids[:, :prompt], mask[:, :prompt], pixels, grid, inner.config.vision_start_token_id
        )
        if len(first) == len(ids):
            return stock(**given)
        start = {"input_ids": ids[first, :prompt], "attention_mask": mask[first, :prompt]}
        positions, _ = inner.get_rope_index(
            **start,
            mm_token_type_ids=kinds[first, :prompt],
            image_grid_thw=images["image_grid_thw"],
        )
        cache = DynamicCache()
        read = stock(
            **start, **images, position_ids=positions, past_key_values=cache, use_cache=True
        ).last_hidden_state
        cache.batch_select_indices(copies)
        traces = ids[:, prompt:]
        steps = torch.arange(1, traces.shape[1] + 1, device=ids.device)
        said = language(
            inputs_embeds=language.embed_tokens(traces), attention_mask=mask, position_ids=positions[:, copies, -1:] + steps,
            past_key_values=cache, use_cache=True,
        ).last_hidden_state  # fmt: skip
        return Qwen2_5_VLModelOutputWithPast(last_hidden_state=torch.cat([read[copies], said], 1))

    inner.forward = forward  # type: ignore[method-assign]
    try:
        yield
    finally:
        del inner.forward
        if before is not None:
            inner.forward = before  # type: ignore[method-assign]
