"""The reward model used by the command line, the benchmark and the editor loop.

One prompt, one treatment of images and one sampling, whatever runs the model, so that the reward
that is benchmarked is the one that trains an editor. Every edit comes back as a judgement with a
score or with a named failure.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from PIL.Image import Image
from tqdm import tqdm

from rrm.chat.options import Dialect
from rrm.errors import InputError
from rrm.images import ImageLike, as_image, fit, pixel_digest
from rrm.parsing import judgement_of, read_principles
from rrm.prompts import Style, is_holistic, judge_system, judge_text, rate_text
from rrm.records import EditToJudge, Failure, Judgement, Mode, Principle, TaskToDecompose
from rrm.reward.backend import Backend, Progress, Question, Reply
from rrm.reward.expectation import RATINGS, pooled, rated, weighed
from rrm.verifier.messages import decompose_messages, judge_messages, rate_messages

if TYPE_CHECKING:
    from rrm.reward.servers import Patience

T = TypeVar("T")
Principles = tuple[Principle, ...]
Done = Callable[[int, T], object]
TaskKey = tuple[str, str, str | None]
"""Digest of the source's pixels, instruction, requirement."""
LONGEST_GOODBYE = 5.0
"""Seconds that closing waits for what is under way, and for connections."""
INSIDE = "The reward model waits for its own thread: what `done` calls can neither ask nor close it; do that afterwards."
CLOSED = "The reward model is closed; open it again with open_reward."
FORKED = "The reward model was opened in the process that this one was forked from; open it here with open_reward."
NOTHING_TO_ASK = Failure(kind="bad_row", detail="no principles to judge by")


def ignore(place: int, found: object) -> None:
    """Default callback: does nothing."""


@dataclass(frozen=True)
class Sampling:
    """How an edit is judged: by which mode, how many traces, at which temperature, with which seed."""

    mode: Mode = "reasoning"
    k: int = 1
    """Traces per edit: Avg@K. They share one reading of the prompt."""
    temperature: float = 0.0
    seed: int = 0
    max_tokens: int | None = None
    """Of a trace; None: the model's own limit."""

    def __post_init__(self) -> None:
        if self.k < 1:
            raise InputError(f"k is {self.k}; ask for one trace per edit or more.")
        if self.k > 1 and self.mode != "reasoning":
            raise InputError(
                f"k is {self.k}, but mode '{self.mode}' reads one answer; set k to 1 or mode to reasoning."
            )
        if self.k > 1 and self.temperature <= 0:
            raise InputError(
                f"{self.k} greedy traces are the same one; set a temperature, such as 0.7."
            )


