"""A few judged edits with their images, for people to look at."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.benches import BenchRow, shown
from eval.index import PairIndex
from eval.metrics import ScoredPair
from eval.summary import HEADLINE, scored_pairs
from rrm.images import png_bytes
from rrm.records import Judgement
from rrm.runtime.stage import write_json

PAIRS = 3


def choose(pairs: Sequence[PairIndex], scores: Sequence[ScoredPair]) -> list[PairIndex]:
    """Three pairs of the headline dimension, of three sources: two ranked right, of different task types, and one that was not.

    Where there are too few of a kind, the first others fill up.
    """
    everything = list(zip(pairs, scores, strict=True))
    known = [(pair, score) for pair, score in everything if pair.dimension == HEADLINE] or everything
    right = [pair for pair, score in known if score.right]
    wrong = [pair for pair, score in known if not score.right]
    other_kind = [pair for pair in right if pair.task_type != right[0].task_type]
    order = [*right[:1], *other_kind[:1], *wrong[:1], *right, *wrong]
    chosen: dict[str, PairIndex] = {}
    for pair in order:
        chosen.setdefault(pair.source, pair)
    return list(chosen.values())[:PAIRS]


def write_examples(
    out: Path,
    model: str,
    pairs: Sequence[PairIndex],
    judgements: Mapping[str, Judgement],
    rows: Callable[[], Iterator[BenchRow]],
) -> None:
    """Writes `out/examples.json` and the images it names: {model, pairs: [{instruction, task_type, source, edits: […]}]}.

    The first of a pair's two edits is the one that people prefer; each has its image's path (relative to `out`) and judgement.
    """
    decided = [pair for pair in pairs if pair.decided]
    chosen = {pair.number: pair for pair in choose(decided, scored_pairs(decided, judgements))}
    folder = out / "examples"
    folder.mkdir(parents=True, exist_ok=True)
    found: list[dict[str, Any]] = []
    for row in rows():
        pair = chosen.get(row.number)
        if pair is None:
            continue
        names = [f"examples/{row.number}-{part}.png" for part in ("source", "preferred", "other")]
        for name, image in zip(names, (row.source, *shown(row, "ba" if pair.label == "b" else "ab")), strict=True):
            (out / name).write_bytes(png_bytes(image))
        edits = [
            {"image": name, "preferred": index == 0, "judgement": judgements[edit_id].model_dump(mode="json")}
            for index, (name, edit_id) in enumerate(zip(names[1:], pair.preferred_first, strict=True))
        ]
        found.append({"instruction": row.instruction, "task_type": row.task_type, "source": names[0], "edits": edits})
        if len(found) == len(chosen):
            break
    write_json(out / "examples.json", {"model": model, "pairs": found})
