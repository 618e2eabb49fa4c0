"""Several judges on small files of the public schema: a script whose scores are known, and the
sandbox's truth."""

from __future__ import annotations

import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from eval.benchmarks import read_benchmark
from eval.editrewardbench.baselines import ChanceJudge
from eval.editrewardbench.endpoint import EndpointJudge
from eval.editrewardbench.examples import read_examples
from eval.editrewardbench.judges import Edit, LocalJudge
from eval.editrewardbench.sandbox_truth import SandboxTruth
from eval.editrewardbench.suite import SuiteConfig, judge_all, run_suite
from eval.report import example_edits, example_pairs
from rrm.errors import InputError, NothingMade
from rrm.records import Failure, Judgement, Principle, TaskToDecompose, Verdicts
from rrm.runtime.lock import locked
from rrm.sandbox.edits import Step, decompose
from rrm.sandbox.world import Scene, Thing, draw

SOURCE = Image.new("RGB", (12, 8), (90, 90, 90))
# every edit is one colour, and its red channel is the score that the scripted judge gives; 255 is
# unreadable, 254 times out
SHADES = {"x8": 80, "x3": 30, "x5": 50, "y5": 51, "bad": 255, "late": 254}
SCORES = {80: 8.0, 30: 3.0, 50: 5.0, 51: 5.0}
ROWS = (
    ("x8", "x3", "color_alter", "overall"),  # right
    ("x3", "x8", "color_alter", "overall"),  # wrong
    ("x5", "y5", "extract", "overall"),  # tie
    ("x8", "bad", "extract", "overall"),  # unparseable
    ("x8", "x3", "color_alter", "consistency"),  # right, and both images recur
)


def image_of(name: str) -> Image.Image:
    return Image.new("RGB", (24, 16), (SHADES[name], 0, 0))


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def write_jsonl(folder, rows=ROWS, drop=None):
    SOURCE.save(folder / "source.png")
    for name in SHADES:
        image_of(name).save(folder / f"{name}.png")
    lines = []
    for first, second, task, dimension in rows:
        row = {
            "key": [first, second],
            "instruction": "make it red",
            "input_image": "source.png",
            "output_images": [f"{first}.png", f"{second}.png"],
            "task_type": task,
            "dimension": dimension,
        }
        row.pop(drop, None)
        lines.append(json.dumps(row))
    path = folder / "bench.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def write_parquet(path, rows=ROWS):
    def cell(image):
        return {"bytes": png(image), "path": None}

    columns = {
        "key": [[a, b] for a, b, _, _ in rows],
        "instruction": ["make it red"] * len(rows),
        "input_image": [cell(SOURCE)] * len(rows),
        "output_images": [[cell(image_of(a)), cell(image_of(b))] for a, b, _, _ in rows],
        "task_type": [task for *_, task, _ in rows],
        "dimension": [dimension for *_, dimension in rows],
    }
    pq.write_table(pa.table(columns), path)
    return path


class ScriptedJudge(LocalJudge):
    """Scores an edit by its red channel; counts what it was asked."""

    def __init__(self, fingerprint="scripted"):
        self.fingerprint = fingerprint
        self.asked = []

    def prompt(self, instruction, principles, requirement=None):
        return f"{instruction} {[p.question for p in principles]}"

    def decompose(self, task):
        return (Principle(question="Is it red?", category="follow"),)

    def judge(self, edit):
        shade = edit.edited.getpixel((0, 0))[0]
        self.asked.append(shade)
        if shade not in SCORES:
            kind = "unparseable" if shade == 255 else "timed_out"
            return Judgement(principles=edit.principles, failure=Failure(kind=kind))
        return Judgement(
            principles=edit.principles, read=Verdicts(verdicts=(1,), average=1, score=SCORES[shade])
        )


def answers(ask, things):
    """What `ask` gives for these, in their order."""
    found = {}
    ask(things, found.__setitem__)
    return [found[place] for place in range(len(things))]


class Scripted(SandboxTruth):
    """Opens this judge; knows a truth where principles are the sandbox's."""

    def __init__(self, judge, known):
        super().__init__()
        self.judge, self.known = judge, known

    def open_judge(self, name):
        return self.judge

    def measure(self, rows, judgements):
        return super().measure(rows, judgements) if self.known else {}


