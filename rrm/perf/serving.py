"""What serving gives, side by side in one run: `rrm perf serving --model
runs/demo/gcpo/model` → runs/bench/serving.json.

Every figure is of edits that no figure before it has sent, since a server keeps what it has read.
`image_by_image_per_s` is the rate of a server around the same checkpoint that calls
`model.generate` for one request after another, as the public Edit-R1 server does.
"""

from __future__ import annotations

import asyncio
import base64
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import numpy as np
import openai
from tqdm import tqdm

from rrm.chat import reached
from rrm.errors import InputError
from rrm.images import read_image
from rrm.records import EditToJudge
from rrm.reward.local import LocalBackend
from rrm.reward.model import RewardModel, Sampling
from rrm.reward.serve import Serving, free_port, serving_replicas
from rrm.reward.servers import Patience, ServerBackend, filled
from rrm.runtime.secrets import key_of
from rrm.runtime.stage import write_json
from rrm.sandbox.edits import decompose, sample_steps, write_instruction
from rrm.sandbox.scripted_edits import EDITORS, script_edit
from rrm.sandbox.world import draw, sample_scene
from rrm.verifier.messages import judge_messages

IN_FLIGHT = (1, 8, 32)
ROUNDS = 3
"""Of what is compared in turns."""


def edits(seed: int) -> Iterator[EditToJudge]:
    """Sandbox edits without end, no two alike."""
    rng = np.random.default_rng(seed)
    while True:
        scene = sample_scene(rng)
        steps = sample_steps(rng, scene)
        edited = script_edit(rng, scene, steps, str(rng.choice(EDITORS)))
        yield EditToJudge(draw(scene), edited, write_instruction(steps), decompose(steps))


def image_by_image(model: str, port: int) -> None:
    """Serves the checkpoint as one would without a serving engine: one request after another, one
    `generate` each."""
    import uvicorn
    from fastapi import FastAPI

    from rrm.verifier.inference import Verifier

    judge, app, one = Verifier.load(model), FastAPI(), asyncio.Lock()

    @app.get("/v1/models")
    def models() -> dict[str, Any]:
        return {
            "object": "list",
            "data": [{"id": "rrm", "object": "model", "created": 0, "owned_by": "bench"}],
        }

    def answer(body: dict[str, Any]) -> str:
        parts = body["messages"][-1]["content"]
        urls = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
        images = [read_image(base64.b64decode(url.partition(",")[2])) for url in urls]
        slots = [{"type": "image"} if part["type"] == "image_url" else part for part in parts]
        inputs = judge.inputs([([{"role": "user", "content": slots}], images)])
        ids = judge.model.generate(**inputs, do_sample=False, max_new_tokens=body["max_tokens"])
        return judge.processor.batch_decode(
            ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
        )[0]

    @app.post("/v1/chat/completions")
    async def complete(body: dict[str, Any]) -> dict[str, Any]:
        async with one:
            text = await asyncio.to_thread(answer, body)
        choice = {
            "index": 0,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": text},
        }
        return {
            "id": "0",
            "object": "chat.completion",
            "created": 0,
            "model": "rrm",
            "choices": [choice],
        }

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")


@contextmanager
def running_image_by_image(model: str) -> Iterator[str]:
    """The base URL of that server, in a process of its own."""
    port = free_port()
    line = [
        sys.executable,
        "-m",
        "rrm",
        "perf",
        "serving",
        "--model",
        model,
        "--image-by-image",
        str(port),
    ]
    with subprocess.Popen(line) as process:
        try:
            for _ in range(600):
                try:
                    reached(f"http://127.0.0.1:{port}/v1/models", 5)
                    break
                except httpx.HTTPError:
                    if process.poll() is not None:
                        raise InputError(
                            "The image-by-image server ended before it was ready; see its words above."
                        ) from None
                    time.sleep(0.2)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()


def served(
    url: str, in_flight: int, asking: Sampling | None = None, style: Any = None
) -> RewardModel:
    """The reward model of a server, asked so many at once."""
    return RewardModel(
        ServerBackend.connect([url], "rrm", style, patience=Patience(in_flight=in_flight)), asking
    )


def rate(model: RewardModel, part: Sequence[EditToJudge]) -> float:
    """Judgements per second."""
    begin = time.perf_counter()
    model.judge_many(part)
    return len(part) / (time.perf_counter() - begin)


