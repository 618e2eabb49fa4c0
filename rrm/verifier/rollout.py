"""Answers of the RRM to a batch of prompts: every distinct prompt is read once, and a row that has
ended costs nothing more.

`model.generate` does the preparing (generation config, positions, cache, logits processors,
stopping); `decode` stands in for its loop. Greedy answers are those of `model.generate`; sampled
ones are drawn from the same distribution. Sampling draws from torch's global random state, as
`generate` does: one number per row and step, whether the row still runs or not, so that a row's
answer does not depend on which other rows have ended.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from transformers import (
    AttentionInterface,
    DynamicCache,
    GenerationConfig,
    LogitsProcessorList,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
    Qwen2_5_VLForConditionalGeneration,
    StoppingCriteriaList,
)
from transformers.cache_utils import DynamicLayer

from rrm.verifier.fast.vision import distinct_images, rows_of

ROOM = 64
"""Tokens that a cache layer has room for before it is copied into a larger one."""


class RoomyLayer(DynamicLayer):
    """A cache layer with room for the tokens to come: a token costs its own writing, not a copy of
    all before it."""

    def __init__(self, layer: DynamicLayer, copies: torch.Tensor):
        super().__init__()
        self.length = layer.get_seq_length()
        self.dtype, self.device, self.is_initialized = layer.dtype, layer.device, True
        self.keys, self.values = (self.roomy(x[copies]) for x in (layer.keys, layer.values))

    def roomy(self, states: torch.Tensor) -> torch.Tensor:
        """The (rows, heads, tokens, values) in a buffer of `ROOM` more tokens."""
        return F.pad(states, (0, 0, 0, ROOM))

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Writes the states of new tokens and returns those of all."""
        end = self.length + key_states.shape[-2]
        if end > self.keys.shape[-2]:
            self.keys, self.values = self.roomy(self.keys), self.roomy(self.values)
        self.keys[:, :, self.length : end] = key_states
        self.values[:, :, self.length : end] = value_states
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def get_seq_length(self) -> int:
        """The tokens held."""
        return self.length


def one_token_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of one new token per row, (B, heads, 1, D) to (B, key heads, L, D) → (B, 1, heads,
    D).

    The heads that share a key head take the place of query positions, so that no key is repeated
    for them.
    """
    rows, heads, _one, size = query.shape
    mixed = F.scaled_dot_product_attention(
        query.reshape(rows, key.shape[1], -1, size),
        key,
        value,
        attn_mask=attention_mask,
        scale=scaling,
    )
    return mixed.reshape(rows, 1, heads, size), None


AttentionInterface.register("one_token", one_token_attention)


@contextmanager
def attending(config: PreTrainedConfig, implementation: str) -> Iterator[None]:
    """The config's modules attend by this implementation meanwhile."""
    before = config._attn_implementation
    config._attn_implementation = implementation
    try:
        yield
    finally:
        config._attn_implementation = before


