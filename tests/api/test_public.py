"""The public API: what `import rrm` costs, and that scoring through a server needs no local model's
libraries."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import rrm
from rrm.images import as_image, png_bytes
from rrm.prompts import write_answer
from rrm.records import Principle

HEAVY = (
    "torch",
    "torchvision",
    "transformers",
    "trl",
    "peft",
    "accelerate",
    "diffusers",
    "vllm",
    "matplotlib",
    "deepspeed",
)


def fresh(code: str, *arguments: object) -> str:
    """The output of Python code in a process of its own."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_every_public_name_is_there_and_no_other():
    for name in rrm.__all__:
        assert getattr(rrm, name) is not None
    assert set(rrm.__all__) <= set(dir(rrm))
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        rrm.Nothing  # noqa: B018


def test_importing_the_package_loads_none_of_its_parts():
    loaded = json.loads(fresh("import sys, json, rrm; print(json.dumps(list(sys.modules)))"))
    assert not {name for name in loaded if name.startswith("rrm.")}
    assert not {"numpy", "PIL", "pydantic", "openai", *HEAVY} & set(loaded)


class Answers(BaseHTTPRequestHandler):
    """A server of one model that judges everything alike."""

    def answer(self, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self.answer({"object": "list", "data": [{"id": "m", "object": "model"}]})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        content = "Both images are alike.\n" + write_answer((1,), 6.5)
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": content},
            "finish_reason": "stop",
        }
        usage = {"prompt_tokens": 9, "completion_tokens": 9, "total_tokens": 18}
        self.answer(
            {
                "id": "1",
                "object": "chat.completion",
                "created": 0,
                "model": "m",
                "choices": [choice],
                "usage": usage,
            }
        )

    def log_message(self, *arguments: object) -> None:
        return


@pytest.fixture
def url():
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
        server.shutdown()


def test_a_server_is_asked_where_no_library_of_a_local_model_can_be_imported(url, tmp_path):
    Image.new("RGB", (32, 32), "red").save(tmp_path / "a.png")
    code = f"""
import sys
for name in {HEAVY!r}:
    sys.modules[name] = None  # an import of it raises ImportError
from rrm import Principle, RewardModel
with RewardModel.from_server(sys.argv[1], model="m", style="full") as model:
    judgement = model.judge(sys.argv[2], sys.argv[2], "make it blue", [Principle(question="Is it blue?", category="follow")])
print(judgement.score, judgement.failure)
"""
    assert fresh(code, url, tmp_path / "a.png") == "6.5 None\n"


def test_images_may_be_paths_bytes_arrays_or_pil(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 6, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    image.save(tmp_path / "a.png")
    for form in (image, pixels, tmp_path / "a.png", str(tmp_path / "a.png"), png_bytes(image)):
        assert np.array_equal(np.asarray(as_image(form)), pixels)
    for wrong in (pixels.astype(float), pixels[:, :, 0]):
        with pytest.raises(rrm.InputError, match="must be"):
            as_image(wrong)
    with pytest.raises(rrm.InputError, match="cannot be read"):
        as_image(b"no image")


def test_a_call_may_be_sampled_otherwise_than_the_model(url, tmp_path):
    image = Image.new("RGB", (32, 32))
    question = (Principle(question="Is it blue?", category="follow"),)
    with rrm.RewardModel.from_server(url, model="m", style="full") as model:
        one = model.judge(image, image, "x", question)
        with pytest.raises(rrm.InputError, match="greedy traces"):
            rrm.Sampling(k=2)
        more = model.judge(image, image, "x", question, sampling=rrm.Sampling(k=3, temperature=0.7))
        assert model.sampling == rrm.Sampling()
    assert (one.score, one.samples) == (6.5, ())
    assert more.score == 6.5
    assert more.std in (0, None)


def test_types_are_shipped():
    assert (Path(rrm.__file__).parent / "py.typed").is_file()
