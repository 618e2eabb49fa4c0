"""Evaluation, reports, the whole job, and measurements of speed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from rrm.config import merged, parse_overrides, read_yaml
from rrm.package_files import package_file
from rrm.stage_options import ConfigFile, Overrides, PrintConfig, run_stage_command

Result = Annotated[Path, typer.Option("--out", help="JSON file of the figures")]


def evaluate(
    config: ConfigFile, overrides: Overrides = None, print_config: PrintConfig = False
) -> None:
    """Pairwise accuracy of judges on a benchmark, with intervals."""
    from eval.editrewardbench.cli import run_values

    run_values(
        merged(read_yaml(config), parse_overrides(overrides or ())), str(config), print_config
    )


def report(
    config: ConfigFile, overrides: Overrides = None, print_config: PrintConfig = False
) -> None:
    """One HTML page and summary.json of everything that was run."""
    from eval.report import ReportConfig, write_report

    run_stage_command(
        ReportConfig, lambda given: print(write_report(given)), config, overrides, print_config
    )


def demo(
    configs: Annotated[
        Path | None,
        typer.Option(help="folder of the stages' configs (default: those of the package)"),
    ] = None,
) -> None:
    """The whole job in the sandbox, offline; ends with the report's path."""
    from rrm.demo import run

    run(configs or package_file("rrm/configs/sandbox"))


def ablation(
    config: ConfigFile,
    overrides: Overrides = None,
    print_config: PrintConfig = False,
    show_jobs: Annotated[
        bool, typer.Option("--list", help="print the stages in the order of their start")
    ] = False,
    collect: Annotated[
        bool, typer.Option(help="write the evidence of what is done, and run nothing")
    ] = False,
    known: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="an earlier run's evidence: what was judged there is not run again",
        ),
    ] = None,
) -> None:
    """What each part of the method is worth, over seeds: every world, data set, training and
    evaluation of the study."""
    from eval.ablation.run import run
    from eval.ablation.study import AblationConfig

    named = f"rrm ablation --config {config}"
    run_stage_command(
        AblationConfig,
        lambda given: run(given, named, show_jobs, collect, known),
        config,
        overrides,
        print_config,
    )


def anchors(
    benchmark: Annotated[
        str | None, typer.Argument(help="a benchmark; all of them unless given")
    ] = None,
) -> None:
    """Published numbers with their sources."""
    from eval.anchors import print_anchors

    print_anchors(benchmark)


def config_reference() -> None:
    """Every key of every config with its default and meaning, as Markdown."""
    from rrm.cli.reference import reference

    print(reference(), end="")


perf = typer.Typer(help="Measure speed and memory; figures go to runs/bench.", no_args_is_help=True)


@perf.command("data")
def perf_data(
    only: Annotated[list[str] | None, typer.Option(help="a part: may be given again")] = None,
    out: Result = Path("runs/bench/data.json"),
) -> None:
    """The data pipeline: rates, memory, kills, hostile answers, photographs."""
    from data_pipeline.perf.run import measure

    measure(only, out)


@perf.command("verifier")
def perf_verifier(
    model: Annotated[
        Path | None, typer.Option(help="an RRM checkpoint (default: the shipped base)")
    ] = None,
    rounds: int = 4,
    out: Result = Path("runs/bench/verifier.json"),
) -> None:
    """GCPO's step, forwards and rollouts beside trl and transformers."""
    from rrm.perf.verifier import BASE, run

    run(model or BASE, rounds, out)


@perf.command("serving")
def perf_serving(
    model: Path = Path("runs/demo/gcpo/model"),
    edits: Annotated[
        int, typer.Option(help="for the agreement; a fifth of them for each rate")
    ] = 500,
    out: Result = Path("runs/bench/serving.json"),
    image_by_image: Annotated[int | None, typer.Option(metavar="PORT", hidden=True)] = None,
) -> None:
    """Serving: rates, client overhead, Avg@4, agreement of vLLM and transformers."""
    from rrm.perf.serving import run

    run(model, edits, out, image_by_image)


@perf.command("gpu")
def perf_gpu(
    size: Annotated[
        list[str] | None,
        typer.Option(help="what to measure (default: 3b and 7b); may be given again"),
    ] = None,
    device: Literal["cuda", "cpu"] = "cuda",
    steps: Annotated[
        int, typer.Option(help="updates of each training, the first of them not counted")
    ] = 6,
    out: Result = Path("runs/bench/gpu.json"),
    stage: Annotated[str | None, typer.Option(hidden=True)] = None,
    work: Annotated[Path | None, typer.Option(hidden=True)] = None,
) -> None:
    """SFT, GCPO and scoring at 3B and 7B on this GPU, random weights."""
    from rrm.perf.gpu import run

    run(size, device, steps, out, stage, work)
