"""The data pipeline on a miniature world, with real teachers behind a real server."""

import json
import sqlite3
from contextlib import closing

import pytest

from data_pipeline.decompose import language_of, read_exemplars, system_prompt
from data_pipeline.hard_filter import CRITERIA
from data_pipeline.ledger import Ledger
from data_pipeline.run import run
from data_pipeline.settings import DataConfig, Teacher
from data_pipeline.sft_rows import read_table
from data_pipeline.teachers import Teachers
from rrm.cli import invoke
from rrm.errors import InputError
from rrm.images import ImageStore
from rrm.parsing import read_holistic, read_principles, read_trace, thought_of
from rrm.prompts import DECOMPOSE_SYSTEM
from rrm.records import Failure, PreferencePair, SFTRow, Task, Trace, Verdicts
from rrm.sandbox.build import WorldConfig, build
from rrm.sandbox.teacher import running_teacher

TASKS, CANDIDATES = 5, 3


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    out = tmp_path_factory.mktemp("world")
    sizes = {
        "train_tasks": TASKS,
        "test_tasks": 1,
        "candidates_per_task": CANDIDATES,
        "benchmark_sources": 3,
        "benchmark_pairs": 3,
    }
    build(WorldConfig(out=str(out), pair_tasks=4, pair_count=12, **sizes), out)
    return out


@pytest.fixture(scope="module")
def url():
    with running_teacher() as started:
        yield started


@pytest.fixture
def config(world, url, tmp_path):
    careful = {"model": "sandbox-careful", "temperatures": [0.0], "samples": 1}
    return DataConfig(
        out=str(tmp_path / "data"),
        tasks=str(world / "tasks"),
        candidates=str(world / "candidates.jsonl"),
        pairs=str(world / "pairs.jsonl"),
        teacher_url=url,
        decomposer=careful,
        thinkers=[
            {"model": "sandbox-lenient"},
            {"model": "sandbox-vague", "temperatures": [0.3, 1.0], "samples": 1},
        ],
        gold_teacher=careful,
        principles={"follow": (1, 3), "keep": (1, 3), "quality": (1, 2)},
        principles_total=(3, 6),
        exemplars=None,
        decompose_share=0.25,
        concurrency=4,
    )


def made(config, tmp_path):
    out = tmp_path / "data"
    out.mkdir(parents=True, exist_ok=True)
    run(config, out)
    return read_table(out / "sft.parquet", SFTRow), json.loads((out / "card.json").read_text()), out


def changed(config, **values):
    return config.model_copy(update=values)


def test_think_and_verify_makes_rows_preferences_and_a_card(config, tmp_path):
    rows, card, out = made(config, tmp_path)
    judged = [row for row in rows if row.kind == "judge"]
    assert len(judged) == TASKS * CANDIDATES
    for row in judged:
        read = read_trace(row.target, len(row.principles))
        assert isinstance(read, Verdicts)
        assert thought_of(row.target)
        assert 0 <= row.accuracy <= 1
    decomposed = [row for row in rows if row.kind == "decompose"]
    assert len(decomposed) == round(TASKS * CANDIDATES / 3)
    assert all(
        row.edited is None and read_principles(row.target) == row.principles for row in decomposed
    )
    preferred, same = (
        read_table(out / f"{name}.parquet", PreferencePair) for name in ("preferences", "same")
    )
    assert len(preferred) + len(same) == 12
    assert {pair.label for pair in preferred} <= {"a", "b"}
    assert {pair.label for pair in same} <= {"same"}
    store = ImageStore(out / "images")
    for pair in preferred:
        assert pair.principles
        assert all(
            store.get(digest).size == (16, 16)
            for digest in (pair.source, pair.edited_a, pair.edited_b)
        )
    assert card["counts"]["traces"] == 4 * TASKS * CANDIDATES
    assert card["counts"]["gold"] == TASKS * CANDIDATES
    assert set(card["teachers"]) == {"sandbox-lenient", "sandbox-vague"}
    assert card["teachers"]["sandbox-lenient"]["accuracy_vs_gold"] > 0.8
    unreadable = card["counts"]["traces"] - card["counts"]["readable_traces"]
    assert sum(card["failures"]["traces"].values()) == unreadable > 0
    assert 0.7 < card["teacher_agreement"]["sandbox-lenient | sandbox-vague"] <= 1


