"""What a benchmark shares with training data, on photographs that were resized and encoded anew."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from skimage import data

from eval.benchmarks import read_benchmark
from eval.editrewardbench.overlap import looks_of, read_training, shared_pairs
from rrm.errors import InputError
from rrm.images import ImageStore


def photo(name):
    return Image.fromarray(getattr(data, name)()[..., :3]).resize((240, 200))


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """Three pairs: of the cat with two instructions, and of the cup."""
    where = tmp_path_factory.mktemp("bench")
    lines = []
    for name in ("chelsea", "coffee"):
        photo(name).save(where / f"{name}.png")
    for shade in (10, 200):
        Image.new("RGB", (240, 200), (shade, 0, 0)).save(where / f"{shade}.png")
    for name, instruction in (
        ("chelsea", "Make the cat black!"),
        ("chelsea", "remove the cat"),
        ("coffee", "turn it grey"),
    ):
        row = {
            "key": ["x", "y"],
            "instruction": instruction,
            "input_image": f"{name}.png",
            "output_images": ["10.png", "200.png"],
            "task_type": "color_alter",
            "dimension": "overall",
        }
        lines.append(json.dumps(row) + "\n")
    (where / "bench.jsonl").write_text("".join(lines))
    return str(where / "bench.jsonl")


def shared(bench, manifest):
    def rows():
        return read_benchmark("editscore", bench, None)

    training = read_training(manifest)
    return shared_pairs([row.pair for row in rows()], looks_of(rows), training), training


def write_manifest(folder, rows):
    (folder / "train.jsonl").write_text(
        "".join(json.dumps({"source": s, "instruction": i}) + "\n" for s, i in rows)
    )
    return folder / "train.jsonl"


def test_a_smaller_jpeg_of_the_source_is_the_same_image_and_wording_does_not_matter(
    bench, tmp_path
):
    photo("chelsea").resize((120, 100)).save(tmp_path / "cat.jpg", quality=80)
    found, _ = shared(bench, write_manifest(tmp_path, [("cat.jpg", "make cat black")]))
    assert found == ["task", "image", None]


def test_the_same_instruction_on_another_image_is_no_overlap(bench, tmp_path):
    photo("astronaut").save(tmp_path / "other.png")
    found, _ = shared(bench, write_manifest(tmp_path, [("other.png", "Make the cat black!")]))
    assert found == [None, None, None]


def test_a_folder_of_the_data_stage_is_read_with_its_images(bench, tmp_path):
    digest = ImageStore(tmp_path / "images").add(photo("coffee"))
    rows = [
        {"source": digest, "instruction": "Turn it grey"},
        {"source": digest, "instruction": "add a spoon"},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "sft.parquet")
    pq.write_table(pa.Table.from_pylist(rows[:1]), tmp_path / "preferences.parquet")
    found, training = shared(bench, tmp_path)
    assert found == [None, None, "task"]
    assert (training.rows, len(training.looks), training.unreadable) == (3, 1, 0)
    again, training = shared(bench, tmp_path / "sft.parquet")
    assert again == found
    assert training.rows == 2


def test_a_row_that_cannot_be_read_is_counted_and_the_others_are_compared(bench, tmp_path):
    photo("coffee").save(tmp_path / "cup.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    rows = [
        ("cup.png", "turn it grey"),
        ("broken.png", "remove the cat"),
        ("missing.png", "remove the cat"),
        ("cup.png", ""),
    ]
    found, training = shared(bench, write_manifest(tmp_path, rows))
    assert found == [None, None, "task"]
    assert (training.rows, training.unreadable) == (4, 3)


def test_training_data_without_a_readable_row_are_refused_rather_than_called_free_of_overlap(
    bench, tmp_path
):
    with pytest.raises(InputError, match="no readable source"):
        read_training(write_manifest(tmp_path, [("missing.png", "remove the cat")]))
    with pytest.raises(InputError, match="no training data"):
        read_training(tmp_path / "nowhere")
