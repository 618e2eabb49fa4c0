"""A judge's answers on a benchmark's pairs, pointwise or pairwise, as outcomes need them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from eval.cache import AnswerCache, JudgedRow
from eval.editrewardbench.judges import EditJudge, Principles
from eval.editrewardbench.judging import Decomposition, Rows, judge_all, own_principles
from eval.editrewardbench.pairwise import PairVote, Vote, vote_all
from eval.editrewardbench.provenance import TEMPLATE, short_hash
from eval.editrewardbench.specs import is_pairwise, open_judges, open_pair_judge, sampling_of
from eval.editrewardbench.truth import Truth
from eval.outcomes import Outcome, Scores, outcomes_of_scores, pair_fields
from eval.pairs import PairIndex, TaskKey
from rrm.records import Failure, Judgement, Principle

PLACEHOLDER = (Principle(question="{principle}?", category="follow"),)
"""Stands for every principle where a prompt is hashed."""
DIGITS = 9
"""Decimals of a mean score: equal scores tie in whatever order they were added up."""
AS_SCORES = {"a": (1.0, 0.0), "b": (0.0, 1.0), "tie": (0.5, 0.5)}


@dataclass(frozen=True)
class Answers(ABC):
    """A judge's answers on all pairs of a benchmark."""

    reward: dict[str, Any]
    """The judge: spec, sampling, fingerprint and prompt."""
    unreadable: int
    """Cached lines that could not be read, and were asked again."""
    failures: Sequence[Failure | None]
    """Per judgement (of every pass) or vote: why it has no score or choice; None where it has."""

    @property
    def judgements(self) -> Mapping[str, Judgement] | None:
        """Those of the first pass by edit id; None for a pairwise judge."""
        return None

    @abstractmethod
    def outcomes(self, pairs: Sequence[PairIndex], margin: float) -> list[Outcome]:
        """The outcomes of these pairs by this tie margin."""

    def of_each_pass(self, pairs: Sequence[PairIndex], margin: float) -> list[list[Outcome]]:
        """The outcomes of every pass alone."""
        return [self.outcomes(pairs, margin)]

    @abstractmethod
    def scored(self, pairs: Sequence[PairIndex]) -> tuple[list[PairIndex], Scores]:
        """The pairs with scores by edit id, as protocols need them."""

    @abstractmethod
    def texts(self, outcome: Outcome) -> list[dict[str, str]]:
        """What the judge wrote about a pair: {title, text} each."""


def mean_scores(passes: Sequence[Mapping[str, Judgement]]) -> dict[str, float | None]:
    """Avg@K: per edit the mean over the passes with a score, rounded; None where there is none."""
    means: dict[str, float | None] = {}
    for name in passes[0]:
        given = [score for judged in passes if (score := judged[name].score) is not None]
        means[name] = round(fmean(given), DIGITS) if given else None
    return means


def failure_of(judgement: Judgement) -> Failure | None:
    """Why a judgement has no score; None where it has one."""
    return None if judgement.score is not None else judgement.failure or Failure(kind="empty")


def failures_of(passes: Sequence[Mapping[str, Judgement]]) -> dict[str, str]:
    """The kind of the first failure of every edit that a pass gave no score."""
    first: dict[str, str] = {}
    for judged in passes:
        for name, judgement in judged.items():
            if (failure := failure_of(judgement)) is not None:
                first.setdefault(name, failure.kind)
    return first


def text_of(judgement: Judgement) -> str:
    """The thought; where there is none, why the judgement failed."""
    return judgement.thought or (
        "" if judgement.failure is None else f"{judgement.failure.kind}: {judgement.failure.detail}"
    )


@dataclass(frozen=True)
class Judgements(Answers):
    """A pointwise judge's judgements of every edit by edit id, once per pass."""

    passes: Sequence[Mapping[str, Judgement]]

    @property
    def judgements(self) -> Mapping[str, Judgement]:
        return self.passes[0]

    def outcomes(self, pairs: Sequence[PairIndex], margin: float) -> list[Outcome]:
        return outcomes_of_scores(pairs, mean_scores(self.passes), failures_of(self.passes), margin)

    def of_each_pass(self, pairs: Sequence[PairIndex], margin: float) -> list[list[Outcome]]:
        return [replace(self, passes=[judged]).outcomes(pairs, margin) for judged in self.passes]

    def scored(self, pairs: Sequence[PairIndex]) -> tuple[list[PairIndex], Scores]:
        return list(pairs), mean_scores(self.passes)

    def texts(self, outcome: Outcome) -> list[dict[str, str]]:
        several = len(self.passes) > 1
        return [
            {
                "title": f"On the {place} edit" + (f", pass {number}" if several else ""),
                "text": text_of(judged[edit_id]),
            }
            for place, edit_id in zip(("first", "second"), outcome.edits, strict=True)
            for number, judged in enumerate(self.passes, 1)
        ]


