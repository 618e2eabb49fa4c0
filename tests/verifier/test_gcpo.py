"""GCPO on tiny real models: its gradients against the paper's formulas, what it logs, resuming,
processes.

Run as a script, it trains with replayed rollouts; one of the tests starts it so under torchrun.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import ModuleType

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

from rrm.errors import InputError
from rrm.prompts import write_answer
from rrm.runtime.stage import command
from rrm.verifier.checkpoint import load
from rrm.verifier.fast.trl_without_vllm import CLIENT, GRPOTrainer
from rrm.verifier.gcpo import train as gcpo
from rrm.verifier.gcpo import unreadable
from rrm.verifier.gcpo.config import GCPOStage
from rrm.verifier.gcpo.fast import FastGCPOTrainer
from rrm.verifier.gcpo.reading import read_score, score_tokens
from rrm.verifier.gcpo.trainer import GCPOTrainer
from rrm.verifier.training import run_training


def settings(data: Path, base: Path, out: Path, **more: object) -> dict:
    """Keys of a small GCPO config whose very first update counts."""
    keys = {
        "steps": 2,
        "pairs_per_step": 2,
        "traces_per_image": 3,
        "learning_rate": 1e-3,
        "warmup": 0,
        "max_tokens": 12,
        "keep": 10,
        **more,
    }
    return {"data": str(data), "base": str(base), "out": str(out), **keys}


def train(kind: type[FastGCPOTrainer], keys: dict) -> dict:
    """What `gcpo.train` makes of this config with a subclass of the trainer."""
    config = GCPOStage(**keys)
    config.out.mkdir(parents=True, exist_ok=True)
    return gcpo.train(config, config.out, kind)


def lines_of(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def rollouts_of(out: Path, step: int) -> list[dict]:
    """What all processes sampled for the step, in the sampler's order."""
    return [
        row
        for path in sorted(out.glob(f"rollouts/step-{step:06d}-*.parquet"))
        for row in pq.read_table(path).to_pylist()
    ]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """So small a model gains nothing by a second thread, and waits for it where processors are
    busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class ScoresAnything:
    """Reads a score off any trace, or a failure: rewards vary although the model is untrained."""

    def read(self, inputs, completions, completion_ids):
        return [
            "unparseable" if sum(ids) % 7 == 0 else sum(ids) % 11 * 1.0 for ids in completion_ids
        ]


class Scored(ScoresAnything, FastGCPOTrainer):
    """Scored rollouts, by the fast path."""


class Replays(ScoresAnything):
    """Answers every row with tokens drawn by the row's own seed, and takes plain gradient steps."""

    def _generate_single_turn(self, prompt_ids, images, multimodal_fields, *args):
        first = self.accelerator.process_index * len(prompt_ids)
        answers = []
        for row in range(first, first + len(prompt_ids)):
            generator = torch.Generator().manual_seed(row)
            length = int(torch.randint(3, 12, (1,), generator=generator))
            answers.append(
                [
                    *torch.randint(50, 300, (length,), generator=generator).tolist(),
                    self.eos_token_ids[0],
                ]
            )
        return answers, None

    def create_optimizer(self, *args):
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=self.args.learning_rate)
        return self.optimizer


class Replayed(Replays, FastGCPOTrainer):
    """Replayed rollouts, by the fast path."""


class ReplayedPlainly(Replays, GCPOTrainer):
    """Replayed rollouts, by the plain path."""


