"""A stage of the job: skipped when it is done, resumed when it was interrupted, started afresh when what it depends on changed."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rrm.config import Config
from rrm.errors import InputError
from rrm.lock import locked

IMAGES = (".png", ".jpg", ".jpeg", ".webp")
DONE, STARTED = "stage.json", "started.json"


def ends_of(file: Path, size: int = 1 << 20) -> bytes:
    """A hash of the file's first and last megabyte: enough to tell checkpoints apart without reading all of a large one."""
    with file.open("rb") as stream:
        first = stream.read(size)
        stream.seek(max(size, file.stat().st_size - size))
        return hashlib.sha256(first + stream.read()).digest()


def fingerprint_of(path: Path) -> str:
    """A hash that changes when the stage folder, plain folder or file at `path` holds something else.

    Raises InputError where nothing is there.
    """
    if (path / DONE).is_file():
        return str(json.loads((path / DONE).read_text())["fingerprint"])
    if (path / STARTED).is_file():
        raise InputError(f"{path} is unfinished; run the stage that makes it to its end first.")
    if path.exists():
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        whole = hashlib.sha256()
        for file in files:
            stat = file.stat()
            # a folder of images can be too large to be read for this
            content = str(stat.st_mtime_ns).encode() if file.suffix.lower() in IMAGES else ends_of(file)
            whole.update(f"{file.relative_to(path)}|{stat.st_size}|".encode() + content)
        return whole.hexdigest()[:16]
    raise InputError(f"{path} does not exist; run the stage that makes it first, or correct the path in the config.")


def content_digest(path: Path) -> str:
    """The SHA-256 of every file below a folder, names included."""
    total = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        total.update(str(file.relative_to(path)).encode())
        with file.open("rb") as content:
            total.update(hashlib.file_digest(content, "sha256").digest())
    return total.hexdigest()


def peak_rss_mb() -> float:
    """The largest resident set that this process or one of its ended children had, in MB."""
    kilobytes = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return round(kilobytes / (1024 * 1024 if sys.platform == "darwin" else 1024), 1)


def write_json(path: Path, value: Any) -> None:
    """Writes the value at once or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    partial.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n")
    partial.replace(path)


def raise_interrupt(signum: int, frame: object) -> None:
    """A polite kill ends like Ctrl-C, so that the stage can note its time."""
    raise KeyboardInterrupt


@contextmanager
def closed_when_killed() -> Iterator[None]:
    """While the block lasts a polite kill, or a terminal that closes, ends it like Ctrl-C: what it has started is ended with it.

    A signal that is ignored (nohup) stays ignored. Outside the main thread, which alone is told of signals, it does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {which: signal.getsignal(which) for which in (signal.SIGTERM, signal.SIGHUP)}
    taken = [which for which, handler in before.items() if handler is not signal.SIG_IGN]
    for which in taken:
        signal.signal(which, raise_interrupt)
    try:
        yield
    finally:
        for which in taken:
            signal.signal(which, before[which] or signal.SIG_DFL)


@contextmanager
def clock(started: Path, fingerprint: str, before: float) -> Iterator[Callable[[], float]]:
    """Seconds spent so far, interrupted attempts included; noted in `started` when the block is left by an exception."""
    begin = time.monotonic()

    def spent() -> float:
        return round(before + time.monotonic() - begin, 1)

    try:
        yield spent
    except BaseException:
        if started.exists():
            write_json(started, {"fingerprint": fingerprint, "seconds": spent()})
        raise


def previous(out: Path) -> Path:
    """Where the folder's content goes when a stage is run again with another config or other inputs."""
    return out.with_name(out.name + ".previous")


def set_aside(out: Path, why: str = "config or inputs changed") -> None:
    """Moves the folder to `previous(out)`, in place of what lay there, and says why."""
    if previous(out).exists():
        shutil.rmtree(previous(out))
    out.rename(previous(out))
    print(f"{why}: what {out} held is now in {previous(out)}", flush=True)


def remove_if_nothing_was_made(out: Path) -> None:
    """Deletes the folder of a stage that was refused before it had made anything."""
    if not any(p.is_file() and p.name != STARTED and p.stat().st_size for p in out.rglob("*")):
        shutil.rmtree(out)


def run_stage(
    name: str,
    out: str | Path,
    config: Config,
    inputs: Sequence[str | Path],
    work: Callable[[Path], dict[str, Any]],
    afresh: str | None = None,
) -> dict[str, Any]:
    """Runs `work(out)` unless `out` already holds the result for this config and these inputs; returns its result.

    `out/stage.json` is written last: {name, fingerprint, seconds, peak_rss_mb, result}. Work that was interrupted finds
    its own files in `out` and carries on from them; files made from another config or other inputs are set aside first,
    and so are all where `afresh` says why. The folder is locked from before anything is looked at until the end.
    """
    out = Path(out)
    with locked(out):
        return run_locked(name, out, config, inputs, work, afresh)


def run_locked(
    name: str,
    out: Path,
    config: Config,
    inputs: Sequence[str | Path],
    work: Callable[[Path], dict[str, Any]],
    afresh: str | None,
) -> dict[str, Any]:
    """`run_stage` in a folder that no other run can get at."""
    parts = [name, config.digest(), *(fingerprint_of(Path(path)) for path in inputs)]
    fingerprint = hashlib.sha256("|".join(parts).encode()).hexdigest()[:16]
    if afresh is not None and out.exists():
        set_aside(out, afresh)
    if (out / DONE).is_file():
        done = json.loads((out / DONE).read_text())
        if done["fingerprint"] == fingerprint:
            print(f"[{name}] done already: {out}")
            return dict(done["result"])
    if int(os.environ.get("RANK", "0")) > 0:  # the first process of a distributed job keeps the books
        return work(out)
    started = json.loads((out / STARTED).read_text()) if (out / STARTED).is_file() else None
    if out.exists() and (started is None or started["fingerprint"] != fingerprint):
        if any(out.iterdir()) and not (out / DONE).is_file() and started is None:
            raise InputError(f"{out} holds files of something else; name an empty folder in the config's 'out'.")
        set_aside(out)
        started = None
    before = float(started["seconds"]) if started else 0.0
    write_json(out / STARTED, {"fingerprint": fingerprint, "seconds": before})
    print(f"[{name}] {'carries on' if started else 'starts'}: {out}", flush=True)
    signal.signal(signal.SIGTERM, raise_interrupt)
    with clock(out / STARTED, fingerprint, before) as spent:
        try:
            result = work(out)
        except InputError:
            remove_if_nothing_was_made(out)
            raise
        report = {"name": name, "fingerprint": fingerprint, "seconds": spent(), "peak_rss_mb": peak_rss_mb()}
    write_json(out / DONE, {**report, "result": result})
    (out / STARTED).unlink()
    print(f"[{name}] {report['seconds']:.0f} s, peak {report['peak_rss_mb']:.0f} MB → {out}", flush=True)
    return result


def command(run: Callable[[], None]) -> None:
    """Runs a command's main function; an InputError becomes one sentence on stderr and exit code 2."""
    try:
        run()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("stopped; run the same command again to carry on", file=sys.stderr)
        raise SystemExit(130) from None
