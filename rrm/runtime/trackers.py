"""Experiment trackers for training loops of our own, as trl's `report_to` is for the trainers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from rrm.errors import InputError

ReportTo = Literal["none", "trackio", "tensorboard", "wandb"]
Report = Callable[[Mapping[str, Any], int], None]
"""(metrics, step): reports the metrics that are numbers."""


def check_installed(report_to: ReportTo) -> None:
    """Raises InputError where the tracker's package is not installed."""
    if report_to != "none" and find_spec(report_to) is None:
        raise InputError(
            f"'report_to: {report_to}' needs a package; pip install {report_to}, or set none."
        )


def trainer_trackers(report_to: ReportTo, folder: Path) -> list[str]:
    """`report_to` of transformers' trainers; tensorboard writes its files into `folder`.

    Raises InputError where the tracker's package is not installed.
    """
    check_installed(report_to)
    if report_to == "tensorboard":
        os.environ["TENSORBOARD_LOGGING_DIR"] = str(folder)  # the trainers' only way to set it
    return [] if report_to == "none" else [report_to]


@contextmanager
def opened_tracker(report_to: ReportTo, name: str, folder: Path) -> Iterator[Report]:
    """Reports to the tracker (tensorboard: files in `folder`) until the block ends; with "none",
    nothing.

    Raises InputError where the tracker's package is not installed.
    """
    if report_to == "none":
        yield lambda metrics, step: None
        return
    check_installed(report_to)
    from accelerate import PartialState
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    PartialState()
    options = {"logging_dir": str(folder)} if report_to == "tensorboard" else {}
    tracker = LOGGER_TYPE_TO_CLASS[report_to](name, **options)
    if hasattr(tracker, "start"):  # newer accelerate opens the run here, older in the constructor
        tracker.start()
    try:
        yield lambda metrics, step: tracker.log(
            {key: value for key, value in metrics.items() if isinstance(value, int | float)},
            step=step,
        )
    finally:
        tracker.finish()
