"""What is judged and how: the config of a run, and the principles that it names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import Field, field_validator

from eval.benchmarks import OpenBenchmark, benchmark_of, open_benchmark
from eval.editrewardbench.judges import Principles
from eval.editrewardbench.truth import Truth, Truths
from eval.pairs import PairIndex
from eval.protocol import Benchmark
from rrm.config import Config
from rrm.errors import InputError
from rrm.records import Label, Principle
from rrm.rows.formats import Reading, whole_rows
from rrm.rows.text import Encoding

DECOMPOSE = "decompose"


class BenchmarkSettings(Config):
    """What is judged and how, whoever judges."""

    bench: str
    """Whose format and protocol: a file of `eval.benchmarks`; jsonl is any preference set."""
    data: str
    """Folder, file, or hub id (owner/name@revision)."""
    passes: int = Field(default=1, gt=0)
    """Sampled judgements per edit, whose mean counts (Avg@K)."""
    limit: int | None = Field(default=None, gt=0)
    """Only the first rows of every dimension (editscore), groups of every K (tiger), or rows."""
    validation: float = Field(default=0.0, ge=0, lt=1)
    """Share of the sources on which the tie margin is fixed; they are no part of the result."""
    train_manifest: str | None = None
    """What the model was trained on: a data folder, or rows of source and instruction."""
    batch: int = Field(default=32, gt=0)
    """Edits judged at once; requests in flight for a server."""
    seed: int = 0
    """Of sampling, splits and the random baselines."""
    retry: bool = False
    """Whether all failures are asked again, and not just transient ones."""
    encoding: Encoding | None = None
    """Of text files that are not UTF-8, such as gb18030."""
    labels: dict[str | int | float | bool, Label | None] | None = None
    """Meaning of uncertain labels of a preference set: value → a, b, same, or null to leave out."""
    resize: bool | None = None
    """Whether edits are resized to their source's size; as the benchmark's protocol unless set."""
    principles: str = DECOMPOSE
    """`decompose` (each judge writes its own), a JSONL file by instruction, or `truth`."""
    truth: str | None = None
    """`sandbox`: verdicts are held against the truth of the sandbox's pixels."""

    @field_validator("bench")
    @classmethod
    def known_benchmark(cls, value: str) -> str:
        """Refuses the name of no benchmark."""
        benchmark_of(value)
        return value

    @property
    def benchmark(self) -> Benchmark:
        """The benchmark of this name."""
        return benchmark_of(self.bench)

    @property
    def resized(self) -> bool:
        """Whether edits are resized to their source's size."""
        return self.benchmark.resizes if self.resize is None else self.resize

    def open(self) -> OpenBenchmark:
        """The benchmark, read once."""
        return open_benchmark(
            self.bench, self.data, self.limit, self.resized, Reading(self.encoding), self.labels
        )

    def truth_from(self, truths: Truths) -> Truth | None:
        """The truth that is named, of those that the command knows."""
        if self.truth is None:
            if self.principles == "truth":
                raise InputError("'principles: truth' needs a 'truth', such as sandbox.")
            return None
        if self.truth not in truths:
            raise InputError(
                f"There is no truth '{self.truth}'; known: {', '.join(truths) or 'none'}."
            )
        return truths[self.truth]()


class BenchConfig(BenchmarkSettings):
    """One judge on a benchmark."""

    reward: str
    """The judge, as `eval.editrewardbench.specs` reads it."""
    out: str
    """Folder of the results; the same command carries on there."""
    judgements: str | None = None
    """Folder of the cached answers; `out` unless set."""


def principles_file(path: Path) -> dict[str, Principles]:
    """Principles by instruction, from JSONL. Raises InputError for any other content."""
    if not path.is_file():
        raise InputError(
            f"There are no principles at {path}; 'principles' is truth, decompose, or the path "
            "of a JSONL file."
        )
    table = {}
    for where, value in whole_rows(path):
        try:
            principles = tuple(Principle.model_validate(entry) for entry in value["principles"])
            table[str(value["instruction"])] = principles
        except (KeyError, TypeError, ValueError) as error:
            wanted = '{"instruction", "principles": [{"question", "category"}]}'
            raise InputError(f"{where} is not {wanted}.") from error
        if not principles:
            raise InputError(f"{where} names no principle.")
    return table


def given_principles(
    config: BenchmarkSettings, pairs: Sequence[PairIndex], truth: Truth | None
) -> Callable[[str], Principles] | None:
    """The principles of an instruction, as configured; None where judges write their own."""
    if config.principles == DECOMPOSE:
        return None
    if truth is not None and config.principles == "truth":
        return truth.principles
    table = principles_file(Path(config.principles))
    lacking = {pair.instruction for pair in pairs} - set(table)
    if lacking:
        raise InputError(
            f"{config.principles} lacks principles for {len(lacking)} instructions, such as "
            f"'{min(lacking)}'."
        )
    return table.__getitem__
