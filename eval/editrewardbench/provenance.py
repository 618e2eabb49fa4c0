"""Which data, which prompt and which software a result goes back to."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from eval.pairs import PairIndex

PACKAGES = (
    "edit-rrm",
    "torch",
    "transformers",
    "vllm",
    "openai",
    "datasets",
    "pillow",
    "numpy",
    "scipy",
)
TEMPLATE = "{instruction}"
"""Stands for every instruction where a prompt is hashed."""


def short_hash(*parts: str) -> str:
    """16 hex digits of what the parts hash to."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def content_hash(pairs: Sequence[PairIndex]) -> str:
    """A hash of all images, instructions, labels and groups, in any order and file format."""
    required = [[] if p.requirement is None else [p.requirement] for p in pairs]
    lines = sorted(
        json.dumps(
            [p.source, *p.edited, p.instruction, p.label, p.task_type, p.dimension, p.group, *more]
        )
        for p, more in zip(pairs, required, strict=True)
    )
    return short_hash(*lines)


def revision_of(where: str) -> str | None:
    """The revision of a hub id; None for a local path and a hub id without one."""
    return None if Path(where).exists() else where.partition("@")[2].partition(":")[0] or None


def versions() -> dict[str, str]:
    """Versions of Python and the installed packages that a result depends on."""
    installed = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            installed[package] = version(package)
        except PackageNotFoundError:
            continue
    return installed
