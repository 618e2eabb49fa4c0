"""A stage of the job: skipped when it is done, resumed when it was interrupted, started afresh when
what it depends on changed."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from rrm.errors import InputError, NothingMade
from rrm.runtime.disk import disk_troubles_named, written_at_once
from rrm.runtime.lock import locked
from rrm.runtime.logs import set_up
from rrm.runtime.screen import guarded_screen
from rrm.runtime.secrets import mask
from rrm.runtime.signals import closed_when_killed

log = logging.getLogger(__name__)

IMAGES = (".png", ".jpg", ".jpeg", ".webp")
DONE, STARTED = "stage.json", "started.json"


class Digested(Protocol):
    """What a stage needs of its config."""

    def digest(self) -> str:
        """A hash of every value that the result depends on."""


def ends_of(file: Path, size: int = 1 << 20) -> bytes:
    """A hash of the file's first and last megabyte: enough to tell checkpoints apart without
    reading all of a large one."""
    with file.open("rb") as stream:
        first = stream.read(size)
        stream.seek(max(size, file.stat().st_size - size))
        return hashlib.sha256(first + stream.read()).digest()


def fingerprint_of(path: Path) -> str:
    """A hash that changes when the stage folder, plain folder or file at `path` holds something
    else.

    Raises InputError where nothing is there.
    """
    if (path / DONE).is_file():
        try:
            return str(read_note(path / DONE, "fingerprint")["fingerprint"])
        except ValueError as error:
            raise InputError(f"{error}; run the stage that makes {path} again.") from None
    for folder in (path, path.parent):  # a stage's folder, or a file or folder of its
        if (folder / STARTED).is_file():
            raise InputError(
                f"{folder} is unfinished; run the stage that makes it to its end first."
            )
    if path.exists():
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        whole = hashlib.sha256()
        for file in files:
            stat = file.stat()
            # a folder of images can be too large to be read for this
            content = (
                str(stat.st_mtime_ns).encode() if file.suffix.lower() in IMAGES else ends_of(file)
            )
            whole.update(f"{file.relative_to(path)}|{stat.st_size}|".encode() + content)
        return whole.hexdigest()[:16]
    raise InputError(
        f"{path} does not exist; run the stage that makes it first, or correct the path in the config."
    )


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
    kilobytes = max(
        resource.getrusage(who).ru_maxrss
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return round(kilobytes / (1024 * 1024 if sys.platform == "darwin" else 1024), 1)


def write_text(path: Path, text: str) -> None:
    """Writes the text at once or not at all, with keys and credentials masked."""
    with written_at_once(path) as partial:
        partial.write_text(mask(text), encoding="utf-8")


def read_note(path: Path, *keys: str) -> dict[str, Any]:
    """The JSON object at `path`. Raises ValueError, in words, where it is damaged: no JSON, no
    object, or without these keys."""
    try:
        note = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error})") from None
    if not isinstance(note, dict) or set(keys) - set(note):
        raise ValueError(f"{path} is damaged (it lacks {' and '.join(keys)})")
    return note


def write_json(path: Path, value: Any) -> None:
    """Writes the value at once or not at all, with keys and credentials masked."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


@contextmanager
def clock(started: Path, fingerprint: str, before: float) -> Iterator[Callable[[], float]]:
    """Seconds spent so far, interrupted attempts included; noted in `started` when the block is
    left by an exception."""
    begin = time.monotonic()

    def spent() -> float:
        return round(before + time.monotonic() - begin, 1)

    try:
        yield spent
    except BaseException:
        if started.exists():
            with suppress(OSError):  # on a full disk only the seconds are lost
                write_json(started, {"fingerprint": fingerprint, "seconds": spent()})
        raise


def previous(out: Path) -> Path:
    """Where the folder's content goes when a stage is run again with another config or other
    inputs."""
    return out.with_name(out.name + ".previous")


def set_aside(out: Path, why: str = "config or inputs changed") -> None:
    """Moves the folder to `previous(out)`, in place of what lay there, and says why. The caller
    holds the folder's lock."""
    target = previous(out)
    older = target.with_name(target.name + ".old")
    if target.exists():  # deleted last: a kill in between leaves both
        shutil.rmtree(older, ignore_errors=True)
        target.rename(older)
    out.rename(target)
    shutil.rmtree(older, ignore_errors=True)
    log.info("%s: what %s held is now in %s", why, out, target)


def remove_if_nothing_was_made(out: Path) -> None:
    """Deletes the folder of a stage that was refused before it had made anything."""
    if not any(p.is_file() and p.name != STARTED and p.stat().st_size for p in out.rglob("*")):
        shutil.rmtree(out)


def account(taken: int, made: int, failed: Mapping[str, int]) -> dict[str, Any]:
    """What became of a stage's rows, for the key "account" of its result: rows in, rows out, and
    how many failed by kind."""
    return {
        "in": taken,
        "out": made,
        "failed": {kind: count for kind, count in sorted(failed.items()) if count},
    }


def account_line(rows: Mapping[str, Any]) -> str:
    """An account in words: "12 rows in, 9 out, 3 failed: 2 timed_out, 1 unparseable"."""
    kinds = ", ".join(f"{count} {kind}" for kind, count in rows["failed"].items())
    failed = sum(rows["failed"].values())
    return f"{rows['in']} rows in, {rows['out']} out, {failed} failed{': ' if kinds else ''}{kinds}"


Work = Callable[[Path], dict[str, Any]]
"""Makes a stage's files in the folder, carrying on from what it finds there, and returns the
stage's result."""


