"""`editrewardbench` on each kind of benchmark, laid out as the public one is, and on an RRM behind
a server, well and ill."""

from __future__ import annotations

import html
import json
import re
import threading

import pytest

from eval.benchmarks.tiger import PUBLIC_RULE
from eval.editrewardbench.specs import open_judges
from rrm.prompts import write_answer, write_principles
from rrm.records import Principle
from rrm.reward import servers
from tests.eval.test_pairwise import reds
from tests.reward.test_servers import Fake, completion, encoded, good, index_of, running
from tests.support.reward_benchmarks import (
    compass_bench,
    editscore_row,
    genai_bench,
    own_pairs,
    tiger_bench,
    write_parquet,
)

OWN = (
    {
        "label": "a",
        "id": "first",
        "task_type": "extract",
    },  # A against B, as all that name no other edits
    {"label": "b", "instruction": "redder"},
    {"label": "a", "edited_a": "C.png", "edited_b": "as_far_as_C.png"},
    {"label": "same", "edited_a": "C.png", "edited_b": "as_far_as_C.png", "instruction": "redder"},
    {"label": "same", "instruction": "reddest"},
)


def editscore_bench(folder):
    rows = [
        editscore_row("A", "B"),
        editscore_row("B", "C"),
        editscore_row("A", "B", "consistency"),
    ]
    return write_parquet(folder / "data" / "train-00000-of-00001.parquet", rows).parent.parent


MAKERS = {
    "editscore": editscore_bench,
    "tiger": tiger_bench,
    "genai": genai_bench,
    "compass": compass_bench,
    "jsonl": lambda folder: own_pairs(folder, *OWN),
}


@pytest.fixture
def run(command, tmp_path):
    """Runs the command on a benchmark and gives its summary."""

    def call(kind, data, reward, *more, out="out", expected=0):
        code, _, wrong = command(
            "run",
            "--bench",
            kind,
            "--data",
            data,
            "--reward",
            reward,
            "--out",
            tmp_path / out,
            *more,
        )
        assert code == expected, wrong
        return json.loads((tmp_path / out / "summary.json").read_text())

    return call


