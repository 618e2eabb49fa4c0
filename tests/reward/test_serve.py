"""What `rrm serve` hands to vLLM, and what it refuses before it starts anything."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

import rrm
from rrm.errors import InputError
from rrm.images import MAX_DECODED_PIXELS, MAX_PIXELS
from rrm.perf.serving import free_port
from rrm.reward import serve
from rrm.reward.keyed import KeyRequired
from rrm.reward.listing import ALIAS
from rrm.reward.serve import (
    NOWHERE,
    Serving,
    alias,
    arguments,
    check,
    environment,
    last_error,
    length_of,
)

BASE = Path(rrm.__file__).parent / "sandbox/checkpoints/rrm-base"


def values_of(line: list[str], option: str) -> list[str]:
    """What stands behind an option, up to the next one."""
    rest = line[line.index(option) + 1 :]
    return rest[: next((i for i, word in enumerate(rest) if word.startswith("--")), len(rest))]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A copy of the shipped one, to be changed."""
    return Path(shutil.copytree(BASE, tmp_path / "model"))


def configure(checkpoint: Path, **changes: int) -> None:
    path = checkpoint / "config.json"
    config = json.loads(path.read_text())
    config["text_config"] |= changes
    path.write_text(json.dumps(config))


@pytest.fixture
def with_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "find_spec", lambda name: object())


def test_it_listens_on_this_machine_alone_unless_told_otherwise():
    assert values_of(arguments(Serving(BASE), 8000, False), "--host") == ["127.0.0.1"]
    assert values_of(arguments(Serving(BASE, host="0.0.0.0"), 8003, False), "--host") == ["0.0.0.0"]
    assert values_of(arguments(Serving(BASE, host="0.0.0.0"), 8003, False), "--port") == ["8003"]


def test_images_come_in_twos_from_the_request_alone_and_within_the_budget():
    line = arguments(Serving(BASE), 8000, False)
    assert json.loads(values_of(line, "--limit-mm-per-prompt")[0]) == {"image": 2, "video": 0}
    assert json.loads(values_of(line, "--mm-processor-kwargs")[0]) == {"max_pixels": MAX_PIXELS}
    assert values_of(line, "--allowed-media-domains") == [NOWHERE]
    assert NOWHERE.endswith(".invalid")
    assert "--allowed-local-media-path" not in line


def test_domains_and_a_folder_of_images_are_open_only_where_they_are_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = arguments(
        Serving(BASE, media_domains=("a.org", "b.org"), media_folder=Path("images")), 8000, True
    )
    assert values_of(line, "--allowed-media-domains") == ["a.org", "b.org"]
    assert values_of(line, "--allowed-local-media-path") == [str(tmp_path / "images")]


def test_the_key_is_in_the_environment_and_never_on_the_command_line():
    base = {"RRM_API_KEY": "sesame", "VLLM_API_KEY": "another", "HOME": "/home/me"}
    serving = Serving(BASE)
    for on_gpu in (False, True):
        assert environment(serving, 0, on_gpu, base)["VLLM_API_KEY"] == "sesame"
        assert not any(
            "sesame" in word or "api-key" in word for word in arguments(serving, 8000, on_gpu)
        )
    assert (
        environment(Serving(BASE, key_variable="MINE"), 0, False, {**base, "MINE": "x"})[
            "VLLM_API_KEY"
        ]
        == "x"
    )
    assert "VLLM_API_KEY" not in environment(Serving(BASE, key_variable="MINE"), 0, False, base)
    assert environment(serving, 0, False, base)["HOME"] == "/home/me"
    assert base["VLLM_API_KEY"] == "another"


def test_the_environment_limits_images_and_what_leaves_the_machine():
    found = environment(Serving(BASE), 0, False, {"VLLM_MAX_IMAGE_PIXELS": "1"})
    assert found["VLLM_MAX_IMAGE_PIXELS"] == str(MAX_DECODED_PIXELS)
    assert found["VLLM_MEDIA_URL_ALLOW_REDIRECTS"] == "0"
    assert (found["VLLM_NO_USAGE_STATS"], found["HF_HUB_OFFLINE"]) == ("1", "1")


def test_every_replica_has_gpus_of_its_own_of_those_that_are_visible():
    serving = Serving(BASE, replicas=2, tensor_parallel=2)

    def seen(base: dict[str, str]) -> list[str]:
        return [
            environment(serving, replica, True, base)["CUDA_VISIBLE_DEVICES"]
            for replica in range(2)
        ]

    assert seen({}) == seen({"CUDA_VISIBLE_DEVICES": ""}) == ["0,1", "2,3"]
    assert seen({"CUDA_VISIBLE_DEVICES": "7,5,GPU-3a,1"}) == ["7,5", "GPU-3a,1"]


