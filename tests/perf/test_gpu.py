"""`make bench-gpu`: its arithmetic by hand, and the same code on a CPU."""

from __future__ import annotations

import json

import pytest
import torch

from rrm.cli import invoke, main
from rrm.doctor import memory
from rrm.perf import gpu as bench_gpu
from tests.support.plans import SMALL
from tests.support.processes import forked


def test_flops_by_hand():
    # two layers of 608 weights, attention 2·2·8 a token and position, the head 100 × 8 for ten
    # tokens
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
    monkeypatch.setattr(
        bench_gpu.subprocess, "run", forked
    )  # every stage is still a process of its own
    out = tmp_path / "gpu.json"
    invoke(["perf", "gpu", "--size", "tiny", "--device", "cpu", "--steps", 2, "--out", out])
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
    assert [path.name for path in tmp_path.iterdir()] == [
        "gpu.json"
    ]  # checkpoints of gigabytes are not left behind


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_gpu_bench_without_a_gpu_is_one_sentence(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["perf", "gpu"])
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("error: no CUDA GPU is visible")
