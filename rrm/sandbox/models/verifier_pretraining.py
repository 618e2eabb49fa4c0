"""The sandbox base: a tiny Qwen2.5-VL that has learned to see, and not to judge, as the real one
comes.

    rrm base verifier --out rrm/sandbox/checkpoints/rrm-base

First captions of one image; then two images and three questions where something stands: the answer
lists every cell before and after, the background, the artefact and what stands at the places asked
about; then what an instruction wants; last, the same questions of edits as editors really leave
them, half of them the base editor's own samples. No verdict and no score is ever shown, and no
held-out scene.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from tqdm import tqdm
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

from rrm.runtime.stage import write_json
from rrm.sandbox.cases import sample_cases
from rrm.sandbox.edits import sample_steps, write_instruction
from rrm.sandbox.language import cell_line, look
from rrm.sandbox.models.editor import TinyKontext
from rrm.sandbox.models.verifier import build_model, build_processor
from rrm.sandbox.reading import Reading, read_scene
from rrm.sandbox.scripted_edits import EDITORS, script_edit
from rrm.sandbox.world import (
    ARTEFACTS,
    BACKGROUNDS,
    CELL,
    COLOURS,
    PLACES,
    SHAPES,
    SIZES,
    Scene,
    Thing,
    draw,
    draw_thing_names,
    sample_scene,
    spoil,
)  # fmt: skip
from rrm.verifier.checkpoint import CARD
from rrm.verifier.fast.vision import batch_vision_attention

EDITOR = Path(__file__).parents[1] / "checkpoints" / "editor-base"
SAMPLED = 1536


@dataclass(frozen=True)
class Lesson:
    """Images, a question and the right answer."""

    images: list[Image.Image]
    question: str
    answer: str


def seen(scene: Scene, artefact: str | None) -> Reading:
    """What there is to read in the drawn scene."""
    return Reading(scene.background, scene.cells, artefact, 0.0)


def picture(
    rng: np.random.Generator, scene: Scene, spoiled_share: float
) -> tuple[Image.Image, str | None]:
    """The scene's image, spoiled with this probability, and the artefact on it."""
    if rng.random() >= spoiled_share:
        return draw(scene), None
    artefact = str(
        rng.choice(ARTEFACTS if any(scene.cells) or scene.background == "tan" else ARTEFACTS[:3])
    )
    return spoil(draw(scene), artefact, rng), artefact


def any_scene(rng: np.random.Generator) -> Scene:
    """A scene of one to four objects outside the held-out part."""
    return sample_scene(rng, counts=(1, 2, 3, 3, 4))


def melted(
    rng: np.random.Generator, one: Image.Image, other: Image.Image
) -> tuple[Image.Image, Reading]:
    """An image between two, cell by cell and grainy, as a generative editor leaves it; and what
    there is to read in it."""
    share = np.kron(rng.choice([0.0, 1.0, rng.random()], (2, 2)), np.ones((CELL, CELL)))[..., None]
    pixels = np.asarray(one, np.float64) * (1 - share) + np.asarray(other, np.float64) * share
    pixels += rng.normal(0, rng.uniform(0, 14), pixels.shape)
    image = Image.fromarray(pixels.clip(0, 255).round().astype(np.uint8))
    return image, read_scene(image)


def caption_lesson(rng: np.random.Generator) -> Lesson:
    """One image and everything in it."""
    scene = any_scene(rng)
    image, artefact = picture(rng, scene, 0.5)
    reading = seen(scene, artefact)
    if artefact is None and rng.random() < 0.3:
        image, reading = melted(rng, image, draw(any_scene(rng)))
    cells = " > ".join(reading.name(i) for i in range(4))
    return Lesson(
        [image], "caption:", f"{cells} background {reading.background} image {look(reading)}"
    )


def some_content(rng: np.random.Generator) -> Thing | None:
    """A random object, or nothing."""
    if rng.random() < 0.3:
        return None
    return Thing(str(rng.choice(list(COLOURS))), str(rng.choice(SHAPES)), int(rng.choice(SIZES)))


