"""What editor RL needs of an editor: a velocity to train, latents from images and back, and a
folder to save to."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn


class Policy(nn.Module, ABC):
    """An editor of B images as a rectified flow over N tokens of C channels; its parameters are
    what is trained."""

    @abstractmethod
    def encode(self, images: Sequence[Image.Image]) -> Tensor:
        """The images as tokens, (B, N, C)."""

    @abstractmethod
    def decode(self, tokens: Tensor) -> list[Image.Image]:
        """The images that tokens (B, N, C) stand for."""

    @abstractmethod
    def text_ids(self, instructions: Sequence[str]) -> Tensor:
        """The instructions as the model reads them, (B, L). Raises InputError for one that is too
        long."""

    @abstractmethod
    def velocity(self, x_t: Tensor, t: Tensor, source: Tensor, text_ids: Tensor) -> Tensor:
        """v (B, N, C) at x_t (B, N, C) and t (B,) in 0…1, given source tokens and text_ids."""

    @abstractmethod
    def sample(self, source: Tensor, text_ids: Tensor, rng: torch.Generator, steps: int) -> Tensor:
        """Edited tokens (B, N, C) by `steps` Euler steps from noise drawn from `rng`, without
        gradients."""

    @abstractmethod
    def save(self, folder: str | Path) -> None:
        """Writes what `LoadPolicy` reads."""

    def edit(
        self, images: Sequence[Image.Image], instructions: Sequence[str], seed: int, steps: int
    ) -> list[Image.Image]:
        """The edited images, the same for the same seed and batch."""
        rng = torch.Generator().manual_seed(seed)
        return self.decode(
            self.sample(self.encode(images), self.text_ids(instructions), rng, steps)
        )


LoadPolicy = Callable[[Path], Policy]
"""Opens the policy saved in a folder. Raises InputError where there is none."""
