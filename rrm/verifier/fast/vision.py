"""The vision tower with its attention as one batched call, and with equal images encoded once.

Stock transformers runs the attention image by image, which dominates when images are many and
small, and encodes an image again for every row that shows it: in a group of traces all rows show
the same two. The result is the same.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from transformers import Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import (
    Qwen2_5_VLModel,
    Qwen2_5_VLVisionAttention,
    apply_rotary_pos_emb_vision,
)

BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
"""The integer type that has as many bytes as a float."""


def batched_forward(
    self: Qwen2_5_VLVisionAttention,
    hidden_states: torch.Tensor,
    cu_seqlens: torch.Tensor,
    position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
    **kwargs: Any,
) -> torch.Tensor:
    """Attention within equally long chunks, (tokens, hidden) → (tokens, hidden); chunks of unequal
    length take the stock way."""
    lengths = cu_seqlens[1:] - cu_seqlens[:-1]
    if position_embeddings is None or not bool((lengths == lengths[0]).all()):
        return type(self).forward(self, hidden_states, cu_seqlens, position_embeddings, **kwargs)
    tokens = hidden_states.shape[0]
    qkv = self.qkv(hidden_states).reshape(tokens, 3, self.num_heads, -1)
    query, key = apply_rotary_pos_emb_vision(qkv[:, 0], qkv[:, 1], *position_embeddings)

    def chunks(x: torch.Tensor) -> torch.Tensor:
        return x.reshape(lengths.numel(), -1, self.num_heads, x.shape[-1]).transpose(1, 2)

    mixed = F.scaled_dot_product_attention(
        chunks(query), chunks(key), chunks(qkv[:, 2]), scale=self.scaling
    )
    return self.proj(mixed.transpose(1, 2).reshape(tokens, -1))


def rows_of(images: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
    """The patch rows of these images, one image after another; image i has sizes[i] rows, and they
    lie in order."""
    ends = sizes.cumsum(0)
    return torch.cat(
        [
            torch.arange(int(ends[i] - sizes[i]), int(ends[i]), device=sizes.device)
            for i in images.tolist()
        ]
    )


def distinct_images(pixels: torch.Tensor, grid: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(the images that are the first of their kind, for every image the place of its kind among
    those).

    `pixels` is (patches, values), `grid` is (images, 3), as the processor gives them. Images of one
    fingerprint are compared value for value; should two that differ have the same, each image is a
    kind of its own.
    """
    sizes = grid.prod(1)
    image = torch.repeat_interleave(torch.arange(len(sizes), device=pixels.device), sizes)
    place = torch.arange(len(pixels), device=pixels.device) - (sizes.cumsum(0) - sizes)[image]
    bits = pixels.view(BITS[pixels.element_size()])
    factors = torch.randint(
        1 << 15, (bits.shape[1],), generator=torch.Generator().manual_seed(0)
    ).to(bits)
    patches = (
        (bits * factors).sum(1, dtype=bits.dtype).long()
    )  # overflow wraps round, which does no harm
    prints = torch.zeros(len(sizes), dtype=torch.int64, device=pixels.device).index_add_(
        0, image, patches * (2 * place + 1)
    )
    kinds: dict[tuple[int, ...], int] = {}
    of = [
        kinds.setdefault((*shape, code), len(kinds))
        for shape, code in zip(grid.tolist(), prints.tolist(), strict=True)
    ]
    first = torch.tensor([of.index(kind) for kind in range(len(kinds))], device=pixels.device)
    which = torch.tensor(of, device=pixels.device)
    if len(first) < len(which) and not torch.equal(bits[rows_of(first[which], sizes)], bits):
        first = which = torch.arange(len(which), device=pixels.device)
    return first, which


def shared_image_features(
    self: Qwen2_5_VLModel, pixel_values: torch.Tensor, image_grid_thw: torch.Tensor, **kwargs: Any
) -> Any:
    """`get_image_features` in which equal images are one: every image's embeddings,
    `last_hidden_state` of the distinct ones alone."""
    first, which = distinct_images(pixel_values, image_grid_thw)
    if len(first) < len(which):
        pixel_values = pixel_values[rows_of(first, image_grid_thw.prod(1))]
        image_grid_thw = image_grid_thw[first]
    found = type(self).get_image_features(self, pixel_values, image_grid_thw, **kwargs)
    found.pooler_output = tuple(found.pooler_output[kind] for kind in which.tolist())
    return found


def batch_vision_attention(model: Qwen2_5_VLForConditionalGeneration) -> None:
    """Switches the model's vision blocks to `batched_forward`, where attention is neither flash nor
    eager."""
    if model.config._attn_implementation != "sdpa":
        return
    for module in model.modules():
        if isinstance(module, Qwen2_5_VLVisionAttention):
            module.forward = MethodType(batched_forward, module)  # type: ignore[method-assign]
        elif isinstance(module, Qwen2_5_VLModel):
            module.get_image_features = MethodType(shared_image_features, module)  # type: ignore[method-assign]
