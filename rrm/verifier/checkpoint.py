"""Loading and saving verifier checkpoints: plain transformers folders with a `rrm.json` that says how they are asked."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import torch
from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

from rrm.errors import InputError
from rrm.images import MAX_PIXELS
from rrm.prompts import Style
from rrm.stage import write_json
from rrm.verifier.vision import batch_vision_attention

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
    """The prompt style that the checkpoint was trained with; a stock Qwen2.5-VL is asked in full."""
    card = Path(path) / CARD
    return json.loads(card.read_text())["style"] if card.is_file() else "full"


def load(path: str | Path, dtype: str = "auto") -> tuple[Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor]:
    """Model and processor of a local checkpoint folder or, where no such folder exists and it looks like one, of a hub id.

    Raises InputError where the folder is no Qwen2.5-VL checkpoint or its files are damaged.
    """
    source = str(path)
    if Path(path).exists() or source.count("/") != 1 or source.startswith((".", "runs/")):
        source = str(check_checkpoint(path))
    torch_dtype = dtype if dtype == "auto" else getattr(torch, dtype)
    try:
        model = Qwen2_5_VLForConditionalGeneration.from_pretrained(source, dtype=torch_dtype)
        processor = AutoProcessor.from_pretrained(source)
    except Exception as error:  # transformers raises many kinds for a damaged or unreachable checkpoint
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"{path} could not be loaded as a Qwen2.5-VL checkpoint: {reason}") from error
    processor.tokenizer.padding_side = "left"  # trl takes a right-padded prompt for a left-padded one without a word
    size = processor.image_processor.size
    size.longest_edge = min(size.longest_edge, MAX_PIXELS)  # the data was made with this budget
    batch_vision_attention(model)
    return model, processor


def save(
    model: Qwen2_5_VLForConditionalGeneration,
    processor: Qwen2_5_VLProcessor,
    folder: Path,
    style: Style,
    made_by: dict[str, object],
) -> None:
    """Writes the checkpoint with its card: prompt style, what made it, versions."""
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    versions = {name: version(name) for name in ("torch", "transformers", "trl")}
    write_json(folder / CARD, {"style": style, "made_by": made_by, "versions": versions})
