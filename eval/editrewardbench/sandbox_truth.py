"""The sandbox's truth about a benchmark's edits, read from their pixels: the one file that knows
the sandbox. Verdicts are held against it, and its teachers can be judged.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

from eval.editrewardbench.endpoint import EndpointJudge
from eval.editrewardbench.judges import Edit, EditJudge, LocalJudge, Principles
from eval.editrewardbench.judging import Rows
from rrm import statistics
from rrm.errors import InputError
from rrm.records import Judgement, TaskToDecompose, Verdicts
from rrm.sandbox.edits import Step, decompose, human_utility, parse_instruction, true_verdicts
from rrm.sandbox.personas import biased_mean
from rrm.sandbox.reading import read_scene
from rrm.sandbox.teacher import running_teacher

NOISELESS = "noiseless"
QUALITY_BANDS = (
    ("unusable", 0.0),
    ("partly usable", 5.0),
    ("nearly usable", 8.0),
    ("right in every point", 10.0),
)
"""Name and lower bound of what people make of an edit, 0–10."""


@dataclass(frozen=True)
class EditTruth:
    """The right verdicts on an edit, in the order of `decompose`, and people's utility (0–10)."""

    verdicts: tuple[int, ...]
    utility: float


def steps_of(instruction: str) -> list[Step]:
    """The steps of a sandbox instruction. Raises InputError for any other."""
    steps = parse_instruction(instruction)
    if steps is None:
        raise InputError(
            f"'{instruction}' is not in the sandbox's language; set 'principles' and 'truth' to "
            "what fits yours."
        )
    return steps


def sandbox_principles(instruction: str) -> Principles:
    """The principles of a sandbox instruction."""
    return decompose(steps_of(instruction))


def truths_of(rows: Rows) -> dict[str, EditTruth]:
    """The truth about every edit of the rows, by edit id, read from pixels."""
    truths: dict[str, EditTruth] = {}
    for row in rows():
        steps, before = steps_of(row.pair.instruction), read_scene(row.source)
        for name, image in zip(row.pair.edit_ids, row.edited, strict=True):
            if name not in truths:
                verdicts = true_verdicts(before, read_scene(image), steps)
                truths[name] = EditTruth(verdicts, human_utility(verdicts, steps))
    return truths


def band_of(utility: float) -> str:
    """The quality band of an edit."""
    return next(name for name, low in reversed(QUALITY_BANDS) if utility >= low - 1e-9)


def score_by_quality(
    judgements: Mapping[str, Judgement], truths: Mapping[str, EditTruth]
) -> dict[str, dict[str, Any]]:
    """Per quality band: the edits, how many have no score, and the mean score of the others."""
    bands: dict[str, list[float | None]] = {name: [] for name, _ in QUALITY_BANDS}
    for name, judgement in judgements.items():
        bands[band_of(truths[name].utility)].append(judgement.score)
    table = {}
    for band, scores in bands.items():
        given = [score for score in scores if score is not None]
        table[band] = {
            "n": len(scores),
            "unscored": len(scores) - len(given),
            "mean_score": statistics.mean(given),
        }
    return table


def verdicts_against_truth(
    judgements: Mapping[str, Judgement], truths: Mapping[str, EditTruth]
) -> statistics.VerdictAccuracy:
    """The verdicts on all edits against the truth; holistic judgements have none."""
    given = {name: None if j.read is None else j.read.verdicts for name, j in judgements.items()}
    return statistics.verdict_accuracy(
        [(verdicts, truths[name].verdicts) for name, verdicts in given.items() if verdicts != ()]
    )


class NoiselessTeacher(LocalJudge):
    """What the sandbox's teachers would say without errors: the true verdicts, and the score that
    their shared bias makes of them."""

    fingerprint = NOISELESS

    def prompt(
        self, instruction: str, principles: Principles, requirement: str | None = None
    ) -> str:
        """The instruction alone."""
        return instruction

    def decompose(self, task: TaskToDecompose) -> Principles:
        """The sandbox's own principles."""
        return sandbox_principles(task.instruction)

    def judge(self, edit: Edit) -> Judgement:
        """The true verdicts and the biased score."""
        principles = sandbox_principles(edit.instruction)
        before, after = read_scene(edit.source), read_scene(edit.edited)
        verdicts = true_verdicts(before, after, steps_of(edit.instruction))
        score = biased_mean(principles, verdicts)
        average = sum(verdicts) / len(verdicts)
        read = Verdicts.model_validate({"verdicts": verdicts, "average": average, "score": score})
        return Judgement(principles=principles, thought="(the truth)", read=read)


@contextmanager
def running_judge(model: str) -> Iterator[EndpointJudge]:
    """A teacher of the sandbox's server, which runs while the block lasts."""
    with (
        running_teacher() as url,
        EndpointJudge(
            url,
            model,
            key_variable="OPENAI_API_KEY",
            temperature=0.0,
            max_tokens=4096,
            timeout=120.0,
            name="sandbox",
        ) as judge,
    ):
        yield judge


class SandboxTruth:
    """The truth of sandbox scenes (`eval.editrewardbench.truth.Truth`)."""

    def __init__(self) -> None:
        self.truths: dict[str, EditTruth] = {}

    def principles(self, instruction: str) -> Principles:
        """The sandbox's own principles of an instruction."""
        return sandbox_principles(instruction)

    def open_judge(self, name: str) -> AbstractContextManager[EditJudge]:
        """`sandbox:noiseless`, or a teacher by its model name."""
        return NoiselessTeacher() if name == NOISELESS else running_judge(name)

    def measure(self, rows: Rows, judgements: Mapping[str, Judgement]) -> dict[str, Any]:
        """Verdicts against the truth, and mean scores by the edits' true quality."""
        if not judgements.keys() <= self.truths.keys():
            self.truths |= truths_of(rows)
        verdicts = verdicts_against_truth(judgements, self.truths)
        return {
            "verdict_balanced_accuracy": verdicts.balanced,
            "verdicts": vars(verdicts),
            "score_by_quality": score_by_quality(judgements, self.truths),
        }
