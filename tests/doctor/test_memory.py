"""The memory estimate: formulas by hand, real models, measured peaks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from peft import get_peft_model

from rrm.doctor import checks, inputs, memory
from rrm.doctor.memory import GIB, KNOWN, Plan, Shape
from rrm.doctor.run import plan_of, read_config, table_of
from rrm.images import ImageStore
from rrm.perf import gpu as bench_gpu
from rrm.records import SFTRow
from rrm.verifier.checkpoint import load_processor
from rrm.verifier.gcpo.config import GCPOStage
from rrm.verifier.training import lora
from tests.support import ROOT
from tests.support.plans import PLAN, SMALL, gcpo, sft


def test_the_parameters_of_a_small_shape_are_those_counted_by_hand():
    # q, o: 8×8 each and q's bias 8; k, v: 8×4 + 4 each; MLP: 3 of 8×16; two norms of 8
    assert memory.text_layer_parameters(SMALL) == 64 + 8 + 64 + 2 * (32 + 4) + 3 * 128 + 16
    # patches 3·2·14·14 → 4; qkv 4×12 + 12, proj 16 + 4, MLP 3·24 + 6 + 6 + 4, two norms; merger:
    # norm 4, 16×16 + 16, 16×8 + 8
    assert (
        memory.vision_parameters(SMALL)
        == 1176 * 4 + (48 + 12 + 16 + 4 + 72 + 16 + 8) + 4 + 272 + 136
    )
    assert memory.parameters(SMALL) == 2 * 800 + 2 * 608 + 8 + memory.vision_parameters(SMALL)
    assert memory.parameters(replace(SMALL, tied=True)) == memory.parameters(SMALL) - 800
    # rank 2: q and o 2·(8 + 8) each, k and v 2·(8 + 4) each, the MLP's three 2·(8 + 16) each, in
    # two layers
    assert memory.lora_parameters(SMALL, 2) == 2 * (2 * 32 + 2 * 24 + 3 * 48)


@pytest.mark.parametrize(("size", "total"), [("3b", 3_754_622_976), ("7b", 8_292_166_656)])
def test_the_published_shapes_have_the_parameters_of_the_real_classes(
    monkeypatch, tmp_path, size, total
):
    made: list = []
    monkeypatch.setattr(bench_gpu, "save", lambda model, *rest: made.append(model))
    bench_gpu.build_base(bench_gpu.SIZES[size], torch.device("meta"), tmp_path)
    model, shape = made[0], bench_gpu.SIZES[size].shape
    assert shape is not None
    assert memory.parameters(shape) == sum(p.numel() for p in model.parameters()) == total
    assert memory.vision_parameters(shape) == sum(
        p.numel() for p in model.model.visual.parameters()
    )
    assert Shape.of_config(model.config.to_dict()) == shape
    with torch.device("meta"):
        adapted = get_peft_model(model, lora(64))
    assert memory.lora_parameters(shape, 64) == sum(
        p.numel() for p in adapted.parameters() if p.requires_grad
    )


def test_a_flat_config_of_the_hub_is_read_like_a_nested_one(tmp_path):
    text = {
        "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 16,
        "vocab_size": 100, "tie_word_embeddings": False, "max_position_embeddings": 64,
    }  # fmt: skip
    vision = {"hidden_size": 4, "depth": 1, "num_heads": 2, "intermediate_size": 6}
    (tmp_path / "config.json").write_text(json.dumps({**text, "vision_config": vision}))
    assert memory.shape_of(str(tmp_path)) == SMALL
    assert Shape.of_config({"text_config": text, "vision_config": vision}) == SMALL
    assert memory.shape_of("nobody/knows") is None


def test_zero_shares_out_what_its_stage_says():
    p = memory.parameters(SMALL)
    resident = {
        stage: memory.estimate(SMALL, replace(PLAN, zero=stage)).resident for stage in (0, 2, 3)
    }
    assert resident[0] == {"weights": 2 * p, "gradients": 2 * p, "optimiser states": 12 * p}
    assert resident[2] == {"weights": 2 * p, "gradients": 2 * p / 4, "optimiser states": 12 * p / 4}
    assert resident[3] == {
        "weights": 2 * p / 4,
        "gradients": 2 * p / 4,
        "optimiser states": 12 * p / 4,
    }
    plain = memory.estimate(
        SMALL, replace(PLAN, deepspeed=False, zero=0, processes=1, weight_bytes=4)
    ).resident
    assert plain == {"weights": 4 * p, "gradients": 4 * p, "optimiser states": 8 * p}
    ddp = memory.estimate(SMALL, replace(PLAN, deepspeed=False, zero=0, weight_bytes=4)).resident
    assert ddp["gradients"] == 8 * p  # and DDP's buckets
    t = memory.lora_parameters(SMALL, 2)
    adapters = memory.estimate(SMALL, replace(PLAN, lora=2)).resident
    assert adapters == {
        "weights": 2 * p + 2 * t,
        "gradients": 2 * t / 4,
        "optimiser states": 12 * t / 4,
    }
    assert (
        memory.estimate(SMALL, replace(PLAN, reference=True)).resident["reference model"] == 2 * p
    )


def test_activations_by_hand_with_and_without_checkpointing():
    # one block, bfloat16, without padding: two norms (4·8 + 2·8 + 2·8 each), query and output (2·8
    # each), key and value of two heads of 2 (2·4 each), MLP 4·2·16
    block = 2 * 64 + 32 + 16 + 128
    assert memory.text_block(SMALL, PLAN) == 30 * block
    # two sequences are padded: keys and values of all heads (2·8 each), and a mask of 30 × 30 each
    assert memory.text_block(SMALL, replace(PLAN, micro=2)) == 60 * (block + 16) + 2 * 2 * 900
    # the vision tower, 8 image tokens of 4 patches: norms 2·(4·4 + 2·4 + 2·4), query and output
    # 2·2·4, key and qkv 4·2·4, MLP 4·2·6
    assert memory.vision_block(SMALL, PLAN) == 32 * (64 + 16 + 32 + 48)
    update = memory.update(SMALL, PLAN)
    assert update["activations, language model"] == 2 * 30 * block
    kept = memory.update(SMALL, replace(PLAN, checkpointing=True))
    assert kept["activations, language model"] == 2 * 30 * 2 * 8
    assert kept["activations, vision tower"] == 32 * 2 * 4
    assert (
        memory.update(SMALL, replace(PLAN, lora=2))["activations, vision tower"] == 0
    )  # frozen, outside the graph


def test_the_head_needs_a_tile_and_gradients_but_no_logits():
    # ten answer tokens: a tile of 10 × 32768 in bfloat16, float32 and bfloat16 gradients of their
    # hidden states and of the weight 100 × 8
    assert memory.head(SMALL, PLAN) == 2 * 10 * 32768 + 6 * 10 * 8 + 6 * 800
    assert memory.head(SMALL, replace(PLAN, lora=2)) == 2 * 10 * 32768 + 6 * 10 * 8
    seven = KNOWN["Qwen/Qwen2.5-VL-7B-Instruct"]
    many = replace(PLAN, micro=8, answer=1536)
    assert (
        memory.head(seven, many) < 4 * 8 * 1536 * seven.vocab
    )  # whole logits in float32, without their gradient


def test_rollouts_need_a_cache_and_at_zero_3_all_weights():
    plan = replace(PLAN, rollouts=8, traces=4, zero=3)
    found = memory.rollout(SMALL, plan)
    assert found["KV cache of the rollouts"] == 2 * 2 * 2 * 2 * 2 * 8 * 30
    assert found["weights gathered for the rollouts"] == 2 * memory.parameters(SMALL) * 3 / 4
    assert memory.rollout(SMALL, replace(plan, server=True)) == {}
    once = memory.rollout(SMALL, replace(plan, zero=2))["prefill of the rollouts"]
    assert once < found["prefill of the rollouts"]  # two prompts are read, and not eight


def test_the_vision_tower_sees_the_images_of_a_group_once():
    apart, together = replace(PLAN, micro=4), replace(PLAN, micro=4, traces=4)
    assert memory.vision_block(SMALL, apart) == 4 * memory.vision_block(SMALL, together)


def test_what_does_not_fit_is_told_with_what_each_change_brings():
    seven = KNOWN["Qwen/Qwen2.5-VL-7B-Instruct"]
    plan = Plan(
        processes=8,
        weight_bytes=2,
        micro=8,
        prompt=3700,
        image=2520,
        answer=1536,
        deepspeed=True,
        zero=2,
    )
    limit = 80 * GIB
    assert memory.estimate(seven, plan).total > limit
    told = memory.suggestions(seven, plan, limit)
    assert [s.change for s in told[:4]] == [
        "gradient_checkpointing: true",
        "a micro batch of 4 (accumulate more)",
        "deepspeed: launch/zero3.json",
        "lora_rank: 64",
    ]
    assert (
        told[0].estimate.total
        == memory.estimate(seven, replace(plan, checkpointing=True)).total
        <= limit
    )
    assert len(told) == 4  # one of them is enough by itself
    harder = memory.suggestions(seven, replace(plan, micro=16), 40 * GIB)
    assert harder[-1].change.startswith("gradient_checkpointing: true, a micro batch of ")
    assert harder[-1].estimate.total <= 40 * GIB < min(s.estimate.total for s in harder[:-1])
    hopeless = memory.suggestions(seven, replace(plan, rollouts=8, answer=1024), GIB)[
        -1
    ]  # nothing is enough: all that there is to change
    assert hopeless.change.count("max_tokens") == 2
    assert memory.changes(hopeless.plan) == []
    check, _ = checks.check_memory(seven, plan, 80)
    assert check.status == "fail"
    assert "gradient_checkpointing: true → " in check.says
    assert (
        checks.check_memory(seven, replace(plan, checkpointing=True, zero=3, micro=2), 80)[0].status
        == "ok"
    )


@pytest.mark.parametrize(
    "path",
    sorted((ROOT / "configs").glob("qwen2_5_vl_?b/[sg]*.yaml")),
    ids=lambda p: f"{p.parent.name}-{p.stem}",
)
def test_the_shipped_configs_are_valid_divide_and_fit_into_80_gb_by_the_estimate(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    config = read_config(path)
    base = f"Qwen/Qwen2.5-VL-{path.parent.name[-2:].upper()}-Instruct"
    assert checks.check_bfloat16(config).status == "ok"
    assert "Not run at this size" in path.read_text()
    for gpus in (4, 6, 8, 12, 16) if isinstance(config, GCPOStage) else (8,):
        assert checks.check_batch(config, gpus, 200_000).status == "ok"
    check, _ = checks.check_memory(
        KNOWN[base], plan_of(config, 6 if isinstance(config, GCPOStage) else 8, True, None), 80
    )
    assert check.status == "ok", check.says


MEASURE = """
import gc, json, sys
import numpy as np, torch
from torch.profiler import ProfilerActivity, profile
from pathlib import Path
from rrm.doctor.run import read_config
from rrm.verifier import sft
from rrm.verifier.gcpo import train as gcpo
from rrm.perf.verifier import Drawn
torch.set_num_threads(1)
found = []
for path in sys.argv[1:]:
    config = read_config(Path(path))
    gc.collect()  # what the run before left would be counted as freed in this one
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        if isinstance(config, sft.SFTStage):
            sft.train(config, config.out)
        else:
            gcpo.train(config, config.out, Drawn)
    events = [(e.start_ns(), e.nbytes()) for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]
    found.append(int(np.cumsum([size for _, size in sorted(events)]).max()))
