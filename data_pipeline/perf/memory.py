"""Peak memory of the pipeline from its inputs through decomposition to the written set, for few
tasks and for many."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from data_pipeline.perf.rates import config_of
from data_pipeline.run import run
from rrm.runtime.stage import peak_rss_mb
from rrm.sandbox.fault_server import running_fault_server

TASKS_PER_IMAGE = 10
SIDE = 32


def write_tasks(folder: Path, count: int) -> Path:
    """An Edit-R1 folder of so many tasks, TASKS_PER_IMAGE on each image."""
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    with (folder / "train_metadata.jsonl").open("w") as file:
        for number in range(count):
            name = f"images/{number // TASKS_PER_IMAGE:06d}.png"
            if number % TASKS_PER_IMAGE == 0:
                blocks = rng.integers(0, 256, (8, 8, 3), np.uint8)
                Image.fromarray(blocks).resize((SIDE, SIDE), Image.Resampling.NEAREST).save(
                    folder / name
                )
            file.write(
                json.dumps(
                    {"prompt": f"make object {number} blue", "image": name, "requirement": None}
                )
                + "\n"
            )
    return folder


def measure_one(count: int) -> dict[str, Any]:
    """Peak resident set of this process after it has decomposed so many tasks."""
    with tempfile.TemporaryDirectory() as name, running_fault_server(canned=True) as url:
        folder = Path(name)
        tasks = write_tasks(folder / "tasks", count)
        config = config_of(url, folder, 64).model_copy(
            update={"tasks": str(tasks), "decompose_share": 0.5}
        )
        begin = time.perf_counter()
        counts = run(config, folder / "data")
        return {
            "decomposed": counts["decomposed"],
            "rss_mb": peak_rss_mb(),
            "seconds": round(time.perf_counter() - begin, 1),
        }


def measure(few: int = 2000, many: int = 200_000) -> dict[str, Any]:
    """Both sizes, each in a process of its own."""
    found: dict[str, Any] = {"tasks_per_image": TASKS_PER_IMAGE}
    for name, count in (("2k", few), ("200k", many)):
        command = [sys.executable, "-m", "data_pipeline.perf.memory", str(count)]
        said = json.loads(
            subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.splitlines()[-1]
        )
        if said["decomposed"] != count:
            raise RuntimeError(f"{count - said['decomposed']} of {count} tasks were not decomposed")
        found |= {
            f"rss_mb_{name}": said["rss_mb"],
            f"seconds_{name}": said["seconds"],
            f"tasks_{name}": count,
        }
    found["more_mb"] = round(found["rss_mb_200k"] - found["rss_mb_2k"], 1)
    return found


if __name__ == "__main__":
    print(json.dumps(measure_one(int(sys.argv[1]))))
