"""Whether every extra can be installed with the tested versions on Linux with CUDA: resolved, not
installed.

`make check` runs it. It exits with 1 where there is no solution, in uv's words; where the package
index cannot be reached it says so, and that nothing was checked, and exits with 0. What was found
is kept in .venv/resolved until setup.cfg or constraints.txt changes.
"""

from __future__ import annotations

import configparser
import hashlib
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DECLARED, TESTED = ROOT / "setup.cfg", ROOT / "constraints.txt"
STAMP = ROOT / ".venv" / "resolved"
PYTHONS = ("3.11", "3.12")
PLATFORM = "x86_64-manylinux_2_28"
UNSATISFIABLE = 1
"""uv's exit code where there is no solution."""


def requirements() -> str:
    """What the project and all of its extras need: a solution for all together holds one for each."""
    declared = configparser.ConfigParser()
    declared.read(DECLARED)
    groups = [declared["options"]["install_requires"], *declared["options.extras_require"].values()]
    lines = [line for group in groups for line in group.splitlines()]
    return "\n".join(line for line in lines if not line.startswith("edit-rrm["))


def index() -> list[str]:
    """The option for the package index that pip is set up with, if it is another than PyPI."""
    asked = [sys.executable, "-m", "pip", "config", "get"]
    for name in (":env:.index-url", "global.index-url"):
        found = subprocess.run([*asked, name], capture_output=True, text=True, check=False)
        if found.returncode == 0 and found.stdout.strip():
            return ["--default-index", found.stdout.strip()]
    return []


def main() -> int:
    """Resolves for each Python; returns the exit code."""
    state = hashlib.sha256(
        Path(__file__).read_bytes() + DECLARED.read_bytes() + TESTED.read_bytes()
    ).hexdigest()
    if STAMP.is_file() and STAMP.read_text() == state:
        return 0
    where = index()
    for python in PYTHONS:
        line = [
            sys.executable, "-m", "uv", "pip", "compile", "-", "--quiet", "--no-header", "--constraints", str(TESTED),
            "--python-version", python, "--python-platform", PLATFORM, *where,
        ]  # fmt: skip
        found = subprocess.run(
            line, input=requirements(), capture_output=True, text=True, check=False
        )
        said = found.stderr.strip()
        if found.returncode == UNSATISFIABLE:
            print(
                f"error: the extras cannot be installed with constraints.txt on Linux with CUDA, Python {python}:\n{said}"
            )
            return 1
        if found.returncode:
            print(
                f"note: whether every extra can be installed was not checked: the package index cannot be used.\n{said}"
            )
            return 0
    STAMP.write_text(state)
    print("every extra can be installed on Linux with CUDA")
    return 0


if __name__ == "__main__":
    sys.exit(main())
