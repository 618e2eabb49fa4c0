"""The sandbox's teacher server, through the openai client."""

import base64
import json
import urllib.error
import urllib.request

import openai
import pytest

from rrm import prompts
from rrm.images import png_bytes
from rrm.parsing import read_gold, read_holistic, read_principles, read_trace
from rrm.records import Principle, Verdicts
from rrm.sandbox.edits import CLEAN, OTHERS, SAME_BACKGROUND, Step, apply_step, decompose
from rrm.sandbox.teacher import ROLES, bare, running_teacher
from rrm.sandbox.world import Scene, Thing, draw

SCENE = Scene("gray", (Thing("red", "circle"), None, Thing("blue", "square"), None))
STEP = Step("recolour", "red", "circle", "green")
SOURCE, DONE, UNDONE = draw(SCENE), draw(apply_step(SCENE, STEP)), draw(SCENE)
LEAKED = draw(apply_step(SCENE, STEP).put(2, None))
PRINCIPLES, INSTRUCTION = decompose([STEP]), STEP.text()


@pytest.fixture(scope="module")
def client():
    with (
        running_teacher() as url,
        openai.OpenAI(base_url=url, api_key="none", max_retries=0) as opened,
    ):
        yield opened


def url_of(image):
    return "data:image/png;base64," + base64.b64encode(png_bytes(image)).decode()


def ask(client, system, text, images, model="sandbox-careful", **settings):
    content = [
        {"type": "image_url", "image_url": {"url": url if isinstance(url, str) else url_of(url)}}
        for url in images
    ]
    messages = [
        {"role": "system", "content": system},
        {"role": "user", "content": [*content, {"type": "text", "text": text}]},
    ]
    return client.chat.completions.create(
        model=model, messages=messages, **{"temperature": 0, "seed": 1, **settings}
    )


def judge(client, edited, principles=PRINCIPLES, instruction=INSTRUCTION, **settings):
    return ask(
        client,
        prompts.JUDGE_SYSTEM,
        prompts.judge_text("full", instruction, principles),
        [SOURCE, edited],
        **settings,
    )


def text_of(completion):
    return completion.choices[0].message.content


def test_an_answer_has_openais_form(client):
    raw = judge(client, DONE).model_dump()
    assert raw["object"] == "chat.completion"
    assert raw["model"] == "sandbox-careful"
    assert raw["choices"][0]["finish_reason"] == "stop"
    assert raw["choices"][0]["message"]["role"] == "assistant"
    assert (
        raw["usage"]["total_tokens"]
        == raw["usage"]["prompt_tokens"] + raw["usage"]["completion_tokens"]
        > 0
    )


def test_the_models_are_listed(client):
    listed = {model.id for model in client.models.list()}
    assert {
        "sandbox-careful",
        "sandbox-lenient",
        "sandbox-hasty",
        "sandbox-vague",
        "sandbox-editor",
    } <= listed


@pytest.mark.parametrize(
    ("edited", "verdicts"),
    [(DONE, (1, 1, 1, 1)), (UNDONE, (0, 1, 1, 1)), (LEAKED, (1, 0, 1, 1))],
    ids=["done", "undone", "leaked"],
)
def test_it_judges_what_the_pixels_show(client, edited, verdicts):
    read = read_trace(text_of(judge(client, edited)), len(PRINCIPLES))
    assert isinstance(read, Verdicts)
    assert read.verdicts == verdicts


def test_a_thought_agrees_with_its_verdicts_even_where_they_are_wrong(client):
    completion = judge(client, LEAKED, model="sandbox-hasty", n=64, temperature=1.0)
    for choice in completion.choices:
        read = read_trace(choice.message.content, len(PRINCIPLES))
        lines = choice.message.content.splitlines()[1 : 1 + len(PRINCIPLES)]
        assert [int(line.endswith(" ok")) for line in lines] == list(read.verdicts)
    overlooked = [
        read_trace(c.message.content, len(PRINCIPLES)).verdicts[1] for c in completion.choices
    ]
    assert 16 < sum(overlooked) < 56


def test_a_vague_teacher_is_sometimes_unreadable(client):
    completion = judge(client, DONE, model="sandbox-vague", n=64, temperature=1.0)
    readable = sum(
        isinstance(read_trace(c.message.content, len(PRINCIPLES)), Verdicts)
        for c in completion.choices
    )
    assert 32 < readable < 64


def test_n_choices_differ_and_a_seed_repeats_them(client):
    first, second = (
        judge(client, LEAKED, model="sandbox-lenient", n=8, temperature=1.0, seed=3)
        for _ in range(2)
    )
    texts = [choice.message.content for choice in first.choices]
    assert [choice.index for choice in first.choices] == list(range(8))
    assert len(set(texts)) > 1
    assert texts == [choice.message.content for choice in second.choices]
    other = judge(client, LEAKED, model="sandbox-lenient", n=8, temperature=1.0, seed=4)
    assert texts != [choice.message.content for choice in other.choices]


def test_at_temperature_zero_every_choice_is_the_same(client):
    completion = judge(client, LEAKED, model="sandbox-lenient", n=4, temperature=0, seed=3)
    assert len({choice.message.content for choice in completion.choices}) == 1


