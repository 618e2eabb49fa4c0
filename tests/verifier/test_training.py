"""Training that can be trusted: resuming, divergence, what a checkpoint carries, LoRA, processes
and ZeRO, golden trajectories."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from rrm.errors import InputError
from rrm.prompts import write_answer
from rrm.runtime.checkpoints import seal
from rrm.runtime.stage import fingerprint_of, write_json
from rrm.sandbox.world import draw, sample_scene
from rrm.verifier import export, sft
from rrm.verifier.checkpoint import load, root_of
from rrm.verifier.gcpo import train as gcpo
from rrm.verifier.gcpo.config import GCPOStage
from rrm.verifier.messages import judge_messages
from rrm.verifier.model_card import PRINCIPLES
from rrm.verifier.sft import SFTStage, UpdateSampler, train
from rrm.verifier.training import (
    MetricsFile,
    TrainingStage,
    figures,
    run_training,
    start,
    times_usual,
    trouble,
)
from tests.conftest import write_training_data
from tests.support import ROOT
from tests.support.processes import run_module

torch.set_num_threads(1)  # as torchrun does: the order of a sum is part of what is compared
GOLDEN = ROOT / "tests" / "golden"


def config(data: Path, base: Path, out: Path, **more: Any) -> SFTStage:
    return SFTStage(**{
        "data": data, "base": str(base), "out": out, "style": "brief", "steps": 3, "batch": 4, "learning_rate": 1e-3,
        "save_every": 1000, "log_every": 1, **more,
    })  # fmt: skip


def trained(stage: SFTStage) -> Path:
    """Runs the stage in this process; its folder."""
    stage.out.mkdir(parents=True, exist_ok=True)
    train(stage, stage.out)
    return stage.out


def command(module: str, stage: TrainingStage, ranks: int = 0) -> subprocess.CompletedProcess[str]:
    """Runs the module on a config in a process of its own, or in several as ranks of one job, each
    with one thread."""
    path = stage.out.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(stage.model_dump(mode="json")))
    return run_module(module, "--config", path, ranks=ranks)


def logged(out: Path, *keys: str) -> list[tuple[float, ...]]:
    return [
        tuple(json.loads(line)[key] for key in keys)
        for line in (out / "metrics.jsonl").read_text().splitlines()
    ]


def weights_of(model: Path) -> dict[str, torch.Tensor]:
    return load_file(model / "model.safetensors")


def distance(one: Path, other: Path) -> float:
    """The largest difference of any two weights of two model folders, which must have the same
    names."""
    first, second = weights_of(one), weights_of(other)
    assert first.keys() == second.keys()
    return max((first[name] - second[name]).abs().max().item() for name in first)


@pytest.fixture(scope="module")
def question(tiny_checkpoint):
    """Two drawn images and a question about them, as a model takes them."""
    processor = load(tiny_checkpoint)[1]
    rng = np.random.default_rng(0)
    text = processor.apply_chat_template(
        judge_messages("brief", "remove it", PRINCIPLES), add_generation_prompt=True, tokenize=False
    )
    return processor(
        text=[text], images=[[draw(sample_scene(rng)) for _ in range(2)]], return_tensors="pt"
    )


def logits(model: Any, question: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(**question).logits


def same(one: Any, other: Any) -> bool:
    """Equality to the bit of nested containers of tensors."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


# Rows


def test_a_run_takes_every_row_once_before_any_twice_and_fills_every_update():
    rows = list(UpdateSampler(rows=5, per_update=4, updates=5, seed=0))
    assert len(rows) == len(UpdateSampler(rows=5, per_update=4, updates=5, seed=0)) == 20
    assert all(sorted(rows[start : start + 5]) == list(range(5)) for start in (0, 5, 10, 15))
    assert rows[:5] != rows[5:10]
    assert rows != list(UpdateSampler(rows=5, per_update=4, updates=5, seed=1))


# Resuming


