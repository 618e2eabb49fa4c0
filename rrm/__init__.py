"""edit-rrm: reasoning reward models for instruction-based image editing.

    from rrm import RewardModel

    with RewardModel.from_server("http://127.0.0.1:8000/v1") as model:
        judgement = model.judge("before.png", "after.png", "make the mug red")

Names load when they are used: importing this package loads neither torch nor a client of servers.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from rrm.errors import InputError
    from rrm.records import EditToJudge, Failure, Judgement, Principle
    from rrm.reward.model import RewardModel, Sampling
    from rrm.reward.spec import open_reward

_MODULES = {
    "InputError": "rrm.errors", "EditToJudge": "rrm.records", "Failure": "rrm.records", "Judgement": "rrm.records",
    "Principle": "rrm.records", "RewardModel": "rrm.reward.model", "Sampling": "rrm.reward.model", "open_reward": "rrm.reward.spec",
}  # fmt: skip

__all__ = [
    "EditToJudge",
    "Failure",
    "InputError",
    "Judgement",
    "Principle",
    "RewardModel",
    "Sampling",
    "open_reward",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'rrm' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
