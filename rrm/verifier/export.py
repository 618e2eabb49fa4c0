"""Any checkpoint of an SFT or GCPO run as a folder that plain transformers loads, adapters merged,
ZeRO shards put together.

    rrm export --checkpoint runs/demo/sft/checkpoints/checkpoint-400 --config configs/sandbox/sft.yaml --out exported

The config is the run's. The folder is what a run leaves as its out/model: weights, processor,
rrm.json and model card. It has been loaded with plain transformers, and not yet with vLLM.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

from rrm.config import read_yaml
from rrm.errors import InputError
from rrm.runtime.checkpoints import check_whole
from rrm.runtime.disk import folder_at_once
from rrm.verifier.checkpoint import load, save, style_of
from rrm.verifier.gcpo.config import GCPOStage
from rrm.verifier.gcpo.pairs import read_pairs
from rrm.verifier.sft import SFTStage, read_rows
from rrm.verifier.training import TrainingStage, merged, origin, read_state


def read_config(path: Path) -> SFTStage | GCPOStage:
    """The config of the run, told apart by 'pairs_per_step', which only GCPO has."""
    return (GCPOStage if "pairs_per_step" in read_yaml(path) else SFTStage).read(path)


def whole(
    checkpoint: Path, config: TrainingStage
) -> tuple[Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor]:
    """The model of a checkpoint, and its processor. Raises InputError where it holds no weights."""
    if (checkpoint / "adapter_config.json").is_file():
        return merged(config.base, checkpoint, config.dtype)
    if any(checkpoint.glob("*.safetensors")):
        return load(checkpoint, config.dtype)
    if (checkpoint / "latest").is_file():
        from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

        model, processor = load(config.base, config.dtype)
        model.load_state_dict(get_fp32_state_dict_from_zero_checkpoint(str(checkpoint)))
        return model, processor
    raise InputError(f"{checkpoint} holds no weights: neither *.safetensors nor shards of ZeRO.")


def export(checkpoint: Path, config: SFTStage | GCPOStage, out: Path) -> None:
    """Writes the checkpoint of this config's run to `out`. Raises InputError where it is incomplete
    or `out` holds something."""
    check_whole(checkpoint)
    if out.exists() and any(out.iterdir()):
        raise InputError(f"{out} holds files already; name an empty folder.")
    rows: dict[str, int]
    if isinstance(config, SFTStage):
        stage, style, rows = (
            "sft",
            config.style,
            Counter(row.kind for row in read_rows(config.data)),
        )
    else:
        stage, style, rows = (
            "gcpo",
            style_of(config.base),
            {"pairs": config.pair_count or len(read_pairs(config.data))},
        )
    model, processor = whole(checkpoint, config)
    processes = len(list(checkpoint.glob("rng_state_*.pth"))) or 1
    with folder_at_once(out) as folder:
        save(
            model,
            processor,
            folder,
            style,
            origin(stage, config, rows, processes, read_state(checkpoint)["log_history"]),
        )
