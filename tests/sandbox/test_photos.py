"""Edits of real photographs: their language, the truth about them, and the teacher that judges them
by their pixels."""

import base64
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from itertools import product

import numpy as np
import openai
import pytest
from PIL import Image
from skimage import data

from rrm import prompts
from rrm.images import fit, png_bytes, read_image
from rrm.parsing import read_gold, read_holistic, read_principles, read_trace, thought_of
from rrm.records import Principle, Verdicts
from rrm.sandbox.photo_edits import EDITORS, photo_editors, script_photo, truth
from rrm.sandbox.photo_reading import read_verdicts
from rrm.sandbox.photos import (
    CLEAN,
    COLOURS,
    PLACE,
    SHAPE,
    PhotoEdit,
    apply,
    every_step,
    parse,
    principles_of,
    write,
)
from rrm.sandbox.teacher import running_teacher

NAMES = ("astronaut", "chelsea", "coffee", "rocket", "retina", "immunohistochemistry")
INSTRUCTIONS = (
    "mirror the photo left to right and make it black and white",
    "rotate the photo a quarter turn clockwise and make it much brighter",
    "paint the top left quarter blue and add a thick white frame",
    "make the photo much darker but do not mirror it left to right",
    "give the photo a red tint and paint the bottom right quarter yellow but do not make it much brighter",
    "turn the photo upside down but do not make it black and white",
)
BUDGET = 160 * 28 * 28


@cache
def photo(name: str) -> Image.Image:
    """A real photo with colours and details, of its own size unless that takes long."""
    image = Image.fromarray(getattr(data, name)()[..., :3])
    image.thumbnail((800, 800))
    return image


def steps_of(instruction: str) -> list[PhotoEdit]:
    steps = parse(instruction)
    assert steps is not None
    return steps


def jpeg_bytes(image: Image.Image, quality: int = 90) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def as_jpeg(image: Image.Image) -> Image.Image:
    return Image.open(io.BytesIO(jpeg_bytes(image))).convert("RGB")


def confusion(
    way: Callable[[Image.Image], Image.Image], numbers: range, offsets: tuple[int, ...]
) -> tuple[Counter[tuple[int, int]], Counter[str], int]:
    """(truth, verdict) counts, the editors that were misjudged, and how many of the right edits got
    every verdict."""
    counts: Counter[tuple[int, int]] = Counter()
    misjudged: Counter[str] = Counter()
    perfect = 0
    for number, offset in product(numbers, offsets):
        source, steps = (
            photo(NAMES[number]),
            steps_of(INSTRUCTIONS[(number + offset) % len(INSTRUCTIONS)]),
        )
        shown = way(source)
        for editor in photo_editors(steps):
            edited = script_photo(source, steps, editor, np.random.default_rng(number))
            wanted, got = truth(steps, editor), read_verdicts(shown, way(edited), steps)
            counts.update(zip(wanted, got, strict=True))
            misjudged[editor] += wanted != got
            perfect += editor == "right" and got == (1,) * len(wanted)
    return counts, misjudged, perfect


def check(counts: Counter[tuple[int, int]], misjudged: Counter[str]) -> None:
    assert counts[0, 0] + counts[1, 1] >= 0.98 * counts.total(), (counts, +misjudged)
    for value in (0, 1):
        assert counts[value, value] >= 0.95 * (counts[value, 0] + counts[value, 1]), (
            counts,
            +misjudged,
        )


def test_the_photos_are_of_different_sizes_and_not_all_square() -> None:
    sizes = {photo(name).size for name in NAMES}
    assert len(sizes) >= 5
    assert sum(width != height for width, height in sizes) >= 3


def test_verdicts_on_right_edits_and_on_every_flaw_agree_with_the_constructed_truth() -> None:
    counts, misjudged, perfect = confusion(lambda image: image, range(6), (0,))
    assert set(misjudged) == set(EDITORS)
    assert perfect == 6
    check(counts, misjudged)


def test_verdicts_survive_a_jpeg_of_quality_90_of_source_and_edit() -> None:
    counts, misjudged, perfect = confusion(as_jpeg, range(0, 6, 2), (3,))
    assert perfect == 3
    check(counts, misjudged)


def test_verdicts_survive_the_pipelines_pixel_budget() -> None:
    assert all(image.size != fit(image, BUDGET).size for image in map(photo, NAMES))
    counts, misjudged, perfect = confusion(lambda image: fit(image, BUDGET), range(1, 6, 2), (2,))
    assert perfect == 3
    check(counts, misjudged)


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_an_edit_in_another_resolution_has_kept_its_proportions(factor: float) -> None:
    steps = steps_of("give the photo a green tint")
    edited = apply(photo("coffee"), steps)
    resized = edited.resize((round(edited.width * factor), round(edited.height * factor)))
    assert read_verdicts(photo("coffee"), resized, steps) == (1, 1, 1, 1, 1)


