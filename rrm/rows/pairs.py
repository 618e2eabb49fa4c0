"""What a row of human pairs means: two edits of one image, and which of them people prefer,
whatever its data set calls the fields."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from rrm.records import Label
from rrm.rows.columns import REQUIREMENT, instruction_of, source_of
from rrm.rows.fields import (
    BadRow,
    ImageRef,
    as_image,
    as_text,
    bad,
    first_of,
    missing,
    needed,
    optional_text,
)
from rrm.rows.formats import Reading
from rrm.rows.labels import BY_WORDS, Given, Labels, Said, counted, decided, said
from rrm.rows.sources import rows_of

TWO_EDITS = (
    ("edited_a", "edited_b"),
    ("left_output_image", "right_output_image"),
    ("left_image", "right_image"),
    ("output_a", "output_b"),
    ("image_a", "image_b"),
)
LABEL = ("label", "vote_type", "vote", "preference", "winner")
SCORES = ("left_overall_score", "right_overall_score")
RANKING = ("ranking", "comparison_type")
LABEL_COLUMNS = frozenset((*LABEL, *SCORES, *RANKING))
RATER = ("rater", "rater_id", "annotator", "annotator_id", "worker_id")
COMPASS_LABELS: Mapping[str, Label] = {"preference": "a", "tie": "same"}
EDITSCORE = "EditScore EditReward-Bench"
FIRST = Said("output_images", "the first of two", "a")


@dataclass(frozen=True)
class PairRow:
    """Two edits and which of them people prefer; `convention` names the data set whose way of
    saying so this is, `rater` who says so."""

    source: ImageRef
    instruction: str
    requirement: str | None
    a: ImageRef
    b: ImageRef
    label: Label
    convention: str
    rater: str | None = None


def read_pair(values: Mapping[str, Any], labels: Labels = BY_WORDS) -> PairRow:
    """The human pair in a row, its label read by what `labels` says of the set: TIGER-Lab's
    EditReward-Bench, EditReward-Compass and EditScore's EditReward-Bench by their own fields;
    everything else by TWO_EDITS and LABEL (EditReward-Data, GenAI-Bench,
    `source`/`edited_a`/`edited_b`/`label`).

    Two edits in a list count as a pair only with a label, or in EditScore's fields, where the first
    is the preferred one.
    """
    convention, a, b = edits_of(values)
    found = said_of(values)
    if found == FIRST and convention != EDITSCORE:
        raise no_label()
    requirement = optional_text(values, REQUIREMENT)
    return PairRow(
        source_of(values),
        instruction_of(values),
        requirement,
        a,
        b,
        labels.of(found),
        convention,
        rater_of(values),
    )


def edits_of(values: Mapping[str, Any]) -> tuple[str, ImageRef, ImageRef]:
    """Which data set has these fields, and the two edits; BadRow where there are none."""
    if {"candidate_1", "candidate_2"} <= values.keys():
        return "TIGER-Lab EditReward-Bench", *two(values, "candidate_1", "candidate_2")
    if {"winner", "loser"} <= values.keys():
        return "EditReward-Compass", *two(values, "winner", "loser")
    listed = values.get("output_images")
    if isinstance(listed, list):
        if len(listed) != 2:
            raise bad(f"'output_images' holds {len(listed)} images, not two")
        places = ("output_images[0]", "output_images[1]")
        return EDITSCORE if is_ordered(values) else "generic", *two(
            dict(zip(places, listed, strict=True)), *places
        )
    edits = next((edits for edits in TWO_EDITS if first_of(values, edits)), None)
    if edits is None:
        raise bad(
            f"no two edits: all of {', '.join('/'.join(edits) for edits in TWO_EDITS)} are missing"
        )
    return convention_of(values, edits), *two(values, *edits)


def two(values: Mapping[str, Any], first: str, second: str) -> tuple[ImageRef, ImageRef]:
    """The edits in these two fields."""
    return as_image(*needed(values, "edit", (first,))), as_image(*needed(values, "edit", (second,)))


def is_ordered(values: Mapping[str, Any]) -> bool:
    """Whether a row is in EditScore's fields, which have no label."""
    return {"key", "input_image", "output_images"} <= values.keys() and first_of(
        values, LABEL
    ) is None


