"""What is run: every world, data set, training and evaluation of the study, each a stage with a
config of its own."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationInfo, field_validator

from rrm.config import Config, read_yaml

VARIANTS = {"holistic": "holistic", "t": "T", "v": "V", "tv": "T+V"}
"""Name of a run → variant of the data pipeline."""


BATCH = 64
"""Edits that a checkpoint judges at once."""


class AblationConfig(Config):
    """The size of the study. The recipes are those of `recipes`; what stands here is laid over
    them."""

    out: Path
    """Folder of all stages."""
    evidence: Path
    """Folder of verifier.json, and of the page beside it."""
    recipes: Path
    """Folder with world.yaml, data.yaml, sft.yaml, gcpo.yaml and eval.yaml."""
    seeds: tuple[int, ...] = Field(min_length=1)
    """Of world, data and training; one study each."""
    jobs: int = Field(2, ge=1)
    """Stages run at once; each gets its share of the cores."""
    bases: dict[str, str] = Field(min_length=1)
    """Size → base checkpoint. The first is the main one; the others are trained on T+V, with and
    without GCPO."""
    variants: tuple[str, ...] = ("holistic", "t", "v")
    """What is trained beside T+V."""
    teachers: tuple[str, ...] = ()
    """Model names of the teachers that judge alone."""
    remedies: dict[str, dict[str, Any]] = Field({})
    """Name → keys of gcpo.yaml: departures from the paper's loss, measured beside it."""
    curve: tuple[int, ...] = ()
    """Numbers of human pairs that GCPO is also run with."""
    curve_seeds: tuple[int, ...] = ()
    """One of `seeds`, or all."""
    world: dict[str, Any] = Field({})
    """Keys of world.yaml with other values."""
    data: dict[str, Any] = Field({})
    """Keys of data.yaml with other values."""
    sft: dict[str, Any] = Field({})
    """Keys of sft.yaml with other values."""
    gcpo: dict[str, Any] = Field({})
    """Keys of gcpo.yaml with other values."""
    eval: dict[str, Any] = Field({})
    """Keys of eval.yaml with other values."""

    @field_validator("curve_seeds")
    @classmethod
    def _one_or_all(cls, value: tuple[int, ...], info: ValidationInfo) -> tuple[int, ...]:
        seeds = info.data.get("seeds", value)
        if set(value) - set(seeds) or len(value) not in (0, 1, len(seeds)):
            raise ValueError(f"must be one of the seeds {list(seeds)}, or all of them")
        return value

    @property
    def main(self) -> str:
        """The name of the main size."""
        return next(iter(self.bases))


@dataclass(frozen=True)
class Job:
    """One stage: `rrm STAGE --config …` with these keys, after the jobs that it needs."""

    name: str
    stage: str
    keys: dict[str, Any]
    needs: tuple[str, ...] = ()
    rank: int = 0
    """Jobs of a lower rank are started first."""