def test_on_the_cpu_no_gpu_is_named_and_nothing_is_compiled():
    serving = Serving(BASE, cache_gb=3)
    found = environment(serving, 0, False, {})
    assert "CUDA_VISIBLE_DEVICES" not in found
    assert (found["VLLM_CPU_KVCACHE_SPACE"], found["TORCHDYNAMO_DISABLE"]) == ("3", "1")
    line = arguments(serving, 8000, False)
    assert "--enforce-eager" in line
    assert values_of(line, "--dtype") == ["float32"]
    assert values_of(arguments(Serving(BASE, dtype="bfloat16"), 8000, False), "--dtype") == [
        "bfloat16"
    ]
    assert "--tensor-parallel-size" not in line


def test_on_gpus_memory_and_parallelism_are_as_told():
    line = arguments(Serving(BASE, tensor_parallel=2, gpu_memory=0.5), 8000, True)
    assert [values_of(line, f"--{name}") for name in ("dtype", "tensor-parallel-size", "gpu-memory-utilization")] == [
        ["auto"], ["2"], ["0.5"],
    ]  # fmt: skip
    assert "--enforce-eager" not in line


def test_the_second_name_tells_style_and_weights_and_the_client_reads_it(checkpoint):
    assert values_of(arguments(Serving(BASE, name="mine"), 8000, False), "--served-model-name") == [
        "mine",
        alias(BASE),
    ]
    found = ALIAS.fullmatch(alias(checkpoint))
    assert found is not None
    assert found["style"] == "brief"
    assert alias(checkpoint) == alias(BASE)
    (checkpoint / "rrm.json").write_text('{"style": "brief_holistic"}')
    other = ALIAS.fullmatch(alias(checkpoint))
    assert other is not None
    assert other["style"] == "brief_holistic"
    assert other["digest"] != found["digest"]


def test_a_prompt_has_the_room_that_the_model_has_and_no_more_than_it_needs(checkpoint):
    assert length_of(Serving(checkpoint)) == 2048
    configure(checkpoint, max_position_embeddings=128_000)
    assert length_of(Serving(checkpoint)) == serve.ROOM
    assert length_of(Serving(checkpoint, max_length=4096)) == 4096


def refused(serving: Serving, count: int) -> str:
    with pytest.raises(InputError) as error:
        check(serving, count)
    said = str(error.value)
    assert "\n" not in said
    assert said.endswith(".")
    return said


@pytest.mark.usefixtures("with_vllm")
def test_what_can_be_served_is_not_refused_and_its_port_stays_free():
    port = free_port()
    check(Serving(BASE, port=port), 0)
    check(Serving(BASE, port=port, tensor_parallel=2), 2)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", port))  # the checks hold no port
    assert "more than the 1 here" in refused(Serving(BASE, port=port, tensor_parallel=2), 1)


@pytest.mark.usefixtures("with_vllm")
def test_a_port_that_is_taken_or_that_is_none_is_refused():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert re.search(
            rf"Port {port} of 127.0.0.1 cannot be had \(.+\); choose another --port",
            refused(Serving(BASE, port=port), 0),
        )
        assert f"Port {port} " in refused(Serving(BASE, port=port - 1, replicas=2), 0)
    assert "Port 65536 " in refused(Serving(BASE, port=65536), 0)
    assert "of no-such-host.invalid" in refused(
        Serving(BASE, host="no-such-host.invalid", port=8000), 0
    )


