"""A small model's shape and what a config asks of it, for tests of the doctor."""

from __future__ import annotations

from rrm.doctor.memory import Plan, Shape
from rrm.verifier.config import SFTStage
from rrm.verifier.gcpo.config import GCPOStage

SMALL = Shape(
    hidden=8, layers=2, heads=4, kv_heads=2, intermediate=16, vocab=100, tied=False, context=64,
    vision_hidden=4, vision_layers=1, vision_heads=2, vision_intermediate=6,
)  # fmt: skip

PLAN = Plan(
    processes=4, weight_bytes=2, micro=1, prompt=20, image=8, answer=10, deepspeed=True, zero=2
)

SFT = {
    "data": "d",
    "base": "b/c",
    "out": "o",
    "steps": 10,
    "learning_rate": 1e-5,
    "batch": 2,
    "accumulate": 4,
}

GCPO = {
    "data": "d",
    "base": "b/c",
    "out": "o",
    "steps": 10,
    "learning_rate": 1e-5,
    "pairs_per_step": 12,
    "traces_per_image": 8,
    "micro_batch": 4,
}


def sft(**more: object) -> SFTStage:
    return SFTStage.checked({**SFT, **more}, "test")


def gcpo(**more: object) -> GCPOStage:
    return GCPOStage.checked({**GCPO, **more}, "test")