def test_the_fast_path_trains_as_the_plain_one(tmp_path, training_data, tiny_checkpoint):
    """Three updates, two of them on the same rollouts, in micro-batches: losses, what is logged,
    and the weights.

    Shares of clipped tokens are means over micro-batches, which trl fills in another order on the
    plain path.
    """
    runs = {}
    for kind, fast in ((Replayed, True), (ReplayedPlainly, False)):
        out = tmp_path / kind.__name__
        more = {
            "steps": 3,
            "updates": 2,
            "save_every": 2,
            "micro_batch": 4,
            "learning_rate": 0.5,
            "fast": fast,
        }
        train(kind, settings(training_data, tiny_checkpoint, out, **more))
        logged = [
            {k: v for k, v in line.items() if "seconds" not in k and "clip" not in k}
            for line in lines_of(out)
        ]
        runs[kind] = logged, load_file(out / "model/model.safetensors")
    (fast_log, fast_weights), (plain_log, plain_weights) = runs[Replayed], runs[ReplayedPlainly]
    before = load_file(tiny_checkpoint / "model.safetensors")
    assert any(not torch.equal(before[name], weight) for name, weight in plain_weights.items())
    for fast_line, plain_line in zip(fast_log, plain_log, strict=True):
        assert fast_line == pytest.approx(plain_line, rel=1e-3, abs=1e-6)
    for name, weight in plain_weights.items():
        moved = float((weight - before[name]).abs().max())
        assert torch.allclose(fast_weights[name], weight, rtol=1e-4, atol=1e-4 * moved + 1e-7), name


# ── what is read from a trace ────────────────────────────────────────────────────────────────────────────────────────


def test_a_trace_that_cannot_be_read_is_named_and_one_that_met_the_length_limit_is_cut_off():
    answer = "seen\n" + write_answer((1, 0), 6.5)
    assert read_score(answer, 2, ended=True) == 6.5
    assert read_score(answer, 2, ended=False) == "cut_off"
    assert read_score(answer, 3, ended=True) == "wrong_verdict_count"
    assert read_score("no idea", 2, ended=True) == "unparseable"
    assert read_score("", 2, ended=True) == "empty"
    assert read_score("no idea", 2, ended=False) == "cut_off"


def test_the_score_tokens_are_those_of_the_final_score():
    pieces = [
        "a <sc",
        "ore> is",
        " due <score>",
        "1",
        "</score>",
        " no: <",
        "score>",
        "7",
        ".5",
        "</",
        "score>",
        "<|im_end|>",
    ]
    assert [piece for piece, found in zip(pieces, score_tokens(pieces), strict=True) if found] == [
        "7",
        ".5",
    ]
    assert score_tokens(["no", " score"]) == [False, False]
    assert score_tokens(["<score>", "7"]) == [False, False]


# ── one optimiser update against the paper's formulas ────────────────────────────────────────────────────────────────

TABLE = [[[7.0, 3.0, "unparseable"], [5.0, 5.0, 2.0]], [[1.0, 8.0, 6.0], ["cut_off", 4.0, 8.0]]]
"""Scores of two pairs: preferred, other."""


class Recorded(FastGCPOTrainer):
    """Scores its traces by the table; keeps them with their prompts, and every update's weights and
    gradients before clipping."""

    table = TABLE

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        Recorded.last, self.traces, self.updates, self.with_a_graph = self, [], [], []

    def read(self, inputs, completions, completion_ids):
        self.traces = [
            (row["prompt"], row["images"], ids)
            for row, ids in zip(inputs, completion_ids, strict=True)
        ]
        return [score for pair in self.table for group in pair for score in group]

    def _get_per_token_logps_and_entropies(self, model, input_ids, *args, **kwargs):
        if torch.is_grad_enabled():
            self.with_a_graph.append(len(input_ids))
        return super()._get_per_token_logps_and_entropies(model, input_ids, *args, **kwargs)

    def _clip_grad_norm(self, model):
        named = [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]
        self.updates.append({name: (p.detach().clone(), p.grad.clone()) for name, p in named})
        return super()._clip_grad_norm(model)


class HalfAtRest(Recorded):
    """The first pair's traces all win; of the second's, one of either image has just its group's
    mean, ⅔: eight advantages of 0."""

    table = (((7.0, 7.0, 7.0), (5.0, 5.0, 5.0)), ((5.0, 8.0, 2.0), (1.0, 6.0, 3.0)))


