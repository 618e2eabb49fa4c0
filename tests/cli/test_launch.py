"""The launch scripts: what they would run, how they refuse, and the vLLM server that they start and
stop. No GPU is needed."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import yaml

from tests.support import ROOT

SCRIPTS = sorted([*(ROOT / "launch").glob("*.sh"), *(ROOT / "launch").glob("*.sbatch")])
SERVE = (
    "env CUDA_VISIBLE_DEVICES={gpus} .venv/bin/trl vllm-serve --model runs/x/sft/model --host 127.0.0.1 --port 8123 --tensor-parallel-size {n} "
    '--max-model-len 8192 --limit-mm-per-prompt \'{{"image": 2, "video": 0}}\''
)
WAIT = "# wait until http://127.0.0.1:8123/health answers, train, stop the server"


@pytest.fixture
def config(tmp_path) -> Path:
    """A config as a GCPO stage has it, as far as the scripts read it."""
    path = tmp_path / "gcpo.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "base": "runs/x/sft/model",
                "out": str(tmp_path / "out"),
                "vllm_server": "http://127.0.0.1:8123",
            }
        )
    )
    return path


@pytest.fixture
def hostfile(tmp_path) -> Path:
    path = tmp_path / "hosts"
    path.write_text("# ours\nalpha slots=8\nbeta slots=8\n")
    return path


@pytest.fixture
def tools(tmp_path) -> Path:
    """A folder of environment commands that stand in for the real ones."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "python").symlink_to(sys.executable)
    return folder


def script(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


def launch(
    name: str, *arguments: object, **environment: object
) -> subprocess.CompletedProcess[str]:
    """The script's run, with no GPU tool in sight but those that are given."""
    settings = {
        **{k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "BIN"))},
        **{k: str(v) for k, v in environment.items()},
    }
    command = ["sh", str(ROOT / "launch" / name), *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env=settings, timeout=60, cwd="/"
    )


def lines(done: subprocess.CompletedProcess[str]) -> list[str]:
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_sft_starts_deepspeed_on_this_node_or_on_the_hosts(config, hostfile):
    module = f"--module rrm.verifier.sft --config {config}"
    assert lines(launch("sft.sh", config, "--gpus", 8, "--dry-run")) == [
        f".venv/bin/deepspeed --num_gpus 8 --master_port 29500 {module}"
    ]
    assert lines(launch("sft.sh", config, "--hostfile", hostfile, "--dry-run")) == [
        f".venv/bin/deepspeed --hostfile {hostfile} --master_port 29500 {module}"
    ]


def test_gcpo_gives_the_first_gpus_to_the_server_and_the_rest_to_training(config, hostfile):
    module = f"--master_port 29500 --module rrm.verifier.gcpo --config {config}"
    assert lines(launch("gcpo.sh", config, "--gpus", 8, "--dry-run")) == [
        SERVE.format(gpus="0,1", n=2),
        WAIT,
        f".venv/bin/deepspeed --include localhost:2,3,4,5,6,7 {module}",
    ]
    assert lines(
        launch("gcpo.sh", config, "--hostfile", hostfile, "--server-gpus", 4, "--dry-run")
    ) == [
        SERVE.format(gpus="0,1,2,3", n=4),
        WAIT,
        f".venv/bin/deepspeed --hostfile {hostfile} --exclude alpha:0,1,2,3 {module}",
    ]