def test_thinking_without_verification_takes_the_first_readable_trace(config, tmp_path):
    rows, card, _ = made(changed(config, variant="T"), tmp_path)
    judged = [row for row in rows if row.kind == "judge"]
    assert len(judged) == TASKS * CANDIDATES
    assert all(thought_of(row.target) and row.accuracy is None for row in judged)
    assert card["counts"]["gold"] == 0
    assert card["teachers"]["sandbox-lenient"]["selected"] == TASKS * CANDIDATES


def test_verification_without_thinking_selects_bare_scores(config, tmp_path):
    rows, card, _ = made(changed(config, variant="V"), tmp_path)
    judged = [row for row in rows if row.kind == "judge"]
    assert len(judged) == card["counts"]["gold"] == TASKS * CANDIDATES
    assert all(thought_of(row.target) == "" and row.accuracy is not None for row in judged)


def test_holistic_rows_have_no_principles(config, tmp_path):
    rows, card, out = made(changed(config, variant="holistic"), tmp_path)
    assert len(rows) == TASKS * CANDIDATES
    assert all(
        row.principles == () and isinstance(read_holistic(row.target), Verdicts) for row in rows
    )
    assert all(row.target.endswith("</score>") for row in rows)
    assert card["counts"]["decomposed"] == 0
    assert (
        len(read_table(out / "preferences.parquet", PreferencePair))
        == card["counts"]["preferences"]
        > 0
    )


class Interrupted(KeyboardInterrupt):
    """Ctrl-C at a chosen moment."""


def keys_in(ledger):
    with closing(sqlite3.connect(ledger)) as base:
        return {row[0] for row in base.execute("SELECT key FROM calls")}


def counting(monkeypatch, stop_after=None):
    """The keys of the calls that reach a server, in order."""
    asked = []
    send = Teachers.request

    def request(self, call):
        if len(asked) == stop_after:
            raise Interrupted
        asked.append(call.key)
        return send(self, call)

    monkeypatch.setattr(Teachers, "request", request)
    return asked


def bytes_of(out):
    names = (
        "sft.parquet",
        "preferences.parquet",
        "same.parquet",
        "traces.parquet",
        "quarantine.jsonl",
        "card.json",
        "card.html",
    )
    return {name: (out / name).read_bytes() for name in names}


def test_an_interrupted_run_repeats_no_finished_call_and_ends_the_same(
    config, tmp_path, monkeypatch
):
    made(changed(config, out=str(tmp_path / "whole/data")), tmp_path / "whole")
    with monkeypatch.context() as patch:
        counting(patch, stop_after=25)
        with pytest.raises(KeyboardInterrupt):
            made(config, tmp_path)
    finished = keys_in(config.ledger_path)
    assert len(finished) >= 15
    asked = counting(monkeypatch)
    made(config, tmp_path)
    assert asked
    assert not finished & set(asked)
    assert len(asked) == len(set(asked))
    assert bytes_of(tmp_path / "data") == bytes_of(tmp_path / "whole/data")


def test_the_bytes_are_the_same_whatever_the_concurrency(config, tmp_path):
    alone = changed(config, out=str(tmp_path / "alone/data"), concurrency=1)
    many = changed(config, out=str(tmp_path / "many/data"), concurrency=64)
    made(alone, tmp_path / "alone")
    made(many, tmp_path / "many")
    assert bytes_of(tmp_path / "alone/data") == bytes_of(tmp_path / "many/data")
    assert alone.digest() == many.digest()


def test_every_trace_is_kept_readable_or_not(config, tmp_path):
    _, card, out = made(config, tmp_path)
    traces = read_table(out / "traces.parquet", Trace)
    assert len(traces) == card["counts"]["traces"]
    assert sum(trace.read is not None for trace in traces) == card["counts"]["readable_traces"]
    assert all((trace.read is None) == (trace.failure is not None) for trace in traces)


def test_the_card_carries_tokens_money_and_versions(config, tmp_path):
    priced = Teacher(
        model="sandbox-careful", temperatures=(0.0,), samples=1, price_in=1.0, price_out=10.0
    )
    _, card, _ = made(changed(config, decomposer=priced, gold_teacher=priced), tmp_path)
    verify = next(row for row in card["bill"]["by_stage"] if row["stage"] == "verify")
    assert verify["calls"] == TASKS * CANDIDATES
    assert verify["money"] == pytest.approx(
        (verify["prompt_tokens"] + 10 * verify["completion_tokens"]) / 1e6
    )
    assert card["bill"]["total"]["money"] > 0
    assert {"decompose", "judge", "verify"} <= set(card["prompts"])
    assert card["versions"]["openai"]


