"""An editor's edits of a benchmark, in the public layout of folders; a run that was interrupted
makes only what is not there."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data_pipeline.flow import in_order
from data_pipeline.generators import WITHOUT_EFFECT, Generator, GeneratorClient, open_generator
from eval.cache import append_lines, cut_torn_line, read_jsonl
from eval.editors.items import EditItem
from rrm.errors import InputError
from rrm.images import inside, open_image, png_bytes
from rrm.records import Failure
from rrm.runtime.disk import written_at_once
from rrm.runtime.stage import write_json

FAILURES, SETTINGS = "failures.jsonl", "editor.json"
EDITS_IN_FLIGHT = 8


@dataclass(frozen=True)
class Sampled:
    """How many edits were asked for, were there already, were made, and could not be made."""

    n: int
    kept: int
    made: int
    failed: int


def is_whole(path: Path) -> bool:
    """Whether there is an image at the path that can be read to its end."""
    try:
        open_image(path)
    except InputError:
        return False
    return True


def claim(folder: Path, editor: Generator, seed: int) -> None:
    """Notes in the folder which editor its edits are of. Raises InputError where it holds edits by
    other settings."""
    wanted = {**editor.model_dump(mode="json", exclude=WITHOUT_EFFECT), "seed": seed}
    path = folder / SETTINGS
    if not path.is_file():
        if any(folder.rglob("*.png")):
            raise InputError(
                f"{folder} holds edits and no {SETTINGS} that says whose; give another --name, or move them away."
            )
        write_json(path, wanted)
        return
    had: Any = json.loads(path.read_text(encoding="utf-8"))
    differing = sorted(key for key in wanted if had.get(key) != wanted[key])
    if differing:
        raise InputError(
            f"{folder} holds edits that were made with another {', '.join(differing)}; give another --name."
        )


def save(path: Path, payload: bytes) -> None:
    """Writes the file at once or not at all."""
    with written_at_once(path) as partial:
        partial.write_bytes(payload)


def failure_line(item: EditItem, seed: int, failure: Failure) -> dict[str, Any]:
    """What failures.jsonl says of an edit that could not be made."""
    return {
        "item_id": item.item_id,
        "output": item.output,
        "seed": seed,
        "failure": failure.model_dump(),
    }


def settle_failures(folder: Path) -> None:
    """Leaves in failures.jsonl the last line of every edit that is still not there."""
    path = folder / FAILURES
    cut_torn_line(path)
    if not path.is_file():
        return
    last = {str(line["output"]): line for _, line in read_jsonl(path)}
    left = [line for output, line in last.items() if not is_whole(inside(folder, output))]
    if left:
        save(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in left).encode())
    else:
        path.unlink()


async def make_one(
    item: EditItem, client: GeneratorClient, folder: Path, seed: int
) -> bool | Failure:
    """True where the edit was made, False where it was there, or why there is none."""
    path = inside(folder, item.output)
    if is_whole(path):
        return False
    made = await client.edit(item.source, item.instruction, seed)
    if isinstance(made, Failure):
        return made
    save(path, png_bytes(made))
    return True


async def sample_with(
    client: GeneratorClient,
    items: Iterable[EditItem],
    folder: Path,
    seed: int,
    in_flight: int = EDITS_IN_FLIGHT,
) -> Sampled:
    """Makes every edit that is not there; each that fails is a line of failures.jsonl and is tried
    again by the next run.

    Raises InputError where the server is gone for more edits in a row than are in flight.
    """
    settle_failures(folder)
    kept = made = failed = gone = 0

    async def work(item: EditItem) -> tuple[EditItem, bool | Failure]:
        return item, await make_one(item, client, folder, seed)

    with tqdm(desc="edit", unit="edit") as bar:
        async for item, outcome in in_order(items, work, in_flight):
            bar.update()
            if isinstance(outcome, Failure):
                failed += 1
                append_lines(
                    folder / FAILURES,
                    [json.dumps(failure_line(item, seed, outcome), ensure_ascii=False)],
                )
                gone = gone + 1 if outcome.kind == "server_gone" else 0
                if gone > in_flight:
                    raise InputError(
                        f"The editor's server does not answer ({outcome.detail}); start it, and run the same again."
                    )
            else:
                gone = 0
                made, kept = made + outcome, kept + (not outcome)
    settle_failures(folder)
    return Sampled(kept + made + failed, kept, made, failed)


async def sample(
    items: Iterable[EditItem], editor: Generator, folder: Path, seed: int | None = None
) -> Sampled:
    """The edits of all items by one editor, below `folder`; the seed is the editor's first unless
    given."""
    chosen = editor.seeds[0] if seed is None else seed
    claim(folder, editor, chosen)
    client = open_generator(editor)
    try:
        return await sample_with(client, items, folder, chosen)
    finally:
        await client.close()
