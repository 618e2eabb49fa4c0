"""The reward model on a made-up backend, and on the shipped checkpoint in this process."""

from __future__ import annotations

import asyncio
import io
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import islice
from pathlib import Path

import pytest
import torch
from PIL import Image

import rrm
from rrm.errors import InputError
from rrm.perf.serving import edits
from rrm.prompts import Style, write_answer, write_principles
from rrm.records import Choice, EditToJudge, Failure, Principle, TaskToDecompose, Token
from rrm.reward import open_reward
from rrm.reward.backend import Progress, Question, Reply
from rrm.reward.local import LocalBackend
from rrm.reward.model import RewardModel, Sampling
from rrm.verifier.inference import Verifier
from rrm.verifier.messages import rate_messages

BASE = Path(rrm.__file__).parent / "sandbox/checkpoints/rrm-base"
ONE = (Principle(question="Is the circle red?", category="follow"),)
TWO = (*ONE, Principle(question="Is the image clean?", category="quality"))
GREY, WHITE = Image.new("RGB", (56, 56), "grey"), Image.new("RGB", (56, 56), "white")


def text_of(question: Question) -> str:
    return question.messages[-1]["content"][-1]["text"]


class Fake:
    """A backend that answers by a function, and keeps what it was asked."""

    fingerprint, max_tokens = "fake", 128
    stopped: str | None = None

    def __init__(self, answer: Callable[[Question], Reply], style: Style = "brief"):
        self.answer, self.style = answer, style
        self.asked: list[Question] = []
        self.closed = 0

    async def ask(self, questions: Sequence[Question], progress: Progress) -> list[Reply]:
        self.asked += questions
        replies = [self.answer(question) for question in questions]
        for place in reversed(range(len(replies))):
            progress(place, replies[place])
        return replies

    async def close(self) -> None:
        self.closed += 1


def well(question: Question) -> Reply:
    """Principles where they are asked for, else a judgement with the number in the instruction as
    its score."""
    text = text_of(question)
    if text.startswith("decompose"):
        return (Choice(write_principles(ONE)),)
    return (Choice("seen\n" + write_answer((1,), float(text.split()[2]))),) * question.answers


def edit(
    number: int, principles: tuple[Principle, ...] = ONE, source: Image.Image = GREY
) -> EditToJudge:
    return EditToJudge(source, WHITE, f"edit {number}", principles)


def test_judgements_come_in_the_order_of_the_edits_with_failures_in_their_places():
    def answer(question: Question) -> Reply:
        return (
            Failure(kind="server_gone", detail="away")
            if "edit 3" in text_of(question)
            else well(question)
        )

    thin = Image.new("RGB", (4000, 10))
    with RewardModel(Fake(answer)) as model:
        judgements = model.judge_many(
            [edit(1), edit(2, source=thin), edit(3), edit(4, ()), edit(5)]
        )
    assert [j.score for j in judgements] == [1, None, None, 4, 5]
    assert [j.failure.kind if j.failure else None for j in judgements] == [
        None,
        "image_unreadable",
        "server_gone",
        None,
        None,
    ]
    assert judgements[3].principles == ONE
    assert judgements[0].thought == "seen"


@pytest.mark.parametrize(
    "size", [(4000, 10), (40_000, 100)], ids=["within the budget", "beyond it"]
)
def test_a_thin_image_is_unreadable_whether_it_is_judged_or_decomposed(size):
    backend = Fake(well)
    with RewardModel(backend) as model:
        thin = Image.new("RGB", size)
        judgements = model.judge_many(
            [EditToJudge(GREY, thin, "edit 1", ONE), EditToJudge(thin, GREY, "edit 1", ())]
        )
    assert [j.failure.kind for j in judgements if j.failure] == ["image_unreadable"] * 2
    assert not backend.asked


def test_a_large_image_is_asked_about_within_the_budget():
    backend = Fake(well)
    with RewardModel(backend) as model:
        model.judge(Image.new("RGB", (3000, 2000)), GREY, "edit 1", ONE)
    assert [image.width * image.height <= 1280 * 28 * 28 for image in backend.asked[0].images] == [
        True,
        True,
    ]