def test_bad_rows_are_quarantined_with_their_reason(config, world, tmp_path):
    folder = tmp_path / "tasks"
    (folder / "images").mkdir(parents=True)
    first, second = (
        json.loads(line)
        for line in (world / "tasks/train_metadata.jsonl").read_text().splitlines()[:2]
    )
    (folder / first["image"]).write_bytes((world / "tasks" / first["image"]).read_bytes())
    (folder / "images/broken.png").write_bytes(b"not an image")
    bad = [
        "{not json",
        {**second, "image": "images/broken.png"},
        {**second, "image": "images/none.png"},
        {**first, "prompt": " "},
        [1],
    ]
    (folder / "train_metadata.jsonl").write_text(
        "\n".join(b if isinstance(b, str) else json.dumps(b) for b in [first, *bad])
    )
    rows, card, out = made(changed(config, tasks=str(folder), pairs=None), tmp_path)
    assert sum(row.kind == "judge" for row in rows) == CANDIDATES
    left_out = [json.loads(line) for line in (out / "quarantine.jsonl").read_text().splitlines()]
    kinds = {
        row["key"]: row["failure"]["kind"]
        for row in left_out
        if row["key"].startswith("train_metadata")
    }
    assert kinds == {
        "train_metadata.jsonl:2": "bad_row",
        "train_metadata.jsonl:3": "image_unreadable",
        "train_metadata.jsonl:4": "image_unreadable",
        "train_metadata.jsonl:5": "bad_row",
        "train_metadata.jsonl:6": "bad_row",
    }
    assert sum("candidates.jsonl" in row["key"] for row in left_out) == (TASKS - 1) * CANDIDATES
    assert card["counts"]["quarantined"] == len(left_out)


@pytest.mark.parametrize("name", ["tasks", "candidates", "pairs"])
def test_an_empty_dataset_is_an_input_error(config, world, tmp_path, name):
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n")
    with pytest.raises(InputError, match="holds no rows"):
        made(changed(config, **{name: str(empty)}), tmp_path)
    with pytest.raises(InputError, match=r"none\.jsonl"):
        made(changed(config, **{name: str(tmp_path / "none.jsonl")}), tmp_path)


def test_a_missing_teacher_is_an_input_error_that_names_it(config, tmp_path):
    with pytest.raises(
        InputError, match=r"No teacher answers at http://127\.0\.0\.1:9/v1 .*; start it"
    ):
        made(changed(config, teacher_url="http://127.0.0.1:9/v1"), tmp_path)
    assert not list((tmp_path / "data").glob("*.parquet"))


def test_an_unknown_model_is_an_input_error_that_names_the_known_ones(config, tmp_path):
    with pytest.raises(InputError, match=r"'gpt-none' at .* refuses .* it lists sandbox-careful"):
        made(changed(config, gold_teacher=Teacher(model="gpt-none")), tmp_path)


def test_a_failed_call_is_counted_and_leaves_the_quadruple_out(config, tmp_path, monkeypatch):
    ask = Teachers.ask

    async def failing(self, call):
        return (
            Failure(kind="timed_out", detail="slow")
            if call.stage == "verify"
            else await ask(self, call)
        )

    monkeypatch.setattr(Teachers, "ask", failing)
    rows, card, out = made(config, tmp_path)
    assert rows == []
    assert card["failures"]["quarantined"] == {"verify": {"timed_out": TASKS * CANDIDATES}}
    bad = json.loads((out / "quarantine.jsonl").read_text().splitlines()[0])
    assert {"instruction", "source", "edited"} <= set(bad["evidence"])


def test_the_command_starts_the_sandbox_itself_and_skips_what_is_done(config, tmp_path, capsys):
    written = tmp_path / "data.yaml"
    written.write_text(json.dumps(changed(config, teacher_url="sandbox").model_dump(mode="json")))
    invoke(["data", "--config", str(written), "--variant", "holistic"])
    assert (tmp_path / "data" / "sft.parquet").is_file()
    invoke(["data", "--config", str(written), "--variant", "holistic"])
    assert "done already" in capsys.readouterr().err


