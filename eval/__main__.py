"""`python -m eval --config configs/sandbox/eval.yaml`: benchmark reward models."""

from __future__ import annotations

import argparse

from eval.run import EvalConfig, run
from rrm.runtime.stage import command


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m eval", description="Benchmark reward models on pairs of edits.")
    parser.add_argument("--config", required=True, help="a YAML file, such as configs/sandbox/eval.yaml")
    parser.add_argument("--limit", type=int, help="only the first so many rows of every dimension")
    arguments = parser.parse_args()
    run(EvalConfig.read(arguments.config, limit=arguments.limit))


if __name__ == "__main__":
    command(main)
