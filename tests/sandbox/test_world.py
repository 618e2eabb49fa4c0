"""The sandbox's world: what is read is what was drawn, what is held out stays out, the build
repeats itself."""

import hashlib
import io
import json
from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from rrm.images import open_image
from rrm.sandbox.build import SAME_BELOW, WorldConfig, build, human_label
from rrm.sandbox.edits import (
    OTHERS,
    SAME_BACKGROUND,
    Step,
    decompose,
    human_utility,
    parse_instruction,
    sample_steps,
    true_verdicts,
    write_instruction,
)
from rrm.sandbox.reading import read_scene
from rrm.sandbox.scripted_edits import EDITORS, script_edit
from rrm.sandbox.world import ARTEFACTS, draw, sample_scene, spoil
from tests.support import ROOT

SEEDS = st.integers(0, 2**32 - 1)
SMALL = WorldConfig(
    out="unused",
    train_tasks=8,
    test_tasks=6,
    candidates_per_task=4,
    pair_tasks=6,
    pair_count=15,
    benchmark_sources=10,
    benchmark_pairs=20,
)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    out = tmp_path_factory.mktemp("world")
    build(SMALL, out)
    return out


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def contents(folder):
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


@given(SEEDS)
@settings(max_examples=60, deadline=None)
def test_a_drawn_scene_reads_back(seed):
    scene = sample_scene(np.random.default_rng(seed))
    read = read_scene(draw(scene))
    assert read.background == scene.background
    assert [read.name(i) for i in range(4)] == [
        thing.name if thing else "empty" for thing in scene.cells
    ]
    assert read.artefact is None


@pytest.mark.parametrize("artefact", ARTEFACTS)
def test_an_artefact_is_seen(artefact):
    rng = np.random.default_rng(0)
    seen = [
        read_scene(spoil(draw(sample_scene(rng)), artefact, rng)).artefact is not None
        for _ in range(40)
    ]
    assert np.mean(seen) >= 0.95


@given(SEEDS)
@settings(max_examples=60, deadline=None)
def test_an_instruction_parses_to_its_steps_and_the_right_editor_meets_every_principle(seed):
    rng = np.random.default_rng(seed)
    scene = sample_scene(rng)
    steps = sample_steps(rng, scene)
    assert parse_instruction(write_instruction(steps)) == steps
    after = script_edit(rng, scene, steps, "right")
    verdicts = true_verdicts(read_scene(draw(scene)), read_scene(after), steps)
    assert verdicts == (1,) * len(decompose(steps))
    assert human_utility(verdicts, steps) == 10


def test_every_flawed_editor_is_mostly_worse_than_the_right_one():
    rng = np.random.default_rng(1)
    for editor in EDITORS:
        utilities = []
        for _ in range(30):
            scene = sample_scene(rng)
            steps = sample_steps(rng, scene)
            edited = script_edit(rng, scene, steps, editor)
            utilities.append(
                human_utility(
                    true_verdicts(read_scene(draw(scene)), read_scene(edited), steps), steps
                )
            )
        assert np.mean(utilities) == 10 if editor == "right" else np.mean(utilities) < 9


def test_a_background_step_has_no_principle_that_contradicts_it():
    assert OTHERS in decompose([Step("background", value="tan")])
    assert SAME_BACKGROUND not in decompose([Step("background", value="tan")])


@pytest.mark.parametrize(
    "instruction",
    ["make it pretty", "", "remove the purple circle", "remove the red circle and dance"],
)
def test_other_words_are_no_instruction_of_the_sandbox(instruction):
    assert parse_instruction(instruction) is None


def test_people_see_no_difference_below_the_threshold():
    assert [human_label(5, 5 + gap) for gap in (-SAME_BELOW, 0, SAME_BELOW / 2, SAME_BELOW)] == [
        "a",
        "same",
        "same",
        "b",
    ]


def test_the_same_seed_builds_the_same_world(world, tmp_path):
    build(SMALL, tmp_path)
    assert contents(tmp_path) == contents(world)


def test_the_base_editors_own_samples_join_every_part(tmp_path):
    from rrm.sandbox.models.editor import TinyKontext

    TinyKontext().save(tmp_path / "editor")
    share = {"editor_base": str(tmp_path / "editor"), "editor_samples": 2, "editor_share": 0.5}
    sizes = build(SMALL.model_copy(update=share), tmp_path / "world")
    sampled = Counter(
        row["part"] for row in lines(tmp_path / "world/truth.jsonl") if row["editor"] == "base"
    )
    assert set(sampled) == {"candidates", "pairs", "benchmark"}
    assert sizes["base_editor_samples"] == sum(sampled.values())
    assert (
        sizes["candidates"] == SMALL.train_tasks * SMALL.candidates_per_task + sampled["candidates"]
    )


def test_another_seed_builds_another(world, tmp_path):
    build(SMALL.model_copy(update={"seed": 1}), tmp_path)
    assert (tmp_path / "tasks/train_metadata.jsonl").read_text() != (
        world / "tasks/train_metadata.jsonl"
    ).read_text()