@pytest.fixture(scope="module")
def whole(tmp_path_factory, training_data, tiny_checkpoint):
    """An uninterrupted run: 41 rows, 6 to an update, so that the 7th of 10 updates reaches into the
    second epoch; every checkpoint kept."""
    out = tmp_path_factory.mktemp("whole") / "sft"
    stage = config(
        training_data,
        tiny_checkpoint,
        out,
        batch=3,
        accumulate=2,
        steps=10,
        save_every=1,
        keep=10,
        log_every=3,
    )
    return stage, trained(stage)


@pytest.mark.parametrize("step", [2, 6, 7])
def test_sft_resumed_from_any_checkpoint_is_the_uninterrupted_run_to_the_bit(tmp_path, whole, step):
    stage, out = whole
    shutil.copytree(
        out / f"checkpoints/checkpoint-{step}", tmp_path / f"sft/checkpoints/checkpoint-{step}"
    )
    torch.manual_seed(step)  # whatever happened in this process before
    resumed = trained(stage.model_copy(update={"out": tmp_path / "sft"}))
    ends = [folder / "checkpoints/checkpoint-10" for folder in (out, resumed)]
    for name in ("optimizer.pt", "scheduler.pt"):
        assert same(*(torch.load(end / name, weights_only=True) for end in ends))
    assert same(*(load_file(end / "model.safetensors") for end in ends))
    assert same(*(load_file(folder / "model/model.safetensors") for folder in (out, resumed)))
    assert (
        logged(resumed, "step", "loss", "grad_norm")
        == logged(out, "step", "loss", "grad_norm")[step:]
    )


def test_gcpo_resumed_is_the_uninterrupted_run_to_the_bit(
    tmp_path, training_data, tiny_checkpoint, replayed
):
    whole = replayed(training_data, tiny_checkpoint, tmp_path / "whole", save_every=2)
    checkpoint = whole / "checkpoints/checkpoint-2"
    resumed = replayed(
        training_data, tiny_checkpoint, tmp_path / "resumed", save_every=2, resume_from=checkpoint
    )
    ends = [folder / "checkpoints/checkpoint-4" for folder in (whole, resumed)]
    assert same(*(torch.load(end / "optimizer.pt", weights_only=True) for end in ends))
    assert same(*(weights_of(folder / "model") for folder in (whole, resumed)))
    assert (
        logged(resumed, "step", "loss", "grad_norm")
        == logged(whole, "step", "loss", "grad_norm")[2:]
    )
    assert not same(weights_of(checkpoint), weights_of(whole / "model"))


class KilledPolitely(TrainerCallback):
    """Sends this process a signal in the middle of the third update."""

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 2:
            signal.raise_signal(signal.SIGTERM)


def test_a_run_that_is_asked_to_stop_saves_what_it_has_trained_and_carries_on_to_the_bit(
    tmp_path, whole, monkeypatch
):
    stage, out = whole
    stage = stage.model_copy(update={"out": tmp_path / "sft", "save_every": 1000})
    build = sft.WatchedSFT.__init__

    def with_a_killer(trainer: Any, *args: Any, callbacks: Any, **kwargs: Any) -> None:
        build(trainer, *args, callbacks=[*callbacks, KilledPolitely()], **kwargs)

    monkeypatch.setattr(sft.WatchedSFT, "__init__", with_a_killer)
    with pytest.raises(KeyboardInterrupt):
        trained(stage)
    monkeypatch.undo()
    assert [path.name for path in (tmp_path / "sft/checkpoints").glob("checkpoint-*")] == [
        "checkpoint-3"
    ]
    assert not (tmp_path / "sft/model").exists()
    resumed = trained(stage)
    assert same(*(load_file(folder / "model/model.safetensors") for folder in (out, resumed)))


@pytest.mark.parametrize("name", ["optimizer.pt", "model.safetensors"])
def test_a_run_whose_newest_checkpoint_is_not_whole_goes_on_from_the_one_before_and_ends_the_same(
    tmp_path, whole, name
):
    stage, out = whole
    for step in (7, 8):
        shutil.copytree(
            out / f"checkpoints/checkpoint-{step}", tmp_path / f"sft/checkpoints/checkpoint-{step}"
        )
    torn = tmp_path / "sft/checkpoints/checkpoint-8" / name
    torn.unlink() if name == "optimizer.pt" else torn.write_bytes(torn.read_bytes()[:1000])
    resumed = trained(stage.model_copy(update={"out": tmp_path / "sft"}))
    assert logged(resumed, "step", "loss") == logged(out, "step", "loss")[7:]
    assert same(*(load_file(folder / "model/model.safetensors") for folder in (out, resumed)))
    assert (tmp_path / "sft/checkpoints/damaged-checkpoint-8").is_dir()


