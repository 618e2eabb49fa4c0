"""Rollouts against `model.generate` token for token, and against whole forwards logit for logit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import GenerationConfig, Qwen2_5_VLForConditionalGeneration

from rrm.records import EditToJudge
from rrm.sandbox.edits import decompose, sample_steps, write_instruction
from rrm.sandbox.world import draw as draw_scene
from rrm.sandbox.world import sample_scene
from rrm.verifier import rollout
from rrm.verifier.checkpoint import load
from rrm.verifier.fast.shared_prompts import sharing_prompts
from rrm.verifier.fast.vision import distinct_images
from rrm.verifier.inference import Verifier
from rrm.verifier.messages import judge_messages
from rrm.verifier.rollout import complete, draw, left_padded
from rrm.verifier.training import lora
from tests.support import ROOT

BASE = Path("rrm/sandbox/checkpoints/rrm-base")


@pytest.fixture(scope="module")
def base():
    model, processor = load(ROOT / BASE, "float32", fast=True)
    return model.eval(), processor


def edits(count: int, seed: int = 0) -> list[EditToJudge]:
    """Edits with one to many principles, two and two of one source, so that prompts differ in
    length and share images."""
    rng = np.random.default_rng(seed)
    found: list[EditToJudge] = []
    while len(found) < count:
        scene = sample_scene(rng)
        steps = sample_steps(rng, scene)
        for _ in range(2):
            principles = tuple(decompose(steps))[: int(rng.integers(1, 6))]
            found.append(
                EditToJudge(
                    draw_scene(scene),
                    draw_scene(sample_scene(rng)),
                    write_instruction(steps),
                    principles,
                )
            )
    return found[:count]


def batch_of(processor, chosen: list[EditToJudge]) -> dict[str, torch.Tensor]:
    texts = [
        processor.apply_chat_template(
            judge_messages("brief", e.instruction, e.principles),
            add_generation_prompt=True,
            tokenize=False,
        )
        for e in chosen
    ]
    return dict(
        processor(
            text=texts,
            images=[[e.source, e.edited] for e in chosen],
            return_tensors="pt",
            padding=True,
            padding_side="left",
        )
    )


@pytest.fixture(scope="module")
def six(base):
    batch = batch_of(base[1], edits(6))
    assert len(set(batch["attention_mask"].sum(1).tolist())) > 1
    return batch


def answers_of_generate(model, batch, config: GenerationConfig) -> list[list[int]]:
    """What `model.generate` answers, each cut behind its first ending token."""
    rows = model.generate(**batch, generation_config=config)[
        :, batch["input_ids"].shape[1] :
    ].tolist()
    last = set(config.eos_token_id)
    ends = [next((i + 1 for i, token in enumerate(row) if token in last), len(row)) for row in rows]
    return [row[:end] for row, end in zip(rows, ends, strict=True)]


def greedy(model, batch, tokens: int = 40) -> GenerationConfig:
    """Greedy, ending on tokens that the rows say at different places."""
    said = model.generate(**batch, do_sample=False, max_new_tokens=tokens, eos_token_id=1)[
        :, batch["input_ids"].shape[1] :
    ]
    last = [int(said[0, 5]), int(said[-1, 17]), int(said[2, 30])]
    return GenerationConfig(
        do_sample=False, max_new_tokens=tokens, eos_token_id=last, pad_token_id=0
    )


def record_scores(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """The scores that every step draws from."""
    seen: list[torch.Tensor] = []

    def spy(scores: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
        seen.append(scores)
        return draw(scores, uniform)

    monkeypatch.setattr(rollout, "draw", spy)
    return seen


def sampling(tokens: int, **more: object) -> GenerationConfig:
    return GenerationConfig(
        do_sample=True, temperature=1.0, top_k=0, max_new_tokens=tokens, pad_token_id=0, **more
    )


def test_greedy_answers_are_those_of_generate_token_for_token(base, six):
    config = greedy(base[0], six)
    expected = answers_of_generate(base[0], six, config)
    assert complete(base[0], six, config) == expected
    assert len({len(answer) for answer in expected}) > 2


def test_a_cache_that_outgrows_its_room_holds_the_same(base, six, monkeypatch):
    config = greedy(base[0], six)
    monkeypatch.setattr(rollout, "ROOM", 3)
    assert complete(base[0], six, config) == answers_of_generate(base[0], six, config)


def test_logits_processors_are_those_of_generate(base, six):
    config = GenerationConfig(
        do_sample=False,
        max_new_tokens=30,
        repetition_penalty=1.3,
        min_new_tokens=4,
        pad_token_id=0,
        eos_token_id=[2, 0],
    )
    assert complete(base[0], six, config) == answers_of_generate(base[0], six, config)


def test_every_step_draws_from_the_logits_of_a_whole_forward(base, six, monkeypatch):
    model, _ = base
    seen = record_scores(monkeypatch)
    torch.manual_seed(0)
    answers = torch.tensor(complete(model, six, sampling(20, min_new_tokens=20)))
    ids = torch.cat([six["input_ids"], answers], 1)
    ones, prompt = torch.ones_like(answers), six["input_ids"].shape[1]
    stock = Qwen2_5_VLForConditionalGeneration.from_pretrained(ROOT / BASE).eval()
    whole = stock(
        input_ids=ids, attention_mask=torch.cat([six["attention_mask"], ones], 1), pixel_values=six["pixel_values"],
        image_grid_thw=six["image_grid_thw"], mm_token_type_ids=torch.cat([six["mm_token_type_ids"], 0 * ones], 1),
    ).logits[:, prompt - 1 : -1]  # fmt: skip
    drawn = torch.stack(seen, 1)
    said = ~drawn.isinf()  # the tokens that would end it before min_new_tokens are out
    assert (~said).sum() == 6 * 20 * 2
    assert torch.allclose(drawn[said], whole[said], atol=1e-4)


def test_bfloat16_stays_within_its_own_error(base, six, monkeypatch):
    seen = record_scores(monkeypatch)
    low, _ = load(ROOT / BASE, "bfloat16", fast=True)
    for model in (low.eval(), base[0]):
        complete(model, six, sampling(1))
    assert (seen[0] - seen[1]).abs().mean() < 0.05 * seen[1].std()
    assert [len(answer) for answer in complete(low, six, sampling(9, min_new_tokens=9))] == [9] * 6


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_greedy_answers_on_a_gpu_are_those_of_generate(six):
    model, _ = load(ROOT / BASE, "float32", fast=True)
    model = model.eval().cuda()
    batch = {name: value.cuda() for name, value in six.items()}
    config = greedy(model, batch)
    assert complete(model, batch, config) == answers_of_generate(model, batch, config)


def test_a_rows_answer_does_not_depend_on_which_rows_have_ended(base, six):
    torch.manual_seed(3)
    long = complete(base[0], six, sampling(40, min_new_tokens=40))
    last = [long[1][3], long[4][11]]
    torch.manual_seed(3)
    short = complete(base[0], six, sampling(40, eos_token_id=last, suppress_tokens=[2, 0]))
    assert len({len(answer) for answer in short}) > 1
    for answer, longer in zip(short, long, strict=True):
        assert answer == longer[: len(answer)]
        assert answer[-1] in last or len(answer) == 40


def test_the_same_seed_gives_the_same_traces_and_copies_are_drawn_apart(base, six):
    rows = torch.arange(6).repeat_interleave(3)
    images = torch.stack([2 * rows, 2 * rows + 1], 1).flatten()
    patches = six["pixel_values"].view(12, -1, six["pixel_values"].shape[1])
    batch = {name: six[name][rows] for name in ("input_ids", "attention_mask", "mm_token_type_ids")}
    batch |= {
        "pixel_values": patches[images].flatten(0, 1),
        "image_grid_thw": six["image_grid_thw"][images],
    }
    found = []
    for _ in range(2):
        torch.manual_seed(11)
        found.append(complete(base[0], batch, sampling(24)))
    assert found[0] == found[1]
    assert len({tuple(answer) for answer in found[0]}) > 6


@pytest.fixture
def read(base) -> Iterator[dict[str, list[int]]]:
    """Rows of every forward of the language model, and images of every forward of the vision tower."""
    model, _ = base
    counts: dict[str, list[int]] = {"rows": [], "images": []}
    hooks = [
        model.model.language_model.register_forward_pre_hook(
            lambda _m, _a, given: counts["rows"].append(len(given["inputs_embeds"])),
            with_kwargs=True,
        ),
        model.model.visual.register_forward_pre_hook(
            lambda _m, _a, given: counts["images"].append(len(given["grid_thw"])), with_kwargs=True
        ),
    ]
    yield counts
    for hook in hooks:
        hook.remove()


def test_a_prompt_is_read_once_and_so_is_an_image_that_prompts_share(base, read):
    one, other, third = edits(3)
    chosen = [one, other, one, third, one, other]  # one and other are edits of one source
    complete(base[0], batch_of(base[1], chosen), sampling(4, min_new_tokens=4))
    assert read["rows"] == [3, 6, 6, 6]
    assert read["images"] == [5]


def test_rows_that_have_ended_are_left_out_of_the_forwards(base, six, read):
    config = greedy(base[0], six)
    for counts in read.values():
        counts.clear()
    lengths = [len(answer) for answer in complete(base[0], six, config)]
    assert read["rows"][1:] == [
        sum(length > step for length in lengths) for step in range(1, max(lengths))
    ]


def test_a_token_is_where_the_cumulated_probability_first_exceeds_the_number():
    scores = torch.tensor([0.2, 0.3, 0.5]).log().expand(5, 3)
    assert draw(
        scores, torch.tensor([0.0, 0.19, 0.21, 0.49, 0.99], dtype=torch.float64)
    ).tolist() == [0, 0, 1, 1, 2]
    lone = torch.tensor([[-torch.inf, 3.0, -torch.inf]]).expand(2, 3)
    assert draw(lone, torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)).tolist() == [1, 1]


def test_drawn_shares_are_the_probabilities():
    torch.manual_seed(0)
    scores = torch.randn(7)
    counts = (
        draw(scores.expand(40000, 7), torch.rand(40000, dtype=torch.float64)).bincount(minlength=7)
        / 40000
    )
    assert torch.allclose(counts, scores.softmax(0), atol=0.01)


def test_equal_images_are_one_and_their_shape_counts():
    a, b = torch.arange(8.0).view(4, 2), torch.arange(8.0).view(4, 2) + 1
    pixels = torch.cat([a, b, a, a, torch.cat([a, b])])
    grid = torch.tensor([[1, 2, 2], [1, 2, 2], [1, 2, 2], [1, 1, 4], [1, 2, 4]])
    first, which = distinct_images(pixels, grid)
    assert (first.tolist(), which.tolist()) == ([0, 1, 3, 4], [0, 1, 0, 2, 3])


def test_images_of_one_fingerprint_that_differ_stay_apart(monkeypatch):
    monkeypatch.setattr(
        torch, "randint", lambda _high, size, **_: torch.zeros(size, dtype=torch.int64)
    )
    first, which = distinct_images(
        torch.arange(8.0).view(4, 2), torch.tensor([[1, 1, 2], [1, 1, 2]])
    )
    assert (first.tolist(), which.tolist()) == ([0, 1], [0, 1])


def test_an_image_that_is_shared_gets_the_gradient_of_all_its_rows(base):
    model, processor = base
    stock = Qwen2_5_VLForConditionalGeneration.from_pretrained(ROOT / BASE).eval()
    one, other = edits(2)
    batch = batch_of(processor, [one, other, one])
    weights = torch.rand(3, batch["input_ids"].shape[1], 1)
    gradients = []
    for each in (model, stock):
        each.zero_grad()
        (each(**batch).logits * weights).sum().backward()
        gradients.append({name: p.grad for name, p in each.model.visual.named_parameters()})
        each.zero_grad()
    for name, expected in gradients[1].items():
        assert torch.allclose(
            gradients[0][name], expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max())
        ), name


def test_a_judge_says_what_generate_says(base):
    judge = Verifier(*base, style="brief", max_new_tokens=30)
    chosen = edits(5, seed=1)
    batch = batch_of(base[1], chosen)
    output = base[0].generate(**batch, do_sample=False, max_new_tokens=30)[
        :, batch["input_ids"].shape[1] :
    ]
    asked = [
        (judge_messages("brief", e.instruction, e.principles), [e.source, e.edited]) for e in chosen
    ]
    assert [said.content for said in judge.generate(asked)] == base[1].batch_decode(
        output, skip_special_tokens=True
    )
    ended = torch.isin(output, torch.tensor(base[0].generation_config.eos_token_id)).any(1).tolist()
    assert [said.finish_reason for said in judge.generate(asked)] == [
        "stop" if end else "length" for end in ended
    ]
    judge.max_new_tokens = 1
    assert {said.finish_reason for said in judge.generate(asked)} == {"length"}


@pytest.mark.parametrize("rank", [0, 4])
def test_gcpos_rollouts_are_trls_own_token_for_token(
    rank, training_data, tiny_checkpoint, tmp_path
):
    from rrm.images import ImageStore
    from rrm.verifier.fast.trl_without_vllm import GRPOTrainer
    from rrm.verifier.gcpo.config import GCPOStage
    from rrm.verifier.gcpo.fast import FastGCPOTrainer
    from rrm.verifier.gcpo.pairs import build_dataset, read_pairs
    from rrm.verifier.gcpo.train import arguments

    config = GCPOStage(
        data=training_data,
        base=str(tiny_checkpoint),
        out=tmp_path,
        steps=1,
        pairs_per_step=2,
        traces_per_image=2,
        learning_rate=0,
        max_tokens=12,
    )
    dataset = build_dataset(
        read_pairs(training_data), "brief", ImageStore(training_data / "images")
    )
    model, processor = load(tiny_checkpoint, "float32", fast=True)
    trainer = FastGCPOTrainer(
        model=model, args=arguments(config, tmp_path, 1), train_dataset=dataset, processing_class=processor,
        peft_config=lora(rank), rollouts=tmp_path / "rollouts",
    )  # fmt: skip
    trainer.generation_config.do_sample = False
    prompts = [
        [
            {
                **m,
                "content": [{"type": "image", "image": i} for i in row["images"]]
                + [{"type": "text", "text": str(m["content"])}],
            }
        ]
        for row in dataset.select([0, 0, 1, 1])
        for m in row["prompt"][-1:]
    ]
    ids, images, fields = trainer._tokenize_prompts(prompts)
    ours, _ = trainer._generate_single_turn(ids, images, fields, 2)
    theirs, _ = GRPOTrainer._generate_single_turn(trainer, ids, images, fields, 2)
    assert ours == theirs


def test_lists_per_token_are_padded_on_the_left():
    batch = left_padded(
        [[5], [6, 7]], {"mm_token_type_ids": [[1], [0, 1]], "image_grid_thw": torch.ones(2, 3)}, 9
    )
    assert batch["input_ids"].tolist() == [[9, 5], [6, 7]]
    assert batch["attention_mask"].tolist() == [[0, 1], [1, 1]]
    assert batch["mm_token_type_ids"].tolist() == [[0, 1], [0, 1]]
    assert batch["image_grid_thw"].shape == (2, 3)


def test_an_image_without_a_place_in_the_text_is_refused(base, six):
    with pytest.raises(ValueError, match="images for"):
        complete(base[0], {**six, "image_grid_thw": six["image_grid_thw"][:-1]}, sampling(2))


def with_traces(
    batch: dict[str, torch.Tensor], rows: list[int], tokens: int
) -> tuple[dict[str, torch.Tensor], int]:
    """These rows of the batch with traces of unequal length behind them, labelled, and the prompt's
    width."""
    images = torch.tensor([i for row in rows for i in (2 * row, 2 * row + 1)])
    patches = batch["pixel_values"].view(
        len(batch["image_grid_thw"]), -1, batch["pixel_values"].shape[1]
    )
    torch.manual_seed(5)
    traces = torch.randint(20, 500, (len(rows), tokens))
    there = (torch.arange(tokens) < torch.randint(2, tokens + 1, (len(rows), 1))).long()
    found = {
        "input_ids": torch.cat([batch["input_ids"][rows], traces], 1),
        "attention_mask": torch.cat([batch["attention_mask"][rows], there], 1),
        "mm_token_type_ids": torch.cat([batch["mm_token_type_ids"][rows], 0 * traces], 1),
        "pixel_values": patches[images].flatten(0, 1),
        "image_grid_thw": batch["image_grid_thw"][images],
        "labels": torch.cat(
            [torch.full_like(batch["input_ids"][rows], -100), traces.masked_fill(there == 0, -100)],
            1,
        ),
    }
    return found, batch["input_ids"].shape[1]


def losses_and_gradients(
    model, rows: dict[str, torch.Tensor]
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.zero_grad()
    loss = model(**rows).loss
    loss.backward()
    gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    return loss.detach(), gradients


def test_a_prompt_read_once_gives_the_loss_and_the_gradients_of_one_read_for_every_trace(
    base, six, read
):
    model, _ = base
    rows, prompt = with_traces(six, [4, 1, 4, 1, 4, 0], 9)
    loss, gradients = losses_and_gradients(model, rows)
    for counts in read.values():
        counts.clear()
    with sharing_prompts(model, prompt):
        shared, found = losses_and_gradients(model, rows)
    assert read["rows"] == [3, 6]  # three prompts, then six traces
    assert "forward" not in vars(model.model)
    assert torch.allclose(shared, loss, atol=1e-5)
    for name, expected in gradients.items():
        assert torch.allclose(
            found[name], expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max())
        ), name


def test_prompts_that_are_all_different_and_gradient_checkpointing_take_the_stock_way(
    base, six, read
):
    model, _ = base
    rows, prompt = with_traces(six, [0, 1, 2], 4)
    with sharing_prompts(model, prompt):
        model(**rows)
    assert read["rows"] == [3]
    read["rows"].clear()
    rows, prompt = with_traces(six, [0, 0, 2], 4)
    model.gradient_checkpointing_enable()
    with sharing_prompts(model, prompt):
        model(**rows)
    model.gradient_checkpointing_disable()
    assert read["rows"] == [3]
