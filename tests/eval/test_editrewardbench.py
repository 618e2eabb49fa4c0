"""The command `editrewardbench`, from its arguments to its page, on small files of the public
schemas."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html import unescape

import numpy as np
import pytest
from PIL import Image

from eval.benchmarks import BENCHMARKS
from eval.editrewardbench.answers import mean_scores
from eval.editrewardbench.baselines import BaselineJudge
from eval.editrewardbench.compare import compare_results
from eval.editrewardbench.examples import choose
from eval.editrewardbench.page import gap_bins
from eval.outcomes import Outcome, accuracies, breakdown, side_of
from eval.protocol import PublicSet
from rrm.records import Failure, Judgement

PIXELS = 32


def image(changed, seed=0, size=PIXELS):
    """Noise of which so many of the first rows are made white: the more rows, the larger the
    change, and the smaller the file."""
    pixels = np.random.default_rng(seed).integers(0, 200, (size, size, 3), np.uint8)
    pixels[:changed] = 255
    return Image.fromarray(pixels)


EDITSCORE = (
    # preferred, other, task, dimension: how many rows are changed in either
    (8, 2, "color_alter", "overall"),
    (2, 8, "color_alter", "overall"),
    (5, 1, "extract", "overall"),
    (4, 4, "extract", "overall"),
    (8, 2, "color_alter", "consistency"),
)


def editscore_file(folder, rows=EDITSCORE, instruction="make it white"):
    """A JSONL in EditScore's schema, a source per row but the last, which is the first once more."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number, (first, second, task, dimension) in enumerate(rows):
        source = number % 4
        image(0, source).save(folder / f"source{source}.png")
        for changed in (first, second):
            image(changed, source).save(folder / f"{source}-{changed}.png")
        row = {
            "key": [f"{number}-0", f"{number}-1"],
            "instruction": instruction,
            "input_image": f"source{source}.png",
            "output_images": [f"{source}-{first}.png", f"{source}-{second}.png"],
            "task_type": task,
            "dimension": dimension,
        }
        lines.append(json.dumps(row) + "\n")
    (folder / "bench.jsonl").write_text("".join(lines))
    return str(folder / "bench.jsonl")


def tiger_file(folder):
    """A JSONL in TIGER-Lab's schema: two groups of two, one of them a tie, and a group of three."""
    folder.mkdir(parents=True, exist_ok=True)
    image(0, 9).save(folder / "source.png")
    for changed in (1, 2, 4, 8):
        image(changed, 9).save(folder / f"{changed}.png")
    lines = []
    for name, candidates, first, second, ranking, comparison in (
        ("1", 2, 8, 2, "A>B", "AvsB"),
        ("2", 2, 4, 4, "A=B", "AvsB"),
        ("3_1", 3, 8, 4, "A>B", "AvsB"),
        ("3_2", 3, 8, 2, "A>C", "AvsC"),
        ("3_3", 3, 4, 2, "B>C", "BvsC"),
    ):
        row = {
            "id": name,
            "dataset": "x",
            "num_candidates": candidates,
            "instruction": "make it white",
            "source_image": "source.png",
            "candidate_1": f"{first}.png",
            "candidate_2": f"{second}.png",
            "ranking": ranking,
            "comparison_type": comparison,
            "model_1": "m",
            "model_2": "n",
            "score_1": 1.0,
            "score_2": 0.0,
        }
        lines.append(json.dumps(row) + "\n")
    (folder / "tiger.jsonl").write_text("".join(lines))
    return str(folder / "tiger.jsonl")


@pytest.fixture
def run(command, tmp_path):
    """Runs a benchmark and gives its summary."""

    def call(reward, *more, bench="editscore", data=None, out="out", expected=0):
        where = data or editscore_file(tmp_path / "bench")
        code, said, wrong = command(
            "run",
            "--bench",
            bench,
            "--data",
            where,
            "--reward",
            reward,
            "--out",
            tmp_path / out,
            *more,
        )
        assert code == expected, wrong
        return json.loads((tmp_path / out / "summary.json").read_text()), said

    return call