def test_a_named_checkpoint_that_is_not_whole_is_refused(tmp_path, whole):
    stage, out = whole
    shutil.copytree(out / "checkpoints/checkpoint-7", tmp_path / "checkpoint-7")
    (tmp_path / "checkpoint-7/scheduler.pt").unlink()
    with pytest.raises(
        InputError, match=r"checkpoint-7 is no whole checkpoint: scheduler\.pt is missing"
    ):
        trained(
            stage.model_copy(
                update={"out": tmp_path / "sft", "resume_from": tmp_path / "checkpoint-7"}
            )
        )


def test_a_torn_line_and_what_is_logged_again_are_dropped_from_the_metrics(tmp_path):
    file = MetricsFile(tmp_path / "metrics.jsonl")
    file.path.write_bytes(b'{"step": 1}\n\0\0\0\n{"step": 2}\n{"step": 3}\n{"st')
    file.on_train_begin(TrainingArguments(), TrainerState(global_step=2), TrainerControl())
    assert file.path.read_text() == '{"step": 1}\n{"step": 2}\n'


def test_a_number_that_is_none_is_null_in_the_metrics(tmp_path):
    file = MetricsFile(tmp_path / "metrics.jsonl")
    logs = {"score_other": math.nan, "kl": math.inf, "loss": 0.5}
    file.on_log(TrainingArguments(), TrainerState(global_step=1), TrainerControl(), logs)
    assert json.loads(file.path.read_text()) == {
        "step": 1,
        "score_other": None,
        "kl": None,
        "loss": 0.5,
    }


def test_as_many_checkpoints_are_kept_as_asked_for(tmp_path, training_data, tiny_checkpoint):
    out = trained(
        config(
            training_data, tiny_checkpoint, tmp_path / "sft", steps=4, save_every=1, keep=2, batch=1
        )
    )
    assert sorted(p.name for p in (out / "checkpoints").glob("checkpoint-*")) == [
        "checkpoint-3",
        "checkpoint-4",
    ]


# Divergence


def test_a_value_is_compared_with_the_median_of_those_before_it():
    assert times_usual(6.0, [1.0, 9.0, 2.0]) == 3.0
    assert (
        times_usual(6.0, [0.0, 1.0, 0.0, 9.0, 2.0]) == 3.0
    )  # a step in which nothing was to be learned
    assert times_usual(6.0, [1.0, 9.0]) is None
    assert times_usual(6.0, [1000.0] * 9 + [2.0] * 50) == 3.0


@pytest.mark.parametrize(
    ("loss", "norm", "explosion", "expected"),
    [
        (1.0, 2.0, 100.0, None),
        (1.0, 199.0, 100.0, None),
        (
            1.0,
            201.0,
            100.0,
            "the gradient norm was 201, 100 times the median of the last logged ones",
        ),
        (1.0, 201.0, None, None),
        (51.0, 2.0, 100.0, "the loss was 51, 102 times the median of the last logged ones"),
        (math.nan, 2.0, None, "the loss was nan"),
        (math.inf, 2.0, None, "the loss was inf"),
        (1.0, math.nan, None, "the gradient norm was nan"),
        (1.0, -1.0, None, "the gradient norm was -1.0"),
    ],
)
def test_trouble_is_named_with_its_value(loss, norm, explosion, expected):
    assert trouble(loss, norm, [0.5] * 9, [2.0] * 9, explosion) == expected