class Written(Recorded):
    """Writes what the tokenizer makes of an answer, or a thought without one: the places of the
    score's tokens are known."""

    def _generate_single_turn(self, prompt_ids, images, multimodal_fields, *args):
        self.score_places = []
        tokenize = self.processing_class.tokenizer
        answers = []
        for row in range(len(prompt_ids)):
            before = tokenize("seen; " * (row % 4) + "<score>").input_ids
            score, after = tokenize(f"{row % 5}.5").input_ids, tokenize("</score>").input_ids
            if row == 2:
                before, score, after = tokenize("no idea").input_ids, [], []
            self.score_places.append(range(len(before), len(before) + len(score)))
            answers.append([*before, *score, *after, self.eos_token_ids[0]])
        return answers, None


def advantages_of(table: Sequence) -> list[float]:
    """A = r − mean r, in the table's order, from the definitions."""
    found = []
    for preferred, other in table:
        beats = [
            [not isinstance(w, str) and not isinstance(o, str) and w > o for o in other]
            for w in preferred
        ]
        wins = [sum(row) / len(other) for row in beats]
        losses = [sum(column) / len(preferred) for column in zip(*beats, strict=True)]
        found += [r - sum(ratios) / len(ratios) for ratios in (wins, losses) for r in ratios]
    return found


def log_policies(model, processor, traces, temperature: float) -> list[torch.Tensor]:
    """log π at each token of each trace, (T, V) each, from the stock model's logits on prompt and
    trace, padded at the end."""
    rows, kinds, pixels, grids = [], [], [], []
    for prompt, images, ids in traces:
        text = processor.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False)
        inputs = processor(text=[text], images=[images], return_tensors="pt")
        assert len(inputs["image_grid_thw"]) == 2
        rows.append(torch.tensor([*inputs["input_ids"][0].tolist(), *ids]))
        kinds.append(torch.tensor([*inputs["mm_token_type_ids"][0].tolist(), *[0] * len(ids)]))
        pixels.append(inputs["pixel_values"].to(model.dtype))
        grids.append(inputs["image_grid_thw"])
    logits = model(
        input_ids=pad_sequence(rows, batch_first=True), mm_token_type_ids=pad_sequence(kinds, batch_first=True),
        attention_mask=pad_sequence([torch.ones_like(row) for row in rows], batch_first=True),
        pixel_values=torch.cat(pixels), image_grid_thw=torch.cat(grids),
    ).logits  # fmt: skip
    return [
        of[len(row) - len(ids) - 1 : len(row) - 1].log_softmax(-1)
        for row, of, (_, _, ids) in zip(rows, logits / temperature, traces, strict=True)
    ]


def of_the_tokens(policies: list[torch.Tensor], traces) -> list[torch.Tensor]:
    """log π of each token of each trace, (T,) each."""
    return [
        log.gather(1, torch.tensor(ids)[:, None])[:, 0]
        for log, (_, _, ids) in zip(policies, traces, strict=True)
    ]


def mean_entropy(policies: list[torch.Tensor], micro_batch: int) -> float:
    """The mean over micro-batches, in order, of the mean over a micro-batch's tokens."""
    entropies = [-(log.exp() * log).sum(-1) for log in policies]
    parts = [
        entropies[first : first + micro_batch] for first in range(0, len(entropies), micro_batch)
    ]
    return sum(float(torch.cat(part).mean()) for part in parts) / len(parts)


def stock_model(
    base: Path, weights: dict[str, torch.Tensor] | None = None
) -> Qwen2_5_VLForConditionalGeneration:
    """The checkpoint as transformers loads it, in double precision, with these weights instead of
    its own."""
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(base).double()
    for name, parameter in model.named_parameters():
        if weights is not None:
            parameter.data.copy_(weights[name])
    return model


