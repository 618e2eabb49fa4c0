"""The study over seeds: what is planned, how stages are run beside one another, and what is made of
their judgements."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from eval.ablation.archive import Archive, left_to_run, read_archive, recipe, write_archive
from eval.ablation.evidence import collect, compared, human_pairs, judged_models, measures, targets
from eval.ablation.jobs import run_jobs
from eval.ablation.judged import Judged
from eval.ablation.page import curve_points, write_page
from eval.ablation.study import AblationConfig, Job, Study, plan
from eval.editrewardbench.sandbox_truth import EditTruth, SandboxTruth
from eval.editrewardbench.suite import SuiteConfig, run_suite
from eval.pairs import PairIndex
from rrm.errors import InputError
from rrm.parsing import read_answer
from rrm.prompts import HOLISTIC_SYSTEM, judge_system, judge_text
from rrm.records import EditToJudge, Failure, Judgement, Verdicts
from rrm.runtime.stage import DONE, run_stage, write_json
from rrm.sandbox.build import WorldConfig, build
from rrm.sandbox.edits import decompose, parse_instruction
from rrm.sandbox.language import agrees
from rrm.sandbox.personas import biased_mean
from rrm.sandbox.world import draw, sample_scene
from rrm.verifier.checkpoint import load
from rrm.verifier.inference import Verifier
from tests.support import ROOT

SANDBOX = ROOT / "configs" / "sandbox"


def ablation(out: Path, **more: object) -> AblationConfig:
    return AblationConfig.model_validate(
        {
            "out": out, "evidence": out / "evidence", "recipes": SANDBOX, "seeds": [3, 4], "curve": [8], "curve_seeds": [4],
            "bases": {"tiny": "a", "mini": "b"}, "remedies": {"score": {"gradient_tokens": "score"}}, "teachers": ["sandbox-lenient"], **more,
        }
    )  # fmt: skip


def test_every_stage_needs_only_what_is_planned_before_it(tmp_path):
    study = plan(ablation(tmp_path))
    done: set[str] = set()
    for job in sorted(study.jobs.values(), key=lambda job: job.rank):
        assert set(job.needs) <= done, job
        done.add(job.name)
    assert [name for name in done if name.endswith("/gcpo-n8")] == ["seed4/gcpo-n8"]
    assert study.jobs["seed4/gcpo-n8"].keys["pair_count"] == 8
    assert study.jobs["seed3/gcpo-score"].keys["gradient_tokens"] == "score"
    assert study.jobs["seed3/sft-holistic"].keys["style"] == "brief_holistic"
    assert study.jobs["seed3/gcpo-mini"].keys["base"] == str(tmp_path / "seed3/sft-tv-mini/model")


def test_the_shipped_study_plans_three_seeds_and_two_sizes():
    config = AblationConfig.read(SANDBOX / "ablation.yaml")
    assert len(config.seeds) >= 3
    assert len(config.bases) == 2
    assert config.world["benchmark_pairs"] >= 1000
    assert {"holistic", "t", "v"} == set(config.variants)


@pytest.fixture
def stage_module(tmp_path, monkeypatch):
    """A stage that notes its name, and fails where its config says so."""
    (tmp_path / "a_stage.py").write_text(
        "import sys, yaml\n"
        "c = yaml.safe_load(open(sys.argv[3]))\n"
        "open(c['log'], 'a').write(c['name'] + '\\n')\n"
        "print('doing'); sys.exit('it broke') if c['fails'] else None\n"
    )
    monkeypatch.setattr(
        "eval.ablation.jobs.PROGRAM", (sys.executable, str(tmp_path / "a_stage.py"))
    )

    def job(name: str, needs: tuple[str, ...] = (), rank: int = 0, fails: bool = False) -> Job:
        return Job(
            name,
            "a_stage",
            {"name": name, "log": str(tmp_path / "order"), "fails": fails},
            needs,
            rank,
        )

    return job


def test_jobs_run_by_rank_and_what_failed_holds_back_what_needs_it(tmp_path, stage_module):
    listed = [
        stage_module("late", rank=5), stage_module("first"), stage_module("broken", ("first",), 1, fails=True),
        stage_module("after-broken", ("broken",), 2), stage_module("after-that", ("after-broken",), 2),
    ]  # fmt: skip
    ended = []
    failed = run_jobs(
        {job.name: job for job in listed}, tmp_path / "out", 1, lambda: ended.append(1)
    )
    assert (tmp_path / "order").read_text().split() == ["first", "broken", "late"]
    assert len(ended) == 2
    assert [(f.job, f.reason) for f in failed] == [
        ("broken", "it broke"),
        ("after-broken", "needs a stage that failed"),
        ("after-that", "needs a stage that failed"),
    ]
    assert yaml.safe_load((tmp_path / "out/configs/first.yaml").read_text())["name"] == "first"


def judgement(
    score: float | None, verdicts: tuple[int, ...] = (1, 0), thought: str = "1: a ok\n2: b bad"
) -> Judgement:
    if score is None:
        return Judgement(failure=Failure(kind="unparseable"))
    return Judgement(
        thought=thought,
        read=Verdicts.model_validate(
            {"verdicts": verdicts, "average": sum(verdicts) / max(len(verdicts), 1), "score": score}
        ),
    )


def some_judged(seed: int, scores: dict[str, float | None], **more: object) -> Judged:
    pairs = [
        PairIndex(
            i, "x", "compose", "overall", f"s{i}", (f"w{i}", f"l{i}"), "a", f"p{i}", 2, f"p{i}"
        )
        for i in range(4)
    ]
    names = {pair.edit_ids[side]: pair.edited[side] for pair in pairs for side in (0, 1)}
    truths = {
        name: EditTruth((1, 0), 10.0 if edit[0] == "w" else 4.0) for name, edit in names.items()
    }
    return Judged(
        pairs, truths, {name: judgement(scores[edit], **more) for name, edit in names.items()}, seed
    )  # type: ignore[arg-type]


SCORES = {"w0": 8.0, "l0": 3.0, "w1": 5.0, "l1": 5.0, "w2": 4.0, "l2": 6.0, "w3": 9.0, "l3": None}


def test_the_measures_of_four_pairs_by_hand():
    found = measures([some_judged(1, SCORES)])
    assert (found["right"], found["ties"], found["unparseable"], found["n"]) == (1, 1, 1, 4)
    assert found["strict"] == 0.25
    assert found["half_tie"] == 0.375
    assert found["tie_rate"] == 0.25
    assert found["trace_validity"] == 7 / 8
    assert found["verdict_balanced_accuracy"] == 1.0
    assert found["mean_score_by_quality"]["right in every point"] == (8 + 5 + 4 + 9) / 4
    assert found["mean_score_by_quality"]["unusable"] == pytest.approx((3 + 5 + 6) / 3)
    assert found["verdicts_agree_with_thought"] == 1.0
    torn = measures([some_judged(1, SCORES, thought="1: a ok\n2: b ok")])
    assert torn["verdicts_agree_with_thought"] == 0.0


def test_a_judge_without_verdicts_has_no_verdict_accuracy():
    found = measures([some_judged(1, SCORES, verdicts=(), thought="fine")])
    assert found["verdict_balanced_accuracy"] is None
    assert found["verdicts_agree_with_thought"] is None
    assert found["trace_validity"] == 7 / 8


def test_two_seeds_are_pooled_with_sources_of_their_own():
    one = measures([some_judged(1, SCORES)])
    two = measures([some_judged(1, SCORES), some_judged(2, SCORES)])
    assert two["n"] == 8
    assert two["half_tie"] == one["half_tie"]
    wide, narrow = (
        found["ci95"][1] - found["half_tie"] for found in (one, two)
    )  # the other end is cut off at 0
    assert narrow == pytest.approx(
        wide * np.sqrt((8 / 7 / 8) / (4 / 3 / 4))
    )  # G/(G−1)/n of twice as many clusters


def test_a_better_judge_is_compared_on_the_same_pairs():
    better = {**SCORES, "w1": 7.0, "l2": 1.0}
    found = compared([some_judged(1, better)], [some_judged(1, SCORES)])
    assert found["pooled"]["half_tie"] == (0.5 + 1) / 4
    assert found["score_shift"] == pytest.approx((2 - 5) / 7)
    gains = np.array([0, 0.5, 1, 0])
    error = np.sqrt(4 / 3 * (((gains - gains.mean()) / 4) ** 2).sum())
    assert found["pooled"]["ci95"][0] == pytest.approx(gains.mean() - 1.959964 * error)
    from scipy.stats import norm

    assert found["pooled"]["p"] == pytest.approx(2 * (1 - norm.cdf(gains.mean() / error)))
    assert found["seeds"]["1"]["half_tie"] == found["pooled"]["half_tie"]


def test_a_target_is_reached_only_if_every_seed_reaches_it():
    models = {"sft-tv": {"seeds": {"1": {"verdict_balanced_accuracy": 0.96, "half_tie": 0.71}, "2": {"verdict_balanced_accuracy": 0.94, "half_tie": 0.7}}}}  # fmt: skip
    found = {t["what"]: t["met"] for t in targets(models, [])}
    assert found["verdict balanced accuracy after SFT"] is False
    assert found["pairs (ties half) after SFT"] is True
    assert found["pairs (ties half) after GCPO"] is False  # nothing measured is nothing reached


def test_a_thought_agrees_with_its_verdicts_or_says_nothing_of_them():
    thought = "red circle > empty diff;\n1: red circle > empty > empty ok\n2: others diff bad"
    assert agrees(thought, (1, 0)) is True
    assert agrees(thought, (1, 1)) is False
    assert agrees(thought, (1, 0, 1)) is None
    assert agrees("", (1,)) is None


def test_the_teachers_bias_by_hand():
    principles = decompose(parse_instruction("remove the red circle") or [])
    assert len(principles) == 4  # follow, others, background, clean
    assert biased_mean(principles, (0, 1, 0, 1)) == pytest.approx(10 * (0.3 * 0.5 + 0.5))
    assert biased_mean(principles, (0, 1, 0, 1), keep_forgotten=True) == pytest.approx(8.0)


def test_the_study_reads_what_its_stages_left(tmp_path):
    """A real world and real evaluations of two judges that need no training; every other stage is
    named as unfinished."""
    config = ablation(tmp_path, seeds=[3], curve_seeds=[], curve=[])
    study = Study(config)
    planned = plan(config)
    world = WorldConfig(
        out=str(study.folder(3, "world")), seed=3, train_tasks=2, test_tasks=1, pair_tasks=2, pair_count=4, benchmark_sources=6,
        benchmark_pairs=8, benchmark_others=0, editor_samples=0,
    )  # fmt: skip
    run_stage("world", world.out, world, [], lambda out: build(world, out))
    for name in ("noiseless", "chance"):
        run_suite(
            SuiteConfig.model_validate(planned.jobs[f"seed3/eval-{name}"].keys),
            "run",
            {"sandbox": SandboxTruth},
        )
    by_model = judged_models(planned, Archive())
    evidence = collect(planned, "the command", by_model, Archive())
    assert set(evidence["models"]) == {"noiseless", "chance"}
    assert evidence["models"]["noiseless"]["pooled"]["verdict_balanced_accuracy"] == 1.0
    assert evidence["models"]["noiseless"]["pooled"]["n"] == 8
    assert "seed3/gcpo" in evidence["unfinished"]
    assert evidence["stages"]["done"] == 3
    write_page(evidence, tmp_path)
    page = (tmp_path / "verifier.md").read_text()
    assert f"{len(evidence['unfinished'])} stages, named in verifier.json" in page
    assert f"{100 * evidence['models']['chance']['pooled']['half_tie']:.1f}" in page
    assert (tmp_path / "verifier-pairs.svg").is_file()
    assert evidence["pairs"] == {}
    kept = tmp_path.with_name(f"{tmp_path.name}-kept")
    write_json(kept / "verifier.json", evidence)
    write_archive(planned, by_model, kept)
    shutil.rmtree(config.out)
    known = read_archive(kept)
    assert collect(planned, "the command", judged_models(planned, known), known) == evidence
    left = left_to_run(planned, known)
    assert {"seed3/eval-noiseless", "seed3/eval-chance"}.isdisjoint(left)
    assert {"seed3/world", "seed3/gcpo", "seed3/eval-gcpo"} <= set(left)
    changed = plan(config.model_copy(update={"world": {**config.world, "test_tasks": 2}}))
    assert not any(judged_models(changed, known).values())
    assert set(left_to_run(changed, known)) == set(changed.jobs)


def test_the_curve_goes_from_no_pair_to_all_of_them():
    of = {
        name: {"seeds": {"3": {"half_tie": value}}}
        for name, value in (("sft-tv", 0.7), ("gcpo-n8", 0.8), ("gcpo", 0.9))
    }
    evidence = {
        "config": {"curve": [8, 16], "curve_seeds": [3]},
        "models": of,
        "pairs": {"3": 20, "4": 30},
    }
    assert [(count, m["half_tie"]) for count, m in curve_points(evidence)] == [
        (0, 0.7),
        (8, 0.8),
        (20, 0.9),
    ]


def test_how_many_pairs_there_were_is_what_gcpo_says_here_or_what_is_known(tmp_path):
    study = plan(ablation(tmp_path))
    write_json(study.folder(3, "gcpo", DONE), {"result": {"pairs": 20}})
    assert human_pairs(study, Archive(pairs={"3": 7, "4": 30})) == {"3": 20, "4": 30}


def test_only_what_is_needed_for_what_is_not_known_is_run_again(tmp_path):
    """Everything but the second size's GCPO is known: of its seed, world, data and the second
    size's SFT are run again."""
    study = plan(ablation(tmp_path, seeds=[3, 4], curve_seeds=[], curve=[]))
    judged = some_judged(3, SCORES)
    names = [name for name in study.jobs if "/eval-" in name and name != "seed4/eval-gcpo-mini"]
    known = Archive({recipe(study, name): judged for name in names}, {})
    assert set(left_to_run(study, known)) == {
        f"seed4/{name}"
        for name in ("world", "data-tv", "sft-tv-mini", "gcpo-mini", "eval-gcpo-mini")
    }