def test_a_source_whose_exif_rotation_was_lost_has_not_kept_its_orientation() -> None:
    upright = photo("coffee")
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown rotated a quarter turn clockwise
    upright.transpose(Image.Transpose.ROTATE_90).save(buffer, "JPEG", quality=95, exif=exif)
    steps = steps_of("make the photo black and white")
    edited = apply(upright, steps)
    careful = read_image(buffer.getvalue())
    careless = Image.open(io.BytesIO(buffer.getvalue())).convert("RGB")
    assert careful.size == upright.size != careless.size
    followed, place, colours, shape, clean = range(5)
    assert read_verdicts(careful, edited, steps) == (1, 1, 1, 1, 1)
    seen = read_verdicts(careless, edited, steps)
    assert (seen[shape], seen[place]) == (0, 0)
    assert (seen[followed], seen[colours], seen[clean]) == (1, 1, 1)


@pytest.mark.parametrize("turn", list(Image.Transpose))
def test_any_unasked_transposition_of_a_square_photo_is_seen(turn: Image.Transpose) -> None:
    assert read_verdicts(
        photo("astronaut"), photo("astronaut").transpose(turn), [], (SHAPE, COLOURS)
    ) == (0, 1)


def test_another_photo_is_nowhere_in_place() -> None:
    other = photo("coffee").resize(photo("rocket").size)
    assert read_verdicts(photo("rocket"), other, [], (PLACE, COLOURS)) == (0, 0)


def test_a_symmetric_photo_is_both_mirrored_and_not() -> None:
    half = np.asarray(photo("chelsea"))[:, :200]
    symmetric = Image.fromarray(np.concatenate([half, half[:, ::-1]], axis=1))
    assert read_verdicts(symmetric, symmetric, steps_of("mirror the photo"))[0] == 1
    assert (
        read_verdicts(
            symmetric, symmetric, steps_of("make it black and white but do not mirror it")
        )[1]
        == 1
    )


def test_an_unknown_question_is_unsure_so_0() -> None:
    vermeer = Principle(question="Does it look like a Vermeer?", category="quality")
    assert read_verdicts(photo("coffee"), photo("coffee"), [], (vermeer, CLEAN)) == (0, 1)


def test_every_step_is_read_back_from_its_words() -> None:
    steps = every_step()
    assert len({step.principle().question for step in steps}) == len(steps) == 10 + 10 + 24 + 3
    for step in steps:
        if step.negated:
            assert parse(
                f"add a thick white frame but don't {write([PhotoEdit(step.kind, step.value)])}"
            ) == [
                PhotoEdit("frame", "white"),
                step,
            ]
        else:
            assert parse(write([step])) == [step]


@pytest.mark.parametrize("instruction", INSTRUCTIONS)
def test_an_instruction_is_written_as_it_was_read(instruction: str) -> None:
    assert write(steps_of(instruction)) == instruction


def test_other_words_for_the_same_are_read() -> None:
    wanted = steps_of("mirror the photo left to right and make it black and white")
    assert parse("  Mirror the picture, and make the image black and white.") == wanted


@pytest.mark.parametrize(
    "instruction",
    [
        "",
        "make it pop",
        "mirror the photo and make it pop",
        "make the photo much brighter and make it much darker",
        "mirror the photo but do not mirror it",
        "mirror the photo but do not paint the top left quarter red",
        "paint the top left quarter pink",
    ],
)
def test_what_is_not_in_the_language_or_contradicts_itself_is_not_read(instruction: str) -> None:
    assert parse(instruction) is None


