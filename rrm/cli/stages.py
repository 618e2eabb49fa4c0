"""A command per stage of the job, in the order in which one feeds the next. Each imports its stage
only when it is called."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from rrm.errors import InputError
from rrm.runtime.lock import locked
from rrm.stage_options import ConfigFile, Out, Overrides, PrintConfig, run_stage_command

LocalRank = Annotated[int | None, typer.Option("--local_rank", hidden=True)]
Limit = Annotated[int | None, typer.Option(help="only so many tasks, and so many pairs")]
MaxCost = Annotated[
    float | None,
    typer.Option(help="stop before more than this is spent on the set, all runs together"),
]
Variant = Annotated[
    str | None, typer.Option(help="another variant than the config's: T, V, T+V or holistic")
]


def world(
    config: ConfigFile,
    overrides: Overrides = None,
    print_config: PrintConfig = False,
    out: Out = None,
) -> None:
    """Draw the sandbox: tasks, candidate edits, human pairs, a held-out benchmark."""
    from rrm.sandbox.build import WorldConfig, run

    run_stage_command(WorldConfig, run, config, overrides, print_config, out=out)


def data(
    config: ConfigFile,
    overrides: Overrides = None,
    print_config: PrintConfig = False,
    out: Out = None,
    variant: Variant = None,
    limit: Limit = None,
    max_cost: MaxCost = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="show which calls would be made, and make none")
    ] = False,
    retry: Annotated[
        bool, typer.Option("--retry", help="make the set again and ask once more for what failed")
    ] = False,
    engine: Annotated[
        Literal["local", "ray"], typer.Option(help="ray: on a Ray cluster, with the same result")
    ] = "local",
) -> None:
    """Make SFT data and preference pairs: tasks → principles → candidates → traces → gold verdicts
    → selection → rows."""
    from data_pipeline.planning import dry_run as show_calls
    from data_pipeline.run import DataConfig, run_as_stage

    check_cost(max_cost)
    changes = {"out": out, "variant": variant, "limit": limit}

    def run(given: DataConfig) -> None:
        if dry_run:
            with locked(given.out):
                show_calls(given)
        else:
            run_as_stage(given, max_cost, engine, retry)

    run_stage_command(DataConfig, run, config, overrides, print_config, **changes)


def plan(
    config: ConfigFile,
    overrides: Overrides = None,
    print_config: PrintConfig = False,
    out: Out = None,
    variant: Variant = None,
    limit: Limit = None,
    max_cost: MaxCost = None,
    sample: Annotated[int, typer.Option(help="tasks that are measured")] = 50,
) -> None:
    """Say what `rrm data` will call and cost, measured on a sample of its tasks."""
    from data_pipeline.planning import plan as measure
    from data_pipeline.run import DataConfig

    check_cost(max_cost)
    changes = {"out": out, "variant": variant, "limit": limit}

    def run(given: DataConfig) -> None:
        with locked(given.out):
            measure(given, sample, max_cost)

    run_stage_command(DataConfig, run, config, overrides, print_config, **changes)


def check_cost(max_cost: float | None) -> None:
    """Raises InputError for a limit that allows nothing."""
    if max_cost is not None and max_cost <= 0:
        raise InputError("--max-cost must be more than 0.")


def sft(
    config: ConfigFile,
    overrides: Overrides = None,
    print_config: PrintConfig = False,
    local_rank: LocalRank = None,
) -> None:
    """Cold start of the verifier on the selected traces (trl's SFTTrainer)."""
    from rrm.verifier.config import SFTStage

    def run(given: SFTStage) -> None:
        from rrm.verifier.sft import (
            run as train,  # imports torch: not before the config is known to be good
        )

        train(given)

    run_stage_command(SFTStage, run, config, overrides, print_config)


def gcpo(
    config: ConfigFile,
    overrides: Overrides = None,
    print_config: PrintConfig = False,
    local_rank: LocalRank = None,
) -> None:
    """GCPO of the verifier on human preference pairs (a subclass of trl's GRPOTrainer)."""
    from rrm.verifier.gcpo.config import GCPOStage

    def run(given: GCPOStage) -> None:
        from rrm.verifier.gcpo.train import (
            run as train,  # imports torch: not before the config is known to be good
        )

        train(given)

    run_stage_command(GCPOStage, run, config, overrides, print_config)


def edit(
    config: ConfigFile,
    overrides: Overrides = None,
    print_config: PrintConfig = False,
    out: Out = None,
) -> None:
    """Improve an editor with DiffusionNFT or Flow-GRPO, a reward model as reward."""
    from rrm.editor.train import EditorConfig, run
    from rrm.sandbox.models.editor import TinyKontext
    from rrm.sandbox.truth import PixelTruth

    train = partial(run, load_policy=TinyKontext.load, truth=PixelTruth())
    run_stage_command(EditorConfig, train, config, overrides, print_config, out=out)


def edit_eval(
    config: ConfigFile,
    overrides: Overrides = None,
    print_config: PrintConfig = False,
    out: Out = None,
) -> None:
    """Compare editors before and after on held-out tasks, by the sandbox's truth."""
    from rrm.editor.evaluate import EvaluateConfig, run
    from rrm.sandbox.models.editor import TinyKontext
    from rrm.sandbox.truth import PixelTruth

    evaluate = partial(run, load_policy=TinyKontext.load, truth=PixelTruth())
    run_stage_command(EvaluateConfig, evaluate, config, overrides, print_config, out=out)


def export(
    checkpoint: Annotated[Path, typer.Option(help="a checkpoint folder of an SFT or GCPO run")],
    config: Annotated[Path, typer.Option(help="the config of that run")],
    out: Annotated[Path, typer.Option(help="an empty folder for the model")],
) -> None:
    """Turn any checkpoint of a run into a folder that plain transformers loads: adapters merged,
    ZeRO shards put together."""
    from rrm.verifier.export import export as write
    from rrm.verifier.export import read_config

    with locked(out):
        write(checkpoint, read_config(config), out)
    print(f"exported: {out}")
