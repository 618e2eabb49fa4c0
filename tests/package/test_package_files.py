"""What comes with the package: in a checkout, and in a wheel that was installed elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from rrm.config import Config
from rrm.package_files import expand_package_paths, package_file
from tests.support import ROOT


class Training(Config):
    """A config with a path."""

    base: str
    """Where it starts from."""


def test_a_file_of_the_package_is_named_from_the_working_folder_where_it_lies_below(
    monkeypatch, tmp_path
):
    monkeypatch.chdir(ROOT)
    assert package_file("rrm/configs/sandbox") == Path("rrm/configs/sandbox")
    monkeypatch.chdir(tmp_path)
    assert package_file("rrm/configs/sandbox") == ROOT / "rrm/configs/sandbox"


def test_a_config_names_files_of_the_package_wherever_it_is_read(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sft.yaml").write_text("base: package:rrm/sandbox/checkpoints/rrm-base\n")
    assert Path(Training.read("sft.yaml").base, "model.safetensors").is_file()
    assert expand_package_paths({"a": ["package:rrm/x", 1]}) == {"a": [str(ROOT / "rrm/x"), 1]}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The project's wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        str(folder),
    ]
    copy = folder / "source"  # setuptools leaves a build folder behind
    files = subprocess.run(
        ["git", "ls-files", "-z", "-co", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in filter(None, files.stdout.decode().split("\0")):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_symlink():
            (copy / name).symlink_to(os.readlink(ROOT / name))
        elif (ROOT / name).is_file() and not name.startswith(("tests/", "docs/")):
            (copy / name).write_bytes((ROOT / name).read_bytes())
    subprocess.run([*command, str(copy)], check=True, capture_output=True)
    return next(folder.glob("*.whl"))


def test_the_wheel_holds_configs_templates_checkpoints_and_types(wheel):
    with zipfile.ZipFile(wheel) as content:
        names = set(content.namelist())
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    data = [
        name
        for name in tracked
        if name.startswith(("configs/", "rrm/", "eval/", "data_pipeline/"))
        and not name.endswith(("rrm/configs", "ruff.toml"))
    ]
    expected = {f"rrm/{name}" if name.startswith("configs/") else name for name in data}
    assert expected <= names, sorted(expected - names)[:5]


def test_the_installed_wheel_draws_the_demos_world_in_an_empty_folder(wheel, tmp_path):
    installed = tmp_path / "installed"
    with zipfile.ZipFile(wheel) as content:
        content.extractall(installed)
    empty = tmp_path / "empty"
    empty.mkdir()
    code = (
        "import rrm.demo, rrm.package_files as files\n"
        "assert '/installed/' in rrm.__file__, rrm.__file__\n"
        "folder = files.package_file('rrm/configs/sandbox')\n"
        "from rrm.sandbox.build import WorldConfig, build\n"
        "config = WorldConfig.read(folder / 'world.yaml', train_tasks=8, test_tasks=8, pair_tasks=8, pair_count=4,"
        " benchmark_sources=8, benchmark_pairs=4)\n"
        "from pathlib import Path; Path(config.out).mkdir(parents=True); build(config, Path(config.out))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    command = [sys.executable, "-c", code]
    run = subprocess.run(
        command, cwd=empty, env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr[-1500:]
    assert (empty / "runs/demo/world/candidates.jsonl").is_file()