def test_a_learning_rate_that_is_absurd_stops_the_run_and_the_last_good_checkpoint_carries_on(
    tmp_path, training_data, tiny_checkpoint
):
    stage = config(
        training_data,
        tiny_checkpoint,
        tmp_path / "wild",
        learning_rate=10.0,
        steps=8,
        save_every=1,
        keep=9,
        batch=2,
    )
    with pytest.raises(
        InputError, match=r"^Training stopped at step \d+ because the .* was .*\.$"
    ) as stopped:
        trained(stage)
    good = max(
        (stage.out / "checkpoints").glob("checkpoint-*"),
        key=lambda path: int(path.name.split("-")[1]),
    )
    assert f"'resume_from: {good}', a lower 'learning_rate' and another 'out'" in str(stopped.value)
    assert int(re.search(r"step (\d+)", str(stopped.value))[1]) == int(good.name.split("-")[1]) + 1
    assert all(weight.isfinite().all() for weight in weights_of(good).values())
    assert not (stage.out / "model").exists()
    early = stage.out / "checkpoints/checkpoint-1"
    tame = stage.model_copy(
        update={"out": tmp_path / "tame", "learning_rate": 1e-3, "resume_from": early, "steps": 3}
    )
    trained(tame)
    assert logged(tame.out, "step", "learning_rate")[0] == (2, 1e-3)
    assert weights_of(tame.out / "model")


def test_weights_that_are_not_finite_are_not_saved(tmp_path, training_data, tiny_checkpoint):
    stage = config(
        training_data,
        tiny_checkpoint,
        tmp_path / "sft",
        learning_rate=1e39,
        steps=2,
        save_every=1,
        batch=1,
    )
    with pytest.raises(
        InputError,
        match=r"stopped at step 2 because a weight was not finite after it; .*checkpoint-1'",
    ):
        trained(stage)
    assert [p.name for p in (stage.out / "checkpoints").glob("checkpoint-*")] == ["checkpoint-1"]


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory, tiny_checkpoint):
    """The tiny checkpoint with one weight that is NaN."""
    folder = shutil.copytree(tiny_checkpoint, tmp_path_factory.mktemp("poisoned") / "tiny")
    weights = weights_of(folder)
    weights["model.norm.weight"][3] = math.nan
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_a_nan_stops_the_command_with_one_sentence_and_code_2(tmp_path, training_data, poisoned):
    done = command("rrm.verifier.sft", config(training_data, poisoned, tmp_path / "sft"))
    assert done.returncode == 2
    assert (
        done.stderr.strip()
        .splitlines()[-1]
        .endswith(
            "error: Training stopped at step 1 because the loss was nan; "
            "no checkpoint was written before it: start again with a lower 'learning_rate'."
        )
    )
    assert not (tmp_path / "sft").exists()


def test_a_nan_stops_gcpo_too(tmp_path, training_data, poisoned, replayed):
    with pytest.raises(InputError, match="Training stopped at step 1 because the loss was nan"):
        replayed(training_data, poisoned, tmp_path / "gcpo")


def test_a_checkpoint_in_the_folder_that_would_be_set_aside_is_refused(
    tmp_path, training_data, tiny_checkpoint, monkeypatch
):
    out = tmp_path / "sft"
    stage = config(
        training_data, tiny_checkpoint, out, resume_from=out / "checkpoints/checkpoint-1"
    )
    (tmp_path / "sft.yaml").write_text(yaml.safe_dump(stage.model_dump(mode="json")))
    monkeypatch.setattr(sys, "argv", ["sft", "--config", str(tmp_path / "sft.yaml")])
    with pytest.raises(InputError, match="name another 'out'"):
        run_training("sft", stage, train)
    assert not out.exists()


# What a checkpoint carries


def test_a_checkpoint_says_what_made_it(whole, training_data, tiny_checkpoint):
    stage, out = whole
    card = json.loads((out / "model/rrm.json").read_text())
    made_by = card["made_by"]
    assert card["style"] == "brief"
    assert (made_by["stage"], made_by["seed"], made_by["processes"]) == ("sft", 0, 1)
    assert made_by["config"] == stage.model_dump(mode="json")
    assert made_by["data_fingerprint"] == fingerprint_of(training_data)
    assert made_by["rows"] == {"judge": 37, "decompose": 4}
    assert (made_by["base"], made_by["base_fingerprint"]) == (
        str(tiny_checkpoint),
        fingerprint_of(tiny_checkpoint),
    )
    last = logged(out, "step", "loss", "seconds")[-1]
    assert made_by["training"]["steps"] == last[0] == 10
    assert made_by["training"]["loss"] == pytest.approx(last[1], rel=1e-3)
    assert made_by["training"]["seconds"] == last[2]
    assert card["versions"]["torch"] == torch.__version__


