"""The verifier's bench: its arithmetic by hand, and the whole of it in miniature."""

from __future__ import annotations

import json

import pytest
import torch

from rrm.errors import InputError
from rrm.images import ImageStore
from rrm.perf import verifier as bench


def test_a_ratio_is_the_median_of_the_rounds_ratios():
    # 1/2, 4/2, 9/3: the median is 2, while the medians' own ratio would be 4/2 of other rounds
    assert bench.ratio([1.0, 4.0, 9.0], [2.0, 2.0, 3.0]) == {
        "median": 2.0,
        "n": 3,
        "least": 0.5,
        "most": 3.0,
    }


def test_turns_alternate_and_the_first_round_is_not_kept():
    said: list[str] = []

    def turn(name: str):
        said.append(name)
        return {"seconds": float(len(said))}

    found = bench.in_turns(2, {"a": lambda: turn("a"), "b": lambda: turn("b")}, "")
    assert said == ["a", "b"] * 3
    assert found == {"a seconds": [3.0, 5.0], "b seconds": [4.0, 6.0]}
    said.clear()
    assert bench.in_turns(1, {"a": lambda: turn("a")}, "", warm_up=0) == {"a seconds": [1.0]}


def test_an_update_lasts_from_end_to_end_and_the_first_warms_up():
    clock = bench.Clock()
    clock.ends, clock.rollouts = [10.0, 13.0, 18.0], [9.0, 1.0, 2.0]
    assert clock.measured() == {"step": 4.0, "rollout": 1.5, "update": 2.5}
    assert clock.ends == clock.rollouts == []


def test_the_table_says_which_targets_are_met():
    found = {
        "rollout_speedup": {"median": 2.9, "least": 2.0, "most": 4.0, "n": 5},
        "forward_over_stock": {"median": 1.0, "least": 0.5, "most": 1.1, "n": 5},
        "gcpo_update_over_trl": {"median": 0.7, "least": 0.5, "most": 1.1, "n": 5},
    }
    lines = bench.table({"ratios": found}).splitlines()[1:]
    assert [line.split("5  ")[1] for line in lines] == ["≥ 3.0: not met", "≤ 1.0: met", ""]


def test_pairs_of_one_seed_are_the_same(tmp_path):
    assert bench.sandbox_pairs(ImageStore(tmp_path), 3, 1) == bench.sandbox_pairs(
        ImageStore(tmp_path), 3, 1
    )


def test_a_folder_without_a_checkpoint_is_refused(tmp_path):
    with pytest.raises(InputError, match="is not a checkpoint"):
        bench.run(tmp_path, 4, tmp_path / "v.json")


def test_the_bench_runs_in_miniature(tmp_path, monkeypatch, tiny_checkpoint, capsys):
    for name, value in {"PAIRS": 1, "TRACES": 2, "TOKENS": 5, "ALONE": 1, "STEPS": 2}.items():
        monkeypatch.setattr(bench, name, value)
    out = tmp_path / "bench" / "verifier.json"
    bench.run(tiny_checkpoint, 1, out)
    found = json.loads(out.read_text())
    assert set(bench.TARGETS) <= set(found)
    assert all(found[name] > 0 and found["ratios"][name]["n"] == 1 for name in bench.TARGETS)
    assert found["setting"]["model"] == str(tiny_checkpoint)
    assert found["setting"]["torch_threads"] == torch.get_num_threads()
    assert found["setting"]["tokens"] == 5
    ours, trl = (found["seconds"][f"gcpo {side} step"]["median"] for side in ("ours", "trl"))
    assert found["gcpo_step_over_trl"] == pytest.approx(ours / trl)
    assert "gcpo_step_over_trl" in capsys.readouterr().out
