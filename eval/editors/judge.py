"""Scores of an editor's edits from a vision-language model behind an OpenAI-compatible server;
every answer is kept and reused."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from PIL import Image
from pydantic import Field
from tqdm import tqdm

from data_pipeline.flow import in_order
from eval.cache import AnswerCache
from eval.editors.items import Bench, EditItem, ItemResult, Question
from eval.editors.prompts import SYSTEM, read_scores
from rrm.chat import ChatClient, ChatRequest, Dialect, Fault, StopRule, image_part, patiently
from rrm.errors import InputError
from rrm.images import fit, inside, open_image, pixel_digest
from rrm.records import Choice, Failure, Record


class JudgeSettings(Dialect):
    """The judge and how it is asked."""

    url: str
    """The server's base URL, ending in /v1."""
    model: str = Field(min_length=1)
    """Its name at the server."""
    key_variable: str = "OPENAI_API_KEY"
    """Environment variable with the server's key."""
    temperature: float = Field(default=0.0, ge=0, le=2)
    """0 is greedy."""
    max_tokens: int = Field(default=2048, gt=0)
    """Of one answer."""
    timeout: float = Field(default=120.0, gt=0)
    """Seconds that one try may take."""
    retries: int = Field(default=4, ge=0)
    """Further tries after a lost connection, a timeout, 429 or 5xx."""
    in_flight: int = Field(default=16, gt=0)
    """Edits that are judged at once."""


class AnswerRow(Record):
    """One answer of the judge. `key` hashes the model, its sampling, every word of the prompt, and
    the pixels that it was shown."""

    key: str
    item_id: str
    question: str
    scores: tuple[float, ...] | None = None
    reasoning: str = ""
    failure: Failure | None = None


def answer_key(settings: JudgeSettings, question: Question, digests: Iterable[str]) -> str:
    """The key of an answer: all that it depends on, and nothing else; the same model at another
    address gives the same answer."""
    parts = [
        settings.model,
        settings.temperature,
        settings.max_tokens,
        SYSTEM,
        question.text,
        *digests,
    ]
    parts += [settings.fingerprint] if settings.extra else []
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]


def prompts_digest(bench: Bench, item: EditItem) -> str:
    """A hash of the words of the prompts with which an item is judged."""
    return hashlib.sha256(
        json.dumps([SYSTEM, *(q.text for q in bench.questions(item))]).encode()
    ).hexdigest()[:16]


def read_output(outputs: Path, item: EditItem, same_size: bool) -> Image.Image | Failure:
    """The edit as the judge is shown it, or why it cannot be."""
    path = inside(outputs, item.output)
    if not path.is_file():
        return Failure(kind="missing", detail=f"no file at {item.output}")
    try:
        edited = open_image(path)
        if same_size and edited.size != item.source.size:
            edited = edited.resize(item.source.size, Image.Resampling.BICUBIC)
        return fit(edited)
    except InputError as error:
        return Failure(kind="image_unreadable", detail=str(error)[:200])


class Judge:
    """Asks the server for scores, unless an answer to the same question about the same pixels is
    kept."""

    def __init__(self, settings: JudgeSettings, rows: AnswerCache[AnswerRow], client: ChatClient):
        self.settings, self.rows, self.client = settings, rows, client
        self.keys: dict[str, list[str]] = {}
        """Of the answers on every item, by its id."""
        self.rule = StopRule(f"The server at {settings.url}")

    async def said(self, question: Question, images: list[Image.Image]) -> Choice | Failure:
        """The model's answer, or why there is none."""
        parts = [*(image_part(image) for image in images), {"type": "text", "text": question.text}]
        settings = self.settings
        request = ChatRequest(
            settings.model, [{"role": "system", "content": SYSTEM}, {"role": "user", "content": parts}], settings.max_tokens,
            temperature=settings.temperature, extra=settings.extra, max_tokens_field=settings.max_tokens_field,
        )  # fmt: skip
        got = await patiently(lambda: self.client.attempt(request), settings.retries, self.rule)
        return got.told if isinstance(got, Fault) else got.choices[0]

    async def answer(self, item: EditItem, question: Question, edited: Image.Image) -> AnswerRow:
        """The scores that answer one question, or why there are none."""
        images = [edited] if question.shows == "edited" else [fit(item.source), edited]
        key = answer_key(self.settings, question, [pixel_digest(image) for image in images])
        self.keys.setdefault(item.item_id, []).append(key)
        if self.rows.settled(key):
            return self.rows[key]
        said = await self.said(question, images)
        read = said if isinstance(said, Failure) else read_scores(said, question)
        row = AnswerRow(key=key, item_id=item.item_id, question=question.name)
        if isinstance(read, Failure):
            row = row.model_copy(update={"failure": read})
        else:
            row = row.model_copy(update={"scores": read[0], "reasoning": read[1]})
        self.rows.add(row)
        return row

    async def result(self, bench: Bench, item: EditItem, outputs: Path) -> ItemResult:
        """The scores of one edit, or the first reason why it has none."""
        found = ItemResult(
            item_id=item.item_id,
            group=item.group,
            language=item.language,
            intersection=item.intersection,
            source=item.source_digest,
        )
        edited = read_output(outputs, item, bench.same_size)
        if isinstance(edited, Failure):
            return found.model_copy(update={"failure": edited})
        questions = bench.questions(item)
        rows = await asyncio.gather(
            *(self.answer(item, question, edited) for question in questions)
        )
        scores = {
            question.name: row.scores
            for question, row in zip(questions, rows, strict=True)
            if row.scores is not None
        }
        failures = [row.failure for row in rows if row.failure is not None]
        update = {"failure": failures[0]} if failures else {"scores": bench.scores(scores)}
        return found.model_copy(update=update)


async def judge_all(
    bench: Bench,
    items: Iterable[EditItem],
    outputs: Path,
    settings: JudgeSettings,
    rows: AnswerCache[AnswerRow],
) -> tuple[list[ItemResult], dict[str, str]]:
    """One result per item in their order, and digests of what was judged: `content` of the items,
    `prompts` of the words.

    Raises InputError where the server refuses everything, or is gone for more edits in a row than
    are in flight.
    """
    client = ChatClient(settings.url, key_variable=settings.key_variable, timeout=settings.timeout)
    judge = Judge(settings, rows, client)
    content, prompts = hashlib.sha256(), hashlib.sha256()

    async def work(item: EditItem) -> tuple[EditItem, ItemResult]:
        return item, await judge.result(bench, item, outputs)

    results: list[ItemResult] = []
    gone = 0
    try:
        with tqdm(desc="judge", unit="edit") as bar:
            async for item, result in in_order(items, work, settings.in_flight):
                bar.update()
                content.update(
                    json.dumps([item.item_id, item.instruction, item.source_digest]).encode()
                )
                prompts.update(prompts_digest(bench, item).encode())
                results.append(result)
                judge.rule.check()
                gone = (
                    gone + 1
                    if result.failure is not None and result.failure.kind == "server_gone"
                    else 0
                )
                if gone > settings.in_flight and result.failure is not None:
                    raise InputError(
                        f"The server at {settings.url} does not answer ({result.failure.detail}); "
                        "start it, and the same command carries on."
                    )
    finally:
        await client.close()
    rows.put_in_order(key for result in results for key in judge.keys.get(result.item_id, ()))
    return results, {"content": content.hexdigest()[:16], "prompts": prompts.hexdigest()[:16]}