def test_the_card_is_one_of_the_hub_and_its_snippet_runs_with_plain_transformers(
    tmp_path, whole, question
):
    folder = shutil.copytree(whole[1] / "model", tmp_path / "model")
    card = ModelCard.load(folder / "README.md")
    assert card.data.library_name == "transformers"
    assert card.data.pipeline_tag == "image-text-to-text"
    assert card.data.base_model == whole[0].base
    assert {"sft", "arxiv:2604.27505"} <= set(card.data.tags)
    rng = np.random.default_rng(0)
    for name in ("source.png", "edited.png"):
        draw(sample_scene(rng)).save(folder / name)
    torch.save(dict(question), folder / "question.pt")
    check = (
        "import sys, torch\n"
        "assert not any(name.split('.')[0] == 'rrm' for name in sys.modules)\n"
        "with torch.no_grad():\n"
        "    torch.save(model.eval()(**torch.load('question.pt')).logits, 'logits.pt')\n"
    )
    snippet = re.search(r"```python\n(.*?)```", card.text, re.S)[1]
    done = subprocess.run(
        [sys.executable, "-c", snippet + check], cwd=folder, capture_output=True, text=True, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    ours = logits(load(folder)[0], question)
    assert torch.allclose(torch.load(folder / "logits.pt"), ours, atol=1e-5)


def test_the_base_model_of_a_card_is_the_first_of_its_line(tmp_path):
    for name, base in (("sft", "Qwen/Qwen2.5-VL-7B-Instruct"), ("gcpo", str(tmp_path / "sft"))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "rrm.json").write_text(
            json.dumps({"style": "full", "made_by": {"stage": name, "base": base}})
        )
    assert root_of(str(tmp_path / "gcpo")) == "Qwen/Qwen2.5-VL-7B-Instruct"
    (tmp_path / "gcpo" / "rrm.json").write_text(
        json.dumps({"style": "brief"})
    )  # as the sandbox's base says no more than how it is asked
    assert root_of(str(tmp_path / "gcpo")) == str(tmp_path / "gcpo")


# LoRA and export


@pytest.fixture(scope="module")
def adapted(tmp_path_factory, training_data, tiny_checkpoint):
    """A LoRA run of SFT."""
    out = tmp_path_factory.mktemp("adapted") / "sft"
    stage = config(
        training_data, tiny_checkpoint, out, lora_rank=4, learning_rate=1e-2, save_every=2
    )
    return stage, trained(stage)


def base_and_adapter(base: Path, adapter: Path) -> PeftModel:
    return PeftModel.from_pretrained(load(base)[0], adapter)


def test_the_model_of_a_lora_run_is_base_and_adapter_in_one(adapted, tiny_checkpoint, question):
    merged = logits(load(adapted[1] / "model")[0], question)
    assert torch.allclose(
        logits(base_and_adapter(tiny_checkpoint, adapted[1] / "adapter"), question),
        merged,
        atol=1e-5,
    )
    assert not torch.allclose(logits(load(tiny_checkpoint)[0], question), merged, atol=1e-2)
    assert weights_of(adapted[1] / "model").keys() == weights_of(tiny_checkpoint).keys()


def test_a_lora_run_resumes_to_the_bit(tmp_path, adapted):
    stage, out = adapted
    shutil.copytree(out / "checkpoints/checkpoint-2", tmp_path / "sft/checkpoints/checkpoint-2")
    resumed = trained(stage.model_copy(update={"out": tmp_path / "sft"}))
    assert same(weights_of(out / "model"), weights_of(resumed / "model"))


def test_the_model_of_a_gcpo_lora_run_is_base_and_adapter_in_one(
    tmp_path, training_data, tiny_checkpoint, question, replayed
):
    out = replayed(
        training_data, tiny_checkpoint, tmp_path / "gcpo", lora_rank=4, learning_rate=1e-2
    )
    merged = logits(load(out / "model")[0], question)
    assert torch.allclose(
        logits(base_and_adapter(tiny_checkpoint, out / "adapter"), question), merged, atol=1e-5
    )
    assert not torch.allclose(logits(load(tiny_checkpoint)[0], question), merged, atol=1e-3)


@pytest.mark.parametrize("kind", ["whole", "adapted"])
def test_an_exported_checkpoint_is_the_model_at_that_step(tmp_path, request, kind):
    stage, out = request.getfixturevalue(kind)
    export.export(out / f"checkpoints/checkpoint-{stage.steps}", stage, tmp_path / "exported")
    assert distance(tmp_path / "exported", out / "model") < 1e-6
    ours, theirs = (
        json.loads((folder / "rrm.json").read_text())
        for folder in (tmp_path / "exported", out / "model")
    )
    assert ours == theirs


def test_export_refuses_what_is_no_checkpoint_and_a_folder_in_use(tmp_path, whole):
    stage, out = whole
    with pytest.raises(InputError, match="is no whole checkpoint: it has no manifest"):
        export.export(out / "model", stage, tmp_path / "exported")
    with pytest.raises(InputError, match="holds files already"):
        export.export(out / "checkpoints/checkpoint-10", stage, out / "model")


def test_a_config_is_told_to_be_of_sft_or_of_gcpo(tmp_path, whole, training_data):
    for name, stage in (
        ("sft", whole[0]),
        ("gcpo", gcpo_config(training_data, training_data, tmp_path)),
    ):
        (tmp_path / name).write_text(yaml.safe_dump(stage.model_dump(mode="json")))
        assert export.read_config(tmp_path / name) == stage


# Processes and ZeRO


@pytest.fixture(scope="module")
def alone(tmp_path_factory, training_data, tiny_checkpoint):
    """Three updates of 2 × 3 rows of unequal length, accumulated in one process, over the end of an
    epoch of 16 rows."""
    data = write_training_data(tmp_path_factory.mktemp("alone") / "data", rows=15, pairs=2, seed=3)
    stage = config(data, tiny_checkpoint, data.parent / "sft", batch=3, accumulate=2, save_every=2)
    return stage, trained(stage)


def test_what_several_processes_without_a_gpu_load_has_a_device_that_torch_knows(tmp_path):
    torch.save({"exp_avg": torch.ones(3)}, tmp_path / "optimizer.pt")
    loaded = torch.load(
        tmp_path / "optimizer.pt", map_location=torch.device("cpu:0"), weights_only=True
    )
    assert loaded["exp_avg"].device.type == "cpu"


def test_two_processes_are_one_that_accumulates(tmp_path, alone):
    stage, out = alone
    done = command(
        "rrm.verifier.sft",
        stage.model_copy(update={"out": tmp_path / "two", "accumulate": 1}),
        ranks=2,
    )
    assert done.returncode == 0, done.stderr
    assert np.allclose(
        logged(tmp_path / "two", "loss", "grad_norm"), logged(out, "loss", "grad_norm"), rtol=1e-6
    )
    assert distance(tmp_path / "two/model", out / "model") < 1e-6
    assert json.loads((tmp_path / "two/model/rrm.json").read_text())["made_by"]["processes"] == 2


needs_deepspeed = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed is not installed"
)