def test_the_task_folder_has_edit_r1s_format(world):
    for split, count in (("train", SMALL.train_tasks), ("test", SMALL.test_tasks)):
        rows = lines(world / f"tasks/{split}_metadata.jsonl")
        assert len(rows) == count
        assert all(set(row) == {"prompt", "image", "requirement"} for row in rows)
        assert all((world / "tasks" / row["image"]).is_file() for row in rows)


def test_held_out_scenes_are_in_no_training_part(world):
    def sources(part):
        return {row["source"] for row in lines(world / "truth.jsonl") if row["part"] == part}

    test = {
        hashlib.sha256((world / "tasks" / row["image"]).read_bytes()).hexdigest()
        for row in lines(world / "tasks/test_metadata.jsonl")
    }
    held_out = test | sources("benchmark")
    assert held_out.isdisjoint(sources("candidates") | sources("pairs"))
    for rng_seed in range(50):
        rng = np.random.default_rng(rng_seed)
        assert not sample_scene(rng).held_out
        assert sample_scene(rng, held_out=True).held_out


def test_pairs_start_from_other_tasks_than_the_candidates(world):
    tasks = {
        (row["source"], row["instruction"])
        for row in lines(world / "truth.jsonl")
        if row["part"] == "candidates"
    }
    pairs = {
        (row["source"], row["instruction"])
        for row in lines(world / "truth.jsonl")
        if row["part"] == "pairs"
    }
    assert tasks.isdisjoint(pairs)


def test_candidates_of_a_task_differ_and_a_fifth_or_more_is_right(world):
    rows = lines(world / "candidates.jsonl")
    assert len(rows) == SMALL.train_tasks * SMALL.candidates_per_task
    assert sum(row["editor"] == "right" for row in rows) == SMALL.train_tasks
    for task in {row["task"] for row in rows}:
        images = [open_image(world / row["image"]).tobytes() for row in rows if row["task"] == task]
        assert all(a != b for a, b in combinations(images, 2))


def test_pairs_are_labelled_by_utility(world):
    utility = {
        (r["source"], r["edited"], r["instruction"]): r["utility"]
        for r in lines(world / "truth.jsonl")
    }
    rows = lines(world / "pairs.jsonl")
    assert len(rows) == SMALL.pair_count
    for row in rows:
        name = {
            k: hashlib.sha256((world / row[k]).read_bytes()).hexdigest()
            for k in ("source", "edited_a", "edited_b")
        }
        a, b = (
            utility[name["source"], name[k], row["instruction"]] for k in ("edited_a", "edited_b")
        )
        assert row["label"] == human_label(a, b)


def test_the_benchmark_has_editscores_schema_with_the_better_image_first(world):
    import datasets

    table = datasets.load_dataset(
        "parquet",
        data_files=str(world / "benchmark/data/*.parquet"),
        split="train",
        cache_dir=str(world / "cache"),
    )
    assert set(table.column_names) == {
        "key",
        "instruction",
        "input_image",
        "output_images",
        "task_type",
        "dimension",
    }
    assert isinstance(table.features["input_image"], datasets.Image)
    assert set(table["dimension"]) == {"overall", "prompt_following", "consistency"}
    assert set(table["task_type"]) <= {
        "color_alter",
        "subject-replace",
        "subject-remove",
        "subject-add",
        "background_change",
        "compose",
    }
    assert table["dimension"].count("overall") == SMALL.benchmark_pairs
    assert isinstance(table[0]["input_image"], Image.Image)
    truth = {
        (r["source"], r["edited"], r["instruction"]): r
        for r in lines(world / "truth.jsonl")
        if r["part"] == "benchmark"
    }

    def worth(row, payload):
        key = (
            hashlib.sha256(row["input_image"]["bytes"]).hexdigest(),
            hashlib.sha256(payload).hexdigest(),
            row["instruction"],
        )
        found = truth[key]
        if row["dimension"] == "overall":
            return found["utility"]
        category = "follow" if row["dimension"] == "prompt_following" else "keep"
        return np.mean(
            [
                v
                for v, p in zip(found["verdicts"], found["principles"], strict=True)
                if p["category"] == category
            ]
        )

    raw = table.cast_column("input_image", datasets.Image(decode=False))
    raw = raw.cast_column("output_images", datasets.Sequence(datasets.Image(decode=False)))
    by_key = {}
    for row in raw:
        better, worse = (image["bytes"] for image in row["output_images"])
        assert worth(row, better) > worth(row, worse)
        for key, payload in zip(row["key"], (better, worse), strict=True):
            assert by_key.setdefault(key, payload) == payload
            Image.open(io.BytesIO(payload)).verify()
    assert len(by_key) < 2 * len(raw)


def test_a_world_of_which_no_task_is_drawn_for_the_base_editor_has_scripted_edits_alone(tmp_path):
    few = SMALL.model_copy(
        update={
            "out": str(tmp_path),
            "editor_base": str(ROOT / "rrm/sandbox/checkpoints/editor-base"),
            "editor_samples": 1,
            "editor_share": 1e-9,
        }
    )
    build(few, tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "candidates.jsonl").read_text().splitlines()]
    assert rows
    assert "base" not in {row["editor"] for row in rows}
