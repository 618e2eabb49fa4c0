"""What the sandbox's judges write before their verdicts: the cells before and after, then a line
per principle."""

from __future__ import annotations

from collections.abc import Sequence

from rrm.records import Principle
from rrm.sandbox.edits import OTHERS, SAME_BACKGROUND, Step
from rrm.sandbox.reading import BLOB, Reading


def cell_line(before: Reading, after: Reading) -> str:
    """Every cell as it was and as it is."""
    pairs = [(before.name(i), after.name(i)) for i in range(4)]
    return " ".join(f"{a} > {b} {'same' if a == b else 'diff'};" for a, b in pairs)


def look(reading: Reading) -> str:
    """The artefact that is seen, or "clean"."""
    return reading.artefact or ("blob" if BLOB in reading.cells else "clean")


def principle_line(
    number: int,
    principle: Principle,
    before: Reading,
    after: Reading,
    steps: Sequence[Step],
    ok: int,
) -> str:
    """What was there, what was wanted and what is there now, and whether that is good."""
    word = "ok" if ok else "bad"
    if principle.category == "follow":
        step = next((s for s in steps if s.principle() == principle), None)
        if step is None:
            return f"{number}: {word}"
        if step.kind == "background":
            return f"{number}: background {before.background} > {step.value} > {after.background} {word}"
        cell = step.cell(before)
        was, now = ("none", "none") if cell is None else (before.name(cell), after.name(cell))
        return f"{number}: {was} > {step.wanted()} > {now} {word}"
    if principle == OTHERS:
        return f"{number}: others {'same' if ok else 'diff'} {word}"
    if principle == SAME_BACKGROUND:
        return f"{number}: background {before.background} > {after.background} {word}"
    return f"{number}: image {look(after)} {word}"


def think(
    before: Reading,
    after: Reading,
    steps: Sequence[Step],
    principles: Sequence[Principle],
    verdicts: Sequence[int],
) -> str:
    """The whole thought."""
    lines = [cell_line(before, after)]
    for number, (principle, ok) in enumerate(zip(principles, verdicts, strict=True), 1):
        lines.append(principle_line(number, principle, before, after, steps, ok))
    return "\n".join(lines)


def agrees(thought: str, verdicts: Sequence[int]) -> bool | None:
    """Whether the thought says ok of exactly what the verdicts say 1 of; None where it says nothing
    of some principle."""
    said: dict[int, int] = {}
    for line in thought.splitlines():
        number, colon, rest = line.partition(":")
        word = rest.rsplit(" ", 1)[-1]
        if colon and number.strip().isdigit() and word in ("ok", "bad"):
            said[int(number)] = int(word == "ok")
    if set(said) != set(range(1, len(verdicts) + 1)):
        return None
    return all(said[number] == verdict for number, verdict in enumerate(verdicts, 1))