def test_it_decomposes_its_own_language_and_any_other(client):
    own = ask(
        client, prompts.DECOMPOSE_SYSTEM, prompts.decompose_text("full", STEP.text()), [SOURCE]
    )
    assert read_principles(text_of(own)) == PRINCIPLES
    foreign = ask(
        client,
        prompts.DECOMPOSE_SYSTEM,
        prompts.decompose_text("full", 'Say "hi",\nplease'),
        [SOURCE],
    )
    read = read_principles(text_of(foreign))
    assert read[0].question == 'Was the instruction "Say "hi",\nplease" carried out?'
    assert read[1:] == (OTHERS, SAME_BACKGROUND, CLEAN)


def test_gold_and_verify_give_a_verdict_and_a_reason_per_question(client):
    text = prompts.verify_text(STEP.text(), PRINCIPLES, ["1: all fine\n[...]"])
    verdicts, reasons = read_gold(
        text_of(ask(client, prompts.VERIFY_SYSTEM, text, [SOURCE, LEAKED])), len(PRINCIPLES)
    )
    assert verdicts == [1, 0, 1, 1]
    assert reasons[0] == "red circle > green circle > green circle ok"
    text = prompts.judge_text("full", STEP.text(), PRINCIPLES)
    assert read_gold(
        text_of(ask(client, prompts.GOLD_SYSTEM, text, [SOURCE, UNDONE])), len(PRINCIPLES)
    )[0] == [0, 1, 1, 1]


def test_score_only_answers_do_not_think(client):
    text = prompts.judge_text("full", STEP.text(), PRINCIPLES)
    answer = text_of(ask(client, prompts.SCORE_ONLY_SYSTEM, text, [SOURCE, DONE]))
    read = read_trace(answer, len(PRINCIPLES))
    assert answer == prompts.write_answer(read.verdicts, read.score)


def test_a_holistic_answer_is_a_sentence_and_a_score(client):
    answer = text_of(
        ask(
            client,
            prompts.HOLISTIC_SYSTEM,
            prompts.judge_text("full", STEP.text(), ()),
            [SOURCE, DONE],
        )
    )
    assert isinstance(read_holistic(answer), Verdicts)
    assert answer.startswith("The instruction was followed")


def test_a_users_own_questions_are_judged_where_they_are_known_and_unsure_is_0(client):
    own = (
        Principle(question="Is the blue square gone?", category="follow"),
        Principle(question="Does it look like a Vermeer?", category="quality"),
        CLEAN,
    )
    read = read_trace(text_of(judge(client, LEAKED, own, "tidy up")), len(own))
    assert read.verdicts == (1, 0, 1)


def test_an_unknown_model_is_a_404(client):
    with pytest.raises(openai.NotFoundError) as raised:
        judge(client, DONE, model="gpt-none")
    assert raised.value.code == "model_not_found"


@pytest.mark.parametrize(
    "url",
    [
        "data:image/png;base64,!!!",
        "data:image/png;base64," + base64.b64encode(b"no image").decode(),
        "https://example.org/a.png",
    ],
)
def test_a_bad_image_is_a_400(client, url):
    with pytest.raises(openai.BadRequestError, match=r"[Ii]mage"):
        ask(
            client,
            prompts.JUDGE_SYSTEM,
            prompts.judge_text("full", STEP.text(), PRINCIPLES),
            [SOURCE, url],
        )


@pytest.mark.parametrize(
    ("system", "text", "count"),
    [
        ("You are a poet.", 'Instruction: "x"', 2),
        (prompts.JUDGE_SYSTEM, 'Instruction: "x"', 2),
        (prompts.GOLD_SYSTEM, 'Instruction: "x"', 1),
    ],
    ids=["unknown role", "no questions", "one image"],
)
def test_a_request_it_cannot_serve_is_a_400(client, system, text, count):
    with pytest.raises(openai.BadRequestError):
        ask(client, system, text, [SOURCE] * count)


def test_a_body_that_is_not_json_is_a_400(client):
    request = urllib.request.Request(
        f"{str(client.base_url).rstrip('/')}/chat/completions", b"{", method="POST"
    )
    with pytest.raises(urllib.error.HTTPError) as raised:
        urllib.request.urlopen(request)
    assert raised.value.code == 400
    assert json.load(raised.value)["error"]["type"] == "invalid_request_error"


def test_what_a_teacher_draws_depends_on_what_it_is_asked_and_not_on_delimiters():
    said = "all fine\n[1]"
    text = prompts.again_text(
        prompts.verify_text('make "it" red', PRINCIPLES, [said], "keep it"), "no", ["no list"]
    )
    questions = prompts.numbered(PRINCIPLES)
    assert bare(text) == (
        f'Instruction: make "it" red\nRequirement: keep it\nQuestions:\n{questions}\nReference judgements:\nReference 1:\n{said}'
        f"{prompts.ANSWERED_BEFORE}no\n\nThat answer cannot be used:\n- no list\nAnswer again, in full."
    )
    assert not any(prompts.DATA in bare(system) for system in ROLES.values())