# What is worked out by hand: an edit's change is how far its shade of red is from the source's.
# Shades of edits are 90 (A), 60 (B), 70 (C) and 20 (D), but for genai and compass; of sources 5
# (editscore, compass), 1 or 2 (tiger), both edits' sum (genai), 20 (jsonl).
@pytest.mark.parametrize(
    ("kind", "n", "right", "half", "only", "headline", "protocol"),
    [
        # A>B right, B>C wrong, and A>B once more in the other dimension
        pytest.param("editscore", 3, 2, 2, (2, 1), (1, 2), {"overall": 1 / 2, "consistency": 1}, id="editscore"),
        # wrong: the tie, and of six pairs of K = 3 the B>C, which loses its group; less change is
        # right there alone
        pytest.param(
            "tiger", 14, 12, 12, (12, 1), (3, 5), {"overall": 3 / 5, "K=2": 1 / 2, "K=3": 1 / 2, "K=4": 1}, id="tiger"
        ),
        # the smaller shade changes more: of 90 and 30 the right one, but people said left; of 50
        # and 45 the right one, as said; the two that people call the same are not; less change is
        # right about the first alone
        pytest.param(
            "genai", 4, 1, 1, (1, 1), (1, 4), {"4-class": None, "3-class": 1 / 4, "decisive": 1 / 2}, id="genai"
        ),
        # 80 against 40 has won in IA and lost in VC, 40 against 42 is a tie in VQ
        pytest.param("compass", 3, 1, 1, (1, 1), (1, 3), {"IA": 1, "VC": 0, "VQ": 0, "macro": 1 / 3}, id="compass"),
        # A>B, as said; A>B, where people say B; two that are as far, where people say the first and
        # the same; A>B, where they say the same
        pytest.param("jsonl", 5, 2, 2.5, (1, 1), (1, 3), {"strict": 1 / 3, "half_tie": 1.5 / 3, "same": 1 / 2}, id="jsonl"),
    ],
)  # fmt: skip
def test_a_kind_is_run_reported_and_compared_with_the_numbers_that_were_worked_out_by_hand(
    run, command, tmp_path, kind, n, right, half, only, headline, protocol
):
    (tmp_path / "bench").mkdir()
    where = MAKERS[kind](tmp_path / "bench")
    more = run(kind, where, "baseline:more-change", out="more")
    result = more["result"]
    assert (result["n"], result["right"], result["unreadable"], result["account"]["failed"]) == (
        n,
        right,
        0,
        {},
    )
    assert (result["strict"], result["half_tie"]) == (
        pytest.approx(right / n),
        pytest.approx(half / n),
    )
    convention = {name: part["value"] for name, part in more["protocol"]["convention"].items()}
    assert (convention.pop(PUBLIC_RULE, None) is None) == (kind != "tiger")
    assert convention == {
        name: value if value is None else pytest.approx(value) for name, value in protocol.items()
    }
    assert (more["headline"]["right"], more["headline"]["n"]) == headline
    assert (more["bench"]["kind"], more["bench"]["pairs"]) == (kind, n)

    code, _, wrong = command("report", tmp_path / "more")
    assert code == 0, wrong
    page = (tmp_path / "more/report.html").read_text()
    assert not re.search(r"""(?:src|href)=["'](?!data:|#)""", page)
    for text in (more["bench"]["title"], *more["protocol_lines"]):
        assert text in html.unescape(page), text

    less = run(kind, where, "baseline:less-change", out="less")
    assert less["result"]["right"] == right - only[0] + only[1]
    code, _, wrong = command(
        "compare", tmp_path / "more", tmp_path / "less", "--out", tmp_path / "compared.json"
    )
    assert code == 0, wrong
    compared = json.loads((tmp_path / "compared.json").read_text())
    by_dimension = compared["dimensions"].values()
    assert sum(d["n"] for d in by_dimension) == n
    assert (
        tuple(
            sum(d["mcnemar"][side] for d in by_dimension) for side in ("only_first", "only_second")
        )
        == only
    )
    assert sum(d["strict"]["value"] * d["n"] for d in by_dimension) == pytest.approx(
        only[0] - only[1]
    )
    assert len(compared["changed"]) == sum(only)
    assert compared["spearman"] == pytest.approx(-1)


PRINCIPLES = (Principle(question="Is it red?", category="follow"),)
SERVED = (
    # a tenth of an edit's shade of red is its score: A has 9, B has 6
    {"instruction": "edit 0", "label": "a"},  # right
    {
        "instruction": "edit 1",
        "label": "a",
    },  # right: of A's two traces one cannot be read, and the other says 7
    {"instruction": "edit 2", "label": "b"},  # wrong
    {"instruction": "edit 3", "label": "a"},  # B's traces cannot be read
    {"instruction": "edit 4", "label": "a"},  # both edits are refused
    {"instruction": "edit 5", "label": "same", "edited_b": "as_red_as_A.png"},  # right
    {"instruction": "edit 6", "label": "b"},  # the principles cannot be read
)


def two_traces(body, number):
    """What a server answers that writes two traces per edit, and now and then none that can be
    read."""
    index, (_, *edited) = index_of(body), reds(body)
    if not edited:
        return encoded(
            completion("None come to mind." if index == 6 else write_principles(PRINCIPLES))
        )
    if index == 4:
        return encoded({"error": {"message": "the prompt is too long"}}, 400)
    score = edited[0] / 10
    texts = [write_answer((1,), score + 0.5), write_answer((1,), score - 0.5)]
    if (index, score) == (1, 9):
        texts = ["Lovely.", write_answer((1,), 7.0)]
    if (index, score) == (3, 6):
        texts = ["Lovely.", "Lovely."]
    return encoded(completion(*texts))


def outcomes(folder):
    """Scores and failure of every pair."""
    return [
        (o["scores"], o["failure"])
        for o in map(json.loads, (folder / "pairs.jsonl").read_text().splitlines())
    ]


