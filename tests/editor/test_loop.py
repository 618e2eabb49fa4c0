"""Both algorithms on a tiny world, from end to end."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from rrm.cli import invoke
from rrm.editor.evaluate import EvaluateConfig, evaluate, rounded_mean
from rrm.editor.loop import train
from rrm.editor.reward import RRMReward
from rrm.editor.settings import EditorConfig
from rrm.editor.tasks import check_rewardable, read_tasks
from rrm.editor.train import inputs_of
from rrm.editor.truth import TruthReward
from rrm.errors import InputError
from rrm.records import EditToJudge, Failure, Judgement, Verdicts
from rrm.sandbox.edits import decompose, parse_instruction, sample_steps, write_instruction
from rrm.sandbox.models.editor import TinyKontext, images_of, tokens_of
from rrm.sandbox.truth import PixelTruth
from rrm.sandbox.world import draw, sample_scene

TRUTH = PixelTruth()

ALGORITHMS = {
    "nft": {"algorithm": "nft", "optimiser_steps": 1, "learning_rate": 1e-4},
    "grpo": {"algorithm": "grpo", "optimiser_steps": 2, "learning_rate": 5e-5, "sde_steps": 2},
}


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A folder with four training and four held-out tasks and an untrained editor."""
    root = tmp_path_factory.mktemp("world")
    (root / "tasks" / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for split, held_out in (("train", False), ("test", True)):
        rows = []
        for index in range(4):
            scene = sample_scene(rng, held_out)
            name = f"images/{split}{index}.png"
            draw(scene).save(root / "tasks" / name)
            rows.append(
                {
                    "prompt": write_instruction(sample_steps(rng, scene)),
                    "image": name,
                    "requirement": "",
                }
            )
        (root / "tasks" / f"{split}_metadata.jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in rows)
        )
    torch.manual_seed(0)
    TinyKontext().save(root / "base")
    return root


def config_of(world: Path, name: str, **values: object) -> EditorConfig:
    """A two-epoch run."""
    common = {
        "out": world / "out",
        "tasks": world / "tasks",
        "base": world / "base",
        "reward": "truth",
        "epochs": 2,
    }
    sizes = {"groups": 2, "group_size": 3, "sampling_steps": 3, "save_every": 1}
    return EditorConfig(**{**common, **sizes, **ALGORITHMS[name], **values})


def run(world: Path, out: Path, config: EditorConfig, reward=None) -> list[dict]:
    """Trains in `out`; the rows of metrics.jsonl."""
    train(
        config,
        out,
        read_tasks(world / "tasks", "train", truth=TRUTH),
        reward or TruthReward(TRUTH),
        TinyKontext.load(world / "base"),
        TRUTH,
    )
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", ALGORITHMS)
def test_an_interrupted_run_ends_bit_equal_to_one_that_was_not(world, tmp_path, name):
    config = config_of(world, name, epochs=3)
    whole = run(world, tmp_path / "whole", config)

    class Interrupted(TruthReward):
        calls = 0

        def __call__(self, edits):
            self.calls += 1
            if self.calls == 3:
                raise KeyboardInterrupt
            return super().__call__(edits)

    with pytest.raises(KeyboardInterrupt):
        run(world, tmp_path / "parts", config, Interrupted(TRUTH))
    assert (tmp_path / "parts/checkpoints/checkpoint-2").is_dir()
    assert not (tmp_path / "parts" / "model").exists()
    parts = run(world, tmp_path / "parts", config)

    assert [{**row, "seconds": 0} for row in whole] == [{**row, "seconds": 0} for row in parts]
    one, other = (
        TinyKontext.load(tmp_path / which / "model").state_dict() for which in ("whole", "parts")
    )
    assert all(torch.equal(one[key], other[key]) for key in one)
    base = TinyKontext.load(world / "base").state_dict()
    assert any(not torch.equal(one[key], base[key]) for key in one)


def test_a_run_that_is_asked_to_stop_saves_its_epoch_and_a_second_time_ends_at_once(
    world, tmp_path
):
    config = config_of(world, "nft", epochs=3, save_every=9)

    class Killed(TruthReward):
        times = 1

        def __call__(self, edits):
            for _ in range(self.times):
                signal.raise_signal(signal.SIGTERM)
            return super().__call__(edits)

    for Killed.times in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            run(world, tmp_path / "parts", config, Killed(TRUTH))
        assert [p.name for p in (tmp_path / "parts/checkpoints").iterdir()] == ["checkpoint-1"]
    parts, whole = run(world, tmp_path / "parts", config), run(world, tmp_path / "whole", config)
    assert [{**row, "seconds": 0} for row in whole] == [{**row, "seconds": 0} for row in parts]


def test_rows_after_the_checkpoint_are_written_once(world, tmp_path):
    config = config_of(world, "nft", epochs=3, save_every=2)
    run(world, tmp_path, config_of(world, "nft", epochs=2, save_every=2))
    (tmp_path / "metrics.jsonl").open("a").write('{"epoch": 2}\n')
    assert [row["epoch"] for row in run(world, tmp_path, config)] == [0, 1, 2]


@pytest.mark.parametrize("name", ALGORITHMS)
def test_failed_rewards_are_left_out_and_counted(world, tmp_path, name):
    class Flaky(TruthReward):
        def __call__(self, edits):
            found = np.linspace(0.1, 0.9, len(edits)).tolist()
            return [
                Failure(kind="timed_out") if i % 3 == 0 else float(r) for i, r in enumerate(found)
            ]

    rows = run(world, tmp_path, config_of(world, name), Flaky(TRUTH))
    assert all(
        row["missing_rewards"] == 2 and row["missing_kinds"] == {"timed_out": 2} for row in rows
    )
    assert all(row["trained_samples"] == 4 and row["samples"] == 6 for row in rows)


def test_an_epoch_without_any_reward_takes_no_step(world, tmp_path):
    def nothing(edits):
        return [Failure(kind="server_gone") for _ in edits]

    rows = run(world, tmp_path, config_of(world, "nft"), nothing)
    assert all(row["optimiser_steps"] == 0 and row["reward_mean"] is None for row in rows)
    assert all(row["true_reward_mean"] is not None for row in rows)


def test_a_torn_checkpoint_falls_back_to_the_one_before_it_and_the_run_ends_the_same(
    world, tmp_path, capsys
):
    config = config_of(world, "nft", epochs=4)
    whole = run(world, tmp_path, config_of(world, "nft", epochs=3))
    torn = tmp_path / "checkpoints/checkpoint-3/state.pt"
    torn.write_bytes(torn.read_bytes()[:-100])
    again = run(world, tmp_path, config)
    assert [{**row, "seconds": 0} for row in again[:3]] == [{**row, "seconds": 0} for row in whole]
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == [
        "checkpoint-3",
        "checkpoint-4",
        "damaged-checkpoint-3",
    ]
    assert "checkpoint-3 is not whole (state.pt has" in capsys.readouterr().err


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_reward_that_is_not_finite_is_missing_and_trains_nothing(world, tmp_path, value):
    rows = run(
        world,
        tmp_path,
        config_of(world, "nft"),
        lambda edits: [value, *np.linspace(0, 1, len(edits) - 1).tolist()],
    )
    assert all(
        row["missing_kinds"] == {"unparseable": 1} and row["trained_samples"] == 5 for row in rows
    )
    assert all(0 <= row["reward_mean"] <= 1 for row in rows)


def test_a_run_without_any_reward_ends_after_some_epochs_and_a_resume_counts_on(world, tmp_path):
    config = config_of(world, "nft", epochs=9)
    asked = []

    def gone(edits):
        asked.append(len(edits))
        return [Failure(kind="server_gone", detail="connection refused") for _ in edits]

    for calls in (5, 6):  # from the checkpoint after the fourth epoch, which has four in its rows
        with pytest.raises(
            InputError,
            match=r"last 5 epochs got a reward \(6 server_gone in the last one; connection refused\)",
        ):
            run(world, tmp_path, config, gone)
        assert len(asked) == calls
    assert len(run(world, tmp_path, config)) == 9


def test_an_update_that_would_spoil_the_weights_ends_the_run(world, tmp_path):
    config = config_of(world, "nft", epochs=9, learning_rate=1e30)
    with pytest.raises(
        InputError, match=r"Training stopped at epoch \d because the gradient norm was (nan|inf)"
    ):
        run(world, tmp_path, config)


def test_flow_grpo_logs_a_ratio_of_one_before_its_first_step(world, tmp_path):
    scores = iter(np.random.default_rng(0).random(100).tolist())
    rows = run(
        world, tmp_path, config_of(world, "grpo"), lambda edits: [next(scores) for _ in edits]
    )
    assert rows[0]["ratio_off_at_first"] < 1e-5
    assert rows[0]["kl"] >= 0
    assert 0 <= rows[0]["clip_fraction"] <= 1


def test_the_rrms_score_is_divided_by_ten_and_its_failures_pass_through(world):
    class FakeJudge:
        def judge_many(self, items):
            assert items[0].principles == decompose(parse_instruction(items[0].instruction))
            failure = Failure(kind="unparseable", detail="no <score>")
            return [
                Judgement(read=Verdicts(verdicts=(1,), average=1.0, score=7.0)),
                Judgement(failure=failure),
                Judgement(),
            ]

    task = read_tasks(world / "tasks", "train", truth=TRUTH)[0]
    edits = [EditToJudge(task.source, task.source, task.instruction, task.principles)] * 3
    good, failed, empty = RRMReward(FakeJudge())(edits)
    assert good == 0.7
    assert failed.kind == "unparseable"
    assert empty.kind == "empty"


def test_copying_the_source_is_worth_a_fifth(world, tmp_path):
    config = EvaluateConfig(
        out=tmp_path,
        tasks=world / "tasks",
        base=world / "base",
        seed_count=2,
        sampling_steps=2,
        shown=2,
    )
    result = evaluate(
        config, tmp_path, read_tasks(world / "tasks", "test", truth=TRUTH), TinyKontext.load, TRUTH
    )
    assert result["copy_source"]["reward"] == 0.2
    assert result["copy_source"]["by_principle"] == {"follow": 0.0, "keep": 1.0, "quality": 1.0}
    assert result["base"]["n"] == 8
    index = json.loads((tmp_path / "samples" / "index.json").read_text())
    assert len(index) == 2
    assert (tmp_path / "samples" / index[0]["samples"]["base"]["image"]).is_file()


def test_samples_of_one_source_count_once_in_the_interval():
    mean, (low, high) = rounded_mean(
        np.array([0.0, 0.2, 1.0, 1.0, 1.0, 1.0]), ["a", "a", "b", "b", "b", "b"]
    )
    assert mean == 0.55
    half = 1.96 * np.std([0.1, 1.0], ddof=1) / np.sqrt(2)
    assert (low, high) == (round(0.55 - half, 4), round(0.55 + half, 4))


def test_pixels_survive_the_way_to_tokens_and_back():
    image = draw(sample_scene(np.random.default_rng(3)))
    assert np.array_equal(np.asarray(images_of(tokens_of([image]))[0]), np.asarray(image))


def test_the_same_seed_makes_the_same_edit(world):
    model, task = (
        TinyKontext.load(world / "base"),
        read_tasks(world / "tasks", "test", truth=TRUTH)[0],
    )
    first, again, other = (
        model.edit([task.source], [task.instruction], seed, 2)[0].tobytes() for seed in (1, 1, 2)
    )
    assert first == again != other


@pytest.mark.parametrize(
    ("path", "text", "told"),
    [
        ("base/config.json", None, "holds no tiny editor"),
        ("base/config.json", '{"kind": "flux"}', "holds no tiny editor"),
        ("base/model.safetensors", "rubbish", "holds no tiny editor"),
    ],
)
def test_a_folder_that_is_no_editor_is_refused_in_one_sentence(world, tmp_path, path, text, told):
    TinyKontext.load(world / "base").save(tmp_path / "base")
    (tmp_path / path).unlink()
    if text is not None:
        (tmp_path / path).write_text(text)
    with pytest.raises(InputError, match=told) as caught:
        TinyKontext.load(tmp_path / "base")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{", "line 1: not a JSON object"),
        ('{"prompt": "remove the red circle"}', "needs text under prompt, image"),
        ('{"prompt": "remove the red circle", "image": "images/none.png"}', "no image at"),
        ('{"prompt": "remove the red circle", "image": "../secret.png"}', "lies outside"),
        ("", "holds no tasks"),
    ],
)
def test_a_task_that_cannot_be_used_is_refused_in_one_sentence(tmp_path, line, told):
    (tmp_path / "images").mkdir()
    draw(sample_scene(np.random.default_rng(3))).save(tmp_path / "images" / "a.png")
    (tmp_path / "train_metadata.jsonl").write_text(line)
    with pytest.raises(InputError, match=told):
        read_tasks(tmp_path, "train", truth=TRUTH)


