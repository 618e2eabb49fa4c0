"""The data pipeline on a miniature world, with real teachers behind a real server."""

import json
from collections import Counter

import pytest

from data_pipeline.__main__ import main
from data_pipeline.decompose import read_exemplars, system_prompt
from data_pipeline.journal import Journal
from data_pipeline.rows import read_table
from data_pipeline.run import DataConfig, run
from data_pipeline.tasks import read_tasks
from data_pipeline.teachers import Teacher, Teachers
from rrm.errors import InputError
from rrm.images import ImageStore
from rrm.parsing import read_holistic, read_principles, read_trace, thought_of
from rrm.prompts import DECOMPOSE_SYSTEM
from rrm.records import Failure, PreferencePair, SFTRow, Task, Verdicts
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
    build(WorldConfig(out=str(out), pair_tasks=4, pairs=12, **sizes), out)
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
        thinkers=[{"model": "sandbox-lenient"}, {"model": "sandbox-vague", "temperatures": [0.3, 1.0], "samples": 1}],
        verifier=careful,
        decompose_share=0.25,
        concurrency=4,
    )


def made(config, tmp_path):
    out = tmp_path / "data"
    out.mkdir(exist_ok=True)
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
    assert all(row.edited is None and read_principles(row.target) == row.principles for row in decomposed)
    preferred, same = (read_table(out / f"{name}.parquet", PreferencePair) for name in ("preferences", "same"))
    assert len(preferred) + len(same) == 12
    assert {pair.label for pair in preferred} <= {"a", "b"}
    assert {pair.label for pair in same} <= {"same"}
    store = ImageStore(out / "images")
    for pair in preferred:
        assert pair.principles
        assert all(store.get(digest).size == (16, 16) for digest in (pair.source, pair.edited_a, pair.edited_b))
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
    assert all(row.principles == () and isinstance(read_holistic(row.target), Verdicts) for row in rows)
    assert all(row.target.endswith("</score>") for row in rows)
    assert card["counts"]["decomposed"] == 0
    assert len(read_table(out / "preferences.parquet", PreferencePair)) == card["counts"]["preferences"] > 0


def test_an_interrupted_run_repeats_no_finished_call_and_ends_the_same(config, tmp_path, monkeypatch):
    asked = []
    ask = Teachers.ask

    async def counted(self, call):
        if len(asked) == 25:
            raise KeyboardInterrupt
        answer = await ask(self, call)
        asked.append(call.key)
        return answer

    (tmp_path / "whole").mkdir()
    whole, _, _ = made(config, tmp_path / "whole")
    monkeypatch.setattr(Teachers, "ask", counted)
    with pytest.raises(KeyboardInterrupt):
        made(config, tmp_path)
    journal = tmp_path / "data" / "journal.jsonl"
    finished = [json.loads(line)["key"] for line in journal.read_text().splitlines()]
    assert len(finished) >= 20
    with journal.open("a") as file:
        file.write('{"key": "torn by a ki')
    asked.clear()
    asked.extend([""] * 26)  # past the interruption
    rows, card, _ = made(config, tmp_path)
    assert not set(finished) & set(asked)
    assert max(Counter(asked[26:]).values()) == 1
    assert card["calls"] == {"made": len(asked) - 26, "from_journal": len(finished)}
    assert rows == whole
    asked.clear()
    asked.extend([""] * 26)
    assert made(config, tmp_path)[0] == whole
    assert len(asked) == 26


def test_a_torn_last_line_is_dropped_and_a_damaged_one_before_it_is_an_error(tmp_path):
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b'{"key": "a", "answers": ["x"]}\n{"key": "b", "ans')
    journal = Journal(path)
    assert journal.answers == {"a": ("x",)}
    journal.add("c", ("y", "z"))
    journal.close()
    assert Journal(path).answers == {"a": ("x",), "c": ("y", "z")}
    path.write_bytes(b'{"key"\n{"key": "a", "answers": ["x"]}\n')
    with pytest.raises(InputError, match="line 1 is damaged"):
        Journal(path)


def test_bad_rows_are_quarantined_with_their_reason(config, world, tmp_path):
    folder = tmp_path / "tasks"
    (folder / "images").mkdir(parents=True)
    first, second = (json.loads(line) for line in (world / "tasks/train_metadata.jsonl").read_text().splitlines()[:2])
    (folder / first["image"]).write_bytes((world / "tasks" / first["image"]).read_bytes())
    (folder / "images/broken.png").write_bytes(b"not an image")
    bad = [
        "{not json",
        {**second, "image": "images/broken.png"},
        {**second, "image": "images/none.png"},
        {**first, "prompt": " "},
        [1],
    ]
    (folder / "train_metadata.jsonl").write_text("\n".join(b if isinstance(b, str) else json.dumps(b) for b in [first, *bad]))
    rows, card, out = made(changed(config, tasks=str(folder), pairs=None), tmp_path)
    assert sum(row.kind == "judge" for row in rows) == CANDIDATES
    left_out = [json.loads(line) for line in (out / "quarantine.jsonl").read_text().splitlines()]
    kinds = {row["key"]: row["failure"]["kind"] for row in left_out if row["key"].startswith("train_metadata")}
    assert kinds == {
        "train_metadata.jsonl:2": "bad_row",
        "train_metadata.jsonl:3": "image_unreadable",
        "train_metadata.jsonl:4": "image_unreadable",
        "train_metadata.jsonl:5": "bad_row",
        "train_metadata.jsonl:6": "bad_row",
    }
    assert sum(row["key"].startswith("candidates.jsonl") for row in left_out) == (TASKS - 1) * CANDIDATES
    assert card["counts"]["quarantined"] == len(left_out)


