"""What a run would ask, and what the whole will cost."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from data_pipeline.planning import Measured, Whole, dry_run, extrapolate, hours_of, plan
from data_pipeline.settings import DataConfig
from rrm.cli import invoke
from rrm.errors import InputError, NothingMade
from rrm.sandbox.build import WorldConfig, build
from rrm.sandbox.teacher import running_teacher

TASKS, CANDIDATES, PAIR_TASKS = 6, 3, 4


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    out = tmp_path_factory.mktemp("world")
    sizes = {
        "test_tasks": 1,
        "benchmark_sources": 3,
        "benchmark_pairs": 3,
        "pair_tasks": PAIR_TASKS,
        "pair_count": 12,
    }
    build(
        WorldConfig(out=str(out), train_tasks=TASKS, candidates_per_task=CANDIDATES, **sizes), out
    )
    return out


@pytest.fixture(scope="module")
def url():
    with running_teacher() as started:
        yield started


@pytest.fixture
def config(world, url, tmp_path):
    careful = {"model": "sandbox-careful", "temperatures": [0.0], "price_in": 1.0, "price_out": 5.0}
    return DataConfig.model_validate(
        {
            "out": str(tmp_path / "data"),
            "tasks": str(world / "tasks"),
            "candidates": str(world / "candidates.jsonl"),
            "pairs": str(world / "pairs.jsonl"),
            "teacher_url": url,
            "decomposer": careful,
            "thinkers": [
                {"model": "sandbox-lenient", "temperatures": [0.3, 1.0]},
                {"model": "sandbox-hasty"},
            ],
            "gold_teacher": careful,
            "principles": {"follow": [1, 3], "keep": [1, 3], "quality": [1, 2]},
            "principles_total": [3, 6],
            "exemplars": None,
        }
    )


def write(config, path):
    path.write_text(json.dumps(config.model_dump(mode="json")))
    return str(path)


def test_a_dry_run_counts_every_call_and_makes_none(config, tmp_path, capsys):
    found = dry_run(config)
    edits = TASKS * CANDIDATES
    expected = {
        "decompose | sandbox-careful": TASKS + PAIR_TASKS,
        "think | sandbox-lenient": 2 * edits,
        "think | sandbox-hasty": edits,
        "verify | sandbox-careful": edits,
    }
    assert found["calls"] == expected
    assert found["in_ledger"] == 0
    assert f"{2 * edits:,}" in capsys.readouterr().out
    assert not (tmp_path / "data").exists()
    invoke(["data", "--config", write(config, tmp_path / "d.yaml")])
    again = dry_run(config)
    assert again["calls"] == {}
    assert again["in_ledger"] == sum(expected.values())
    holistic = dry_run(config.model_copy(update={"variant": "holistic"}))
    assert holistic["calls"] == {
        name: count for name, count in expected.items() if name.startswith("think")
    }


def test_a_plan_of_the_whole_is_what_the_run_then_takes(config, tmp_path):
    found = plan(config, size=TASKS)
    assert list((tmp_path / "data.images").rglob("*.png"))  # kept for the run
    again = dry_run(config)
    assert set(again["calls"]) == {
        "decompose | sandbox-careful"
    }  # of the pairs: the sample's answers are in the ledger
    invoke(["data", "--config", write(config, tmp_path / "d.yaml")])
    assert list((tmp_path / "data/images").rglob("*.png"))
    assert not (tmp_path / "data.images").exists()
    bill = json.loads((tmp_path / "data/card.json").read_text())["bill"]
    for row in bill["by_stage"]:
        line = found["stages"][f"{row['stage']} | {row['model']}"]
        assert line["calls"]["estimate"] == row["calls"]
        assert line["calls"]["low"] <= row["calls"] <= line["calls"]["high"]
        if row["stage"] != "decompose":  # the pairs' tasks are not in the sample
            assert line["money"]["estimate"] == pytest.approx(row["money"], abs=1e-4)
            assert line["prompt_tokens"]["estimate"] == row["prompt_tokens"]
    assert json.loads((tmp_path / "data.plan.json").read_text()) == found


def test_a_budget_stops_a_run_before_it_is_exceeded_and_a_higher_one_carries_on(config, tmp_path):
    path = write(config, tmp_path / "d.yaml")
    with pytest.raises(InputError, match="higher limit"):
        invoke(["data", "--config", path, "--max-cost", "0.02"])
    invoke(["data", "--config", path, "--max-cost", "100"])
    money = json.loads((tmp_path / "data/card.json").read_text())["bill"]["total"]["money"]
    assert money > 0
    with pytest.raises(InputError, match="more than 0"):
        invoke(["data", "--config", path, "--max-cost", "0"])


def values(calls, prompt, completion, seconds):
    return np.array([calls, prompt, completion, seconds], float)


def test_the_whole_is_scaled_by_tasks_and_by_quadruples(config):
    measured = [
        Measured(
            {
                ("decompose", "sandbox-careful"): values(1, 100, 10, 1),
                ("verify", "sandbox-careful"): values(2, 40, 4, 2),
            },
            2,
        ),
        Measured(
            {
                ("decompose", "sandbox-careful"): values(3, 300, 30, 3),
                ("verify", "sandbox-careful"): values(4, 80, 8, 4),
            },
            4,
        ),
    ]
    found = extrapolate(
        config, measured, Whole(filtered=0, decomposed=1000, judged=500, quadruples=3000), seed=0
    )
    decompose, verify = (
        found["stages"]["decompose | sandbox-careful"],
        found["stages"]["verify | sandbox-careful"],
    )
    assert decompose["calls"] == {"estimate": 2000, "low": 1000, "high": 3000}
    assert decompose["money"]["estimate"] == pytest.approx(1000 * (200 * 1.0 + 20 * 5.0) / 1e6)
    assert verify["calls"] == {
        "estimate": 3000,
        "low": 3000,
        "high": 3000,
    }  # one per quadruple in both
    assert verify["prompt_tokens"]["estimate"] == 60_000
    unknown = extrapolate(
        config, measured, Whole(filtered=0, decomposed=1000, judged=500, quadruples=None), seed=0
    )
    assert unknown["stages"]["verify | sandbox-careful"]["calls"]["estimate"] == 1500


def test_hours_are_those_of_the_tightest_limit_pass_by_pass(config):
    teachers = {teacher.model: teacher for teacher in config.pool}
    limited = {
        "sandbox-careful": teachers["sandbox-careful"].model_copy(
            update={"requests_per_minute": 10.0, "concurrency": 4}
        ),
        "sandbox-lenient": teachers["sandbox-lenient"].model_copy(
            update={"tokens_per_minute": 1000.0, "concurrency": 100}
        ),
    }
    totals = {
        ("decompose", "sandbox-careful"): values(
            600, 0, 0, 400
        ),  # 60 min by requests, 100 s by latency
        ("think", "sandbox-lenient"): values(10, 50_000, 10_000, 100),  # 60 min by tokens
        ("verify", "sandbox-careful"): values(
            300, 0, 0, 28_800
        ),  # 30 min by requests, 120 min by latency
    }
    assert hours_of(limited, config, totals) == pytest.approx(1 + 2)


def test_the_config_in_the_documentation_is_one_that_the_pipeline_takes():
    text = Path("docs/data.md").read_text(encoding="utf-8").split("```yaml\n")[1].split("```")[0]
    config = DataConfig.model_validate(yaml.safe_load(text))
    assert config.thinkers[0].one_by_one
    assert config.encoding == "gb18030"


def test_a_plan_says_where_no_sampled_task_has_principles(config, capsys):
    strict = config.model_copy(update={"principles_total": (30, 40), "asks": 1})
    with pytest.raises(NothingMade, match=r"None of 3 sampled tasks has valid principles.*too few"):
        plan(strict, 3)
