"""trl's GRPOTrainer without vLLM's libraries, which it loads wherever they are installed, though
most runs never ask a vLLM server.

They take nearly as long to load as all the rest that a training needs; here they load when the
trainer makes its client of a server.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

CLIENT = "trl.generation.vllm_generation"


def generation(*args: Any, **kwargs: Any) -> Any:
    """trl's client of a vLLM server, with the libraries it needs."""
    from trl.generation.vllm_generation import VLLMGeneration

    return VLLMGeneration(*args, **kwargs)


if CLIENT not in sys.modules:
    stand_in = ModuleType(CLIENT)
    stand_in.VLLMGeneration = generation  # type: ignore[attr-defined]
    sys.modules[CLIENT] = stand_in
    try:
        from trl import GRPOConfig, GRPOTrainer
    finally:
        del sys.modules[CLIENT]
else:
    from trl import GRPOConfig, GRPOTrainer

__all__ = ["GRPOConfig", "GRPOTrainer"]