@dataclass(frozen=True)
class Votes(Answers):
    """A pairwise judge's votes, by the ids of both edits in order."""

    votes: Mapping[tuple[str, str], PairVote]

    def outcomes(self, pairs: Sequence[PairIndex], margin: float = 0.0) -> list[Outcome]:
        return [
            Outcome(
                **pair_fields(pair),
                side=(vote := self.votes[pair.edit_ids]).side,
                failure=None if vote.failure is None else vote.failure.kind,
                consistent=None if vote.failure is not None else vote.consistent,
            )
            for pair in pairs
        ]

    def scored(self, pairs: Sequence[PairIndex]) -> tuple[list[PairIndex], Scores]:
        """The choice in a pair as two scores in that order, under ids that no other pair has."""
        own = [replace(pair, edited=(f"{n}:a", f"{n}:b")) for n, pair in enumerate(pairs)]
        scores: dict[str, float | None] = {}
        for pair, outcome in zip(own, self.outcomes(pairs), strict=True):
            both = AS_SCORES[outcome.side] if outcome.side else (None, None)
            scores |= zip(pair.edit_ids, both, strict=True)
        return own, scores

    def texts(self, outcome: Outcome) -> list[dict[str, str]]:
        titles = ("As shown here", "Shown in swapped order")
        thoughts = self.votes[outcome.edits].thoughts
        return [
            {"title": title, "text": text} for title, text in zip(titles, thoughts, strict=True)
        ]


def prompt_of(judge: EditJudge) -> str:
    """A hash of the judge's prompt."""
    return short_hash(judge.prompt(TEMPLATE, PLACEHOLDER))


def collect_answers(
    spec: str,
    passes: int,
    seed: int,
    pairs: Sequence[PairIndex],
    rows: Rows,
    folder: Path,
    batch: int,
    retry: bool = False,
    given: Callable[[str], Principles] | None = None,
    truth: Truth | None = None,
) -> Answers:
    """The answers of the judge that the spec names; asks only for what the files in `folder` lack.

    `given` has the principles of an instruction; the judge writes its own without it. Raises
    InputError where the judge refuses everything; earlier answers are kept.
    """
    reward: dict[str, Any] = {
        "spec": spec,
        "pairwise": is_pairwise(spec),
        "sampling": sampling_of(spec, seed),
    }
    if is_pairwise(spec):
        with open_pair_judge(spec) as pair_judge:
            store = AnswerCache(folder / "votes.jsonl", Vote, retry)
            votes = vote_all(pair_judge, pairs, rows, store, batch)
            used = {order.key for pair in pairs for order in pair_judge.orders_of(pair)}
            prompt_hash = short_hash(pair_judge.words(TEMPLATE))
            reward |= {"fingerprint": pair_judge.fingerprint, "prompt_hash": prompt_hash}
        by_edits = {pair.edit_ids: vote for pair, vote in zip(pairs, votes, strict=True)}
        return Votes(
            reward, store.unreadable, [store[key].failure for key in sorted(used)], by_edits
        )
    judged = []
    with open_judges(spec, passes, seed, truth) as judges:
        first = judges[0]
        reward |= {"fingerprint": first.fingerprint, "prompt_hash": prompt_of(first)}
        decomposed = AnswerCache(folder / "principles.jsonl", Decomposition, retry)
        cache = AnswerCache(folder / "rows.jsonl", JudgedRow, retry)
        principles: dict[TaskKey, Principles | Failure] = {pair.task: () for pair in pairs}
        if given is not None:
            principles = {pair.task: given(pair.instruction) for pair in pairs}
        elif first.needs_principles:  # written once: passes differ in the judgements alone
            principles = own_principles(first, pairs, rows, decomposed, batch)
        for number, judge in enumerate(judges, 1):
            name = f"pass {number} of {passes}" if passes > 1 else "judging"
            judged.append(judge_all(judge, pairs, rows, principles, cache, batch, name))
    failures = [failure_of(judgement) for one in judged for judgement in one.values()]
    return Judgements(reward, decomposed.unreadable + cache.unreadable, failures, judged)
