"""The `editrewardbench` command.

editrewardbench run --config configs/sandbox/eval.yaml limit=100
editrewardbench run --bench editscore --data EditScore/EditReward-Bench@REVISION \\
    --reward rrm:runs/gcpo/model --out results/rrm
editrewardbench compare results/rrm results/other
editrewardbench report results/rrm
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from eval import benchmarks
from eval.editrewardbench.specs import FORMS
from rrm.config import merged, parse_overrides, read_yaml
from rrm.rows.labels import label_option
from rrm.runtime.commands import run_process
from rrm.runtime.stage import write_json

app = typer.Typer(
    name="editrewardbench",
    help="Benchmark reward models for image editing.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def option(text: str, *names: str, metavar: str | None = None) -> Any:
    """An option with this help."""
    return typer.Option(*names, help=text, metavar=metavar, show_default=False)


def benchmark_name(value: str | None) -> str | None:
    """The value of --bench, if it is a benchmark's name."""
    if value is not None and value not in benchmarks.BENCHMARKS:
        raise typer.BadParameter(f"'{value}' is none of {', '.join(benchmarks.BENCHMARKS)}")
    return value


@app.command()
def run(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="keys of the config", show_default=False),
    ] = None,
    config: Annotated[
        str | None, option("a YAML file with any of these, or several judges", metavar="FILE")
    ] = None,
    bench: Annotated[
        str | None,
        typer.Option(
            callback=benchmark_name,
            help=f"whose format and protocol: {', '.join(benchmarks.BENCHMARKS)}",
        ),
    ] = None,
    data: Annotated[
        str | None, option("folder, file, or hub id (owner/name@revision)", metavar="WHERE")
    ] = None,
    reward: Annotated[str | None, option(FORMS, metavar="SPEC")] = None,
    out: Annotated[
        str | None, option("folder of results; the same command carries on there", metavar="DIR")
    ] = None,
    encoding: Annotated[
        str | None, option("of text files that are not UTF-8, such as gb18030")
    ] = None,
    labels: Annotated[
        str | None,
        option(
            "meaning of uncertain labels: value=a, b, same, or value= to leave its rows out",
            metavar="1=a,2=b",
        ),
    ] = None,
    passes: Annotated[
        int | None, option("sampled judgements per edit, whose mean counts (Avg@K)", metavar="K")
    ] = None,
    limit: Annotated[
        int | None, option("first rows of every dimension, or groups of every size", metavar="N")
    ] = None,
    validation: Annotated[
        float | None,
        option("share of the sources on which the tie margin is fixed", metavar="SHARE"),
    ] = None,
    train_manifest: Annotated[
        str | None,
        option("training data: a data folder, or rows of source and instruction", metavar="PATH"),
    ] = None,
    resize: Annotated[
        bool | None,
        option(
            "resize edits to their source's size, or not (default: the protocol's way)",
            "--resize/--no-resize",
        ),
    ] = None,
    batch: Annotated[int | None, option("edits judged at once (default: 32)")] = None,
    retry: Annotated[
        bool | None, option("ask again for all failures, not just transient ones", "--retry")
    ] = None,
    seed: Annotated[
        int | None, option("of sampling, splits and random baselines (default: 0)")
    ] = None,
    principles: Annotated[
        str | None,
        option("decompose (default), a JSONL file by instruction, or truth", metavar="FROM"),
    ] = None,
    truth: Annotated[
        str | None, option("sandbox: hold verdicts against the truth of its pixels", metavar="NAME")
    ] = None,
    print_config: Annotated[
        bool, option("print the effective config and stop", "--print-config")
    ] = False,
) -> None:
    """Judge a benchmark's edits and count."""
    options = {key: value for key, value in locals().items() if value is not None}
    for name in ("overrides", "config", "print_config"):
        options.pop(name, None)
    if labels is not None:
        options["labels"] = label_option(labels)
    values = {**(read_yaml(config) if config else {}), **options}
    values = merged(values, parse_overrides(overrides or []))
    run_values(values, config or "editrewardbench run", print_config)


def run_values(values: dict[str, Any], origin: str, print_config: bool) -> None:
    """Runs one judge, or several where the config has `judges`."""
    from eval.editrewardbench.run import run_bench
    from eval.editrewardbench.sandbox_truth import SandboxTruth
    from eval.editrewardbench.settings import BenchConfig
    from eval.editrewardbench.suite import SuiteConfig, run_suite
    from eval.editrewardbench.summary import described, last_line

    suite = "judges" in values
    config = (SuiteConfig if suite else BenchConfig).checked(values, origin)
    line, truths = shlex.join(["editrewardbench", *sys.argv[1:]]), {"sandbox": SandboxTruth}
    if print_config:
        print(config.as_yaml())
    elif isinstance(config, SuiteConfig):
        run_suite(config, line, truths)
    else:
        summary = run_bench(config, line, truths)
        print(described(summary))
        print(f"→ {config.out}; a page about it: editrewardbench report {config.out}")
        print(last_line(summary))


@app.command()
def compare(
    first: Annotated[
        Path, typer.Argument(metavar="A", help="a result's folder, the supposedly better one's")
    ],
    second: Annotated[Path, typer.Argument(metavar="B", help="the other's")],
    seed: Annotated[int, typer.Option(help="of the bootstrap")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="print all of it as JSON")] = False,
    out: Annotated[Path | None, option("write the JSON there as well", metavar="FILE")] = None,
) -> None:
    """Two results on the same pairs: paired bootstrap, McNemar, agreement."""
    from eval.editrewardbench.compare import compare_results, described

    result = compare_results(first, second, seed)
    if out:
        write_json(out, result)
    print(json.dumps(result, ensure_ascii=False, indent=1) if as_json else described(result))


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="a result's folder")],
) -> None:
    """Write a page about a result that opens offline."""
    from eval.editrewardbench.page import write_page

    print(write_page(folder))


def main(arguments: Sequence[object] | None = None) -> None:
    """Entry point."""
    run_process(app, "editrewardbench", arguments)
