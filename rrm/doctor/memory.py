"""How much memory a training needs on every GPU, worked out from the model's shape and the config
before anything is loaded.

Symbols: P all parameters, T those that are trained, n processes, s bytes of a weight (2 in
bfloat16), B sequences of a forward, S tokens of a sequence (prompt with its image tokens, and
answer), V vocabulary, h hidden size, i width of the MLP, d size of an attention head.

What autograd keeps is read off transformers' modeling_qwen2_5_vl.py (5.17) operation by operation;
where trl's and DeepSpeed's buffers come from is said at each function. The estimate is of live
tensors plus a flat allowance for CUDA; tests compare it with measured peaks.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

GIB = 1 << 30
HEAD_ROWS, HEAD_COLUMNS = 4096, 32768
"""The tile of logits that trl's fused output head (trl.kernels.chunked_logprob) works on; whole
logits are never made in training."""

LEAST_ANSWER = 256
"""No answer with a thought is shorter: max_tokens is not suggested below this."""

FRAMEWORK = 1.5 * GIB
"""CUDA context, cuBLAS and NCCL workspaces of a process: an allowance, not a formula."""

FRAGMENTATION = 0.05
"""Share of the tensors' bytes that PyTorch's caching allocator holds beyond them: an allowance, not
a formula."""


@dataclass(frozen=True)
class Shape:
    """What of a Qwen2.5-VL's config decides its size."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    vocab: int
    tied: bool
    context: int
    vision_hidden: int
    vision_layers: int
    vision_heads: int
    vision_intermediate: int
    patch: int = 14
    temporal: int = 2
    merge: int = 2

    @classmethod
    def of_config(cls, config: dict[str, Any]) -> Shape:
        """The shape in a checkpoint's config.json, in transformers 5's nested form or the hub's
        older flat one."""
        text, vision = config.get("text_config") or config, config["vision_config"]
        return cls(
            hidden=text["hidden_size"], layers=text["num_hidden_layers"], heads=text["num_attention_heads"],
            kv_heads=text["num_key_value_heads"], intermediate=text["intermediate_size"], vocab=text["vocab_size"],
            tied=bool(config.get("tie_word_embeddings", text.get("tie_word_embeddings", False))),
            context=text["max_position_embeddings"], vision_hidden=vision["hidden_size"], vision_layers=vision["depth"],
            vision_heads=vision["num_heads"], vision_intermediate=vision["intermediate_size"],
            patch=vision.get("patch_size", 14), temporal=vision.get("temporal_patch_size", 2),
            merge=vision.get("spatial_merge_size", 2),
        )  # fmt: skip

    @property
    def head_size(self) -> int:
        """d."""
        return self.hidden // self.heads

    @property
    def patches_per_token(self) -> int:
        """Patches of the vision tower that become one image token of the language model."""
        return self.merge**2


KNOWN = {
    "Qwen/Qwen2.5-VL-3B-Instruct": Shape(
        hidden=2048, layers=36, heads=16, kv_heads=2, intermediate=11008, vocab=151936, tied=True, context=128000,
        vision_hidden=1280, vision_layers=32, vision_heads=16, vision_intermediate=3420,
    ),
    "Qwen/Qwen2.5-VL-7B-Instruct": Shape(
        hidden=3584, layers=28, heads=28, kv_heads=4, intermediate=18944, vocab=152064, tied=False, context=128000,
        vision_hidden=1280, vision_layers=32, vision_heads=16, vision_intermediate=3420,
    ),
}  # fmt: skip
"""Shapes of the published checkpoints, from their config.json."""


def shape_of(base: str) -> Shape | None:
    """The shape of a checkpoint folder or of a known hub id; None where neither says it."""
    path = Path(base) / "config.json"
    if path.is_file():
        return Shape.of_config(json.loads(path.read_text()))
    return KNOWN.get(base)


def text_layer_parameters(shape: Shape) -> int:
    """q, k, v with bias, o without, a gated MLP of three matrices, two norms."""
    kv = shape.kv_heads * shape.head_size
    attention = 2 * shape.hidden**2 + shape.hidden + 2 * (shape.hidden * kv + kv)
    return attention + 3 * shape.hidden * shape.intermediate + 2 * shape.hidden