def sharded(alone: tuple[SFTStage, Path], out: Path, zero: int, **more: Any) -> SFTStage:
    """Runs `alone`'s stage under ZeRO in two processes, which accumulate nothing."""
    changes = {"out": out, "accumulate": 1, "deepspeed": f"launch/zero{zero}.json", **more}
    stage = alone[0].model_copy(update=changes)
    done = command("rrm.verifier.sft", stage, ranks=2)
    assert done.returncode == 0, done.stderr
    return stage


@pytest.fixture(scope="module")
def zero2(tmp_path_factory, alone):
    return sharded(alone, tmp_path_factory.mktemp("zero2") / "sft", 2)


@pytest.fixture(scope="module")
def zero3(tmp_path_factory, alone):
    return sharded(alone, tmp_path_factory.mktemp("zero3") / "sft", 3)


@needs_deepspeed
@pytest.mark.parametrize("zero", ["zero2", "zero3"])
def test_zero_is_the_single_process(alone, request, zero):
    out = request.getfixturevalue(zero).out
    assert np.allclose(
        logged(out, "loss", "grad_norm"), logged(alone[1], "loss", "grad_norm"), rtol=1e-5
    )
    assert distance(out / "model", alone[1] / "model") < 1e-5


@needs_deepspeed
@pytest.mark.parametrize("zero", ["zero2", "zero3"])
def test_the_shards_of_zero_are_put_together(tmp_path, request, zero):
    stage = request.getfixturevalue(zero)
    checkpoint = shutil.copytree(stage.out / "checkpoints/checkpoint-3", tmp_path / "checkpoint-3")
    (checkpoint / "model.safetensors").unlink()
    seal(checkpoint)
    export.export(checkpoint, stage, tmp_path / "exported")
    assert distance(tmp_path / "exported", stage.out / "model") < 1e-7
    assert json.loads((tmp_path / "exported/rrm.json").read_text())["made_by"]["processes"] == 2