def test_edits_are_right_pixel_by_pixel() -> None:
    red, green, blue, white, black, grey = (
        (255, 0, 0),
        (0, 255, 0),
        (0, 0, 255),
        (255,) * 3,
        (0,) * 3,
        (100,) * 3,
    )
    small = Image.fromarray(np.array([[red, green, blue], [white, black, grey]], np.uint8))

    def rows(instruction: str) -> list[list[tuple[int, ...]]]:
        pixels = np.asarray(apply(small, steps_of(instruction))).tolist()
        return [[tuple(pixel) for pixel in row] for row in pixels]

    assert rows("mirror the photo") == [[blue, green, red], [grey, black, white]]
    assert rows("turn the photo upside down") == [[grey, black, white], [blue, green, red]]
    assert rows("rotate the photo a quarter turn clockwise") == [
        [white, red],
        [black, green],
        [grey, blue],
    ]
    assert rows("rotate the photo a quarter turn counterclockwise") == [
        [blue, grey],
        [green, black],
        [red, white],
    ]
    assert rows("make the photo black and white")[0] == [(76,) * 3, (150,) * 3, (29,) * 3]
    assert rows("give the photo a red tint")[1] == [(255, 153, 153), (102, 0, 0), (162, 60, 60)]
    assert rows("make the photo much darker")[1] == [(102,) * 3, black, (40,) * 3]
    assert rows("make the photo much brighter")[1] == [white, black, (167,) * 3]
    assert rows("paint the bottom right quarter black")[1] == [white, black, black]
    assert rows("mirror the photo but do not make it black and white") == rows("mirror the photo")
    framed = np.asarray(apply(photo("coffee"), steps_of("add a thick red frame")))
    assert (framed[:32] == (200, 30, 30)).all()
    assert np.array_equal(framed[32:-32, 32:-32], np.asarray(photo("coffee"))[32:-32, 32:-32])


def test_and_names_no_order() -> None:
    one = "paint the top left quarter blue and mirror the photo and make it much darker"
    other = "make the photo much darker and mirror it and paint the top left quarter blue"
    assert apply(photo("chelsea"), steps_of(one)) == apply(photo("chelsea"), steps_of(other))


def test_principles_name_what_is_asked_and_what_is_spared() -> None:
    assert [(p.category, p.question) for p in principles_of(steps_of(INSTRUCTIONS[2]))] == [
        ("follow", "Is the top left quarter blue?"),
        ("follow", "Does the photo have a thick white frame?"),
        ("keep", "Is everything else in the photo still where it was?"),
        ("keep", "Are the colours outside the top left quarter and the frame unchanged?"),
        ("keep", "Has the photo kept its proportions and orientation?"),
        ("quality", "Is the photo free of noise and blur?"),
    ]


# The teacher, over HTTP

INSTRUCTION = INSTRUCTIONS[0]
PRINCIPLES = principles_of(steps_of(INSTRUCTION))
SOURCE = photo("coffee")
DONE = apply(SOURCE, steps_of(INSTRUCTION))
HALF = apply(SOURCE, steps_of("mirror the photo"))


@pytest.fixture(scope="module")
def client() -> Iterator[openai.OpenAI]:
    with (
        running_teacher() as url,
        openai.OpenAI(base_url=url, api_key="none", max_retries=0) as opened,
    ):
        yield opened


def ask(
    client: openai.OpenAI,
    system: str,
    text: str,
    images: list[Image.Image],
    jpeg: bool = False,
    **settings,
):
    form, write_bytes = ("jpeg", jpeg_bytes) if jpeg else ("png", png_bytes)
    urls = [
        f"data:image/{form};base64,{base64.b64encode(write_bytes(image)).decode()}"
        for image in images
    ]
    content = [{"type": "image_url", "image_url": {"url": url}} for url in urls] + [
        {"type": "text", "text": text}
    ]
    messages = [{"role": "system", "content": system}, {"role": "user", "content": content}]
    completion = client.chat.completions.create(
        messages=messages, **{"model": "sandbox-photo", "temperature": 0, "seed": 1, **settings}
    )
    return [choice.message.content for choice in completion.choices]


def judge(
    client: openai.OpenAI,
    edited: Image.Image,
    instruction: str = INSTRUCTION,
    principles=PRINCIPLES,
    **settings,
):
    text = prompts.judge_text("full", instruction, principles)
    return ask(client, prompts.JUDGE_SYSTEM, text, [SOURCE, edited], **settings)


@pytest.mark.parametrize("jpeg", [False, True], ids=["png", "jpeg"])
@pytest.mark.parametrize(
    ("edited", "verdicts", "score"),
    [
        (DONE, (1, 1, 1, 1, 1, 1), 10.0),
        (HALF, (1, 0, 1, 1, 1, 1), 7.0),
        (SOURCE, (0, 0, 1, 1, 1, 1), 0.0),
    ],
    ids=["done", "half", "unchanged"],
)
def test_the_teacher_judges_photos_by_their_pixels(client, edited, verdicts, score, jpeg) -> None:
    (text,) = judge(client, edited, jpeg=jpeg)
    read = read_trace(text, len(PRINCIPLES))
    assert isinstance(read, Verdicts)
    assert read.verdicts == verdicts
    assert read.score == pytest.approx(score)