def altered(rng: np.random.Generator, before: Scene) -> Scene:
    """Another version of the scene: half the time many cells change, else one, in colour, shape or
    altogether."""
    after = before
    share = 0.5 if rng.random() < 0.5 else 0.25
    for cell in range(4):
        if rng.random() >= share:
            continue
        thing, draw_number = after.cells[cell], rng.random()
        if thing is not None and draw_number < 0.35:
            changed: Thing | None = Thing(str(rng.choice(list(COLOURS))), thing.shape, thing.size)
        elif thing is not None and draw_number < 0.7:
            changed = Thing(thing.colour, str(rng.choice(SHAPES)), thing.size)
        else:
            changed = some_content(rng)
        after = after.put(cell, changed)
    if rng.random() < 0.35:
        after = Scene(str(rng.choice(list(BACKGROUNDS))), after.cells)
    return before if after.held_out else after


def find_line(query: str, before: Reading, after: Reading) -> str:
    """What stood and what stands where the query points: a place, or the place of an object of the
    first image."""
    if query in PLACES:
        cell: int | None = PLACES.index(query)
    else:
        cell = next((i for i in range(4) if before.name(i) == query), None)
    return f"find {query} > " + (
        "none" if cell is None else f"{before.name(cell)} > {after.name(cell)}"
    )


def some_query(rng: np.random.Generator, before: Scene) -> str:
    """A place, an object that is there, or now and then one that is not."""
    present = [thing.name for thing in before.cells if thing is not None]
    number = rng.random()
    if number < 0.2:
        return str(rng.choice(PLACES))
    return draw_thing_names(rng, 1)[0].name if number < 0.28 else str(rng.choice(present))


def compare_lesson(rng: np.random.Generator) -> Lesson:
    """Two images, and three questions where something is."""
    before = any_scene(rng)
    after = altered(rng, before)
    image_before, artefact_before = picture(rng, before, 0.05)
    image_after, artefact_after = picture(rng, after, 0.35)
    was, now = seen(before, artefact_before), seen(after, artefact_after)
    if artefact_after is None and artefact_before is None and rng.random() < 0.25:
        image_after, now = melted(rng, image_before, image_after)
    queries = [some_query(rng, before) for _ in range(3)]
    answer = [
        cell_line(was, now),
        f"background {was.background} > {now.background}",
        f"image {look(now)}",
    ]
    answer += [find_line(query, was, now) for query in queries]
    question = "compare: " + " ".join(f"find {query}" for query in queries)
    return Lesson([image_before, image_after], question, " ".join(answer))


def plan_lesson(rng: np.random.Generator) -> Lesson:
    """One image and an instruction: what stands where it points, and what it wants there."""
    scene = sample_scene(rng)
    steps = sample_steps(rng, scene)
    now = seen(scene, None)
    lines = []
    for step in steps:
        cell = step.cell(now)
        was = f"background {scene.background}" if cell is None else now.name(cell)
        lines.append(f"{was} > {step.wanted()}")
    answer = lines[0] + "".join(f"\n{number}: {line}" for number, line in enumerate(lines[1:], 2))
    return Lesson([draw(scene)], f"plan: {write_instruction(steps)}", answer)


def asked(
    rng: np.random.Generator, before: Scene, images: tuple[Image.Image, Image.Image]
) -> Lesson:
    """Three questions about two images, answered from what is read in their pixels."""
    was, now = (read_scene(image) for image in images)
    queries = [some_query(rng, before) for _ in range(3)]
    answer = [
        cell_line(was, now),
        f"background {was.background} > {now.background}",
        f"image {look(now)}",
    ]
    answer += [find_line(query, was, now) for query in queries]
    return Lesson(
        list(images), "compare: " + " ".join(f"find {query}" for query in queries), " ".join(answer)
    )


