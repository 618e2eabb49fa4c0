"""Checks of what is trained on: rows, images, and how many tokens they become."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from PIL import Image
from pydantic import ValidationError
from qwen_vl_utils.vision_process import smart_resize
from transformers import AutoProcessor, Qwen2_5_VLProcessor

from rrm.doctor.checks import Check, TrainingConfig
from rrm.errors import InputError
from rrm.images import TOKEN_SIDE, ImageStore
from rrm.prompts import Style, plain
from rrm.records import PreferencePair, SFTRow
from rrm.verifier.config import SFTStage
from rrm.verifier.gcpo.config import GCPOStage
from rrm.verifier.messages import Message, decompose_messages, judge_messages


@dataclass(frozen=True)
class Lengths:
    """Tokens in a sample of the data: of prompts, of their images, of answers (None where the data
    has no answers)."""

    prompts: tuple[int, ...]
    images: tuple[int, ...]
    answers: tuple[int, ...] | None


def sample_of(
    path: Path, kind: type[SFTRow] | type[PreferencePair], count: int
) -> tuple[int, list[Any]]:
    """How many rows the file has, and `count` of them spread evenly. Raises InputError where it is
    missing, empty, or not such a file."""
    if not path.is_file():
        raise InputError(
            f"There is no {path}; run `make data` first, or correct 'data' in the config."
        )
    table = pq.read_table(path)
    lacking = [
        n for n, f in kind.model_fields.items() if f.is_required() and n not in table.column_names
    ]
    if lacking:
        raise InputError(f"{path} has no column {', '.join(lacking)}; make the data again.")
    if not table.num_rows:
        raise InputError(f"{path} is empty; its folder's card.json says what was dropped.")
    chosen = sorted({i * table.num_rows // count for i in range(min(count, table.num_rows))})
    try:
        return table.num_rows, [kind(**row) for row in table.take(chosen).to_pylist()]
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(
            f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}; make the data again."
        ) from error


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
            Check(
                "data",
                "fail",
                f"{config.data}/preferences.parquet holds pairs labelled 'same'; GCPO leaves them out.",
            ),
            total,
            [],
        )
    return (
        Check("data", "ok", f"{total} pairs in {config.data}/preferences.parquet."),
        total,
        sample,
    )


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
            "images",
            "fail",
            f"{len(broken)} of the sample's {len(digests)} images are unusable, such as: {broken[0]}",
        )
    return Check("images", "ok", f"{len(digests)} images of the sample were decoded.")


def asked(
    row: SFTRow | PreferencePair, style: Style, store: ImageStore
) -> tuple[list[Message], list[Image.Image]]:
    """The question of a row as training asks it, and its images."""
    if isinstance(row, SFTRow) and row.kind == "decompose":
        return decompose_messages(style, row.instruction, row.requirement), [store.get(row.source)]
    edited = row.edited_a if isinstance(row, PreferencePair) else row.edited
    assert edited is not None
    messages = judge_messages(style, row.instruction, row.principles, row.requirement)
    return messages, [store.get(row.source), store.get(edited)]


def image_tokens(images: Sequence[Image.Image], least: int, most: int) -> int:
    """Σ (h/28)·(w/28) over the images, with the sides that qwen-vl-utils gives them within the
    pixel budget."""
    total = 0
    for image in images:
        height, width = smart_resize(
            image.height, image.width, TOKEN_SIDE, min_pixels=least, max_pixels=most
        )
        total += (height // TOKEN_SIDE) * (width // TOKEN_SIDE)
    return total


def prompt_ids(
    processor: Qwen2_5_VLProcessor, messages: list[Message], images: list[Image.Image]
) -> list[int]:
    """The tokens of a question as the judge and the trainers make them: the template's text, then
    text and images through the processor."""
    text = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    return processor(text=[text], images=[images])["input_ids"][0]


def reference_ids(
    processor: Qwen2_5_VLProcessor, messages: list[Message], images: list[Image.Image]
) -> list[int]:
    """The tokens of the same question by transformers alone: images put into the messages, tokens
    straight from the chat template."""
    left = iter(images)
    filled = [
        {
            **m,
            "content": [
                {**part, "image": next(left)} if part["type"] == "image" else part
                for part in m["content"]
            ],
        }
        for m in messages
    ]
    return processor.apply_chat_template(
        filled, add_generation_prompt=True, tokenize=True, return_dict=True
    )["input_ids"][0]


def measure(
    rows: Sequence[SFTRow | PreferencePair],
    style: Style,
    store: ImageStore,
    processor: Qwen2_5_VLProcessor,
) -> Lengths:
    """Tokens of the sample's prompts, images and answers."""
    pad = processor.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    ids = [prompt_ids(processor, *asked(row, style, store)) for row in rows]
    answers = [
        len(processor.tokenizer(plain(row.target)).input_ids) + 2
        for row in rows
        if isinstance(row, SFTRow)
    ]  # <|im_end|> and a newline
    return Lengths(
        tuple(map(len, ids)), tuple(row.count(pad) for row in ids), tuple(answers) or None
    )


