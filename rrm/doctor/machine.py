"""Checks of what a machine has: packages, GPUs, driver, compilers."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement
from pydantic import ValidationError

from rrm.doctor.checks import Check


@dataclass(frozen=True)
class Gpu:
    """A GPU that this machine has."""

    name: str
    gib: float
    capability: tuple[int, int]


def installed(name: str) -> str | None:
    """The version of a package, or None."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def check_versions(
    needed: Sequence[Requirement], have: Mapping[str, str | None], tested: Mapping[str, str]
) -> list[Check]:
    """A check for every package that is missing, out of setup.cfg's range, or not the version of
    constraints.txt; one check if none is."""
    found = []
    for requirement in needed:
        name, has = requirement.name, have.get(requirement.name)
        how = f"install it: .venv/bin/python -m pip install -c constraints.txt '{requirement.name}{requirement.specifier}'"
        if has is None:
            found.append(Check(f"version of {name}", "fail", f"{name} is not installed; {how}."))
        elif not requirement.specifier.contains(has.split("+")[0], prereleases=True):
            found.append(
                Check(
                    f"version of {name}",
                    "fail",
                    f"{name} {has} is outside {requirement.specifier}; {how}.",
                )
            )
        elif name.lower() in tested and tested[name.lower()] != has.split("+")[0]:
            says = f"{name} is {has}; the project was tested with {tested[name.lower()]} (constraints.txt)."
            found.append(Check(f"version of {name}", "warning", says))
    return found or [
        Check(
            "versions",
            "ok",
            f"{len(needed)} packages are within setup.cfg's ranges and at the tested versions.",
        )
    ]


def requirements(extras: Sequence[str]) -> list[Requirement]:
    """What the installed project says it needs, with these extras and those that they include."""
    declared = [Requirement(text) for text in requires("edit-rrm") or ()]
    queue, seen, needed = ["", *extras], set[str](), dict[str, Requirement]()
    while queue:
        extra = queue.pop()
        if extra in seen:
            continue
        seen.add(extra)
        for r in declared:
            if r.marker is None or r.marker.evaluate({"extra": extra}):
                if r.name == "edit-rrm":
                    queue += r.extras
                else:
                    needed[r.name] = r
    return list(needed.values())


def tested_versions(constraints: Path) -> dict[str, str]:
    """The pins of a constraints file, by lower-case name; none where there is no file."""
    lines = constraints.read_text().splitlines() if constraints.is_file() else []
    return {
        name.lower(): pin
        for name, _, pin in (line.partition("==") for line in lines if not line.startswith("#"))
        if pin
    }


def check_pairing(torch: str, torchvision: str) -> Check:
    """torch 2.N goes with torchvision 0.(N + 15)."""
    minor, vision = int(torch.split(".")[1]), int(torchvision.split(".")[1])
    if torch.startswith("2.") and vision == minor + 15:
        return Check(
            "torch and torchvision",
            "ok",
            f"torch {torch} and torchvision {torchvision} belong together.",
        )
    says = f"torch {torch} goes with torchvision 0.{minor + 15}, not {torchvision}; install the pair of constraints.txt."
    return Check("torch and torchvision", "fail", says)


def check_gpus(gpus: Sequence[Gpu], wanted: int | None, bfloat16: bool) -> Check:
    """Whether this machine's GPUs are those that the training is planned for."""
    if not gpus:
        if wanted:
            return Check(
                "GPUs", "warning", f"this machine has none; what follows is planned for {wanted}."
            )
        if bfloat16:
            says = "no GPU is visible; run this where the training will run, or give --gpus and --gpu-memory to plan for one."
            return Check("GPUs", "fail", says)
        return Check("GPUs", "ok", "no GPU is visible; a float32 config trains on the CPU.")
    named = f"{len(gpus)} × {gpus[0].name}, {min(g.gib for g in gpus):.0f} GiB"
    if wanted and wanted > len(gpus):
        return Check(
            "GPUs", "warning", f"{named}; what follows is planned for {wanted}, on several nodes."
        )
    if bfloat16 and min(g.capability for g in gpus) < (8, 0):
        return Check(
            "GPUs",
            "fail",
            f"{named} have no bfloat16; set dtype: float32, or use Ampere GPUs or later.",
        )
    if len({g.name for g in gpus}) > 1:
        return Check(
            "GPUs",
            "warning",
            f"{named} and others: the slowest sets the pace, the smallest the memory.",
        )
    return Check("GPUs", "ok", f"{named}.")


def check_driver(torch_cuda: str | None, driver: int) -> Check:
    """`driver` is the highest CUDA version that the driver serves, as CUDA writes it: 12040 is
    12.4."""
    if torch_cuda is None:
        return Check(
            "CUDA",
            "fail",
            "this machine has a GPU, but torch is a CPU build; install a CUDA build of torch.",
        )
    major, minor = (int(part) for part in torch_cuda.split(".")[:2])
    serves = f"{driver // 1000}.{driver % 1000 // 10}"
    if driver // 1000 < major:
        return Check(
            "CUDA",
            "fail",
            f"torch is built for CUDA {torch_cuda}, the driver serves {serves}; update the driver.",
        )
    if driver < 1000 * major + 10 * minor:
        says = f"torch is built for CUDA {torch_cuda}, the driver serves {serves}; that works by minor-version compatibility."
        return Check("CUDA", "warning", says)
    return Check("CUDA", "ok", f"the driver serves CUDA {serves}, torch is built for {torch_cuda}.")


def check_deepspeed(path: str | None) -> Check:
    """Whether the DeepSpeed config can be used and its extensions compiled."""
    if path is None:
        return Check("DeepSpeed", "ok", "not used.")
    try:
        settings = json.loads(Path(path).read_text())
        stage = settings["zero_optimization"]["stage"]
    except FileNotFoundError:
        return Check(
            "DeepSpeed", "fail", f"there is no DeepSpeed config at {path}; launch/ has two."
        )
    except (ValueError, KeyError, TypeError):
        return Check(
            "DeepSpeed",
            "fail",
            f"{path} is no JSON with zero_optimization.stage; start from launch/zero2.json.",
        )
    if installed("deepspeed") is None:
        return Check("DeepSpeed", "fail", "deepspeed is not installed; run 'make setup'.")
    from deepspeed.runtime.zero.config import (
        DeepSpeedZeroConfig,
    )  # seconds: not before it is needed

    try:
        DeepSpeedZeroConfig(**settings["zero_optimization"])
    except ValidationError as error:
        first = error.errors()[0]
        return Check(
            "DeepSpeed", "fail", f"{path}: zero_optimization.{first['loc'][0]}: {first['msg']}."
        )
    beside = Path(sys.executable).parent
    tools = {
        "ninja": shutil.which("ninja") or shutil.which("ninja", path=str(beside)),
        "c++": shutil.which("c++"),
    }
    missing = [name for name, where in tools.items() if where is None]
    if missing:
        says = f"{' and '.join(missing)} not found, which DeepSpeed compiles with; install a C++ compiler, and ninja by pip."
        return Check("DeepSpeed", "fail", says)
    return Check("DeepSpeed", "ok", f"{path} asks for ZeRO {stage}; ninja and c++ are there.")
