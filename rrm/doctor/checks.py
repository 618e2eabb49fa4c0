"""Single checks: each looks at one thing and says in one sentence whether it is well, or what to do."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any, Literal

import httpx
import pyarrow.parquet as pq
from packaging.requirements import Requirement
from PIL import Image
from pydantic import ValidationError
from qwen_vl_utils.vision_process import smart_resize
from transformers import AutoProcessor, Qwen2_5_VLProcessor

from rrm.doctor.memory import GIB, Estimate, Plan, Shape, estimate, parameters, suggestions, trained_parameters
from rrm.endpoints import image_part
from rrm.errors import InputError
from rrm.images import TOKEN_SIDE, ImageStore
from rrm.prompts import Style
from rrm.records import PreferencePair, SFTRow
from rrm.verifier.gcpo import GCPOStage
from rrm.verifier.messages import Message, decompose_messages, judge_messages
from rrm.verifier.sft import SFTStage

Status = Literal["ok", "warning", "fail", "not checked"]
TrainingConfig = SFTStage | GCPOStage


@dataclass(frozen=True)
class Check:
    """One thing looked at, and one sentence on it."""

    name: str
    status: Status
    says: str
    figures: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Gpu:
    """A GPU that this machine has."""

    name: str
    gib: float
    capability: tuple[int, int]


@dataclass(frozen=True)
class Lengths:
    """Tokens in a sample of the data: of prompts, of their images, of answers (None where the data has no answers)."""

    prompts: tuple[int, ...]
    images: tuple[int, ...]
    answers: tuple[int, ...] | None


def installed(name: str) -> str | None:
    """The version of a package, or None."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def check_versions(needed: Sequence[Requirement], have: Mapping[str, str | None], tested: Mapping[str, str]) -> list[Check]:
    """A check for every package that is missing, out of setup.cfg's range, or not the version of constraints.txt; one check if none is."""
    found = []
    for requirement in needed:
        name, has = requirement.name, have.get(requirement.name)
        how = f"install it: .venv/bin/python -m pip install -c constraints.txt '{requirement.name}{requirement.specifier}'"
        if has is None:
            found.append(Check(f"version of {name}", "fail", f"{name} is not installed; {how}."))
        elif not requirement.specifier.contains(has.split("+")[0], prereleases=True):
            found.append(Check(f"version of {name}", "fail", f"{name} {has} is outside {requirement.specifier}; {how}."))
        elif name.lower() in tested and tested[name.lower()] != has.split("+")[0]:
            says = f"{name} is {has}; the project was tested with {tested[name.lower()]} (constraints.txt)."
            found.append(Check(f"version of {name}", "warning", says))
    return found or [
        Check("versions", "ok", f"{len(needed)} packages are within setup.cfg's ranges and at the tested versions.")
    ]


def requirements(extras: Sequence[str]) -> list[Requirement]:
    """What the installed project says it needs, with these extras."""
    found = [Requirement(text) for text in requires("edit-rrm") or ()]
    return [r for r in found if r.marker is None or any(r.marker.evaluate({"extra": extra}) for extra in ("", *extras))]


def tested_versions(constraints: Path) -> dict[str, str]:
    """The pins of a constraints file, by lower-case name; none where there is no file."""
    lines = constraints.read_text().splitlines() if constraints.is_file() else []
    return {name.lower(): pin for name, _, pin in (line.partition("==") for line in lines if not line.startswith("#")) if pin}


def check_pairing(torch: str, torchvision: str) -> Check:
    """torch 2.N goes with torchvision 0.(N + 15)."""
    minor, vision = int(torch.split(".")[1]), int(torchvision.split(".")[1])
    if torch.startswith("2.") and vision == minor + 15:
        return Check("torch and torchvision", "ok", f"torch {torch} and torchvision {torchvision} belong together.")
    says = f"torch {torch} goes with torchvision 0.{minor + 15}, not {torchvision}; install the pair of constraints.txt."
    return Check("torch and torchvision", "fail", says)


