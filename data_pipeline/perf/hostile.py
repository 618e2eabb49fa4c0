"""How the parsers of teachers' answers stand hostile ones: nothing may raise, and nothing may be
read that is not there.

`python -m data_pipeline.perf.hostile --n 100000` prints the counts as JSON. What was read is judged
by an oracle of its own, which is slow, shares no code with `rrm.parsing`, and looks for it in the
text.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from data_pipeline.perf.hostile_answers import HUGE, MOST_PRINCIPLES, TEMPLATES, draft, mutate
from data_pipeline.perf.oracle import invented
from rrm import parsing
from rrm.records import Choice, Failure

HYPOTHESIS_SHARE = 0.1
"""Of the answers, those that hypothesis writes."""
RARE = 0.003
"""Chance of one of the templates of 200 kB, which cost the most."""
OWN_COUNT = 0.7
"""Chance that a parser is told as many principles as the answer was written for, else any number up
to MOST_PRINCIPLES."""
MUTATED = 0.7
CUT, APART = 0.05, 0.1
"""Chance that an answer was cut off at the limit, and that its server sends a thought (another
answer) apart from it."""
EXAMPLES = 5


@dataclass
class Tally:
    """What became of the answers so far."""

    by_kind: dict[str, dict[str, int]] = field(
        default_factory=lambda: defaultdict(
            lambda: dict.fromkeys(("n", "exceptions", "invented", "readable"), 0)
        )
    )
    examples: list[dict[str, Any]] = field(default_factory=list)
    slowest: float = 0.0

    def add(self, kind: str, choice: Choice, count: int) -> None:
        """Reads one answer in every way and counts what came of it."""
        text = choice.content
        row = self.by_kind[kind]
        row["n"] += 1
        read: dict[str, Any] = {}
        for name, arguments in READERS.items():
            started = time.perf_counter()
            try:
                read[name] = getattr(parsing, name)(choice, *([count] if arguments == 2 else []))
            except Exception as error:  # whatever it is, it is what is being counted
                row["exceptions"] += 1
                self.note(kind, text, count, f"{name}: {error!r}")
                return
            self.slowest = max(self.slowest, time.perf_counter() - started)
        row["readable"] += any(not isinstance(value, Failure) for value in read.values())
        if wrong := invented(choice, count, read):
            row["invented"] += 1
            self.note(kind, text, count, f"invented by {', '.join(wrong)}")

    def note(self, kind: str, text: str, count: int, what: str) -> None:
        """Keeps the first answers that something was wrong with."""
        if len(self.examples) < EXAMPLES:
            self.examples.append(
                {"kind": kind, "count": count, "what": what[:300], "text": ascii(text[:2000])}
            )


READERS = {
    "read_trace": 2,
    "read_gold": 2,
    "read_principles": 1,
    "read_score": 1,
    "read_holistic": 1,
}


def written_by_hypothesis(tally: Tally, n: int) -> None:
    """Counts n answers put together by hypothesis from fragments of answers and any text."""
    pieces = [
        "[",
        "]",
        "{",
        "}",
        '"question": ',
        '"score": ',
        '"gold": ',
        '"category": ',
        '"keep"',
        ", ",
        "0",
        "1",
        "2",
        "true",
        "NaN",
        "1e999",
    ]
    pieces += [
        "<score>",
        "</score>",
        '{"question": 1, "score": 1}',
        '{"question": 2, "gold": 0}',
        '"Is it red?"',
        '"\\ud800"',
        "8.5",
        "-",
    ]
    rows = st.lists(st.tuples(st.integers(0, 4), st.integers(-1, 2)), max_size=4).map(
        lambda pairs: json.dumps(
            [{"question": q, "score": s, "gold": s, "category": "keep"} for q, s in pairs]
        )
    )
    part = st.one_of(
        st.sampled_from(pieces),
        rows,
        st.text(st.characters(), max_size=8),
        st.just("<score>7</score>"),
    )

    @settings(
        max_examples=n,
        database=None,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    @given(st.lists(part, max_size=12).map("".join), st.integers(0, MOST_PRINCIPLES))
    def add(text: str, count: int) -> None:
        tally.add("hypothesis", Choice(content=text), count)

    add()


def measure(n: int = 100_000, seed: int = 0) -> dict[str, Any]:
    """Counts over n hostile answers: exceptions, answers of which something was invented, and those
    of which anything was read."""
    started = time.perf_counter()
    rng = random.Random(seed)
    tally = Tally()
    written = round(n * HYPOTHESIS_SHARE)
    if written:
        written_by_hypothesis(tally, written)
    while (done := sum(row["n"] for row in tally.by_kind.values())) < n:
        for kind in rng.sample(list(TEMPLATES), min(len(TEMPLATES), n - done)):
            one, other = draft(rng), draft(rng)
            huge = rng.random() < RARE
            name = rng.choice(list(HUGE)) if huge else kind
            text = (HUGE if huge else TEMPLATES)[name](one)
            if rng.random() < MUTATED:
                text = mutate(text, TEMPLATES[rng.choice(list(TEMPLATES))](other), rng)
            reason = "length" if rng.random() < CUT else "stop"
            choice = Choice(
                content=text,
                finish_reason=reason,
                reasoning=other.text if rng.random() < APART else "",
            )
            tally.add(
                name,
                choice,
                len(one.rows) if rng.random() < OWN_COUNT else rng.randint(0, MOST_PRINCIPLES),
            )
    total = {
        key: sum(row[key] for row in tally.by_kind.values())
        for key in ("n", "exceptions", "invented", "readable")
    }
    return {
        **total,
        "by_kind": {kind: dict(row) for kind, row in tally.by_kind.items()},
        "examples": tally.examples,
        "slowest_read_seconds": round(tally.slowest, 4),
        "seconds": round(time.perf_counter() - started, 1),
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Read hostile answers and count what went wrong.")
    parser.add_argument("--n", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(json.dumps(measure(arguments.n, arguments.seed), indent=1))


if __name__ == "__main__":
    main()
