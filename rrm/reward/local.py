"""The model in this process: transformers, a batch at a time, the prompt of several traces read
once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from transformers import GenerationConfig, PreTrainedTokenizerBase
from transformers.feature_extraction_utils import BatchFeature

from rrm.records import Token
from rrm.reward.backend import LIKELIEST, Progress, Question, Reply
from rrm.runtime.stage import content_digest
from rrm.verifier.inference import Verifier
from rrm.verifier.rollout import complete


class LocalBackend:
    """A checkpoint, loaded."""

    stopped: str | None = None

    def __init__(self, verifier: Verifier, fingerprint: str):
        self.verifier, self.fingerprint = verifier, fingerprint
        self.style, self.max_tokens = verifier.style, verifier.max_new_tokens

    @classmethod
    def load(cls, path: str | Path, batch: int = 64) -> LocalBackend:
        """The checkpoint in this folder. Raises InputError where it is none."""
        return cls(Verifier.load(path, batch=batch), f"checkpoint|{content_digest(Path(path))}")

    async def ask(self, questions: Sequence[Question], progress: Progress) -> list[Reply]:
        """The reply to each question; questions that are asked alike go through the model together."""
        return await asyncio.to_thread(self.answer, questions, progress)

    async def close(self) -> None:
        """Nothing to close."""

    def answer(self, questions: Sequence[Question], progress: Progress) -> list[Reply]:
        """As `ask`, in the calling thread."""
        replies: dict[int, Reply] = {}
        alike: dict[tuple[object, ...], list[int]] = {}
        for place, q in enumerate(questions):
            alike.setdefault(
                (q.max_tokens, q.answers, q.temperature, q.seed, q.alternatives, q.watched), []
            ).append(place)
        for places in alike.values():
            step = max(1, self.verifier.batch // questions[places[0]].answers)
            for start in range(0, len(places), step):
                part = places[start : start + step]
                for place, reply in zip(
                    part, self.batch([questions[place] for place in part]), strict=True
                ):
                    replies[place] = reply
                    progress(place, reply)
        return [replies[place] for place in range(len(questions))]

    @torch.inference_mode()
    def batch(self, questions: Sequence[Question]) -> list[Reply]:
        """The replies to questions of one kind that go through the model together."""
        kind = questions[0]
        repeated = [question for question in questions for _ in range(kind.answers)]
        inputs = self.verifier.inputs([(q.messages, q.images) for q in repeated])
        sampled = kind.temperature > 0
        config = GenerationConfig(
            do_sample=sampled, max_new_tokens=kind.max_tokens, suppress_tokens=self.verifier.suppressed,
            **({"temperature": kind.temperature, "top_k": 0, "top_p": 1.0} if sampled else {}),
        )  # fmt: skip
        here = self.verifier.model.device
        with torch.random.fork_rng(
            [here] if here.type == "cuda" else [], enabled=sampled
        ):  # the caller's draws stay its own
            if sampled:
                torch.manual_seed(kind.seed)
            ids = complete(self.verifier.model, inputs, config)
        tokens = self.likeliest(inputs, ids, kind.watched) if kind.alternatives else [()] * len(ids)
        answers = [
            replace(choice, tokens=found)
            for choice, found in zip(self.verifier.choices(ids), tokens, strict=True)
        ]
        return [tuple(answers[i : i + kind.answers]) for i in range(0, len(answers), kind.answers)]

    def likeliest(
        self, inputs: BatchFeature, ids: list[list[int]], watched: Sequence[str]
    ) -> list[tuple[Token, ...]]:
        """Per answer its tokens with the likeliest alternatives at each place, from one more
        forward over prompts and answers."""
        tokenizer = self.verifier.processor.tokenizer
        longest = max(map(len, ids))
        rows = torch.tensor(
            [row + [tokenizer.pad_token_id] * (longest - len(row)) for row in ids],
            device=self.verifier.model.device,
        )
        there = torch.tensor(
            [[1] * len(row) + [0] * (longest - len(row)) for row in ids], device=rows.device
        )
        extended = dict(inputs)
        extended["input_ids"] = torch.cat([inputs["input_ids"], rows], 1)
        extended["attention_mask"] = torch.cat([inputs["attention_mask"], there], 1)
        if "mm_token_type_ids" in inputs:  # 0 is text
            extended["mm_token_type_ids"] = torch.cat(
                [inputs["mm_token_type_ids"], torch.zeros_like(rows)], 1
            )
        logits = self.verifier.model(**extended, logits_to_keep=longest + 1).logits[:, :-1]
        p = logits.float().softmax(-1)
        places = p.topk(min(LIKELIEST, p.shape[-1])).indices
        encoded = [tokenizer.encode(text, add_special_tokens=False) for text in watched]
        single = torch.tensor(
            [row[0] for row in encoded if len(row) == 1], dtype=torch.long, device=p.device
        )
        places = torch.cat([places, single.expand(*places.shape[:2], -1)], 2)
        found = []
        for row, values, at in zip(ids, p.gather(2, places).tolist(), places.tolist(), strict=True):
            found.append(
                tuple(token_of(tokenizer, *entry) for entry in zip(row, at, values, strict=False))
            )
        return found


def token_of(
    tokenizer: PreTrainedTokenizerBase, token: int, ids: list[int], probabilities: list[float]
) -> Token:
    """The token with the likeliest ones at its place; the probabilities of several tokens of one
    text are added up."""
    likely: dict[str, float] = {}
    for i, p in dict(zip(ids, probabilities, strict=True)).items():
        text = tokenizer.decode([i])
        likely[text] = likely.get(text, 0.0) + p
    return Token(tokenizer.decode([token]), likely)