def vision_parameters(shape: Shape) -> int:
    """Patch embedding, blocks (qkv and proj with bias, a gated MLP with bias, two norms), and the
    merger's norm and two matrices."""
    v, i = shape.vision_hidden, shape.vision_intermediate
    block = 3 * v * v + 3 * v + v * v + v + 3 * v * i + 2 * i + v + 2 * v
    wide = shape.patches_per_token * v
    merger = v + wide * wide + wide + wide * shape.hidden + shape.hidden
    return 3 * shape.temporal * shape.patch**2 * v + shape.vision_layers * block + merger


def head_parameters(shape: Shape) -> int:
    """V·h: the output head, which is the embedding too where they are tied."""
    return shape.vocab * shape.hidden


def parameters(shape: Shape) -> int:
    """P."""
    embeddings = head_parameters(shape) * (1 if shape.tied else 2)
    return (
        embeddings
        + shape.layers * text_layer_parameters(shape)
        + shape.hidden
        + vision_parameters(shape)
    )


def lora_parameters(shape: Shape, rank: int) -> int:
    """r·(in + out) for every linear layer of the language model's blocks
    (rrm.verifier.training.lora)."""
    h, i, kv = shape.hidden, shape.intermediate, shape.kv_heads * shape.head_size
    return shape.layers * rank * (2 * (h + h) + 2 * (h + kv) + 3 * (h + i))


