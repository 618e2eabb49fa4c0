"""The `rrm` command.

rrm score --source a.png --edited b.png --instruction "make the mug red"
          [--requirement "keep the handle"] [--principles file.json] [--json]
rrm serve --model runs/demo/gcpo/model [--port 8000 --replicas 4 --tensor-parallel 2]
rrm doctor --config configs/qwen2_5_vl_7b/gcpo.yaml [--gpus 6 --gpu-memory 80] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from rrm.errors import InputError
from rrm.images import open_image
from rrm.parsing import question_faults, read_principles
from rrm.records import Failure, Judgement, Principle
from rrm.rows.formats import FILES, Reading, whole_rows
from rrm.rows.text import read_text
from rrm.runtime.stage import command

NO_MODEL = (
    "No model is configured; pass --model FOLDER or set RRM_MODEL to one. `make demo` makes a small one "
    "(runs/demo/gcpo/model), and the README says how to train Qwen2.5-VL."
)


def read_principles_file(path: Path, encoding: str | None = None) -> tuple[Principle, ...]:
    """Principles from a JSON list or rows of {"question", "category"} (JSONL, CSV, Parquet), or from a text file with one question a line
    (category "follow").

    Raises InputError where it holds none, or one that the data pipeline would refuse of a teacher.
    """
    if not path.is_file():
        raise InputError(
            f"There is no principles file at {path}; give a .txt with one question a line, or a JSON list of question and category."
        )
    if path.suffix.lower() == ".txt":
        lines = [line.strip() for line in read_text(path, encoding).splitlines() if line.strip()]
        found: tuple[Principle, ...] | Failure = tuple(Principle(question=line, category="follow") for line in lines)
        if not found:
            raise InputError(f"{path} is empty; write one question a line.")
    elif path.suffix.lower() in FILES and path.suffix.lower() != ".json":
        found = read_principles(
            json.dumps(
                [{name: row.get(name) for name in Principle.model_fields} for _, row in whole_rows(path, Reading(encoding))]
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
        lines += [f"  {'yes' if ok else 'NO '}  [{principle.category}] {principle.question}" for ok, principle in verdicts]
        lines += ["", f"average of verdicts  {judgement.read.average:.2f}"]
    lines.append(f"final score          {judgement.score:.4g} / 10")
    if judgement.samples:
        readable = [score for score in judgement.samples if score is not None]
        spread = "–" if judgement.spread is None else f"{judgement.spread:.2f}"
        agreed = "–" if judgement.agreement is None else f"{judgement.agreement:.0%}"
        lines.append(f"of {len(readable)} of {len(judgement.samples)} traces: spread {spread}, verdicts agree in {agreed}")
    if judgement.mass is not None:
        lines.append(f"mass of the numbers  {judgement.mass:.3f}")
    return "\n".join(lines)


def as_json(judgement: Judgement) -> str:
    """The judgement for a program."""
    read = judgement.read
    return json.dumps(
        {
            "score": judgement.score,
            **{key: getattr(judgement, key) for key in ("samples", "spread", "agreement", "mass") if getattr(judgement, key)},
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


def score(options: argparse.Namespace) -> None:
    """`rrm score`: exit code 0 with a judgement, 1 with a named failure."""
    model = options.model or os.environ.get("RRM_MODEL")
    if not model:
        raise InputError(NO_MODEL)
    source, edited = open_image(options.source), open_image(options.edited)
    if not options.instruction.strip():
        raise InputError("The instruction is empty; say what the edit was meant to do.")
    principles = read_principles_file(options.principles, options.encoding) if options.principles else ()
    from rrm.reward import open_reward  # imports torch: not before the input is known to be good

    with open_reward(model) as reward:
        judgement = reward.judge(source, edited, options.instruction, principles, options.requirement)
    print(as_json(judgement) if options.json else show(judgement))
    if judgement.failure is not None:
        raise SystemExit(1)


def serve(options: argparse.Namespace) -> None:
    """`rrm serve`: runs until it is stopped."""
    from rrm.reward.serve import Serving, serve  # imports torch

    names = (
        "model",
        "host",
        "port",
        "name",
        "replicas",
        "tensor_parallel",
        "max_length",
        "in_flight",
        "dtype",
        "gpu_memory",
        "patience",
    )
    chosen = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    serve(Serving(**chosen, media_domains=tuple(options.allow_domain), media_folder=options.allow_folder), options.logs)


def examine(options: argparse.Namespace) -> None:
    """`rrm doctor`: exit code 0 where nothing failed, 1 where something did."""
    if (options.gpus is not None and options.gpus < 1) or (options.gpu_memory is not None and options.gpu_memory <= 0):
        raise InputError("--gpus and --gpu-memory must be above 0; leave them out for this machine's own.")
    if options.sample < 1:
        raise InputError("--sample must be at least 1 row.")
    from rrm.doctor.run import doctor  # imports the trainers: not before it is asked for

    if not doctor(options.config, options.gpus, options.gpu_memory, options.sample, options.like, options.json):
        raise SystemExit(1)


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="rrm", description="Reasoning reward models for image editing.")
    commands = parser.add_subparsers(dest="command", required=True)
    scoring = commands.add_parser("score", help="judge one edit: verdicts, thought and a score from 0 to 10")
    scoring.add_argument("--source", required=True, type=Path, help="the image before")
    scoring.add_argument("--edited", required=True, type=Path, help="the image after")
    scoring.add_argument("--instruction", required=True, help="what the edit was meant to do")
    scoring.add_argument("--requirement", help="what it must also meet")
    scoring.add_argument(
        "--principles",
        type=Path,
        help="yes/no questions: .txt with one a line, or .json, .jsonl, .csv, .parquet with question and category (follow, keep, "
        "quality); decomposed by the model if left out",
    )
    scoring.add_argument("--encoding", help="of a file of principles that is not UTF-8, such as gb18030")
    scoring.add_argument("--model", help="checkpoint folder of an RRM, or server:http://…/v1?mode=…&k=… (default: $RRM_MODEL)")
    scoring.add_argument("--json", action="store_true", help="print JSON")
    scoring.set_defaults(run=score)
    serving = commands.add_parser("serve", help="serve an RRM over OpenAI's protocol, with vLLM")
    serving.add_argument("--model", required=True, type=Path, help="checkpoint folder")
    serving.add_argument("--host", help="address to listen on (default: 127.0.0.1, this machine alone)")
    serving.add_argument("--port", type=int, help="port of the first replica, the others follow (default: 8000)")
    serving.add_argument("--name", help="model name that clients ask for (default: rrm)")
    serving.add_argument("--replicas", type=int, help="servers, each with GPUs of its own (default: 1)")
    serving.add_argument("--tensor-parallel", type=int, help="GPUs per replica (default: 1)")
    serving.add_argument("--max-length", type=int, help="tokens of prompt and answer (default: the model's, at most 10240)")
    serving.add_argument("--in-flight", type=int, help="sequences that a replica works on at once (default: 64)")
    serving.add_argument("--dtype", help="default: the checkpoint's; float32 on the CPU")
    serving.add_argument("--gpu-memory", type=float, help="share of a GPU's memory (default: 0.9)")
    serving.add_argument("--patience", type=float, metavar="SECONDS", help="to become healthy (default: 900)")
    serving.add_argument(
        "--allow-domain", action="append", default=[], metavar="HOST", help="fetch images that requests name by URL from here"
    )
    serving.add_argument("--allow-folder", type=Path, metavar="FOLDER", help="open image files that requests name in here")
    serving.add_argument(
        "--logs", type=Path, default=Path("runs/serve"), help="folder of the servers' logs (default: runs/serve)"
    )
    serving.set_defaults(run=serve)
    doctor = commands.add_parser("doctor", help="look at a training's config, data and machine before it is paid for")
    doctor.add_argument("--config", required=True, type=Path, help="an SFT or GCPO config")
    doctor.add_argument("--gpus", type=int, help="GPUs that will train, without the vLLM server's (default: this machine's)")
    doctor.add_argument("--gpu-memory", type=float, metavar="GIB", help="memory of each (default: this machine's)")
    doctor.add_argument("--sample", type=int, default=64, help="rows of the data that are read in full (default: 64)")
    doctor.add_argument("--like", metavar="BASE", help="a checkpoint of the base's shape, where the base is still to be made")
    doctor.add_argument("--json", action="store_true", help="print JSON")
    doctor.set_defaults(run=examine)
    return parser


def main() -> None:
    """Entry point."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    options = build_parser().parse_args()
    command(lambda: options.run(options))


if __name__ == "__main__":
    main()