def test_principles_come_from_the_file_where_one_is_given(tmp_path):
    (tmp_path / "images").mkdir()
    draw(sample_scene(np.random.default_rng(3))).save(tmp_path / "images" / "a.png")
    row = {"prompt": "paint it nicer", "image": "images/a.png", "requirement": "keep the frame"}
    (tmp_path / "train_metadata.jsonl").write_text(json.dumps(row))
    asked = {"question": "Is it nicer?", "category": "quality"}
    (tmp_path / "principles.jsonl").write_text(json.dumps({**row, "principles": [asked]}))
    (task,) = read_tasks(tmp_path, "train", tmp_path / "principles.jsonl")
    assert [p.question for p in task.principles] == ["Is it nicer?"]
    assert task.requirement == "keep the frame"


def test_principles_are_asked_for_only_where_the_reward_reads_them(tmp_path):
    (tmp_path / "images").mkdir()
    draw(sample_scene(np.random.default_rng(3))).save(tmp_path / "images" / "a.png")
    (tmp_path / "train_metadata.jsonl").write_text(
        json.dumps({"prompt": "paint it nicer", "image": "images/a.png"})
    )
    tasks = read_tasks(tmp_path, "train", truth=TRUTH)
    check_rewardable(tasks)  # mode=logits
    with pytest.raises(InputError, match="give a file of them"):
        check_rewardable(tasks, needs_principles=True)
    with pytest.raises(InputError, match="not in the sandbox's language"):
        check_rewardable(tasks, TRUTH)