@dataclass(frozen=True)
class Plan:
    """What a config asks of every process. Frozen, so that a suggestion is the plan with one thing
    replaced."""

    processes: int
    weight_bytes: int
    """s: 2 in bfloat16, 4 in float32."""
    micro: int
    """B, sequences of a forward with gradients."""
    prompt: int
    """Tokens of the longest prompt, image tokens among them."""
    image: int
    """Image tokens of a prompt, its images together."""
    answer: int
    """Tokens of the longest answer."""
    deepspeed: bool = False
    zero: int = 0
    """ZeRO stage: 0, 1, 2 or 3."""
    bucket: int = 500_000_000
    """DeepSpeed's reduce_bucket_size, in elements."""
    live: int = 1_000_000_000
    """DeepSpeed's stage3_max_live_parameters."""
    overlap: bool = True
    lora: int = 0
    checkpointing: bool = False
    rollouts: int = 0
    """Sequences that this process generates at once; 0 where it generates none."""
    server: bool = False
    """Whether a vLLM server of its own generates instead."""
    traces: int = 1
    """Neighbouring sequences with one and the same prompt, whose images are encoded once
    (rrm.verifier.fast.vision)."""
    reference: bool = False
    """Whether a second, frozen model is held for the KL term."""
    cuda: bool = True

    @property
    def length(self) -> int:
        """S."""
        return self.prompt + self.answer

    def seen(self, sequences: int) -> int:
        """Sequences whose images are encoded, of so many."""
        return -(-sequences // self.traces)

    @property
    def padded(self) -> bool:
        """Whether attention gets a mask: a batch of unequal lengths does, and then loses flash
        attention and grouped keys."""
        return self.micro > 1


@dataclass(frozen=True)
class Estimate:
    """Bytes per GPU: what stays, and what comes on top in each phase. The peak is what stays and
    the largest phase."""

    resident: dict[str, float]
    phases: dict[str, dict[str, float]]

    @property
    def worst(self) -> str:
        """The phase that needs most."""
        return max(self.phases, key=lambda name: sum(self.phases[name].values()))

    @property
    def tensors(self) -> float:
        """The peak of live tensors."""
        return sum(self.resident.values()) + sum(self.phases[self.worst].values())

    @property
    def total(self) -> float:
        """The peak with the allowance for CUDA and fragmentation."""
        return self.tensors * (1 + FRAGMENTATION) + FRAMEWORK


def trained_parameters(shape: Shape, plan: Plan) -> int:
    """T."""
    return lora_parameters(shape, plan.lora) if plan.lora else parameters(shape)


def weights(shape: Shape, plan: Plan) -> float:
    """s·P, over the processes at ZeRO 3 (arXiv 1910.02054, §5); LoRA's adapters on top, in float32
    without DeepSpeed (peft's default)."""
    whole = float(plan.weight_bytes * parameters(shape))
    if plan.lora:
        whole += (plan.weight_bytes if plan.deepspeed else 4) * lora_parameters(shape, plan.lora)
    return whole / (plan.processes if plan.zero == 3 else 1)


def gradients(shape: Shape, plan: Plan) -> float:
    """s·T, over the processes from ZeRO 2 on; doubled by DDP's buckets where several processes
    train without DeepSpeed."""
    size = 4 if plan.lora and not plan.deepspeed else plan.weight_bytes
    whole = size * trained_parameters(shape, plan)
    if not plan.deepspeed:
        return whole * (2 if plan.processes > 1 else 1)
    return whole / (plan.processes if plan.zero >= 2 else 1)


def optimiser(shape: Shape, plan: Plan) -> float:
    """AdamW's two moments. DeepSpeed keeps them and a master copy of the weights in float32: 12·T
    over the processes from ZeRO 1 on.

    Without DeepSpeed they have the weights' own type and there is no master copy.
    """
    trained = trained_parameters(shape, plan)
    if plan.deepspeed:
        return 12 * trained / (plan.processes if plan.zero >= 1 else 1)
    return 2 * (4 if plan.lora else plan.weight_bytes) * trained


def zero_buffers(shape: Shape, plan: Plan) -> float:
    """What DeepSpeed holds during a backward.

    ZeRO 1 and 2: `reduce_bucket_size` elements, twice where communication overlaps. ZeRO 3: one
    bucket, and the gathered layers, up to `stage3_max_live_parameters`.
    """
    if not plan.deepspeed or plan.zero == 0 or plan.processes == 1:
        return 0.0
    if plan.zero < 3:
        return plan.weight_bytes * plan.bucket * (2 if plan.overlap else 1)
    return plan.weight_bytes * (plan.bucket + min(plan.live, parameters(shape)))


def block_bytes(hidden: int, intermediate: int, value: float, size: int) -> float:
    """What autograd keeps of one transformer block, in bytes per token.

    Two norms: the input in float32 (4h each), the normed input and the weighted output (s·h each).
    Attention: query and output (s·h each), keys and values (`value` bytes together). The gated MLP:
    gate, its activation, up, and their product (s·i each).
    """
    return 2 * (4 + 2 * size) * hidden + 2 * size * hidden + value + 4 * size * intermediate


def text_block(shape: Shape, plan: Plan) -> float:
    """Bytes that one block of the language model keeps for a micro batch.

    Keys and values are repeated to all heads where attention has a mask (transformers'
    use_gqa_in_sdpa); the mask itself is turned into numbers, S × S for each sequence, in every
    block.
    """
    tokens = plan.micro * plan.length
    kv = shape.hidden if plan.padded else shape.kv_heads * shape.head_size
    mask = plan.weight_bytes * plan.micro * plan.length**2 if plan.padded else 0
    value = 2 * plan.weight_bytes * kv
    return tokens * block_bytes(shape.hidden, shape.intermediate, value, plan.weight_bytes) + mask


def vision_block(shape: Shape, plan: Plan) -> float:
    """Bytes that one block of the vision tower keeps: the value is a view that holds all of qkv
    (3h), and the key is beside it (h)."""
    patches = plan.seen(plan.micro) * plan.image * shape.patches_per_token
    value = 4 * plan.weight_bytes * shape.vision_hidden
    return patches * block_bytes(
        shape.vision_hidden, shape.vision_intermediate, value, plan.weight_bytes
    )


def block_backward(hidden: int, intermediate: int, tokens: float, size: int) -> float:
    """Gradients alive at once in the backward of a block: those of the MLP's product, activation
    and up, and of its input and output."""
    return tokens * size * (3 * intermediate + 2 * hidden)


def head(shape: Shape, plan: Plan) -> float:
    """What trl's fused head needs at its peak, the backward: a tile of logits, float32 gradients of
    hidden states and, where it is trained, of the weight, and that gradient once more in the
    weight's own type.

    On CUDA only the answer's tokens are scored; elsewhere all are, and the tile is worked on in
    about six float32 copies.
    """
    tokens = plan.micro * (plan.answer if plan.cuda else plan.length)
    rows = min(tokens, HEAD_ROWS)
    tile = plan.weight_bytes * rows * HEAD_COLUMNS + (
        0 if plan.cuda else 6 * 4 * rows * min(shape.vocab, HEAD_COLUMNS)
    )
    weight = 0 if plan.lora else (4 + plan.weight_bytes) * head_parameters(shape)
    return tile + (4 + plan.weight_bytes) * tokens * shape.hidden + weight


def pixels(shape: Shape, plan: Plan, sequences: int) -> float:
    """The patches of a number of sequences' images in float32."""
    return (
        4 * 3 * shape.temporal * shape.patch**2 * sequences * plan.image * shape.patches_per_token
    )


def inputs(shape: Shape, plan: Plan) -> float:
    """Pixels (GRPO holds those of all its sequences), the merger's three activations of an image
    token, the embeddings (three copies), the last norm."""
    held = pixels(shape, plan, max(plan.micro, plan.rollouts))
    merger = (
        3
        * plan.weight_bytes
        * shape.patches_per_token
        * shape.vision_hidden
        * plan.seen(plan.micro)
        * plan.image
    )
    return held + merger + plan.micro * plan.length * shape.hidden * (4 + 5 * plan.weight_bytes)


def update(shape: Shape, plan: Plan) -> dict[str, float]:
    """A forward and backward on top of what stays. With checkpointing a block keeps its input (s·h
    a token) and is worked out again, one at a time.

    Under LoRA the vision tower is frozen and outside the graph, unless checkpointing makes its
    inputs require a gradient. A prompt that GCPO reads once for its traces
    (rrm.verifier.fast.shared_prompts, without checkpointing) is counted for each of them: there the
    estimate is an upper bound.
    """
    s, tokens = plan.weight_bytes, plan.micro * plan.length
    patches = plan.seen(plan.micro) * plan.image * shape.patches_per_token
    one_text = text_block(shape, plan)
    text_back = block_backward(shape.hidden, shape.intermediate, tokens, s)
    vision_back = block_backward(shape.vision_hidden, shape.vision_intermediate, patches, s)
    if plan.checkpointing:
        kept_text = float(shape.layers * s * shape.hidden * tokens)
        kept_vision = float(shape.vision_layers * s * shape.vision_hidden * patches)
        at_once = {
            "output head": head(shape, plan),
            "one block of the language model": one_text + text_back,
            "one block of the vision tower": max(
                0.0, vision_block(shape, plan) + vision_back - kept_text
            ),
        }
    else:
        kept_text = shape.layers * one_text
        kept_vision = 0.0 if plan.lora else shape.vision_layers * vision_block(shape, plan)
        at_once = {"output head": head(shape, plan), "one block's gradients": text_back}
    largest = max(at_once, key=lambda name: at_once[name])
    return {
        "activations, language model": kept_text,
        "activations, vision tower": kept_vision,
        "inputs": inputs(shape, plan),
        largest: at_once[largest],
        "ZeRO's buffers": zero_buffers(shape, plan),
    }


def kv_cache(shape: Shape, plan: Plan) -> float:
    """2·layers·kv_heads·d·s bytes for every token of every sequence that is generated at once."""
    return (
        2
        * shape.layers
        * shape.kv_heads
        * shape.head_size
        * plan.weight_bytes
        * plan.rollouts
        * plan.length
    )


def rollout(shape: Shape, plan: Plan) -> dict[str, float]:
    """Generation in the training process, on top of what stays: all of its sequences at once,
    whatever the micro batch is.

    A prompt is read once for all of its traces (rrm.verifier.rollout), but by trl's own way at ZeRO
    3, which also gathers all weights (ds3_gather_for_generation). Reading holds one block's values
    without gradients: the residual, a norm, query, keys and values of all heads, the MLP's three.
    """
    if not plan.rollouts or plan.server:
        return {}
    s, tokens = (
        plan.weight_bytes,
        (plan.rollouts if plan.zero == 3 else plan.seen(plan.rollouts)) * plan.prompt,
    )
    patches = plan.seen(plan.rollouts) * plan.image * shape.patches_per_token
    text = tokens * s * (6 * shape.hidden + 3 * shape.intermediate)
    vision = patches * s * (6 * shape.vision_hidden + 3 * shape.vision_intermediate)
    gathered = (
        plan.weight_bytes * parameters(shape) * (1 - 1 / plan.processes) if plan.zero == 3 else 0.0
    )
    return {
        "KV cache of the rollouts": kv_cache(shape, plan),
        "prefill of the rollouts": max(text, vision) + pixels(shape, plan, plan.rollouts),
        "weights gathered for the rollouts": gathered,
    }


def step(shape: Shape, plan: Plan) -> dict[str, float]:
    """The optimiser's step on top of what stays: DeepSpeed turns this process's gradients into
    float32 first."""
    if not plan.deepspeed:
        return {}
    return {
        "gradients in float32": 4
        * trained_parameters(shape, plan)
        / (plan.processes if plan.zero >= 1 else 1)
    }


def estimate(shape: Shape, plan: Plan) -> Estimate:
    """The peak of every GPU."""
    reference = (
        plan.weight_bytes * parameters(shape) / (plan.processes if plan.zero == 3 else 1)
        if plan.reference
        else 0.0
    )
    resident = {
        "weights": weights(shape, plan),
        "gradients": gradients(shape, plan),
        "optimiser states": optimiser(shape, plan),
        **({"reference model": reference} if reference else {}),
    }
    phases = {
        "update": update(shape, plan),
        "rollout": rollout(shape, plan),
        "optimiser step": step(shape, plan),
    }
    return Estimate(resident, phases)


@dataclass(frozen=True)
class Suggestion:
    """A change of the config and what every GPU would need with it."""

    change: str
    plan: Plan
    estimate: Estimate


def changes(plan: Plan, lora_rank: int = 64) -> list[tuple[str, dict[str, Any]]]:
    """What of a plan can be changed to need less, the cheapest for the result first. Those that are
    made already are left out."""
    found: list[tuple[str, dict[str, Any]]] = []
    if not plan.checkpointing:
        found.append(("gradient_checkpointing: true", {"checkpointing": True}))
    if plan.micro > 1:
        found.append(
            (f"a micro batch of {plan.micro // 2} (accumulate more)", {"micro": plan.micro // 2})
        )
    if plan.rollouts and not plan.server:
        found.append(("vllm_server (on GPUs of its own)", {"server": True}))
    if plan.processes > 1 and plan.zero < 3:
        stage = 3 if plan.zero == 2 else 2
        found.append((f"deepspeed: launch/zero{stage}.json", {"zero": stage, "deepspeed": True}))
    if plan.rollouts and plan.answer >= 2 * LEAST_ANSWER:
        found.append((f"max_tokens: {plan.answer // 2}", {"answer": plan.answer // 2}))
    if not plan.lora:
        found.append((f"lora_rank: {lora_rank}", {"lora": lora_rank}))
    return found


def suggestions(shape: Shape, plan: Plan, limit: float) -> list[Suggestion]:
    """Every change by itself; and, where none of them is enough, the changes on top of one another
    until the total is within the limit."""
    alone = []
    for change, values in changes(plan):
        changed = replace(plan, **values)
        alone.append(Suggestion(change, changed, estimate(shape, changed)))
    if any(suggestion.estimate.total <= limit for suggestion in alone):
        return alone
    told: list[str] = []
    together = plan
    while estimate(shape, together).total > limit and (left := changes(together)):
        change, values = left[0]
        together = replace(together, **values)
        told = (
            [t for t in told if not t.startswith("a micro batch")] + [change]
            if "micro" in values
            else [*told, change]
        )
    return (
        [*alone, Suggestion(", ".join(told), together, estimate(shape, together))]
        if told
        else alone
    )
