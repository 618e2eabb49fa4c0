"""GCPO's pairs: what is read, what is refused, and that no batch tears one apart."""

from __future__ import annotations

from itertools import pairwise

import pyarrow.parquet as pq
import pytest

from rrm.errors import InputError
from rrm.images import ImageStore
from rrm.verifier.gcpo.pairs import PairSampler, build_dataset, read_pairs


def test_pairs_stay_together_under_shuffling():
    sampler = PairSampler(total=6, traces=3, pairs=2, repeats=2, batches=3, seed=1)
    rows = list(sampler)
    assert len(rows) == len(sampler) == 3 * 2 * 2 * 2 * 3
    for start in range(0, len(rows), 6):
        first, second = set(rows[start : start + 3]), set(rows[start + 3 : start + 6])
        assert len(first) == len(second) == 1
        assert first.pop() + 1 == second.pop()
        assert rows[start] % 2 == 0
    assert rows[:12] == rows[12:24]
    assert sorted(set(rows)) == list(range(12))
    assert rows[::6] != sorted(rows[::6])
    assert rows == list(sampler)


def test_a_batch_that_an_epoch_does_not_fill_goes_on_with_the_next_epoch():
    # 5 pairs, 2 per batch: 10 batches are 4 epochs; batch 3 holds the last pair of the first and
    # the first of the second
    rows = list(PairSampler(total=5, traces=1, pairs=2, repeats=1, batches=10, seed=3))
    pairs = [row // 2 for row in rows[::2]]
    epochs = [pairs[i : i + 5] for i in range(0, 20, 5)]
    assert [sorted(epoch) for epoch in epochs] == [[0, 1, 2, 3, 4]] * 4
    assert any(a != b for a, b in pairwise(epochs))
    assert rows == [row for pair in pairs for row in (2 * pair, 2 * pair + 1)]


def test_preferences_that_are_none_are_refused(tmp_path, training_data):
    table = pq.read_table(training_data / "preferences.parquet")
    with pytest.raises(InputError, match="There is no"):
        read_pairs(tmp_path)
    pq.write_table(table.slice(0, 0), tmp_path / "preferences.parquet")
    with pytest.raises(InputError, match="needs human preference pairs"):
        read_pairs(tmp_path)
    same = [{**table.slice(0, 1).to_pylist()[0], "label": "same"}]
    pq.write_table(table.from_pylist(same, table.schema), tmp_path / "preferences.parquet")
    with pytest.raises(InputError, match="labelled 'same'"):
        read_pairs(tmp_path)


def test_a_pair_without_principles_is_refused_unless_the_judge_is_holistic(tmp_path, training_data):
    pair = read_pairs(training_data)[0].model_copy(update={"principles": ()})
    store = ImageStore(training_data / "images")
    with pytest.raises(InputError, match="has no principles"):
        build_dataset([pair], "brief", store)
    assert build_dataset([pair], "brief_holistic", store)["count"] == [0, 0]