def test_a_folder_without_an_archive_is_refused(tmp_path):
    with pytest.raises(
        InputError,
        match=r"holds no judgements\.parquet and verifier\.json; name the evidence folder",
    ):
        read_archive(tmp_path)


def test_a_study_without_a_recipe_key_of_that_name_is_refused(tmp_path):
    with pytest.raises(InputError, match="did you mean 'seeds'"):
        AblationConfig.checked({"sedes": [1]}, "here")
    with pytest.raises(
        InputError, match=r"curve_seeds.* must be one of the seeds \[3, 4, 5\], or all of them"
    ):
        AblationConfig.checked(
            ablation(tmp_path).model_dump() | {"seeds": [3, 4, 5], "curve_seeds": [3, 4]}, "here"
        )


def test_a_holistic_judge_is_shown_no_principles_and_its_answer_has_no_verdicts():
    principles = decompose(parse_instruction("remove the red circle") or [])
    assert judge_text("brief_holistic", "remove it", principles) == "judge: remove it"
    assert judge_text("holistic", "remove it", principles) == 'Instruction: "remove it"'
    assert judge_system("holistic") == HOLISTIC_SYSTEM
    assert judge_system("brief_holistic") is None
    read = read_answer("It was followed.\n<score>7.5</score>", 0)
    assert isinstance(read, Verdicts)
    assert (read.verdicts, read.score) == ((), 7.5)
    assert isinstance(read_answer("It was followed.\n<score>7.5</score>", 2), Failure)


def test_a_holistic_checkpoint_judges_without_principles(tiny_checkpoint):
    """Its answers are read as such; one with principles refuses an edit that has none."""
    model, processor = load(tiny_checkpoint)
    image = draw(sample_scene(np.random.default_rng(0)))
    for style, kinds in (("brief_holistic", {"cut_off"}), ("brief", {"bad_row"})):
        judge = Verifier(model, processor, style, max_new_tokens=4)  # type: ignore[arg-type]
        (found,) = judge.judge_many([EditToJudge(image, image, "remove the red circle", ())])
        assert found.failure is not None
        assert found.failure.kind in kinds