class RewardModel:
    """An RRM in this process or on servers. A context manager: it owns the thread that its backend
    works in.

    `sampling` is how edits are judged unless a call says otherwise.
    """

    def __init__(
        self, backend: Backend, sampling: Sampling | None = None, owned: ExitStack | None = None
    ):
        self.backend, self.sampling = backend, sampling or Sampling()
        self.owned = owned or ExitStack()
        """What ends with the model: servers that were started for it."""
        self.known: dict[TaskKey, Principles | Failure] = {}
        """Principles that the model made itself."""
        self.loop = asyncio.new_event_loop()
        self.pid = os.getpid()
        self.closing = False
        self.door = threading.Lock()
        """Held while work begins: what begins before the end is ended with it."""
        self.thread = threading.Thread(
            target=self.loop.run_forever, name="reward-model", daemon=True
        )
        self.thread.start()

    @classmethod
    def from_checkpoint(
        cls, folder: str | Path, sampling: Sampling | None = None, batch: int = 64
    ) -> Self:
        """The RRM in a checkpoint folder, in this process; needs the extra `local` (torch,
        transformers).

        `batch` edits go through the model at once. Raises InputError where the folder holds none.
        """
        from rrm.reward.local import LocalBackend

        return cls(LocalBackend.load(folder, batch), sampling)

    @classmethod
    def from_server(
        cls,
        *urls: str,
        sampling: Sampling | None = None,
        model: str | None = None,
        style: Style | None = None,
        key_variable: str = "RRM_API_KEY",
        patience: Patience | None = None,
        dialect: Dialect | None = None,
    ) -> Self:
        """The RRM on OpenAI-compatible servers (base URLs that end in /v1), such as those of `rrm
        serve`; needs no torch.

        `model` and `style` are asked of the server where it is `rrm serve`; `key_variable` names
        the environment variable with the key, `patience` is how long is waited, `dialect` what the
        server takes otherwise. Raises InputError where no server answers.
        """
        from rrm.reward.servers import ServerBackend

        backend = ServerBackend.connect(
            list(urls), model, style, key_variable=key_variable, dialect=dialect or Dialect(send_seed=False),
            patience=patience,
        )  # fmt: skip
        return cls(backend, sampling)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        """Closes the model. Raises InputError where its backend stopped asking and nothing else has
        said so."""
        self.close()
        if exception[0] is None and self.backend.stopped is not None:
            raise InputError(self.backend.stopped)

    def close(self) -> None:
        """Ends the backend and its thread; twice does no harm. What another thread waits for ends
        there in an InputError.

        In a forked child, which has neither the thread nor the connections, it does nothing.
        """
        if os.getpid() != self.pid:
            return
        if threading.current_thread() is self.thread:
            raise InputError(INSIDE)
        with self.door:
            if self.closing:
                return
            self.closing = True
            ended = asyncio.run_coroutine_threadsafe(self._end(), self.loop)
        try:
            ended.result()
        finally:  # a backend that fails to close leaves no thread and no server behind
            self.loop.call_soon_threadsafe(self.loop.stop)
            self.thread.join()
            self.loop.close()
            self.owned.close()

    async def _end(self) -> None:
        work = asyncio.all_tasks() - {asyncio.current_task()}
        for task in work:
            task.cancel()
        if work:
            await asyncio.wait(work, timeout=LONGEST_GOODBYE)
        with suppress(TimeoutError):
            async with asyncio.timeout(LONGEST_GOODBYE):
                await self.backend.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of work in the model's own event loop, from whatever thread or loop the caller
        is in but that one."""
        if threading.current_thread() is self.thread:
            work.close()
            raise InputError(INSIDE)
        try:
            return self.begun(work).result()
        except CancelledError as error:
            raise InputError(CLOSED) from error

    def begun(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Work that has begun in the model's own event loop. Raises InputError where that is
        closed, or is another process's."""
        if os.getpid() != self.pid:
            work.close()
            raise InputError(FORKED)
        with self.door:
            if not self.closing:
                return asyncio.run_coroutine_threadsafe(work, self.loop)
        work.close()
        raise InputError(CLOSED)

    @property
    def fingerprint(self) -> str:
        """Changes when the weights or the sampling do."""
        return self.fingerprint_with(self.sampling)

    def fingerprint_with(self, s: Sampling) -> str:
        """The fingerprint of judgements with this sampling."""
        return f"{self.backend.fingerprint}|{s.mode}|k{s.k}|t{s.temperature:g}|s{s.seed}|{self.limit(s)}"

    def limit(self, s: Sampling) -> int:
        """The most tokens of a trace with this sampling."""
        return s.max_tokens or self.backend.max_tokens

    def prompt(
        self, instruction: str, principles: Principles, requirement: str | None = None
    ) -> str:
        """The full text of the prompt for a judgement."""
        if self.sampling.mode == "logits":
            return rate_text(instruction, requirement)
        style = self.backend.style
        return f"{judge_system(style)}\n{judge_text(style, instruction, principles, requirement)}"

    @property
    def needs_principles(self) -> bool:
        """Whether edits are judged by principles."""
        return self.uses_principles(self.sampling)

    def uses_principles(self, sampling: Sampling) -> bool:
        """Whether an edit is judged by principles with this sampling."""
        return sampling.mode != "logits" and not is_holistic(self.backend.style)

    def decompose_many(
        self,
        tasks: Sequence[TaskToDecompose],
        progress: str | None = None,
        done: Done[Principles | Failure] = ignore,
    ) -> list[Principles | Failure]:
        """The model's own principles of each task, or why it made none; each task is asked about
        once.

        `done` is called with the place of every task and what came of it as soon as that is there,
        in a thread of the model's.
        """
        return self.run(self._decompose(tasks, progress, done))

    def judge_many(
        self,
        edits: Sequence[EditToJudge],
        progress: str | None = None,
        done: Done[Judgement] = ignore,
        sampling: Sampling | None = None,
    ) -> list[Judgement]:
        """A judgement of each edit, in order. The model decomposes the instruction of an edit that
        comes without principles.

        `done` is called with the place of every edit and its judgement as soon as that is there, in
        a thread of the model's.
        """
        return self.run(self._judge(edits, progress, done, sampling))

    async def judge_many_async(
        self, edits: Sequence[EditToJudge], sampling: Sampling | None = None
    ) -> list[Judgement]:
        """As `judge_many`, for callers in an event loop of their own."""
        try:
            return await asyncio.wrap_future(self.begun(self._judge(edits, sampling=sampling)))
        except asyncio.CancelledError as error:
            if self.closing:
                raise InputError(CLOSED) from error
            raise

    def judge(
        self,
        source: ImageLike,
        edited: ImageLike,
        instruction: str,
        principles: Sequence[Principle] = (),
        requirement: str | None = None,
        sampling: Sampling | None = None,
    ) -> Judgement:
        """The judgement of one edit; images as PIL, path, bytes of a file, or array (height, width,
        3).

        Raises InputError for an image that cannot be read.
        """
        edit = EditToJudge(
            as_image(source), as_image(edited), instruction, tuple(principles), requirement
        )
        return self.judge_many([edit], sampling=sampling)[0]

    async def _decompose(
        self,
        tasks: Sequence[TaskToDecompose],
        progress: str | None = None,
        done: Done[Principles | Failure] = ignore,
    ) -> list[Principles | Failure]:
        places: dict[TaskKey, list[int]] = {}
        found: dict[int, Principles | Failure] = {}
        for place, task in enumerate(tasks):
            if failure := torn(task.source):
                found[place] = failure
                done(place, failure)
            else:
                places.setdefault(
                    (pixel_digest(task.source), task.instruction, task.requirement), []
                ).append(place)
        asked: list[TaskKey] = []
        questions: list[Question] = []

        def settle(key: TaskKey, made: Principles | Failure) -> None:
            if not isinstance(made, Failure):  # one of the moment must not be remembered
                self.known[key] = made
            for place in places[key]:
                found[place] = made
                done(place, made)

        for key, (place, *_) in places.items():
            images = () if key in self.known else fitting(tasks[place].source)
            if key in self.known:
                settle(key, self.known[key])
            elif isinstance(images, Failure):
                settle(key, images)
            else:
                messages = decompose_messages(
                    self.backend.style, tasks[place].instruction, tasks[place].requirement
                )
                asked.append(key)
                questions.append(Question(messages, images, self.limit(self.sampling)))

        def answered(place: int, reply: Reply) -> None:
            settle(asked[place], reply if isinstance(reply, Failure) else read_principles(reply[0]))

        await self._ask(questions, progress, answered)
        return [found[place] for place in range(len(tasks))]

    async def _judge(
        self,
        edits: Sequence[EditToJudge],
        progress: str | None = None,
        done: Done[Judgement] = ignore,
        sampling: Sampling | None = None,
    ) -> list[Judgement]:
        sampling = sampling or self.sampling
        needs_principles = self.uses_principles(sampling)
        lacking = [e for e in edits if not e.principles] if needs_principles else []
        made = iter(await self._decompose([e.task for e in lacking]))
        judged: dict[int, Judgement] = {}
        asked: list[tuple[int, Principles]] = []
        questions: list[Question] = []

        def settle(place: int, judgement: Judgement) -> None:
            judged[place] = judgement
            done(place, judgement)

        for place, edit in enumerate(edits):
            principles: Principles | Failure = edit.principles if needs_principles else ()
            if needs_principles and not edit.principles:
                principles = next(made)
            images = fitting(edit.source, edit.edited)
            if isinstance(principles, Failure) or isinstance(images, Failure):
                failure = principles if isinstance(principles, Failure) else images
                settle(place, Judgement(failure=failure if isinstance(failure, Failure) else None))
            elif needs_principles and not principles:
                settle(place, Judgement(failure=NOTHING_TO_ASK))
            else:
                asked.append((place, principles))
                questions.append(self._question(edit, principles, images, sampling))

        def answered(question: int, reply: Reply) -> None:
            place, principles = asked[question]
            settle(place, self._judgement(reply, principles, sampling))

        await self._ask(questions, progress, answered)
        return [judged[place] for place in range(len(edits))]

    def _question(
        self, edit: EditToJudge, principles: Principles, images: tuple[Image, ...], s: Sampling
    ) -> Question:
        if s.mode == "logits":
            messages = rate_messages(edit.instruction, edit.requirement)
            return Question(messages, images, max_tokens=1, alternatives=True, watched=RATINGS)
        messages = judge_messages(
            self.backend.style, edit.instruction, principles, edit.requirement
        )
        return Question(
            messages, images, self.limit(s), answers=s.k, temperature=s.temperature, seed=s.seed,
            alternatives=s.mode == "expectation",
        )  # fmt: skip

    async def _ask(
        self, questions: Sequence[Question], progress: str | None, answered: Progress
    ) -> None:
        with tqdm(total=len(questions), desc=progress, disable=progress is None) as bar:

            def advance(place: int, reply: Reply) -> None:
                bar.update()
                answered(place, reply)

            if questions:
                await self.backend.ask(questions, advance)

    def _judgement(self, reply: Reply, principles: Principles, sampling: Sampling) -> Judgement:
        if isinstance(reply, Failure):
            return Judgement(principles=principles, failure=reply)
        if sampling.mode == "logits":
            return rated(reply[0])
        traces = [judgement_of(answer, principles) for answer in reply]
        if sampling.mode == "expectation":
            return weighed(reply[0], traces[0])
        return traces[0] if sampling.k == 1 else pooled(traces)


def torn(image: Image) -> Failure | None:
    """The failure if the image's pixels cannot be decoded (Pillow reads lazily); None if they can."""
    try:
        image.load()
    except (OSError, SyntaxError, ValueError) as error:
        return Failure(kind="image_unreadable", detail=str(error)[:300])
    return None


def fitting(*images: Image) -> tuple[Image, ...] | Failure:
    """The images within the pixel budget, or why one of them cannot be brought into it."""
    if failure := next(filter(None, map(torn, images)), None):
        return failure
    try:
        return tuple(fit(image) for image in images)
    except InputError as error:
        return Failure(kind="image_unreadable", detail=str(error)[:300])