def check_parity(
    rows: Sequence[SFTRow | PreferencePair],
    style: Style,
    store: ImageStore,
    ours: Qwen2_5_VLProcessor,
    base: str,
) -> Check:
    """Whether questions with two images have the tokens that transformers gives them when it is
    asked independently."""
    reference = AutoProcessor.from_pretrained(base)
    size = ours.image_processor.size
    pad = ours.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    several = [asked(row, style, store) for row in rows]
    several = [(messages, images) for messages, images in several if len(images) == 2][:8]
    if not several:
        return Check("tokens", "not checked", "no row of the sample shows two images.")
    for messages, images in several:
        mine, theirs = (
            prompt_ids(ours, messages, images),
            reference_ids(reference, messages, images),
        )
        worked_out = image_tokens(images, size.shortest_edge, size.longest_edge)
        if mine != theirs or mine.count(pad) != worked_out:
            says = (
                f"a prompt has {len(mine)} tokens, {mine.count(pad)} of its images; by transformers' own way {len(theirs)} and "
                f"{theirs.count(pad)}, by (h/28)·(w/28) {worked_out} of its images; make the data again within the processor's pixel budget."
            )
            return Check("tokens", "fail", says)
    return Check(
        "tokens",
        "ok",
        f"{len(several)} prompts with two images have the tokens that transformers gives them.",
    )


def check_lengths(
    config: TrainingConfig, lengths: Lengths, answers: Sequence[int] | None, context: int
) -> Check:
    """Whether prompts and answers fit into the context, and how many answers of the teachers' kind
    max_tokens would cut off."""
    longest, of_images = max(lengths.prompts), max(lengths.images)
    shown = f"prompts of up to {longest} tokens ({of_images} of images)"
    figures: dict[str, float] = {"prompt": longest, "images": of_images}
    most = config.max_tokens if isinstance(config, GCPOStage) else max(answers or (0,))
    if longest + most > context:
        return Check(
            "lengths",
            "fail",
            f"{shown} and answers of {most} exceed the context of {context}; use smaller images.",
            figures,
        )
    if answers is None:
        return Check(
            "lengths",
            "ok",
            f"{shown} and {most} of an answer fit into {context}; there are no SFT answers to compare with.",
            figures,
        )
    if isinstance(config, SFTStage):
        return Check(
            "lengths",
            "ok",
            f"{shown}, answers of up to {most}, fit into {context}.",
            {**figures, "answer": most},
        )
    cut = sum(answer > config.max_tokens for answer in answers) / len(answers)
    figures |= {"cut_off": cut}
    says = f"{shown}; max_tokens {config.max_tokens} would cut off {cut:.1%} of the answers that SFT taught"
    if cut > 0.01:
        return Check(
            "lengths",
            "warning",
            f"{says}: a trace cut off earns nothing; raise it to {max(answers)}.",
            figures,
        )
    return Check("lengths", "ok", f"{says}.", figures)
