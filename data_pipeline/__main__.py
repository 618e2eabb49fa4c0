"""`python -m data_pipeline --config configs/sandbox/data.yaml`"""

from __future__ import annotations

import argparse
import sys

from data_pipeline.run import DataConfig, run
from rrm.stage import command, run_stage


def main(arguments: list[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="data_pipeline", description="Make SFT data and preference pairs with teachers.")
    parser.add_argument("--config", default="configs/sandbox/data.yaml")
    parser.add_argument("--out", help="another folder than the config's")
    parser.add_argument("--variant", choices=["T", "V", "T+V", "holistic"], help="another variant than the config's")
    given = parser.parse_args(arguments)
    config = DataConfig.read(given.config, out=given.out, variant=given.variant)
    run_stage("data", config.out, config, config.inputs, lambda out: run(config, out))


if __name__ == "__main__":
    command(lambda: main(sys.argv[1:]))
