"""A task's requirement goes with it through every stage: rows, prompts of every role, SFT rows,
pairs, evidence."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from data_pipeline.decompose import decompose_call
from data_pipeline.gold_verdicts import verify_call
from data_pipeline.intake import take_in
from data_pipeline.questions import about
from data_pipeline.run import opened
from data_pipeline.settings import DataConfig
from data_pipeline.sft_rows import decompose_row, judge_row, read_table, write_table
from data_pipeline.think import think_calls
from data_pipeline.traces import Judged
from rrm.images import ImageStore
from rrm.prompts import write_answer
from rrm.records import PreferencePair, Principle, Quadruple, SFTRow, Task, Trace, Verdicts
from rrm.verifier.gcpo.pairs import pair_rows
from rrm.verifier.sft import conversation

PRINCIPLES = (Principle(question="Is it red now?", category="follow"),)
TASK = Task(task_id="0" * 16, source="s", instruction="make it red", requirement="keep the frame")
SHOWN = 'Requirement: "keep the frame"'


@pytest.fixture
def config(tmp_path):
    for name, colour in (("a", "red"), ("b", "blue"), ("c", "green"), ("d", "white")):
        Image.new("RGB", (32, 32), colour).save(tmp_path / f"{name}.png")
    tasks = [
        {"prompt": "make it red", "image": "a.png", "requirement": r}
        for r in ("keep the frame", "keep the cat", None)
    ]
    edit = {"prompt": "make it red", "source": "a.png", "editor": "e"}
    candidates = [
        {**edit, "edited": "b.png"},
        {**edit, "edited": "c.png", "requirement": "keep the cat"},
    ]
    pair = {
        "prompt": "make it red",
        "source": "a.png",
        "edited_a": "b.png",
        "edited_b": "c.png",
        "label": "a",
    }
    rows = {
        "tasks": tasks,
        "candidates": candidates,
        "pairs": [{**pair, "requirement": "keep the frame"}],
    }
    for name, of in rows.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in of))
    files = {name: str(tmp_path / f"{name}.jsonl") for name in rows}
    teacher = {"model": "m"}
    return DataConfig.model_validate(
        {
            "out": str(tmp_path / "out"),
            **files,
            "decomposer": teacher,
            "thinkers": [teacher],
            "gold_teacher": teacher,
        }
    )


def test_tasks_that_differ_in_the_requirement_alone_share_the_candidates_that_name_none(
    config, tmp_path
):
    with opened(config, tmp_path / "out", tmp_path / "images") as (state, ledger, store):
        take_in(config, state, ledger, store)
        tasks = [task.requirement for task in state._tasks("origin = 'task'")]
        state._run("UPDATE tasks SET principles = '[]'")
        edits = [quadruple.task.requirement for quadruple, _ in state._quadruples("1")]
        pairs = [pair.requirement for pair in state._pairs("1")]
    assert tasks == ["keep the frame", "keep the cat", None]
    assert sorted(map(str, edits)) == ["None", "keep the cat", "keep the cat", "keep the frame"]
    assert pairs == ["keep the frame"]


def test_every_role_is_asked_with_the_requirement_and_every_row_keeps_it(config, tmp_path):
    quadruple = Quadruple(
        quadruple_id="q", task=TASK, edited="e", editor="x", principles=PRINCIPLES
    )
    read = Verdicts(verdicts=(1,), average=1.0, score=8.0)
    trace = Trace(
        quadruple_id="q", teacher="t", index=0, text=f"seen\n{write_answer((1,), 8.0)}", read=read
    )
    calls = [
        decompose_call(TASK, config),
        *think_calls(quadruple, config),
        verify_call(quadruple, [trace], config),
    ]
    assert all(SHOWN in call.text for call in calls)
    assert about(TASK) == {
        "instruction": "make it red",
        "requirement": "keep the frame",
        "source": "s",
    }
    rows = [
        judge_row(quadruple, Judged(quadruple_id="q", traces=(trace,), selected=0), True),
        decompose_row(TASK, PRINCIPLES),
    ]
    pair = PreferencePair(
        pair_id="p", source="s", instruction="make it red", requirement="keep the frame", principles=PRINCIPLES,
        edited_a="a", edited_b="b", label="a",
    )  # fmt: skip
    for kind, records in ((SFTRow, rows), (PreferencePair, [pair])):
        write_table(tmp_path / "rows.parquet", kind, records)
        assert read_table(tmp_path / "rows.parquet", kind) == records
    store = ImageStore(tmp_path)
    shown = [str(conversation(row, "full", store)["prompt"]) for row in rows]
    shown += [str(row["prompt"]) for row in pair_rows(pair, "full", store)]
    assert all(SHOWN in text for text in shown)
