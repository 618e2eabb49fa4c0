"""The verifier on tiny real models: tokens, vision, two steps of SFT and GCPO, resuming, scoring."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from rrm.errors import InputError
from rrm.parsing import judgement_of, read_trace
from rrm.prompts import write_answer
from rrm.records import EditToJudge, Failure, Principle
from rrm.sandbox.models.verifier import build_processor, corpus
from rrm.sandbox.models.verifier_pretraining import caption_lesson, compare_lesson, encode
from rrm.sandbox.world import draw, sample_scene
from rrm.verifier.checkpoint import load
from rrm.verifier.fast.vision import batch_vision_attention
from rrm.verifier.inference import Verifier
from rrm.verifier.sft import read_rows
from tests.support.processes import run_module

PRINCIPLES = (
    Principle(question="Is the red circle gone?", category="follow"),
    Principle(question="Is the image clean?", category="quality"),
)


@pytest.fixture(scope="module")
def processor():
    return build_processor()


def run(module: str, config: dict, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    path = tmp_path / f"{module.rsplit('.', 1)[-1]}.yaml"
    path.write_text(
        yaml.safe_dump({k: str(v) if isinstance(v, Path) else v for k, v in config.items()})
    )
    return run_module(module, "--config", path)


def sft_config(data: Path, base: Path, out: Path, steps: int = 2) -> dict:
    return {
        "data": data,
        "base": base,
        "out": out,
        "style": "brief",
        "steps": steps,
        "batch": 4,
        "learning_rate": 1e-3,
        "save_every": 2,
        "log_every": 1,
    }


def gcpo_config(data: Path, base: Path, out: Path, **more: object) -> dict:
    return {
        "data": data,
        "base": base,
        "out": out,
        "steps": 2,
        "pairs_per_step": 2,
        "traces_per_image": 2,
        "learning_rate": 1e-4,
        "max_tokens": 16,
        **more,
    }


def test_the_tokenizer_gives_back_any_text(processor):
    for text in [*corpus(3, 20), "Ünïcode → 画像 {}", write_answer((1, 0, 1), 7.5)]:
        assert processor.tokenizer.decode(processor.tokenizer(text).input_ids) == text


def test_a_verdict_costs_two_tokens_and_a_score_three(processor):
    pieces = [
        processor.tokenizer.decode([i])
        for i in processor.tokenizer(write_answer((1, 0), 7.5)).input_ids
    ]
    assert pieces == [
        '[{"question": 1, "score": ',
        "1",
        '}, {"question": 2, "score": ',
        "0",
        '}]\n{"average_score": ',
        "0.5",
        "}\n<score>",
        "7.5",
        "</score>",
    ]


def test_a_sandbox_image_costs_four_tokens(processor):
    image = draw(sample_scene(np.random.default_rng(0)))
    batch = processor(
        text=["<|vision_start|><|image_pad|><|vision_end|>"], images=[[image]], return_tensors="pt"
    )
    assert (
        int(
            (batch["input_ids"] == processor.tokenizer.convert_tokens_to_ids("<|image_pad|>")).sum()
        )
        == 4
    )


def test_batched_vision_attention_equals_the_stock_one(tiny_checkpoint, processor):
    from transformers import Qwen2_5_VLForConditionalGeneration

    rng = np.random.default_rng(0)
    inputs, _, _ = encode(processor, [compare_lesson(rng) for _ in range(3)], 1.0)
    stock = Qwen2_5_VLForConditionalGeneration.from_pretrained(tiny_checkpoint).eval()
    expected = stock(**inputs).logits
    batch_vision_attention(stock)
    assert torch.allclose(stock(**inputs).logits, expected, atol=1e-5)
    mixed = processor.image_processor(
        images=[draw(sample_scene(rng)), Image.new("RGB", (112, 56))], return_tensors="pt"
    )
    both = [
        load(tiny_checkpoint, fast=True)[0]
        .eval()
        .model.visual(mixed["pixel_values"], grid_thw=mixed["image_grid_thw"])
        .pooler_output
    ]
    plain = Qwen2_5_VLForConditionalGeneration.from_pretrained(tiny_checkpoint).eval()
    both.append(
        plain.model.visual(mixed["pixel_values"], grid_thw=mixed["image_grid_thw"]).pooler_output
    )
    assert torch.allclose(
        *(torch.cat(list(b)) if isinstance(b, tuple | list) else b for b in both), atol=1e-5
    )


def test_lessons_carry_loss_on_the_answer_alone(processor):
    rng = np.random.default_rng(1)
    for make in (caption_lesson, compare_lesson):
        lessons = [make(rng) for _ in range(4)]
        _, labels, weights = encode(processor, lessons, 3.0)
        for row, lesson in enumerate(lessons):
            kept = labels[row][labels[row] != -100]
            assert processor.tokenizer.decode(kept, skip_special_tokens=True) == lesson.answer
            light = processor.tokenizer.decode(
                labels[row][(weights[row] == 1) & (labels[row] != -100)], skip_special_tokens=True
            )
            assert light == " background" + lesson.answer.split(" background")[1].split(" find")[0]


def test_two_steps_of_sft_leave_a_checkpoint_that_judges(tmp_path, training_data, tiny_checkpoint):
    done = run(
        "rrm.verifier.sft", sft_config(training_data, tiny_checkpoint, tmp_path / "sft"), tmp_path
    )
    assert done.returncode == 0, done.stderr
    logged = [
        json.loads(line) for line in (tmp_path / "sft/metrics.jsonl").read_text().splitlines()
    ]
    assert [line["step"] for line in logged] == [1, 2]
    assert logged[0]["loss"] == pytest.approx(np.log(len(build_processor().tokenizer)), rel=0.25)
    before, after = (
        load_file(folder / "model.safetensors")
        for folder in (tiny_checkpoint, tmp_path / "sft/model")
    )
    assert any(not torch.equal(before[name], after[name]) for name in before)
    judge = Verifier.load(tmp_path / "sft/model", batch=2)
    judge.max_new_tokens = 4
    image = draw(sample_scene(np.random.default_rng(0)))
    judgements = judge.judge_many(
        [EditToJudge(image, image, "remove the red circle", PRINCIPLES)] * 3
    )
    assert [j.score for j in judgements] == [None] * 3
    assert {j.failure.kind for j in judgements if j.failure} == {"cut_off"}


def test_sft_resumed_from_a_checkpoint_ends_with_the_weights_of_an_uninterrupted_run(
    tmp_path, training_data, tiny_checkpoint
):
    cut = sft_config(training_data, tiny_checkpoint, tmp_path / "cut", steps=4)
    assert run("rrm.verifier.sft", cut, tmp_path).returncode == 0
    (tmp_path / "cut/model").rename(tmp_path / "whole")
    done = json.loads((tmp_path / "cut/stage.json").read_text())
    started = {"fingerprint": done["fingerprint"], "seconds": 1.0}
    (tmp_path / "cut/stage.json").unlink()
    (tmp_path / "cut/started.json").write_text(json.dumps(started))
    last = tmp_path / "cut/checkpoints/checkpoint-4"
    assert (tmp_path / "cut/checkpoints/checkpoint-2").is_dir()
    (last / "trainer_state.json").unlink()  # as if killed while writing it
    resumed = run("rrm.verifier.sft", cut, tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert "carries on" in resumed.stderr
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("whole", "cut/model")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_judgement_is_a_score_or_a_named_failure():
    assert judgement_of("seen\n" + write_answer((1, 0), 6.0), PRINCIPLES).score == 6.0
    short = judgement_of("seen\n" + write_answer((1,), 6.0), PRINCIPLES)
    assert short.score is None
    assert short.failure is not None
    assert short.failure.kind == "wrong_verdict_count"
    assert isinstance(read_trace("", 2), Failure)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p / "none", "no config.json"),
        (lambda p: (p / "config.json").write_text('{"model_type": "bert"}') and p, "of 'bert'"),
        (
            lambda p: (p / "config.json").write_text('{"model_type": "qwen2_5_vl"}') and p,
            "no weights",
        ),
        (lambda p: (p / "config.json").write_text("{") and p, "not valid JSON"),
    ],
)
def test_a_checkpoint_that_is_none_is_named(tmp_path, make, message):
    with pytest.raises(InputError, match=message):
        load(make(tmp_path))


def test_damaged_weights_are_named(tmp_path, tiny_checkpoint):
    for name in tiny_checkpoint.iterdir():
        (tmp_path / name.name).write_bytes(name.read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(InputError, match="could not be loaded"):
        load(tmp_path)


@pytest.mark.parametrize("module", ["rrm.verifier.sft", "rrm.verifier.gcpo"])
def test_training_without_rows_is_refused_and_writes_nothing(tmp_path, tiny_checkpoint, module):
    make = sft_config if module.endswith("sft") else gcpo_config
    (tmp_path / "data").mkdir()
    done = run(module, make(tmp_path / "data", tiny_checkpoint, tmp_path / "out"), tmp_path)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("error: There is no ")
    assert not (tmp_path / "out").exists()


def test_an_empty_training_set_is_refused(tmp_path, training_data):
    table = pq.read_table(training_data / "sft.parquet")
    pq.write_table(table.slice(0, 0), tmp_path / "sft.parquet")
    with pytest.raises(InputError, match=r"sft\.parquet is empty"):
        read_rows(tmp_path)
