"""What several tests start from: a little world with true verdicts, a tiny untrained verifier, and
the command `editrewardbench`."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import rrm.cli.sandbox  # noqa: F401  `teacher_url: sandbox` is a server that the command registers
from rrm.images import ImageStore
from rrm.prompts import write_answer, write_principles
from rrm.records import PreferencePair, Record, SFTRow
from rrm.runtime.logs import set_up
from rrm.sandbox.edits import (
    decompose,
    human_utility,
    sample_steps,
    true_verdicts,
    write_instruction,
)
from rrm.sandbox.language import think
from rrm.sandbox.reading import read_scene
from rrm.sandbox.scripted_edits import EDITORS, script_edit
from rrm.sandbox.world import draw, sample_scene

torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)
set_up()  # records of progress are lines on stderr, as in a command


def write_records(path: Path, records: list[Record]) -> None:
    """The records as Parquet."""
    pq.write_table(pa.Table.from_pylist([record.model_dump() for record in records]), path)


def write_training_data(folder: Path, rows: int, pairs: int, seed: int = 0) -> Path:
    """sft.parquet, preferences.parquet and images/ as the data stage leaves them, with true
    verdicts."""
    rng = np.random.default_rng(seed)
    store = ImageStore(folder / "images")
    sft: list[Record] = []
    preferences: list[Record] = []
    while len(sft) < rows or len(preferences) < pairs:
        scene = sample_scene(rng)
        steps = sample_steps(rng, scene)
        principles, instruction, image = decompose(steps), write_instruction(steps), draw(scene)
        edits = [
            script_edit(rng, scene, steps, str(editor))
            for editor in rng.choice(EDITORS, 2, replace=False)
        ]
        readings = [read_scene(edit) for edit in edits]
        verdicts = [true_verdicts(read_scene(image), reading, steps) for reading in readings]
        utilities = [human_utility(v, steps) for v in verdicts]
        source, edited = store.add(image), [store.add(edit) for edit in edits]
        common = {"source": source, "instruction": instruction, "principles": principles}
        if len(sft) < rows:
            thought = think(read_scene(image), readings[0], steps, principles, verdicts[0])
            target = thought + "\n" + write_answer(verdicts[0], round(2 * utilities[0]) / 2)
            sft.append(
                SFTRow(
                    row_id=f"j{len(sft)}", kind="judge", edited=edited[0], target=target, **common
                )
            )
            if len(sft) % 10 == 0:
                target = write_principles(principles)
                sft.append(
                    SFTRow(
                        row_id=f"d{len(sft)}",
                        kind="decompose",
                        edited=None,
                        target=target,
                        **common,
                    )
                )
        if len(preferences) < pairs and abs(utilities[0] - utilities[1]) >= 1:
            label = "a" if utilities[0] > utilities[1] else "b"
            pair_id = f"p{len(preferences)}"
            preferences.append(
                PreferencePair(
                    pair_id=pair_id, edited_a=edited[0], edited_b=edited[1], label=label, **common
                )
            )
    write_records(folder / "sft.parquet", sft)
    write_records(folder / "preferences.parquet", preferences)
    return folder


@pytest.fixture(scope="session")
def training_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder of 40 SFT rows and 12 pairs."""
    return write_training_data(tmp_path_factory.mktemp("data"), rows=40, pairs=12)


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained tiny verifier with its processor, asked in the brief style."""
    from rrm.sandbox.models.verifier import build_model, build_processor
    from rrm.verifier.checkpoint import Origin, save

    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    processor = build_processor()
    save(build_model(processor), processor, folder, "brief", Origin(stage="test"))
    return folder


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[Any, str, str]]:
    """Runs `editrewardbench` with these arguments; gives exit code, stdout and stderr."""
    from eval.editrewardbench import cli

    def call(*arguments: object) -> tuple[Any, str, str]:
        monkeypatch.setattr("sys.argv", ["editrewardbench", *map(str, arguments)])
        try:
            cli.main()
            code: Any = 0
        except SystemExit as stop:
            code = stop.code
        said = capsys.readouterr()
        return code, said.out, said.err

    return call