def scripted(bench, out, judge, **settings):
    """The config and the truth of one scripted judge."""
    values = {
        "bench": "editscore",
        "data": str(bench),
        "out": str(out),
        "batch": 2,
        "resize": False,
        **settings,
    }
    config = SuiteConfig(judges={"scripted": "sandbox:it"}, truth="sandbox", **values)
    return config, {"sandbox": lambda: Scripted(judge, config.principles == "truth")}


def judged(bench, out, judge, **settings):
    config, truths = scripted(bench, out, judge, **settings)
    result = judge_all(config, "the command", truths)
    return result, json.loads((out / "scripted" / "summary.json").read_text())


def test_the_numbers_are_those_worked_out_by_hand(tmp_path):
    result, summary = judged(write_jsonl(tmp_path), tmp_path / "out", ScriptedJudge())
    overall = summary["result"]["dimensions"]["overall"]
    assert {
        key: overall[key] for key in ("strict", "half_tie", "n", "right", "ties", "unreadable")
    } == {
        "strict": 0.25,
        "half_tie": 0.375,
        "n": 4,
        "right": 1,
        "ties": 1,
        "unreadable": 1,
    }
    assert overall["macro"] == 0.25  # color_alter ½, extract 0
    extract = {"strict": 0.0, "half_tie": 0.25, "n": 2, "right": 0, "ties": 1, "unreadable": 1}
    assert {name: overall["by_task"]["extract"][name] for name in extract} == extract
    assert overall["by_group"]["appearance"]["half_tie"] == 0.5
    assert overall["half_tie_ci95"] is None  # one source only
    assert summary["result"]["dimensions"]["consistency"]["strict"] == 1.0
    assert summary["result"]["account"]["failed"] == {"unparseable": 1}
    assert result["models"]["scripted"]["verdict_balanced_accuracy"] is None
    assert result["models"]["scripted"]["half_tie"] == 0.375


def test_an_image_that_recurs_is_judged_once(tmp_path):
    judge = ScriptedJudge()
    result, _ = judged(write_jsonl(tmp_path), tmp_path / "out", judge)
    assert sorted(judge.asked) == [30, 50, 51, 80, 255]
    assert (result["pairs"], result["edits"], result["sources"]) == (5, 5, 1)


def test_a_model_that_answers_for_no_edit_is_an_error_and_one_that_cannot_be_read_is_a_result(
    tmp_path,
):
    unread, _ = judged(
        write_jsonl(tmp_path, [("bad", "bad", "extract", "overall")]),
        tmp_path / "one",
        ScriptedJudge(),
    )
    assert unread["account"] == {"in": 1, "out": 1, "failed": {}}
    result, _ = judged(
        write_jsonl(tmp_path, [("x8", "late", "extract", "overall")]),
        tmp_path / "two",
        ScriptedJudge(),
    )
    assert result["account"] == {"in": 2, "out": 1, "failed": {"timed_out": 1}}
    with pytest.raises(
        NothingMade,
        match=r"'scripted' \(sandbox:it\) answered for no edit: 1 rows in, 0 out, 1 failed: 1 timed_out",
    ):
        judged(
            write_jsonl(tmp_path, [("late", "late", "extract", "overall")]),
            tmp_path / "three",
            ScriptedJudge(),
        )


def test_an_interrupted_run_carries_on_and_a_torn_line_is_judged_again(tmp_path):
    bench, out = write_jsonl(tmp_path), tmp_path / "out"
    judged(bench, out, ScriptedJudge())
    rows = out / "scripted" / "rows.jsonl"
    lines = rows.read_text().splitlines(keepends=True)
    rows.write_text("".join(lines[:3]) + lines[3][:40])
    again = ScriptedJudge()
    _, summary = judged(bench, out, again)
    assert len(again.asked) == 2
    assert summary["result"]["dimensions"]["overall"]["half_tie"] == 0.375
    assert len(rows.read_text().splitlines()) == 5


def test_another_model_prompt_or_image_never_meets_an_old_row(tmp_path):
    bench, out = write_jsonl(tmp_path), tmp_path / "out"
    judged(bench, out, ScriptedJudge())
    retrained = ScriptedJudge("scripted, retrained")
    judged(bench, out, retrained)
    assert len(retrained.asked) == 5
    reworded = ScriptedJudge()
    reworded.prompt = lambda instruction, principles, requirement=None: "other words"
    judged(bench, out, reworded)
    assert len(reworded.asked) == 5
    repainted = ScriptedJudge()
    Image.new("RGB", (12, 8), (80, 0, 9)).save(tmp_path / "x8.png")
    judged(bench, out, repainted)
    assert repainted.asked == [80]


