"""The public protocols, against numbers worked out by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.benchmarks import BENCHMARKS, summarise
from eval.benchmarks.tiger import PUBLIC_RULE
from eval.outcomes import three_way
from eval.pairs import PairIndex
from eval.protocol import (
    Thresholds,
    label_of_scores,
    pick_margin,
    pick_thresholds,
    validation_split,
)
from rrm.errors import InputError


def pairs_of(*rows, **shared):
    """(pairs, scores) of (label, score of a, score of b); `shared` may hold a list per field, or
    one value for all."""
    pairs, scores = [], {}
    for number, (label, *both) in enumerate(rows):
        own = {
            key: value[number] if isinstance(value, list) else value
            for key, value in shared.items()
        }
        fields = {
            "instruction": "make it red",
            "task_type": "all",
            "dimension": "overall",
            "source": f"s{number}",
            "group": f"g{number}",
            "candidates": 2,
            **own,
        }
        pair = PairIndex(
            number=number,
            edited=(f"a{number}", f"b{number}"),
            label=label,
            item_id=str(number),
            **fields,
        )
        pairs.append(pair)
        scores |= zip(pair.edit_ids, both, strict=True)
    return pairs, scores


def convention(kind, rows, margin=0.0, bad_below=None, **shared):
    pairs, scores = pairs_of(*rows, **shared)
    return summarise(kind, pairs, scores, Thresholds(margin, bad_below))["convention"]


def test_editscore_takes_the_mean_over_task_types_and_a_tie_is_wrong():
    rows = [("a", 8, 3), ("a", 8, 3), ("a", 3, 8), ("a", 5, 5), ("a", 9, None), ("a", 7, 6)]
    tasks = ["extract", "extract", "extract", "compose", "compose", "compose"]
    dimensions = ["overall"] * 5 + ["consistency"]
    found = convention("editscore", rows, task_type=tasks, dimension=dimensions)
    # extract ⅔; compose 0 of a tie and a missing score
    assert found["overall"]["value"] == pytest.approx((2 / 3 + 0) / 2)
    assert {
        name: found["overall"][name] for name in ("micro", "n", "right", "ties", "unparseable")
    } == {
        "micro": 0.4,
        "n": 5,
        "right": 2,
        "ties": 1,
        "unparseable": 1,
    }
    assert found["consistency"]["value"] == 1.0


def test_a_margin_changes_nothing_for_editscore():
    rows = [("a", 8, 7.9), ("a", 5, 5)]
    assert convention("editscore", rows, margin=1.0) == convention("editscore", rows)


TIGER = (
    # two groups of two edits: a tie within the margin, and one preference that lies within it too
    ("tie", 5.0, 5.3, 2, "2pair/1"),
    ("a", 6.0, 5.8, 2, "2pair/2"),
    # three edits: all right, by less than the margin, which is not for them
    ("a", 3.0, 2.9, 3, "3pair/1"),
    ("a", 3.0, 1.0, 3, "3pair/1"),
    ("b", 1.0, 2.9, 3, "3pair/1"),
    # three edits: one pair wrong
    ("a", 3.0, 2.0, 3, "3pair/2"),
    ("a", 3.0, 4.0, 3, "3pair/2"),
    ("b", 2.0, 4.0, 3, "3pair/2"),
    # four edits: one without a score
    ("a", 4.0, 3.0, 4, "4pair/1"),
    ("a", 4.0, 2.0, 4, "4pair/1"),
    ("a", 4.0, None, 4, "4pair/1"),
    ("a", 3.0, 2.0, 4, "4pair/1"),
    ("a", 3.0, None, 4, "4pair/1"),
    ("a", 2.0, None, 4, "4pair/1"),
)


def tiger(rows=TIGER, margin=0.0):
    shared = {
        "candidates": [row[3] for row in rows],
        "group": [row[4] for row in rows],
        "source": [row[4] for row in rows],
    }
    return convention("tiger", [row[:3] for row in rows], margin, **shared)


def test_tiger_counts_groups_and_a_failure_stays_in_the_denominator():
    found = tiger()
    assert {
        name: (found[name]["right"], found[name]["n"], found[name]["pairs"])
        for name in found
        if name != PUBLIC_RULE
    } == {
        "overall": (2, 5, 14),
        "K=2": (1, 2, 2),
        "K=3": (1, 2, 6),
        "K=4": (0, 1, 6),
    }
    assert found["overall"]["value"] == 0.4
    assert found["overall"]["unparseable"] == found["K=4"]["unparseable"] == 3


def test_the_margin_of_tiger_is_for_two_edits_only():
    found = tiger(margin=0.4)
    # the tie becomes right, the close preference wrong, and three edits are ranked as before
    assert (found["K=2"]["right"], found["K=3"]["right"]) == (1, 1)
    assert tiger(margin=0.1)["K=2"]["right"] == 1
    assert tiger(TIGER[:1], margin=0.4)["K=2"]["right"] == 1


def test_tigers_own_code_ignores_the_margin_where_people_decided_and_chooses_it_on_the_test_pairs():
    rows = [
        ("tie", 5.0, 5.25, 2, "2pair/1"),
        ("tie", 5.0, 5.125, 2, "2pair/2"),
        ("a", 6.0, 5.875, 2, "2pair/3"),
    ]
    ours, theirs = (tiger(rows, margin=0.25)[name] for name in ("overall", PUBLIC_RULE))
    assert (ours["right"], theirs["right"], theirs["n"]) == (2, 3, 3)
    assert "up to 0.25 apart, a margin chosen on these very pairs" in theirs["note"]


def test_tigers_own_code_ranks_equal_scores_by_place_and_leaves_failures_out():
    # the code's ranking of scores (5, 5, 3) is np.argsort(scores)[::-1]: B, A, C
    tied = [(5, 5), (5, 3), (5, 3)]
    lucky = [(side, *of, 3, "3pair/1") for side, of in zip("baa", tied, strict=True)]
    unlucky = [(side, *of, 3, "3pair/2") for side, of in zip("aaa", tied, strict=True)]
    failed = [("a", 5, None, 2, "2pair/1")]
    found = tiger([*lucky, *unlucky, *failed])
    assert tuple(np.argsort([5, 5, 3], kind="stable")[::-1]) == (1, 0, 2)
    assert [(found[name]["right"], found[name]["n"]) for name in ("overall", PUBLIC_RULE)] == [
        (0, 3),
        (1, 2),
    ]


def test_a_group_that_lacks_a_row_is_not_right():
    found = tiger(TIGER[2:4])
    assert (found["K=3"]["right"], found["K=3"]["n"]) == (0, 1)


GENAI = (
    ("a", 8.0, 5.0),  # right by all
    ("b", 5.0, 5.5),  # within a margin of 1
    ("tie", 6.0, 6.5),
    ("both_bad", 1.0, 2.5),  # apart, but both below 3
    ("both_bad", 4.0, 4.5),
    ("a", None, 2.0),
)


def test_genai_has_three_conventions():
    found = convention("genai", GENAI, margin=1.0, bad_below=3.0)
    # 4-class: a, tie, both_bad 1; 3-class: a, tie, and the second both_bad; decisive: a and b,
    # strictly
    assert {
        name: (part["right"], part["n"], part["unparseable"]) for name, part in found.items()
    } == {
        "4-class": (3, 6, 1),
        "3-class": (3, 6, 1),
        "decisive": (2, 3, 1),
    }
    assert found["4-class"]["value"] == 0.5
    assert found["decisive"]["value"] == pytest.approx(2 / 3)


def test_without_a_threshold_genai_has_no_four_classes_and_without_a_margin_few_ties():
    found = convention("genai", GENAI)
    assert found["4-class"]["value"] is None
    assert "threshold" in found["4-class"]["note"]
    assert found["3-class"]["right"] == 2  # a and b
    assert found["decisive"]["right"] == 2


def test_to_say_always_the_same_scores_45_3_on_genais_votes():
    rows = (
        [("a", 5, 5)] * 240
        + [("b", 5, 5)] * 263
        + [("both_bad", 5, 5)] * 392
        + [("tie", 5, 5)] * 24
    )
    assert round(100 * convention("genai", rows)["3-class"]["value"], 1) == 45.3


def test_compass_wants_the_winner_strictly_higher_and_a_tie_within_the_margin():
    rows = [
        ("a", 5.2, 5.0),
        ("a", 5.0, 5.0),
        ("tie", 5.0, 5.5),
        ("tie", None, 5.0),
        ("a", 3.0, 1.0),
    ]
    dimensions = ["IA", "IA", "VC", "VC", "VQ"]
    found = convention("compass", rows, margin=0.5, dimension=dimensions)
    assert {name: found[name]["value"] for name in found} == {
        "IA": 0.5,
        "VC": 0.5,
        "VQ": 1.0,
        "macro": pytest.approx(2 / 3),
    }
    assert (found["macro"]["right"], found["macro"]["n"], found["macro"]["unparseable"]) == (
        3,
        5,
        1,
    )
    assert convention("compass", rows, dimension=dimensions)["VC"]["value"] == 0.0


def test_in_a_set_of_ones_own_pairs_that_are_the_same_stand_apart():
    rows = [("a", 8, 3), ("b", 3, 8), ("a", 5, 5), ("b", None, 1), ("tie", 5, 5), ("tie", 5, 6)]
    found = convention("jsonl", rows)
    assert (found["strict"]["value"], found["strict"]["n"], found["strict"]["ties"]) == (0.5, 4, 1)
    assert found["half_tie"]["value"] == 0.625
    assert (found["same"]["right"], found["same"]["n"]) == (1, 2)


def test_the_principled_measure_turns_every_pair_to_its_preferred_edit():
    pairs, scores = pairs_of(
        ("b", 3, 8), ("a", 5, 5), ("tie", 9, 1), ("both_bad", 9, 1), ("a", None, 1)
    )
    found = summarise("genai", pairs, scores)
    overall = found["principled"]["overall"]
    assert (overall["n"], overall["right"], overall["ties"], overall["unreadable"]) == (3, 1, 1, 1)
    assert (overall["strict"], overall["half_tie"]) == (pytest.approx(1 / 3), 0.5)
    assert overall["macro_half_tie"] == 0.5
    assert overall["half_tie_ci95"] is not None
    assert (found["pairs"], found["ties_in_gold"], found["unparseable"]) == (5, 2, 1)
    assert found["labels"] == {"a": 2, "b": 1, "tie": 1, "both_bad": 1}


def test_a_result_says_what_its_margin_was():
    pairs, scores = pairs_of(("a", 8, 3))
    assert (
        summarise("genai", pairs, scores)["margin_note"]
        == "The margin is 0: only equal scores are a tie."
    )
    assert "0.25 apart" in summarise("genai", pairs, scores, Thresholds(0.25))["margin_note"]


def test_an_edit_that_was_never_scored_is_unparseable():
    pairs, _ = pairs_of(("tie", 1, 1), ("a", 1, 1))
    found = summarise("genai", pairs, {})
    assert found["unparseable"] == 2
    assert found["convention"]["3-class"]["right"] == 0


def test_a_kind_that_is_none_is_refused():
    with pytest.raises(InputError, match="name one of compass, editscore"):
        summarise("imagenet", [], {})


def test_the_margin_is_the_one_that_costs_the_fewest_pairs():
    # ties 0.2 and 0.5 apart, preferences 0.3 and 1 apart: 0.25 (the middle of 0.2 and 0.3) gets 3
    # of 4; 0.75 as many, but is wider
    pairs, scores = pairs_of(("tie", 5, 5.2), ("both_bad", 2, 2.5), ("a", 5.3, 5), ("b", 5, 6))
    assert pick_margin(pairs, scores) == pytest.approx(0.25)


def test_without_ties_in_the_gold_or_without_scores_the_margin_is_zero():
    assert pick_margin(*pairs_of(("a", 5.2, 5), ("b", 5, 6))) == 0.0
    assert pick_margin(*pairs_of(("tie", None, 5))) == 0.0
    assert pick_margin([], {}) == 0.0
    assert pick_thresholds([], {}) == Thresholds(0.0, None)


def test_groups_of_three_edits_do_not_move_a_margin():
    pairs, scores = pairs_of(("tie", 5, 5.4), ("tie", 5, 9), candidates=[2, 3])
    assert pick_margin(pairs, scores) == pytest.approx(0.4)


def test_both_thresholds_are_found_together():
    found = pick_thresholds(
        *pairs_of(("both_bad", 1, 3), ("tie", 6, 6.5), ("a", 8, 5), ("b", 4, 7))
    )
    assert 0.5 <= found.four_margin < 3
    assert 3 < found.bad_below <= 6.5
    assert 2 <= found.margin < 3


def test_three_and_four_classes_have_a_margin_each():
    # two bad edits 2 apart are the same in three classes; in four the threshold finds them, and no
    # margin is wanted
    pairs, scores = pairs_of(("both_bad", 1, 3), ("both_bad", 3, 1), ("a", 8, 7), ("b", 5, 9))
    found = pick_thresholds(pairs, scores)
    assert (found.margin, found.four_margin) == (3.0, 0.0)
    result = summarise("genai", pairs, scores, found)["convention"]
    assert (result["3-class"]["right"], result["4-class"]["right"]) == (3, 4)


SCORE = st.one_of(st.none(), st.integers(0, 8).map(lambda n: n / 2))
ROWS = st.lists(
    st.tuples(st.sampled_from(["a", "b", "tie", "both_bad"]), SCORE, SCORE), min_size=1, max_size=12
)


@given(ROWS, st.floats(0, 5))
def test_no_other_margin_is_more_accurate_where_it_was_picked(rows, other):
    pairs, scores = pairs_of(*rows)

    def right(margin):
        return sum(label_of_scores(pair, scores, margin) == three_way(pair.label) for pair in pairs)

    assert right(pick_margin(pairs, scores)) >= right(other)


@given(ROWS, st.floats(0, 5), st.floats(0, 5))
def test_no_other_two_thresholds_are_more_accurate_where_they_were_picked(rows, margin, bad_below):
    pairs, scores = pairs_of(*rows)
    picked = pick_thresholds(pairs, scores)

    def right(margin, bad_below):
        return sum(label_of_scores(pair, scores, margin, bad_below) == pair.label for pair in pairs)

    assert right(picked.four_margin, picked.bad_below) >= right(margin, bad_below)


@given(st.lists(st.integers(0, 6), min_size=1, max_size=30), st.floats(0, 0.99), st.integers(0, 5))
def test_a_validation_split_keeps_every_pair_and_has_no_source_on_both_sides(sources, share, seed):
    pairs, _ = pairs_of(*[("a", 1, 0)] * len(sources), source=[f"s{n}" for n in sources])
    held, tested = validation_split(pairs, share, seed)
    assert sorted(pair.number for pair in held + tested) == list(range(len(pairs)))
    assert not {pair.source for pair in held} & {pair.source for pair in tested}
    assert tested
    assert bool(held) == (share > 0 and len(set(sources)) > 1)


def test_a_validation_split_does_not_hang_on_the_order_of_pairs_and_does_on_the_seed():
    pairs, _ = pairs_of(*[("a", 1, 0)] * 40)
    held = {pair.source for pair in validation_split(pairs, 0.25, 0)[0]}
    assert len(held) == 10
    assert held == {pair.source for pair in validation_split(pairs[::-1], 0.25, 0)[0]}
    assert held != {pair.source for pair in validation_split(pairs, 0.25, 1)[0]}
    with pytest.raises(InputError, match="below 1"):
        validation_split(pairs, 1.0, 0)


SWAPPED = {"a": "b", "b": "a", "tie": "tie", "both_bad": "both_bad"}


@given(ROWS, st.sampled_from(["genai", "tiger", "compass", "jsonl"]), st.sampled_from([0.0, 0.5]))
def test_which_edit_stands_first_changes_nothing(rows, kind, margin):
    swapped = [(SWAPPED[label], b, a) for label, a, b in rows]
    one, two = (convention(kind, of, margin, 2.0) for of in (rows, swapped))
    for found in (one, two):
        found.pop(PUBLIC_RULE, None)  # which looks at places
    assert one == two


@given(ROWS, st.sampled_from(list(BENCHMARKS)), st.integers(0, 11))
def test_a_score_that_goes_missing_never_makes_a_result_better(rows, kind, number):
    rows = [("a" if kind == "editscore" else label, a, b) for label, a, b in rows]
    lost = [(label, None if n == number else a, b) for n, (label, a, b) in enumerate(rows)]
    before, after = convention(kind, rows, 0.5, 2.0), convention(kind, lost, 0.5, 2.0)
    before.pop(PUBLIC_RULE, None)  # which leaves failures out
    for name, part in before.items():
        assert after[name]["n"] == part["n"]
        assert after[name]["right"] <= part["right"]
        assert after[name]["unparseable"] >= part["unparseable"]


@given(ROWS, st.sampled_from(list(BENCHMARKS)))
def test_a_summary_is_plain_json(rows, kind):
    pairs, scores = pairs_of(*rows)
    found = summarise(kind, pairs, scores, Thresholds(0.5, 2.0))
    assert json.loads(json.dumps(found, allow_nan=False))["kind"] == kind