@cache
def sampled_edits(seed: int) -> list[tuple[Scene, Image.Image]]:
    """Scenes, and what the base editor made of an instruction about them: two samples of each of
    SAMPLED cases."""
    editor = TinyKontext.load(EDITOR)
    cases = sample_cases(np.random.default_rng([seed, 88]), SAMPLED, False, set())
    edits = []
    for turn in range(2):
        for start in tqdm(range(0, SAMPLED, 64), desc="base editor", leave=False):
            part = cases[start : start + 64]
            images = editor.edit(
                [c.source for c in part],
                [c.instruction for c in part],
                seed=turn * SAMPLED + start,
                steps=6,
            )
            edits += [(case.scene, image) for case, image in zip(part, images, strict=True)]
    return edits


def edit_lesson(rng: np.random.Generator) -> Lesson:
    """A source and an edit of it, the base editor's or a scripted one, and three questions where
    something is."""
    if rng.random() < 0.5:
        pool = sampled_edits(0)
        scene, image = pool[int(rng.integers(len(pool)))]
    else:
        scene = sample_scene(rng)
        image = script_edit(rng, scene, sample_steps(rng, scene), str(rng.choice(EDITORS)))
    return asked(rng, scene, (draw(scene), image))


LESSONS = {
    "caption": caption_lesson,
    "compare": compare_lesson,
    "plan": plan_lesson,
    "edit": edit_lesson,
}
REVIEW = {
    "caption": (), "compare": ("caption",), "plan": ("compare", "caption", "compare"), "edit": ("plan", "compare", "plan", "caption"),
}  # fmt: skip
"""Lessons of earlier phases whose batches are mixed in, so that they are not forgotten."""
EVERY = {"plan": 2, "edit": 3}
"""How often a phase reviews; every eighth step unless it is named here."""


def lesson_at(phase: str, step: int) -> Callable[[np.random.Generator], Lesson]:
    """The lesson of this step's batch: the phase's own, but for one of its reviews now and then."""
    every = EVERY.get(phase, 8)
    turn, rest = divmod(step, every)
    reviews = REVIEW[phase]
    return LESSONS[reviews[turn % len(reviews)] if reviews and rest == every - 1 else phase]


def encode(
    processor: Qwen2_5_VLProcessor, lessons: list[Lesson], heavy: float
) -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor]:
    """Model inputs, labels (-100 outside the answer) and per-token weights, each (B, T), padded on
    the right.

    What is hard to see, the cells and what is found, weighs `heavy`; background and artefact weigh
    1.
    """
    texts = []
    for lesson in lessons:
        parts = [
            *({"type": "image"} for _ in lesson.images),
            {"type": "text", "text": lesson.question},
        ]
        messages = [
            {"role": "user", "content": parts},
            {"role": "assistant", "content": lesson.answer},
        ]
        texts.append(processor.apply_chat_template(messages, tokenize=False).removesuffix("\n"))
    images = [lesson.images for lesson in lessons]
    batch = processor(
        text=texts, images=images, return_tensors="pt", padding=True, padding_side="right"
    )
    ids = batch["input_ids"]
    start = processor.tokenizer.convert_tokens_to_ids("<|im_start|>")
    opening = len(processor.tokenizer("<|im_start|>assistant\n").input_ids)
    positions = torch.arange(ids.shape[1]).expand_as(ids)
    first = torch.where(ids == start, positions, -1).max(1).values + opening
    answer = (positions >= first[:, None]) & (batch["attention_mask"] == 1)
    labels = torch.where(answer, ids, -100)
    (background,), (find,) = (
        processor.tokenizer(" background").input_ids,
        processor.tokenizer(" find").input_ids,
    )
    easy_from, easy_to = (
        torch.where(answer & (ids == token), positions, ids.shape[1]).min(1).values[:, None]
        for token in (background, find)
    )
    weights = torch.where((positions >= easy_from) & (positions < easy_to), 1.0, heavy)
    return dict(batch), labels, weights