def test_the_reward_is_asked_with_the_tasks_requirement(world, tmp_path):
    class Noting(TruthReward):
        def __call__(self, edits):
            asked.update((edit.instruction, edit.requirement) for edit in edits)
            return super().__call__(edits)

    asked = set()
    config = config_of(world, "nft", out=tmp_path / "out", epochs=1)
    tasks = [
        replace(task, requirement=f"as in {i}")
        for i, task in enumerate(read_tasks(config.tasks, "train", truth=TRUTH))
    ]
    train(config, tmp_path / "out", tasks, Noting(TRUTH), TinyKontext.load(config.base), TRUTH)
    assert asked <= {(task.instruction, task.requirement) for task in tasks}
    assert len(asked) == config.groups


def test_metrics_go_to_the_tracker_that_is_named(world, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    rows = run(world, tmp_path, config_of(world, "nft", report_to="tensorboard"))
    (folder,) = {path.parent for path in (tmp_path / "tensorboard").rglob("events.out*")}
    events = EventAccumulator(str(folder)).Reload()
    reported = [event.value for event in events.Scalars("reward_mean")]
    assert reported == pytest.approx([row["reward_mean"] for row in rows])


def test_a_tracker_that_is_not_installed_is_one_sentence(world, tmp_path, monkeypatch):
    monkeypatch.setattr("rrm.runtime.trackers.find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install wandb"):
        run(world, tmp_path, config_of(world, "nft", report_to="wandb"))


def test_settings_of_the_other_algorithm_are_refused(world):
    with pytest.raises(InputError, match="'kl_weight' does nothing with algorithm: nft"):
        config_of(world, "nft", kl_weight=0.1).check()
    with pytest.raises(InputError, match="'rrm' must name a model"):
        config_of(world, "nft", reward="rrm").check()


def test_the_command_trains_once_and_then_says_it_is_done(world, tmp_path, capsys):
    values = json.loads(
        config_of(world, "nft", out=tmp_path / "out", epochs=1).model_dump_json(exclude_unset=True)
    )
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    invoke(["edit", "--config", str(tmp_path / "config.yaml")])
    assert "starts" in capsys.readouterr().err
    assert (tmp_path / "out" / "model" / "model.safetensors").is_file()
    invoke(["edit", "--config", str(tmp_path / "config.yaml")])
    assert "done already" in capsys.readouterr().err


class Lent:
    """A reward model that notes how it is used."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.needs_principles = True

    def __enter__(self) -> Lent:
        return self

    def __exit__(self, *exception: object) -> None:
        self.events.append("closed")

    def judge_many(self, edits: list[EditToJudge]) -> list[Judgement]:
        self.events.append("asked")
        return [Judgement(expected=float(index % 7)) for index in range(len(edits))]


@pytest.mark.parametrize(
    "spec", ["serve:{0}?in_flight=8", "rrm:{0}", "{0}", "server:http://127.0.0.1:1/v1"]
)
def test_the_command_asks_the_reward_that_is_named_and_closes_it(
    world, tmp_path, monkeypatch, spec
):
    lent, folder = Lent(), tmp_path / "rrm"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    named = spec.format(folder)
    monkeypatch.setattr("rrm.reward.open_reward", lambda given: lent if given == named else None)
    config = config_of(world, "nft", out=tmp_path / "out", epochs=1, reward="rrm", rrm=named)
    (tmp_path / "config.yaml").write_text(
        yaml.safe_dump(json.loads(config.model_dump_json(exclude_unset=True)))
    )
    invoke(["edit", "--config", str(tmp_path / "config.yaml")])
    assert lent.events == ["asked", "closed"]
    assert (folder / "model.safetensors" in inputs_of(config)) == (not spec.startswith("server"))
