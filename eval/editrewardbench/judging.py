"""What a judge, pointwise or pairwise, says of a benchmark's pairs, in the one form that outcomes are made from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from eval.cache import AnswerCache, JudgedRow
from eval.editrewardbench.outcomes import Outcome, failure_of, failures_of, from_scores, from_votes, mean_scores
from eval.editrewardbench.pairwise import PairVote, Vote, vote_all
from eval.editrewardbench.provenance import TEMPLATE, short_hash
from eval.editrewardbench.specs import is_pairwise, open_judges, open_pair_judge, sampling_of
from eval.index import PairIndex, Principles, TaskKey
from eval.scoring import Decomposition, Rows, judge_all, own_principles
from rrm.records import Failure, Judgement, Principle

PLACEHOLDER = (Principle(question="{principle}?", category="follow"),)
"""Stands for every principle where a prompt is hashed."""
AS_SCORES = {"a": (1.0, 0.0), "b": (0.0, 1.0), "tie": (0.5, 0.5)}


@dataclass(frozen=True)
class Judging:
    """A judge's answers on all pairs of a benchmark.

    `scored` gives pairs and scores per edit id as `eval.protocols` reads them. A pairwise judge has no scores: there its choice in a
    pair stands for two that are in that order, under ids that no other pair has.
    """

    reward: dict[str, Any]
    answers: Sequence[Failure | None]
    """Of every judgement (of every pass) or vote, why it has no score or no choice; None where it has."""
    unreadable: int
    """Lines of kept answers that could not be read, and were asked for again."""
    outcomes: Callable[[Sequence[PairIndex], float], list[Outcome]]
    """By any tie margin."""
    single: Callable[[Sequence[PairIndex], float], list[list[Outcome]]]
    """Of every pass alone."""
    scored: Callable[[Sequence[PairIndex]], tuple[list[PairIndex], dict[str, float | None]]]
    words: Callable[[Outcome], list[dict[str, Any]]]
    """What was said of a pair."""


def said_in(judgement: Judgement) -> str:
    """The thought; where there is none, why the judgement failed."""
    return judgement.thought or ("" if judgement.failure is None else f"{judgement.failure.kind}: {judgement.failure.detail}")


def of_passes(passes: Sequence[Mapping[str, Judgement]], reward: dict[str, Any], unreadable: int) -> Judging:
    """A pointwise judge's judgements of every edit, once per pass."""
    scores = mean_scores(passes)
    failures = failures_of(passes)
    answers = [failure_of(judgement) for judged in passes for judgement in judged.values()]

    def outcomes(pairs: Sequence[PairIndex], margin: float) -> list[Outcome]:
        return from_scores(pairs, scores, failures, margin)

    def single(pairs: Sequence[PairIndex], margin: float) -> list[list[Outcome]]:
        return [from_scores(pairs, mean_scores([judged]), failures_of([judged]), margin) for judged in passes]

    def scored(pairs: Sequence[PairIndex]) -> tuple[list[PairIndex], dict[str, float | None]]:
        return list(pairs), scores

    def words(outcome: Outcome) -> list[dict[str, Any]]:
        return [
            {
                "title": f"On the {place} edit" + (f", pass {number}" if len(passes) > 1 else ""),
                "text": said_in(judged[edit_id]),
            }
            for place, edit_id in zip(("first", "second"), outcome.edits, strict=True)
            for number, judged in enumerate(passes, 1)
        ]

    return Judging(reward, answers, unreadable, outcomes, single, scored, words)


def place_of(pair: PairIndex | Outcome) -> tuple[str, str]:
    """What tells a pair's votes from all others': the ids of both edits, which hold the task, in order."""
    return pair.edits if isinstance(pair, Outcome) else pair.edit_ids


def of_votes(
    pairs: Sequence[PairIndex],
    votes: Sequence[PairVote],
    answers: Sequence[Failure | None],
    reward: dict[str, Any],
    unreadable: int,
) -> Judging:
    """A pairwise judge's votes on these pairs; `answers` as in `Judging`."""
    table = {place_of(pair): vote for pair, vote in zip(pairs, votes, strict=True)}

    def outcomes(wanted: Sequence[PairIndex], margin: float) -> list[Outcome]:
        return from_votes(wanted, [table[place_of(pair)] for pair in wanted])

    def scored(wanted: Sequence[PairIndex]) -> tuple[list[PairIndex], dict[str, float | None]]:
        own = [replace(pair, edited=(f"{n}:a", f"{n}:b")) for n, pair in enumerate(wanted)]
        scores: dict[str, float | None] = {}
        for pair, outcome in zip(own, outcomes(wanted, 0.0), strict=True):
            scores |= zip(pair.edit_ids, AS_SCORES[outcome.side] if outcome.side else (None, None), strict=True)
        return own, scores

    def words(outcome: Outcome) -> list[dict[str, Any]]:
        thoughts = table[place_of(outcome)].thoughts
        return [
            {"title": title, "text": text}
            for title, text in zip(("As shown here", "Shown in swapped order"), thoughts, strict=True)
        ]

    return Judging(reward, answers, unreadable, outcomes, lambda wanted, margin: [outcomes(wanted, margin)], scored, words)


def judge_pairs(
    spec: str, passes: int, seed: int, pairs: Sequence[PairIndex], rows: Rows, out: Path, batch: int, retry: bool = False
) -> Judging:
    """What the judge that the spec names says of the pairs; asks only what the files in `out` hold nothing settled of.

    Raises InputError where the judge refuses everything; what it answered before is kept.
    """
    reward: dict[str, Any] = {"spec": spec, "pairwise": is_pairwise(spec), "sampling": sampling_of(spec, seed)}
    if is_pairwise(spec):
        with open_pair_judge(spec) as pair_judge:
            store = AnswerCache(out / "votes.jsonl", Vote, retry)
            votes = vote_all(pair_judge, pairs, rows, store, batch)
            used = {order.key for pair in pairs for order in pair_judge.orders_of(pair)}
            reward |= {"fingerprint": pair_judge.fingerprint, "prompt_hash": short_hash(pair_judge.words(TEMPLATE))}
        return of_votes(pairs, votes, [store[key].failure for key in sorted(used)], reward, store.unreadable)
    judged = []
    with open_judges(spec, passes, seed) as judges:
        reward |= {"fingerprint": judges[0].fingerprint, "prompt_hash": short_hash(judges[0].prompt(TEMPLATE, PLACEHOLDER))}
        made, kept = (
            AnswerCache(out / "principles.jsonl", Decomposition, retry),
            AnswerCache(out / "rows.jsonl", JudgedRow, retry),
        )
        principles: dict[TaskKey, Principles | Failure] = {pair.task: () for pair in pairs}
        if judges[0].needs_principles:  # written once: passes differ in what is drawn from there on
            principles = own_principles(judges[0], pairs, rows, made, batch)
        for number, judge in enumerate(judges, 1):
            name = f"pass {number} of {passes}" if passes > 1 else "judging"
            judged.append(judge_all(judge, pairs, rows, principles, kept, batch, name))
    return of_passes(judged, reward, made.unreadable + kept.unreadable)