def test_an_instruction_is_decomposed_once_for_an_image():
    backend = Fake(well)
    with RewardModel(backend) as model:
        asked = [edit(1, ()), edit(1, ()), edit(2, ()), edit(1, (), WHITE), edit(1)]
        assert [j.score for j in model.judge_many(asked)] == [1, 1, 2, 1, 1]
        model.judge_many(asked)
        assert model.decompose_many([TaskToDecompose(GREY.copy(), "edit 1")]) == [ONE]
    decomposed = [q for q in backend.asked if text_of(q).startswith("decompose")]
    assert [(q.images, text_of(q)) for q in decomposed] == [
        ((GREY,), "decompose: edit 1"), ((GREY,), "decompose: edit 2"), ((WHITE,), "decompose: edit 1"),
    ]  # fmt: skip


def test_the_requirement_is_asked_in_every_mode_and_is_part_of_a_task():
    backend = Fake(well)
    with RewardModel(backend) as model:
        for requirement in (None, "keep the frame", "keep the cat"):
            model.judge(GREY, WHITE, "edit 1", (), requirement)
        assert (
            len(
                {
                    model.prompt("edit 1", ONE, requirement)
                    for requirement in (None, "keep the frame")
                }
            )
            == 2
        )
    asked = [text_of(q) for q in backend.asked]
    assert [text for text in asked if text.startswith("decompose")] == [
        "decompose: edit 1",
        "decompose: edit 1 requirement: keep the frame",
        "decompose: edit 1 requirement: keep the cat",
    ]
    assert sum("keep the frame" in text for text in asked) == 2
    backend = Fake(lambda question: (Choice("3"),))
    with RewardModel(backend, Sampling("logits")) as model:
        model.judge(GREY, WHITE, "edit 1", (), "keep the frame")
        assert 'Requirement: "keep the frame"' in model.prompt("edit 1", (), "keep the frame")
    assert 'Requirement: "keep the frame"' in text_of(backend.asked[0])


def test_a_failed_decomposition_is_the_edits_failure_and_is_not_remembered():
    replies = iter([Failure(kind="timed_out"), (Choice("nothing"),), (Choice("[]"),), *[None] * 9])

    def answer(question: Question) -> Reply:
        return (next(replies) if text_of(question).startswith("decompose") else None) or well(
            question
        )

    with RewardModel(Fake(answer)) as model:
        found = [model.judge_many([edit(1, ())])[0] for _ in range(4)]
    assert [j.failure.kind if j.failure else None for j in found] == [
        "timed_out",
        "unparseable",
        "unparseable",
        None,
    ]


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (Choice(""), "empty"),
        (Choice("I'm sorry, I can't."), "refused"),
        (Choice("seen"), "unparseable"),
        (Choice("seen", finish_reason="length"), "cut_off"),
        (Choice(write_answer((1, 0), 5.0)), "wrong_verdict_count"),
    ],
)
def test_an_answer_that_cannot_be_read_is_named(answer, kind):
    with RewardModel(Fake(lambda question: (answer,))) as model:
        judgement = model.judge(GREY, WHITE, "edit 1", ONE)
    assert judgement.failure is not None
    assert (judgement.failure.kind, judgement.score, judgement.thought) == (
        kind,
        None,
        answer.content,
    )


def test_a_holistic_judge_is_shown_no_principles_and_asked_for_none():
    backend = Fake(lambda question: (Choice("fine <score>6.5</score>"),), "brief_holistic")
    with RewardModel(backend) as model:
        assert [j.score for j in model.judge_many([edit(1), edit(2, ())])] == [6.5, 6.5]
    assert [text_of(q) for q in backend.asked] == ["judge: edit 1", "judge: edit 2"]


def test_several_traces_are_pooled():
    traces = tuple(Choice(write_answer((v,), s)) for v, s in ((1, 4.0), (1, 8.0), (0, 6.0)))
    with RewardModel(
        Fake(lambda question: (*traces, Choice("?", finish_reason="length"))),
        Sampling(k=4, temperature=0.7),
    ) as model:
        judgement = model.judge(GREY, WHITE, "edit 1", ONE)
    assert (judgement.score, judgement.samples, judgement.std) == (6.0, (4.0, 8.0, 6.0, None), 2.0)
    assert judgement.agreement == pytest.approx(2 / 3)


