"""The whole job, stage by stage, each in a process of its own: `python -m rrm.demo --configs configs/sandbox`.

A stage that is done is skipped, one that was interrupted carries on; the last line is the report's path.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from rrm.errors import InputError
from rrm.package_files import package_file
from rrm.runtime.stage import command

STAGES = (
    ("world", "rrm.sandbox.build", "world.yaml"),
    ("data", "data_pipeline", "data.yaml"),
    ("sft", "rrm.verifier.sft", "sft.yaml"),
    ("gcpo", "rrm.verifier.gcpo.trainer", "gcpo.yaml"),
    ("eval", "eval.editrewardbench run", "eval.yaml"),
    ("edit-nft", "rrm.editor.train", "edit_nft.yaml"),
    ("edit-grpo", "rrm.editor.train", "edit_grpo.yaml"),
    ("edit-eval", "rrm.editor.evaluate", "edit_eval.yaml"),
    ("report", "eval.report", "report.yaml"),
)
"""Name, module (with its subcommand, if any) and config of every stage, in the order in which one feeds the next."""


def run_politely(command: Sequence[str]) -> int:
    """Runs the command to its end; its exit code. Where we are stopped, it is asked to stop, and waited for."""
    process = subprocess.Popen(command)
    try:
        return process.wait()
    except BaseException:
        with suppress(subprocess.TimeoutExpired):
            process.wait(2)  # Ctrl-C in a terminal reaches it, too
        process.terminate()
        process.wait()
        raise


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--configs", type=Path, default=package_file("rrm/configs/sandbox"), help="default: those of the package"
    )
    configs = parser.parse_args().configs
    missing = [name for _, _, name in STAGES if not (configs / name).is_file()]
    if missing:
        raise InputError(f"{configs} lacks {', '.join(missing)}; configs/sandbox shows what belongs there.")
    for number, (stage, module, config) in enumerate(STAGES, 1):
        print(f"── {number}/{len(STAGES)} {stage} ──", flush=True)
        code = run_politely([sys.executable, "-m", *module.split(), "--config", str(configs / config)])
        if code != 0:
            raise SystemExit(code)


if __name__ == "__main__":
    command(main)