@dataclass
class Study:
    """All jobs of a study, by name."""

    config: AblationConfig
    jobs: dict[str, Job] = field(default_factory=dict)

    def folder(self, seed: int, *parts: str) -> Path:
        """Where something of a seed's world lies."""
        return self.config.out.joinpath(f"seed{seed}", *parts)

    def recipe(self, stage: str) -> dict[str, Any]:
        """The keys of a stage before the study's own."""
        return {**read_yaml(self.config.recipes / f"{stage}.yaml"), **getattr(self.config, stage)}

    def add(
        self, name: str, stage: str, keys: dict[str, Any], needs: tuple[str, ...], rank: int
    ) -> str:
        """Adds the job and returns its name."""
        plain = {
            key: str(value) if isinstance(value, Path) else value for key, value in keys.items()
        }
        self.jobs[name] = Job(name, stage, plain, needs, rank)
        return name

    def add_world(self, seed: int) -> str:
        """Tasks, pairs and a held-out benchmark, all drawn by the seed."""
        keys = {**self.recipe("world"), "out": self.folder(seed, "world"), "seed": seed}
        return self.add(f"seed{seed}/world", "world", keys, (), seed_rank(self, seed))

    def add_data(self, seed: int, run: str, after: str, rank: int) -> str:
        """The SFT set of a variant; the variants share a ledger, one after another, so that the
        same question is asked once."""
        world = self.folder(seed, "world")
        keys = {
            **self.recipe("data"), "out": self.folder(seed, f"data-{run}"), "variant": VARIANTS[run], "tasks": world / "tasks",
            "candidates": world / "candidates.jsonl", "pairs": world / "pairs.jsonl", "benchmarks": [str(world / "benchmark")],
            "ledger": self.folder(seed, "ledger.sqlite"), "seed": seed,
        }  # fmt: skip
        return self.add(f"seed{seed}/data-{run}", "data", keys, (after,), rank)

    def add_sft(self, seed: int, run: str, size: str, rank: int) -> str:
        """The cold start of one size on one variant."""
        name = f"sft-{run}" if size == self.config.main else f"sft-{run}-{size}"
        style = "brief_holistic" if run == "holistic" else "brief"
        keys = {
            **self.recipe("sft"), "data": self.folder(seed, f"data-{run}"), "base": self.config.bases[size], "style": style,
            "out": self.folder(seed, name), "seed": seed,
        }  # fmt: skip
        return self.add(f"seed{seed}/{name}", "sft", keys, (f"seed{seed}/data-{run}",), rank)

    def add_gcpo(self, seed: int, name: str, parent: str, over: dict[str, Any], rank: int) -> str:
        """GCPO from the parent's model."""
        keys = {
            **self.recipe("gcpo"), "data": self.folder(seed, "data-tv"), "base": self.folder(seed, parent, "model"),
            "out": self.folder(seed, name), "seed": seed, **over,
        }  # fmt: skip
        return self.add(f"seed{seed}/{name}", "gcpo", keys, (f"seed{seed}/{parent}",), rank)

    def add_eval(self, seed: int, name: str, spec: str, needs: tuple[str, ...], rank: int) -> str:
        """The judgements of one model on the seed's benchmark."""
        keys = {
            **self.recipe("eval"), "data": self.folder(seed, "world", "benchmark"), "judges": {name: spec}, "compare": [],
            "out": self.folder(seed, f"eval-{name}"),
        }  # fmt: skip
        return self.add(
            f"seed{seed}/eval-{name}", "eval", keys, (f"seed{seed}/world", *needs), rank
        )


def checkpoint(folder: str | Path) -> str:
    """The judge's spec of a checkpoint."""
    return f"rrm:{folder}?batch={BATCH}"


def seed_rank(study: Study, seed: int) -> int:
    """Seeds in their order."""
    return study.config.seeds.index(seed)


def plan(config: AblationConfig) -> Study:
    """Every job: first T+V and GCPO of each seed, then the base, variants and other sizes, then
    remedies and the curve."""
    study = Study(config)
    turns = len(config.seeds)
    for seed in config.seeds:
        first = seed_rank(study, seed)
        data = study.add_data(seed, "tv", study.add_world(seed), first)
        trained(study, seed, study.add_sft(seed, "tv", config.main, first), first)
        trained(study, seed, study.add_gcpo(seed, "gcpo", "sft-tv", {}, first), first)
        study.add_eval(seed, "noiseless", "sandbox:noiseless", (), first)
        study.add_eval(seed, "chance", "baseline:chance", (), first)
        for teacher in config.teachers:
            study.add_eval(seed, teacher, f"sandbox:{teacher}", (), turns + first)
        for size, base in config.bases.items():
            study.add_eval(
                seed,
                "base" if size == config.main else f"base-{size}",
                checkpoint(base),
                (),
                turns + first,
            )
            if size != config.main:
                trained(
                    study,
                    seed,
                    study.add_sft(seed, "tv", size, 2 * turns + first),
                    2 * turns + first,
                )
                small = study.add_gcpo(
                    seed, f"gcpo-{size}", f"sft-tv-{size}", {}, 2 * turns + first
                )
                trained(study, seed, small, 2 * turns + first)
        for run in config.variants:
            data = study.add_data(seed, run, data, turns + first)
            trained(
                study, seed, study.add_sft(seed, run, config.main, turns + first), turns + first
            )
        for name, over in config.remedies.items():
            trained(
                study,
                seed,
                study.add_gcpo(seed, f"gcpo-{name}", "sft-tv", over, 3 * turns + first),
                3 * turns + first,
            )
    for seed in config.curve_seeds:
        for count in config.curve:
            rank = 3 * turns + seed_rank(study, seed)
            job = study.add_gcpo(seed, f"gcpo-n{count}", "sft-tv", {"pair_count": count}, rank)
            trained(study, seed, job, rank)
    return study


def trained(study: Study, seed: int, job: str, rank: int) -> str:
    """The evaluation of a trained model."""
    name = job.partition("/")[2]
    return study.add_eval(seed, name, checkpoint(study.folder(seed, name, "model")), (job,), rank)