def bare_rate(
    url: str, style: Any, part: Sequence[EditToJudge], in_flight: int, max_tokens: int
) -> float:
    """Answers per second of the `openai` client alone, which is handed finished messages and does
    nothing with the answers."""
    messages: list[Any] = [
        filled(
            judge_messages(style, e.instruction, e.principles, e.requirement), (e.source, e.edited)
        )
        for e in part
    ]

    async def all_of_them() -> float:
        places = asyncio.Semaphore(in_flight)
        async with openai.AsyncOpenAI(
            base_url=url, api_key=key_of("RRM_API_KEY") or "none"
        ) as client:

            async def one(message: Any) -> None:
                async with places:
                    await client.chat.completions.create(
                        model="rrm", messages=message, temperature=0, max_tokens=max_tokens
                    )

            begin = time.perf_counter()
            await asyncio.gather(*(one(message) for message in messages))
            return len(messages) / (time.perf_counter() - begin)

    return asyncio.run(all_of_them())


def measure(model: Path, count: int) -> dict[str, Any]:
    """All figures; `count` edits for the agreement, fewer for each rate."""
    fresh = edits(7)
    found: dict[str, Any] = {}
    part = max(8, count // 5)
    local = RewardModel(LocalBackend.load(model))
    with serving_replicas(
        Serving(model, port=free_port(), in_flight=4 * max(IN_FLIGHT)), Path("runs/bench/serve")
    ) as replicas:
        url = replicas[0].url
        with served(url, max(IN_FLIGHT)) as warm:
            warm.judge_many(list(islice(fresh, 16)))
            style, longest = warm.backend.style, warm.backend.max_tokens
        rates = {}
        for in_flight in tqdm(IN_FLIGHT, desc="requests/s"):
            with served(url, in_flight) as reward:
                rates[str(in_flight)] = rate(
                    reward, list(islice(fresh, part if in_flight > 1 else part // 2))
                )
        found["requests_per_s"] = rates
        overheads = []
        with served(url, max(IN_FLIGHT)) as reward:
            for number in tqdm(range(2 * ROUNDS), desc="client overhead"):
                ours, bare = list(islice(fresh, part)), list(islice(fresh, part))
                if number % 2:
                    mine, theirs = (
                        rate(reward, ours),
                        bare_rate(url, style, bare, max(IN_FLIGHT), longest),
                    )
                else:
                    theirs, mine = (
                        bare_rate(url, style, bare, max(IN_FLIGHT), longest),
                        rate(reward, ours),
                    )
                overheads.append(theirs / mine - 1)
        found["client_overhead"], found["client_overhead_rounds"] = median(overheads), overheads
        ratios = []
        for _ in tqdm(range(ROUNDS), desc="Avg@4"):
            seconds = []
            for k in (1, 4):
                with served(url, max(IN_FLIGHT), Sampling(k=k, temperature=0.7)) as reward:
                    sent = list(islice(fresh, part))
                    seconds.append(len(sent) / rate(reward, sent))
            ratios.append(seconds[1] / seconds[0])
        found["avg4_over_avg1"], found["avg4_over_avg1_rounds"] = median(ratios), ratios
        same = list(islice(fresh, count))
        with served(url, max(IN_FLIGHT)) as reward:
            vllm, stock = reward.judge_many(same, "vllm"), local.judge_many(same, "transformers")
        found["greedy_agreement"] = (
            sum(a.score == b.score for a, b in zip(vllm, stock, strict=True)) / count
        )
        found["greedy_agreement_of"], found["unreadable"] = (
            count,
            sum(j.failure is not None for j in stock),
        )
    local.close()
    with (
        running_image_by_image(str(model)) as url,
        served(url, max(IN_FLIGHT), style=style) as slow,
    ):
        slow.judge_many(list(islice(fresh, 4)))
        found["image_by_image_per_s"] = rate(slow, list(islice(fresh, part // 2)))
    found["over_image_by_image"] = rates[str(max(IN_FLIGHT))] / found["image_by_image_per_s"]
    return found


def run(model: Path, edits: int, out: Path, image_by_image_port: int | None = None) -> None:
    """Measures, prints the main figures, and writes all to `out`; with a port it serves the model
    image by image instead."""
    if not model.is_dir():
        raise InputError(
            f"There is no checkpoint at {model}; run `make demo` first, or name one with --model."
        )
    if image_by_image_port:
        image_by_image(str(model), image_by_image_port)
        return
    found = measure(model, edits)
    write_json(out, {"model": str(model), **found})
    for name in (
        "requests_per_s",
        "image_by_image_per_s",
        "over_image_by_image",
        "client_overhead",
        "avg4_over_avg1",
        "greedy_agreement",
    ):
        print(f"{name:22} {found[name]}")
    print(out)
