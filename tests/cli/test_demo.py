"""The whole job in miniature: every stage of the demo, through its own command, and a second run
that skips them all."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from rrm.demo import STAGES, run
from tests.support import ROOT
from tests.support.processes import forked

SMALLER = {
    "world": {"train_tasks": 12, "test_tasks": 8, "candidates_per_task": 2, "pair_tasks": 8, "pair_count": 12, "benchmark_sources": 6, "benchmark_pairs": 8},
    "sft": {"steps": 2, "batch": 4},
    "gcpo": {"steps": 2, "pairs_per_step": 2, "traces_per_image": 2, "max_tokens": 64},
    "edit_nft": {"epochs": 1, "groups": 2, "group_size": 2},
    "edit_grpo": {"epochs": 1, "groups": 2, "group_size": 2},
    "edit_eval": {"task_count": 6, "seed_count": 1},
}  # fmt: skip


def shrink(folder: Path) -> Path:
    """The demo's configs, smaller, and with their outputs in `folder`."""
    configs = folder / "configs"
    configs.mkdir()
    for path in (ROOT / "configs/sandbox").glob("*.yaml"):
        values = yaml.safe_load(
            path.read_text()
            .replace("runs/demo", str(folder / "run"))
            .replace("package:rrm/sandbox", str(ROOT / "rrm/sandbox"))
        )
        (configs / path.name).write_text(yaml.safe_dump({**values, **SMALLER.get(path.stem, {})}))
    return configs


def demo(configs: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "rrm", "demo", "--configs", str(configs)],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
    )


@pytest.mark.slow
def test_every_stage_feeds_the_next_and_a_second_run_skips_them(tmp_path, monkeypatch, capsys):
    configs = shrink(tmp_path)
    first = demo(configs, tmp_path)
    assert first.returncode == 0, first.stdout + first.stderr
    report = tmp_path / "run/report.html"
    assert first.stdout.strip().splitlines()[-1].endswith(str(report))
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert set(summary["rrm"]) == {"chance", "teacher", "sft", "gcpo"}
    for row in summary["rrm"].values():
        assert set(row) == {
            "strict",
            "half_tie",
            "ci95",
            "n",
            "ties",
            "unparseable",
            "verdict_balanced_accuracy",
        }
        assert row["n"] == 8
    assert set(summary["editor"]) == {"copy_source", "base", "nft", "grpo"}
    for row in summary["editor"].values():
        assert set(row) == {"reward", "all_pass", "by_principle", "ci95"}
        assert 0 <= row["reward"] <= 1
    done = {Path(config).stem.replace("_", "-") for _, config in STAGES} - {"report"}
    assert done <= set(summary["seconds"])
    assert done <= set(summary["peak_rss_mb"])
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").glob("*/stage.json")}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rrm.demo.run_politely", lambda command: forked(command).returncode)
    run(configs)  # ends the test where a stage fails
    assert capsys.readouterr().err.count("done already") >= len(done)
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_folder_without_the_configs_is_refused(tmp_path):
    done = demo(tmp_path, tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "lacks world.yaml" in done.stderr