def test_a_passing_failure_is_asked_again_and_a_lasting_one_is_not(tmp_path):
    bench = write_jsonl(
        tmp_path, [("x8", "late", "extract", "overall"), ("x8", "bad", "extract", "overall")]
    )
    judged(bench, tmp_path / "out", ScriptedJudge())
    again = ScriptedJudge()
    _, summary = judged(bench, tmp_path / "out", again)
    assert again.asked == [254]
    assert summary["result"]["account"]["failed"] == {"timed_out": 1, "unparseable": 1}


def test_judgements_kept_elsewhere_survive_a_new_output_folder(tmp_path):
    bench = write_jsonl(tmp_path)
    judged(bench, tmp_path / "one", ScriptedJudge(), judgements=str(tmp_path / "kept"))
    again = ScriptedJudge()
    judged(bench, tmp_path / "two", again, judgements=str(tmp_path / "kept"))
    assert again.asked == []
    config, truths = scripted(bench, tmp_path / "new", again, judgements=str(tmp_path / "kept"))
    with (
        locked(tmp_path / "kept"),
        pytest.raises(InputError, match="kept is in use by another run"),
    ):
        run_suite(config, "the command", truths)


def test_folder_parquet_and_jsonl_give_the_same_rows(tmp_path):
    (tmp_path / "data").mkdir()
    parquet = write_parquet(tmp_path / "data" / "train-00000-of-00001.parquet")
    found = [
        list(read_benchmark("editscore", str(path)))
        for path in (write_jsonl(tmp_path), parquet, tmp_path / "data")
    ]
    digests = [
        [(row.pair.source, row.pair.edited, row.key, row.pair.dimension) for row in rows]
        for rows in found
    ]
    assert digests[0] == digests[1] == digests[2]
    assert found[0][0].key == ("x8", "x3")
    assert found[0][0].edited[0].size == (24, 16)


def test_a_hub_id_is_loaded_at_its_revision(tmp_path, monkeypatch):
    import datasets

    asked = {}

    def load_dataset(path, name, revision, split):
        asked.update(path=path, name=name, revision=revision, split=split)
        return datasets.Dataset(pq.read_table(write_parquet(tmp_path / "hub.parquet")))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert len(list(read_benchmark("editscore", "EditScore/EditReward-Bench@abc123"))) == 5
    assert asked == {
        "path": "EditScore/EditReward-Bench",
        "name": None,
        "revision": "abc123",
        "split": "train",
    }


def test_a_limit_keeps_the_first_rows_of_every_dimension(tmp_path):
    rows = list(read_benchmark("editscore", str(write_jsonl(tmp_path)), limit=2))
    assert [row.pair.dimension for row in rows] == ["overall", "overall", "consistency"]


@pytest.mark.parametrize("column", ["key", "input_image", "task_type", "dimension"])
def test_a_missing_column_is_named(tmp_path, column):
    with pytest.raises(InputError, match=f"line 1 lacks {column}"):
        list(read_benchmark("editscore", str(write_jsonl(tmp_path, drop=column))))


def test_what_is_no_benchmark_is_refused_in_a_sentence(tmp_path):
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(InputError, match="holds no rows"):
        list(read_benchmark("editscore", str(tmp_path / "empty.jsonl")))
    (tmp_path / "nothing").mkdir()
    with pytest.raises(InputError, match=r"holds no \.parquet, \.jsonl, \.csv or \.tsv files"):
        list(read_benchmark("editscore", str(tmp_path / "nothing")))
    with pytest.raises(InputError, match="is no benchmark"):
        list(read_benchmark("editscore", str(tmp_path / "absent.csv")))
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(InputError, match="cannot be read as Parquet"):
        list(read_benchmark("editscore", str(tmp_path / "broken.parquet")))


def test_a_damaged_image_stops_the_run_before_anything_is_judged(tmp_path):
    bench = write_jsonl(tmp_path)
    (tmp_path / "bad.png").write_bytes(b"no image")
    judge = ScriptedJudge()
    with pytest.raises(InputError, match=r"line 4.*bad\.png"):
        judged(bench, tmp_path / "out", judge)
    assert judge.asked == []


