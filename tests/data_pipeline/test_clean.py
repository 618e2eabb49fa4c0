"""Clean sets: what overlaps with a benchmark or repeats itself is left out, and a source falls on
one side of the split."""

import json

import numpy as np
import pytest
from PIL import Image
from skimage import data

from data_pipeline.clean import clean
from data_pipeline.intake import take_in
from data_pipeline.run import opened
from data_pipeline.settings import DataConfig

ROWS = {
    "exact": ("astronaut.png", "Remove the helmet."),
    "smaller": ("coffee_small.jpg", "make the cup blue"),
    "words": ("rocket.png", "Add a dog!"),
    "kept": ("chelsea.png", "make the cat black"),
    "repeat": ("chelsea_small.jpg", "Make the cat black!"),
    "other": ("chelsea_small.jpg", "remove the cat"),
}


def photo(name):
    return Image.fromarray(getattr(data, name)()[..., :3])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    where = tmp_path_factory.mktemp("set")
    for name in ("astronaut", "coffee", "rocket", "chelsea"):
        image = photo(name)
        image.save(where / f"{name}.png")
        image.resize((image.width // 2, image.height // 2)).save(
            where / f"{name}_small.jpg", quality=70
        )
    bench = [
        ("astronaut.png", "turn it grey"),
        ("coffee.png", "turn it grey"),
        ("rocket_bench.png", "add the dog"),
    ]
    photo("retina").save(where / "rocket_bench.png")
    (where / "bench.jsonl").write_text(
        "".join(json.dumps({"instruction": t, "image": i}) + "\n" for i, t in bench)
    )
    return where


def cleaned(folder, out, rows, **values):
    """What clean() made of the tasks: left_out and split by the task's name, and its counts."""
    (folder / "tasks.jsonl").write_text(
        "".join(json.dumps({"instruction": t, "image": i}) + "\n" for i, t in rows)
    )
    teacher = {"model": "m"}
    base = {
        "out": str(out),
        "tasks": str(folder / "tasks.jsonl"),
        "benchmarks": [str(folder / "bench.jsonl")],
    }
    roles = {"decomposer": teacher, "thinkers": [teacher], "gold_teacher": teacher}
    config = DataConfig.model_validate({**base, **roles, **values})
    with opened(config, out, out / "images") as (state, ledger, store):
        take_in(config, state, ledger, store)
        clean(config, state, ledger, store)
        found = state._run(
            "SELECT n.name, t.instruction, t.left_out, t.split, t.source FROM tasks t JOIN names n USING (task_id)"
        ).fetchall()
        return {
            (name, text): (reason, split, source) for name, text, reason, split, source in found
        }, state.result("clean")


def test_each_kind_of_overlap_is_found_counted_and_left_out(folder, tmp_path):
    found, counts = cleaned(folder, tmp_path, ROWS.values())
    reasons = {label: found[row][0] for label, row in ROWS.items()}
    assert reasons == {
        "exact": "image",
        "smaller": "near_image",
        "words": "instruction",
        "kept": None,
        "repeat": "repeat",
        "other": None,
    }
    assert {
        name: counts[name] for name in ("image", "near_image", "instruction", "repeat")
    } == dict.fromkeys(("image", "near_image", "instruction", "repeat"), 1)
    assert (counts["sources"], counts["look_alikes"]) == (5, 1)


def test_shared_instructions_can_be_kept_and_are_then_counted(folder, tmp_path):
    found, counts = cleaned(folder, tmp_path, ROWS.values(), leave_out_instructions=False)
    assert found[ROWS["words"]][0] is None
    assert counts["instructions_shared_and_kept"] == 1
    assert "instruction" not in counts


def test_near_duplicates_fall_on_one_side_whatever_the_order(folder, tmp_path):
    rng = np.random.default_rng(0)
    rows = [
        (f"{name}{end}", f"do {i}")
        for i, name in enumerate(("rocket", "chelsea", "coffee", "astronaut"))
        for end in (".png", "_small.jpg")
    ]
    splits = []
    for turn in range(3):
        order = [rows[i] for i in rng.permutation(len(rows))]
        found, _ = cleaned(folder, tmp_path / str(turn), order, validation_share=0.5, benchmarks=[])
        splits.append({name: split for (name, _), (_, split, _) in found.items()})
    assert splits[0] == splits[1] == splits[2]
    assert set(splits[0].values()) == {"train", "validation"}
    for name in ("rocket", "chelsea", "coffee", "astronaut"):
        assert splits[0][f"{name}.png"] == splits[0][f"{name}_small.jpg"]
