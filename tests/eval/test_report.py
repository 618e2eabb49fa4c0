"""The report, rendered from a run folder made up for the purpose."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from eval.collect import EDITOR_KEYS, EDITORS, MODEL_KEYS, MODELS, STAGES
from eval.report import ReportConfig, write_report
from rrm.errors import InputError

ATTACK = "make it <script>alert('red')</script>"
VOID = {"meta", "img", "br", "link", "path", "use", "rect", "circle", "line"}


class Tags(HTMLParser):
    """Checks that tags close in order, and collects what a page would load."""

    def __init__(self):
        super().__init__()
        self.open, self.loads, self.seen = [], [], set()

    def handle_starttag(self, tag, attrs):
        self.seen.add(tag)
        self.loads += [value for key, value in attrs if key in ("src", "href", "xlink:href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.loads += [value for key, value in attrs if key in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag


def put(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def put_stage(run, name, result, seconds=61.0):
    put(
        run / name / "stage.json",
        {
            "name": name,
            "fingerprint": "f",
            "seconds": seconds,
            "peak_rss_mb": 700.0,
            "result": result,
        },
    )


def put_metrics(run, name, rows):
    (run / name).mkdir(parents=True, exist_ok=True)
    (run / name / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def headline(half_tie):
    return {
        "strict": half_tie - 0.05,
        "half_tie": half_tie,
        "ci95": [half_tie - 0.03, half_tie + 0.03],
        "n": 640,
        "ties": 64,
        "unparseable": 3,
        "verdict_balanced_accuracy": 0.9,
    }


def model_summary(half_tie):
    cell = {"strict": half_tie - 0.05, "half_tie": half_tie, "n": 640, "ties": 64, "unreadable": 3}
    dimension = {**cell, "macro": 0.7, "by_task": {"color_alter": cell}}
    return {
        "result": {"dimensions": {"overall": dimension}, "account": {"failed": {"unparseable": 4}}},
        "truth": {"score_by_quality": {"unusable": {"n": 5, "unscored": 0, "mean_score": 2.0}}},
    }


def put_eval(run):
    headlines = {}
    scores = dict(zip(MODELS, (0.5, 0.76, 0.72, 0.8654), strict=True))
    for name, half_tie in scores.items():
        put(run / "eval" / name / "summary.json", model_summary(half_tie))
        headlines[name] = headline(half_tie)
    difference = {
        "model": "gcpo",
        "against": "sft",
        "n": 640,
        "strict": 0.1,
        "half_tie": 0.1454,
        "ci95": [0.11, 0.18],
    }
    put_stage(run, "eval", {"models": headlines, "compare": [difference]})
    judge = run / "eval" / "gcpo"
    (judge / "examples").mkdir()
    Image.new("RGB", (16, 16), (200, 70, 60)).save(judge / "examples" / "0.jpg")
    principles = [{"question": "Is it <b>red</b> now?", "category": "follow"}]
    read = {"verdicts": [1], "average": 1.0, "score": 8.5}
    judged = {"principles": principles, "thought": "gray > red ok", "read": read, "failure": None}
    lost = {
        "principles": principles,
        "thought": "…",
        "read": None,
        "failure": {"kind": "unparseable", "detail": ""},
    }
    outcome = {
        "number": 0, "item": "0", "group": "0", "source": "s", "instruction": ATTACK, "task_type": "color_alter",
        "dimension": "overall", "label": "a", "edits": ["x", "y"],
    }  # fmt: skip
    example = {
        "kind": "unreadable",
        "outcome": outcome,
        "images": ["examples/0.jpg"] * 3,
        "words": [],
    }
    put(judge / "examples.json", [{**example, "judgements": [judged, lost]}])


def put_editors(run):
    folder = run / "edit-eval"
    numbers = {
        "reward": 0.61,
        "all_pass": 0.2,
        "by_principle": {"follow": 0.4, "keep": 0.8, "quality": 0.9},
        "ci95": [0.58, 0.64],
    }
    put(
        folder / "evaluation.json",
        {
            name: {**numbers, "n": 600, "gain_over_base": 0.1, "gain_ci95": [0.05, 0.15]}
            for name in EDITORS
        },
    )
    put_stage(run, "edit-eval", {})
    (folder / "samples").mkdir()
    Image.new("RGB", (16, 16)).save(folder / "samples" / "0_source.png")
    samples = {
        name: {"image": "0_source.png", "reward": 0.5, "verdicts": [1, 0]} for name in EDITORS
    }
    questions = ["Is the red circle blue now?", "Is the image clean?"]
    row = {
        "instruction": ATTACK,
        "source": "0_source.png",
        "principles": questions,
        "samples": samples,
    }
    put(folder / "samples" / "index.json", [row])


@pytest.fixture
def run(tmp_path):
    run = tmp_path / "demo"
    for name in ("world", "data", "sft", "gcpo", "edit-nft", "edit-grpo"):
        put_stage(run, name, {})
    put_metrics(
        run,
        "sft",
        [{"step": 10, "loss": 1.0}, {"step": 20, "loss": 0.4}, {"step": 20, "eval_loss": 0.3}],
    )
    put_metrics(
        run,
        "gcpo",
        [{"step": s, "reward": 0.5, "tie_rate": 0.2, "unreadable_rate": 0.0} for s in (1, 2)],
    )
    for name in ("edit-nft", "edit-grpo"):
        put_metrics(
            run,
            name,
            [
                {"epoch": e, "reward_mean": 0.5 + e / 10, "true_reward_mean": None if e else 0.5}
                for e in (0, 1)
            ],
        )
    put_eval(run)
    put_editors(run)
    return run


def rendered(run, tmp_path):
    configs = tmp_path / "configs"
    configs.mkdir(exist_ok=True)
    (configs / "edit_nft.yaml").write_text("groups: 8  # <of edits>\n")
    path = write_report(ReportConfig(run=str(run), configs=str(configs)))
    return path.read_text(), json.loads((run / "summary.json").read_text())


def test_the_summary_has_every_key(run, tmp_path):
    _, summary = rendered(run, tmp_path)
    assert list(summary) == ["rrm", "editor", "seconds", "peak_rss_mb"]
    assert {name: set(values) for name, values in summary["rrm"].items()} == {
        name: set(MODEL_KEYS) for name in MODELS
    }
    assert {name: set(values) for name, values in summary["editor"].items()} == {
        name: set(EDITOR_KEYS) for name in EDITORS
    }
    assert list(summary["seconds"]) == list(summary["peak_rss_mb"]) == list(STAGES)
    assert summary["rrm"]["gcpo"]["half_tie"] == 0.8654
    assert summary["rrm"]["gcpo"]["verdict_balanced_accuracy"] == 0.9
    assert summary["editor"]["nft"]["by_principle"] == {"follow": 0.4, "keep": 0.8, "quality": 0.9}
    assert summary["seconds"]["sft"] == 61.0


def test_the_page_says_what_was_found(run, tmp_path):
    html, _ = rendered(run, tmp_path)
    assert "<b>86.5%</b> of 640" in html
    assert "+14.5 points" in html
    assert "excludes zero" in html
    assert "8 of 8 stages ran, in 8 min 08 s" in html
    assert "No score: unparseable" in html
    assert "Score 8.5 of 10" in html
    assert "not run" not in html
    assert html.count("<svg ") == 6


def test_the_page_is_whole_and_loads_nothing(run, tmp_path):
    html, _ = rendered(run, tmp_path)
    tags = Tags()
    tags.feed(html)
    assert tags.open == []
    assert all(
        value.startswith(("data:image/png;base64,", "data:image/jpeg;base64,", "#"))
        for value in tags.loads
    )
    assert not re.search(r"url\(\s*['\"]?http|@import", html)
    assert "script" not in tags.seen


def test_what_users_wrote_is_text_and_not_markup(run, tmp_path):
    html, _ = rendered(run, tmp_path)
    assert "<script" not in html
    assert html.count("&lt;script&gt;alert") == 2
    assert "Is it &lt;b&gt;red&lt;/b&gt; now?" in html
    assert "groups: 8  # &lt;of edits&gt;" in html


@pytest.mark.parametrize(
    "stages", [("eval",), ("edit-eval",), ("sft", "gcpo"), ("edit-nft", "edit-grpo"), STAGES]
)
def test_a_stage_that_did_not_run_is_said_to_be_so(run, tmp_path, stages):
    for name in stages:
        (run / name).rename(tmp_path / f"away-{name}")
    html, summary = rendered(run, tmp_path)
    Tags().feed(html)
    for name in stages:
        assert f'<td>{name}</td><td class="word">not run</td>' in html
        assert summary["seconds"][name] is None
    if "eval" in stages:
        assert summary["rrm"]["gcpo"] == dict.fromkeys(MODEL_KEYS)
    if "edit-eval" in stages:
        assert summary["editor"]["base"] == dict.fromkeys(EDITOR_KEYS)


def test_an_unfinished_stage_is_told_from_one_not_run(run, tmp_path):
    (run / "gcpo" / "stage.json").rename(run / "gcpo" / "started.json")
    html, summary = rendered(run, tmp_path)
    assert '<td>gcpo</td><td class="word">unfinished</td>' in html
    assert summary["seconds"]["gcpo"] is None


def test_a_difference_that_may_be_chance_is_said_to_be_so(run, tmp_path):
    stage = json.loads((run / "eval" / "stage.json").read_text())
    stage["result"]["compare"][0]["ci95"] = [-0.01, 0.04]
    put(run / "eval" / "stage.json", stage)
    html, _ = rendered(run, tmp_path)
    assert "−1.0 to +4.0" in html
    assert "may be chance" in html


def test_an_interval_that_could_not_be_worked_out_is_missing_and_not_nan(run, tmp_path):
    path = run / "edit-eval" / "evaluation.json"
    path.write_text(path.read_text().replace("[0.58, 0.64]", "[NaN, NaN]"))
    html, summary = rendered(run, tmp_path)
    assert summary["editor"]["base"]["ci95"] == [None, None]
    assert "nan" not in re.sub(r"base64,[^\"]*", "", html).lower()


def test_a_run_that_is_not_there_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="no run at"):
        write_report(ReportConfig(run=str(tmp_path / "absent"), configs="configs/sandbox"))


def test_the_sandbox_config_is_valid():
    assert ReportConfig.read("configs/sandbox/report.yaml").run == "runs/demo"