def test_a_pair_of_three_is_refused(tmp_path):
    bench = write_jsonl(tmp_path)
    bench.write_text(bench.read_text().replace('["x8", "x3"]', '["x8", "x3", "x5"]'))
    with pytest.raises(InputError, match="'key' must hold exactly two"):
        list(read_benchmark("editscore", str(bench)))


def test_principles_come_from_a_file_and_a_missing_instruction_is_named(tmp_path):
    bench = write_jsonl(tmp_path)
    table = tmp_path / "principles.jsonl"
    table.write_text(
        json.dumps(
            {
                "instruction": "make it red",
                "principles": [{"question": "Red?", "category": "follow"}],
            }
        )
    )
    judged(bench, tmp_path / "out", ScriptedJudge(), principles=str(table))
    row = json.loads((tmp_path / "out" / "scripted" / "rows.jsonl").read_text().splitlines()[0])
    assert row["judgement"]["principles"] == [{"question": "Red?", "category": "follow"}]
    table.write_text(
        json.dumps(
            {"instruction": "other", "principles": [{"question": "Red?", "category": "follow"}]}
        )
    )
    with pytest.raises(InputError, match="lacks principles for 1"):
        judged(bench, tmp_path / "out2", ScriptedJudge(), principles=str(table))


def sandbox_bench(folder):
    """Two held-out scenes of which the right edit is preferred to an untouched one."""
    rows = []
    for name, colour in (("a", "red"), ("b", "green")):
        before = Scene("gray", (Thing(colour, "circle"), None, Thing("yellow", "square"), None))
        after = before.put(0, Thing("blue", "circle"))
        for part, scene in (("source", before), ("right", after), ("same", before)):
            draw(scene).save(folder / f"{name}-{part}.png")
        instruction = Step("recolour", colour, "circle", "blue").text()
        row = {
            "key": [f"{name}1", f"{name}2"],
            "instruction": instruction,
            "input_image": f"{name}-source.png",
        }
        outputs = [f"{name}-right.png", f"{name}-same.png"]
        rows.append(
            {**row, "output_images": outputs, "task_type": "color_alter", "dimension": "overall"}
        )
    (folder / "bench.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "bench.jsonl"


class Knowing(ScriptedJudge):
    """Judges one scene right, and says yes to everything on the other."""

    def judge(self, edit):
        right = edit.edited.tobytes() != edit.source.tobytes()
        first = "red" in edit.instruction
        verdicts = (1, 1, 1, 1) if right or not first else (0, 1, 1, 1)
        read = Verdicts(
            verdicts=verdicts, average=sum(verdicts) / 4, score=9.0 if right or not first else 2.0
        )
        return Judgement(principles=edit.principles, read=read)


def test_in_the_sandbox_verdicts_and_scores_are_held_against_the_truth(tmp_path):
    settings = {"principles": "truth"}
    _, summary = judged(sandbox_bench(tmp_path), tmp_path / "out", Knowing(), **settings)
    # true 1s: all 14 judged 1; true 0s: the two untouched edits' first question, judged 0 and 1
    assert summary["truth"]["verdict_balanced_accuracy"] == pytest.approx((1 + 0.5) / 2)
    assert summary["truth"]["verdicts"]["principles"] == 16
    assert summary["result"]["dimensions"]["overall"]["half_tie"] == 0.75
    assert summary["truth"]["score_by_quality"]["right in every point"] == {
        "n": 2,
        "unscored": 0,
        "mean_score": 9.0,
    }
    assert summary["truth"]["score_by_quality"]["unusable"] == {
        "n": 2,
        "unscored": 0,
        "mean_score": 5.5,
    }
    folder = tmp_path / "out" / "scripted"
    examples = example_pairs(read_examples(folder))
    assert [edit["preferred"] for edit in example_edits(folder, examples[0])] == [True, False]
    assert (folder / examples[0].images[0]).is_file()
    scores = [
        [edit["judgement"]["read"]["score"] for edit in example_edits(folder, example)]
        for example in examples
    ]
    assert scores == [[9.0, 2.0], [9.0, 9.0]]


def test_a_benchmark_from_elsewhere_has_no_sandbox_truth(tmp_path):
    with pytest.raises(InputError, match="not in the sandbox's language"):
        judged(write_jsonl(tmp_path), tmp_path / "out", ScriptedJudge(), principles="truth")


def test_the_stage_compares_models_and_is_skipped_when_done(tmp_path, capsys):
    config, truths = scripted(
        sandbox_bench(tmp_path), tmp_path / "out", Knowing(), principles="truth"
    )
    config = config.model_copy(
        update={
            "judges": {"chance": "baseline:chance", "teacher": "sandbox:it"},
            "compare": (("teacher", "chance"),),
        }
    )
    result = run_suite(config, "the command", truths)
    (difference,) = result["compare"]
    models = result["models"]
    assert difference["half_tie"] == pytest.approx(
        models["teacher"]["half_tie"] - models["chance"]["half_tie"]
    )
    assert "overall" in capsys.readouterr().out
    assert run_suite(config, "the command") == json.loads(json.dumps(result))
    assert "done already" in capsys.readouterr().err


def test_chance_is_the_same_for_the_same_seed():
    principles = decompose([Step("background", value="tan")])
    edits = [grey_edit(f"edit {i}", principles) for i in range(40)]
    first, again, other = (answers(ChanceJudge(seed).judge_many, edits) for seed in (1, 1, 2))
    assert first == again != other
    assert all(0 <= judgement.score <= 10 for judgement in first)


def grey_edit(name, principles):
    return Edit(name, SOURCE, SOURCE, "make the background tan", principles)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"compare": [["gcpo", "sft"]]}, "'compare' names gcpo, sft"),
        ({"principles": "truth"}, "'principles: truth' needs a 'truth'"),
        ({"judges": {"a/b": "baseline:chance"}}, "folder"),
        ({"limt": 5}, "did you mean 'limit'"),
        ({"bench": "imagenet"}, "'imagenet' is no kind of benchmark"),
    ],
)
def test_a_config_that_contradicts_itself_is_refused(tmp_path, change, message):
    path = tmp_path / "eval.yaml"
    values = {
        "bench": "editscore",
        "data": "b",
        "judges": {"chance": "baseline:chance"},
        "out": "o",
    }
    path.write_text(json.dumps(values | change))
    with pytest.raises(InputError, match=message):
        SuiteConfig.read(path)


