"""`python -m data_pipeline.perf` measures the pipeline and writes runs/bench/data.json; `--only ceiling kills` a part of it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data_pipeline.perf import hostile, kills, memory, photographs, rates
from rrm.runtime.stage import write_json

PARTS: dict[str, Callable[[], dict[str, Any]]] = {
    "rate_limited": rates.rate_limited,
    "ceiling": rates.ceiling,
    "hostile": hostile.measure,
    "photographs": photographs.measure,
    "kills": kills.measure,
    "memory": memory.measure,
}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="data_pipeline.perf", description="Measure the data pipeline.")
    parser.add_argument("--out", type=Path, default=Path("runs/bench/data.json"))
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    given = parser.parse_args()
    found: dict[str, Any] = json.loads(given.out.read_text()) if given.out.is_file() else {}
    for name in given.only:
        print(f"── {name} ──", flush=True)
        found[name] = PARTS[name]()
        print(json.dumps(found[name], indent=1), flush=True)
        write_json(given.out, found)
    print(given.out)


if __name__ == "__main__":
    main()
