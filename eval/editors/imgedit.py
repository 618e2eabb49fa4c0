"""ImgEdit-Bench basic (737 items of 9 edit types), or anything in its schema, and what its scores
amount to.

One JSON object, key → {id, prompt, edit_type}; `id` is the source's path below a folder of images.
Edits lie at `<model>/<key>.png`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.editors.aggregate import summarise as summarise_set
from eval.editors.items import Bench, EditItem, ItemResult, Question
from eval.editors.prompts import RUBRICS, rubric_question
from rrm.errors import InputError
from rrm.images import inside, open_image, pixel_digest
from rrm.rows.text import read_text

ALIASES = {
    "alter": "adjust",
    "attribute_alter": "adjust",
    "motion": "action",
    "motion_change": "action",
    "hybrid": "compose",
    "background_change": "background",
    "style_change": "style",
    "style_transfer": "style",
}
"""Other names of the nine types, as the paper's tables and other sets write them."""
ENDINGS = ("", ".jpg", ".png", ".jpeg", ".webp")
MEASURES = ("score",)


def type_of(name: str, where: str) -> str:
    """The edit type by its public name. Raises InputError for one that has no rubric."""
    plain = name.strip().lower().replace(" ", "_").replace("-", "_")
    found = ALIASES.get(plain, plain)
    if found not in RUBRICS:
        raise InputError(
            f"{where}: there is no rubric for the edit type '{name}'; the types are {', '.join(RUBRICS)}."
        )
    return found


def image_path(images: Path, name: str, where: str) -> Path:
    """Where the source with this id lies; an id may leave out its ending. Raises InputError where
    there is none."""
    for ending in ENDINGS:
        path = inside(images, name + ending)
        if os.path.isfile(path):  # False for a name that no file can have
            return path
    raise InputError(
        f"{where}: there is no image '{name}' in {images}; give the benchmark's folder of images."
    )


def read_imgedit(
    bench: str | Path, images: str | Path, limit: int | None = None, encoding: str | None = None
) -> Iterator[EditItem]:
    """The items, in the file's order; `limit` keeps the first so many of every type.

    Raises InputError where the file is not of the schema, a source is missing or cannot be read, or
    there are no items.
    """
    bench = Path(bench)
    if not bench.is_file():
        raise InputError(
            f"There is no file at {bench}; give the JSON of ImgEdit-Bench's basic part."
        )
    try:
        values = json.loads(read_text(bench, encoding))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{bench} is not valid JSON ({error}).") from error
    if not isinstance(values, dict) or not values:
        raise InputError(f"{bench} must hold an object: key → {{id, prompt, edit_type}}.")
    seen: dict[str, int] = {}
    for key, value in values.items():
        where = f"{bench}, key '{key}'"
        fields = [
            value.get(name) if isinstance(value, dict) else None
            for name in ("id", "prompt", "edit_type")
        ]
        if not all(isinstance(field, str) and field.strip() for field in fields):
            raise InputError(f"{where} must hold id, prompt and edit_type, each of them text.")
        if "/" in key or "\\" in key or key.startswith("."):
            raise InputError(
                f"{where}: a key becomes a file's name; it must hold no slash and no leading dot."
            )
        name, prompt, group = str(fields[0]), str(fields[1]), type_of(str(fields[2]), where)
        seen[group] = seen.get(group, 0) + 1
        if limit is not None and seen[group] > limit:
            continue
        source = open_image(image_path(Path(images), name, where))
        yield EditItem(
            item_id=key,
            group=group,
            language="en",
            instruction=prompt,
            intersection=True,
            output=f"{key}.png",
            source=source,
            source_digest=pixel_digest(source),
        )


def sample_score(scores: tuple[float, ...]) -> float:
    """The score of one edit, 1–5: the mean of the three scores of its type's rubric (ImgEdit, Ye et
    al. 2025)."""
    return sum(scores) / len(scores)


def scores_of(answers: Mapping[str, tuple[float, ...]]) -> dict[str, float]:
    """The one measure of an edit from the judge's three scores."""
    return {"score": sample_score(answers["rubric"])}


def questions_of(item: EditItem) -> tuple[Question, ...]:
    """The one request of an edit, by the rubric of its type."""
    return (rubric_question(item.group, item.instruction),)


def summarise(results: Sequence[ItemResult]) -> dict[str, Any]:
    """Per type and overall, the mean over types (ImgEdit, Ye et al. 2025); `samples` is the mean
    over edits."""
    present = {result.group for result in results}
    return {
        "full": summarise_set(results, MEASURES),
        "absent_types": [name for name in RUBRICS if name not in present],
    }


BENCH = Bench("imgedit", MEASURES, questions_of, scores_of, summarise, same_size=False)