@pytest.fixture(scope="module")
def ending_checkpoint(tmp_path_factory, tiny_checkpoint):
    """The untrained verifier, for which every eighth token ends a trace: traces have unequal
    lengths."""
    folder = tmp_path_factory.mktemp("ending") / "model"
    shutil.copytree(tiny_checkpoint, folder)
    generation = json.loads((folder / "generation_config.json").read_text())
    generation["eos_token_id"] += list(range(8, 700, 8))
    (folder / "generation_config.json").write_text(json.dumps(generation))
    return folder


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        (Recorded, {}),
        (HalfAtRest, {}),
        (Written, {"gradient_tokens": "score"}),
        (Written, {"kl_weight": 0.3}),
        (Written, {"kl_weight": 0.3, "kl_tokens": "all"}),
        (Written, {"kl_weight": 0.3, "gradient_tokens": "score"}),
    ],
)
def test_an_updates_gradients_are_those_of_the_papers_loss(
    tmp_path, training_data, ending_checkpoint, kind, more
):
    keys = settings(
        training_data,
        ending_checkpoint,
        tmp_path / "out",
        updates=2,
        save_every=2,
        micro_batch=4,
        clip_range=0.1,
        temperature=0.9,
        **more,
    )
    train(kind, keys)
    trainer = Recorded.last
    beta, epsilon = more.get("kl_weight", 0.0), 0.1
    processor = AutoProcessor.from_pretrained(ending_checkpoint)
    assert len(trainer.traces) == 12
    assert len({len(ids) for _, _, ids in trainer.traces}) > 2
    with torch.no_grad():  # the policy that sampled, and the KL's reference
        sampling = log_policies(stock_model(ending_checkpoint), processor, trainer.traces, 0.9)
        base = of_the_tokens(sampling, trainer.traces)
    places = getattr(trainer, "score_places", [range(1000, 1000)] * 12)
    shares = []
    for update in trainer.updates:
        model = stock_model(
            ending_checkpoint, {name: weight for name, (weight, _) in update.items()}
        )
        policy = of_the_tokens(log_policies(model, processor, trainer.traces, 0.9), trainer.traces)
        total, clipped, counted = 0.0, 0, 0
        for new, old, place, advantage in zip(
            policy, base, places, advantages_of(trainer.table), strict=True
        ):
            loss = 0.0
            for t, ratio in enumerate((new - old).exp()):
                if more.get("gradient_tokens") != "score" or t in place:
                    bounded = ratio.clamp(1 - epsilon, 1 + epsilon)
                    loss = loss - torch.minimum(ratio * advantage, bounded * advantage)
                    counted += 1
                    clipped += bool(bounded * advantage < ratio * advantage)
                if more.get("kl_tokens") == "all" or len(place) == 0 or t < place.start:
                    d = old[t] - new[t]
                    loss = loss + beta * (d.exp() - d - 1)
            total = (
                total + loss / len(new) / (2 * 3) / 2
            )  # over its tokens, 1/2N, the mean over two pairs
        total.backward()
        shares.append(clipped / counted)
        expected = {name: p.grad for name, p in model.named_parameters()}
        assert set(expected) == set(update)
        for name, (_, gradient) in update.items():
            assert (gradient - expected[name]).abs().max() <= 1e-5 * expected[name].abs().max(), (
                name
            )
        assert max(g.abs().max() for g in expected.values()) > 1e-3
    first, second = lines_of(tmp_path / "out")
    assert shares[0] == first["clip_low"] + first["clip_high"] == 0
    assert 0 < shares[1] < 1
    if (
        more.get("gradient_tokens") != "score"
    ):  # else micro-batches differ in how many tokens they have
        assert second["clip_low"] + second["clip_high"] > 0
    if (
        kind is HalfAtRest
    ):  # micro-batches of the rows 0–3, 4–7, 8–11; the first has nothing that moves, and one row for the backward
        assert trainer.with_a_graph == [1, 1, 3] * 2
    else:
        assert trainer.with_a_graph == [4, 4, 4] * 2
    assert first["entropy"] == pytest.approx(mean_entropy(sampling, 4), rel=1e-4)
    assert ("kl" in first) == (beta > 0)
    if beta:
        assert first["kl"] == pytest.approx(0, abs=1e-9)
        assert second["kl"] > 1e-6


