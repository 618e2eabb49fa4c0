"""Training refuses rows and images that are not what the data stage left, and a model that lacks
weights."""

from __future__ import annotations

import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file, save_file

from rrm.errors import InputError
from rrm.images import ImageStore
from rrm.verifier.checkpoint import load, style_of
from rrm.verifier.gcpo.config import GCPOStage
from rrm.verifier.gcpo.pairs import read_pairs
from rrm.verifier.gcpo.train import train as train_gcpo
from rrm.verifier.sft import SFTStage, read_rows
from rrm.verifier.sft import train as train_sft

READERS = {"sft.parquet": read_rows, "preferences.parquet": read_pairs}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("keep", [0, 4, 500, -1])
def test_a_damaged_table_is_refused_in_one_sentence(tmp_path, training_data, name, keep):
    content = (training_data / name).read_bytes()
    (tmp_path / name).write_bytes(
        content[:keep] if keep >= 0 else content[:200] + bytes(len(content) - 200)
    )
    with pytest.raises(InputError, match="is damaged or from another version") as caught:
        READERS[name](tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", READERS)
def test_a_table_of_another_version_is_refused(tmp_path, training_data, name):
    table = pq.read_table(training_data / name)
    for other in (
        table.drop_columns(["instruction"]),
        table.append_column("mood", pa.array(["good"] * len(table))),
    ):
        pq.write_table(other, tmp_path / name)
        with pytest.raises(InputError, match="another version"):
            READERS[name](tmp_path)


@pytest.mark.parametrize("harm", ["missing", "replaced"])
@pytest.mark.parametrize("stage", ["sft", "gcpo"])
def test_an_image_that_is_not_the_stored_one_is_never_trained_on(
    tmp_path, training_data, tiny_checkpoint, harm, stage
):
    data = shutil.copytree(training_data, tmp_path / "data")
    store = ImageStore(data / "images")
    one = read_rows(data)[3].edited if stage == "sft" else read_pairs(data)[3].edited_b
    other = read_rows(data)[4].edited
    store.path(one).unlink() if harm == "missing" else shutil.copy(
        store.path(other), store.path(one)
    )
    keys = {
        "data": data,
        "base": str(tiny_checkpoint),
        "out": tmp_path / "out",
        "steps": 1,
        "learning_rate": 1e-3,
    }
    train, config = (
        (train_sft, SFTStage(batch=1, style="brief", **keys))
        if stage == "sft"
        else (train_gcpo, GCPOStage(pairs_per_step=1, traces_per_image=2, **keys))
    )
    with pytest.raises(InputError, match=f"1 images are missing or damaged, such as .*{one}"):
        train(config, tmp_path / "out")


def test_a_model_that_lacks_weights_is_refused_and_not_filled_with_random_ones(
    tmp_path, tiny_checkpoint
):
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "tiny")
    weights = load_file(folder / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=r"lacks 1 weights of its model, such as .*norm\.weight"):
        load(folder)


@pytest.mark.parametrize("text", ["{", "[]", json.dumps({"made_by": {}})])
def test_a_damaged_card_is_refused_in_one_sentence(tmp_path, text):
    (tmp_path / "rrm.json").write_text(text)
    with pytest.raises(InputError, match=r"rrm\.json is damaged"):
        style_of(tmp_path)
