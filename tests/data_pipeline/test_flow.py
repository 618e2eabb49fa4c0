"""Rows through an asynchronous function."""

import asyncio
import random

import pytest

from data_pipeline.flow import in_order


def collect(rows, work, window):
    async def go():
        return [result async for result in in_order(rows, work, window)]

    return asyncio.run(go())


@pytest.mark.parametrize("window", [1, 3, 50])
def test_results_come_in_the_order_of_the_rows_whoever_is_first(window):
    rng = random.Random(0)

    async def work(row):
        await asyncio.sleep(rng.uniform(0, 0.003))
        return row * row

    assert collect(range(60), work, window) == [row * row for row in range(60)]


def test_no_more_rows_are_held_than_the_window():
    taken = given = most = 0

    def rows():
        nonlocal taken, most
        for row in range(100):
            taken += 1
            most = max(most, taken - given)
            yield row

    async def work(row):
        await asyncio.sleep(0.001 if row else 0.05)
        return row

    async def go():
        nonlocal given
        async for _ in in_order(rows(), work, 7):
            given += 1

    asyncio.run(go())
    assert given == 100
    assert most <= 8


def test_after_an_error_no_row_is_begun_and_those_under_way_are_awaited():
    begun, ended = [], []

    async def work(row):
        begun.append(row)
        await asyncio.sleep(0.001 * row)
        if row == 5:
            raise ValueError("five")
        ended.append(row)
        return row

    seen = []

    async def go():
        async for row in in_order(range(1000), work, 8):
            seen.append(row)

    with pytest.raises(ValueError, match="five"):
        asyncio.run(go())
    assert seen == [0, 1, 2, 3, 4]
    assert set(begun) - set(ended) == {5}
    assert len(begun) < 20


def test_no_rows_give_no_results():
    async def work(row):
        return row

    assert collect([], work, 4) == []