def lines(path):
    return path.read_text().splitlines()


def test_a_baseline_is_run_from_one_line_and_its_numbers_are_those_worked_out_by_hand(
    run, tmp_path
):
    summary, said = run("baseline:more-change")
    overall = summary["result"]["dimensions"]["overall"]
    assert (overall["n"], overall["right"], overall["ties"], overall["unreadable"]) == (4, 2, 1, 0)
    assert overall["strict"] == pytest.approx(2 / 4)
    assert overall["half_tie"] == pytest.approx(2.5 / 4)
    assert overall["macro"] == pytest.approx((1 / 2 + 1 / 2) / 2)
    assert overall["by_task"]["extract"]["half_tie"] == pytest.approx(1.5 / 2)
    assert overall["by_group"]["appearance"]["n"] == 2
    assert summary["result"]["headline"] == "overall"
    assert summary["result"]["dimensions"]["consistency"]["strict"] == 1
    assert re.search(r"overall +4 +50\.0", said)
    assert len(lines(tmp_path / "out/rows.jsonl")) == 7  # edits, not rows: images recur


def test_less_change_is_right_where_more_change_is_wrong(run):
    summary, _ = run("baseline:less-change")
    overall = summary["result"]["dimensions"]["overall"]
    assert (overall["right"], overall["ties"]) == (1, 1)


def test_a_summary_says_what_its_numbers_go_back_to(run):
    summary, _ = run("baseline:random", "--passes", "2", "--limit", "2", "--seed", "5")
    assert summary["reward"]["spec"] == "baseline:random"
    assert summary["reward"]["fingerprint"] == "baseline|random|5"
    assert summary["bench"]["limit"] == 2
    assert summary["bench"]["pairs"] == 3
    assert re.fullmatch(r"[0-9a-f]{16}", summary["bench"]["content_hash"])
    assert re.fullmatch(r"[0-9a-f]{16}", summary["reward"]["prompt_hash"])
    assert {"python", "numpy", "pillow"} <= summary["versions"].keys()
    assert summary["command"].startswith("editrewardbench run --bench editscore")
    assert summary["date"][:2] == "20"
    assert any("GEdit-Bench and ImgEdit" in note for note in summary["notes"])
    assert any("--limit 2" in note for note in summary["notes"])


def test_resuming_adds_no_row_and_gives_the_same_numbers(run, tmp_path):
    first, _ = run("baseline:longer-file")
    before = lines(tmp_path / "out/rows.jsonl")
    again, _ = run("baseline:longer-file")
    assert lines(tmp_path / "out/rows.jsonl") == before
    assert again["result"] == first["result"]


def test_an_interrupted_run_carries_on_where_it_stopped(run, tmp_path):
    first, _ = run("baseline:longer-file")
    rows = tmp_path / "out/rows.jsonl"
    kept = lines(rows)[:3]
    rows.write_text("\n".join(kept) + '\n{"key": "torn')
    again, _ = run("baseline:longer-file")
    assert lines(rows)[:3] == kept
    assert len(lines(rows)) == 7
    assert again["result"] == first["result"]


def test_another_spec_is_not_served_the_rows_of_the_first(run, tmp_path):
    run("baseline:more-change")
    summary, _ = run("baseline:less-change")
    assert summary["result"]["dimensions"]["overall"]["right"] == 1
    assert len(lines(tmp_path / "out/rows.jsonl")) == 14
    seeded, _ = run("baseline:random", "--seed", "1")
    other, _ = run("baseline:random", "--seed", "2")
    assert len(lines(tmp_path / "out/rows.jsonl")) == 28
    assert seeded["reward"]["fingerprint"] != other["reward"]["fingerprint"]


