"""`rrm perf data` measures the pipeline and writes runs/bench/data.json; `--only ceiling --only
kills` parts of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from data_pipeline.perf import hostile, kills, memory, photographs, rates
from rrm.errors import InputError
from rrm.runtime.stage import write_json

PARTS: dict[str, Callable[[], dict[str, Any]]] = {
    "rate_limited": rates.rate_limited,
    "ceiling": rates.ceiling,
    "hostile": hostile.measure,
    "photographs": photographs.measure,
    "kills": kills.measure,
    "memory": memory.measure,
}


def measure(only: Sequence[str] | None, out: Path) -> None:
    """Measures the parts named, or all, each of which is written to `out` as it ends; parts
    measured before stay."""
    if unknown := set(only or ()) - PARTS.keys():
        raise InputError(f"There is no part {min(unknown)!r}; give one of {', '.join(PARTS)}.")
    figures: dict[str, Any] = json.loads(out.read_text()) if out.is_file() else {}
    for name in only or PARTS:
        print(f"── {name} ──", flush=True)
        figures[name] = PARTS[name]()
        print(json.dumps(figures[name], indent=1), flush=True)
        write_json(out, figures)
    print(out)
