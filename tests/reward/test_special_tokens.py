"""Special tokens in users' text, in teachers' answers and in samples: text is data, never a token
of the chat."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from rrm.prompts import Style
from rrm.records import EditToJudge, Principle
from rrm.reward import open_reward
from rrm.sandbox.models.verifier import SPECIAL as SMALL
from rrm.verifier.fast.trl_without_vllm import GRPOTrainer
from rrm.verifier.inference import Verifier
from rrm.verifier.messages import answered, decompose_messages, judge_messages, rate_messages
from rrm.verifier.rollout import complete
from tests.support.real_vocabulary import ADDED, SPECIAL, qwen_tokenizer
from tests.verifier.test_gcpo import Scored, lines_of, rollouts_of, settings, train

ALL = "".join(SPECIAL)
IMAGE = Image.new("RGB", (56, 56), "grey")
ONE = (Principle(question="Is it red?", category="follow"),)


@pytest.fixture(scope="module")
def tokenizer():
    return qwen_tokenizer()


def texts_of(style: Style, text: str) -> list[str]:
    """Every text in which the toolkit shows a model what users or teachers wrote."""
    principles = (Principle(question=f"Is it {text}?", category="follow"),)
    asked = [
        judge_messages(style, text, principles, text),
        decompose_messages(style, text, text),
        rate_messages(text, text),
    ]
    parts = [
        part
        for messages in [*asked, answered(text)]
        for message in messages
        for part in message["content"]
    ]
    return [part["text"] for part in parts if part["type"] == "text"]


@pytest.mark.parametrize("style", ["full", "brief", "holistic", "brief_holistic"])
def test_a_special_token_in_a_text_is_text_to_qwens_real_tokenizer(tokenizer, style):
    special = {
        *tokenizer.convert_tokens_to_ids(
            [*SPECIAL, *(token for token in ADDED if token.startswith("<|"))]
        )
    }
    for text in texts_of(style, ALL + "".join(ADDED)):
        assert not special & set(tokenizer(text).input_ids), text


def test_an_edit_whose_text_holds_special_tokens_is_judged_beside_others_as_they_are_alone(
    tiny_checkpoint,
):
    edits = [
        EditToJudge(IMAGE, IMAGE, text, ONE)
        for text in ("make it red", f"make it red {ALL}", "make it blue")
    ]
    with open_reward(f"rrm:{tiny_checkpoint}?max_tokens=8") as model:
        together = model.judge_many(edits)
        assert together[0] == model.judge_many(edits[:1])[0]
    assert [judgement.failure.kind for judgement in together if judgement.failure] == [
        "cut_off"
    ] * 3  # it is untrained


def test_a_special_token_is_never_sampled_however_likely(tiny_checkpoint):
    judge = Verifier.load(tiny_checkpoint)
    judge.max_new_tokens = 8
    judge.model.lm_head.register_forward_hook(
        lambda module, given, logits: logits.index_fill(-1, torch.tensor(judge.suppressed), 1e4)
    )
    seen = []

    def kept(*given):
        seen.extend(complete(*given))
        return seen

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rrm.verifier.inference.complete", kept)
        judge.generate(
            [(judge_messages("brief", "make it red", ONE), [IMAGE, IMAGE])] * 2, temperature=1.0
        )
    assert len(judge.suppressed) == 6
    assert not set(judge.suppressed) & {token for row in seen for token in row}


class Server:
    """A vLLM server that does not keep to what it is told: a special token stands in every answer."""

    def __init__(self, *given, generation_kwargs=None, processing_class, **named):
        self.generation_kwargs, self.token = (
            generation_kwargs or {},
            processing_class.tokenizer.convert_tokens_to_ids,
        )
        self.vllm_client = SimpleNamespace(
            get_server_info=lambda: {"model_config": {"logprobs_mode": "processed_logprobs"}}
        )
        Server.last = self

    def sync_weights(self):
        pass

    def generate(self, prompts, **named):
        places = self.token(["<|image_pad|>", "<|video_pad|>", "<|vision_start|>"])
        answers = [
            [60 + i, places[i % 3], 70, self.token("<|im_end|>")] for i in range(len(prompts))
        ]
        return prompts, answers, [[[-1.0]] * 4 for _ in answers], None


def test_a_server_is_told_which_tokens_no_trace_may_hold_and_one_that_samples_them_stops_no_update(
    training_data, tiny_checkpoint, tmp_path, monkeypatch
):
    monkeypatch.setattr(f"{GRPOTrainer.__module__}.VLLMGeneration", Server)
    told = {
        "vllm_server": "http://127.0.0.1:1",
        "gradient_checkpointing": True,
    }  # with which no prompt is shared: trl's own forward
    train(Scored, settings(training_data, tiny_checkpoint, tmp_path / "out", **told))
    assert [line["step"] for line in lines_of(tmp_path / "out")] == [1, 2]
    assert all(
        "?" in row["text"] and "<|" not in row["text"] for row in rollouts_of(tmp_path / "out", 1)
    )
    assert set(Server.last.generation_kwargs["bad_words"]) == {*SMALL} - {
        "<|im_end|>",
        "<|endoftext|>",
    }
