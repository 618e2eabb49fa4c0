"""Who can be evaluated: chance, a checkpoint of an RRM, and (in `eval.endpoint`) a model behind an OpenAI-compatible server."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, Self

from PIL import Image

from eval.index import sandbox_principles, sandbox_steps
from rrm.records import EditToJudge, Failure, Judgement, Principle, TaskToDecompose, Verdicts
from rrm.sandbox.edits import true_verdicts
from rrm.sandbox.personas import biased_mean
from rrm.sandbox.reading import read_scene

if TYPE_CHECKING:
    from rrm.reward.model import RewardModel

Principles = tuple[Principle, ...]
Task = tuple[Image.Image, str]
"""Source and instruction."""


@dataclass(frozen=True)
class Edit:
    """An edited image with its source, instruction and principles; `edit_id` tells it from every other edit."""

    edit_id: str
    source: Image.Image
    edited: Image.Image
    instruction: str
    principles: Principles


class EditJudge(Protocol):
    """Anything that judges edits."""

    fingerprint: str
    """Changes when the model or its sampling does."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...

    def prompt(self, instruction: str, principles: Principles) -> str:
        """Every word that the model reads when it judges."""

    def decompose_many(self, tasks: Sequence[Task]) -> Sequence[Principles | Failure]:
        """The principles that it judges each task by."""

    def judge_many(self, edits: Sequence[Edit]) -> list[Judgement]:
        """One judgement per edit, in order."""


class Closing:
    """Nothing to open or to close."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        return None


class ChanceJudge(Closing):
    """Random scores (0–10, one decimal) and coin-toss verdicts, the same for the same seed and edit."""

    def __init__(self, seed: int):
        self.seed = seed
        self.fingerprint = f"chance|{seed}"

    def prompt(self, instruction: str, principles: Principles) -> str:
        """It reads nothing, but tosses a coin per principle."""
        return f"{len(principles)} coins"

    def decompose_many(self, tasks: Sequence[Task]) -> list[Principles]:
        """A single question each, since it looks at none."""
        return [(Principle(question="Was the instruction followed?", category="follow"),) for _ in tasks]

    def judge_many(self, edits: Sequence[Edit]) -> list[Judgement]:
        """Random judgements."""
        return [self.judge(edit) for edit in edits]

    def judge(self, edit: Edit) -> Judgement:
        """A random judgement."""
        dice = random.Random(f"{self.seed}|{edit.edit_id}")
        verdicts = tuple(dice.getrandbits(1) for _ in edit.principles)
        score = round(dice.uniform(0, 10), 1)
        read = Verdicts.model_validate({"verdicts": verdicts, "average": sum(verdicts) / len(verdicts), "score": score})
        return Judgement(principles=edit.principles, thought="(random)", read=read)


class NoiselessTeacher(Closing):
    """What the sandbox's teachers would say if they never erred: the truth of the pixels, scored with the bias that all of them share."""

    fingerprint = "noiseless"

    def prompt(self, instruction: str, principles: Principles) -> str:
        """The instruction alone."""
        return instruction

    def decompose_many(self, tasks: Sequence[Task]) -> list[Principles]:
        """The sandbox's own principles."""
        return [sandbox_principles(instruction) for _, instruction in tasks]

    def judge_many(self, edits: Sequence[Edit]) -> list[Judgement]:
        """The true verdicts and the score that a teacher would give for them."""
        return [self.judge(edit) for edit in edits]

    def judge(self, edit: Edit) -> Judgement:
        """The judgement on one edit."""
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

    def __exit__(self, *exception: Any) -> None:
        self.model.__exit__(*exception)

    @contextmanager
    def ready(self) -> Iterator[RewardModel]:
        """The model, which is asked in this judge's way while the block lasts."""
        before, self.model.asking = self.model.asking, self.asking
        try:
            yield self.model
        finally:
            self.model.asking = before

    def prompt(self, instruction: str, principles: Principles) -> str:
        """Every word that the model reads."""
        return self.model.prompt(instruction, principles)

    def decompose_many(self, tasks: Sequence[Task]) -> list[Principles | Failure]:
        """The model's own principles."""
        return self.model.decompose_many([TaskToDecompose(source, instruction) for source, instruction in tasks])

    def judge_many(self, edits: Sequence[Edit]) -> list[Judgement]:
        """The model's judgements."""
        asked = [EditToJudge(e.source, e.edited, e.instruction, e.principles) for e in edits]
        with self.ready() as model:
            return model.judge_many(asked)