def run_stage(
    name: str,
    out: str | Path,
    config: Digested,
    inputs: Sequence[str | Path],
    work: Work,
    afresh: str | None = None,
) -> dict[str, Any]:
    """Runs `work(out)` unless `out` already holds the result for this config and these inputs;
    returns its result.

    `out/stage.json` is written last: {name, fingerprint, seconds, peak_rss_mb, result}. Work that
    was interrupted finds its own files in `out` and carries on from them; files made from another
    config or other inputs are set aside first, and so are all where `afresh` says why. The folder
    is locked from before anything is looked at until the end.

    A result with an "account" is printed as the last line. Raises NothingMade where no row came out
    (the files stay, the stage does not count as done), and InputError where the folder is another
    run's, state is damaged, an input changed while the stage ran, or a disk failed: what was
    finished is kept, and the same command carries on.
    """
    with disk_troubles_named(out), locked(out), closed_when_killed():
        return run_locked(name, Path(out), config, inputs, work, afresh)


def run_locked(
    name: str,
    out: Path,
    config: Digested,
    inputs: Sequence[str | Path],
    work: Work,
    afresh: str | None,
) -> dict[str, Any]:
    """`run_stage` in a folder that no other run can get at."""
    prints = [fingerprint_of(Path(path)) for path in inputs]
    fingerprint = hashlib.sha256("|".join([name, config.digest(), *prints]).encode()).hexdigest()[
        :16
    ]
    if afresh is not None and out.exists():
        set_aside(out, afresh)
    done, started = (read_own(out / note, fingerprint) for note in (DONE, STARTED))
    if done is not None and done["fingerprint"] == fingerprint:
        log.info("[%s] done already: %s", name, out)
        say_account(name, done["result"])
        return dict(done["result"])
    if (
        int(os.environ.get("RANK", "0")) > 0
    ):  # the first process of a distributed job keeps the books
        return work(out)
    if (
        out.exists()
        and any(out.iterdir())
        and (started is None or started["fingerprint"] != fingerprint)
    ):
        if done is None and started is None:
            raise InputError(
                f"{out} holds files of something else; name an empty folder in the config's 'out'."
            )
        set_aside(out)
        started = None
    before = float(started["seconds"]) if started else 0.0
    write_json(out / STARTED, {"fingerprint": fingerprint, "seconds": before})
    log.info("[%s] %s: %s", name, "carries on" if started else "starts", out)
    with clock(out / STARTED, fingerprint, before) as spent:
        try:
            result = work(out)
        except Exception as error:
            check_unchanged(inputs, prints, out, error)
            if isinstance(error, InputError):
                remove_if_nothing_was_made(out)
            raise
        check_unchanged(inputs, prints, out)
        if result.get("account", {}).get("out") == 0:
            raise NothingMade(
                f"[{name}] {account_line(result['account'])}; {out} holds what can be said of them"
            )
        report = {
            "name": name,
            "fingerprint": fingerprint,
            "seconds": spent(),
            "peak_rss_mb": peak_rss_mb(),
        }
    write_json(out / DONE, {**report, "result": result})
    (out / STARTED).unlink()
    log.info("[%s] %.0f s, peak %.0f MB → %s", name, report["seconds"], report["peak_rss_mb"], out)
    say_account(name, result)
    return result


def read_own(path: Path, fingerprint: str) -> dict[str, Any] | None:
    """The note of an earlier run in a stage's folder, None where there is none. Raises InputError
    where it is damaged."""
    if not path.is_file():
        return None
    keys = ("fingerprint", "result") if path.name == DONE else ("fingerprint", "seconds")
    try:
        return read_note(path, *keys)
    except ValueError as error:
        note = json.dumps({"fingerprint": fingerprint, "seconds": 0.0})
        raise InputError(
            f"{error}, so it cannot be told what {path.parent} was made from: if from this config and these inputs, delete"
            f" the file and write {note} into {path.parent / STARTED}, and the run carries on at no cost; if not, move"
            f" {path.parent} away."
        ) from None


def check_unchanged(
    inputs: Sequence[str | Path], prints: Sequence[str], out: Path, error: Exception | None = None
) -> None:
    """Raises InputError where an input is no longer what it was when the stage started; `error` is
    what came of that."""
    for path, before in zip(inputs, prints, strict=True):
        try:
            same = fingerprint_of(Path(path)) == before
        except InputError:
            same = False
        if not same:
            raise InputError(
                f"{path} was changed while the stage ran, so that {out} would mix the old with the new; run the same"
                " command again: it makes the whole anew from what is there now."
            ) from error


def say_account(name: str, result: Mapping[str, Any]) -> None:
    """Prints what became of the stage's rows, if it has any."""
    if "account" in result:
        log.info("[%s] %s", name, account_line(result["account"]))


def command(run: Callable[[], None]) -> None:
    """Runs a command's main function and ends the process with one of the exit codes.

    0: done. 1: nothing came out (NothingMade). 2: bad input, or refused: an InputError, or a disk
    that does not take what is written, as one sentence on stderr. 130: stopped by Ctrl-C, SIGTERM
    or a terminal that closed; the same command carries on. Anything else is a fault of this
    software, and leaves its traceback (1). Nothing that is printed shows a key or steers the
    terminal.
    """
    set_up()
    with guarded_screen():
        try:
            with closed_when_killed(), disk_troubles_named():
                run()
        except (NothingMade, InputError) as error:
            print(f"error: {error}", file=sys.stderr)
            raise SystemExit(1 if isinstance(error, NothingMade) else 2) from None
        except KeyboardInterrupt:
            print("stopped; run the same command again to carry on", file=sys.stderr)
            raise SystemExit(130) from None