def test_traces_at_rest_are_left_out_under_lora_and_checkpointing_too(
    tmp_path, training_data, ending_checkpoint
):
    class Whole(HalfAtRest):
        def trace_logps(self, model, inputs):
            return GCPOTrainer.trace_logps(self, model, inputs)

    found = []
    for kind in (HalfAtRest, Whole):
        keys = settings(
            training_data, ending_checkpoint, tmp_path / kind.__name__, micro_batch=4, lora_rank=4
        )
        train(kind, {**keys, "gradient_checkpointing": True})
        found.append(Recorded.last)
    ours, whole = found
    assert (ours.with_a_graph, whole.with_a_graph) == ([1, 1, 3] * 2, [4, 4, 4] * 2)
    gradients = {name: gradient for name, (_, gradient) in ours.updates[0].items()}
    for name, (_, gradient) in whole.updates[0].items():
        assert torch.allclose(
            gradients[name], gradient, rtol=1e-4, atol=1e-6 * float(gradient.abs().max())
        ), name
    first, same = (lines_of(tmp_path / kind.__name__)[0] for kind in (HalfAtRest, Whole))
    assert {k: v for k, v in first.items() if "seconds" not in k} == pytest.approx(
        {k: same[k] for k in first if "seconds" not in k}, rel=1e-4
    )


