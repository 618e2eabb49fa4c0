"""Human preference pairs as GCPO reads them: two adjacent rows each, in batches that never tear a
pair apart."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import torch
from torch.utils.data import Sampler

from rrm.errors import InputError
from rrm.images import ImageStore
from rrm.prompts import Style, is_holistic
from rrm.records import PreferencePair
from rrm.verifier.messages import judge_messages
from rrm.verifier.tables import read_table


def read_pairs(data: Path) -> list[PreferencePair]:
    """The decided pairs of preferences.parquet. Raises InputError where it is missing, empty,
    damaged, or holds a "same"."""
    path = data / "preferences.parquet"
    pairs = read_table(path, PreferencePair)
    if not pairs:
        raise InputError(f"{path} is empty; GCPO needs human preference pairs.")
    if any(pair.label == "same" for pair in pairs):
        raise InputError(
            f"{path} holds pairs labelled 'same'; GCPO leaves them out: keep them in same.parquet."
        )
    return pairs


def draw_pairs(pairs: list[PreferencePair], count: int | None, seed: int) -> list[PreferencePair]:
    """`count` of the pairs, drawn by `seed` (the same draw holds every smaller one), or all. Raises
    InputError where there are fewer."""
    if count is None:
        return pairs
    if count > len(pairs):
        raise InputError(
            f"pair_count asks for {count} pairs, and there are {len(pairs)}; lower it."
        )
    return [
        pairs[i]
        for i in torch.randperm(len(pairs), generator=torch.Generator().manual_seed(seed))[
            :count
        ].tolist()
    ]


def pair_rows(pair: PreferencePair, style: Style, store: ImageStore) -> list[dict[str, Any]]:
    """The pair as two adjacent rows of trl's prompt form, the preferred image first."""
    edits = (pair.edited_a, pair.edited_b) if pair.label == "a" else (pair.edited_b, pair.edited_a)
    row = {
        "prompt": judge_messages(style, pair.instruction, pair.principles, pair.requirement),
        "count": 0 if is_holistic(style) else len(pair.principles),
        "pair_id": pair.pair_id,
    }
    return [
        {**row, "side": side, "images": [str(store.path(pair.source)), str(store.path(edit))]}
        for side, edit in zip(("preferred", "other"), edits, strict=True)
    ]


def build_dataset(pairs: list[PreferencePair], style: Style, store: ImageStore) -> datasets.Dataset:
    """Rows 2i and 2i + 1 are pair i. Raises InputError for a pair without principles, unless the
    style asks for none."""
    for pair in pairs:
        if not pair.principles and not is_holistic(style):
            raise InputError(
                f"The pair {pair.pair_id!r} has no principles to judge by; leave it out, or use a holistic base."
            )
    dataset = datasets.Dataset.from_list(
        [row for pair in pairs for row in pair_rows(pair, style, store)]
    )
    return dataset.cast_column("images", datasets.List(datasets.Image()))


class PairSampler(Sampler[int]):
    """Row indices of a whole run, for pairs in adjacent rows (2i preferred, 2i + 1 other): pairs
    are permuted, never torn apart.

    The pairs come as one permutation after another, without a gap: every `total` pairs in a row are
    each pair once, and a batch that one permutation does not fill goes on with the next (which may
    bring it a pair for the second time: two more groups). Each of the `batches` of `pairs` pairs is
    given `repeats` times before the next, every row `traces` times in a run.
    """

    def __init__(self, total: int, traces: int, pairs: int, repeats: int, batches: int, seed: int):
        self.total, self.traces, self.pairs = total, traces, pairs
        self.repeats, self.batches, self.seed = repeats, batches, seed

    def order(self) -> Iterator[int]:
        """Infinite stream of pair indices."""
        generator = torch.Generator().manual_seed(self.seed)
        while True:
            yield from torch.randperm(self.total, generator=generator).tolist()

    def __iter__(self) -> Iterator[int]:
        order = self.order()
        for _ in range(self.batches):
            batch = list(islice(order, self.pairs))
            for _ in range(self.repeats):
                for pair in batch:
                    for row in (2 * pair, 2 * pair + 1):
                        yield from [row] * self.traces

    def __len__(self) -> int:
        return self.batches * self.repeats * self.pairs * 2 * self.traces
