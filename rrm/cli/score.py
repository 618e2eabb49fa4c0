"""`rrm score`: one edit judged, for a person or as JSON."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from rrm.errors import InputError
from rrm.images import open_image
from rrm.parsing import question_faults, read_principles
from rrm.records import Failure, Judgement, Principle
from rrm.rows.formats import FILES, Reading, whole_rows
from rrm.rows.text import read_text

NO_MODEL = (
    "No model is configured; pass --model FOLDER or set RRM_MODEL to one. `make demo` makes a small one "
    "(runs/demo/gcpo/model), and the README says how to train Qwen2.5-VL."
)

PRINCIPLES_HELP = (
    "yes/no questions: .txt with one a line, or .json, .jsonl, .csv, .parquet with question and category (follow, keep, quality);"
    " decomposed by the model if left out"
)


def read_principles_file(path: Path, encoding: str | None = None) -> tuple[Principle, ...]:
    """Principles from a JSON list or rows of {"question", "category"} (JSONL, CSV, Parquet), or
    from a text file with one question a line (category "follow").

    Raises InputError where it holds none, or one that the data pipeline would refuse of a teacher.
    """
    if not path.is_file():
        raise InputError(
            f"There is no principles file at {path}; give a .txt with one question a line, or a JSON list of question and category."
        )
    if path.suffix.lower() == ".txt":
        lines = [line.strip() for line in read_text(path, encoding).splitlines() if line.strip()]
        found: tuple[Principle, ...] | Failure = tuple(
            Principle(question=line, category="follow") for line in lines
        )
        if not found:
            raise InputError(f"{path} is empty; write one question a line.")
    elif path.suffix.lower() in FILES and path.suffix.lower() != ".json":
        found = read_principles(
            json.dumps(
                [
                    {name: row.get(name) for name in Principle.model_fields}
                    for _, row in whole_rows(path, Reading(encoding))
                ]
            )
        )
    else:
        found = read_principles(read_text(path, encoding))
    if isinstance(found, Failure):
        raise InputError(
            f'{path} holds no principles ({found.detail}); write [{{"question": "…", "category": "follow" | "keep" | "quality"}}].'
        )
    if faults := question_faults(found):
        raise InputError(f"{path}: {faults[0]}")
    return found


def show(judgement: Judgement) -> str:
    """The judgement for a person."""
    if judgement.score is None:
        assert judgement.failure is not None
        return f"no score: {judgement.failure.kind} ({judgement.failure.detail})\n\n{judgement.thought}"
    lines = []
    if judgement.read is not None:
        verdicts = zip(judgement.read.verdicts, judgement.principles, strict=True)
        lines += [judgement.thought, ""]
        lines += [
            f"  {'yes' if ok else 'NO '}  [{principle.category}] {principle.question}"
            for ok, principle in verdicts
        ]
        lines += ["", f"average of verdicts  {judgement.read.average:.2f}"]
    lines.append(f"final score          {judgement.score:.4g} / 10")
    if judgement.samples:
        readable = [score for score in judgement.samples if score is not None]
        std = "–" if judgement.std is None else f"{judgement.std:.2f}"
        agreed = "–" if judgement.agreement is None else f"{judgement.agreement:.0%}"
        lines.append(
            f"of {len(readable)} of {len(judgement.samples)} traces: std {std}, verdicts agree in {agreed}"
        )
    if judgement.mass is not None:
        lines.append(f"mass of the numbers  {judgement.mass:.3f}")
    return "\n".join(lines)


def to_json(judgement: Judgement) -> str:
    """The judgement for a program."""
    read = judgement.read
    return json.dumps(
        {
            "score": judgement.score,
            **{
                key: getattr(judgement, key)
                for key in ("samples", "std", "agreement", "mass")
                if getattr(judgement, key)
            },
            "average": None if read is None else read.average,
            "principles": [
                {**p.model_dump(), "verdict": None if read is None else read.verdicts[i]}
                for i, p in enumerate(judgement.principles)
            ],
            "thought": judgement.thought,
            "failure": None if judgement.failure is None else judgement.failure.model_dump(),
        },
        ensure_ascii=False,
        indent=1,
    )


def score(
    source: Annotated[Path, typer.Option(help="the image before")],
    edited: Annotated[Path, typer.Option(help="the image after")],
    instruction: Annotated[str, typer.Option(help="what the edit was meant to do")],
    requirement: Annotated[str | None, typer.Option(help="what it must also meet")] = None,
    principles: Annotated[Path | None, typer.Option(help=PRINCIPLES_HELP)] = None,
    encoding: Annotated[
        str | None, typer.Option(help="of a file of principles that is not UTF-8, such as gb18030")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="checkpoint folder of an RRM, or server:http://…/v1?mode=…&k=… (default: $RRM_MODEL)"
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Judge one edit: verdicts, thought and a score from 0 to 10 (exit code 1 with a named
    failure)."""
    model = model or os.environ.get("RRM_MODEL")
    if not model:
        raise InputError(NO_MODEL)
    before, after = open_image(source), open_image(edited)
    if not instruction.strip():
        raise InputError("The instruction is empty; say what the edit was meant to do.")
    questions = read_principles_file(principles, encoding) if principles else ()
    from rrm.reward import open_reward  # imports torch: not before the input is known to be good

    with open_reward(model) as reward:
        judgement = reward.judge(before, after, instruction, questions, requirement)
    print(to_json(judgement) if as_json else show(judgement))
    if judgement.failure is not None:
        raise SystemExit(1)
