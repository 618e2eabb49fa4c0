"""What a row means: a task, a candidate edit or a human pair, whatever its data set calls the fields.

Every reader takes the fields of one row as they are stored and returns a plain record, or raises BadRow with the reason. A field
that is None, NaN, blank or empty counts as missing. Where a row has several fields of one meaning, the name that stands first in the
table below decides: names that can only mean one thing come before those that other data sets use for something else (a
`prompt` may be a caption, an `image` an edit).
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from rrm.records import Failure, FailureKind, Label

ImageRef = str | bytes
"""A path as it is written in the row, or an encoded image."""

INSTRUCTION = ("edit_instruction", "edit_prompt", "instruct_prompt", "instruction", "prompt", "edit")
SOURCE = ("source_image", "source_img", "src_img", "input_image", "original_image", "source", "image", "input_images")
"""`input_images` is a list whose first image is the one to edit."""
EDITED = ("output_images", "edited_images", "output_image", "edited_image", "edited_img", "edited", "output")
REQUIREMENT = ("requirement",)
EDITOR = ("editor", "model", "model_name")
TWO_EDITS = (
    ("edited_a", "edited_b"),
    ("left_output_image", "right_output_image"),
    ("left_image", "right_image"),
    ("output_a", "output_b"),
    ("image_a", "image_b"),
)
LABEL = ("label", "vote_type", "vote", "preference", "winner")
SCORES = ("left_overall_score", "right_overall_score")
LABELS: Mapping[str, Label] = {
    **dict.fromkeys(("a", "left", "leftvote", "0"), "a"),
    **dict.fromkeys(("b", "right", "rightvote", "1"), "b"),
    **dict.fromkeys(("same", "tie", "tievote", "bothbad", "bothbad_vote"), "same"),
}
"""What labels mean, in small letters: 0 is the first edit; two edits that are both bad are the same."""
COMPASS_LABELS: Mapping[str, Label] = {"preference": "a", "tie": "same"}
IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp")
DATA_URL = re.compile(r"data:[^,]{0,200};base64,", re.IGNORECASE)
BASE64_IMAGE = re.compile(r"(iVBORw0KGgo|/9j/|UklGR|R0lGOD|SUkqA|TU0AK)[A-Za-z0-9+/\s]{200,}={0,2}\s*")
"""What PNG, JPEG, WebP, GIF and TIFF look like in base64."""
LONGEST_PATH = 4096


class BadRow(Exception):
    """A row that cannot be used, and why."""

    def __init__(self, kind: FailureKind, detail: str):
        super().__init__(detail)
        self.failure = Failure(kind=kind, detail=detail[:300])


@dataclass(frozen=True)
class TaskRow:
    """What an editor is asked, and the edits that the row may bring along."""

    instruction: str
    image: ImageRef
    requirement: str | None
    edits: tuple[ImageRef, ...]
    editor: str | None


@dataclass(frozen=True)
class CandidateRow:
    """An edit of a task: one of `task` (the name of the task's image in the tasks' file) and `source` says of which."""

    task: str | None
    source: ImageRef | None
    instruction: str
    image: ImageRef
    editor: str
    seed: int | None


@dataclass(frozen=True)
class PairRow:
    """Two edits and which of them people prefer; `convention` names the data set whose way of saying so this is."""

    source: ImageRef
    instruction: str
    requirement: str | None
    a: ImageRef
    b: ImageRef
    label: Label
    convention: str


def bad(detail: str) -> BadRow:
    """The exception for a row whose fields do not do."""
    return BadRow("bad_row", detail)


def missing(value: Any) -> bool:
    """Whether a field holds nothing."""
    if isinstance(value, str):
        return not value.strip()
    if isinstance(value, dict) and value.keys() == {"bytes", "path"}:
        return not value["bytes"] and missing(value["path"])
    return value is None or value != value or value in (b"", [], {})


def first_of(values: Mapping[str, Any], names: Sequence[str]) -> tuple[str, Any] | None:
    """The first of these fields that holds something, and what."""
    return next(((name, values[name]) for name in names if name in values and not missing(values[name])), None)


def needed(values: Mapping[str, Any], what: str, names: Sequence[str]) -> tuple[str, Any]:
    """The first of these fields that holds something, and what; BadRow where none does."""
    found = first_of(values, names)
    if found is None:
        raise bad(f"'{names[0]}' is missing" if len(names) == 1 else f"no {what}: all of {', '.join(names)} are missing")
    return found


def encodable(name: str, text: str) -> str:
    """The text; BadRow where it holds half a character, which no file can hold."""
    if re.search("[\ud800-\udfff]", text):
        raise bad(f"'{name}' holds half a character (a lone surrogate)")
    return text


def embedded(name: str, text: str) -> bytes | None:
    """The image that a text holds as a data URL or in base64; None where it may be a path. BadRow for whatever is neither."""
    found = DATA_URL.match(text)
    if found or BASE64_IMAGE.fullmatch(text):
        try:
            return base64.b64decode("".join(text[found.end() if found else 0 :].split()), validate=True)
        except (binascii.Error, ValueError) as error:
            raise bad(f"'{name}' holds an image whose base64 is not whole ({error})") from error
    if len(text) > LONGEST_PATH:
        raise bad(f"'{name}' holds {len(text)} characters, which are neither a path nor an image in base64")
    if re.match(r"(https?|s3|gs|hf)://", text):
        raise bad(f"'{name}' is an address ({text[:80]}): nothing is fetched; download the images and give their paths")
    return None


def as_text(name: str, value: Any) -> str:
    """The text in a field: itself, the only one of a list, or the English one of several languages."""
    if isinstance(value, dict) and not missing(value.get("en")):
        return as_text(name, value["en"])
    if isinstance(value, dict):
        raise bad(f"'{name}' holds no text under 'en'")
    if isinstance(value, list) and len(value) == 1:
        return as_text(name, value[0])
    if isinstance(value, list):
        raise bad(f"'{name}' holds {len(value)} texts, not one")
    if not isinstance(value, str) or missing(value):
        raise bad(f"'{name}' must be text, not {type(value).__name__}")
    if "\ufffd" in value:
        raise bad(f"'{name}' holds U+FFFD, which stands for what was lost when the text was decoded wrongly; save it anew")
    return encodable(name, value.strip())


def as_image(name: str, value: Any) -> ImageRef:
    """The image in a field: a path, bytes, a data URL or base64, {"bytes", "path"}, or a list of one."""
    if isinstance(value, dict) and value.keys() == {"bytes", "path"}:
        value = value["bytes"] or value["path"]
    if isinstance(value, list) and (len(value) == 1 or name == "input_images"):
        return as_image(name, value[0])
    if isinstance(value, list):
        raise bad(f"'{name}' holds {len(value)} images, not one")
    if isinstance(value, bytes) and value:
        return value
    if not isinstance(value, str) or missing(value):
        raise bad(f"'{name}' must be the path or the bytes of an image, not {type(value).__name__}")
    found = embedded(name, value)
    return encodable(name, value) if found is None else found


def instruction_of(values: Mapping[str, Any]) -> str:
    """The instruction; BadRow where there is none."""
    return as_text(*needed(values, "instruction", INSTRUCTION))


def source_of(values: Mapping[str, Any]) -> ImageRef:
    """The image to edit; BadRow where there is none."""
    return as_image(*needed(values, "source image", SOURCE))


def optional_text(values: Mapping[str, Any], names: Sequence[str]) -> str | None:
    """The text in the first of these fields that holds something, or None."""
    found = first_of(values, names)
    return as_text(*found) if found else None


def read_task(values: Mapping[str, Any]) -> TaskRow:
    """The task in a row. Where no field names an image, an `id` that ends like an image file does (ImgEdit-Bench)."""
    path = values.get("id")
    if first_of(values, SOURCE) is None and isinstance(path, str) and PurePath(path).suffix.lower() in IMAGE_ENDINGS:
        values = {**values, SOURCE[0]: path}
    edits: tuple[ImageRef, ...] = ()
    if found := first_of(values, EDITED):
        name, value = found
        edits = tuple(as_image(name, one) for one in (value if isinstance(value, list) else [value]))
    return TaskRow(
        instruction_of(values), source_of(values), optional_text(values, REQUIREMENT), edits, optional_text(values, EDITOR)
    )


def read_candidate(values: Mapping[str, Any]) -> CandidateRow:
    """The candidate edit in a row: `image`, unless a field of EDITED holds it; then `image` may be the source.

    `task` counts only in a row without a source image: data sets also use the name for the kind of edit.
    """
    edited = first_of(values, EDITED) or needed(values, "edited image", ("image",))
    source = first_of(values, [name for name in SOURCE if name != edited[0]])
    task = None if source else optional_text(values, ("task",))
    if source is None and task is None:
        raise bad("neither a source image nor a 'task'")
    return CandidateRow(
        task=task,
        source=as_image(*source) if source else None,
        instruction=instruction_of(values),
        image=as_image(*edited),
        editor=as_text(*needed(values, "editor", EDITOR)),
        seed=seed_of(values),
    )


def seed_of(values: Mapping[str, Any]) -> int | None:
    """The seed in a row, or None; BadRow where it is no whole number."""
    found = first_of(values, ("seed",))
    if found is None:
        return None
    seed = found[1]
    if isinstance(seed, str) and re.fullmatch(r"\s*-?[0-9]{1,18}\s*", seed):  # a CSV holds text alone
        return int(seed)
    if isinstance(seed, bool) or not isinstance(seed, int | float) or not float(seed).is_integer():
        raise bad(f"'seed' must be a whole number, not {seed!r}")
    return int(seed)


def read_pair(values: Mapping[str, Any]) -> PairRow:
    """The human pair in a row: TIGER-Lab's EditReward-Bench, EditReward-Compass and EditScore's EditReward-Bench by their own
    fields; everything else by TWO_EDITS and LABEL (EditReward-Data, GenAI-Bench, `source`/`edited_a`/`edited_b`/`label`).

    Two edits in a list count as a pair only with a label, or in EditScore's fields, where the first is the preferred one.
    """
    if {"candidate_1", "candidate_2"} <= values.keys():
        return pair_of(values, ("candidate_1", "candidate_2"), ranked(values), "TIGER-Lab EditReward-Bench")
    if {"winner", "loser"} <= values.keys():
        said = optional_text(values, ("label",)) or "preference"
        if said not in COMPASS_LABELS:
            raise bad(f"'label' is {said!r:.60}, which is none of {', '.join(COMPASS_LABELS)}")
        return pair_of(values, ("winner", "loser"), COMPASS_LABELS[said], "EditReward-Compass")
    listed = values.get("output_images")
    if isinstance(listed, list):
        if len(listed) != 2:
            raise bad(f"'output_images' holds {len(listed)} images, not two")
        ordered = {"key", "input_image"} <= values.keys() and first_of(values, LABEL) is None
        label: Label = "a" if ordered else voted(values)
        convention = "EditScore EditReward-Bench" if ordered else "generic"
        places = ("output_images[0]", "output_images[1]")
        return pair_of({**values, **dict(zip(places, listed, strict=True))}, places, label, convention)
    edits = next((edits for edits in TWO_EDITS if first_of(values, edits)), None)
    if edits is None:
        raise bad(f"no two edits: all of {', '.join('/'.join(edits) for edits in TWO_EDITS)} are missing")
    return pair_of(values, edits, voted(values), convention_of(values, edits))


def pair_of(values: Mapping[str, Any], edits: tuple[str, str], label: Label, convention: str) -> PairRow:
    """The pair whose edits stand in these two fields."""
    a, b = (as_image(*needed(values, "edit", (name,))) for name in edits)
    return PairRow(source_of(values), instruction_of(values), optional_text(values, REQUIREMENT), a, b, label, convention)


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


def voted(values: Mapping[str, Any]) -> Label:
    """The label in a row; without one, the side with the higher overall score."""
    found = first_of(values, LABEL)
    if found is not None:
        name, value = found
        whole = int(value) if isinstance(value, float) and value.is_integer() else value  # integers beside NaN become floats
        label = LABELS.get(str(whole).strip().lower())
        if label is None:
            raise bad(f"'{name}' is {value!r:.60}, which is none of {', '.join(LABELS)}")
        return label
    left, right = (values.get(name) for name in SCORES)
    if missing(left) or missing(right):
        raise bad(f"no label: all of {', '.join(LABEL)} are missing, and so is one of {' and '.join(SCORES)}")
    if not isinstance(left, int | float) or not isinstance(right, int | float):
        raise bad(f"{' and '.join(SCORES)} must be numbers, not {left!r:.60} and {right!r:.60}")
    return "same" if left == right else "a" if left > right else "b"


def ranked(values: Mapping[str, Any]) -> Label:
    """The label that `ranking` ('A>B', 'A=B') gives the letters of `comparison_type` ('BvsC'; AvsB where it is missing)."""
    letters = re.fullmatch(
        r"([A-D])vs([A-D])", as_text(*(first_of(values, ("comparison_type",)) or ("comparison_type", "AvsB")))
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