def test_exemplars_are_sampled_per_task_and_shown_to_the_decomposer(config, tmp_path):
    path = tmp_path / "exemplars.jsonl"
    rows = [
        {
            "instruction": f"do {i}",
            "principles": [{"question": f"Was {i} done?", "category": "follow"}],
        }
        for i in range(9)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    exemplars = read_exemplars(str(path))
    tasks = [Task(task_id=k * 16, source="s", instruction="x") for k in "abcd"]
    shown = [
        system_prompt(exemplars, "Write 5.", task, changed(config, exemplars_per_query=4))
        for task in tasks
    ]
    assert all(
        text.startswith(DECOMPOSE_SYSTEM) and text.count('Instruction: "do') == 4 for text in shown
    )
    assert len(set(shown)) > 1
    fewer = [
        system_prompt(exemplars, "Write 5.", task, changed(config, exemplars_per_query=0))
        for task in tasks
    ]
    assert set(fewer) == {f"{DECOMPOSE_SYSTEM}\nWrite 5."}
    other = tmp_path / "other.jsonl"
    other.write_text('{"instruction": "x"}')
    with pytest.raises(InputError, match="line 1"):
        read_exemplars(str(other))


@pytest.mark.parametrize(
    ("instruction", "language"),
    [
        ("把杯子改成红色", "zh"), ("把女生的手势改成OK", "zh"), ("Add 新年快乐", "zh"), ("make the cup red", "en"), ("", "en"),
        ("Change the sign to “国庆特惠全场五折”", "en"), ('标题改成"National Day Sale Now On"', "zh"), ("カップを赤くする", "en"),
    ],
)  # fmt: skip
def test_a_chinese_instruction_is_decomposed_in_chinese_after_chinese_examples(
    config, instruction, language
):
    pool = read_exemplars(str(changed(config, exemplars="package").exemplars_path))
    settings = changed(config, exemplars_per_query=4)
    task = Task(task_id="a" * 16, source="s", instruction=instruction or "x")
    assert language_of(instruction) == language
    chinese = "in Chinese" in system_prompt(pool, "Write 5.", task, settings)
    assert chinese == (language == "zh")
    forced = [
        system_prompt(pool, "Write 5.", task, changed(settings, language=one))
        for one in ("en", "zh")
    ]
    assert ["in English" in forced[0], "in Chinese" in forced[1]] == [language == "zh", True]
    assert [language_of(text.rpartition("Examples:")[2]) for text in forced] == ["en", "zh"]


def test_the_pool_that_comes_with_the_package_can_be_shown(config):
    pool = changed(config, exemplars="package").exemplars_path
    assert len(read_exemplars(str(pool))) == 80


def test_a_changed_config_asks_again_only_what_depends_on_it(config, tmp_path, capsys):
    path = tmp_path / "data.yaml"
    path.write_text(json.dumps(config.model_dump(mode="json")))
    invoke(["data", "--config", str(path)])
    path.write_text(json.dumps({**config.model_dump(mode="json"), "decompose_share": 0.5}))
    invoke(["data", "--config", str(path)])
    assert (tmp_path / "data.previous/card.json").is_file()
    before = keys_in(config.ledger_path)
    changed_prompt = {
        **config.model_dump(mode="json"),
        "thinkers": [{"model": "sandbox-lenient", "personas": ["Be strict."]}],
    }
    path.write_text(json.dumps(changed_prompt))
    invoke(["data", "--config", str(path)])
    new = keys_in(config.ledger_path) - before
    with Ledger(config.ledger_path) as ledger:
        bills = {(bill.stage, bill.calls) for bill in ledger.bills(new)}
    assert ("think", TASKS * CANDIDATES) in bills
    assert {stage for stage, _ in bills} == {"think", "verify"}


def test_only_what_failed_is_asked_for_again(config, tmp_path, monkeypatch):
    ask = Teachers.ask

    async def failing(self, call):
        return (
            Failure(kind="timed_out", detail="slow")
            if call.stage == "verify"
            else await ask(self, call)
        )

    path = tmp_path / "data.yaml"
    path.write_text(json.dumps(config.model_dump(mode="json")))
    with monkeypatch.context() as patch:
        patch.setattr(Teachers, "ask", failing)
        invoke(["data", "--config", str(path)])
    asked = counting(monkeypatch)
    invoke(["data", "--config", str(path), "--retry"])
    assert len(asked) == TASKS * CANDIDATES
    assert (
        json.loads((tmp_path / "data/card.json").read_text())["counts"]["gold"]
        == TASKS * CANDIDATES
    )


def test_a_limit_takes_the_first_tasks_and_pairs(config, tmp_path):
    _, card, _ = made(changed(config, limit=2), tmp_path)
    assert card["counts"]["tasks"] == 2
    assert card["counts"]["quadruples"] == 2 * CANDIDATES
    assert card["counts"]["preferences"] + card["counts"]["same"] == 2
    assert card["counts"]["quarantined"] == 0
    assert (
        len(list((tmp_path / "data/images").rglob("*.png"))) <= 2 * (1 + CANDIDATES) + 2 * 3
    )  # no other image was read


def test_the_hard_filter_keeps_what_meets_a_criterion(config, tmp_path):
    filtering = changed(
        config,
        random_tasks=1,
        hard_tasks=2,
        hard_filter=Teacher(model="sandbox-careful", temperatures=(0.0,)),
    )
    _, card, out = made(filtering, tmp_path)
    with closing(sqlite3.connect(out / "work.sqlite")) as base:
        rows = base.execute(
            "SELECT chosen, hard, instruction FROM tasks WHERE origin = 'task'"
        ).fetchall()
    assert sum(chosen == "random" for chosen, *_ in rows) == 1
    hard = [(criteria, text) for chosen, criteria, text in rows if chosen == "hard"]
    assert len(hard) == card["passes"]["filter"]["kept"] <= 2
    assert all(set(criteria.split(",")) <= set(CRITERIA) and criteria for criteria, _ in hard)
    simple = [text for chosen, criteria, text in rows if chosen is None and criteria == ""]
    assert all(" and " not in text for text in simple)
    assert card["counts"]["quadruples"] == CANDIDATES * (1 + len(hard))


def test_what_a_benchmark_holds_is_left_out_and_counted(config, world, tmp_path):
    first = json.loads((world / "tasks/train_metadata.jsonl").read_text().splitlines()[0])
    held_out = world / "tasks" / "held_out.jsonl"
    held_out.write_text(
        json.dumps({"instruction": "something else", "image": first["image"]}) + "\n"
    )
    _, card, out = made(changed(config, benchmarks=(str(held_out),)), tmp_path)
    assert card["passes"]["clean"]["image"] == 1
    assert card["counts"]["left_out"] == 1
    assert card["counts"]["quadruples"] == (TASKS - 1) * CANDIDATES
    bad = [json.loads(line) for line in (out / "quarantine.jsonl").read_text().splitlines()]
    assert [(row["stage"], row["failure"]["kind"]) for row in bad] == [("clean", "duplicate")]


def test_train_and_validation_share_no_source(config, tmp_path):
    _, card, out = made(changed(config, validation_share=0.5), tmp_path)
    train, validation = (
        read_table(out / f"sft{suffix}.parquet", SFTRow) for suffix in ("", "_validation")
    )
    assert train
    assert validation
    assert not {row.source for row in train} & {row.source for row in validation}
    assert sum(row.kind == "judge" for row in [*train, *validation]) == TASKS * CANDIDATES
    pairs = [
        read_table(out / f"preferences{suffix}.parquet", PreferencePair)
        for suffix in ("", "_validation")
    ]
    assert not {pair.source for pair in pairs[0]} & {row.source for row in validation}
    assert card["counts"]["sft_judge_validation"] == sum(row.kind == "judge" for row in validation)


def test_editors_make_candidates_once_each_with_several_seeds(config, tmp_path):
    editor = {
        "name": "sandbox",
        "kind": "openai",
        "model": "sandbox-editor",
        "base_url": config.teacher_url,
        "seeds": [0, 1, 2],
    }
    making = DataConfig.model_validate(
        {**config.model_dump(), "candidates": None, "pairs": None, "generators": [editor]}
    )
    rows, card, out = made(making, tmp_path)
    assert card["passes"]["make"]["failed"] == 0
    assert TASKS < card["counts"]["quadruples"] <= 3 * TASKS
    assert card["editors"] == {"sandbox": card["counts"]["quadruples"]}
    with Ledger(making.ledger_path) as ledger:
        assert all(
            ledger.image(key)
            for key in (
                making.generators[0].key(rows[0].source, rows[0].instruction, seed)
                for seed in (0, 1)
            )
        )
    first = bytes_of(out)
    making_again = making.model_copy(
        update={"out": str(tmp_path / "again/data"), "ledger": str(making.ledger_path)}
    )
    made(making_again, tmp_path / "again")
    assert bytes_of(tmp_path / "again/data") == first