def test_an_rrm_behind_a_server_is_run_and_what_it_cannot_say_stays_a_failure_and_is_not_asked_again(
    run, command, tmp_path
):
    where, fake = own_pairs(tmp_path, *SERVED), Fake(two_traces)
    with running(fake) as (url,):
        summary = run("jsonl", where, f"server:{url}?k=2&temperature=0.7&in_flight=4")
        # a decomposition per task, then two edits of each of edit 0 to 5
        assert len(fake.asked) == 7 + 6 * 2
        again = run("jsonl", where, f"server:{url}?k=2&temperature=0.7&in_flight=4")
        assert len(fake.asked) == 19
    assert outcomes(tmp_path / "out") == [
        ([9, 6], None),
        ([7, 6], None),
        ([9, 6], None),
        ([9, None], "unparseable"),
        ([None, None], "bad_row"),
        ([9, 9], None),
        ([None, None], "unparseable"),
    ]
    result = summary["result"]
    assert again["result"] == result
    assert (result["n"], result["right"], result["ties"], result["unreadable"]) == (7, 3, 1, 3)
    assert result["strict"] == result["half_tie"] == pytest.approx(3 / 7)
    assert result["account"]["failed"] == {"unparseable": 1 + 2, "bad_row": 2}
    assert result["unreadable_pairs"] == {"unparseable": 2, "bad_row": 1}
    assert (summary["headline"]["right"], summary["headline"]["n"]) == (
        2,
        6,
    )  # of those that people decided
    assert summary["reward"]["fingerprint"] == "served|0123456789abcdef|reasoning|k2|t0.7|s0|128"
    assert {(body["n"], body["temperature"]) for body in fake.bodies} == {(1, 0.0), (2, 0.7)}


def test_a_server_that_fails_gives_no_score_and_is_asked_again_when_the_command_is_run_again(
    run, command, tmp_path, monkeypatch
):
    monkeypatch.setattr(servers, "COOLING", 0.01)
    where, well = own_pairs(tmp_path, *SERVED[:3]), threading.Event()
    fake = Fake(
        lambda body, n: (
            two_traces(body, n) if well.is_set() or len(reds(body)) == 1 else encoded({}, 503)
        )
    )
    with running(fake) as (url,):
        reward = f"server:{url}?k=2&temperature=0.7"
        ill = run("jsonl", where, f"{reward}&deadline=0.3", expected=1)
        assert outcomes(tmp_path / "out") == [([None, None], "server_gone")] * 3
        assert (ill["result"]["strict"], ill["result"]["unreadable"], ill["result"]["ties"]) == (
            0,
            3,
            0,
        )
        assert ill["result"]["account"]["failed"] == {"server_gone": 6}
        code, _, wrong = command("report", tmp_path / "out")
        assert code == 0, wrong
        assert "6 server_gone" in (tmp_path / "out/report.html").read_text()
        well.set()
        cured = run("jsonl", where, reward)
    assert (
        cured["result"]["right"],
        cured["result"]["unreadable"],
        cured["result"]["account"]["failed"],
    ) == (2, 0, {})
    assert cured["result"]["strict"] == pytest.approx(2 / 3)


def test_passes_that_share_a_model_are_drawn_by_seeds_of_their_own_and_the_model_ends_with_them():
    with running(Fake(good)) as (url,):
        with open_judges(f"server:{url}?temperature=0.7&seed=3", passes=2, seed=5) as (
            first,
            second,
        ):
            assert first.model is second.model
            assert [judge.fingerprint.split("|")[-2] for judge in (first, second)] == ["s8", "s9"]
            model = second.model
            assert (second.sampling.seed, model.sampling.seed) == (9, 3)
            assert not model.loop.is_closed()
        assert model.loop.is_closed()
        with open_judges(f"server:{url}", passes=1, seed=5) as (greedy,):
            assert (
                "|t0|s0|" in greedy.fingerprint
            )  # nothing is drawn: the same judge whatever the seed


def test_the_model_that_was_opened_for_a_judge_is_closed():
    with running(Fake(good)) as (url,):
        with open_judges(f"server:{url}", passes=1, seed=0) as (judge,):
            assert judge.fingerprint == judge.model.fingerprint
            assert judge.needs_principles
            assert not judge.model.loop.is_closed()
        assert judge.model.loop.is_closed()