def check_gpus(gpus: Sequence[Gpu], wanted: int | None, bfloat16: bool) -> Check:
    """Whether this machine's GPUs are those that the training is planned for."""
    if not gpus:
        if wanted:
            return Check("GPUs", "warning", f"this machine has none; what follows is planned for {wanted}.")
        if bfloat16:
            says = "no GPU is visible; run this where the training will run, or give --gpus and --gpu-memory to plan for one."
            return Check("GPUs", "fail", says)
        return Check("GPUs", "ok", "no GPU is visible; a float32 config trains on the CPU.")
    named = f"{len(gpus)} × {gpus[0].name}, {min(g.gib for g in gpus):.0f} GiB"
    if wanted and wanted > len(gpus):
        return Check("GPUs", "warning", f"{named}; what follows is planned for {wanted}, on several nodes.")
    if bfloat16 and min(g.capability for g in gpus) < (8, 0):
        return Check("GPUs", "fail", f"{named} have no bfloat16; set dtype: float32, or use Ampere GPUs or later.")
    if len({g.name for g in gpus}) > 1:
        return Check("GPUs", "warning", f"{named} and others: the slowest sets the pace, the smallest the memory.")
    return Check("GPUs", "ok", f"{named}.")


def check_driver(torch_cuda: str | None, driver: int) -> Check:
    """`driver` is the highest CUDA version that the driver serves, as CUDA writes it: 12040 is 12.4."""
    if torch_cuda is None:
        return Check("CUDA", "fail", "this machine has a GPU, but torch is a CPU build; install a CUDA build of torch.")
    major, minor = (int(part) for part in torch_cuda.split(".")[:2])
    serves = f"{driver // 1000}.{driver % 1000 // 10}"
    if driver // 1000 < major:
        return Check("CUDA", "fail", f"torch is built for CUDA {torch_cuda}, the driver serves {serves}; update the driver.")
    if driver < 1000 * major + 10 * minor:
        says = f"torch is built for CUDA {torch_cuda}, the driver serves {serves}; that works by minor-version compatibility."
        return Check("CUDA", "warning", says)
    return Check("CUDA", "ok", f"the driver serves CUDA {serves}, torch is built for {torch_cuda}.")


def check_batch(config: TrainingConfig, processes: int, rows: int | None) -> Check:
    """Whether an update divides into the processes, and how often the data is gone through."""
    if isinstance(config, SFTStage):
        update, unit = config.batch * config.accumulate * processes, "rows"
        how = f"batch {config.batch} × accumulate {config.accumulate} × {processes} processes = {update} rows an update"
    else:
        total = config.pairs * 2 * config.traces
        share, rest = divmod(total, processes)
        micro = config.micro_batch or share
        if rest or share % micro:
            says = f"pairs × 2 × traces = {total} does not divide into {processes} processes × micro_batch {micro}; change one of them."
            return Check("batch", "fail", says)
        update, unit = config.pairs, "pairs"
        how = f"{total} traces an update, {share} for each of {processes} processes, {share // micro} × {micro} at once"
    if rows is None:
        return Check("batch", "ok", f"{how}.", {"update": update})
    if rows < update:
        return Check("batch", "fail", f"{how}, and the data has {rows} {unit}; make the update smaller.")
    passes = config.steps * update / rows
    return Check("batch", "ok", f"{how}; {config.steps} steps go {passes:.2f} times through {rows} {unit}.", {"passes": passes})


def check_bfloat16(config: TrainingConfig) -> Check:
    """Whether small steps survive: without DeepSpeed no float32 copy of bfloat16 weights is kept."""
    if config.dtype == "bfloat16" and config.deepspeed is None and not config.lora_rank:
        says = "bfloat16 without deepspeed keeps no float32 copy of the weights, and rounds small steps away; set deepspeed: launch/zero2.json."
        return Check("precision", "fail", says)
    return Check("precision", "ok", f"{config.dtype}{' with float32 master weights' if config.deepspeed else ''}.")