# ── what is logged ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_step_logs_what_the_paper_watches_and_keeps_its_rollouts(
    tmp_path, training_data, tiny_checkpoint
):
    train(Written, settings(training_data, tiny_checkpoint, tmp_path / "out", steps=1))
    (line,) = lines_of(tmp_path / "out")
    rows = rollouts_of(tmp_path / "out", 1)
    # pair 1: 7 beats 5, 5, 2 and 3 beats 2; pair 2: 1 beats none, 8 and 6 beat 4 alone (8 against 8
    # is a tie)
    rewards = [1, 1 / 3, 0, 1 / 3, 1 / 3, 2 / 3, 0, 1 / 3, 1 / 3, 0, 2 / 3, 0]
    advantages = advantages_of(TABLE)
    assert [row["reward"] for row in rows] == pytest.approx(rewards)
    assert [row["advantage"] for row in rows] == pytest.approx(advantages, abs=1e-7)
    assert [row["score"] for row in rows] == [7, 3, None, 5, 5, 2, 1, 8, 6, None, 4, 8]
    assert {i: row["failure"] for i, row in enumerate(rows) if row["failure"]} == {
        2: "unparseable",
        9: "cut_off",
    }
    assert [row["side"] for row in rows] == (["preferred"] * 3 + ["other"] * 3) * 2
    assert [row["trace"] for row in rows] == [0, 1, 2] * 4
    assert {row["step"] for row in rows} == {1}
    assert len({row["pair_id"] for row in rows}) == 2
    assert rows[0]["text"] == "<score>0.5</score>"
    lengths = [row["tokens"] for row in rows]
    assert lengths == [len(ids) for _, _, ids in Recorded.last.traces]
    expected = {
        "step": 1, "epoch": 2 / 12, "reward": sum(rewards) / 12, "win_ratio": 2 / 6, "loss_ratio": 2 / 6, "tie_rate": 1 / 12,
        "unreadable_rate": 2 / 12, "unparseable": 1, "cut_off": 1, "wrong_verdict_count": 0, "refused": 0, "empty": 0,
        "score_preferred": (7 + 3 + 1 + 8 + 6) / 5, "score_other": (5 + 5 + 2 + 4 + 8) / 5, "trace_length": sum(lengths) / 12,
        "weighted_advantage": sum(a / n for a, n in zip(advantages, lengths, strict=True)) / 12, "zero_variance_groups": 0,
        "clip_low": 0, "clip_high": 0,
    }  # fmt: skip
    assert {name: line[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    assert 0 < line["entropy"] < math.log(1100)
    assert line["rollout_seconds"] > 0
    assert line["update_seconds"] > 0
    assert not any("/" in name for name in line)


# ── resuming ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def steps_of(out: Path) -> list[dict]:
    """The logged lines without what the clock says."""
    return [{k: v for k, v in line.items() if "seconds" not in k} for line in lines_of(out)]


@pytest.mark.parametrize(("updates", "steps"), [(1, 4), (2, 6)])
def test_a_run_resumed_from_any_checkpoint_is_the_uninterrupted_one(
    tmp_path, training_data, ending_checkpoint, updates, steps
):
    """5 of 12 pairs per batch: the third batch of rollouts goes on with the next permutation."""
    whole = tmp_path / "whole"
    keys = settings(
        training_data,
        ending_checkpoint,
        whole,
        steps=steps,
        pairs_per_step=5,
        traces_per_image=2,
        micro_batch=10,
        updates=updates,
        save_every=updates,
    )
    train(Scored, keys)
    last = f"checkpoints/checkpoint-{steps}"
    for step in range(updates, steps, updates):
        out = tmp_path / f"from-{step}"
        shutil.copytree(whole, out)
        for later in out.glob("checkpoints/checkpoint-*"):
            if int(later.name.split("-")[1]) > step:
                shutil.rmtree(later)
        stale = (
            out / f"rollouts/step-{step + 1:06d}-7.parquet"
        )  # of a process that is not there any more
        stale.write_bytes(b"")
        train(Scored, {**keys, "out": str(out)})
        weights = [load_file(run / last / "model.safetensors") for run in (whole, out)]
        assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
        states = [torch.load(run / last / "optimizer.pt")["state"] for run in (whole, out)]
        assert all(
            torch.equal(states[0][i][name], states[1][i][name])
            for i in states[0]
            for name in states[0][i]
        )
        assert steps_of(out) == steps_of(whole)
        assert not stale.exists()
        sampled = range(1, steps + 1, updates)
        assert sorted(path.name for path in out.glob("rollouts/*")) == [
            f"step-{s:06d}-0.parquet" for s in sampled
        ]
        assert [rollouts_of(out, s) for s in sampled] == [rollouts_of(whole, s) for s in sampled]
    start = load_file(ending_checkpoint / "model.safetensors")
    assert any(not torch.equal(start[name], weights[0][name]) for name in start)


class Mute(Replayed):
    """Traces none of which can be read until the step in `can_be_read_at`."""

    can_be_read_at = 0

    def read(self, inputs, completions, completion_ids):
        if self.state.global_step + 1 == self.can_be_read_at:
            return super().read(inputs, completions, completion_ids)
        return ["cut_off" if sum(ids) % 2 else "unparseable" for ids in completion_ids]


def test_a_run_of_which_no_trace_can_be_read_ends_and_shows_three_and_a_resume_counts_on(
    tmp_path, training_data, tiny_checkpoint, monkeypatch
):
    monkeypatch.setattr(unreadable, "PATIENCE", 3)
    keys = settings(training_data, tiny_checkpoint, tmp_path / "mute", steps=9, save_every=1)
    told = r"step (\d): no trace of the last 3 updates .*cut_off.* raise 'max_tokens'\. Three of them, by their ends: (.*)\. All"
    with pytest.raises(InputError, match=told) as ended:
        train(Mute, keys)
    step, shown = re.search(told, str(ended.value)).groups()
    texts = [row["text"] for row in rollouts_of(tmp_path / "mute", 3)]
    assert (step, shown) == ("3", "; ".join(map(repr, texts[:3])))
    with pytest.raises(
        InputError, match="stopped at step 3"
    ):  # from checkpoint-2, with two in its log
        train(Mute, keys)
    monkeypatch.setattr(Mute, "can_be_read_at", 3)
    with pytest.raises(InputError, match="stopped at step 6"):
        train(Mute, keys)


# ── processes ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_two_processes_are_one_that_accumulates(tmp_path, training_data, tiny_checkpoint):
    """One pair: the first process judges the preferred image, the second the other; rewards come
    from both together."""
    keys = settings(
        training_data,
        tiny_checkpoint,
        tmp_path / "one",
        steps=1,
        pairs_per_step=1,
        traces_per_image=4,
        micro_batch=4,
        learning_rate=1.0,
    )
    train(Replayed, keys)
    two = tmp_path / "two.yaml"
    two.write_text(json.dumps({**keys, "out": str(tmp_path / "two")}))
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node=2",
        __file__,
        "--config",
        str(two),
    ]
    done = subprocess.run(
        launch,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    before, one, both = (
        load_file(folder / "model.safetensors")
        for folder in (tiny_checkpoint, tmp_path / "one/model", tmp_path / "two/model")
    )
    assert max((one[name] - before[name]).abs().max() for name in one) > 1e-3
    for name in one:
        assert torch.allclose(one[name], both[name], rtol=0, atol=1e-6), name
    assert len(list((tmp_path / "two/rollouts").iterdir())) == 2
    assert rollouts_of(tmp_path / "two", 1) == rollouts_of(tmp_path / "one", 1)
    own, shared = steps_of(tmp_path / "one")[0], steps_of(tmp_path / "two")[0]
    same = (
        "reward",
        "win_ratio",
        "tie_rate",
        "score_other",
        "weighted_advantage",
        "trace_length",
        "entropy",
        "grad_norm",
    )
    assert {name: shared[name] for name in same} == pytest.approx(
        {name: own[name] for name in same}, rel=1e-4
    )


# ── vLLM, the reference of the KL, and what is refused ─────────────────────────────────────────────────────────────────────


def test_trls_client_of_a_vllm_server_is_loaded_when_the_trainer_makes_it(monkeypatch):
    client = ModuleType(CLIENT)
    client.VLLMGeneration = lambda *given, **named: (given, named)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, CLIENT, client)
    assert sys.modules[GRPOTrainer.__module__].VLLMGeneration("policy", mode="server") == (
        ("policy",),
        {"mode": "server"},
    )


def test_the_kls_reference_is_the_base_with_the_policys_vision(
    tmp_path, training_data, tiny_checkpoint
):
    train(
        Written, settings(training_data, tiny_checkpoint, tmp_path / "out", steps=1, kl_weight=0.1)
    )
    reference, (loaded, _) = Recorded.last.ref_model, load(tiny_checkpoint, fast=True)
    held = dict(reference.named_parameters())
    assert all(torch.equal(held[name], parameter) for name, parameter in loaded.named_parameters())
    assert all(parameter.grad is None for parameter in held.values())
    patched = {name for name, module in loaded.named_modules() if "forward" in vars(module)}
    assert patched
    assert patched <= {
        name for name, module in reference.named_modules() if "forward" in vars(module)
    }


def test_under_lora_the_kls_reference_is_the_model_without_its_adapter(
    tmp_path, training_data, tiny_checkpoint
):
    keys = settings(
        training_data,
        tiny_checkpoint,
        tmp_path / "out",
        kl_weight=0.1,
        lora_rank=4,
        learning_rate=1e-2,
    )
    train(Written, keys)
    assert Recorded.last.ref_model is None
    first, second = lines_of(tmp_path / "out")
    assert first["kl"] == pytest.approx(0, abs=1e-9)
    assert second["kl"] > 1e-6


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"pairs_per_step": 99}, "fewer than one update's 99"),
        ({"micro_batch": 5}, "does not divide"),
        ({"updates": 3, "save_every": 20}, "not a multiple of updates 3"),
        ({"pair_count": 13}, "there are 12"),
    ],
)
def test_a_batch_that_cannot_be_is_refused(tmp_path, training_data, tiny_checkpoint, more, message):
    with pytest.raises(InputError, match=message):
        train(FastGCPOTrainer, settings(training_data, tiny_checkpoint, tmp_path, **more))


def test_one_trace_per_image_is_refused(tmp_path, training_data, tiny_checkpoint):
    with pytest.raises(
        InputError, match="'traces_per_image': Input should be greater than or equal to 2"
    ):
        GCPOStage.checked(
            settings(training_data, tiny_checkpoint, tmp_path, traces_per_image=1), "config"
        )


if __name__ == "__main__":
    torch.set_num_threads(1)
    replay = partial(gcpo.train, kind=Replayed)
    command(lambda: run_training("gcpo", GCPOStage.read(sys.argv[2]), replay))
    assert "vllm" not in sys.modules
