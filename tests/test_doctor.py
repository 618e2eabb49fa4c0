"""`rrm doctor`: the memory estimate against formulas by hand, real models and measured peaks; every check; the bench that shares its formulas."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from packaging.requirements import Requirement
from peft import get_peft_model
from PIL import Image
from processes import forked
from transformers import Qwen2VLImageProcessor

from rrm.cli import build_parser, examine
from rrm.doctor import checks, inputs, machine, memory
from rrm.doctor.checks import Check
from rrm.doctor.inputs import Lengths
from rrm.doctor.machine import Gpu
from rrm.doctor.memory import GIB, KNOWN, Plan, Shape
from rrm.doctor.run import plan_of, read_config, table_of
from rrm.errors import InputError
from rrm.images import MAX_PIXELS, ImageStore
from rrm.records import SFTRow
from rrm.stage import command
from rrm.verifier import bench_gpu
from rrm.verifier.checkpoint import load_processor
from rrm.verifier.gcpo import GCPOStage
from rrm.verifier.sft import SFTStage
from rrm.verifier.training import lora

ROOT = Path(__file__).parent.parent
SMALL = Shape(
    hidden=8, layers=2, heads=4, kv_heads=2, intermediate=16, vocab=100, tied=False, context=64,
    vision_hidden=4, vision_layers=1, vision_heads=2, vision_intermediate=6,
)  # fmt: skip
PLAN = Plan(processes=4, weight_bytes=2, micro=1, prompt=20, image=8, answer=10, deepspeed=True, zero=2)
SFT = {"data": "d", "base": "b/c", "out": "o", "steps": 10, "learning_rate": 1e-5, "batch": 2, "accumulate": 4}
GCPO = {"data": "d", "base": "b/c", "out": "o", "steps": 10, "learning_rate": 1e-5, "pairs": 12, "traces": 8, "micro_batch": 4}


def sft(**more: object) -> SFTStage:
    return SFTStage.checked({**SFT, **more}, "test")


def gcpo(**more: object) -> GCPOStage:
    return GCPOStage.checked({**GCPO, **more}, "test")


def test_the_parameters_of_a_small_shape_are_those_counted_by_hand():
    # q, o: 8×8 each and q's bias 8; k, v: 8×4 + 4 each; MLP: 3 of 8×16; two norms of 8
    assert memory.text_layer_parameters(SMALL) == 64 + 8 + 64 + 2 * (32 + 4) + 3 * 128 + 16
    # patches 3·2·14·14 → 4; qkv 4×12 + 12, proj 16 + 4, MLP 3·24 + 6 + 6 + 4, two norms; merger: norm 4, 16×16 + 16, 16×8 + 8
    assert memory.vision_parameters(SMALL) == 1176 * 4 + (48 + 12 + 16 + 4 + 72 + 16 + 8) + 4 + 272 + 136
    assert memory.parameters(SMALL) == 2 * 800 + 2 * 608 + 8 + memory.vision_parameters(SMALL)
    assert memory.parameters(replace(SMALL, tied=True)) == memory.parameters(SMALL) - 800
    # rank 2: q and o 2·(8 + 8) each, k and v 2·(8 + 4) each, the MLP's three 2·(8 + 16) each, in two layers
    assert memory.lora_parameters(SMALL, 2) == 2 * (2 * 32 + 2 * 24 + 3 * 48)


@pytest.mark.parametrize(("size", "total"), [("3b", 3_754_622_976), ("7b", 8_292_166_656)])
def test_the_published_shapes_have_the_parameters_of_the_real_classes(monkeypatch, tmp_path, size, total):
    made: list = []
    monkeypatch.setattr(bench_gpu, "save", lambda model, *rest: made.append(model))
    bench_gpu.build_base(bench_gpu.SIZES[size], torch.device("meta"), tmp_path)
    model, shape = made[0], bench_gpu.SIZES[size].shape
    assert shape is not None
    assert memory.parameters(shape) == sum(p.numel() for p in model.parameters()) == total
    assert memory.vision_parameters(shape) == sum(p.numel() for p in model.model.visual.parameters())
    assert Shape.of_config(model.config.to_dict()) == shape
    with torch.device("meta"):
        adapted = get_peft_model(model, lora(64))
    assert memory.lora_parameters(shape, 64) == sum(p.numel() for p in adapted.parameters() if p.requires_grad)


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
    resident = {stage: memory.estimate(SMALL, replace(PLAN, zero=stage)).resident for stage in (0, 2, 3)}
    assert resident[0] == {"weights": 2 * p, "gradients": 2 * p, "optimiser states": 12 * p}
    assert resident[2] == {"weights": 2 * p, "gradients": 2 * p / 4, "optimiser states": 12 * p / 4}
    assert resident[3] == {"weights": 2 * p / 4, "gradients": 2 * p / 4, "optimiser states": 12 * p / 4}
    plain = memory.estimate(SMALL, replace(PLAN, deepspeed=False, zero=0, processes=1, weight_bytes=4)).resident
    assert plain == {"weights": 4 * p, "gradients": 4 * p, "optimiser states": 8 * p}
    ddp = memory.estimate(SMALL, replace(PLAN, deepspeed=False, zero=0, weight_bytes=4)).resident
    assert ddp["gradients"] == 8 * p  # and DDP's buckets
    t = memory.lora_parameters(SMALL, 2)
    adapters = memory.estimate(SMALL, replace(PLAN, lora=2)).resident
    assert adapters == {"weights": 2 * p + 2 * t, "gradients": 2 * t / 4, "optimiser states": 12 * t / 4}
    assert memory.estimate(SMALL, replace(PLAN, reference=True)).resident["reference model"] == 2 * p


def test_activations_by_hand_with_and_without_checkpointing():
    # one block, bfloat16, without padding: two norms (4·8 + 2·8 + 2·8 each), query and output (2·8 each), key and value of two heads of 2 (2·4 each), MLP 4·2·16
    block = 2 * 64 + 32 + 16 + 128
    assert memory.text_block(SMALL, PLAN) == 30 * block
    # two sequences are padded: keys and values of all heads (2·8 each), and a mask of 30 × 30 each
    assert memory.text_block(SMALL, replace(PLAN, micro=2)) == 60 * (block + 16) + 2 * 2 * 900
    # the vision tower, 8 image tokens of 4 patches: norms 2·(4·4 + 2·4 + 2·4), query and output 2·2·4, key and qkv 4·2·4, MLP 4·2·6
    assert memory.vision_block(SMALL, PLAN) == 32 * (64 + 16 + 32 + 48)
    update = memory.update(SMALL, PLAN)
    assert update["activations, language model"] == 2 * 30 * block
    kept = memory.update(SMALL, replace(PLAN, checkpointing=True))
    assert kept["activations, language model"] == 2 * 30 * 2 * 8
    assert kept["activations, vision tower"] == 32 * 2 * 4
    assert memory.update(SMALL, replace(PLAN, lora=2))["activations, vision tower"] == 0  # frozen, outside the graph


def test_the_head_needs_a_tile_and_gradients_but_no_logits():
    # ten answer tokens: a tile of 10 × 32768 in bfloat16, float32 and bfloat16 gradients of their hidden states and of the weight 100 × 8
    assert memory.head(SMALL, PLAN) == 2 * 10 * 32768 + 6 * 10 * 8 + 6 * 800
    assert memory.head(SMALL, replace(PLAN, lora=2)) == 2 * 10 * 32768 + 6 * 10 * 8
    seven = KNOWN["Qwen/Qwen2.5-VL-7B-Instruct"]
    many = replace(PLAN, micro=8, answer=1536)
    assert memory.head(seven, many) < 4 * 8 * 1536 * seven.vocab  # whole logits in float32, without their gradient


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
    plan = Plan(processes=8, weight_bytes=2, micro=8, prompt=3700, image=2520, answer=1536, deepspeed=True, zero=2)
    limit = 80 * GIB
    assert memory.estimate(seven, plan).total > limit
    told = memory.suggestions(seven, plan, limit)
    assert [s.change for s in told[:4]] == [
        "gradient_checkpointing: true",
        "a micro batch of 4 (accumulate more)",
        "deepspeed: launch/zero3.json",
        "lora_rank: 64",
    ]
    assert told[0].estimate.total == memory.estimate(seven, replace(plan, checkpointing=True)).total <= limit
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
    assert checks.check_memory(seven, replace(plan, checkpointing=True, zero=3, micro=2), 80)[0].status == "ok"


@pytest.mark.parametrize(
    "path", sorted((ROOT / "configs").glob("qwen2_5_vl_?b/[sg]*.yaml")), ids=lambda p: f"{p.parent.name}-{p.stem}"
)
def test_the_shipped_configs_are_valid_divide_and_fit_into_80_gb_by_the_estimate(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    config = read_config(path)
    base = f"Qwen/Qwen2.5-VL-{path.parent.name[-2:].upper()}-Instruct"
    assert checks.check_bfloat16(config).status == "ok"
    assert "Not run at this size" in path.read_text()
    for gpus in (4, 6, 8, 12, 16) if isinstance(config, GCPOStage) else (8,):
        assert checks.check_batch(config, gpus, 200_000).status == "ok"
    check, _ = checks.check_memory(KNOWN[base], plan_of(config, 6 if isinstance(config, GCPOStage) else 8, True, None), 80)
    assert check.status == "ok", check.says


MEASURE = """
import gc, json, sys
import numpy as np, torch
from torch.profiler import ProfilerActivity, profile
from pathlib import Path
from rrm.doctor.run import read_config
from rrm.verifier import gcpo, sft
from rrm.verifier.bench import Drawn
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