def test_gcpo_without_a_server_or_with_one_elsewhere_starts_none(config):
    for server in ({}, {"vllm_server": "http://node7:8000"}):
        config.write_text(yaml.safe_dump({"base": "b", "out": "o", **server}))
        (line,) = lines(launch("gcpo.sh", config, "--gpus", 8, "--dry-run"))
        assert line.startswith(".venv/bin/deepspeed --num_gpus 8 ")


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("sft.sh", (), "name a config"),
        ("sft.sh", ("none.yaml",), "there is no config at none.yaml"),
        ("sft.sh", ("CONFIG", "other.yaml"), "one config is taken"),
        ("sft.sh", ("CONFIG", "--gpu", "8"), "there is no option --gpu"),
        ("sft.sh", ("CONFIG", "--gpus"), "--gpus needs a value"),
        ("sft.sh", ("CONFIG", "--gpus", "many"), "'many' is no number of GPUs"),
        ("sft.sh", ("CONFIG", "--dry-run"), "nvidia-smi lists no GPU"),
        ("sft.sh", ("CONFIG", "--hostfile", "none"), "there is no hostfile at none"),
        ("sft.sh", ("CONFIG", "--hostfile", "CONFIG"), "names no host"),
        ("gcpo.sh", ("CONFIG", "--gpus", "2", "--dry-run"), "leaves none to train on"),
        ("gcpo.sbatch", ("CONFIG", "--dry-run"), "this runs inside a Slurm job"),
    ],
)
def test_what_is_missing_is_one_sentence_and_exit_code_2(config, name, arguments, says):
    if shutil.which("nvidia-smi") and says.startswith("nvidia-smi"):
        pytest.skip("there is a GPU")
    done = launch(name, *(config if a == "CONFIG" else a for a in arguments))
    assert done.returncode == 2
    assert says in done.stderr
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1


def test_a_server_address_that_is_none_is_refused(config):
    config.write_text("vllm_server: here\nout: o\n")
    done = launch("gcpo.sh", config, "--gpus", 8, "--dry-run")
    assert done.returncode == 2
    assert "vllm_server 'here'" in done.stderr


def test_vllm_that_is_not_installed_is_said_before_anything_starts(config, tools, tmp_path):
    script(tools, "deepspeed", f"touch {tmp_path}/trained")
    (tools / "python").unlink()
    script(
        tools,
        "python",
        f'case "$*" in *find_spec*) exit 1 ;; *) exec {sys.executable} "$@" ;; esac',
    )
    done = launch("gcpo.sh", config, "--gpus", 4, BIN=tools)
    assert done.returncode == 2
    assert "vllm is not installed" in done.stderr
    assert not (tmp_path / "trained").exists()