def check_deepspeed(path: str | None) -> Check:
    """Whether the DeepSpeed config can be used and its extensions compiled."""
    if path is None:
        return Check("DeepSpeed", "ok", "not used.")
    try:
        settings = json.loads(Path(path).read_text())
        stage = settings["zero_optimization"]["stage"]
    except FileNotFoundError:
        return Check("DeepSpeed", "fail", f"there is no DeepSpeed config at {path}; launch/ has two.")
    except (ValueError, KeyError, TypeError):
        return Check("DeepSpeed", "fail", f"{path} is no JSON with zero_optimization.stage; start from launch/zero2.json.")
    if installed("deepspeed") is None:
        return Check("DeepSpeed", "fail", "deepspeed is not installed; run 'make setup'.")
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig  # seconds: not before it is needed

    try:
        DeepSpeedZeroConfig(**settings["zero_optimization"])
    except ValidationError as error:
        first = error.errors()[0]
        return Check("DeepSpeed", "fail", f"{path}: zero_optimization.{first['loc'][0]}: {first['msg']}.")
    beside = Path(sys.executable).parent
    tools = {"ninja": shutil.which("ninja") or shutil.which("ninja", path=str(beside)), "c++": shutil.which("c++")}
    missing = [name for name, where in tools.items() if where is None]
    if missing:
        says = f"{' and '.join(missing)} not found, which DeepSpeed compiles with; install a C++ compiler, and ninja by pip."
        return Check("DeepSpeed", "fail", says)
    return Check("DeepSpeed", "ok", f"{path} asks for ZeRO {stage}; ninja and c++ are there.")


def check_base(base: str, find: Callable[[str], str]) -> Check:
    """Whether the base is there. `find` says of a hub id where it is: "cached", "online" or "nowhere"."""
    from rrm.verifier.checkpoint import check_checkpoint

    if Path(base).exists() or base.startswith(("runs/", ".", "/")):
        try:
            check_checkpoint(base)
        except InputError as error:
            return Check("base", "fail", str(error))
        return Check("base", "ok", f"{base} is a Qwen2.5-VL checkpoint.")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", base):
        return Check("base", "fail", f"'{base}' is neither a folder nor a hub id (owner/name); correct 'base'.")
    where = find(base)
    if where == "cached":
        return Check("base", "ok", f"{base} is in the hub's cache.")
    if where == "online":
        return Check(
            "base", "warning", f"{base} is not in the cache; download it once before many processes do: hf download {base}"
        )
    return Check("base", "fail", f"{base} is neither in the hub's cache nor reachable; download it, or give a folder.")


def find_on_hub(base: str) -> str:
    """Where a hub id is: "cached" (its weights too), "online" or "nowhere"."""
    from huggingface_hub import HfApi, snapshot_download

    try:
        folder = Path(snapshot_download(base, local_files_only=True, allow_patterns=["*.json", "*.safetensors"]))
        if any(folder.glob("*.safetensors")):
            return "cached"
    except Exception:  # the hub's client raises many kinds for what is not there
        pass
    try:
        HfApi().model_info(base, timeout=10)
    except Exception:
        return "nowhere"
    return "online"