@pytest.mark.parametrize("name", ["tasks", "candidates", "pairs"])
def test_an_empty_dataset_is_an_input_error(config, world, tmp_path, name):
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n")
    with pytest.raises(InputError, match="holds no usable"):
        made(changed(config, **{name: str(empty)}), tmp_path)
    with pytest.raises(InputError, match=r"There is no .* file"):
        made(changed(config, **{name: str(tmp_path / "none.jsonl")}), tmp_path)


def test_a_missing_teacher_is_an_input_error_that_names_it(config, tmp_path):
    with pytest.raises(InputError, match=r"http://127\.0\.0\.1:9/v1; start it"):
        made(changed(config, teacher_url="http://127.0.0.1:9/v1"), tmp_path)
    assert not list((tmp_path / "data").glob("*.parquet"))


def test_an_unknown_model_is_an_input_error_that_names_the_known_ones(config, tmp_path):
    with pytest.raises(InputError, match="no model 'gpt-none'; it serves sandbox-careful"):
        made(changed(config, verifier=Teacher(model="gpt-none")), tmp_path)


def test_a_failed_call_is_counted_and_leaves_the_quadruple_out(config, tmp_path, monkeypatch):
    ask = Teachers.ask

    async def failing(self, call):
        return Failure(kind="timed_out", detail="slow") if call.stage == "verify" else await ask(self, call)

    monkeypatch.setattr(Teachers, "ask", failing)
    rows, card, _ = made(config, tmp_path)
    assert rows == []
    assert card["failures"]["quarantined"] == {"timed_out": TASKS * CANDIDATES}


def test_the_command_starts_the_sandbox_itself_and_skips_what_is_done(config, tmp_path, capsys):
    written = tmp_path / "data.yaml"
    written.write_text(json.dumps(changed(config, teacher_url="sandbox").model_dump(mode="json")))
    main(["--config", str(written), "--variant", "holistic"])
    assert (tmp_path / "data" / "sft.parquet").is_file()
    main(["--config", str(written), "--variant", "holistic"])
    assert "done already" in capsys.readouterr().out


def test_the_same_image_with_two_instructions_is_two_tasks(world, tmp_path):
    row = json.loads((world / "tasks/train_metadata.jsonl").read_text().splitlines()[0])
    image = str(world / "tasks" / row["image"])
    path = tmp_path / "tasks.jsonl"
    path.write_text("".join(json.dumps({"instruction": text, "image": image}) + "\n" for text in ("do this", "do that")))
    tasks, bad = read_tasks(path, ImageStore(tmp_path / "images"))
    assert len({task.task_id for task in tasks.values()}) == 2
    assert bad == []


def test_exemplars_are_sampled_per_task_and_shown_to_the_decomposer(tmp_path):
    path = tmp_path / "exemplars.jsonl"
    rows = [{"instruction": f"do {i}", "principles": [{"question": f"Was {i} done?", "category": "follow"}]} for i in range(9)]
    path.write_text("\n".join(map(json.dumps, rows)))
    exemplars = read_exemplars(path)
    shown = [system_prompt(Teacher(model="m"), exemplars, Task(task_id=k * 16, source="s", instruction="x"), 0) for k in "abcd"]
    assert all(text.startswith(DECOMPOSE_SYSTEM) and text.count("Instruction: do") == 4 for text in shown)
    assert len(set(shown)) > 1
    path.write_text('{"instruction": "x"}')
    with pytest.raises(InputError, match="line 1"):
        read_exemplars(path)


def test_a_changed_config_asks_again_only_what_depends_on_it(config, tmp_path, capsys):
    path = tmp_path / "data.yaml"
    path.write_text(json.dumps(config.model_dump(mode="json")))
    main(["--config", str(path)])
    path.write_text(json.dumps({**config.model_dump(mode="json"), "decompose_share": 0.5}))
    main(["--config", str(path)])
    card = json.loads((tmp_path / "data/card.json").read_text())
    assert card["calls"]["made"] == 0
    assert card["calls"]["from_journal"] > 0
    assert (tmp_path / "data.previous/card.json").is_file()
