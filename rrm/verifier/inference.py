"""Inference with the verifier in this process: edits in, judgements out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import torch
from PIL import Image
from tqdm import tqdm
from transformers import GenerationConfig, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor
from transformers.feature_extraction_utils import BatchFeature

from rrm.parsing import judgement_of, read_principles
from rrm.prompts import Style, is_holistic, longest_trace
from rrm.records import Choice, EditToJudge, Failure, Judgement, Principle
from rrm.verifier.checkpoint import load, style_of
from rrm.verifier.messages import Message, decompose_messages, judge_messages
from rrm.verifier.rollout import complete, never_sampled


class Verifier:
    """An RRM checkpoint, loaded."""

    def __init__(
        self, model: Qwen2_5_VLForConditionalGeneration, processor: Qwen2_5_VLProcessor, style: Style,
        batch: int = 64, max_new_tokens: int | None = None,
    ):  # fmt: skip
        self.model = model.eval()
        self.processor = processor
        self.style = style
        self.batch = batch
        self.max_new_tokens = max_new_tokens or longest_trace(style)
        self.suppressed = never_sampled(processor.tokenizer, model.generation_config.eos_token_id)

    @classmethod
    def load(cls, path: str | Path, batch: int = 64, dtype: str = "auto") -> Self:
        """The verifier in this checkpoint, on the GPU if there is one. Raises InputError where it
        is none."""
        model, processor = load(path, dtype, fast=True)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return cls(model.to(device), processor, style_of(path), batch)  # type: ignore[arg-type]

    def inputs(
        self, asked: Sequence[tuple[Sequence[Message], Sequence[Image.Image]]]
    ) -> BatchFeature:
        """The left-padded batch of prompts that the model reads."""
        prompts = [
            self.processor.apply_chat_template(m, add_generation_prompt=True, tokenize=False)
            for m, _ in asked
        ]
        return self.processor(
            text=prompts,
            images=[list(images) for _, images in asked],
            return_tensors="pt",
            padding=True,
            padding_side="left",
        ).to(self.model.device)

    @torch.inference_mode()
    def generate(
        self, asked: Sequence[tuple[list[Message], list[Image.Image]]], temperature: float = 0.0
    ) -> list[Choice]:
        """The answer to every (messages, images), greedy at temperature 0."""
        batch = self.inputs(asked)
        sampling = (
            {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
            if temperature > 0
            else {"do_sample": False}
        )
        config = GenerationConfig(
            **sampling, max_new_tokens=self.max_new_tokens, suppress_tokens=self.suppressed
        )
        return self.choices(complete(self.model, batch, config))

    def choices(self, ids: Sequence[Sequence[int]]) -> list[Choice]:
        """The answers of these token ids; one without a token that ends it was cut off."""
        last = self.model.generation_config.eos_token_id
        ends = set(last) if isinstance(last, list) else {last}
        texts = self.processor.batch_decode(ids, skip_special_tokens=True)
        reasons = ["stop" if row[-1] in ends else "length" for row in ids]
        return [
            Choice(text, finish_reason=reason) for text, reason in zip(texts, reasons, strict=True)
        ]

    def judge_many(
        self, edits: Sequence[EditToJudge], temperature: float = 0.0, progress: str | None = None
    ) -> list[Judgement]:
        """A judgement, or a named failure, for every edit, in order. An edit without principles is
        a failure, unless they are not used."""
        judgements: list[Judgement] = []
        starts = range(0, len(edits), self.batch)
        for start in tqdm(starts, desc=progress, disable=progress is None):
            part = edits[start : start + self.batch]
            principles = [() if is_holistic(self.style) else e.principles for e in part]
            askable = [e for e in part if e.principles or is_holistic(self.style)]
            asked = [
                (
                    judge_messages(self.style, e.instruction, e.principles, e.requirement),
                    [e.source, e.edited],
                )
                for e in askable
            ]
            answers = iter(self.generate(asked, temperature) if asked else [])
            nothing = Judgement(failure=Failure(kind="bad_row", detail="no principles to judge by"))
            judgements += [
                judgement_of(next(answers), used)
                if e.principles or is_holistic(self.style)
                else nothing
                for e, used in zip(part, principles, strict=True)
            ]
        return judgements

    def judge(
        self,
        source: Image.Image,
        edited: Image.Image,
        instruction: str,
        principles: Sequence[Principle] = (),
        requirement: str | None = None,
    ) -> Judgement:
        """The judgement on one edit; without principles the model decomposes the instruction itself
        first."""
        if not principles and not is_holistic(self.style):
            found = self.decompose(source, instruction, requirement)
            if isinstance(found, Failure):
                return Judgement(failure=found)
            principles = found
        return self.judge_many(
            [EditToJudge(source, edited, instruction, tuple(principles), requirement)]
        )[0]

    def decompose(
        self, source: Image.Image, instruction: str, requirement: str | None = None
    ) -> tuple[Principle, ...] | Failure:
        """The principles that the model makes of a task, or a named failure."""
        return read_principles(
            self.generate([(decompose_messages(self.style, instruction, requirement), [source])])[0]
        )
