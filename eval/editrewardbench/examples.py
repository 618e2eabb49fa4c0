"""Pairs to look at: the most certain mistakes, unreadable and most certain right pairs."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from PIL import Image
from pydantic import TypeAdapter, ValidationError

from eval.editrewardbench.answers import Answers
from eval.editrewardbench.judging import Rows
from eval.outcomes import Outcome
from rrm.errors import InputError
from rrm.records import Judgement, Record
from rrm.runtime.stage import write_json

EXAMPLES = "examples.json"
MISTAKES, UNREADABLE, RIGHT = 12, 3, 3
SIDE = 384
"""Pixels of a thumbnail's longer side, at most."""


class Example(Record):
    """A pair with its three images below the result's folder and what the judge wrote."""

    kind: Literal["mistake", "unreadable", "right"]
    outcome: Outcome
    images: tuple[str, str, str]
    words: tuple[dict[str, str], ...]
    judgements: tuple[Judgement, Judgement] | None = None
    """Of both edits, in the first pass; None of a pairwise judge."""


def read_examples(folder: Path) -> list[Example]:
    """The pairs that a run left to be shown. Raises InputError for a damaged file."""
    path = folder / EXAMPLES
    try:
        return TypeAdapter(list[Example]).validate_json(path.read_bytes()) if path.is_file() else []
    except ValidationError as error:
        raise InputError(f"{path} is damaged; run the same `editrewardbench run` again.") from error


def certainty(outcome: Outcome) -> float:
    """How far apart the scores are; 0 where there are none."""
    return outcome.gap or 0.0


def choose(outcomes: Sequence[Outcome]) -> dict[str, list[Outcome]]:
    """The most certain mistakes, the first unreadable and the most certain right pairs."""
    examples: dict[str, list[Outcome]] = {}
    taken: set[tuple[str, str]] = set()
    wrong = [o for o in outcomes if not o.right and o.side is not None]
    for kind, chosen, count in (
        ("mistake", sorted(wrong, key=certainty, reverse=True), MISTAKES),
        ("unreadable", [o for o in outcomes if o.side is None], UNREADABLE),
        ("right", sorted((o for o in outcomes if o.right), key=certainty, reverse=True), RIGHT),
    ):
        examples[kind] = []
        for outcome in chosen:
            if len(examples[kind]) < count and outcome.edits not in taken:
                taken.add(outcome.edits)
                examples[kind].append(outcome)
    return examples


def thumbnail(image: Image.Image, path: Path) -> None:
    """Writes the image as a small JPEG; a tiny one is enlarged by whole pixels, against blur."""
    small = image.copy()
    small.thumbnail((SIDE, SIDE))
    times = SIDE // max(small.size)
    if times > 1:
        small = small.resize((small.width * times, small.height * times), Image.Resampling.NEAREST)
    small.save(path, quality=88)


def write_examples(out: Path, outcomes: Sequence[Outcome], rows: Rows, answers: Answers) -> None:
    """Writes `out/examples.json` and its images, in place of an earlier run's."""
    chosen = choose(outcomes)
    by_number = {o.number: (kind, o) for kind, members in chosen.items() for o in members}
    shutil.rmtree(out / "examples", ignore_errors=True)
    (out / "examples").mkdir(parents=True)
    shown: dict[int, Example] = {}
    for row in rows() if by_number else ():
        if row.pair.number not in by_number:
            continue
        kind, outcome = by_number[row.pair.number]
        source, a, b = names = tuple(
            f"examples/{row.pair.number}-{part}.jpg" for part in ("source", "a", "b")
        )
        for name, image in zip(names, (row.source, *row.edited), strict=True):
            thumbnail(image, out / name)
        shown[row.pair.number] = Example.model_validate(
            {
                "kind": kind,
                "outcome": outcome,
                "images": (source, a, b),
                "words": answers.texts(outcome),
                "judgements": answers.judgements
                and [answers.judgements[name] for name in outcome.edits],
            }
        )
        if len(shown) == len(by_number):
            break
    examples = [
        shown[o.number] for members in chosen.values() for o in members if o.number in shown
    ]
    write_json(out / EXAMPLES, [example.model_dump(mode="json") for example in examples])
