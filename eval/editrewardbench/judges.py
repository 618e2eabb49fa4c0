"""What a judge is, and the reward model as one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, Self, TypeVar

from PIL import Image

from rrm.records import EditToJudge, Failure, Judgement, Principle, TaskToDecompose

if TYPE_CHECKING:
    from rrm.reward.model import RewardModel

T = TypeVar("T")
Principles = tuple[Principle, ...]
Done = Callable[[int, T], object]
"""Called with a request's place and its answer as soon as it is there, while the caller waits."""


@dataclass(frozen=True)
class Edit:
    """An edited image with its task and principles; `edit_id` tells it from every other edit."""

    edit_id: str
    source: Image.Image
    edited: Image.Image
    instruction: str
    principles: Principles
    requirement: str | None = None


class EditJudge(Protocol):
    """Anything that judges edits one by one."""

    fingerprint: str
    """Changes with the model and its sampling."""
    needs_principles: bool

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...

    def prompt(
        self, instruction: str, principles: Principles, requirement: str | None = None
    ) -> str:
        """Every word that the model reads when it judges."""

    def decompose_many(
        self, tasks: Sequence[TaskToDecompose], done: Done[Principles | Failure]
    ) -> None:
        """Gives `done` each task's principles, or why there are none. Raises InputError where the
        judge refuses all."""

    def judge_many(self, edits: Sequence[Edit], done: Done[Judgement]) -> None:
        """Gives `done` one judgement per edit, in any order. Raises InputError where the judge
        refuses all, and nothing else."""


class LocalJudge:
    """A judge that computes its answers one after the other, without a server."""

    fingerprint: str
    needs_principles = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        return None

    def decompose_many(
        self, tasks: Sequence[TaskToDecompose], done: Done[Principles | Failure]
    ) -> None:
        """The principles of each task."""
        for place, task in enumerate(tasks):
            done(place, self.decompose(task))

    def judge_many(self, edits: Sequence[Edit], done: Done[Judgement]) -> None:
        """The judgement of each edit."""
        for place, edit in enumerate(edits):
            done(place, self.judge(edit))

    def prompt(
        self, instruction: str, principles: Principles, requirement: str | None = None
    ) -> str:
        """Every word that the judge reads."""
        raise NotImplementedError

    def decompose(self, task: TaskToDecompose) -> Principles | Failure:
        """The principles of one task."""
        raise NotImplementedError

    def judge(self, edit: Edit) -> Judgement:
        """The judgement of one edit."""
        raise NotImplementedError


class RewardJudge:
    """A reward model as `rrm.reward` opens it from a spec: the one that trains editors.

    Judges that share a model ask with seeds of their own: the model's, moved on by `shift`. As a
    context manager a judge closes the model; a shared one is closed by whoever opened it.
    """

    def __init__(self, model: RewardModel, shift: int = 0):
        self.model = model
        self.sampling = replace(model.sampling, seed=model.sampling.seed + shift)
        self.needs_principles = model.needs_principles
        self.fingerprint = model.fingerprint_with(self.sampling)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.model.__exit__(*exception)

    def prompt(
        self, instruction: str, principles: Principles, requirement: str | None = None
    ) -> str:
        """Every word that the model reads."""
        return self.model.prompt(instruction, principles, requirement)

    def decompose_many(
        self, tasks: Sequence[TaskToDecompose], done: Done[Principles | Failure]
    ) -> None:
        """The model's own principles."""
        self.model.decompose_many(tasks, done=done)

    def judge_many(self, edits: Sequence[Edit], done: Done[Judgement]) -> None:
        """The model's judgements."""
        requests = [
            EditToJudge(e.source, e.edited, e.instruction, e.principles, e.requirement)
            for e in edits
        ]
        self.model.judge_many(requests, done=done, sampling=self.sampling)
