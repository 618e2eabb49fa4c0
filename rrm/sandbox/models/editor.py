"""A tiny FLUX-Kontext: the same transformer class, 16×16 pixels instead of latents, a word table
instead of T5.

The source image enters as Kontext does it (arXiv 2506.15742): its tokens follow the target's, and
their position ids carry 1 in the first coordinate.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from rrm.editor.flow import sample_ode, time_schedule
from rrm.editor.policy import Policy
from rrm.errors import InputError
from rrm.sandbox.world import BACKGROUNDS, COLOURS, SHAPES, SIDE

PATCH = 4
GRID = SIDE // PATCH
TOKENS, CHANNELS = GRID * GRID, 3 * PATCH * PATCH
LENGTH, WIDTH = 10, 96
SPACING = 3.0
FILLERS = frozenset({"the", "a", "and", "at", "into", "to"})
WORDS = (
    *(
        "<pad>",
        "<unk>",
        "make",
        "turn",
        "remove",
        "add",
        "background",
        "top",
        "bottom",
        "left",
        "right",
    ),
    *(*COLOURS, *SHAPES, *BACKGROUNDS),
)
PAD, UNKNOWN = 0, 1
KIND = "tiny-kontext"


def tokens_of(images: Sequence[Image.Image]) -> Tensor:
    """(B, TOKENS, CHANNELS) in [−1, 1]; an image of another size is scaled to SIDE×SIDE first."""
    sized = [
        i if i.size == (SIDE, SIDE) else i.resize((SIDE, SIDE), Image.Resampling.BOX)
        for i in images
    ]
    pixels = torch.from_numpy(np.stack([np.asarray(image.convert("RGB")) for image in sized]))
    planes = pixels.permute(0, 3, 1, 2).float() / 127.5 - 1
    return F.pixel_unshuffle(planes, PATCH).flatten(2).transpose(1, 2).contiguous()


def images_of(tokens: Tensor) -> list[Image.Image]:
    """The RGB images that (B, TOKENS, CHANNELS) stand for, clipped to what a pixel can hold."""
    planes = F.pixel_shuffle(tokens.transpose(1, 2).unflatten(2, (GRID, GRID)), PATCH)
    pixels = ((planes.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1)
    return [Image.fromarray(one.numpy()) for one in pixels.cpu()]


def position_ids(first: int) -> Tensor:
    """(TOKENS, 3): which image, row, column, in units of SPACING.

    RoPE's wavelengths are made for a grid of 64 and more; spread out, the four rows and columns are
    told apart sooner.
    """
    row, column = torch.meshgrid(torch.arange(GRID), torch.arange(GRID), indexing="ij")
    return (
        torch.stack([torch.full((TOKENS,), first), row.flatten(), column.flatten()], dim=1).float()
        * SPACING
    )


class TinyKontext(Policy):
    """An editor of 16×16 images: velocity of the rectified flow from noise to the edited image."""

    def __init__(self, words: Sequence[str] = WORDS):
        super().__init__()
        self.words = tuple(words)
        self.numbers = {word: index for index, word in enumerate(self.words)}
        self.transformer = FluxTransformer2DModel(
            patch_size=1,
            in_channels=CHANNELS,
            num_layers=2,
            num_single_layers=2,
            attention_head_dim=32,
            num_attention_heads=3,
            joint_attention_dim=WIDTH,
            pooled_projection_dim=WIDTH,
            guidance_embeds=False,
            axes_dims_rope=(8, 12, 12),
        )
        self.word_table = nn.Embedding(len(self.words), WIDTH)
        # Flux gives every text token the same position, so the order of the words has to be learned
        # here.
        self.order_table = nn.Embedding(LENGTH, WIDTH)
        self.register_buffer(
            "image_ids", torch.cat([position_ids(0), position_ids(1)]), persistent=False
        )

    def text_ids(self, instructions: Sequence[str]) -> Tensor:
        """(B, LENGTH) word numbers. Raises InputError for an instruction of more than LENGTH words:
        none is cut in silence."""
        rows = []
        for instruction in instructions:
            words = [
                word for word in re.findall(r"[a-z]+", instruction.lower()) if word not in FILLERS
            ]
            if len(words) > LENGTH:
                raise InputError(
                    f"The tiny editor reads at most {LENGTH} content words; shorten '{instruction[:80]}'."
                )
            rows.append(
                [self.numbers.get(word, UNKNOWN) for word in words] + [PAD] * (LENGTH - len(words))
            )
        return torch.tensor(rows, dtype=torch.long)

    def velocity(self, x_t: Tensor, t: Tensor, source: Tensor, text_ids: Tensor) -> Tensor:
        """v (B, TOKENS, CHANNELS) at x_t (same shape) and t (B,) in 0…1, given source tokens and
        text_ids (B, LENGTH)."""
        words = self.word_table(text_ids)
        written = (text_ids != PAD).unsqueeze(-1).to(words.dtype)
        pooled = (words * written).sum(1) / written.sum(1).clamp(min=1)
        (v,) = self.transformer(
            hidden_states=torch.cat([x_t, source], dim=1),
            encoder_hidden_states=words + self.order_table.weight,
            pooled_projections=pooled,
            timestep=t,
            img_ids=self.image_ids,
            txt_ids=x_t.new_zeros(LENGTH, 3),
            return_dict=False,
        )
        return v[:, : x_t.shape[1]]

    @torch.no_grad()
    def sample(self, source: Tensor, text_ids: Tensor, rng: torch.Generator, steps: int) -> Tensor:
        """Edited tokens (B, TOKENS, CHANNELS) by `steps` Euler steps from noise drawn from `rng`."""
        noise = torch.randn(source.shape, generator=rng)
        return sample_ode(
            lambda x, t: self.velocity(x, t, source, text_ids), noise, time_schedule(steps)
        )

    def encode(self, images: Sequence[Image.Image]) -> Tensor:
        """`tokens_of` the images."""
        return tokens_of(images)

    def decode(self, tokens: Tensor) -> list[Image.Image]:
        """`images_of` the tokens."""
        return images_of(tokens)

    def save(self, folder: str | Path) -> None:
        """Writes config.json and model.safetensors."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(
            json.dumps({"kind": KIND, "words": self.words}, indent=1) + "\n"
        )
        save_file(
            {name: value.contiguous() for name, value in self.state_dict().items()},
            folder / "model.safetensors",
        )

    @classmethod
    def load(cls, folder: str | Path) -> TinyKontext:
        """The editor saved in `folder`, in eval mode. Raises InputError where the folder holds no
        such editor."""
        folder = Path(folder)
        try:
            config = json.loads((folder / "config.json").read_text())
            if config["kind"] != KIND:
                raise ValueError(f"its kind is {config['kind']!r}")
            model = cls(config["words"])
            model.load_state_dict(load_file(folder / "model.safetensors"))
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            why = " ".join(str(error).split())[:160]
            raise InputError(
                f"{folder} holds no tiny editor ({type(error).__name__}: {why}); name a folder "
                "with the config.json and model.safetensors that `rrm base editor` or `rrm edit` wrote."
            ) from error
        return model.eval()
