"""Scores as expectations over tokens, and the mean of several traces (Avg@K). Pure functions.

`p` everywhere maps the text of a token to its probability at one place; what is not in it was not
among the likeliest.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev

from rrm.parsing.marks import score_span
from rrm.parsing.said import folded
from rrm.records import Choice, Failure, Judgement, Token, Verdicts

DIGITS = 9
"""Decimals that a mean or an expectation is known to."""
SCALE = 10.0
"""Of every score; an expected rating of 0…1 is put on it."""
RATINGS = ("0", "1", "2", "3", "4", "5")
NUMBER = re.compile(r"\s*(\d{1,2})(?:\.(\d?)\d*)?(?!\d)")
"""How a token that begins a score reads: the whole part, and the first decimal where it holds one.
"""
DECIMAL = re.compile(r"\.?(\d)\d*")
"""How a token reads that goes on with the first decimal."""


NO_PROBABILITIES = Failure(
    kind="unparseable", detail="a token's probability is no number from 0 to 1"
)


def settled(value: float) -> float:
    """The value with rounding errors removed: 7 ± 1e-15 is 7, so that equal scores tie."""
    return round(value, DIGITS)


def sane(p: Mapping[str, float]) -> bool:
    """Whether every value is a valid probability and their sum is at most 1 (with tolerance for
    rounded logarithms)."""
    return all(math.isfinite(q) and 0 <= q <= 1 + 1e-3 for q in p.values())


def narrow(token: Token) -> Token:
    """The token with full-width digits and signs as plain ones."""
    likely: dict[str, float] = {}
    for text, q in token.probabilities.items():
        likely[folded(text)] = likely.get(folded(text), 0.0) + q
    return Token(folded(token.text), likely)


def expected_rating(p: Mapping[str, float]) -> tuple[float, float] | Failure:
    """(r in 0…1, the mass of the six digits): r = Σ_k k·p_k / 5, p renormalised over the digits 0…5
    (UniWorld-V2, arXiv 2510.16888).

    A failure where none of the six is among the tokens: there is nothing to renormalise.
    """
    if not sane(p):
        return NO_PROBABILITIES
    held = [
        math.fsum(q for token, q in p.items() if folded(token).strip() == digit)
        for digit in RATINGS
    ]
    mass = math.fsum(held)
    if mass <= 0:
        return Failure(
            kind="unparseable",
            detail="none of the digits 0 to 5 is among the likeliest first tokens",
        )
    return settled(
        min(math.fsum(k * q for k, q in enumerate(held)) / mass / (len(RATINGS) - 1), 1.0)
    ), min(mass, 1.0)


def token_at(tokens: Sequence[Token], place: int) -> tuple[int, str]:
    """(which token the character at `place` of the joined tokens is in, what of that token stands
    before it)."""
    start = 0
    for number, token in enumerate(tokens):
        if place < start + len(token.text):
            return number, token.text[: place - start]
        start += len(token.text)
    raise IndexError(f"no character {place} in {start}")


def readings(
    token: Token, before: str, pattern: re.Pattern[str]
) -> list[tuple[re.Match[str], float]]:
    """What could have stood at a token's place, after `before`, that the pattern reads, with
    probabilities."""
    found = [
        (pattern.match(text, len(before)), q)
        for text, q in token.probabilities.items()
        if text.startswith(before)
    ]
    return [(match, q) for match, q in found if match]


def mean_tenths(tokens: Sequence[Token], place: int) -> float:
    """The mean first decimal, as tenths, at the place where the trace wrote it; its own where
    nothing there can be read."""
    number, before = token_at(tokens, place)
    read = readings(tokens[number], before, DECIMAL)
    mass = math.fsum(q for _, q in read)
    written = int("".join(token.text for token in tokens)[place])
    return (math.fsum(int(match[1]) * q for match, q in read) / mass if mass else written) / 10


def expected_score(tokens: Sequence[Token]) -> tuple[float, float] | Failure:
    """(the expected final score of a trace in 0…10, the mass of the numbers at the place of its
    first token).

    Σ_s s·p_s over the tokens that could have begun the score, renormalised. What a token leaves
    open is taken from the trace's own path: where it holds no decimal, the mean decimal at the
    place where the trace wrote one; where it is a mere "1", it counts as 10 by the mass of "0"
    behind the 1 that the trace wrote, and, where the trace wrote another digit, as the nearer of 1
    and 10. A failure where there is no final score.
    """
    if not all(sane(token.probabilities) for token in tokens):
        return NO_PROBABILITIES
    tokens = [narrow(token) for token in tokens]
    text = "".join(token.text for token in tokens)
    found = score_span(text)
    if found is None:
        return Failure(kind="unparseable", detail="the trace has no final score")
    place, said = found[0], text[slice(*found)]
    written = float(said)
    number, before = token_at(tokens, place)
    read = readings(tokens[number], before, NUMBER)
    mass = math.fsum(q for _, q in read)
    if mass <= 0:
        return Failure(
            kind="unparseable", detail="no number is among the likeliest tokens of the score"
        )
    point = said.find(".")
    tenths = mean_tenths(tokens, place + point + 1) if point >= 0 and written < 10 else 0.0
    alone = (
        len(tokens[number].text) == len(before) + 1
    )  # the trace's first token holds one digit: "10" takes two
    ten = float(written > 5.5)
    if alone and said.startswith("1"):
        after = tokens[number + 1].probabilities
        ten = min(1.0, math.fsum(q for token, q in after.items() if token.startswith("0")))
    total = 0.0
    for match, q in read:
        value, tenth = float(match[1]), tenths if match[2] in (None, "") else int(match[2]) / 10
        if alone and match[0].strip() == "1":
            total += q * (10 * ten + (1 + tenth) * (1 - ten))
        else:
            total += q * min(10.0, value + (tenth if value < 10 else 0.0))
    return settled(min(total / mass, 10.0)), min(mass, 1.0)


def agreement(verdicts: Sequence[Verdicts]) -> float | None:
    """The mean over principles of the share of traces that say what most of them say, ½…1; None for
    fewer than two traces."""
    if len(verdicts) < 2 or not verdicts[0].verdicts:
        return None
    shares = [fmean(column) for column in zip(*(v.verdicts for v in verdicts), strict=True)]
    return fmean(max(share, 1 - share) for share in shares)


def pooled(judgements: Sequence[Judgement]) -> Judgement:
    """Avg@K: the judgement of the mean of several traces' scores; thought and verdicts are those of
    the trace nearest to the mean.

    Traces without a score are left out of the mean and stand as None in `samples`; where none has
    one, the first failure is the judgement's.
    """
    scores = [judgement.score for judgement in judgements]
    readable = [
        (j, score) for j, score in zip(judgements, scores, strict=True) if score is not None
    ]
    if not readable:
        return judgements[0].model_copy(update={"samples": tuple(scores)})
    mean = settled(fmean(score for _, score in readable))
    nearest = min(readable, key=lambda pair: abs(pair[1] - mean))[0]
    std = stdev(score for _, score in readable) if len(readable) > 1 else None
    agreed = agreement([j.read for j, _ in readable if j.read is not None])
    return nearest.model_copy(
        update={"expected": mean, "samples": tuple(scores), "std": std, "agreement": agreed}
    )


def rated(answer: Choice) -> Judgement:
    """The judgement of an answer to the question for a number from 0 to 5: ten times its expected
    share."""
    found = expected_rating(answer.tokens[0].probabilities) if answer.tokens else None
    if found is None or isinstance(found, Failure):
        return Judgement(
            failure=found or Failure(kind="empty", detail="the answer came without probabilities")
        )
    return Judgement(expected=settled(found[0] * SCALE), mass=found[1])


def weighed(answer: Choice, trace: Judgement) -> Judgement:
    """The trace with the expectation of its final score; as it is where it could not be read."""
    if trace.failure is not None:
        return trace
    found = expected_score(answer.tokens)
    if isinstance(found, Failure):
        return trace.model_copy(update={"failure": found})
    return trace.model_copy(update={"expected": found[0], "mass": found[1]})
