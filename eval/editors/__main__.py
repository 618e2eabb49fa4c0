"""Benchmarks of editors.

    python -m eval.editors gedit sample --bench BENCH --language en --editor editor.yaml \\
        --outputs outputs
    python -m eval.editors gedit judge --bench BENCH --language en --outputs outputs/NAME \\
        --url URL --model MODEL --out runs/NAME
    python -m eval.editors gedit report runs/NAME [runs/OTHER]
    python -m eval.editors imgedit sample|judge|report …, with --bench basic_edit.json --images FOLDER
    python -m eval.editors gsb votes.jsonl
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from data_pipeline.generators import Generator
from eval.cache import AnswerCache
from eval.editors import gedit, imgedit
from eval.editors.gsb import gsb, read_votes
from eval.editors.items import Bench, EditItem, ItemResult
from eval.editors.judge import AnswerRow, JudgeSettings, judge_all
from eval.editors.report import (
    check_comparable,
    comparison,
    gsb_text,
    published,
    read_results,
    tables,
    write_report,
)
from eval.editors.sample import SETTINGS, sample
from rrm.errors import InputError, NothingMade
from rrm.rows.formats import Reading
from rrm.rows.labels import label_option
from rrm.runtime.disk import disk_troubles_named
from rrm.runtime.lock import locked
from rrm.runtime.stage import account_line, command, read_note, write_json

BENCHES = {"gedit": gedit.BENCH, "imgedit": imgedit.BENCH}


def items_of(arguments: argparse.Namespace) -> Iterator[EditItem]:
    """The benchmark's items, as the command line names them."""
    if arguments.benchmark == "gedit":
        return gedit.read_gedit(
            arguments.bench, arguments.language, arguments.limit, Reading(arguments.encoding)
        )
    return imgedit.read_imgedit(
        arguments.bench, arguments.images, arguments.limit, arguments.encoding
    )


def run_sample(arguments: argparse.Namespace) -> None:
    """Makes the edits that are not there."""
    editor = Generator.read(arguments.editor)
    name = arguments.name or editor.name
    if "/" in name or name.startswith("."):
        raise InputError(
            f"An editor's name becomes a folder: '{name}' must hold no slash and no leading dot."
        )
    folder = Path(arguments.outputs) / name
    with disk_troubles_named(folder), locked(folder):
        done = asyncio.run(sample(items_of(arguments), editor, folder, arguments.seed))
    why = (
        f"; why is in {folder}/failures.jsonl; the same command tries them again"
        if done.failed
        else ""
    )
    said = f"{folder}: {done.n} edits, {done.kept} there already, {done.made} made, {done.failed} failed{why}"
    if done.failed == done.n:
        raise NothingMade(said)
    print(said)


def made_by(outputs: Path) -> Any:
    """The settings that `sample` notes in an editor's folder; None where there are none."""
    try:
        return read_note(outputs / SETTINGS) if (outputs / SETTINGS).is_file() else None
    except ValueError as error:
        raise InputError(f"{error}; delete it: it only notes how the edits were made.") from error


def first_failure(results: Sequence[ItemResult]) -> str:
    """The first failure in its own words."""
    return next(
        (
            f"{r.item_id}: {r.failure.detail or r.failure.kind}"
            for r in results
            if r.failure is not None
        ),
        "no edits",
    )


def run_judge(arguments: argparse.Namespace) -> None:
    """Judges the edits and writes rows.jsonl, results.jsonl and summary.json."""
    bench: Bench = BENCHES[arguments.benchmark]
    outputs, out = Path(arguments.outputs), Path(arguments.out)
    if not outputs.is_dir():
        raise InputError(
            f"There is no folder {outputs}; give the editor's own folder, such as outputs/NAME."
        )
    asked = (
        "url",
        "model",
        "key_variable",
        "temperature",
        "max_tokens",
        "timeout",
        "retries",
        "in_flight",
    )
    names = (*asked, "extra", "max_tokens_field")
    settings = JudgeSettings.checked(
        {name: getattr(arguments, name) for name in names}, "the command line"
    )
    with disk_troubles_named(out), locked(out):
        rows = AnswerCache(out / "rows.jsonl", AnswerRow, retry=arguments.retry_failed)
        results, digests = asyncio.run(
            judge_all(bench, items_of(arguments), outputs, settings, rows)
        )
        about = {
            "bench": str(arguments.bench),
            "language": getattr(arguments, "language", "en"),
            "limit": arguments.limit,
            "outputs": str(outputs),
            "editor": made_by(outputs),
            "digests": digests,
        }
        summary = write_report(out, bench, results, settings, about)
    print(tables(bench, summary))
    if summary["account"]["out"] == 0:
        raise NothingMade(
            f"no edit got a score: {account_line(summary['account'])}; {first_failure(results)}."
        )
    print(f"edits: {account_line(summary['account'])}")