def test_the_estimate_is_within_a_quarter_of_the_measured_peak(tmp_path, training_data):
    """Every allocation of real steps is counted: of SFT with and without checkpointing, of GCPO with it (else the estimate is a bound)."""
    from rrm.verifier.checkpoint import save
    from rrm.verifier.model_card import Origin
    from rrm.verifier.tiny import build_model, build_processor

    processor = build_processor()
    model = build_model(processor, hidden=512, layers=6)
    save(model, processor, tmp_path / "base", "brief", Origin(stage="test"))
    (tmp_path / "data").mkdir()
    (tmp_path / "data/images").symlink_to(training_data / "images")
    rows = [row for row in pq.read_table(training_data / "sft.parquet").to_pylist() if row["kind"] == "judge"][:4]
    target = " ".join(["red circle"] * 50)
    pq.write_table(
        pa.Table.from_pylist([{**row, "target": f"{target}{' blue' * i}"} for i, row in enumerate(rows)]),
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
        lengths = inputs.measure(drawn, "brief", ImageStore(training_data / "images"), load_processor(str(tmp_path / "base")))
        assert lengths.answers is not None
        plans.append(plan_of(stage, 1, False, lengths, max(lengths.answers)))
    judging = gcpo(
        data=training_data, base=str(tmp_path / "base"), out=tmp_path / "gcpo", steps=2, pairs=2, traces=4, micro_batch=4, max_tokens=100,
        gradient_checkpointing=True,
    )  # fmt: skip
    paths.append(tmp_path / "gcpo.yaml")
    paths[-1].write_text(yaml.safe_dump(judging.model_dump(mode="json")))
    _, _, asked = inputs.check_rows(judging, 12)
    prompts = inputs.measure(asked, "brief", ImageStore(training_data / "images"), load_processor(str(tmp_path / "base")))
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


def test_versions_are_held_against_ranges_and_pins():
    needed = [Requirement("torch>=2.8"), Requirement("trl>=1.10,<2")]
    pins = {"torch": "2.13.0", "trl": "1.16.0"}

    def statuses(**have: str | None) -> list[str]:
        return [check.status for check in machine.check_versions(needed, have, pins)]

    assert statuses(torch="2.13.0+cpu", trl="1.16.0") == ["ok"]
    assert statuses(torch="2.12.0", trl="1.16.0") == ["warning"]
    assert statuses(torch="2.13.0", trl="2.0.0") == ["fail"]
    assert statuses(torch=None, trl="1.9") == ["fail", "fail"]
    names = {r.name for r in machine.requirements(["train"])}
    assert {"torch", "trl", "deepspeed"} <= names
    assert "vllm" not in names
    assert "vllm" in {r.name for r in machine.requirements(["train", "serve"])}
    assert machine.tested_versions(ROOT / "constraints.txt")["pillow"]


def test_torch_goes_with_the_torchvision_of_its_day():
    assert machine.check_pairing("2.13.0+cu130", "0.28.0").status == "ok"
    assert machine.check_pairing("2.8.0", "0.23.0").status == "ok"
    assert machine.check_pairing("2.13.0", "0.27.1").status == "fail"


def test_gpus_are_those_that_are_planned_for():
    hopper, turing = Gpu("NVIDIA H100 80GB HBM3", 79.1, (9, 0)), Gpu("Tesla T4", 14.6, (7, 5))
    assert machine.check_gpus([hopper] * 8, None, True).status == "ok"
    assert machine.check_gpus([hopper] * 8, 16, True).status == "warning"
    assert machine.check_gpus([turing], None, True).status == "fail"
    assert machine.check_gpus([turing], None, False).status == "ok"
    assert machine.check_gpus([hopper, turing], None, False).status == "warning"
    assert machine.check_gpus([], 8, True).status == "warning"
    assert machine.check_gpus([], None, True).status == "fail"
    assert machine.check_gpus([], None, False).status == "ok"


def test_the_driver_serves_the_cuda_that_torch_is_built_for():
    assert machine.check_driver("12.4", 12040).status == "ok"
    assert machine.check_driver("12.8", 12040).status == "warning"
    assert machine.check_driver("13.0", 12080).status == "fail"
    assert machine.check_driver(None, 12080).status == "fail"


def test_a_batch_divides_or_is_refused():
    assert checks.check_batch(gcpo(), 6, 10_000).says.startswith(
        "192 traces an update, 32 for each of 6 processes, 8 × 4 at once"
    )
    assert checks.check_batch(gcpo(), 7, 10_000).status == "fail"
    assert checks.check_batch(gcpo(micro_batch=5), 6, 10_000).status == "fail"
    assert checks.check_batch(gcpo(), 6, 11).status == "fail"
    check = checks.check_batch(sft(steps=100), 8, 6400)  # 2 × 4 × 8 = 64 rows an update
    assert check.figures["passes"] == 1.0
    assert checks.check_batch(sft(), 8, 63).status == "fail"


def test_bfloat16_without_master_weights_is_refused():
    assert checks.check_bfloat16(sft(dtype="bfloat16")).status == "fail"
    assert checks.check_bfloat16(sft(dtype="bfloat16", lora_rank=8)).status == "ok"  # peft keeps adapters in float32
    assert checks.check_bfloat16(sft(dtype="bfloat16", deepspeed="launch/zero2.json")).status == "ok"


def test_a_deepspeed_config_is_read_as_deepspeed_reads_it(tmp_path, monkeypatch):
    assert machine.check_deepspeed(None).status == "ok"
    assert machine.check_deepspeed(str(ROOT / "launch/zero3.json")).status == "ok"
    assert "there is no DeepSpeed config" in machine.check_deepspeed(str(tmp_path / "none.json")).says
    for text, says in (("{", "no JSON"), ("{}", "no JSON"), ('{"zero_optimization": {"stage": 7}}', "stage")):
        (tmp_path / "z.json").write_text(text)
        check = machine.check_deepspeed(str(tmp_path / "z.json"))
        assert (check.status, says in check.says) == ("fail", True)
    monkeypatch.setattr(machine.shutil, "which", lambda name, path=None: None)
    assert "ninja and c++ not found" in machine.check_deepspeed(str(ROOT / "launch/zero2.json")).says


def test_a_base_is_a_checkpoint_or_a_hub_id_that_is_somewhere(tiny_checkpoint, tmp_path):
    def status(base: str, where: str = "nowhere") -> str:
        return checks.check_base(base, lambda _: where).status

    assert status(str(tiny_checkpoint)) == "ok"
    assert status(str(tmp_path)) == status("runs/none/model") == status("just a name") == "fail"
    hub = "Qwen/Qwen2.5-VL-7B-Instruct"
    assert [status(hub, where) for where in ("cached", "online", "nowhere")] == ["ok", "warning", "fail"]


def test_data_that_cannot_be_trained_on_is_named(training_data, tmp_path):
    check, rows, drawn = inputs.check_rows(sft(data=training_data), 5)
    assert (check.status, rows, len(drawn)) == ("ok", pq.read_metadata(training_data / "sft.parquet").num_rows, 5)
    assert inputs.check_rows(gcpo(data=training_data), 100)[1] == 12
    assert inputs.check_images(drawn, ImageStore(training_data / "images")).status == "ok"
    assert inputs.check_images(drawn, ImageStore(tmp_path)).status == "fail"
    table = pq.read_table(training_data / "preferences.parquet")
    for changed, says in (
        (table.drop_columns(["edited_b"]), "no column edited_b"),
        (table.slice(0, 0), "is empty"),
        (table.set_column(table.column_names.index("label"), "label", pa.array(["c"] * 12)), "label"),
        (table.set_column(table.column_names.index("label"), "label", pa.array(["same"] * 12)), "labelled 'same'"),
    ):
        pq.write_table(changed, tmp_path / "preferences.parquet")
        check, _, drawn = inputs.check_rows(gcpo(data=tmp_path), 5)
        assert (check.status, says in check.says, drawn) == ("fail", True, [])
    assert inputs.check_rows(sft(data=tmp_path), 5)[0].says.startswith("There is no ")


def test_image_tokens_are_those_of_the_real_image_processor():
    """By the formula, for real pixel budgets, against Qwen2.5-VL's own image processor, whose grid is in patches of 14."""
    processor = Qwen2VLImageProcessor(size={"shortest_edge": 56 * 56, "longest_edge": MAX_PIXELS})
    rng = np.random.default_rng(0)
    for width, height in ((1008, 980), (1024, 1024), (1920, 1080), (640, 480), (333, 777), (30, 40)):
        image = Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8))
        _, rows, columns = processor(images=[image], return_tensors="pt")["image_grid_thw"][0].tolist()
        assert inputs.image_tokens([image], 56 * 56, MAX_PIXELS) == rows * columns // 4
    assert inputs.image_tokens([Image.new("RGB", (1008, 980))] * 2, 56 * 56, MAX_PIXELS) == 2 * 36 * 35