def test_a_rating_of_zero_to_five_is_put_on_ten_and_needs_no_principles():
    backend = Fake(
        lambda question: (
            Choice("4", finish_reason="length", tokens=(Token("4", {"4": 0.6, "5": 0.2}),)),
        )
    )
    with RewardModel(backend, Sampling(mode="logits")) as model:
        judgement = model.judge(GREY, WHITE, "edit 1")
    assert (judgement.score, judgement.mass) == (pytest.approx(8.5), pytest.approx(0.8))
    assert [(q.max_tokens, q.watched) for q in backend.asked] == [
        (1, ("0", "1", "2", "3", "4", "5"))
    ]
    with RewardModel(Fake(lambda question: (Choice("4"),)), Sampling(mode="logits")) as model:
        failure = model.judge(GREY, WHITE, "edit 1").failure
    assert failure is not None
    assert failure.kind == "empty"


def test_an_expectation_needs_a_trace_that_can_be_read():
    text = write_answer((1,), 8.0)
    head, tail = text.split("8.0")
    tokens = (
        Token(head, {head: 1.0}),
        Token("8.0", {"8.0": 0.5, "7.0": 0.5}),
        Token(tail, {tail: 1.0}),
    )
    with RewardModel(
        Fake(lambda question: (Choice(text, tokens=tokens),)), Sampling(mode="expectation")
    ) as model:
        judgement = model.judge(GREY, WHITE, "edit 1", ONE)
        assert (judgement.score, judgement.mass) == (7.5, 1.0)
        assert judgement.read is not None
        assert judgement.read.score == 8.0
        failure = model.judge(GREY, WHITE, "edit 1", TWO).failure
    assert failure is not None
    assert failure.kind == "wrong_verdict_count"


@pytest.mark.parametrize(
    ("asking", "message"),
    [
        ({"k": 2}, "2 greedy traces are the same one"),
        ({"k": 0}, "one trace per edit or more"),
        ({"k": 2, "temperature": 0.7, "mode": "expectation"}, "set k to 1 or mode to reasoning"),
    ],
)
def test_a_way_of_asking_that_makes_no_sense_is_refused(asking, message):
    with pytest.raises(InputError, match=message):
        Sampling(**asking)


def test_it_is_asked_from_plain_code_and_from_inside_a_running_loop_alike():
    backend = Fake(well)
    model = RewardModel(backend)

    async def inside() -> list[float | None]:
        both = await asyncio.gather(
            model.judge_many_async([edit(1)]), model.judge_many_async([edit(2)])
        )
        return [j.score for judged in [*both, model.judge_many([edit(3)])] for j in judged]

    assert asyncio.run(inside()) == [1, 2, 3]
    assert asyncio.run(inside()) == [1, 2, 3]
    assert model.judge_many([edit(4)])[0].score == 4
    assert model.judge_many([]) == []
    model.close()
    model.close()
    assert backend.closed == 1


def test_the_fingerprint_tells_every_way_of_asking_apart():
    ways = [
        Sampling(),
        Sampling(mode="logits"),
        Sampling(k=2, temperature=0.7),
        Sampling(k=2, temperature=0.8),
        Sampling(seed=1),
    ]
    models = [RewardModel(Fake(well), way) for way in ways]
    assert len({model.fingerprint for model in models}) == len(ways)
    for model in models:
        model.close()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("rrm:{base}?tempereture=1", "did you mean 'temperature'"),
        ("rrm:{base}?k=two", "'k'"),
        ("rrm:{base}?mode=guess", "'mode'"),
        ("rrm:{base}?k=2&k=3", "names an option twice"),
        ("rrm:{base}?k=2&temperature=0", "greedy traces are the same"),
        ("server:", "names no server"),
        ("server:127.0.0.1:8000/v1", "names no server"),
        ("server:http://127.0.0.1:8000/v1,ftp://x", "names no server"),
        ("nowhere/at/all", "There is no checkpoint at nowhere/at/all"),
        ("", "is not a checkpoint"),
        ("{tmp}", "no config.json"),
    ],
)
def test_a_spec_that_names_no_reward_is_refused_in_a_sentence(spec, message, tmp_path):
    with pytest.raises(InputError, match=message) as refused:
        open_reward(spec.format(base=BASE, tmp=tmp_path))
    assert "\n" not in str(refused.value)


