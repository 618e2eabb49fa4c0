"""The RRM at work: one reward model for the command line, the benchmark and the editor loop, in
this process or on servers."""

from rrm.reward.spec import open_reward

__all__ = ["open_reward"]