def train(
    model: Qwen2_5_VLForConditionalGeneration,
    processor: Qwen2_5_VLProcessor,
    lesson: str,
    steps: int,
    batch: int,
    rate: float,
    seed: int,
) -> list[float]:
    """Trains in place on `steps` batches of lessons drawn from the seed; returns the losses."""
    rng = np.random.default_rng([seed, len(lesson)])
    optimiser = torch.optim.AdamW(model.parameters(), rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, rate, total_steps=steps, pct_start=0.08
    )
    losses = []
    model.train()
    bar = tqdm(range(steps), desc=lesson, mininterval=2)
    for step in bar:
        draw_lesson = lesson_at(lesson, step)
        inputs, labels, weights = encode(processor, [draw_lesson(rng) for _ in range(batch)], 3.0)
        logits = model(**inputs).logits[:, :-1]
        per_token = F.cross_entropy(
            logits.transpose(1, 2), labels[:, 1:], ignore_index=-100, reduction="none"
        )
        mask = (labels[:, 1:] != -100) * weights[:, 1:]
        loss = (per_token * mask).sum() / mask.sum()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        losses.append(loss.item())
        bar.set_postfix(loss=f"{np.mean(losses[-20:]):.3f}")
    return losses


@torch.no_grad()
def check(
    model: Qwen2_5_VLForConditionalGeneration,
    processor: Qwen2_5_VLProcessor,
    lesson: str,
    seed: int,
    size: int = 256,
) -> dict[str, float]:
    """Teacher-forced accuracy on fresh lessons: of answer tokens, and of whole answers."""
    rng = np.random.default_rng([seed, 77])
    model.eval()
    inputs, labels, _ = encode(processor, [LESSONS[lesson](rng) for _ in range(size)], 1.0)
    right = (model(**inputs).logits[:, :-1].argmax(-1) == labels[:, 1:]) | (labels[:, 1:] == -100)
    tokens = labels[:, 1:] != -100
    return {
        "token": float(right[tokens].float().mean()),
        "answer": float(right.all(1).float().mean()),
    }


STEPS = {"caption": 900, "compare": 1600, "plan": 500, "edit": 1000}
"""Optimiser steps of each lesson of the shipped checkpoints."""


def make(
    out: Path, seed: int = 0, hidden: int = 128, layers: int = 4, steps: Mapping[str, int] = STEPS
) -> None:
    """Trains, saves, and writes recipe.json beside the weights."""
    torch.manual_seed(seed)
    processor = build_processor(seed)
    model = build_model(processor, seed, hidden, layers)
    batch_vision_attention(model)
    begin = time.monotonic()
    losses = {
        "caption": train(model, processor, "caption", steps["caption"], 64, 2e-3, seed),
        "compare": train(model, processor, "compare", steps["compare"], 40, 1.5e-3, seed),
        "plan": train(model, processor, "plan", steps["plan"], 40, 1e-3, seed),
        "edit": train(model, processor, "edit", steps["edit"], 40, 1e-3, seed),
    }
    checks = {lesson: check(model, processor, lesson, seed) for lesson in losses}
    model.save_pretrained(out)
    processor.save_pretrained(out)
    write_json(out / CARD, {"style": "brief"})
    weights = (out / "model.safetensors").read_bytes()
    recipe = {
        "command": f"rrm base verifier --seed {seed} --hidden {hidden} --layers {layers}", "steps": dict(steps),
        "seed": seed, "seconds": round(time.monotonic() - begin), "last_loss": {k: float(np.mean(v[-50:])) for k, v in losses.items()},
        "accuracy": checks, "sha256": hashlib.sha256(weights).hexdigest(),
        "versions": {name: version(name) for name in ("torch", "transformers", "tokenizers", "pillow", "numpy")},
    }  # fmt: skip
    write_json(out / "recipe.json", recipe)
    print(json.dumps(recipe, indent=1))