@needs_deepspeed
def test_zero_3_resumes_to_the_bit(tmp_path, alone, zero3):
    resumed = sharded(
        alone, tmp_path / "sft", 3, resume_from=zero3.out / "checkpoints/checkpoint-2"
    )
    assert [step for (step,) in logged(resumed.out, "step")] == [3]
    assert same(weights_of(zero3.out / "model"), weights_of(resumed.out / "model"))


@needs_deepspeed
def test_lora_under_zero_3_leaves_the_whole_model(tmp_path, alone, question):
    stage = sharded(alone, tmp_path / "sft", 3, lora_rank=4, learning_rate=1e-2)
    merged = logits(load(stage.out / "model")[0], question)
    assert torch.allclose(
        logits(base_and_adapter(Path(stage.base), stage.out / "adapter"), question),
        merged,
        atol=1e-5,
    )
    assert not torch.allclose(logits(load(stage.base)[0], question), merged, atol=1e-2)


@needs_deepspeed
def test_gcpo_under_zero_3_ends_with_a_model_that_loads(tmp_path, alone, question):
    stage = gcpo_config(
        alone[0].data,
        Path(alone[0].base),
        tmp_path / "gcpo",
        steps=1,
        updates=1,
        deepspeed="launch/zero3.json",
    )
    done = command("rrm.verifier.gcpo", stage, ranks=2)
    assert done.returncode == 0, done.stderr
    assert weights_of(stage.out / "model").keys() == weights_of(Path(stage.base)).keys()
    assert logits(load(stage.out / "model")[0], question).isfinite().all()


def test_deepspeed_without_a_launcher_is_refused(tmp_path, training_data, tiny_checkpoint):
    with pytest.raises(InputError, match="needs a launcher"):
        start(config(training_data, tiny_checkpoint, tmp_path, deepspeed="launch/zero3.json"))


def test_a_zero_3_that_could_save_no_model_is_refused_before_it_trains(
    tmp_path, training_data, tiny_checkpoint, monkeypatch
):
    monkeypatch.setenv("RANK", "0")
    (tmp_path / "zero3.json").write_text('{"zero_optimization": {"stage": 3}}')
    with pytest.raises(InputError, match="stage3_gather_16bit_weights_on_model_save"):
        start(
            config(training_data, tiny_checkpoint, tmp_path, deepspeed=str(tmp_path / "zero3.json"))
        )


# Golden trajectories. To record them again: RECORD_GOLDEN=1 python -m pytest
# tests/verifier/test_training.py -k golden


def gcpo_config(data: Path, base: Path, out: Path, **more: Any) -> GCPOStage:
    return GCPOStage(**{
        "data": data, "base": str(base), "out": out, "steps": 4, "pairs_per_step": 2, "traces_per_image": 4, "updates": 2, "warmup": 0,
        "learning_rate": 1e-3, "max_tokens": 64, **more,
    })  # fmt: skip


