"""task → candidates: editors make edits of every task, several seeds each."""

from __future__ import annotations

from collections.abc import Iterator

from tqdm import tqdm

from data_pipeline.duplicates import look_of
from data_pipeline.flow import in_order
from data_pipeline.generators import Generator, GeneratorClient, open_generator
from data_pipeline.intake import short_hash
from data_pipeline.ledger import Ledger, Seen
from data_pipeline.run_state import RunState
from data_pipeline.settings import DataConfig
from data_pipeline.stored_images import unreadable
from rrm.errors import InputError
from rrm.images import ImageStore, fit
from rrm.records import Failure, Quarantined, Task

EDITS_IN_FLIGHT = 8


async def edit(
    task: Task,
    editor: Generator,
    seed: int,
    client: GeneratorClient,
    ledger: Ledger,
    store: ImageStore,
    max_pixels: int,
) -> Seen | Failure:
    """The edit as it lies in the store, from the ledger where it was made before, or why there is
    none."""
    key = editor.key(task.source, task.instruction, seed)
    known = ledger.image(key)
    if isinstance(known, Seen) and store.path(known.digest).exists():
        return known
    try:
        source = store.get(task.source)
    except InputError as error:
        return unreadable(store, [task.source], error)
    made = await client.edit(source, task.instruction, seed)
    if isinstance(made, Failure):
        return made
    image = fit(made.convert("RGB"), max_pixels)
    seen = Seen(store.add(image), image.size, look_of(image).to_bytes())
    ledger.add_images([(key, seen)])
    return seen


async def make_candidates(
    config: DataConfig, state: RunState, ledger: Ledger, store: ImageStore
) -> None:
    """Every editor's edits of every chosen task, into the run state, unless that was done."""
    if not config.generators or state.result("make") is not None:
        return
    state.clear_quarantine("make")
    made = failed = 0
    total = state.to_edit_count()
    for editor in config.generators:
        client = open_generator(editor)

        async def work(
            row: tuple[Task, int], editor: Generator = editor, client: GeneratorClient = client
        ) -> tuple[Task, int, Seen | Failure]:
            task, seed = row
            return (
                task,
                seed,
                await edit(task, editor, seed, client, ledger, store, config.max_pixels),
            )

        def rows(editor: Generator = editor) -> Iterator[tuple[Task, int]]:
            for task in state.tasks_to_edit():
                for seed in editor.seeds:
                    yield task, seed

        try:
            bar = tqdm(total=total * len(editor.seeds), desc=f"edit: {editor.name}", unit="edit")
            async for task, seed, seen in in_order(rows(), work, EDITS_IN_FLIGHT):
                bar.update()
                if isinstance(seen, Failure):
                    failed += 1
                    evidence = {
                        "instruction": task.instruction,
                        "source": task.source,
                        "editor": editor.name,
                        "seed": seed,
                    }
                    key = f"{task.task_id}:{editor.name}:{seed}"
                    state.quarantine(
                        [Quarantined(stage="make", key=key, failure=seen, evidence=evidence)]
                    )
                else:
                    made += state.add_quadruple(
                        short_hash(task.task_id, seen.digest),
                        task.task_id,
                        seen.digest,
                        editor.name,
                    )
            bar.close()
        finally:
            await client.close()
    state.finish("make", {"made": made, "failed": failed})