def test_another_image_under_the_same_name_is_judged_anew(run, tmp_path):
    where = editscore_file(tmp_path / "bench")
    first, _ = run("baseline:more-change", data=where)
    image(30, 0).save(tmp_path / "bench/0-2.png")
    second, _ = run("baseline:more-change", data=where)
    assert second["bench"]["content_hash"] != first["bench"]["content_hash"]
    assert second["result"]["dimensions"]["overall"]["right"] == 1
    assert len(lines(tmp_path / "out/rows.jsonl")) == 8


def test_passes_are_drawn_anew_and_their_mean_counts(run, tmp_path):
    summary, said = run("baseline:random", "--passes", "4")
    assert len(lines(tmp_path / "out/rows.jsonl")) == 4 * 7
    passes = summary["passes"]
    assert (passes["k"], len(passes["each"])) == (4, 4)
    assert passes["avg_at_1"]["strict"] == pytest.approx(
        np.mean([one["strict"] for one in passes["each"]])
    )
    assert passes["avg_at_k"]["strict"] == summary["result"]["dimensions"]["overall"]["strict"]
    assert "Avg@4" in said
    more, _ = run("baseline:random", "--passes", "5")
    assert (
        len(lines(tmp_path / "out/rows.jsonl")) == 5 * 7
    )  # the four that were there are not drawn again
    assert more["passes"]["each"][:4] == passes["each"]


def test_avg_at_k_is_the_mean_of_the_readable_passes_and_of_none_there_is_no_score():
    failed = Judgement(failure=Failure(kind="unparseable"))
    passes = [
        {"x": Judgement(expected=4), "y": failed},
        {"x": Judgement(expected=7), "y": failed},
        {"x": failed, "y": failed},
    ]
    assert mean_scores(passes) == {"x": 5.5, "y": None}
    first, second = (
        [{"x": Judgement(expected=score)} for score in scores]
        for scores in ((0.1, 0.2, 0.3), (0.3, 0.2, 0.1))
    )
    assert mean_scores(first) == mean_scores(second)
    assert side_of(5.5, None, 0) is None


def test_an_rrm_in_this_process_is_run_and_what_it_cannot_say_is_counted(
    run, tiny_checkpoint, tmp_path
):
    summary, _ = run(f"rrm:{tiny_checkpoint}?max_tokens=4&batch=4", expected=1)
    result = summary["result"]
    assert (result["n"], result["right"], result["unreadable"]) == (5, 0, 5)  # it is untrained
    assert sum(result["account"]["failed"].values()) == 7
    assert "|t0|" in summary["reward"]["fingerprint"]
    rated, _ = run(f"rrm:{tiny_checkpoint}?mode=logits")
    assert rated["reward"]["sampling"]["mode"] == "logits"
    assert rated["reward"]["prompt_hash"] != summary["reward"]["prompt_hash"]


def test_tigers_groups_count_only_where_every_pair_is_right(run, tmp_path, monkeypatch):
    summary, said = run("baseline:more-change", bench="tiger", data=tiger_file(tmp_path / "tiger"))
    assert summary["result"]["n"] == 5
    assert summary["result"]["labels"] == {"a": 4, "tie": 1}
    assert summary["result"]["right"] == 5
    headline = summary["headline"]
    assert (headline["value"], headline["n"], headline["right"]) == (1.0, 3, 3)  # groups, not pairs
    assert "groups of which every pair is right" in said
    assert "K=3: 100.0%" in said
    less, _ = run("baseline:less-change", bench="tiger", data=tiger_file(tmp_path / "tiger"))
    assert less["headline"]["right"] == 1  # the tie alone
    assert less["result"]["right"] == 1
    assert less["anchors"] == []
    assert any("not the set of TIGER-Lab/EditReward-Bench" in note for note in less["notes"])
    # as if the published set had these three groups
    public = PublicSet("TIGER-Lab/EditReward-Bench", 3)
    monkeypatch.setitem(BENCHMARKS, "tiger", replace(BENCHMARKS["tiger"], public=public))
    whole, said = run("baseline:less-change", bench="tiger", data=tiger_file(tmp_path / "tiger"))
    assert [anchor["value"] for anchor in whole["anchors"]] == [13.8, 38.4, 45.0, 46.4]
    assert "counted by TIGER-Lab's code or by the plain rule" in said
    assert "overall by TIGER-Lab's own code: " in said
    assert not any("not the set" in note for note in whole["notes"])
    part, _ = run(
        "baseline:less-change", "--limit", "4", bench="tiger", data=tiger_file(tmp_path / "tiger")
    )
    assert part["anchors"] == []