print(json.dumps(found))
"""


@pytest.mark.slow
def test_the_estimate_is_within_a_quarter_of_the_measured_peak(tmp_path, training_data):
    """Every allocation of real steps is counted: of SFT with and without checkpointing, of GCPO
    with it (else the estimate is a bound)."""
    from rrm.sandbox.models.verifier import build_model, build_processor
    from rrm.verifier.checkpoint import save
    from rrm.verifier.model_card import Origin

    processor = build_processor()
    model = build_model(processor, hidden=512, layers=6)
    save(model, processor, tmp_path / "base", "brief", Origin(stage="test"))
    (tmp_path / "data").mkdir()
    (tmp_path / "data/images").symlink_to(training_data / "images")
    rows = [
        row
        for row in pq.read_table(training_data / "sft.parquet").to_pylist()
        if row["kind"] == "judge"
    ][:4]
    target = " ".join(["red circle"] * 50)
    pq.write_table(
        pa.Table.from_pylist(
            [{**row, "target": f"{target}{' blue' * i}"} for i, row in enumerate(rows)]
        ),
        tmp_path / "data/sft.parquet",
    )
    paths, plans = [], []
    for checkpointing in (False, True):
        stage = sft(
            data=tmp_path / "data", base=str(tmp_path / "base"), out=tmp_path / f"out{checkpointing}", steps=2, batch=2, accumulate=2,
            style="brief", gradient_checkpointing=checkpointing,
        )  # fmt: skip
        paths.append(tmp_path / f"{checkpointing}.yaml")
        paths[-1].write_text(yaml.safe_dump(stage.model_dump(mode="json")))
        drawn = [SFTRow(**row) for row in pq.read_table(tmp_path / "data/sft.parquet").to_pylist()]
        lengths = inputs.measure(
            drawn,
            "brief",
            ImageStore(training_data / "images"),
            load_processor(str(tmp_path / "base")),
        )
        assert lengths.answers is not None
        plans.append(plan_of(stage, 1, False, lengths, max(lengths.answers)))
    judging = gcpo(
        data=training_data, base=str(tmp_path / "base"), out=tmp_path / "gcpo", steps=2, pairs_per_step=2, traces_per_image=4, micro_batch=4, max_tokens=100,
        gradient_checkpointing=True,
    )  # fmt: skip
    paths.append(tmp_path / "gcpo.yaml")
    paths[-1].write_text(yaml.safe_dump(judging.model_dump(mode="json")))
    _, _, asked = inputs.check_rows(judging, 12)
    prompts = inputs.measure(
        asked, "brief", ImageStore(training_data / "images"), load_processor(str(tmp_path / "base"))
    )
    plans.append(plan_of(judging, 1, False, prompts))
    shape = memory.shape_of(str(tmp_path / "base"))
    assert shape is not None
    assert memory.parameters(shape) == sum(p.numel() for p in model.parameters())
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *map(str, paths)], capture_output=True, text=True, check=False, cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout.splitlines()[-1])
    for peak, plan in zip(measured, plans, strict=True):
        assert memory.estimate(shape, plan).tensors == pytest.approx(peak, rel=0.25)
    assert measured[0] > 1.1 * measured[1]  # so that the two cases are told apart


def test_the_table_adds_up():
    found = memory.estimate(SMALL, replace(PLAN, rollouts=8))
    lines = table_of(found, 80)
    assert lines[-1].split()[-3:] == [f"{found.total / GIB:.2f}", "of", "80"]
    assert sum("(the peak)" in line for line in lines) == 1
    assert found.total == pytest.approx(found.tensors * 1.05 + 1.5 * GIB)
