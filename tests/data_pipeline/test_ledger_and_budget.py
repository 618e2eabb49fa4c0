"""What was paid for stays paid for, and no more is paid than was allowed."""

import asyncio
import random
import signal
import subprocess
import sys
import tracemalloc

import pytest

from data_pipeline.budget import Budget, BudgetSpent, price, price_of
from data_pipeline.ledger import Ledger, Paid, Seen
from data_pipeline.settings import Teacher
from rrm.errors import InputError
from rrm.records import Choice, Failure

PAID = Paid((Choice("yes", "hm"), Choice("no", finish_reason="length")), 100, 20, 0.5)
TEACHER = Teacher(model="m", price_in=2.0, price_out=10.0)

KILLED = """
import os, signal, sys
from data_pipeline.ledger import Ledger, Paid
from rrm.records import Choice
ledger = Ledger(sys.argv[1])
for number in range(1000):
    ledger.add(str(number), "think", "m", Paid((Choice(f"answer {number}"),), 1, 1, 0.0))
    print(number, flush=True)
    if number == 700:
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_an_answer_comes_back_as_it_was_given(tmp_path):
    with Ledger(tmp_path / "l.sqlite") as ledger:
        assert ledger.get("k") is None
        ledger.add("k", "think", "m", PAID)
        assert ledger.get("k") == PAID
    with Ledger(tmp_path / "l.sqlite") as ledger:
        assert ledger.get("k") == PAID


def test_a_killed_run_leaves_every_answer_that_it_had_noted(tmp_path):
    path = tmp_path / "l.sqlite"
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, check=False
    )
    assert done.returncode == -signal.SIGKILL
    with Ledger(path) as ledger:
        assert [ledger.get(str(number)).choices[0].content for number in range(701)] == [
            f"answer {number}" for number in range(701)
        ]
        assert ledger.get("701") is None


def test_a_ledger_in_use_is_refused(tmp_path):
    path = tmp_path / "l.sqlite"
    with Ledger(path) as ledger:
        ledger.add("k", "think", "m", PAID)
        code = f"from data_pipeline.ledger import Ledger; Ledger({str(path)!r})"
        done = subprocess.run(
            [sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, check=False
        )
        assert "is in use by another run" in done.stderr


def test_another_file_is_no_ledger(tmp_path):
    path = tmp_path / "l.sqlite"
    path.write_text("not a database " * 100)
    with pytest.raises(InputError, match="is damaged, or another kind of file"):
        Ledger(path)


def test_bills_sum_by_stage_and_model(tmp_path):
    with Ledger(tmp_path / "l.sqlite") as ledger:
        ledger.add("a", "think", "m", PAID)
        ledger.add("b", "think", "m", Paid((Choice("x"),), 50, 5, 0.5))
        ledger.add("c", "think", "m", Paid((Choice("x"),), None, None, 0.5))
        ledger.add("d", "verify", "n", PAID)
        think, verify = ledger.bills()
        assert (
            think.calls,
            think.prompt_tokens,
            think.completion_tokens,
            think.unmetered,
            think.seconds,
        ) == (
            3,
            150,
            25,
            1,
            1.5,
        )
        assert (verify.stage, verify.model, verify.calls) == ("verify", "n", 1)
        assert [(bill.stage, bill.calls) for bill in ledger.bills(["b", "d", "none"])] == [
            ("think", 1),
            ("verify", 1),
        ]
        assert price_of(ledger.bills(), [TEACHER]) == pytest.approx((150 * 2 + 25 * 10) / 1e6)


def test_images_are_known_by_reference_and_failures_too(tmp_path):
    seen, failure = Seen("d" * 64, (3, 4), b"look"), Failure(kind="image_unreadable", detail="torn")
    with Ledger(tmp_path / "l.sqlite") as ledger:
        ledger.add_images([("a", seen), ("b", failure)])
        assert (ledger.image("a"), ledger.image("b"), ledger.image("c")) == (seen, failure, None)
        assert ledger.look("d" * 64) == b"look"


def test_a_price_is_per_million_tokens():
    assert price(TEACHER, 1_000_000, 100_000) == pytest.approx(3.0)


@pytest.mark.parametrize("seed", range(5))
def test_no_limit_is_ever_exceeded_and_little_is_left(seed):
    rng = random.Random(seed)
    budget = Budget(spent=0.001, limit=0.01)
    refused = 0

    async def call():
        nonlocal refused
        try:
            async with budget.reserved(TEACHER, 100, 50) as settle:
                await asyncio.sleep(rng.uniform(0, 0.002))
                if rng.random() < 0.8:
                    settle(rng.randint(50, 100), rng.choice([5, 50]))
        except BudgetSpent:
            refused += 1
        assert budget.spent + budget.held <= budget.limit + 1e-12

    async def together():
        await asyncio.gather(*(call() for _ in range(100)))

    asyncio.run(together())
    assert refused
    assert budget.held == 0
    assert 0.01 - 0.0007 - 1e-9 <= budget.spent <= 0.01


def test_an_answer_without_a_count_of_tokens_is_counted_at_its_most():
    budget = Budget()

    async def call():
        async with budget.reserved(TEACHER, 100, 50) as settle:
            settle(None, None)

    asyncio.run(call())
    assert budget.spent == pytest.approx((100 * 2 + 50 * 10) / 1e6)


def test_a_call_that_was_not_answered_costs_nothing():
    budget = Budget(limit=1.0)

    async def call():
        async with budget.reserved(TEACHER, 100, 50):
            raise OSError("reset")

    with pytest.raises(OSError, match="reset"):
        asyncio.run(call())
    assert (budget.spent, budget.held) == (0, 0)


def test_queries_that_are_over_hold_no_memory(tmp_path):
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        sizes = []
        for _ in range(2):
            tracemalloc.start()
            for _ in range(2000):
                ledger.get("none")
            sizes.append(tracemalloc.get_traced_memory()[0])
            tracemalloc.stop()
    assert sizes[-1] < 50_000  # a weak reference per query would be 180 kB