def test_two_bad_edits_have_a_threshold_of_their_own_which_is_fixed_on_other_pairs(run, tmp_path):
    folder = tmp_path / "genai"
    folder.mkdir()
    rows = []
    for seed in range(8):
        image(0, seed).save(folder / f"{seed}.png")
        for changed in (1, 8, 16):
            image(changed, seed).save(folder / f"{seed}-{changed}.png")
        for left, right, vote in ((8, 16, "rightvote"), (1, 1, "bothbad_vote")):
            row = {
                "instruct_prompt": "make it white",
                "source_image": f"{seed}.png",
                "vote_type": vote,
            }
            images = {
                "left_output_image": f"{seed}-{left}.png",
                "right_output_image": f"{seed}-{right}.png",
            }
            rows.append(json.dumps(row | images) + "\n")
    (folder / "genai.jsonl").write_text("".join(rows))
    summary, _ = run("baseline:more-change", bench="genai", data=str(folder / "genai.jsonl"))
    assert summary["protocol"]["convention"]["4-class"]["value"] is None
    assert summary["headline"]["value"] == 1.0  # of three classes, two bad edits being the same
    split, _ = run(
        "baseline:more-change",
        "--validation",
        "0.5",
        bench="genai",
        data=str(folder / "genai.jsonl"),
    )
    assert split["validation"]["pairs"] == split["result"]["n"] == 8
    assert split["protocol"]["convention"]["4-class"]["value"] == 1.0


def test_a_margin_is_fixed_on_pairs_that_are_no_part_of_the_result(run):
    summary, _ = run("baseline:more-change", "--validation", "0.5")
    held = summary["validation"]["pairs"]
    assert 0 < held < 5
    assert summary["result"]["n"] == 5 - held
    assert summary["validation"]["margin"] >= 0


def test_overlap_with_training_data_is_counted_shown_and_taken_out(run, command, tmp_path):
    where = editscore_file(tmp_path / "bench")
    image(0, 1).save(tmp_path / "seen.png")
    (tmp_path / "train.jsonl").write_text(
        json.dumps({"source": "seen.png", "instruction": "Make it white!"}) + "\n"
    )
    summary, said = run(
        "baseline:more-change", "--train-manifest", tmp_path / "train.jsonl", data=where
    )
    overlap = summary["overlap"]
    assert (overlap["same_image_and_instruction"], overlap["same_image"], overlap["sources"]) == (
        1,
        0,
        1,
    )
    # the pair that is left out is the wrong one
    assert (overlap["without"]["overall"]["n"], overlap["without"]["overall"]["right"]) == (3, 2)
    assert "1 pairs of the same image and instruction" in said
    command("report", tmp_path / "out")
    assert "Overlap with the training data" in (tmp_path / "out/report.html").read_text()


def test_the_report_is_one_file_that_needs_no_network_and_shows_the_mistakes(
    run, command, tmp_path
):
    run("baseline:more-change")
    code, said, _ = command("report", tmp_path / "out")
    assert code == 0
    html = (tmp_path / "out/report.html").read_text()
    assert str(tmp_path / "out/report.html") in said
    assert not re.search(r"""(?:src|href)=["'](?!data:|#)""", html)
    assert html.count("data:image/jpeg;base64,") % 3 == 0
    for text in (
        "Most certain mistakes",
        "People prefer this one.",
        "make it white",
        "mean change of",
        "95% interval",
        "This is not the set of EditScore/EditReward-Bench",
        "Accuracy by task type",
        "Scores given",
        "Accuracy by score difference",
        "editrewardbench run --bench editscore",
    ):
        assert text in html, text