@pytest.fixture
def server(config, tools, tmp_path) -> dict:
    """A stand-in for vLLM that answers /health after a while and notes when it is stopped; python
    claims that vllm is there."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    values = yaml.safe_load(config.read_text()) | {"vllm_server": f"http://127.0.0.1:{port}"}
    config.write_text(yaml.safe_dump(values))
    (tmp_path / "serve.py").write_text(
        "import http.server, os, pathlib, signal, sys, time\n"
        "def end(*_):\n    pathlib.Path(sys.argv[2]).write_text('stopped'); os._exit(0)\n"
        "signal.signal(signal.SIGTERM, end)\n"
        "time.sleep(0.5)\n"
        "class H(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n        self.send_response(200 if self.path == '/health' else 404); self.end_headers()\n"
        "http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), H).serve_forever()\n"
    )
    (tools / "python").unlink()
    script(
        tools,
        "python",
        f'case "$*" in *find_spec*) exit 0 ;; *) exec {sys.executable} "$@" ;; esac',
    )
    script(
        tools,
        "trl",
        f'echo "$CUDA_VISIBLE_DEVICES" > {tmp_path}/seen; exec {sys.executable} {tmp_path}/serve.py {port} {tmp_path}/end',
    )
    return {"port": port, "environment": {"BIN": tools, "PAUSE": 1, "PATIENCE": 20}}


def test_training_starts_when_the_server_is_healthy_and_stops_it_at_the_end(
    config, tools, tmp_path, server
):
    ask = f"import urllib.request as u; print(u.urlopen('http://127.0.0.1:{server['port']}/health').status)"
    script(
        tools,
        "deepspeed",
        f'{sys.executable} -c "{ask}" > {tmp_path}/asked; echo "$@" > {tmp_path}/trained; exit 7',
    )
    done = launch("gcpo.sh", config, "--gpus", 4, **server["environment"])
    assert done.returncode == 7  # the training's own
    assert (tmp_path / "asked").read_text() == "200\n"
    assert (
        (tmp_path / "trained")
        .read_text()
        .startswith("--include localhost:2,3 --master_port 29500 --module rrm.verifier.gcpo")
    )
    assert (tmp_path / "seen").read_text() == "0,1\n"
    assert (tmp_path / "end").read_text() == "stopped"
    again = launch("gcpo.sh", config, "--gpus", 4, **server["environment"])
    assert again.returncode == 7  # nothing was left at the port


def test_a_launch_that_is_told_to_end_ends_the_training_and_the_server(
    config, tools, tmp_path, server
):
    script(
        tools,
        "deepspeed",
        f"trap 'echo told > {tmp_path}/trainer; exit 0' TERM; touch {tmp_path}/trains; sleep 30 & wait",
    )
    settings = {**os.environ, **{k: str(v) for k, v in server["environment"].items()}}
    command = ["sh", str(ROOT / "launch/gcpo.sh"), str(config), "--gpus", "4"]
    with subprocess.Popen(
        command, env=settings, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        deadline = time.monotonic() + 30
        while not (tmp_path / "trains").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        process.terminate()
        assert process.wait(timeout=30) == 143
    assert (tmp_path / "trainer").read_text() == "told\n"
    assert (tmp_path / "end").read_text() == "stopped"


def test_a_server_that_dies_or_never_gets_well_is_one_sentence(config, tools, tmp_path, server):
    script(tools, "deepspeed", f"touch {tmp_path}/trained")
    script(tools, "trl", "echo out of memory; exit 1")
    done = launch("gcpo.sh", config, "--gpus", 4, **server["environment"])
    assert (done.returncode, done.stderr) == (
        2,
        f"error: the vLLM server ended before it was healthy; its last words are in {tmp_path}/out.vllm.log.\n",
    )
    assert (tmp_path / "out.vllm.log").read_text() == "out of memory\n"
    script(tools, "trl", "exec sleep 50")
    done = launch("gcpo.sh", config, "--gpus", 4, **{**server["environment"], "PATIENCE": 1})
    assert done.returncode == 2
    assert "within 1 seconds" in done.stderr
    assert not (tmp_path / "trained").exists()


def test_slurm_gives_every_node_its_processes_and_rank_0_its_place_beside_the_server(
    config, tools, tmp_path
):
    script(tools, "scontrol", "echo n1; echo n2")
    script(
        tools, "torchrun", f'echo "$SLURM_NODEID [$CUDA_VISIBLE_DEVICES] $*" >> {tmp_path}/started'
    )
    script(tools, "deepspeed", "")
    # srun, played on one machine: the command once for every node
    script(
        tools,
        "srun",
        'while [ "$1" != sh ]; do shift; done; for SLURM_NODEID in 0 1; do export SLURM_NODEID; "$@" || exit; done',
    )
    environment = {
        "PATH": f"{tools}:{os.environ['PATH']}", "BIN": tools, "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_NNODES": 2,
        "SLURM_GPUS_ON_NODE": 8, "SLURM_SUBMIT_DIR": ROOT,
    }  # fmt: skip
    common = "--nnodes 2 --master_addr n1 --master_port 29500"
    launched = launch("sft.sbatch", config, **environment)
    assert launched.returncode == 0, launched.stderr
    assert (tmp_path / "started").read_text().splitlines() == [
        f"{node} [] {common} --node_rank {node} --nproc_per_node 8 -m rrm.verifier.sft --config {config}"
        for node in (0, 1)
    ]
    dry = lines(launch("gcpo.sbatch", config, "--server-gpus", 4, "--dry-run", **environment))
    assert dry[0].startswith("env CUDA_VISIBLE_DEVICES=0,1,2,3 ")
    (tmp_path / "started").unlink()
    shown = (
        dry[2].removeprefix("# ").removesuffix(" on every node")
    )  # MODULE=… CONFIG=…, then the command as it could be typed
    typed = subprocess.run(
        ["sh", "-c", "export " + shown + "\n" + "\n".join(dry[3:])], capture_output=True, text=True, check=False,
        env={**os.environ, **{k: str(v) for k, v in environment.items()}},
    )  # fmt: skip
    assert typed.returncode == 0, typed.stderr
    end = f"-m rrm.verifier.gcpo --config {config}"
    assert (tmp_path / "started").read_text().splitlines() == [
        f"0 [4,5,6,7] {common} --node_rank 0 --nproc_per_node 4 {end}",
        f"1 [] {common} --node_rank 1 --nproc_per_node 8 {end}",
    ]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_every_script_is_posix_sh_and_says_what_it_is(path):
    assert subprocess.run(["sh", "-n", str(path)], check=False).returncode == 0
    first, second = path.read_text().splitlines()[:2]
    sourced = path.name in ("common.sh", "slurm.sh")
    assert (
        first.startswith("# Sourced by")
        if sourced
        else first == "#!/bin/sh" and second.startswith("# ")
    )
    assert os.access(path, os.X_OK) != sourced
    if shellcheck := shutil.which("shellcheck"):
        done = subprocess.run(
            [shellcheck, "-S", "warning", "-x", str(path)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout


def resolve(
    tmp_path: Path, constraints: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    """What the check of the extras says in a copy of the project with these constraints."""
    (tmp_path / "launch").mkdir()
    (tmp_path / ".venv").mkdir()
    shutil.copy(ROOT / "launch/resolve.py", tmp_path / "launch")
    (tmp_path / "setup.cfg").write_text(
        "[options]\ninstall_requires =\n    a>=1\n[options.extras_require]\nserve =\n    b>=2\n    c; sys_platform == 'win32'\n"
    )
    (tmp_path / "constraints.txt").write_text(constraints)
    settings = {
        **os.environ,
        "UV_CACHE_DIR": str(tmp_path / "cache"),
        "UV_HTTP_RETRIES": "0",
        **environment,
    }
    command = [sys.executable, str(tmp_path / "launch/resolve.py")]
    return subprocess.run(command, capture_output=True, text=True, env=settings, check=False)


def wheel(folder: Path, name: str, version: str, needs: str = "") -> None:
    """A package's file that holds nothing but what it needs."""
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as package:
        package.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}"
        )
        package.writestr(
            f"{info}/WHEEL",
            "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        package.writestr(f"{info}/RECORD", "")


@pytest.mark.parametrize(("pinned", "code"), [("a==1.0", 0), ("a==2.0", 1)])
def test_versions_that_cannot_be_installed_together_are_named_and_fail_the_check(
    tmp_path, pinned, code
):
    packages = tmp_path / "packages"
    packages.mkdir()
    wheel(packages, "a", "1.0")
    wheel(packages, "a", "2.0")
    wheel(packages, "b", "2.1", "Requires-Dist: a<2\n")
    found = resolve(tmp_path, f"{pinned}\n", UV_FIND_LINKS=str(packages), UV_NO_INDEX="1")
    assert found.returncode == code, found.stdout
    assert ("every extra can be installed" in found.stdout) == (code == 0)
    assert (
        "the extras cannot be installed" in found.stdout
        and "b" in found.stdout
        and "a<2" in found.stdout
    ) == (code == 1)


def test_an_index_that_cannot_be_reached_is_said_and_fails_nothing(tmp_path):
    found = resolve(tmp_path, "a==1.0\n", PIP_INDEX_URL="http://127.0.0.1:9/simple")
    assert found.returncode == 0
    assert "was not checked: the package index cannot be used" in found.stdout
    assert not (tmp_path / ".venv/resolved").exists()