def convention_of(values: Mapping[str, Any], edits: tuple[str, str]) -> str:
    """Which data set has these fields."""
    if edits == ("edited_a", "edited_b") and {"source", "label"} <= values.keys():
        return "edit-rrm"
    if edits == ("left_output_image", "right_output_image"):
        if "instruct_prompt" in values:
            return "GenAI-Bench"
        if "source_img" in values:
            return "EditReward-Data"
    return "generic"


def rater_of(values: Mapping[str, Any]) -> str | None:
    """Who says so, where the row names it."""
    found = first_of(values, RATER)
    return None if found is None else str(found[1]).strip()[:100]


def no_label() -> BadRow:
    """The exception for a row that does not say which edit is better."""
    return bad(
        f"no label: all of {', '.join(LABEL)} are missing, and so is one of {' and '.join(SCORES)}"
    )


def said_of(values: Mapping[str, Any]) -> Said:
    """What a row says of its two edits; without a label, the side with the higher overall score is
    the better one."""
    if {"candidate_1", "candidate_2"} <= values.keys():
        label = ranked(values)
        return Said("ranking", {"a": "the first", "b": "the second", "same": "A=B"}[label], label)
    if {"winner", "loser"} <= values.keys():
        word = optional_text(values, ("label",)) or "preference"
        if word not in COMPASS_LABELS:
            raise bad(f"'label' is {word!r:.60}, which is none of {', '.join(COMPASS_LABELS)}")
        return Said("label", word, COMPASS_LABELS[word])
    if is_ordered(values):
        return FIRST
    if found := first_of(values, LABEL):
        return said(*found)
    return scored(*(values.get(name) for name in SCORES))


def scored(left: Any, right: Any) -> Said:
    """What the overall scores of both edits say of them."""
    if missing(left) or missing(right):
        raise no_label()
    if not all(isinstance(score, int | float) and math.isfinite(score) for score in (left, right)):
        raise bad(f"{' and '.join(SCORES)} must be numbers, not {left!r:.60} and {right!r:.60}")
    column = " and ".join(SCORES)
    if left == right:
        return Said(column, "equal", "same")
    return Said(column, "left higher", "a") if left > right else Said(column, "right higher", "b")


def ranked(values: Mapping[str, Any]) -> Label:
    """The label that `ranking` ('A>B', 'A=B') gives the letters of `comparison_type` ('BvsC'; AvsB
    where it is missing)."""
    letters = re.fullmatch(
        r"([A-D])vs([A-D])",
        as_text(*(first_of(values, ("comparison_type",)) or ("comparison_type", "AvsB"))),
    )
    ranking = as_text(*needed(values, "ranking", ("ranking",)))
    found = re.fullmatch(r"([A-D])\s*([>=])\s*([A-D])", ranking)
    if letters is None or found is None or {found[1], found[3]} != set(letters.groups()):
        raise bad(
            f"'ranking' is {ranking!r:.60}, which does not rank the two of 'comparison_type' {values.get('comparison_type')!r}"
        )
    if found[2] == "=":
        return "same"
    return "a" if found[1] == letters[1] else "b"


def labels_of(where: str, reading: Reading, given: Given | None) -> Labels:
    """What the labels of the pairs at `where` mean, from all of its rows; images are left unread
    where the format can.

    Raises InputError where that is not certain and `given` does not say it.
    """

    rows = rows_of(where, replace(reading, columns=LABEL_COLUMNS))
    return decided(where, counted(where, said_in(row.values or {} for row in rows)), given)


def said_in(rows: Iterable[Mapping[str, Any]]) -> Iterator[Said]:
    """What the rows say; those that say nothing are passed over, and left out when they are read."""
    for values in rows:
        with suppress(BadRow):
            yield said_of(values)