@pytest.fixture
def replayed(monkeypatch):
    """Runs GCPO on answers with scores drawn by row and prompt in the place of sampled ones, which
    no two machines sample alike."""

    def run(data: Path, base: Path, out: Path, **more: Any) -> Path:
        tokenizer = load(base)[1].tokenizer

        def answer(row: int, ids: torch.Tensor) -> list[int]:
            rng = np.random.default_rng([row, *ids.tolist()])
            asked = len(re.findall(r" \d+\. ", tokenizer.decode(ids)))
            text = write_answer(
                tuple(rng.integers(0, 2, asked).tolist()), float(rng.integers(0, 21)) / 2
            )
            return tokenizer(text + "<|im_end|>").input_ids

        def complete(model: Any, batch: Any, options: Any) -> list[list[int]]:
            return [answer(row, ids) for row, ids in enumerate(batch["input_ids"])]

        monkeypatch.setattr("rrm.verifier.gcpo.fast.complete", complete)
        stage = gcpo_config(data, base, out, **more)
        out.mkdir(exist_ok=True)
        gcpo.train(stage, out)
        return out

    return run


def check_golden(name: str, out: Path, data: Path, base: Path, keys: tuple[str, ...]) -> None:
    """Compares a run with the recorded one, or records it. Other sums' order and other kernels move
    float32 by some 1e-6."""
    inputs = hashlib.sha256(
        (base / "tokenizer.json").read_bytes() + (base / "model.safetensors").read_bytes()
    )
    for table in ("sft.parquet", "preferences.parquet"):
        inputs.update(repr(pq.read_table(data / table).to_pylist()).encode())
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    steps = [
        {key: line[key] for key in keys if key in line} for line in lines
    ]  # GCPO's second update has no new answers
    found = {"inputs": inputs.hexdigest()[:16], "steps": steps}
    path = GOLDEN / f"{name}.json"
    if os.environ.get("RECORD_GOLDEN"):
        write_json(path, found)
    golden = json.loads(path.read_text())
    assert found["inputs"] == golden["inputs"], (
        "the tiny model or its data changed: if that was meant, record again"
    )
    for now, then in zip(found["steps"], golden["steps"], strict=True):
        assert now == pytest.approx(then, rel=1e-3, abs=1e-6)


def test_the_first_steps_of_sft_are_the_golden_ones(tmp_path, training_data, tiny_checkpoint):
    out = trained(config(training_data, tiny_checkpoint, tmp_path / "sft", steps=5, warmup=0.0))
    check_golden("sft", out, training_data, tiny_checkpoint, ("step", "loss", "grad_norm"))


def test_the_first_steps_of_gcpo_on_given_answers_are_the_golden_ones(
    tmp_path, training_data, tiny_checkpoint, replayed
):
    out = replayed(training_data, tiny_checkpoint, tmp_path / "gcpo")
    check_golden(
        "gcpo", out, training_data, tiny_checkpoint, ("step", "loss", "grad_norm", "win_ratio")
    )


def test_the_figures_of_a_run_leave_out_what_its_last_steps_had_no_value_of():
    lines = [
        {"step": 1, "loss": 0.5, "seconds": 2.0, "tie_rate": 0.25, "grad_norm": 1.23456},
        {"step": 2, "loss": 0.25, "seconds": 3.0, "tie_rate": None, "grad_norm": 2.0},
    ]
    assert figures(lines) == {
        "steps": 2,
        "seconds": 3.0,
        "loss": 0.25,
        "tie_rate": 0.25,
        "grad_norm": 2.0,
    }
    assert figures([]) == {}


# Trackers


def test_metrics_go_to_a_tracker_too_and_one_that_is_not_installed_is_one_sentence(
    tmp_path, training_data, tiny_checkpoint, monkeypatch
):
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    out = trained(
        config(training_data, tiny_checkpoint, tmp_path / "out", steps=2, report_to="tensorboard")
    )
    assert list((out / "tensorboard").glob("events.out.tfevents.*"))
    assert (out / "metrics.jsonl").is_file()
    with pytest.raises(InputError, match="pip install wandb"):
        trained(config(training_data, tiny_checkpoint, tmp_path / "no", report_to="wandb"))