def test_a_spec_says_how_the_model_is_asked(monkeypatch):
    monkeypatch.setattr(
        LocalBackend,
        "load",
        lambda folder, batch: Fake(well) if (str(folder), batch) == (str(BASE), 8) else None,
    )
    with open_reward(f"rrm:{BASE}?batch=8&k=4&max_tokens=99&seed=3") as model:
        assert model.sampling == Sampling("reasoning", 4, 0.7, 3, 99)
        assert model.limit(model.sampling) == 99


@pytest.fixture(scope="module")
def local() -> Iterator[LocalBackend]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield LocalBackend.load(BASE, batch=4)
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def asked() -> list[EditToJudge]:
    return list(islice(edits(5), 6))


def test_the_local_backend_gives_the_judges_greedy_answers(local, asked):
    expected = Verifier.load(BASE, batch=len(asked)).judge_many(asked)
    with RewardModel(local) as model:
        assert model.judge_many(asked) == expected


def test_what_could_have_stood_at_a_place_are_probabilities_and_the_greedy_token_is_the_likeliest(
    local, asked
):
    with RewardModel(local, Sampling(mode="expectation")) as model:
        questions = [
            model._question(e, e.principles, (e.source, e.edited), model.sampling) for e in asked
        ]
        replies = local.answer(questions, lambda *_: None)
        judgements = model.judge_many(asked)
    for reply in replies:
        assert not isinstance(reply, Failure)
        (answer,) = reply
        assert "".join(token.text for token in answer.tokens).startswith(answer.content)
        for token in answer.tokens:
            assert sum(token.probabilities.values()) <= 1 + 1e-5
            assert token.probabilities[token.text] >= max(token.probabilities.values()) - 1e-5
    for judgement in judgements:
        assert judgement.failure is not None or judgement.mass is not None


@torch.inference_mode()
def test_the_logits_mode_is_the_softmax_over_the_six_digits_logits(local, asked):
    judge = local.verifier
    inputs = judge.inputs(
        [(rate_messages(asked[0].instruction), [asked[0].source, asked[0].edited])]
    )
    logits = judge.model(**inputs).logits[0, -1].float()
    ids = [
        judge.processor.tokenizer.encode(str(digit), add_special_tokens=False) for digit in range(6)
    ]
    assert [len(one) for one in ids] == [1] * 6
    digits = torch.stack([logits[one[0]] for one in ids])
    expected = float((digits.softmax(0) * torch.arange(6)).sum()) / 5 * 10
    with RewardModel(local, Sampling(mode="logits")) as model:
        judgements = model.judge_many(asked)
    assert judgements[0].score == pytest.approx(expected, abs=1e-3)
    assert all(j.score is not None and j.mass is not None for j in judgements)
    whole = float(logits.softmax(0)[[one[0] for one in ids]].sum())
    assert judgements[0].mass == pytest.approx(whole, rel=1e-3)


def test_four_traces_are_four_samples_the_same_for_a_seed_and_leave_the_callers_draws_alone(
    local, asked
):
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    with RewardModel(local, Sampling(k=4, temperature=0.7, seed=2)) as model:
        first, again = model.judge_many(asked[:2]), model.judge_many(asked[:2])
    assert torch.equal(torch.rand(3), expected)
    assert [len(j.samples) for j in first] == [4, 4]
    assert [j.samples for j in first] == [j.samples for j in again]


class Slow(Fake):
    """Never answers."""

    async def ask(self, questions: Sequence[Question], progress: Progress) -> list[Reply]:
        await asyncio.sleep(3600)
        raise AssertionError


