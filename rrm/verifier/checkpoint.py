"""Loading and saving verifier checkpoints: plain transformers folders with a `rrm.json` and a model
card that say how they are asked and what made them."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

from rrm.errors import InputError
from rrm.images import MAX_PIXELS
from rrm.prompts import Style
from rrm.runtime.stage import read_note, write_json, write_text
from rrm.verifier.fast.vision import batch_vision_attention
from rrm.verifier.model_card import Origin, model_card

CARD = "rrm.json"


def check_checkpoint(path: str | Path) -> Path:
    """The folder, if it holds a Qwen2.5-VL checkpoint with weights. Raises InputError otherwise."""
    folder = Path(path)
    how = "give the folder of a Qwen2.5-VL checkpoint, such as runs/demo/gcpo/model after `make demo`."
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder} is not a checkpoint (no config.json in it); {how}")
    try:
        kind = json.loads((folder / "config.json").read_text()).get("model_type")
    except (ValueError, AttributeError) as error:
        raise InputError(f"{folder}/config.json is not valid JSON; {how}") from error
    if kind != "qwen2_5_vl":
        raise InputError(f"{folder} is a checkpoint of '{kind}', not of qwen2_5_vl; {how}")
    if not any(folder.glob("*.safetensors")):
        raise InputError(f"{folder} has no weights (*.safetensors); {how}")
    return folder


def style_of(path: str | Path) -> Style:
    """The prompt style that the checkpoint was trained with; a stock Qwen2.5-VL is asked in full.

    Raises InputError where rrm.json is damaged.
    """
    card = Path(path) / CARD
    if not card.is_file():
        return "full"
    try:
        return read_note(card, "style")["style"]
    except ValueError as error:
        raise InputError(f"{error}; take the checkpoint from a copy, or train it again.") from error


def load_processor(source: str) -> Qwen2_5_VLProcessor:
    """The processor of a checkpoint folder or hub id, as training and judging use it."""
    processor = AutoProcessor.from_pretrained(source)
    processor.tokenizer.padding_side = (
        "left"  # trl takes a right-padded prompt for a left-padded one without a word
    )
    size = processor.image_processor.size
    size.longest_edge = min(size.longest_edge, MAX_PIXELS)  # the data was made with this budget
    return processor


def load(
    path: str | Path, dtype: str = "auto", fast: bool = False
) -> tuple[Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor]:
    """Model and processor of a local checkpoint folder or, where no such folder exists and it looks
    like one, of a hub id; `fast` replaces the vision tower's attention by one batched call
    (rrm.verifier.fast.vision).

    Raises InputError where the folder is no Qwen2.5-VL checkpoint or its files are damaged.
    """
    source = str(path)
    if Path(path).exists() or source.count("/") != 1 or source.startswith((".", "runs/")):
        source = str(check_checkpoint(path))
    torch_dtype = dtype if dtype == "auto" else getattr(torch, dtype)
    try:
        loaded = Qwen2_5_VLForConditionalGeneration.from_pretrained(
            source, dtype=torch_dtype, output_loading_info=True
        )
        processor = load_processor(source)
    except (
        Exception
    ) as error:  # transformers raises many kinds for a damaged or unreachable checkpoint
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"{path} could not be loaded as a Qwen2.5-VL checkpoint: {reason}"
        ) from error
    model, info = loaded
    if missing := sorted(
        info["missing_keys"]
    ):  # transformers fills them with random numbers, and only warns
        raise InputError(
            f"{path} lacks {len(missing)} weights of its model, such as {missing[0]}; take a whole copy of it."
        )
    if fast:
        batch_vision_attention(model)
    return model, processor


def packages() -> dict[str, str]:
    """Versions of Python and of the packages that decide what a training gives; those that are not
    installed are left out."""
    found = {"python": platform.python_version()}
    for name in (
        "edit-rrm",
        "torch",
        "transformers",
        "tokenizers",
        "trl",
        "accelerate",
        "peft",
        "deepspeed",
        "datasets",
    ):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def root_of(base: str) -> str:
    """The first base of a line of checkpoints: GCPO's base is the SFT checkpoint, whose base is,
    say, a hub id."""
    card = Path(base) / CARD
    before = json.loads(card.read_text()).get("made_by", {}).get("base") if card.is_file() else None
    return root_of(before) if before else base


def save(
    model: Qwen2_5_VLForConditionalGeneration,
    processor: Qwen2_5_VLProcessor,
    folder: Path,
    style: Style,
    made_by: Origin,
    weights: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """Writes the checkpoint: weights (the model's own, or `weights`), processor, rrm.json and the
    model card README.md."""
    model.config.use_cache = True  # transformers' trainer switches it off
    model.save_pretrained(folder, state_dict=None if weights is None else dict(weights))
    processor.save_pretrained(folder)
    versions = packages()
    write_json(
        folder / CARD,
        {"style": style, "made_by": made_by.model_dump(mode="json"), "versions": versions},
    )
    root = root_of(made_by.base) if made_by.base else None
    write_text(folder / "README.md", model_card(style, made_by, root, versions))
