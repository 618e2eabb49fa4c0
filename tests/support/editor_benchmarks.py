"""Editors' benchmarks as small files of the public schemas, and an app served over real HTTP."""

import json
import socket
import threading
import time
from contextlib import contextmanager

import uvicorn
from PIL import Image


@contextmanager
def served(app):
    """Base URL of the app on a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.should_exit = True
        thread.join()


def plain(shade, size=(8, 8)):
    return Image.new("RGB", size, (shade, 0, 0))


def row(task, key, instruction="make it red", language="en", image="source.png", intersection=True):
    return {
        "task_type": task, "key": key, "instruction": instruction, "instruction_language": language,
        "input_image": image, "input_image_raw": image, "Intersection_exist": intersection,
    }  # fmt: skip


def write_gedit(folder, rows, sources=("source.png",)):
    folder.mkdir(exist_ok=True)
    for shade, name in enumerate(sources):
        plain(shade).save(folder / name)
    path = folder / "gedit.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    return path


def write_imgedit(folder, items):
    (folder / "images" / "animal").mkdir(parents=True)
    plain(3).save(folder / "images" / "animal" / "1.png")
    path = folder / "basic_edit.json"
    path.write_text(json.dumps(items))
    return path