def test_two_results_on_the_same_pairs_are_compared_and_the_changed_pairs_named(
    run, command, tmp_path
):
    run("baseline:more-change", out="more")
    run("baseline:less-change", out="less")
    code, said, _ = command("compare", tmp_path / "more", tmp_path / "less")
    assert code == 0
    found = compare_results(tmp_path / "more", tmp_path / "less")
    overall = found["dimensions"]["overall"]
    assert overall["strict"]["value"] == pytest.approx((2 - 1) / 4)
    assert (overall["mcnemar"]["only_first"], overall["mcnemar"]["only_second"]) == (2, 1)
    assert overall["mcnemar"]["p"] == pytest.approx(1.0)  # two of three coins: as likely as can be
    assert overall["agreement"] == pytest.approx(1 / 4)  # the tie
    assert found["spearman"] == pytest.approx(-1)
    assert sorted(row["number"] for row in found["changed"]) == [0, 1, 2, 4]
    assert "McNemar" in said
    assert "4 pairs changed" in said


@pytest.mark.parametrize(
    ("more", "resized"), [((), True), (("--no-resize",), False), (("--resize",), True)]
)
def test_edits_are_judged_at_the_size_that_the_protocol_or_the_command_names(
    run, command, tmp_path, monkeypatch, more, resized
):
    seen = set()
    judge = BaselineJudge.judge
    monkeypatch.setattr(
        BaselineJudge, "judge", lambda self, edit: seen.add(edit.edited.size) or judge(self, edit)
    )
    where = editscore_file(tmp_path / "bench")
    image(40, 0, 3 * PIXELS).save(tmp_path / "bench/0-8.png")
    summary, said = run("baseline:more-change", *more, data=where)
    assert seen == {(PIXELS, PIXELS)} if resized else {(PIXELS, PIXELS), (3 * PIXELS, 3 * PIXELS)}
    assert summary["bench"]["resized"] == resized
    assert command("report", tmp_path / "out")[0] == 0
    page = unescape((tmp_path / "out/report.html").read_text())
    for text in (said, page):
        assert ("judged at their source's size (EditScore's protocol does so)" in text) == resized
        assert ("Not as the benchmark's protocol has it" in text) == (not resized)


def test_other_benchmarks_are_judged_at_their_own_size(run, tmp_path):
    summary, said = run("baseline:copy", bench="tiger", data=tiger_file(tmp_path / "bench"))
    assert not summary["bench"]["resized"]
    assert "judged at their own size, as rrm score and the training of editors do" in said


def test_results_on_other_pairs_are_refused(run, command, tmp_path):
    run("baseline:more-change", out="one")
    run("baseline:more-change", "--limit", "2", out="two")
    code, _, wrong = command("compare", tmp_path / "one", tmp_path / "two")
    assert code == 2
    assert "not of the same pairs" in wrong
    code, _, wrong = command("compare", tmp_path / "one", tmp_path / "nowhere")
    assert code == 2
    assert "holds no result" in wrong