def test_leaving_undone_what_was_forbidden_is_not_doing_something(client) -> None:
    instruction = "turn the photo upside down but do not make it black and white"
    principles = principles_of(steps_of(instruction))
    (text,) = judge(client, SOURCE, instruction, principles)
    read = read_trace(text, len(principles))
    assert read.verdicts == (0, 1, 1, 1, 1, 1)
    assert read.score == 0


def test_a_trace_goes_through_every_principle_with_what_was_measured(client) -> None:
    thought = thought_of(judge(client, HALF)[0]).splitlines()
    assert thought[0] == "Source 600×400, edited 600×400."
    for number, (line, principle) in enumerate(zip(thought[1:], PRINCIPLES, strict=True), 1):
        assert line.startswith(f"{number}. {principle.question} ")
        assert line.endswith(": no." if number == 2 else ": yes.")
    assert "mirrored left to right" in thought[1]
    was, is_now = map(
        float,
        re.search(
            r"Mean chroma ([\d.]+) > ([\d.]+), best explained as unchanged", thought[2]
        ).groups(),
    )
    chroma = np.ptp(np.asarray(HALF, float), axis=-1).mean()
    assert (was, is_now) == (pytest.approx(chroma, rel=0.03), pytest.approx(chroma, rel=0.03))


def test_the_other_roles_answer_in_their_forms(client) -> None:
    pair = [SOURCE, HALF]
    decomposed = ask(
        client, prompts.DECOMPOSE_SYSTEM, prompts.decompose_text("full", INSTRUCTION), [SOURCE]
    )[0]
    assert read_principles(decomposed) == PRINCIPLES
    hard = json.loads(
        ask(client, prompts.FILTER_SYSTEM, prompts.decompose_text("full", INSTRUCTION), [SOURCE])[0]
    )
    assert [row["criterion"] for row in hard if row["met"]] == ["multi-step"]
    text = prompts.judge_text("full", INSTRUCTION, PRINCIPLES)
    gold, reasons = read_gold(ask(client, prompts.GOLD_SYSTEM, text, pair)[0], len(PRINCIPLES))
    assert gold == [1, 0, 1, 1, 1, 1]
    assert all(reasons)
    text_with_references = prompts.verify_text(INSTRUCTION, PRINCIPLES, ["all fine"])
    verified = read_gold(
        ask(client, prompts.VERIFY_SYSTEM, text_with_references, pair)[0], len(PRINCIPLES)
    )
    assert verified == (gold, reasons)
    bare = ask(client, prompts.SCORE_ONLY_SYSTEM, text, pair)[0]
    assert bare == prompts.write_answer(gold, 7.0)
    overall = ask(
        client, prompts.HOLISTIC_SYSTEM, prompts.judge_text("full", INSTRUCTION, ()), pair
    )[0]
    assert read_holistic(overall).score == 7


def test_an_instruction_in_words_of_its_own_gets_general_principles_of_which_the_first_is_unsure(
    client,
) -> None:
    own = "make it look like a Vermeer"
    principles = read_principles(
        ask(client, prompts.DECOMPOSE_SYSTEM, prompts.decompose_text("full", own), [SOURCE])[0]
    )
    assert principles[0].question == f'Was the instruction "{own}" carried out?'
    assert principles[1:] == (PLACE, COLOURS, SHAPE, CLEAN)
    assert read_trace(judge(client, HALF, own, principles)[0], 5).verdicts == (0, 0, 1, 0, 1)


def test_the_noisy_teacher_flips_some_verdicts_and_a_seed_repeats_them(client) -> None:
    settings = {"model": "sandbox-photo-noisy", "n": 64, "temperature": 1.0, "seed": 3}
    texts, again = (judge(client, HALF, **settings) for _ in range(2))
    assert texts == again
    assert texts != judge(client, HALF, **{**settings, "seed": 4})
    right = (1, 0, 1, 1, 1, 1)
    flips = sum(
        a != b for text in texts for a, b in zip(read_trace(text, 6).verdicts, right, strict=True)
    )
    assert 15 <= flips <= 65  # 384 verdicts, each flipped with a chance of 0.1
    assert len(set(judge(client, HALF, n=8, temperature=1.0))) == 1


def test_a_file_that_is_no_image_is_refused(client) -> None:
    messages = [
        {"role": "system", "content": prompts.DECOMPOSE_SYSTEM},
        {
            "role": "user",
            "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}],
        },
    ]
    with pytest.raises(openai.BadRequestError, match="valid image"):
        client.chat.completions.create(model="sandbox-photo", messages=messages)