def test_closing_while_a_thread_judges_ends_both_at_once_and_the_thread_is_told():
    model = RewardModel(Slow(well))
    with ThreadPoolExecutor(2) as threads:
        judging = threads.submit(model.judge_many, [edit(1)])
        own = threads.submit(lambda: asyncio.run(model.judge_many_async([edit(1)])))
        time.sleep(0.1)
        begin = time.monotonic()
        model.close()
        for ended in (judging, own):
            with pytest.raises(InputError, match="is closed"):
                ended.result(timeout=2)
        assert time.monotonic() - begin < 2
    with pytest.raises(InputError, match="is closed"):
        model.judge_many([edit(1)])


def test_a_backend_that_fails_to_close_leaves_no_thread_and_nothing_that_was_opened_for_it():
    class Broken(Fake):
        async def close(self) -> None:
            raise RuntimeError("the socket is gone")

    ended: list[str] = []
    owned = ExitStack()
    owned.callback(ended.append, "server")
    model = RewardModel(Broken(well), owned=owned)
    with pytest.raises(RuntimeError, match="socket"):
        model.close()
    assert ended == ["server"]
    assert not model.thread.is_alive()


@pytest.mark.parametrize("does", [RewardModel.close, lambda model: model.judge_many([edit(2)])])
def test_what_is_told_of_a_judgement_can_neither_ask_nor_close_and_says_so_instead_of_hanging(does):
    with RewardModel(Fake(well)) as model, ThreadPoolExecutor(1) as threads:
        judging = threads.submit(
            model.judge_many, [edit(1)], None, lambda place, found: does(model)
        )
        with pytest.raises(InputError, match="own thread"):
            judging.result(timeout=5)
        assert model.judge_many([edit(3)])[0].score == 3


def test_a_forked_child_neither_hangs_nor_ends_what_is_its_parents():
    with RewardModel(Fake(well)) as model:
        child = os.fork()
        if child == 0:
            try:
                model.judge_many([edit(1)])
            except InputError as error:
                model.close()
                os._exit(7 if "forked" in str(error) else 1)
            os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        assert model.judge_many([edit(1)])[0].score == 1


def test_a_run_that_was_stopped_is_told_at_the_end_unless_something_else_ends_it():
    backend = Fake(well)
    backend.stopped = "Top up the account."
    with pytest.raises(InputError, match="Top up"), RewardModel(backend):
        pass
    with pytest.raises(KeyError), RewardModel(backend):
        raise KeyError


def test_every_judgement_is_told_of_when_it_is_there_and_they_come_back_in_order():
    thin = Image.new("RGB", (4, 4000))
    told, principles = {}, {}
    with RewardModel(Fake(well)) as model:
        edits = [edit(1), edit(2, source=thin), edit(3)]
        judgements = model.judge_many(edits, done=told.__setitem__)
        tasks = [
            TaskToDecompose(GREY, "edit 4"),
            TaskToDecompose(thin, "edit 4"),
            TaskToDecompose(GREY, "edit 4"),
        ]
        made = model.decompose_many(tasks, done=principles.__setitem__)
    assert list(told) == [1, 2, 0]  # what cannot be asked, then as the backend ends
    assert [told[place] for place in range(3)] == judgements
    assert [principles[place] for place in range(3)] == made
    assert (made[0], made[2]) == (ONE, ONE)


def test_an_image_that_turns_out_to_be_torn_loses_its_own_edit_alone():
    noise, whole = Image.effect_noise((64, 64), 90).convert("RGB"), io.BytesIO()
    noise.save(whole, "PNG")

    def half() -> Image.Image:
        return Image.open(io.BytesIO(whole.getvalue()[: len(whole.getvalue()) // 2]))

    with RewardModel(Fake(well)) as model:
        judged = model.judge_many(
            [
                EditToJudge(GREY, half(), "edit 1", ONE),
                EditToJudge(half(), GREY, "edit 1", ()),
                edit(2),
            ]
        )
    assert [j.failure and j.failure.kind for j in judged] == [
        "image_unreadable",
        "image_unreadable",
        None,
    ]
    assert judged[2].score == 2