@pytest.mark.usefixtures("with_vllm")
def test_an_address_of_ipv6_is_looked_at_as_one():
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6")
    with socket.socket(socket.AF_INET6) as taken:
        taken.bind(("::1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"Port {port} of ::1 " in refused(Serving(BASE, host="::1", port=port), 0)
    check(Serving(BASE, host="::1", port=free_port()), 0)


@pytest.mark.usefixtures("with_vllm")
def test_no_checkpoint_is_refused(tmp_path):
    assert "no config.json" in refused(Serving(tmp_path / "none"), 0)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    assert "of 'bert'" in refused(Serving(tmp_path), 0)


@pytest.mark.usefixtures("with_vllm")
def test_more_gpus_than_there_are_are_refused():
    assert "no GPU here" in refused(Serving(BASE, tensor_parallel=2), 0)
    assert "need more than the 3 here" in refused(Serving(BASE, replicas=2, tensor_parallel=2), 3)
    assert "at least 1" in refused(Serving(BASE, replicas=0), 0)


@pytest.mark.usefixtures("with_vllm")
def test_heads_that_vllm_cannot_attend_with_on_the_cpu_are_refused_there_alone(checkpoint):
    configure(checkpoint, num_attention_heads=8)
    assert "heads of 32 values or more; this model's have 16" in refused(
        Serving(checkpoint, port=free_port()), 0
    )
    check(Serving(checkpoint, port=free_port()), 1)


KILLED = """
import signal, subprocess
from pathlib import Path
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup
from rrm.reward import serve
from rrm.runtime.watcher import Watcher
from rrm.runtime.stage import command
def start(serving, replica, on_gpu, logs):
    process = subprocess.Popen(["sh", "-c", "sleep 600 & sleep 600"], start_new_session=True)
    return serve.Replica(process, f"pid {process.pid}", Path("log"), Watcher(process.pid))
serve.start, serve.check, serve.wait_until_healthy = start, lambda *_: None, lambda *_: None
command(lambda: serve.serve(serve.Serving(Path("model"), replicas=2), Path("logs")))
"""


def group_lives(group: int) -> bool:
    for process in psutil.process_iter():
        with suppress(psutil.Error, ProcessLookupError):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                return True
    return False


@pytest.mark.parametrize(
    ("how", "code"),
    [(signal.SIGTERM, 130), (signal.SIGHUP, 130), (signal.SIGKILL, -signal.SIGKILL)],
)
def test_the_servers_and_what_they_started_end_with_the_command_however_it_is_ended(how, code):
    with subprocess.Popen(
        [sys.executable, "-c", KILLED], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        try:
            line = next(line for line in parent.stdout if line.startswith("ready"))
            servers = [int(pid) for pid in re.findall(r"pid (\d+)", line)]
            assert len(servers) == 2
            assert all(map(group_lives, servers))
            parent.send_signal(how)
            assert parent.wait(60) == code
        finally:
            parent.kill()
    end = time.monotonic() + 10
    while any(map(group_lives, servers)) and time.monotonic() < end:
        time.sleep(0.02)
    assert not any(map(group_lives, servers))


def test_a_forked_child_does_not_keep_the_watcher_waiting_and_a_released_group_lives_on():
    program = (
        "import os, subprocess, sys, time\n"
        "from rrm.runtime.watcher import Watcher\n"
        "groups = [subprocess.Popen(['sleep', '600'], stdout=subprocess.DEVNULL, start_new_session=True).pid for _ in range(2)]\n"
        "watchers = [Watcher(group) for group in groups]\n"
        "watchers[1].release(); watchers[1].release()\n"
        "child = os.fork()\n"
        "if child == 0: os.close(1); time.sleep(600)\n"
        "print(*groups, child, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    said = subprocess.run(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=False
    ).stdout
    watched, released, child = map(int, said.split())
    try:
        end = time.monotonic() + 10
        while group_lives(watched) and time.monotonic() < end:
            time.sleep(0.02)
        assert not group_lives(watched)
        assert group_lives(released)
    finally:
        os.kill(child, signal.SIGKILL)
        os.killpg(released, signal.SIGKILL)


def asked_of_keyed(scope: dict[str, object]) -> int | str:
    """What the guard before a server says: the status, or that the server was reached."""
    sent: list[dict[str, object]] = []

    async def server(scope, receive, send):
        await send({"type": "http.response.start", "status": "reached"})

    async def send(message):
        sent.append(message)

    async def receive():
        raise AssertionError

    asyncio.run(KeyRequired(server)(scope, receive, send))
    return sent[0].get("status") or sent[0]["code"]


@pytest.mark.parametrize(
    "path",
    [
        "/v1/models",
        "/invocations",
        "/tokenize",
        "/metrics",
        "/load",
        "/healthy",
        "/v1/../health",
        "/",
    ],
)
def test_a_server_with_a_key_wants_it_wherever_it_is_asked_but_for_its_health(monkeypatch, path):
    monkeypatch.setenv("VLLM_API_KEY", "sesame")
    right, wrong = (b"authorization", b"Bearer sesame"), (b"authorization", b"Bearer sesam")
    for method in ("GET", "POST", "OPTIONS"):
        scope = {"type": "http", "method": method, "path": path, "headers": []}
        assert asked_of_keyed(scope) == 401
        assert asked_of_keyed({**scope, "headers": [wrong]}) == 401
        assert asked_of_keyed({**scope, "headers": [wrong, right]}) == 401
        assert asked_of_keyed({**scope, "headers": [(b"accept", b"*/*"), right]}) == "reached"
        assert asked_of_keyed({**scope, "path": "/health"}) == "reached"
    assert asked_of_keyed({"type": "websocket", "path": path, "headers": []}) == 1008
    assert asked_of_keyed({"type": "websocket", "path": "/health", "headers": []}) == 1008
    assert asked_of_keyed({"type": "lifespan"}) == "reached"


def test_the_guard_stands_before_a_server_with_a_key_alone_and_no_page_of_another_origin_is_answered():
    assert "--middleware" not in arguments(Serving(BASE), 8000, False)
    assert values_of(arguments(Serving(BASE), 8000, False, keyed=True), "--middleware") == [
        "rrm.reward.keyed.KeyRequired"
    ]
    assert values_of(arguments(Serving(BASE), 8000, False), "--allowed-origins") == ["[]"]


def test_without_vllm_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(serve, "find_spec", lambda name: None)
    assert "edit-rrm[serve]" in refused(Serving(BASE), 0)


@pytest.mark.parametrize(
    ("log", "said"),
    [
        ("", "it wrote nothing"),
        ("one\ntwo\n\n", "two"),
        ("start\nValueError: no room\nbye\n", "ValueError: no room"),
    ],
)
def test_the_last_words_of_a_server_are_its_last_error(tmp_path, log, said):
    (tmp_path / "log").write_text(log)
    assert last_error(tmp_path / "log") == said
