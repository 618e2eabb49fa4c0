"""A checkpoint says what it holds; the newest whole one is carried on from, and what is not whole
is set aside and named."""

from __future__ import annotations

from pathlib import Path

import pytest

from rrm.errors import InputError
from rrm.runtime import checkpoints
from rrm.runtime.checkpoints import (
    MANIFEST,
    check_whole,
    damage_of,
    keep_newest,
    newest_whole,
    sampled_hash,
    seal,
)

FILES = (
    "model.safetensors",
    "optimizer.pt",
    "scheduler.pt",
    "rng_state_0.pth",
    "trainer_state.json",
    "global_step2/rank_0.pt",
)


def made(folder: Path, *steps: int) -> Path:
    """A folder of whole checkpoints of these steps."""
    for step in steps:
        for name in FILES:
            path = folder / f"checkpoint-{step}" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{name} at {step} " * 50)
        seal(folder / f"checkpoint-{step}")
    return folder


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def zeroed(path: Path) -> None:
    """As after a power cut: the size was written, the pages were not."""
    path.write_bytes(path.read_bytes()[:100].ljust(path.stat().st_size, b"\0"))


@pytest.mark.parametrize("harm", [Path.unlink, cut, zeroed], ids=["missing", "cut", "zeroed"])
@pytest.mark.parametrize("name", [*FILES, MANIFEST])
def test_whatever_is_wrong_with_the_newest_checkpoint_the_one_before_it_is_taken_and_that_is_said(
    tmp_path, capsys, name, harm
):
    folder = made(tmp_path, 2, 9, 10)  # told apart by number, not by name
    harm(folder / "checkpoint-10" / name)
    assert newest_whole(folder) == folder / "checkpoint-9"
    assert sorted(path.name for path in folder.iterdir()) == [
        "checkpoint-2",
        "checkpoint-9",
        "damaged-checkpoint-10",
    ]
    said = capsys.readouterr().err
    assert (
        f"checkpoint-10 is not whole ({'it has no ' if name == MANIFEST and harm is Path.unlink else name}"
        in said
    )
    assert "carries on from there" in said


def test_where_none_is_whole_that_is_said_and_none_is_deleted(tmp_path, capsys):
    folder = made(tmp_path, 1, 2)
    for path in folder.glob("checkpoint-*/optimizer.pt"):
        path.unlink()
    assert newest_whole(folder) is None
    assert "training starts anew" in capsys.readouterr().err
    made(folder, 2)
    (folder / "checkpoint-2/model.safetensors").unlink()
    assert newest_whole(folder) is None  # the name damaged-checkpoint-2 is taken already
    assert sorted(path.name for path in folder.iterdir()) == [
        "damaged-checkpoint-1",
        "damaged-checkpoint-2",
    ]
    assert newest_whole(tmp_path / "none") is None


def test_a_named_checkpoint_that_is_not_whole_is_refused_with_the_reason(tmp_path):
    checkpoint = made(tmp_path, 2) / "checkpoint-2"
    check_whole(checkpoint)
    (checkpoint / "scheduler.pt").unlink()
    with pytest.raises(InputError, match=r"is no whole checkpoint: scheduler\.pt is missing"):
        check_whole(checkpoint)
    with pytest.raises(InputError, match="There is no checkpoint at"):
        check_whole(tmp_path / "checkpoint-3")


def test_the_newest_are_kept_by_step(tmp_path):
    folder = made(tmp_path, 8, 9, 10)
    (folder / "damaged-checkpoint-7").mkdir()
    keep_newest(folder, 2)
    assert sorted(path.name for path in folder.iterdir()) == [
        "checkpoint-10",
        "checkpoint-9",
        "damaged-checkpoint-7",
    ]


def test_of_a_large_file_blocks_from_its_first_to_its_last_are_hashed(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "BLOCK", 4)
    monkeypatch.setattr(checkpoints, "BLOCKS", 8)
    file = tmp_path / "large"
    content = bytes(range(200))
    file.write_bytes(content)
    before = sampled_hash(file)
    for changed in (b"x" + content[1:], content[:-1] + b"x", content[:90] + bytes(110)):
        file.write_bytes(changed)
        assert sampled_hash(file) != before
    file.write_bytes(content[:10] + b"x" + content[11:])
    assert sampled_hash(file) == before  # between two blocks
    assert damage_of(tmp_path) == f"it has no {MANIFEST}, which is written last"
