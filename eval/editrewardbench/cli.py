"""The `editrewardbench` command.

editrewardbench run --config configs/sandbox/eval.yaml
editrewardbench run --bench editscore --data EditScore/EditReward-Bench@REVISION --reward rrm:runs/gcpo/model --out results/rrm
editrewardbench compare results/rrm results/other
editrewardbench report results/rrm
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from pathlib import Path

from eval import benchmarks
from eval.editrewardbench.specs import FORMS
from rrm.config import read_yaml
from rrm.rows.labels import label_option
from rrm.runtime.stage import command, write_json


def run(options: argparse.Namespace) -> None:
    """`editrewardbench run`: one judge, or with `judges` in a config file several."""
    from eval.editrewardbench.run import BenchConfig, run_bench
    from eval.editrewardbench.sandbox_truth import SandboxTruth
    from eval.editrewardbench.suite import SuiteConfig, run_suite
    from eval.editrewardbench.summary import described, last_line

    known = BenchConfig.model_fields.keys() | SuiteConfig.model_fields.keys()
    values = read_yaml(options.config) if "config" in options else {}
    values |= {key: value for key, value in vars(options).items() if key in known}
    origin = options.config if "config" in options else "editrewardbench run"
    line, truths = shlex.join(["editrewardbench", *sys.argv[1:]]), {"sandbox": SandboxTruth}
    if "judges" in values:
        run_suite(SuiteConfig.checked(values, origin), line, truths)
        return
    config = BenchConfig.checked(values, origin)
    summary = run_bench(config, line, truths)
    print(described(summary))
    print(f"→ {config.out}; a page about it: editrewardbench report {config.out}")
    print(last_line(summary))


def compare(options: argparse.Namespace) -> None:
    """`editrewardbench compare`."""
    from eval.editrewardbench.compare import compare as compared
    from eval.editrewardbench.compare import described

    result = compared(options.first, options.second, options.seed)
    if options.out:
        write_json(options.out, result)
    print(json.dumps(result, ensure_ascii=False, indent=1) if options.json else described(result))


def report(options: argparse.Namespace) -> None:
    """`editrewardbench report`."""
    from eval.editrewardbench.page import write_page

    print(write_page(options.folder))


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="editrewardbench", description="Benchmark reward models for image editing.")
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run", help="judge a benchmark's edits and count", argument_default=argparse.SUPPRESS)
    running.add_argument("--config", metavar="FILE", help="a YAML file with any of these, and several judges")
    running.add_argument(
        "--bench", choices=list(benchmarks.BENCHMARKS), help="whose format and protocol; jsonl is any preference set"
    )
    running.add_argument("--data", metavar="WHERE", help="folder, file, or hub id (owner/name@revision)")
    running.add_argument("--reward", metavar="SPEC", help=FORMS)
    running.add_argument("--out", metavar="DIR", help="where results go; the same command carries on there")
    running.add_argument("--encoding", help="of text files that are not UTF-8, such as gb18030")
    running.add_argument(
        "--labels",
        type=label_option,
        metavar="1=a,2=b",
        help="what labels of a preference set mean that are not certain: value=a, b, same, or value= to leave its rows out",
    )
    running.add_argument("--passes", type=int, metavar="K", help="sampled judgements per edit, whose mean counts (Avg@K)")
    running.add_argument(
        "--limit", type=int, metavar="N", help="only the first N rows of every dimension, or groups of every size"
    )
    running.add_argument(
        "--validation", type=float, metavar="SHARE", help="share of the sources on which the tie margin is fixed"
    )
    running.add_argument(
        "--train-manifest", metavar="PATH", help="what the model was trained on: a data folder, or JSONL of source, instruction"
    )
    running.add_argument(
        "--resize",
        action=argparse.BooleanOptionalAction,
        help="bring edits to their source's size before they are judged, or not (default: as the benchmark's protocol has it)",
    )
    running.add_argument("--batch", type=int, help="edits judged at once (default: 32)")
    running.add_argument(
        "--retry",
        action="store_true",
        help="ask again for what failed before, for whatever reason (failures of the moment are asked again in any case)",
    )
    running.add_argument("--seed", type=int, help="of sampling, splits and the random baseline (default: 0)")
    running.add_argument("--principles", metavar="FROM", help="decompose (default), a JSONL file by instruction, or truth")
    running.add_argument("--truth", metavar="NAME", help="sandbox: hold verdicts against the truth of its pixels")
    running.set_defaults(run=run)
    comparing = commands.add_parser("compare", help="two results on the same pairs: paired bootstrap, McNemar, agreement")
    comparing.add_argument("first", type=Path, metavar="A", help="a result's folder, the supposedly better one's")
    comparing.add_argument("second", type=Path, metavar="B", help="the other's")
    comparing.add_argument("--seed", type=int, default=0, help="of the bootstrap (default: 0)")
    comparing.add_argument("--json", action="store_true", help="print all of it as JSON")
    comparing.add_argument("--out", type=Path, metavar="FILE", help="write the JSON there as well")
    comparing.set_defaults(run=compare)
    reporting = commands.add_parser("report", help="write a page about a result that opens offline")
    reporting.add_argument("folder", type=Path, metavar="DIR", help="a result's folder")
    reporting.set_defaults(run=report)
    return parser


def main() -> None:
    """Entry point."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    options = build_parser().parse_args()
    command(lambda: options.run(options))