def run_report(arguments: argparse.Namespace) -> None:
    """Prints what was judged before, beside the published numbers; with two folders also their
    paired difference."""
    bench: Bench = BENCHES[arguments.benchmark]
    if len(arguments.folders) > 2:
        raise InputError("A report takes one folder, or two to compare.")
    every = [read_results(Path(folder)) for folder in arguments.folders]
    for folder, results in zip(arguments.folders, every, strict=True):
        print(f"{folder}\n{tables(bench, bench.summarise(results))}\n")
    if len(every) == 2:
        check_comparable(*(Path(folder) for folder in arguments.folders))
        print(f"{comparison(bench, *every)}\n")
    print(published(bench, every[0]))


def run_gsb(arguments: argparse.Namespace) -> None:
    """Prints the GSB of a file of votes, and writes it where asked."""
    found = gsb(read_votes(arguments.votes, Reading(arguments.encoding), arguments.labels))
    if arguments.out:
        write_json(Path(arguments.out) / "summary.json", {"votes_file": arguments.votes, **found})
    print(gsb_text(found))


def add_encoding(parser: argparse.ArgumentParser) -> None:
    """The argument that names the encoding of text."""
    parser.add_argument("--encoding", help="of text files that are not UTF-8, such as gb18030")


def add_source(parser: argparse.ArgumentParser, benchmark: str) -> None:
    """The arguments that name the benchmark's data."""
    parser.set_defaults(benchmark=benchmark)
    if benchmark == "gedit":
        parser.add_argument(
            "--bench",
            default="stepfun-ai/GEdit-Bench",
            help="folder, .parquet, .jsonl or hub id[@revision]",
        )
        parser.add_argument("--language", choices=("en", "cn"), default="en")
    else:
        parser.add_argument(
            "--bench",
            required=True,
            help="the JSON of the basic part: key → {id, prompt, edit_type}",
        )
        parser.add_argument("--images", required=True, help="the folder that ids are paths in")
    parser.add_argument("--limit", type=int, help="only the first so many items of every group")
    add_encoding(parser)


def add_benchmark(parser: argparse.ArgumentParser, benchmark: str) -> None:
    """The commands of one benchmark."""
    commands = parser.add_subparsers(required=True)
    make = commands.add_parser("sample", help="make an editor's edits")
    add_source(make, benchmark)
    make.add_argument(
        "--editor",
        required=True,
        help="a YAML file with an editor's settings, as in a data config's 'editors'",
    )
    make.add_argument("--outputs", required=True, help="folder of all editors' outputs")
    make.add_argument("--name", help="the editor's folder in it; its own name unless given")
    make.add_argument("--seed", type=int, help="the editor's first seed unless given")
    make.set_defaults(run=run_sample)
    judge = commands.add_parser("judge", help="judge an editor's edits")
    add_source(judge, benchmark)
    judge.add_argument("--outputs", required=True, help="the editor's own folder")
    judge.add_argument(
        "--out", required=True, help="where rows.jsonl, results.jsonl and summary.json go"
    )
    judge.add_argument("--url", required=True, help="an OpenAI-compatible server, ending in /v1")
    judge.add_argument("--model", required=True)
    fields = JudgeSettings.model_fields
    judge.add_argument(
        "--key-variable",
        default=fields["key_variable"].default,
        help="environment variable with the key",
    )
    judge.add_argument("--temperature", type=float, default=fields["temperature"].default)
    judge.add_argument("--max-tokens", type=int, default=fields["max_tokens"].default)
    judge.add_argument(
        "--timeout",
        type=float,
        default=fields["timeout"].default,
        help="seconds that one try may take",
    )
    judge.add_argument("--retries", type=int, default=fields["retries"].default)
    judge.add_argument(
        "--in-flight",
        type=int,
        default=fields["in_flight"].default,
        help="edits that are judged at once",
    )
    judge.add_argument(
        "--extra",
        default="{}",
        help="JSON: fields added to every request; null takes out one of ours",
    )
    judge.add_argument(
        "--max-tokens-field",
        default=fields["max_tokens_field"].default,
        help="or max_completion_tokens",
    )
    judge.add_argument(
        "--retry-failed", action="store_true", help="ask again where the judge gave no score"
    )
    judge.set_defaults(run=run_judge)
    report = commands.add_parser(
        "report", help="print what was judged; with two folders, compare them"
    )
    report.add_argument("folders", nargs="+", help="what 'judge' was given as --out")
    report.set_defaults(run=run_report, benchmark=benchmark)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m eval.editors", description="Benchmark editors of images."
    )
    kinds = parser.add_subparsers(required=True)
    for name in BENCHES:
        add_benchmark(kinds.add_parser(name), name)
    votes = kinds.add_parser("gsb", help="people's votes between two editors")
    votes.add_argument(
        "votes", help="CSV, JSONL, JSON or Parquet: item, vote, and if known rater and source"
    )
    add_encoding(votes)
    votes.add_argument(
        "--labels",
        type=label_option,
        metavar="1=a,2=b",
        help="what votes mean that are not G, S, B: value=a (the first is better), b, same, or value= to leave its rows out",
    )
    votes.add_argument("--out", help="folder for summary.json")
    votes.set_defaults(run=run_gsb)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    command(main)
