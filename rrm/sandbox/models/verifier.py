"""A Qwen2.5-VL of 1.6 million parameters: the real transformers classes, a shrunken config, a small
tokenizer of the same kind.

What it builds is a folder that `AutoProcessor` and `Qwen2_5_VLForConditionalGeneration` load like
any other Qwen2.5-VL checkpoint.
"""

from __future__ import annotations

import numpy as np
import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

from rrm.prompts import CATEGORY_NAMES, judge_text, write_answer, write_principles
from rrm.sandbox.edits import decompose, sample_steps, true_verdicts, write_instruction
from rrm.sandbox.language import think
from rrm.sandbox.reading import read_scene
from rrm.sandbox.scripted_edits import EDITORS, script_edit
from rrm.sandbox.world import ARTEFACTS, BACKGROUNDS, COLOURS, PLACES, SHAPES, draw, sample_scene

SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>",
    "<|video_pad|>",
)  # fmt: skip
"""Qwen2.5-VL's special tokens that its processor and chat template use."""

MAX_PRINCIPLES = 10
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' or 'image' in part or 'image_url' in part %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif 'text' in part %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Qwen2.5-VL's chat template for images and text, without its default system prompt."""

WORDS = Regex(r"[\n ]?\d+(?:\.\d+)?[:.]?| ?[A-Za-z]+[;:,.?]?| ?[^\sA-Za-z\d]+|\s+")


def answer_tokens() -> list[str]:
    """The fixed parts of an answer as single tokens, so that a verdict costs two tokens and a score
    two."""
    heads = [f"{'[' if i == 1 else '}, '}{{\"question\": {i}, \"score\": " if i == 1 else f'}}, {{"question": {i}, "score": '
             for i in range(1, MAX_PRINCIPLES + 1)]  # fmt: skip
    names = [f'", "category": "{name}"}}' for name in CATEGORY_NAMES.values()]
    return [
        *heads,
        '}]\n{"average_score": ',
        "}\n<score>",
        "</score>",
        '[{"question": "',
        ', {"question": "',
        *names,
    ]


def corpus(seed: int, size: int) -> list[str]:
    """Text of every kind that the sandbox's models read and write."""
    rng = np.random.default_rng(seed)
    names = [f"{c} {s}" for c in COLOURS for s in SHAPES]
    lines = ["user\n", "assistant\n", "system\n"] * 3 + [
        f" {n} {n}; {n}? > empty; same; diff; ok bad none blob clean" for n in names
    ]
    lines += [
        f" {word} {word}. {word}; {word}?"
        for word in (*ARTEFACTS, *PLACES, *BACKGROUNDS, "clean", "none")
    ]
    lines += [f"\n{i}: {i}. {i}" for i in range(11)] + [f"{i / 2:.1f}" for i in range(21)] * 3
    for _ in range(size):
        scene = sample_scene(rng)
        steps = sample_steps(rng, scene)
        before, principles = read_scene(draw(scene)), decompose(steps)
        after = read_scene(script_edit(rng, scene, steps, str(rng.choice(EDITORS))))
        verdicts = true_verdicts(before, after, steps)
        instruction = write_instruction(steps)
        lines.append(judge_text("brief", instruction, principles))
        lines.append(
            think(before, after, steps, principles, verdicts) + "\n" + write_answer(verdicts, 5.0)
        )
        lines += [
            f"decompose: {instruction}",
            write_principles(principles),
            f"caption: {instruction}",
        ]
    lines += [f"compare: find {n} find {p} find {n} > {n}" for n in names for p in PLACES]
    return (
        lines + [f"{v}" for n in range(1, 7) for v in {round(k / n, 2) for k in range(n + 1)}] * 3
    )


def build_tokenizer(seed: int = 0) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with Qwen's special tokens in which every sandbox word is one
    token; any other text falls to bytes."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(WORDS, "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1024,
        min_frequency=2,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    text = list(corpus(seed, 400))
    for token in answer_tokens():
        text = [part for line in text for part in line.split(token)]
    tokenizer.train_from_iterator(text, trainer)
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in answer_tokens()])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", unk_token=None, bos_token=None,
        additional_special_tokens=[t for t in SPECIAL if t not in ("<|im_end|>", "<|endoftext|>")],
    )  # fmt: skip
    fast.chat_template = CHAT_TEMPLATE
    return fast


def build_processor(seed: int = 0) -> Qwen2_5_VLProcessor:
    """The tokenizer with Qwen2.5-VL's own image processor at its own smallest pixel budget (56×56)."""
    pixels = {"shortest_edge": 56 * 56, "longest_edge": 112 * 112}
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(size=pixels),
        tokenizer=build_tokenizer(seed),
        video_processor=Qwen2VLVideoProcessor(size=pixels),
        chat_template=CHAT_TEMPLATE,
    )


def build_model(
    processor: Qwen2_5_VLProcessor, seed: int = 0, hidden: int = 128, layers: int = 4
) -> Qwen2_5_VLForConditionalGeneration:
    """A randomly initialised tiny Qwen2.5-VL for this processor; head_dim is 32, the least that
    vLLM serves."""
    token = processor.tokenizer.convert_tokens_to_ids
    config = Qwen2_5_VLConfig(
        text_config={
            "hidden_size": hidden, "intermediate_size": 3 * hidden, "num_hidden_layers": layers,
            "num_attention_heads": hidden // 32, "num_key_value_heads": max(1, hidden // 64), "vocab_size": len(processor.tokenizer),
            "max_position_embeddings": 2048, "tie_word_embeddings": True, "initializer_range": 0.06,
            "rope_parameters": {"rope_type": "default", "mrope_section": [4, 6, 6], "rope_theta": 10000.0},
            "bos_token_id": None, "eos_token_id": token("<|im_end|>"), "pad_token_id": token("<|endoftext|>"),
        },
        vision_config={
            "depth": 2, "hidden_size": hidden, "intermediate_size": 3 * hidden, "num_heads": hidden // 32, "patch_size": 14,
            "spatial_merge_size": 2, "temporal_patch_size": 2, "out_hidden_size": hidden, "fullatt_block_indexes": [0, 1],
            "window_size": 112, "initializer_range": 0.06,
        },
        image_token_id=token("<|image_pad|>"), video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"), vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=True, initializer_range=0.06,
    )  # fmt: skip
    torch.manual_seed(seed)
    model = Qwen2_5_VLForConditionalGeneration(config)
    model.generation_config.eos_token_id = [token("<|im_end|>"), token("<|endoftext|>")]
    model.generation_config.pad_token_id = token("<|endoftext|>")
    return model