def sample_of(path: Path, kind: type[SFTRow] | type[PreferencePair], count: int) -> tuple[int, list[Any]]:
    """How many rows the file has, and `count` of them spread evenly. Raises InputError where it is missing, empty, or not such a file."""
    if not path.is_file():
        raise InputError(f"There is no {path}; run `make data` first, or correct 'data' in the config.")
    table = pq.read_table(path)
    lacking = [n for n, f in kind.model_fields.items() if f.is_required() and n not in table.column_names]
    if lacking:
        raise InputError(f"{path} has no column {', '.join(lacking)}; make the data again.")
    if not table.num_rows:
        raise InputError(f"{path} is empty; its folder's card.json says what was dropped.")
    chosen = sorted({i * table.num_rows // count for i in range(min(count, table.num_rows))})
    try:
        return table.num_rows, [kind(**row) for row in table.take(chosen).to_pylist()]
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}; make the data again.") from error


def check_rows(config: TrainingConfig, count: int) -> tuple[Check, int | None, list[Any]]:
    """Whether the data can be read; how many rows it has, and a sample of them."""
    try:
        if isinstance(config, SFTStage):
            total, sample = sample_of(config.data / "sft.parquet", SFTRow, count)
            return Check("data", "ok", f"{total} rows in {config.data}/sft.parquet."), total, sample
        total, sample = sample_of(config.data / "preferences.parquet", PreferencePair, count)
    except InputError as error:
        return Check("data", "fail", str(error)), None, []
    if any(pair.label == "same" for pair in sample):
        return (
            Check("data", "fail", f"{config.data}/preferences.parquet holds pairs labelled 'same'; GCPO leaves them out."),
            total,
            [],
        )
    return Check("data", "ok", f"{total} pairs in {config.data}/preferences.parquet."), total, sample


def images_of(row: SFTRow | PreferencePair) -> list[str]:
    """The digests of a row's images."""
    if isinstance(row, PreferencePair):
        return [row.source, row.edited_a, row.edited_b]
    return [row.source, *([row.edited] if row.edited else [])]


def check_images(rows: Sequence[SFTRow | PreferencePair], store: ImageStore) -> Check:
    """Whether the sample's images are there, whole, and decodable."""
    digests = {digest for row in rows for digest in images_of(row)}
    broken = []
    for digest in sorted(digests):
        try:
            store.get(digest)
        except InputError as error:
            broken.append(str(error))
    if broken:
        return Check(
            "images", "fail", f"{len(broken)} of the sample's {len(digests)} images are unusable, such as: {broken[0]}"
        )
    return Check("images", "ok", f"{len(digests)} images of the sample were decoded.")


def asked(row: SFTRow | PreferencePair, style: Style, store: ImageStore) -> tuple[list[Message], list[Image.Image]]:
    """The question of a row as training asks it, and its images."""
    if isinstance(row, SFTRow) and row.kind == "decompose":
        return decompose_messages(style, row.instruction), [store.get(row.source)]
    edited = row.edited_a if isinstance(row, PreferencePair) else row.edited
    assert edited is not None
    return judge_messages(style, row.instruction, row.principles), [store.get(row.source), store.get(edited)]


def image_tokens(images: Sequence[Image.Image], least: int, most: int) -> int:
    """Σ (h/28)·(w/28) over the images, with the sides that qwen-vl-utils gives them within the pixel budget."""
    total = 0
    for image in images:
        height, width = smart_resize(image.height, image.width, TOKEN_SIDE, min_pixels=least, max_pixels=most)
        total += (height // TOKEN_SIDE) * (width // TOKEN_SIDE)
    return total


def prompt_ids(processor: Qwen2_5_VLProcessor, messages: list[Message], images: list[Image.Image]) -> list[int]:
    """The tokens of a question as the judge and the trainers make them: the template's text, then text and images through the processor."""
    text = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    return processor(text=[text], images=[images])["input_ids"][0]


def reference_ids(processor: Qwen2_5_VLProcessor, messages: list[Message], images: list[Image.Image]) -> list[int]:
    """The tokens of the same question by transformers alone: images put into the messages, tokens straight from the chat template."""
    left = iter(images)
    filled = [
        {**m, "content": [{**part, "image": next(left)} if part["type"] == "image" else part for part in m["content"]]}
        for m in messages
    ]
    return processor.apply_chat_template(filled, add_generation_prompt=True, tokenize=True, return_dict=True)["input_ids"][0]


def measure(
    rows: Sequence[SFTRow | PreferencePair], style: Style, store: ImageStore, processor: Qwen2_5_VLProcessor
) -> Lengths:
    """Tokens of the sample's prompts, images and answers."""
    pad = processor.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    ids = [prompt_ids(processor, *asked(row, style, store)) for row in rows]
    answers = [
        len(processor.tokenizer(row.target).input_ids) + 2 for row in rows if isinstance(row, SFTRow)
    ]  # <|im_end|> and a newline
    return Lengths(tuple(map(len, ids)), tuple(row.count(pad) for row in ids), tuple(answers) or None)


def check_parity(
    rows: Sequence[SFTRow | PreferencePair], style: Style, store: ImageStore, ours: Qwen2_5_VLProcessor, base: str
) -> Check:
    """Whether questions with two images have the tokens that transformers gives them when it is asked independently."""
    reference = AutoProcessor.from_pretrained(base)
    size = ours.image_processor.size
    pad = ours.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    several = [asked(row, style, store) for row in rows]
    several = [(messages, images) for messages, images in several if len(images) == 2][:8]
    if not several:
        return Check("tokens", "not checked", "no row of the sample shows two images.")
    for messages, images in several:
        mine, theirs = prompt_ids(ours, messages, images), reference_ids(reference, messages, images)
        worked_out = image_tokens(images, size.shortest_edge, size.longest_edge)
        if mine != theirs or mine.count(pad) != worked_out:
            says = (
                f"a prompt has {len(mine)} tokens, {mine.count(pad)} of its images; by transformers' own way {len(theirs)} and "
                f"{theirs.count(pad)}, by (h/28)·(w/28) {worked_out} of its images; make the data again within the processor's pixel budget."
            )
            return Check("tokens", "fail", says)
    return Check("tokens", "ok", f"{len(several)} prompts with two images have the tokens that transformers gives them.")


def check_lengths(config: TrainingConfig, lengths: Lengths, answers: Sequence[int] | None, context: int) -> Check:
    """Whether prompts and answers fit into the context, and how many answers of the teachers' kind max_tokens would cut off."""
    longest, of_images = max(lengths.prompts), max(lengths.images)
    shown = f"prompts of up to {longest} tokens ({of_images} of images)"
    figures: dict[str, float] = {"prompt": longest, "images": of_images}
    most = config.max_tokens if isinstance(config, GCPOStage) else max(answers or (0,))
    if longest + most > context:
        return Check(
            "lengths", "fail", f"{shown} and answers of {most} exceed the context of {context}; use smaller images.", figures
        )
    if answers is None:
        return Check(
            "lengths",
            "ok",
            f"{shown} and {most} of an answer fit into {context}; there are no SFT answers to compare with.",
            figures,
        )
    if isinstance(config, SFTStage):
        return Check("lengths", "ok", f"{shown}, answers of up to {most}, fit into {context}.", {**figures, "answer": most})
    cut = sum(answer > config.max_tokens for answer in answers) / len(answers)
    figures |= {"cut_off": cut}
    says = f"{shown}; max_tokens {config.max_tokens} would cut off {cut:.1%} of the answers that SFT taught"
    if cut > 0.01:
        return Check("lengths", "warning", f"{says}: a trace cut off earns nothing; raise it to {max(answers)}.", figures)
    return Check("lengths", "ok", f"{says}.", figures)


def checkpoint_bytes(shape: Shape, plan: Plan) -> float:
    """A training's checkpoint: the weights, DeepSpeed's copy of them, master weights and moments. Under LoRA the adapters alone."""
    trained = trained_parameters(shape, plan)
    per = plan.weight_bytes if not plan.lora else 4
    return trained * (2 * plan.weight_bytes + 12 if plan.deepspeed else 3 * per)


def check_disk(config: TrainingConfig, shape: Shape, plan: Plan, free: int) -> Check:
    """Free space where the results go, against the checkpoints that are kept, one that is being written, the model, and the rollouts."""
    needed = checkpoint_bytes(shape, plan) * (config.keep + 1) + plan.weight_bytes * parameters(shape)
    if isinstance(config, GCPOStage):
        needed += 4.0 * config.steps * config.pairs * 2 * config.traces * config.max_tokens  # about four characters a token
    says = (
        f"{free / GIB:.1f} GiB are free for {config.out}, which takes up to {needed / GIB:.1f} ({config.keep} checkpoints kept)"
    )
    if free < needed:
        return Check("disk", "fail", f"{says}; free some, or lower 'keep'.", {"needed_gib": needed / GIB})
    return Check("disk", "ok", f"{says}.", {"needed_gib": needed / GIB})


def check_server(address: str | None, base: str) -> Check:
    """Whether the vLLM server answers, and with the model to start from."""
    if address is None:
        return Check("vLLM server", "ok", "not used: the trainer generates in its own process.")
    try:
        httpx.get(f"{address}/health", timeout=5).raise_for_status()
        model = httpx.get(f"{address}/v1/models", timeout=5).raise_for_status().json()["data"][0]["id"]
    except (httpx.HTTPError, ValueError, KeyError, IndexError):
        return Check(
            "vLLM server", "warning", f"nothing answers at {address}; launch/gcpo.sh starts a server on this machine by itself."
        )
    if model != base:
        return Check("vLLM server", "fail", f"{address} serves {model}, not {base}; start it with --model {base}.")
    return Check("vLLM server", "ok", f"{address} serves {model}.")


def check_server_tokens(address: str | None, images: Sequence[Image.Image], expected: Sequence[int]) -> Check:
    """Whether the server's vLLM gives images the tokens that training gives them (vLLM's render endpoint, which trl uses)."""
    name = "tokens by vLLM"
    if address is None:
        return Check(name, "not checked", "no vllm_server is set.")
    content = [image_part(image) for image in images]
    try:
        model = httpx.get(f"{address}/v1/models", timeout=5).raise_for_status().json()["data"][0]["id"]
        body = {"model": model, "messages": [{"role": "user", "content": content}], "max_tokens": 1}
        answer = httpx.post(f"{address}/v1/chat/completions/render", json=body, timeout=60).raise_for_status().json()
        found = [place["length"] for place in answer["features"]["mm_placeholders"]["image"]]
    except (httpx.HTTPError, ValueError, KeyError, IndexError, TypeError):
        why = "vllm is not installed" if installed("vllm") is None else "no server answers"
        return Check(name, "not checked", f"{why}.")
    if found != list(expected):
        says = (
            f"vLLM gives the images {found} tokens, training {list(expected)}; serve the checkpoint that training starts from."
        )
        return Check(name, "fail", says)
    return Check(name, "ok", f"vLLM gives the images {found} tokens, as training does.")


def check_memory(shape: Shape, plan: Plan, gib: float | None) -> tuple[Check, Estimate]:
    """The estimate against the GPU's memory; where it does not fit, what would bring how much."""
    found = estimate(shape, plan)
    total = found.total / GIB
    figures = {"total_gib": round(total, 2), "phase": found.worst}
    if gib is None:
        return Check("memory", "ok", f"a process needs about {total:.1f} GiB at its peak, the {found.worst}.", figures), found
    shown = f"a GPU needs about {total:.1f} of {gib:.0f} GiB at its peak, the {found.worst}"
    if total <= 0.9 * gib:
        return Check("memory", "ok", f"{shown}.", figures), found
    options = [(s.change, s.estimate.total / GIB) for s in suggestions(shape, plan, gib * GIB)]
    figures |= {"suggestions": [{"change": change, "total_gib": round(needs, 2)} for change, needs in options]}
    told = "; ".join(f"{change} → {needs:.1f}" for change, needs in options) or "nothing is left to change: use larger GPUs"
    return Check("memory", "warning" if total <= gib else "fail", f"{shown}; {told}.", figures), found