def test_prompts_with_two_images_are_those_of_transformers_and_a_difference_is_told(training_data, tiny_checkpoint):
    store, ours = ImageStore(training_data / "images"), load_processor(str(tiny_checkpoint))
    _, _, rows = inputs.check_rows(gcpo(data=training_data), 4)
    assert inputs.check_parity(rows, "brief", store, ours, str(tiny_checkpoint)).status == "ok"
    lengths = inputs.measure(rows, "brief", store, ours)
    assert set(lengths.images) == {8}  # two images of 56 × 56
    messages, images = inputs.asked(rows[0], "brief", store)
    assert lengths.prompts[0] == len(inputs.reference_ids(ours, messages, images))
    ours.image_processor.size.shortest_edge = ours.image_processor.size.longest_edge = 112 * 112
    check = inputs.check_parity(rows, "brief", store, ours, str(tiny_checkpoint))
    assert check.status == "fail"
    assert "32 of its images; by transformers' own way" in check.says


def test_answers_that_max_tokens_would_cut_off_are_counted():
    lengths = Lengths((3000, 3100), (2520, 2520), None)
    answers = [100] * 90 + [2000] * 10
    check = inputs.check_lengths(gcpo(max_tokens=1536), lengths, answers, 128_000)
    assert (check.status, check.figures["cut_off"]) == ("warning", 0.1)
    assert "raise it to 2000" in check.says
    assert inputs.check_lengths(gcpo(max_tokens=2048), lengths, answers, 128_000).status == "ok"
    assert inputs.check_lengths(gcpo(max_tokens=2048), lengths, answers, 5_000).status == "fail"
    assert inputs.check_lengths(gcpo(), lengths, None, 128_000).status == "ok"
    assert inputs.check_lengths(sft(), lengths, answers, 5_000).status == "fail"


