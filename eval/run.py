"""The benchmark of reward models: every model judges every edit once, and the scores are compared pair by pair.

In the order in which it happens: the benchmark is indexed and checked, each model judges (rows.jsonl), its judgements are
summed up (summary.json), models are compared on the same pairs, a few judged edits are kept for the report (examples.json).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from eval.benches import BenchRow, Kind
from eval.cache import AnswerCache, JudgedRow
from eval.endpoint import SANDBOX, EndpointJudge
from eval.examples import write_examples
from eval.index import PairIndex, TaskKey, open_bench, principles_file, sandbox_principles
from eval.judges import ChanceJudge, EditJudge, NoiselessTeacher, RewardJudge
from eval.protocols import summarise_bench
from eval.scoring import Decomposition, judge_all, own_principles
from eval.summary import compare, summarise_model, table
from rrm.chat import Dialect
from rrm.config import Config
from rrm.errors import InputError, NothingMade
from rrm.records import UNREADABLE, Failure, Judgement, Label, Principle
from rrm.rows.formats import Reading
from rrm.rows.text import Encoding
from rrm.runtime.lock import locked
from rrm.runtime.stage import DONE, STARTED, account, account_line, run_stage, write_json

NOISELESS = "noiseless"
Open = Callable[["EvalConfig", str], EditJudge]
VERSIONS = ("edit-rrm", "torch", "transformers", "openai", "datasets", "pillow", "numpy")


class EvalConfig(Config):
    """What is evaluated on what."""

    bench: str
    """A benchmark or a set in its schema: folder, .parquet, .jsonl, .json, or hub id with optional @revision."""
    kind: Kind = "editscore"
    """Whose schema and protocol: EditScore's or TIGER-Lab's EditReward-Bench, GenAI-Bench, EditReward-Compass, any preference set.
    Edits are judged at their own size, as they are in training, whatever the protocol: for that see `editrewardbench run`."""
    models: dict[str, str] = Field(min_length=1)
    """Name → `chance`, `teacher` (the endpoint below), `noiseless` (the sandbox's teachers without an error), a checkpoint folder, or a reward
    as rrm.reward has it, `server:http://127.0.0.1:8000/v1` or `rrm:FOLDER?k=4`."""
    out: str
    judgements: str | None = None
    """Folder of the append-only judgements; inside `out` unless named. One outside outlives a change of this config."""
    principles: str = "decompose"
    """`decompose` (each model writes its own), a JSONL file by instruction, or `sandbox`."""
    truth: Literal["pixels"] | None = None
    """`pixels`: sandbox images, whose true verdicts can be read off; needs `principles: sandbox`."""
    compare: tuple[tuple[str, str], ...] = ()
    """Pairs of models, the supposedly better one first, whose difference is reported with an interval."""
    limit: int | None = Field(default=None, gt=0)
    """Rows of every dimension (whole groups of every K for tiger); all of them unless set."""
    encoding: Encoding | None = None
    """Of text files that are not UTF-8, such as gb18030."""
    labels: dict[str | int | float | bool, Label | None] | None = None
    """What labels of a preference set (`kind: jsonl`) mean that are not certain: value → a, b, same, or null to leave its rows out."""
    batch: int = Field(default=32, gt=0)
    """Edits judged at once; requests in flight for a teacher."""
    seed: int = 0
    teacher_url: str | None = None
    """An OpenAI-compatible server's base URL, or `sandbox`."""
    teacher_model: str | None = None
    teacher_key_variable: str = "OPENAI_API_KEY"
    teacher_temperature: float = Field(default=0.0, ge=0, le=2)
    teacher_max_tokens: int = Field(default=4096, gt=0)
    teacher_timeout: float = Field(default=120.0, gt=0)
    """Seconds."""
    teacher_dialect: Dialect = Dialect()
    """What the server takes differently: extra, max_tokens_field."""

    @model_serializer(mode="wrap")
    def without_defaults(self, whole: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Every value, but no kind, encoding and labels by default: evaluations done before there were these still count as done."""
        later = (("kind", "editscore"), ("encoding", None), ("labels", None))
        return {key: value for key, value in whole(self).items() if (key, value) not in later}

    @model_validator(mode="after")
    def fits_together(self) -> EvalConfig:
        """Refuses settings that contradict each other."""
        unknown = {name for pair in self.compare for name in pair} - set(self.models)
        if unknown:
            raise ValueError(f"'compare' names {', '.join(sorted(unknown))}, which 'models' does not")
        if NOISELESS in self.models.values() and self.principles != SANDBOX:
            raise ValueError(f"a model '{NOISELESS}' needs 'principles: sandbox'")
        if "teacher" in self.models.values() and not (self.teacher_url and self.teacher_model):
            raise ValueError("a model 'teacher' needs teacher_url and teacher_model")
        if self.truth and self.principles != SANDBOX:
            raise ValueError("'truth: pixels' needs 'principles: sandbox'")
        if any("/" in name or name.startswith(".") for name in self.models):
            raise ValueError("a model's name becomes a folder: no slash, no leading dot")
        return self


def open_judge(config: EvalConfig, spec: str) -> EditJudge:
    """The judge that a value of `models` stands for."""
    if spec == "chance":
        return ChanceJudge(config.seed)
    if spec == NOISELESS:
        return NoiselessTeacher()
    if spec != "teacher":
        from rrm.reward import open_reward  # imports torch

        if Path(spec).exists() and "?" not in spec:
            spec = f"rrm:{spec}?batch={config.batch}"
        return RewardJudge(open_reward(spec))
    return EndpointJudge(
        str(config.teacher_url),
        str(config.teacher_model),
        key_variable=config.teacher_key_variable,
        temperature=config.teacher_temperature,
        max_tokens=config.teacher_max_tokens,
        timeout=config.teacher_timeout,
        dialect=config.teacher_dialect,
    )


def inputs_of(path: Path) -> list[Path]:
    """What must be unchanged for work on `path` to count as done: the stage that made it, or every file of it."""
    for folder in (path, path.parent):
        if (folder / DONE).is_file() or (folder / STARTED).is_file():
            return [folder]
    return sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]


def all_inputs(config: EvalConfig) -> list[Path]:
    """Everything on disk that the result depends on."""
    named = [spec for spec in config.models.values() if spec not in ("chance", "teacher", NOISELESS)]
    paths = [Path(spec.partition("?")[0].removeprefix("rrm:")) for spec in named if not spec.startswith("server:")]
    if Path(config.bench).exists():
        paths.append(Path(config.bench))
    if config.principles not in (SANDBOX, "decompose"):
        paths.append(Path(config.principles))
    return [found for path in paths for found in inputs_of(path)]


def task_principles(
    config: EvalConfig, judge: EditJudge, pairs: Sequence[PairIndex], rows: Callable[[], Iterator[BenchRow]], folder: Path
) -> dict[TaskKey, tuple[Principle, ...] | Failure]:
    """The principles of every task, from where the config says."""
    if config.principles == "decompose":
        return own_principles(judge, pairs, rows, AnswerCache(folder / "principles.jsonl", Decomposition), config.batch)
    if config.principles == SANDBOX:
        return {pair.task: sandbox_principles(pair.instruction) for pair in pairs}
    known = principles_file(Path(config.principles))
    missing = {pair.instruction for pair in pairs} - set(known)
    if missing:
        raise InputError(f"{config.principles} lacks principles for {len(missing)} instructions, such as '{min(missing)}'.")
    return {pair.task: known[pair.instruction] for pair in pairs}


def account_of(judgements: Iterable[Judgement]) -> dict[str, Any]:
    """Edits in, edits answered, and why the others were not; what an answer that cannot be read says of a model is in its summary."""
    kinds = Counter(None if j.failure is None or j.failure.kind in UNREADABLE else j.failure.kind for j in judgements)
    failed = {str(kind): count for kind, count in kinds.items() if kind is not None}
    return account(kinds.total(), kinds[None], failed)


def evaluate(config: EvalConfig, out: Path, opened: Open) -> dict[str, Any]:
    """Judges, sums up and compares; returns what stands in stage.json. `opened` makes a judge from a value of `models`."""

    bench = open_bench(
        config.kind, config.bench, config.limit, False, Reading(config.encoding), config.labels, config.truth is not None
    )
    pairs, truths, rows = bench.pairs, bench.truths, bench.rows
    kept = Path(config.judgements) if config.judgements else out
    summaries, judgements = {}, {}
    for name, spec in config.models.items():
        with opened(config, spec) as judge:
            store = AnswerCache(kept / name / "rows.jsonl", JudgedRow)
            principles = task_principles(config, judge, pairs, rows, kept / name)
            judgements[name] = judge_all(judge, pairs, rows, principles, store, config.batch, name)
            summary = {"model": name, "spec": spec, "fingerprint": judge.fingerprint}
        summaries[name] = {**summary, **summarise_model(pairs, judgements[name], truths if config.truth else None)}
        if config.kind != "editscore":  # whose own protocol is what `summarise_model` counts
            scores = {edit_id: judgement.score for edit_id, judgement in judgements[name].items()}
            summaries[name]["protocol"] = summarise_bench(config.kind, pairs, scores)
        write_json(out / name / "summary.json", summaries[name])
    last = list(config.models)[-1]
    write_examples(out, last, pairs, judgements[last], rows)
    print(table(summaries))
    accounts = {name: account_of(found.values()) for name, found in judgements.items()}
    for name, rows_of_model in accounts.items():
        if rows_of_model["out"] == 0:
            raise NothingMade(f"'{name}' ({config.models[name]}) answered for no edit: {account_line(rows_of_model)}")
    return {
        "config": config.model_dump(mode="json"),
        "versions": {package: version(package) for package in VERSIONS},
        "pairs": len(pairs),
        "account": account_of(j for of_model in judgements.values() for j in of_model.values()),
        "edits": len({name for pair in pairs for name in pair.edit_ids}),
        "sources": len({pair.source for pair in pairs}),
        "models": {name: summary["headline"] for name, summary in summaries.items()},
        "compare": json.loads(json.dumps(compare(pairs, judgements, config.compare))),
    }


def evaluate_locked(config: EvalConfig, out: Path, opened: Open) -> dict[str, Any]:
    """`evaluate`, while no other run writes into a folder of judgements that lies elsewhere. The stage has the lock of `out` itself."""
    if config.judgements is None or Path(config.judgements).resolve() == out.resolve():
        return evaluate(config, out, opened)
    with locked(config.judgements):
        return evaluate(config, out, opened)


def run(config: EvalConfig, opened: Open = open_judge) -> dict[str, Any]:
    """The stage `eval`."""
    return run_stage("eval", config.out, config, all_inputs(config), lambda out: evaluate_locked(config, out, opened))
