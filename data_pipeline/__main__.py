"""`python -m data_pipeline [run|plan] --config configs/sandbox/data.yaml`"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from data_pipeline.planning import dry_run, plan
from data_pipeline.run import ENGINES, DataConfig, run
from rrm.errors import InputError
from rrm.rows.sources import fingerprint_files
from rrm.runtime.lock import locked
from rrm.runtime.stage import command, run_stage


def arguments_of(given: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="data_pipeline", description="Make SFT data and preference pairs with teachers.")
    parser.add_argument(
        "what", nargs="?", default="run", choices=["run", "plan"], help="plan: what the whole will cost, from a sample"
    )
    parser.add_argument("--config", default="configs/sandbox/data.yaml")
    parser.add_argument("--out", help="another folder than the config's")
    parser.add_argument("--variant", choices=["T", "V", "T+V", "holistic"], help="another variant than the config's")
    parser.add_argument("--limit", type=int, help="only so many tasks, and so many pairs")
    parser.add_argument("--max-cost", type=float, help="stop before more than this is spent on the set, all runs together")
    parser.add_argument("--dry-run", action="store_true", help="show which calls would be made, and make none")
    parser.add_argument("--retry", action="store_true", help="make the set again and ask once more for what failed")
    parser.add_argument("--engine", choices=ENGINES, default="local", help="ray: on a Ray cluster, with the same result")
    parser.add_argument("--sample", type=int, default=50, help="tasks that 'plan' measures")
    return parser.parse_args(given)


def main(given: list[str]) -> None:
    """The command."""
    asked = arguments_of(given)
    config = DataConfig.read(asked.config, out=asked.out, variant=asked.variant, limit=asked.limit)
    if asked.max_cost is not None and asked.max_cost <= 0:
        raise InputError("--max-cost must be more than 0.")
    if asked.dry_run or asked.what == "plan":
        with locked(config.out):
            dry_run(config) if asked.dry_run else plan(config, asked.sample, asked.max_cost)
    else:
        sources = [config.tasks, config.candidates, config.pairs, *config.benchmarks]
        files = [path for where in sources if where for path in fingerprint_files(where)]
        inputs: list[str | Path] = [*files, *([config.exemplars_path] if config.exemplars_path else [])]
        afresh = "what failed is asked for again" if asked.retry else None
        run_stage("data", config.out, config, inputs, lambda out: run(config, out, asked.max_cost, asked.engine), afresh)


if __name__ == "__main__":
    command(lambda: main(sys.argv[1:]))
