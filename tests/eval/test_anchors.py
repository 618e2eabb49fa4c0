"""Published numbers stand beside one's own only where dimension and protocol are the same."""

import math

import pytest

from eval.anchors import anchor_table, anchors, anchors_for, print_anchors
from rrm.errors import InputError


def value_of(benchmark, dimension, protocol, model, setting=None):
    (found,) = [
        a
        for a in anchors_for(benchmark, dimension, protocol)
        if (a.model, a.setting) == (model, setting)
    ]
    return found.value


def test_the_seed_papers_numbers_are_there():
    overall = ("editscore", "overall", "pointwise-macro")
    assert value_of(*overall, "EditScore-7B", "Avg@1") == 65.9
    assert value_of(*overall, "EditScore-7B", "Avg@4") == 72.7
    assert value_of(*overall, "RRM 7B", "SFT") == 73.3
    assert value_of(*overall, "RRM 7B", "SFT + GCPO") == 78.2
    assert value_of("gsb", "overall", "human-votes", "FLUX.1-Kontext", "after RL") == 23.2


def test_each_benchmark_of_the_project_has_a_number():
    assert {anchor.benchmark for anchor in anchors()} >= {
        "editscore",
        "tiger",
        "genai",
        "compass",
        "mmrb2",
        "gedit",
        "imgedit",
    }


def test_another_protocol_or_dimension_is_left_out():
    pointwise = {anchor.model for anchor in anchors_for("editscore", "overall", "pointwise-macro")}
    assert "SpatialReward-8B" in pointwise
    assert "SkyJM-Edit-9B" not in pointwise
    assert [a.model for a in anchors_for("editscore", "pooled", "pairwise")] == ["SkyJM-Edit-9B"]
    assert anchors_for("editscore", "consistency", "pointwise-macro") == []
    three, decisive = (
        anchors_for("genai", "overall", protocol)
        for protocol in ("three-class", "decisive-pairwise")
    )
    assert {a.value for a in three} == {65.7, 45.3}
    assert {a.value for a in decisive} == {83.9}


def test_every_number_has_a_source_lies_on_its_scale_and_stands_once():
    scales = {
        "percent": (0, 100),
        "share": (0, 1),
        "points": (-100, 100),
        "0-10": (0, 10),
        "1-5": (1, 5),
    }
    places = [(a.benchmark, a.dimension, a.protocol, a.model, a.setting) for a in anchors()]
    assert len(set(places)) == len(places)
    for anchor in anchors():
        low, high = scales[anchor.unit]
        assert low <= anchor.value <= high
        assert anchor.source


def test_the_published_o_of_gedit_is_below_the_root_of_its_means():
    # √ is concave, so that a mean of roots lies below the root of the means: a slip of a digit
    # would show
    for anchor in anchors_for("gedit", "O", "full-en"):
        if "2604.27505" in anchor.source:
            sc, pq = (
                value_of("gedit", name, "full-en", anchor.model, anchor.setting)
                for name in ("SC", "PQ")
            )
            assert anchor.value < math.sqrt(sc * pq)


def test_always_saying_tie_is_right_where_people_said_tie_or_both_bad():
    assert value_of("genai", "overall", "three-class", "always tie") == pytest.approx(
        100 * (392 + 24) / 919, abs=0.05
    )


def test_the_table_names_the_source_of_each_line():
    lines = anchor_table(anchors_for("imgedit", "overall", "basic")).splitlines()
    assert len(lines) == 6
    assert all("arXiv 2510.16888" in line for line in lines[1:])
    assert anchor_table([]).startswith("no number")


def test_the_command_prints_one_benchmark_and_refuses_another(capsys):
    print_anchors("tiger")
    assert "EditReward-MiMo-7B" in capsys.readouterr().out
    with pytest.raises(InputError, match="tigre"):
        print_anchors("tigre")