def test_disk_holds_the_checkpoints_the_model_and_the_rollouts():
    trained = memory.parameters(SMALL)
    assert checks.checkpoint_bytes(SMALL, PLAN) == 16 * trained  # weights twice, 12 of the optimiser
    needed = 16 * trained * 3 + 2 * trained
    assert checks.check_disk(sft(), SMALL, PLAN, needed).status == "ok"
    assert checks.check_disk(sft(), SMALL, PLAN, needed - 1).status == "fail"
    rollouts = 4 * 10 * 12 * 2 * 8 * 1024
    assert checks.check_disk(gcpo(), SMALL, PLAN, needed + rollouts - 1).status == "fail"
    assert checks.check_disk(gcpo(), SMALL, PLAN, needed + rollouts).status == "ok"


@pytest.fixture
def vllm():
    """A server that speaks as much of vLLM as the doctor asks: it serves `b/c`, and gives every image four tokens."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self, value: object) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(value).encode())

        def do_GET(self) -> None:
            self.answer({"data": [{"id": "b/c"}]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            parts = body["messages"][0]["content"]
            assert all(part["image_url"]["url"].startswith("data:image/png;base64,") for part in parts)
            self.answer({"features": {"mm_placeholders": {"image": [{"offset": 0, "length": 4} for _ in parts]}}})

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_server_is_asked_for_its_model_and_its_image_tokens(vllm):
    assert checks.check_server(None, "b/c").status == "ok"
    assert checks.check_server(vllm, "b/c").status == "ok"
    assert checks.check_server(vllm, "other/model").status == "fail"
    images = [Image.new("RGB", (56, 56))] * 2
    assert checks.check_server_tokens(vllm, images, [4, 4]).status == "ok"
    assert checks.check_server_tokens(vllm, images, [4, 9]).status == "fail"
    assert checks.check_server("http://127.0.0.1:9", "b/c").status == "warning"
    absent = checks.check_server_tokens("http://127.0.0.1:9", images, [4, 4])
    assert (absent.status, absent.says) == ("not checked", "no server answers.")


def call(*arguments: object) -> None:
    options = build_parser().parse_args(["doctor", *map(str, arguments)])
    examine(options)


def test_the_command_says_all_of_it_and_its_exit_code_tells_a_failure(tmp_path, training_data, tiny_checkpoint, capsys):
    path = tmp_path / "gcpo.yaml"
    values = {**GCPO, "data": str(training_data), "base": str(tiny_checkpoint), "out": str(tmp_path / "out"), "max_tokens": 100}
    path.write_text(yaml.safe_dump({**values, "pairs": 2, "traces": 2, "steps": 6}))
    call("--config", path, "--sample", 4)
    said = capsys.readouterr().out
    assert "fail " not in said
    assert "prompts with two images have the tokens that transformers gives them" in said
    assert "8 traces an update, 8 for each of 1 processes, 2 × 4 at once; 6 steps go 1.00 times through 12 pairs" in said
    assert "memory per GPU, GiB" in said
    with pytest.raises(SystemExit) as caught:
        call("--config", path, "--gpus", 3, "--gpu-memory", 0.5, "--sample", 4, "--json")
    assert caught.value.code == 1
    out = json.loads(capsys.readouterr().out)
    status = {check["name"]: check["status"] for check in out["checks"]}
    assert not out["well"]
    assert (status["batch"], status["memory"], status["tokens"]) == ("fail", "fail", "ok")
    assert out["memory_bytes"]["total"] > 0.5 * GIB


def test_a_base_that_is_still_to_be_made_is_estimated_like_another(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    arguments = ("--config", "configs/qwen2_5_vl_7b/gcpo.yaml", "--gpus", 6, "--gpu-memory", 80)
    for more, status in (((), "not checked"), (("--like", "Qwen/Qwen2.5-VL-7B-Instruct"), "ok")):
        with pytest.raises(SystemExit):
            call(*arguments, *more, "--json")
        out = json.loads(capsys.readouterr().out)
        assert {check["name"]: check["status"] for check in out["checks"]}["memory"] == status


def test_what_libraries_print_meanwhile_is_not_among_the_result(capsys, monkeypatch):
    def chatty(*_):
        print("[WARNING] [real_accelerator.py] Setting accelerator to CPU.")
        return [Check("base", "ok", "here.")], None, None

    monkeypatch.setattr("rrm.doctor.run.examine", chatty)
    call("--config", "c.yaml", "--json")
    out, err = capsys.readouterr()
    assert json.loads(out)["checks"][0]["says"] == "here."
    assert "real_accelerator" in err


def test_wrong_options_are_refused():
    for wrong in (("--gpus", 0), ("--gpu-memory", -1), ("--sample", 0)):
        with pytest.raises(InputError):
            call("--config", "c.yaml", *wrong)
    with pytest.raises(InputError, match="There is no config at none"):
        call("--config", "none.yaml")


def test_the_table_adds_up():
    found = memory.estimate(SMALL, replace(PLAN, rollouts=8))
    lines = table_of(found, 80)
    assert lines[-1].split()[-3:] == [f"{found.total / GIB:.2f}", "of", "80"]
    assert sum("(the peak)" in line for line in lines) == 1
    assert found.total == pytest.approx(found.tensors * 1.05 + 1.5 * GIB)


def test_flops_by_hand():
    # two layers of 608 weights, attention 2·2·8 a token and position, the head 100 × 8 for ten tokens
    forward = bench_gpu.forward_flops(SMALL, tokens=30, length=30, scored=10, patches=32)
    assert forward["text"] == 2 * 2 * 608 * 30 + 2 * 2 * 8 * 30 * 30 + 2 * 800 * 10
    assert forward["vision"] == 2 * memory.vision_parameters(SMALL) * 32
    assert bench_gpu.training_flops({"text": 5.0, "vision": 2.0}, lora=False) == 21
    assert bench_gpu.training_flops({"text": 5.0, "vision": 2.0}, lora=True) == 12
    # one prompt of 20 tokens, three answers of 10, each token of which sees 25 on average
    read = 2 * 2 * 608 * 20 + 2 * 2 * 8 * 20 * 20 + 2 * 800
    written = 2 * 2 * 608 * 30 + 4 * 2 * 8 * 25 * 30 + 2 * 800 * 30
    assert bench_gpu.generation_flops(SMALL, 1, 20, 3, 10, 0) == read + written
    assert bench_gpu.mfu(1e14, 2.0, 1e15) == 0.05
    assert bench_gpu.mfu(1e14, 2.0, None) is None


def test_peaks_are_known_by_name_and_others_are_null():
    assert bench_gpu.peak_flops("NVIDIA A100-SXM4-80GB") == 312e12
    assert bench_gpu.peak_flops("NVIDIA H100 80GB HBM3") == 989e12
    assert bench_gpu.peak_flops("NVIDIA H100 PCIe") == 756e12
    assert bench_gpu.peak_flops("NVIDIA H200") == 989e12
    assert bench_gpu.peak_flops("NVIDIA GeForce GTX 1080") is None


def test_the_gpu_bench_runs_the_same_code_on_a_cpu(tmp_path, monkeypatch):
    monkeypatch.setattr(bench_gpu.subprocess, "run", forked)  # every stage is still a process of its own
    out = tmp_path / "gpu.json"
    monkeypatch.setattr(sys, "argv", ["bench_gpu", "--size", "tiny", "--device", "cpu", "--steps", "2", "--out", str(out)])
    bench_gpu.main()
    found = json.loads((tmp_path / "gpu.json").read_text())["sizes"]["tiny"]
    for stage in ("sft", "gcpo", "score"):
        assert found[stage]["tokens_per_s"] > 0
        assert found[stage]["samples_per_s"] > 0
        assert found[stage]["peak_gib"] > 0
        assert found[stage]["mfu"] is None
    assert found["gcpo"]["traces"] == 4
    assert found["gcpo"]["seconds"] == pytest.approx(
        found["gcpo"]["rollout_seconds"] + found["gcpo"]["update_seconds"], abs=1e-3
    )
    assert [path.name for path in tmp_path.iterdir()] == ["gpu.json"]  # checkpoints of gigabytes are not left behind


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_gpu_bench_without_a_gpu_is_one_sentence(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bench_gpu"])
    with pytest.raises(SystemExit) as caught:
        command(bench_gpu.main)
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("error: no CUDA GPU is visible")
