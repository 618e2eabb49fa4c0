"""A judge that is shown both edits of a pair, once in each order, and says which is better.

It prefers an edit only where both answers name it; otherwise (position bias) the pair is a tie. It
gives no scores.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from PIL import Image

from eval.cache import AnswerCache, row_key
from eval.editrewardbench.endpoint import EndpointJudge
from eval.editrewardbench.judges import Done
from eval.editrewardbench.judging import Rows, ask_all, bar_of
from eval.outcomes import Side
from eval.pairs import PairIndex
from rrm.parsing import Answer, written
from rrm.parsing.marks import last_marks, mark, together
from rrm.parsing.said import folded, said, unreadable
from rrm.prompts import DATA, task_text
from rrm.records import Failure, Record

Place = Literal["first", "second", "tie"]
SYSTEM = (
    "You compare two edits of one image. You see the source image, then edit A, then edit B, and "
    "the instruction that both were made from. Weigh how completely each carries out the "
    "instruction, whether it leaves everything else as it was, and whether the result is clean. "
    f"The order of the edits means nothing. {DATA} Reason briefly, then end with your choice on a "
    "line of its own: <choice>A</choice> if A is better, <choice>B</choice> if B is better, "
    "<choice>TIE</choice> if neither is."
)
CHOICE = mark("choice")
FORWARD: dict[Place, Side] = {"first": "a", "second": "b", "tie": "tie"}
BACKWARD: dict[Place, Side] = {"first": "b", "second": "a", "tie": "tie"}
PLACES: dict[str, Place] = {"A": "first", "B": "second", "TIE": "tie"}


def question(instruction: str, requirement: str | None = None) -> str:
    """The text after the three images."""
    return f"{task_text(instruction, requirement)}\nWhich edit is better?"


def read_choice(answer: Answer) -> Place | Failure:
    """The choice at the end of an answer; unreadable where there is none, another, or several."""
    parts = said(answer)
    if isinstance(parts, Failure):
        return parts
    text = folded(parts.answer)
    marks = last_marks(text, CHOICE)
    if isinstance(marks, str):
        return unreadable(text, f"no <choice> at the end: {marks}")
    named = {one[1].strip(" *").upper() for one in together(text, marks)}
    if not named <= set(PLACES):
        return Failure(kind="unparseable", detail="a <choice> that is none of A, B and TIE")
    return (
        PLACES[named.pop()]
        if len(named) == 1
        else Failure(kind="unparseable", detail="several <choice>s that disagree")
    )


class Vote(Record):
    """One answer to one order of two edits. `key` hashes judge, prompt and three images."""

    key: str
    source: str
    first: str
    second: str
    instruction: str
    requirement: str | None = None
    place: Place | None = None
    thought: str = ""
    failure: Failure | None = None


@dataclass(frozen=True)
class PairVote:
    """Both orders of a pair together; `consistent` where both name the same edit, or both a tie."""

    side: Side | None
    failure: Failure | None
    consistent: bool
    thoughts: tuple[str, str]


def both_orders(forward: Vote, backward: Vote) -> PairVote:
    """The edit that both orders name, else a tie; a failure of either is the pair's."""
    thoughts = (forward.thought, backward.thought)
    failure = forward.failure or backward.failure
    if failure is not None or forward.place is None or backward.place is None:
        return PairVote(None, failure or Failure(kind="empty"), False, thoughts)
    one, two = FORWARD[forward.place], BACKWARD[backward.place]
    return PairVote(one if one == two else "tie", None, one == two, thoughts)


@dataclass(frozen=True)
class Order:
    """Two edits in the order in which they are shown."""

    key: str
    pair: PairIndex
    swapped: bool

    @property
    def shown(self) -> tuple[str, str]:
        """The digests of the first and the second edit."""
        a, b = self.pair.edited
        return (b, a) if self.swapped else (a, b)


Showing = tuple[Order, Image.Image, tuple[Image.Image, Image.Image]]
"""An order, the source image, and the pair's two edits as the benchmark has them."""


class PairJudge(EndpointJudge):
    """A model behind an OpenAI-compatible server that compares two edits."""

    def words(self, instruction: str, requirement: str | None = None) -> str:
        """Every word that the model reads."""
        return f"{SYSTEM}\n{question(instruction, requirement)}"

    def orders_of(self, pair: PairIndex) -> tuple[Order, Order]:
        """The pair in both orders."""
        words, (a, b) = self.words(pair.instruction, pair.requirement), pair.edited
        keys = (
            row_key(self.fingerprint, words, pair.source, f"{x}|{y}") for x, y in ((a, b), (b, a))
        )
        return Order(next(keys), pair, False), Order(next(keys), pair, True)

    async def vote(
        self, order: Order, source: Image.Image, edits: tuple[Image.Image, Image.Image]
    ) -> Vote:
        """The model's choice between two edits in this order."""
        shown = (edits[1], edits[0]) if order.swapped else edits
        answer = await self.answer(
            SYSTEM, (source, *shown), question(order.pair.instruction, order.pair.requirement)
        )
        place = answer if isinstance(answer, Failure) else read_choice(answer)
        first, second = order.shown
        return Vote(
            key=order.key,
            source=order.pair.source,
            first=first,
            second=second,
            instruction=order.pair.instruction,
            requirement=order.pair.requirement,
            place=None if isinstance(place, Failure) else place,
            thought="" if isinstance(answer, Failure) else CHOICE.sub("", written(answer)).strip(),
            failure=place if isinstance(place, Failure) else None,
        )

    def vote_many(self, requests: Sequence[Showing], done: Done[Vote]) -> None:
        """Gives `done` one vote per order. Raises InputError where the server refuses all."""
        votes = self.gather((self.vote(*one) for one in requests), done)
        self.check([vote.failure for vote in votes])


def vote_all(
    judge: PairJudge, pairs: Sequence[PairIndex], rows: Rows, store: AnswerCache[Vote], batch: int
) -> list[PairVote]:
    """Both orders' votes on every pair, in order; asks only for what `store` lacks."""
    orders = [judge.orders_of(pair) for pair in pairs]
    keys = [order.key for both in orders for order in both]
    pending = {key for key in keys if not store.settled(key)}

    def requests() -> Iterator[Showing]:
        for row in rows() if pending else ():
            for order in judge.orders_of(row.pair):
                if order.key in pending:
                    pending.discard(order.key)
                    yield order, row.source, row.edited

    bar = bar_of(len(pending), "votes")
    ask_all(
        requests(),
        lambda one: (one[1], *one[2]),
        judge.vote_many,
        lambda _, vote: store.add(vote),
        batch,
        bar,
    )
    store.put_in_order(keys)
    return [both_orders(store[one.key], store[two.key]) for one, two in orders]