def draw(scores: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """One token per row, (B, V) scores and (B,) numbers of [0, 1) → (B,): where the cumulated
    probability first exceeds the number."""
    cumulated = torch.softmax(scores, -1).cumsum(-1, dtype=torch.float64)
    return torch.searchsorted(cumulated, uniform[:, None] * cumulated[:, -1:], right=True)[:, 0]


def decode(
    model: Qwen2_5_VLForConditionalGeneration,
    input_ids: torch.Tensor,
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    generation_config: GenerationConfig,
    copies: torch.Tensor,
    **inputs: Any,
) -> torch.Tensor:
    """The loop of `generate`: row i of the (rows, tokens) that come back is prompt copies[i] of
    `input_ids` with an answer to it."""
    found = model(input_ids=input_ids, return_dict=True, **inputs)
    layers = found.past_key_values.layers
    if not all(type(layer) is DynamicLayer for layer in layers):
        raise ValueError("rollouts need a plain cache, without a sliding window")
    cache = DynamicCache()
    cache.layers = [RoomyLayer(layer, copies) for layer in layers]
    language, prompt = model.model.language_model, input_ids.shape[1]
    longest = generation_config.max_length
    padding = inputs["attention_mask"][copies].bool()
    padded = not bool(padding.all())
    ids = input_ids.new_full((len(copies), longest), int(generation_config._pad_token_tensor))
    ids[:, :prompt] = input_ids[copies]
    alive = torch.arange(len(copies), device=ids.device)
    position = inputs["position_ids"][
        -3:, copies, -1:
    ]  # of the prompt's last token: time, height, width
    logits = found.logits[copies, -1]
    del found, layers
    with attending(language.config, "one_token"):
        for end in range(prompt + 1, longest + 1):
            scores = logits_processor(ids[alive, : end - 1], logits.float())
            if generation_config.do_sample:
                uniform = torch.rand(len(copies), dtype=torch.float64, device=ids.device)
                token = draw(scores, uniform[alive])
            else:
                token = scores.argmax(-1)
            ids[alive, end - 1] = token
            ended = stopping_criteria(ids[alive, :end], scores)
            if bool(ended.any()):
                stay = (~ended).nonzero()[:, 0]
                alive, token, position, padding = (
                    alive[stay],
                    token[stay],
                    position[:, stay],
                    padding[stay],
                )
                if not len(alive):
                    return ids[:, :end]
                cache.batch_select_indices(stay)
            position = position + 1
            mask = F.pad(padding, (0, end - prompt), value=True)[:, None, None] if padded else None
            hidden = language(
                inputs_embeds=language.embed_tokens(token[:, None]), position_ids=position,
                attention_mask={"full_attention": mask}, past_key_values=cache, use_cache=True,
            ).last_hidden_state  # fmt: skip
            logits = model.lm_head(hidden[:, -1])
    return ids


def distinct_prompts(
    ids: torch.Tensor,
    attention_mask: torch.Tensor,
    pixels: torch.Tensor,
    grid: torch.Tensor,
    image_start: int,
) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    """(rows that are the first of their kind, for every row the place of its kind among those,
    images of the first ones).

    Rows are equal if their (B, P) ids are where the mask is 1, and their images too; a row has as
    many images as `image_start` tokens.
    """
    counts = (ids == image_start).sum(1)
    if int(counts.sum()) != len(grid):
        raise ValueError(
            f"{len(grid)} images for {int(counts.sum())} places; rollouts take images, and no videos"
        )
    images = iter(distinct_images(pixels, grid)[1].tolist())
    kinds: dict[tuple[tuple[int, ...], ...], int] = {}
    of: list[int] = []
    for row, mask, count in zip(
        ids.tolist(), attention_mask.tolist(), counts.tolist(), strict=True
    ):
        text = tuple(token for token, there in zip(row, mask, strict=True) if there)
        of.append(kinds.setdefault((text, tuple(next(images) for _ in range(count))), len(kinds)))
    first = torch.tensor([of.index(kind) for kind in range(len(kinds))], device=ids.device)
    shown = rows_of(first, counts)
    chosen = {"pixel_values": pixels[rows_of(shown, grid.prod(1))], "image_grid_thw": grid[shown]}
    return first, torch.tensor(of, device=ids.device), chosen


def left_padded(
    prompts: Sequence[Sequence[int]], fields: Mapping[str, Any], pad: int
) -> dict[str, torch.Tensor]:
    """Token lists, and the processor's other fields as trl hands them on, as one batch; lists per
    token are padded with zeros."""
    width = max(len(prompt) for prompt in prompts)

    def rows(lists: Sequence[Sequence[int]], fill: int) -> torch.Tensor:
        return torch.tensor([[fill] * (width - len(row)) + list(row) for row in lists])

    batch = {
        "input_ids": rows(prompts, pad),
        "attention_mask": rows([[1] * len(prompt) for prompt in prompts], 0),
    }
    for name, value in fields.items():
        per_token = isinstance(value, list) and isinstance(value[0], list)
        batch[name] = rows(value, 0) if per_token else torch.as_tensor(np.array(value))
    return batch


def never_sampled(
    tokenizer: PreTrainedTokenizerBase, ends: int | Sequence[int] | None
) -> list[int]:
    """Ids of the special tokens that no answer may hold: all but those that end it, and the
    padding.

    An image's place without an image stops every forward, and what opens a message would look like
    the chat's own structure.
    """
    kept = {tokenizer.pad_token_id, *([ends] if isinstance(ends, int) else ends or [])}
    return [
        i for i, token in tokenizer.added_tokens_decoder.items() if token.special and i not in kept
    ]


@torch.no_grad()
def complete(
    model: Any, batch: Mapping[str, torch.Tensor], config: GenerationConfig
) -> list[list[int]]:
    """The answer to every row of a left-padded batch, as token ids up to and with the one that ends
    it.

    Equal rows (ids and images) are read once; their answers are drawn apart. What `config` leaves
    open, the model's own one says.
    """
    rest = {name: value.to(model.device) for name, value in batch.items()}
    ids, mask, pixels, grid = (
        rest.pop(k) for k in ("input_ids", "attention_mask", "pixel_values", "image_grid_thw")
    )
    first, copies, images = distinct_prompts(
        ids, mask, pixels, grid, model.config.vision_start_token_id
    )
    answers = model.generate(
        input_ids=ids[first], attention_mask=mask[first], **images, **{name: rows[first] for name, rows in rest.items()},
        generation_config=config, custom_generate=decode, copies=copies,
    )[:, ids.shape[1] :]  # fmt: skip
    last = (
        model.generation_config.eos_token_id if config.eos_token_id is None else config.eos_token_id
    )
    ends = torch.isin(answers, torch.as_tensor(last, device=ids.device))
    lengths = torch.where(ends.any(1), ends.int().argmax(1) + 1, answers.shape[1])
    return [
        answer[:length] for answer, length in zip(answers.tolist(), lengths.tolist(), strict=True)
    ]