@pytest.mark.parametrize(
    ("reward", "more", "sentence"),
    [
        ("oracle:x", (), "names no reward; write rrm:FOLDER"),
        ("baseline:best", (), "there are longer-file, more-change, less-change, copy, random"),
        ("rrm:nowhere", (), "There is no checkpoint at nowhere"),
        ("vlm:http://127.0.0.1:9/v1", (), "'model'"),
        ("vlm:http://127.0.0.1:9/v1?model=", (), "'model'"),
        ("baseline:copy", ("--passes", "3"), "would be the same one"),
        ("baseline:copy", ("--passes", "0"), "'passes'"),
    ],
)
def test_a_wrong_request_gets_one_sentence_and_exit_code_2(
    command, tmp_path, reward, more, sentence
):
    where = editscore_file(tmp_path / "bench")
    arguments = (
        "run",
        "--bench",
        "editscore",
        "--data",
        where,
        "--reward",
        reward,
        "--out",
        tmp_path / "out",
        *more,
    )
    code, _, wrong = command(*arguments)
    assert code == 2
    assert wrong.startswith("error: ")
    assert sentence in wrong
    assert len(wrong.strip().splitlines()) == 1


def outcome(number, label, scores, **more):
    a, b = scores
    return Outcome(
        number=number,
        item=str(number),
        group=str(number),
        source=more.pop("source", f"s{number}"),
        instruction="i",
        task_type=more.pop("task", "t"),
        dimension="overall",
        label=label,
        edits=(f"{number}a", f"{number}b"),
        scores=scores,
        side=side_of(a, b, 0.0),
        **more,
    )


def test_an_unreadable_pair_stays_in_the_denominator_and_a_tie_counts_half_only_where_people_decided():
    found = accuracies(
        [
            outcome(0, "a", (8.0, 2.0)),
            outcome(1, "b", (5.0, 5.0)),
            outcome(2, "a", (None, 2.0), failure="unparseable"),
            outcome(3, "tie", (5.0, 5.0)),
            outcome(4, "both_bad", (1.0, 2.0)),
        ]
    )
    assert (found["n"], found["right"], found["ties"], found["unreadable"]) == (5, 2, 2, 1)
    assert found["strict"] == pytest.approx(2 / 5)
    assert found["half_tie"] == pytest.approx(2.5 / 5)
    low, high = found["strict_ci95"]
    assert high - found["strict"] == pytest.approx(1.959964 * found["strict_se"])
    assert low == 0  # no share is less


def test_one_source_has_no_interval_but_where_all_its_pairs_are_right():
    found = breakdown([outcome(n, "a", (8.0 - 7 * n, 2.0), source="s") for n in range(2)])
    assert (found["strict"], found["strict_ci95"], found["strict_se"], found["macro_ci95"]) == (
        0.5,
        None,
        None,
        None,
    )
    found = breakdown([outcome(n, "a", (8.0, 2.0), source="s") for n in range(3)])
    assert (found["strict"], found["strict_se"]) == (1.0, None)
    assert found["macro_ci95"] == pytest.approx((0.025, 1.0))
    assert found["strict_ci95"] == pytest.approx(
        (0.025, 1.0)
    )  # one source that is right: p¹ = 2.5%


def test_the_most_certain_mistakes_come_first_and_every_pair_of_edits_once():
    wrong = [outcome(n, "b", (5.0 + n, 5.0)) for n in range(1, 5)]
    repeat = wrong[3].model_copy(update={"number": 99, "dimension": "consistency"})
    found = choose(
        [
            *wrong,
            repeat,
            outcome(9, "a", (9.0, 1.0)),
            outcome(10, "a", (None, 1.0), failure="empty"),
        ]
    )
    assert [o.number for o in found["mistake"]] == [4, 3, 2, 1]
    assert [o.number for o in found["unreadable"]] == [10]
    assert [o.number for o in found["right"]] == [9]


def test_accuracy_is_binned_by_how_far_apart_the_scores_are():
    found = gap_bins(
        [
            outcome(0, "a", (5.0, 5.0)),
            outcome(1, "a", (5.5, 5.0)),
            outcome(2, "a", (5.0, 9.5)),
            outcome(3, "tie", (1.0, 9.0)),
        ]
    )
    assert {name: (row["n"], row["right"]) for name, row in found.items()} == {
        "no difference": (1, 0),
        "up to 0.5": (1, 1),
        "up to 10": (1, 0),
    }
