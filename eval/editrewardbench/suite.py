"""Several judges on one benchmark: each one's result, and paired differences of their accuracies.

The stage `eval` of the demo and the ablation: done already for the same config and inputs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from eval.editrewardbench.run import Result, judge_benchmark
from eval.editrewardbench.settings import DECOMPOSE, BenchConfig, BenchmarkSettings
from eval.editrewardbench.specs import check_spec, is_pairwise, kind_of
from eval.editrewardbench.summary import HEADLINE, aligned
from eval.editrewardbench.truth import Truths
from eval.outcomes import Outcome, breakdown, by_dimension, paired_difference
from eval.wording import percent, percent_span
from rrm.errors import InputError, NothingMade
from rrm.records import UNREADABLE, Failure
from rrm.runtime.lock import locked
from rrm.runtime.stage import DONE, STARTED, account, account_line, run_stage

LOCAL_MODELS = ("rrm", "serve")


class SuiteConfig(BenchmarkSettings):
    """Several judges on a benchmark."""

    judges: dict[str, str] = Field(min_length=1)
    """Name → judge, as `eval.editrewardbench.specs` reads it."""
    compare: tuple[tuple[str, str], ...] = ()
    """Pairs of judges, the supposedly better one first, whose paired difference is reported."""
    out: str
    """Folder of the results, with a folder for each judge."""
    judgements: str | None = None
    """Folder of the cached answers; `out` unless set. One elsewhere outlives a changed config."""

    @model_validator(mode="after")
    def fits_together(self) -> SuiteConfig:
        """Refuses settings that contradict each other."""
        unknown = {name for pair in self.compare for name in pair} - set(self.judges)
        if unknown:
            raise ValueError(
                f"'compare' names {', '.join(sorted(unknown))}, which 'judges' does not"
            )
        if self.principles == "truth" and not self.truth:
            raise ValueError("'principles: truth' needs a 'truth', such as sandbox")
        if any("/" in name or name.startswith(".") for name in self.judges):
            raise ValueError("a judge's name becomes a folder: no slash, no leading dot")
        return self

    def of_judge(self, name: str) -> BenchConfig:
        """The config of one judge's run."""
        shared = {key: getattr(self, key) for key in BenchmarkSettings.model_fields}
        cache = str(Path(self.judgements) / name) if self.judgements else None
        return BenchConfig(
            **shared, reward=self.judges[name], out=str(Path(self.out) / name), judgements=cache
        )


def files_behind(path: Path) -> list[Path]:
    """What must be unchanged for work on `path` to count as done: its stage, or all its files."""
    for folder in (path, path.parent):
        if (folder / DONE).is_file() or (folder / STARTED).is_file():
            return [folder]
    return sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]


def inputs_of(config: SuiteConfig) -> list[Path]:
    """Everything on disk that the result depends on."""
    local = [spec for spec in config.judges.values() if kind_of(spec) in LOCAL_MODELS]
    paths = [Path(spec.partition(":")[2].partition("?")[0]) for spec in local]
    if Path(config.data).exists():
        paths.append(Path(config.data))
    if config.principles not in (DECOMPOSE, "truth"):
        paths.append(Path(config.principles))
    return [file for path in paths for file in files_behind(path)]


def answered(failures: Sequence[Failure | None]) -> dict[str, Any]:
    """An account in which an answer that cannot be read is one: it says something of the judge."""
    kinds = Counter(str(f.kind) for f in failures if f is not None and f.kind not in UNREADABLE)
    return account(len(failures), len(failures) - kinds.total(), kinds)


def decided_of(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """The pairs of the dimension overall that people decided."""
    return [outcome for outcome in outcomes if outcome.decided and outcome.dimension == HEADLINE]


def headline_of(result: Result) -> dict[str, Any] | None:
    """The numbers that stand for a judge, over the decided pairs; None without any."""
    decided = decided_of(result.outcomes)
    if not decided:
        return None
    parts, truth = breakdown(decided), result.summary["truth"] or {}
    return {
        "strict": parts["strict"],
        "half_tie": parts["half_tie"],
        "ci95": parts["half_tie_ci95"],
        "n": parts["n"],
        "ties": parts["ties"],
        "unparseable": parts["unreadable"],
        "verdict_balanced_accuracy": truth.get("verdict_balanced_accuracy"),
    }


def table(results: Mapping[str, Result]) -> str:
    """A line per judge and dimension. Accuracies in per cent; the interval is that of `ties ½`."""
    lines = [
        (
            "judge",
            "dimension",
            "n",
            "strict",
            "ties ½",
            "95%",
            "macro",
            "ties",
            "unread",
            "verdicts",
        )
    ]
    for name, result in results.items():
        truth = result.summary["truth"] or {}
        verdicts = percent(truth.get("verdict_balanced_accuracy"))
        decided = [outcome for outcome in result.outcomes if outcome.decided]
        for dimension, members in by_dimension(decided).items():
            d = breakdown(members)
            shares = (
                percent(d["strict"]),
                percent(d["half_tie"]),
                percent_span(d["half_tie_ci95"]),
                percent(d["macro"]),
            )
            lines.append(
                (
                    name,
                    dimension,
                    str(d["n"]),
                    *shares,
                    str(d["ties"]),
                    str(d["unreadable"]),
                    verdicts,
                )
            )
    return aligned(lines, left=2)


def judge_all(config: SuiteConfig, command: str, truths: Truths) -> dict[str, Any]:
    """Runs every judge; returns the result for stage.json."""
    opened, truth = config.open(), config.truth_from(truths)
    results: dict[str, Result] = {}
    with ExitStack() as stack:
        if config.judgements and Path(config.judgements).resolve() != Path(config.out).resolve():
            stack.enter_context(locked(config.judgements))
        for name in config.judges:
            results[name] = judge_benchmark(config.of_judge(name), opened, command, truth)
    print(table(results))
    for name, result in results.items():
        rows = answered(result.failures)
        if rows["out"] == 0:
            raise NothingMade(
                f"'{name}' ({config.judges[name]}) answered for no edit: {account_line(rows)}"
            )
    decided = {name: decided_of(result.outcomes) for name, result in results.items()}
    first = next(iter(results.values())).summary
    return {
        "config": config.model_dump(mode="json"),
        "versions": first["versions"],
        **{name: first["bench"][name] for name in ("pairs", "edits", "sources")},
        "account": answered(
            [failure for result in results.values() for failure in result.failures]
        ),
        "models": {name: headline_of(result) for name, result in results.items()},
        "compare": [
            {"model": name, "against": other, **paired_difference(decided[name], decided[other])}
            for name, other in config.compare
        ],
    }


def run_suite(config: SuiteConfig, command: str, truths: Truths | None = None) -> dict[str, Any]:
    """The stage `eval`. Raises as `run_bench` does, but an unreadable judge is a result."""
    for spec in config.judges.values():
        check_spec(spec, config.passes)
        if config.validation and is_pairwise(spec):
            raise InputError("A pairwise judge says itself what is a tie; leave 'validation' out.")
    return run_stage(
        "eval",
        config.out,
        config,
        inputs_of(config),
        lambda out: judge_all(config, command, truths or {}),
    )
