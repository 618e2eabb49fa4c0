"""The whole job, stage by stage, each in a process of its own: `rrm demo`.

A stage that is done is skipped, one that was interrupted carries on; the last line is the report's
path.
"""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from rrm.errors import InputError

log = logging.getLogger(__name__)

STAGES = (
    ("world", "world.yaml"),
    ("data", "data.yaml"),
    ("sft", "sft.yaml"),
    ("gcpo", "gcpo.yaml"),
    ("eval", "eval.yaml"),
    ("edit", "edit_nft.yaml"),
    ("edit", "edit_grpo.yaml"),
    ("edit-eval", "edit_eval.yaml"),
    ("report", "report.yaml"),
)
"""Subcommand of `rrm` and config of every stage, in the order in which one feeds the next."""


def run_politely(command: Sequence[str]) -> int:
    """Runs the command to its end; its exit code. Where we are stopped, it is asked to stop, and
    waited for."""
    process = subprocess.Popen(command)
    try:
        return process.wait()
    except BaseException:
        with suppress(subprocess.TimeoutExpired):
            process.wait(2)  # Ctrl-C in a terminal reaches it, too
        process.terminate()
        process.wait()
        raise


def run(configs: Path) -> None:
    """Runs every stage with its config in this folder. Raises InputError where one is missing,
    SystemExit where a stage fails."""
    missing = [name for _, name in STAGES if not (configs / name).is_file()]
    if missing:
        raise InputError(
            f"{configs} lacks {', '.join(missing)}; configs/sandbox shows what belongs there."
        )
    for number, (stage, config) in enumerate(STAGES, 1):
        log.info("── %d/%d %s ──", number, len(STAGES), Path(config).stem.replace("_", "-"))
        code = run_politely([sys.executable, "-m", "rrm", stage, "--config", str(configs / config)])
        if code != 0:
            raise SystemExit(code)
