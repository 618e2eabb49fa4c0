"""GEdit-Bench (hub id `stepfun-ai/GEdit-Bench`), or anything in its schema, and what its scores
amount to.

Columns: task_type, key, instruction, instruction_language (en|cn), input_image, input_image_raw,
Intersection_exist. The public set has 606 instructions per language in 11 tasks. Edits lie at
`<model>/fullset/<task>/<language>/<key>.png`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from eval.editors.aggregate import summarise as summarise_set
from eval.editors.items import Bench, EditItem, ItemResult, Question
from eval.editors.prompts import consistency_question, quality_question
from eval.reading import RawRow, raw_rows
from rrm.errors import InputError
from rrm.images import pixel_digest
from rrm.rows.formats import PLAIN, Reading

COLUMNS = ("task_type", "key", "instruction", "instruction_language")
IMAGES = ("input_image_raw", "input_image")
"""The first that a row has is edited and shown to the judge."""
TASKS = (
    "background_change",
    "color_alter",
    "material_alter",
    "motion_change",
    "ps_human",
    "style_change",
    "subject-add",
    "subject-remove",
    "subject-replace",
    "text_change",
    "tone_transfer",
)
MEASURES = ("SC", "PQ", "O")
Language = Literal["en", "cn"]


def output_path(task: str, language: str, key: str) -> str:
    """Where an edit lies below its editor's folder, as in the public outputs."""
    return f"fullset/{task}/{language}/{key}.png"


def item_of(row: RawRow) -> EditItem:
    """The typed row with its source decoded. Raises InputError for a missing column or image."""
    raw, where = row.values, row.where
    lacking = [column for column in COLUMNS if column not in raw]
    column = next((name for name in IMAGES if raw.get(name) is not None), None)
    if lacking or column is None:
        raise InputError(
            f"{where} lacks {', '.join([*lacking, *([] if column else [IMAGES[0]])])}, which GEdit-Bench has."
        )
    task, key, language = (row.text(name) for name in ("task_type", "key", "instruction_language"))
    if any("/" in part or "\\" in part or part.startswith(".") for part in (task, key, language)):
        raise InputError(
            f"{where}: task, key and language become a path; they must hold no slash and no leading dot."
        )
    source = row.image(raw[column])
    return EditItem(
        item_id=f"{task}/{language}/{key}",
        group=task,
        language=language,
        instruction=row.text("instruction"),
        intersection=bool(raw.get("Intersection_exist", False)),
        output=output_path(task, language, key),
        source=source,
        source_digest=pixel_digest(source),
    )


def read_gedit(
    bench: str, language: Language, limit: int | None = None, reading: Reading = PLAIN
) -> Iterator[EditItem]:
    """The items of one language, in the benchmark's order; `limit` keeps the first so many of every
    task.

    `bench` is a folder, a file of rows, or a hub id with optional @revision. Raises InputError for
    a row that cannot be used, two rows with one output, or no rows at all.
    """
    seen: dict[str, int] = {}
    outputs: set[str] = set()
    for row in raw_rows(bench, reading=reading):
        raw = row.values
        if raw.get("instruction_language") != language and "instruction_language" in raw:
            continue
        task = str(raw.get("task_type"))
        seen[task] = seen.get(task, 0) + 1
        if limit is not None and seen[task] > limit:
            continue
        item = item_of(row)
        if item.output in outputs:
            raise InputError(
                f"{row.where}: a second row for {item.output}; every key must stand once per task and language."
            )
        outputs.add(item.output)
        yield item
    if not seen:
        raise InputError(f"{bench} holds no rows in the language '{language}'.")


def expected_outputs(items: Sequence[EditItem], model: str) -> list[str]:
    """Where the edits of `model` are looked for, below the folder of all outputs."""
    return [f"{model}/{item.output}" for item in items]


def semantic_consistency(success: float, over_editing: float) -> float:
    """SC = min(success, over-editing), 0–10 (VIEScore, Ku et al. 2023, as GEdit-Bench uses it)."""
    return min(success, over_editing)


def perceptual_quality(naturalness: float, artifacts: float) -> float:
    """PQ = min(naturalness, artifacts), 0–10 (VIEScore, Ku et al. 2023, as GEdit-Bench uses it)."""
    return min(naturalness, artifacts)


def overall(consistency: float, quality: float) -> float:
    """O = √(SC · PQ) of one sample, 0–10 (VIEScore, Ku et al. 2023): an edit that fails in one
    fails."""
    return math.sqrt(consistency * quality)


def scores_of(answers: Mapping[str, tuple[float, ...]]) -> dict[str, float]:
    """SC, PQ and O of one edit from the judge's two pairs of scores."""
    consistency, quality = semantic_consistency(*answers["SC"]), perceptual_quality(*answers["PQ"])
    return {"SC": consistency, "PQ": quality, "O": overall(consistency, quality)}


def questions_of(item: EditItem) -> tuple[Question, ...]:
    """The two requests of one edit: the first shows both images, the second the edit alone."""
    return consistency_question(item.instruction), quality_question()


def summarise(results: Sequence[ItemResult]) -> dict[str, Any]:
    """The full set and the intersection set: per measure the mean per task, then over tasks
    (Step1X-Edit, Liu et al. 2025).

    O is the mean of the samples' O, not √ of the means. `absent_tasks` names those of the public
    set that the results lack.
    """
    present = {result.group for result in results}
    return {
        "full": summarise_set(results, MEASURES),
        "intersection": summarise_set(
            [result for result in results if result.intersection], MEASURES
        ),
        "absent_tasks": [task for task in TASKS if task not in present],
    }


BENCH = Bench("gedit", MEASURES, questions_of, scores_of, summarise, same_size=True)
