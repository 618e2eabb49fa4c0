"""Who can be evaluated: chance, a checkpoint of an RRM, and (in `eval.endpoint`) a model behind an OpenAI-compatible server."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, Self, TypeVar

from PIL import Image

from eval.index import sandbox_principles, sandbox_steps
from rrm.records import EditToJudge, Failure, Judgement, Principle, TaskToDecompose, Verdicts
from rrm.sandbox.edits import true_verdicts
from rrm.sandbox.personas import biased_mean
from rrm.sandbox.reading import read_scene

if TYPE_CHECKING:
    from rrm.reward.model import RewardModel

T = TypeVar("T")
Principles = tuple[Principle, ...]
Done = Callable[[int, T], object]
"""Called with the place of what was asked about and what came of it, as soon as that is there, while the caller waits."""


@dataclass(frozen=True)
class Edit:
    """An edited image with its source, instruction and principles; `edit_id` tells it from every other edit."""

    edit_id: str
    source: Image.Image
    edited: Image.Image
    instruction: str
    principles: Principles
    requirement: str | None = None


class EditJudge(Protocol):
    """Anything that judges edits."""

    fingerprint: str
    """Changes when the model or its sampling does."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...

    def prompt(self, instruction: str, principles: Principles, requirement: str | None = None) -> str:
        """Every word that the model reads when it judges."""

    def decompose_many(self, tasks: Sequence[TaskToDecompose], done: Done[Principles | Failure]) -> None:
        """Gives `done` the principles that it judges each task by, or why it has none. Raises InputError where it refuses all."""

    def judge_many(self, edits: Sequence[Edit], done: Done[Judgement]) -> None:
        """Gives `done` one judgement per edit, in whatever order. Raises InputError where it refuses all, and nothing else."""


class Closing:
    """Nothing to open or to close."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        return None


class AloneJudge(Closing):
    """A judge that needs no server, and answers one thing after the other."""

    def decompose_many(self, tasks: Sequence[TaskToDecompose], done: Done[Principles | Failure]) -> None:
        """The principles of each task."""
        for place, task in enumerate(tasks):
            done(place, self.decompose(task))

    def judge_many(self, edits: Sequence[Edit], done: Done[Judgement]) -> None:
        """The judgement of each edit."""
        for place, edit in enumerate(edits):
            done(place, self.judge(edit))

    def decompose(self, task: TaskToDecompose) -> Principles | Failure:
        """The principles of one task."""
        raise NotImplementedError

    def judge(self, edit: Edit) -> Judgement:
        """The judgement of one edit."""
        raise NotImplementedError


class ChanceJudge(AloneJudge):
    """Random scores (0–10, one decimal) and coin-toss verdicts, the same for the same seed and edit."""

    def __init__(self, seed: int):
        self.seed = seed
        self.fingerprint = f"chance|{seed}"

    def prompt(self, instruction: str, principles: Principles, requirement: str | None = None) -> str:
        """It reads nothing, but tosses a coin per principle."""
        return f"{len(principles)} coins"

    def decompose(self, task: TaskToDecompose) -> Principles:
        """A single question, since it looks at nothing."""
        return (Principle(question="Was the instruction followed?", category="follow"),)

    def judge(self, edit: Edit) -> Judgement:
        """A random judgement."""
        dice = random.Random(f"{self.seed}|{edit.edit_id}")
        verdicts = tuple(dice.getrandbits(1) for _ in edit.principles)
        score = round(dice.uniform(0, 10), 1)
        read = Verdicts.model_validate({"verdicts": verdicts, "average": sum(verdicts) / len(verdicts), "score": score})
        return Judgement(principles=edit.principles, thought="(random)", read=read)


class NoiselessTeacher(AloneJudge):
    """What the sandbox's teachers would say if they never erred: the truth of the pixels, scored with the bias that all of them share."""

    fingerprint = "noiseless"

    def prompt(self, instruction: str, principles: Principles, requirement: str | None = None) -> str:
        """The instruction alone."""
        return instruction

    def decompose(self, task: TaskToDecompose) -> Principles:
        """The sandbox's own principles."""
        return sandbox_principles(task.instruction)

    def judge(self, edit: Edit) -> Judgement:
        """The true verdicts and the score that a teacher would give for them."""
        principles = sandbox_principles(edit.instruction)
        verdicts = true_verdicts(read_scene(edit.source), read_scene(edit.edited), sandbox_steps(edit.instruction))
        average = sum(verdicts) / len(verdicts)
        read = Verdicts.model_validate({"verdicts": verdicts, "average": average, "score": biased_mean(principles, verdicts)})
        return Judgement(principles=principles, thought="(the truth)", read=read)


class RewardJudge:
    """A reward model as `rrm.reward` opens it from a spec or a checkpoint folder: the very one that trains editors.

    Judges that share a model each ask it with a seed of their own: its own seed, moved on by `shift`. As a context manager a judge
    closes the model; a shared one is closed by whoever opened it.
    """

    def __init__(self, model: RewardModel, shift: int = 0):
        self.model, self.asking = model, replace(model.asking, seed=model.asking.seed + shift)
        self.needs_principles = model.needs_principles
        with self.ready():
            self.fingerprint = model.fingerprint

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.model.__exit__(*exception)

    @contextmanager
    def ready(self) -> Iterator[RewardModel]:
        """The model, which is asked in this judge's way while the block lasts."""
        before, self.model.asking = self.model.asking, self.asking
        try:
            yield self.model
        finally:
            self.model.asking = before

    def prompt(self, instruction: str, principles: Principles, requirement: str | None = None) -> str:
        """Every word that the model reads."""
        return self.model.prompt(instruction, principles, requirement)

    def decompose_many(self, tasks: Sequence[TaskToDecompose], done: Done[Principles | Failure]) -> None:
        """The model's own principles."""
        self.model.decompose_many(tasks, done=done)

    def judge_many(self, edits: Sequence[Edit], done: Done[Judgement]) -> None:
        """The model's judgements."""
        asked = [EditToJudge(e.source, e.edited, e.instruction, e.principles, e.requirement) for e in edits]
        with self.ready() as model:
            model.judge_many(asked, done=done)
