"""The vision tower's attention as one batched call.

Stock transformers runs it image by image, which dominates when images are many and small. The result is the same.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from transformers import Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import (
    Qwen2_5_VLVisionAttention,
    apply_rotary_pos_emb_vision,
)


def batched_forward(
    self: Qwen2_5_VLVisionAttention,
    hidden_states: torch.Tensor,
    cu_seqlens: torch.Tensor,
    position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
    **kwargs: Any,
) -> torch.Tensor:
    """Attention within equally long chunks, (tokens, hidden) → (tokens, hidden); chunks of unequal length take the stock way."""
    lengths = cu_seqlens[1:] - cu_seqlens[:-1]
    if position_embeddings is None or not bool((lengths == lengths[0]).all()):
        return type(self).forward(self, hidden_states, cu_seqlens, position_embeddings, **kwargs)
    tokens = hidden_states.shape[0]
    qkv = self.qkv(hidden_states).reshape(tokens, 3, self.num_heads, -1)
    query, key = apply_rotary_pos_emb_vision(qkv[:, 0], qkv[:, 1], *position_embeddings)

    def chunks(x: torch.Tensor) -> torch.Tensor:
        return x.reshape(lengths.numel(), -1, self.num_heads, x.shape[-1]).transpose(1, 2)

    mixed = F.scaled_dot_product_attention(chunks(query), chunks(key), chunks(qkv[:, 2]), scale=self.scaling)
    return self.proj(mixed.transpose(1, 2).reshape(tokens, -1))


def batch_vision_attention(model: Qwen2_5_VLForConditionalGeneration) -> None:
    """Switches the model's vision blocks to `batched_forward`, where attention is neither flash nor eager."""
    if model.config._attn_implementation != "sdpa":
        return
    for module in model.modules():
        if isinstance(module, Qwen2_5_VLVisionAttention):
            module.forward = MethodType(batched_forward, module)  # type: ignore[method-assign]