def test_a_judge_or_a_truth_that_nobody_knows_is_refused(tmp_path):
    config, truths = scripted(write_jsonl(tmp_path), tmp_path / "out", ScriptedJudge())
    with pytest.raises(InputError, match="no truth 'sandbox'; known: none"):
        run_suite(config, "the command")
    with pytest.raises(InputError, match="names no server"):
        run_suite(
            config.model_copy(update={"judges": {"t": "vlm:sandbox?model=m"}}),
            "the command",
            truths,
        )
    with pytest.raises(InputError, match="of the sandbox; set 'truth: sandbox'"):
        run_suite(config.model_copy(update={"truth": None}), "the command", truths)


def test_the_sandbox_config_is_valid():
    config = SuiteConfig.read("configs/sandbox/eval.yaml")
    assert list(config.judges) == ["chance", "teacher", "sft", "gcpo"]


def test_the_sandbox_teacher_judges_over_http(tmp_path):
    step = Step("recolour", "red", "circle", "blue")
    before = Scene("gray", (Thing("red", "circle"), None, Thing("yellow", "square"), None))
    after = before.put(0, Thing("blue", "circle"))
    edits = [
        Edit(str(i), draw(before), draw(scene), step.text(), decompose([step]))
        for i, scene in enumerate((after, before))
    ]
    with SandboxTruth().open_judge("sandbox-careful") as judge:
        assert judge.fingerprint == "endpoint|sandbox|sandbox-careful|0.0|4096"
        right, untouched = answers(judge.judge_many, edits)
        (principles,) = answers(judge.decompose_many, [TaskToDecompose(draw(before), step.text())])
    assert right.read.verdicts == (1, 1, 1, 1)
    assert untouched.read.verdicts[0] == 0
    assert principles == decompose([step])
    with (
        SandboxTruth().open_judge("no-such-model") as judge,
        pytest.raises(InputError, match="no-such-model"),
    ):
        answers(judge.judge_many, edits * 2)


def test_a_server_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr("eval.editrewardbench.endpoint.RETRIES", 0)
    settings = {"key_variable": "NO_SUCH_KEY", "temperature": 0.0, "max_tokens": 64, "timeout": 5.0}
    edit = Edit("e", SOURCE, SOURCE, "q", (Principle(question="?", category="follow"),))
    judge = EndpointJudge("http://127.0.0.1:9/v1", "m", **settings)
    with judge, pytest.raises(InputError, match="does not answer"):
        answers(judge.judge_many, [edit])
