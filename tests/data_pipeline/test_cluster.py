"""The pipeline on Ray Data: what comes out is what the local engine gives, row for row."""

import sqlite3
from contextlib import closing

import pytest

from data_pipeline.run import run
from data_pipeline.settings import DataConfig
from rrm.errors import InputError
from rrm.sandbox.build import WorldConfig, build
from rrm.sandbox.teacher import running_teacher

FILES = (
    "sft.parquet",
    "preferences.parquet",
    "same.parquet",
    "traces.parquet",
    "quarantine.jsonl",
    "card.json",
)
TASKS, CANDIDATES = 60, 3


def config_of(world, out, url, **values):
    careful = {"model": "sandbox-careful", "temperatures": [0.0], "price_in": 1.0}
    base = {
        "out": str(out),
        "tasks": str(world / "tasks"),
        "candidates": str(world / "candidates.jsonl"),
        "pairs": str(world / "pairs.jsonl"),
        "teacher_url": url,
        "decomposer": careful,
        "thinkers": [{"model": "sandbox-lenient"}, {"model": "sandbox-vague"}],
        "gold_teacher": careful,
        "principles": {"follow": [1, 3], "keep": [1, 3], "quality": [1, 2]},
        "principles_total": [3, 6],
        "exemplars": None,
        "concurrency": 8,
    }
    return DataConfig.model_validate({**base, **values})


@pytest.mark.slow
def test_ray_gives_the_same_bytes_and_the_budget_holds_there_too(tmp_path):
    world = tmp_path / "world"
    sizes = {
        "train_tasks": TASKS,
        "test_tasks": 1,
        "candidates_per_task": CANDIDATES,
        "pair_tasks": 5,
        "pair_count": 15,
    }
    build(WorldConfig(out=str(world), benchmark_sources=2, benchmark_pairs=2, **sizes), world)
    with running_teacher() as url:
        for engine in ("local", "ray"):
            (tmp_path / engine / "data").mkdir(parents=True)
            counts = run(
                config_of(world, tmp_path / engine / "data", url),
                tmp_path / engine / "data",
                engine=engine,
            )
            assert counts["quadruples"] == TASKS * CANDIDATES
        tight = config_of(world, tmp_path / "tight" / "data", url)
        (tmp_path / "tight" / "data").mkdir(parents=True)
        with pytest.raises(InputError, match="--max-cost"):
            run(tight, tmp_path / "tight" / "data", max_cost=0.01, engine="ray")
    for file in FILES:
        assert (tmp_path / "local/data" / file).read_bytes() == (
            tmp_path / "ray/data" / file
        ).read_bytes(), file
    with closing(sqlite3.connect(tight.ledger_path)) as base:
        paid, spent = base.execute(
            "SELECT COUNT(*), SUM(prompt_tokens) / 1e6 FROM calls WHERE model = 'sandbox-careful'"
        ).fetchone()
    assert paid > 0
    assert spent <= 0.01
