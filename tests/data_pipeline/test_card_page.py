"""The data card's page, rendered from a small set made up for the purpose."""

import base64
import copy
import io
import json
import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from data_pipeline.card_page import spread, write_page
from data_pipeline.sft_rows import write_table
from rrm.errors import InputError
from rrm.images import ImageStore
from rrm.prompts import write_answer, write_principles
from rrm.records import Failure, PreferencePair, Principle, Quarantined, SFTRow
from rrm.render.plots import pooled, shortened

ATTACK = "make it <script>alert('red')</script>"
PRINCIPLES = (
    Principle(question="Is it <b>red</b> now?", category="follow"),
    Principle(question="Is the sky as it was?", category="keep"),
)
VOID = {"meta", "img", "br", "link", "path", "use", "rect"}

CARD = {
    "variant": "T+V",
    "config": {
        "out": "runs/set",
        "tasks": "tasks/<of people>.jsonl",
        "benchmarks": ["bench.jsonl"],
    },
    "digest": "0123456789abcdef",
    "counts": {
        **{
            "tasks": 1100,
            "left_out": 31,
            "chosen": 1069,
            "decomposed": 1500,
            "candidates": 2138,
            "quadruples": 2137,
        },
        **{
            "traces": 8548,
            "readable_traces": 8501,
            "gold": 2130,
            "sft_judge": 1900,
            "sft_decompose": 210,
            "quarantined": 49,
        },
        **{
            "preferences": 840,
            "same": 57,
            "sft_judge_validation": 229,
            "sft_decompose_validation": 25,
        },
        **{"preferences_validation": 93, "same_validation": 6},
    },
    "passes": {
        "read": {"tasks": 1100, "pairs": 996},
        "clean": {
            "image": 11,
            "near_image": 7,
            "repeat": 13,
            "instructions_shared_and_kept": 0,
            "sources": 900,
            "look_alikes": 4,
        },
        "choose": {"chosen": 1069},
        "filter": {"asked": 600, "kept": 269, "wanted": 300},
    },
    "teachers": {
        "hasty": {
            **{
                "traces": 4274,
                "readable": 4231,
                "selected": 900,
                "mean_score": 6.9227,
                "mean_verdict": 0.7012,
            },
            **{"accuracy_vs_gold": 0.9557, "failures": {"refused": 3, "unparseable": 40}},
        },
        "<i>$x$ lenient</i>": {
            **{
                "traces": 4274,
                "readable": 4270,
                "selected": 1230,
                "mean_score": 7.0409,
                "mean_verdict": 0.7734,
            },
            **{"accuracy_vs_gold": 0.9654, "failures": {"cut_off": 4}},
        },
    },
    "teacher_agreement": {"<i>$x$ lenient</i> | hasty": 0.9282, "hasty | hasty": 0.9337},
    "verdicts": {
        "gold": {"follow": {"met": 0.6123, "n": 5001}, "keep": {"met": 0.8456, "n": 4002}},
        "selected": {"follow": {"met": 0.6351, "n": 5003}, "keep": {"met": 0.8679, "n": 4004}},
    },
    "scores": {"0": 120, "7.5": 900, "10": 1110},
    "selected_accuracy": {"0.88": 1000, "1": 1130},
    "editors": {"base": 1068, "right & <wrong>": 1069},
    "failures": {
        "traces": {"cut_off": 4, "refused": 3, "unparseable": 40},
        "quarantined": {
            "clean": {"duplicate": 31},
            "read": {"bad_row": 5, "image_unreadable": 6},
            "verify": {"unparseable": 7},
        },
    },
    "teachers_gone": {"gone-model": {"why": "401: <key> refused", "calls_not_made": 1234}},
    "bill": {
        "by_stage": [
            {
                **{
                    "stage": "think",
                    "model": "hasty",
                    "calls": 2137,
                    "prompt_tokens": 3205500,
                    "completion_tokens": 854800,
                },
                **{"calls_without_token_count": 2, "money": 12.3456},
            },
            {
                **{
                    "stage": "verify",
                    "model": "judge",
                    "calls": 2150,
                    "prompt_tokens": 100,
                    "completion_tokens": 10,
                },
                **{"calls_without_token_count": 0, "money": 0.000123},
            },
        ],
        "total": {
            **{"calls": 4287, "prompt_tokens": 3205600, "completion_tokens": 854810},
            **{"calls_without_token_count": 2, "money": 12.345723},
        },
    },
    "prompts": {"judge": "feedfacefeedface"},
    "versions": {"python": "3.11.9", "pillow": "11.3.0"},
}
NOTHING = {
    **CARD,
    "counts": {**dict.fromkeys(CARD["counts"], 0)},
    "passes": {},
    "teachers": {},
    "teacher_agreement": {},
    "verdicts": {"gold": {}, "selected": {}},
    "scores": {},
    "selected_accuracy": {},
    "editors": {},
    "failures": {"traces": {}, "quarantined": {}},
    "teachers_gone": {},
    "bill": {
        "by_stage": [],
        "total": {
            "calls": 0,
            "prompt_tokens": 0,
            "completion_tokens": 0,
            "calls_without_token_count": 0,
            "money": 0,
        },
    },
}


class Tags(HTMLParser):
    """Checks that tags close in order, and collects what a page would load and all its text."""

    def __init__(self):
        super().__init__()
        self.open, self.loads, self.seen, self.handlers, self.text = [], [], set(), [], ""

    def handle_starttag(self, tag, attrs):
        self.seen.add(tag)
        self.loads += [value for key, value in attrs if key in ("src", "href", "xlink:href")]
        self.handlers += [key for key, _ in attrs if key.startswith("on")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.loads += [value for key, value in attrs if key in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag
        if tag in ("td", "th", "text"):
            self.text += " "

    def handle_data(self, data):
        self.text += data


def judged(number, **changes):
    target = f"Thought {number}: it is <u>red</u>.\n{write_answer((1, 0), 6.5)}"
    row = {
        "row_id": f"row-{number}",
        "kind": "judge",
        "instruction": f"make it red, {number}",
        "principles": PRINCIPLES,
    }
    return {**row, "target": target, "accuracy": 0.5, **changes}


class Set:
    """A folder of the set's files."""

    def __init__(self, folder):
        self.out = folder / "little-set"
        self.out.mkdir()
        self.store = ImageStore(self.out / "images")
        self.source = self.store.add(Image.new("RGB", (64, 48), "white"))
        self.edited = self.store.add(Image.new("RGB", (1024, 512), "red"))
        self.fill()

    def fill(self, rows=(), pairs=0, bad=()):
        images = {"source": self.source, "edited": self.edited}
        write_table(self.out / "sft.parquet", SFTRow, (SFTRow(**{**images, **row}) for row in rows))
        sides = {
            "source": self.source,
            "edited_a": self.source,
            "edited_b": self.edited,
            "principles": PRINCIPLES,
        }
        made = (
            PreferencePair(pair_id=f"pair-{i}", instruction=f"choose {i}", label="b", **sides)
            for i in range(pairs)
        )
        write_table(self.out / "preferences.parquet", PreferencePair, made)
        (self.out / "quarantine.jsonl").write_text(
            "".join(row.model_dump_json() + "\n" for row in bad)
        )

    def page(self, card):
        return write_page(self.out, card, self.store).read_text(encoding="utf-8")


@pytest.fixture
def little(tmp_path):
    return Set(tmp_path)


def fill(little):
    answers = [
        {
            "model": "judge",
            "key": "k",
            "answer": "I <em>cannot</em>",
            "wrong": ["no list", "no score"],
        }
    ]
    evidence = {
        "instruction": ATTACK,
        "source": little.source,
        "edited": little.edited,
        "answers": answers,
        "seed": 17,
    }
    row = {"row": {"prompt": "<script>evil()</script>", "image": "images/gone.png"}}
    bad = [
        Quarantined(
            stage="verify",
            key="q1",
            failure=Failure(kind="unparseable", detail="no <list>"),
            evidence=evidence,
        ),
        Quarantined(
            stage="read",
            key="tasks.jsonl:7",
            failure=Failure(kind="image_unreadable"),
            evidence=row,
        ),
    ]
    decomposed = {
        "kind": "decompose",
        "edited": None,
        "target": write_principles(PRINCIPLES),
        "accuracy": None,
    }
    little.fill(
        [judged(0, instruction=ATTACK), judged(1), judged(2, **decomposed)], pairs=4, bad=bad
    )
    return little


@pytest.fixture
def full(little):
    return fill(little)


@pytest.fixture(scope="module")
def html(tmp_path_factory):
    return fill(Set(tmp_path_factory.mktemp("full"))).page(CARD)


def read(html):
    tags = Tags()
    tags.feed(html)
    return tags


def words(html):
    return " ".join(read(html).text.split())


def test_the_page_says_how_the_set_came_about(html):
    text = words(html)
    assert "Data card of little-set" in text
    # 1900 + 229 + 210 + 25 rows, 840 + 93 pairs
    assert (
        "1,100 tasks → 2,137 quadruples → 8,548 traces → 2,364 SFT rows, and 933 preference pairs; 49 rows quarantined; "
        "the answers cost 12.35; 1 teacher gone before the end." in text
    )
    for number in ("1,069", "1,500", "2,138", "8,501", "2,130", "2,364"):
        assert number in text
    assert (
        "1,900 rows of judging and 210 rows of decomposing to train on, 229 and 25 for validation."
        in text
    )
    assert (
        "933 preference pairs with a preferred side (93 of them for validation), 63 pairs without."
        in text
    )
    assert "asked about 600 tasks and kept 269 of 300 wanted" in text


def test_the_page_says_what_was_dropped_and_why(html):
    kinds = "".join(
        f"<th>{kind}</th>" for kind in ("bad_row", "duplicate", "image_unreadable", "unparseable")
    )
    assert f"<th>Stage</th>{kinds}<th>all</th>" in html
    assert "<td>read</td><td>5</td><td></td><td>6</td><td></td><td>11</td>" in html
    text = words(html)
    assert "nearly a benchmark's (near_image) 7" in text
    assert "the instruction is a benchmark's (instruction) 0" in text
    assert "900 source images, of which 4 nearly repeat another" in text
    assert "No benchmark is named" not in text


def test_the_page_compares_the_teachers(html):
    # 4231 of 4274 is 98.99…%
    assert re.search(
        r"<td>hasty</td><td>4,274</td><td>99\.0%</td><td>900</td>\s*<td>6\.92</td><td>70\.1%</td><td>95\.6%</td>",
        html,
    )
    assert "3 refused, 40 unparseable" in html
    text = words(html)
    assert (
        "gone-model was gone for good before the end (401: <key> refused); 1,234 calls to it not made."
        in text
    )
    assert {"92.8", "93.4"} <= set(re.findall(r">(\d\d\.\d)</text>", html))


def test_the_page_shows_verdicts_with_their_number(html):
    text = words(html)
    for shown in ("61.2% of 5,001", "63.5% of 5,003", "84.6% of 4,002", "86.8% of 4,004"):
        assert shown in text
    assert "Rest preserved, gold" in text
    assert "Image clean" not in text


def test_the_bill_is_itemised(html):
    text = words(html)
    assert "think hasty 2,137 3,205,500 854,800 2 12.35" in text
    assert "verify judge 2,150 100 10 0 0.00012" in text
    assert "In all 4,287 3,205,600 854,810 2 12.35" in text
    assert "Calls without a token count are in it at the most that they can cost." in text


def test_samples_show_what_the_rows_hold(html):
    text = words(html)
    assert html.count('class="sample sft"') == 3
    assert "✓ Is it <b>red</b> now? follow ✗ Is the sky as it was? keep" in text
    assert "Score 6.5 of 10 · 50.0% of the verdicts equal gold" in text
    assert "Thought 1: it is <u>red</u>." in text
    assert '{"question": 1' not in text
    assert "· Is it <b>red</b> now?" in text
    assert "these principles are the target" in text
    assert html.count('class="sample pair"') == 3
    assert text.count("People prefer b.") == 3
    assert "unparseable at stage verify: no <list> q1" in text
    assert "What judge answered: no list; no score" in text
    assert "I <em>cannot</em>" in text
    assert "seed: 17" in text
    assert "image: images/gone.png" in text


def test_images_travel_with_the_page_and_are_at_most_256_pixels_wide(html):
    images = re.findall(r'<img( class="small")? src="data:image/png;base64,([^"]*)"', html)
    sizes = {
        (bool(small), Image.open(io.BytesIO(base64.b64decode(payload))).size)
        for small, payload in images
    }
    assert sizes == {(True, (64, 48)), (False, (256, 128))}
    assert len(images) == 2 + 2 + 1 + 3 * 3 + 2


def test_the_page_is_whole_and_loads_nothing(html):
    tags = read(html)
    assert tags.open == []
    assert all(value.startswith(("data:image/png;base64,", "#")) for value in tags.loads)
    assert not re.search(r"url\(\s*['\"]?http|@import", html)
    assert "script" not in tags.seen
    assert tags.handlers == []
    assert html.count("<svg ") == 6


def test_what_others_wrote_is_text_and_not_markup(html):
    assert "<script" not in html
    assert html.count("&lt;script&gt;alert") == 2
    assert "&lt;script&gt;evil" in html
    assert "tasks/&lt;of people&gt;.jsonl" in html
    assert "<i>" not in html
    assert (
        "&lt;i&gt;$x$ lenient&lt;/i&gt;" in html
    )  # in the table as in the plot, where it is no formula
    assert "right &amp; &lt;wrong&gt;" in html


def test_the_same_set_gives_the_same_bytes(full):
    first = write_page(full.out, CARD, full.store).read_bytes()
    assert write_page(full.out, json.loads(json.dumps(CARD)), full.store).read_bytes() == first


def test_a_set_without_anything_says_so_and_has_no_empty_plot(little):
    html = little.page(NOTHING)
    tags = read(html)
    assert tags.open == []
    assert "svg" not in tags.seen
    assert (
        "0 tasks → 0 quadruples → 0 traces → 0 SFT rows, and no preference pairs; 0 rows quarantined."
        in words(html)
    )
    for said in (
        "There was nothing to count.",
        "Nothing was quarantined.",
        "No teacher was asked for a trace.",
        "No quadruple has two traces with verdicts to compare.",
        "There are no verdicts.",
        "No gold verdicts: no quadruple was verified.",
        "No trace was selected.",
        "There is no gold to compare with.",
        "No edit was judged.",
        "No call was made.",
        "There are no SFT rows to train on.",
        "There are no preference pairs to train on.",
    ):
        assert said in words(html), said


def test_a_variant_without_verification_says_that_there_is_no_gold(full):
    verdicts = {"gold": {}, "selected": CARD["verdicts"]["selected"]}
    html = full.page({**CARD, "variant": "T", "verdicts": verdicts, "selected_accuracy": {}})
    assert "variant T does not verify" in html
    assert "There is no gold to compare with." in html
    assert "63.5% of 5,003" in html
    assert html.count("<svg ") == 5


def test_a_holistic_set_is_shown_with_scores_alone(little):
    holistic = {"principles": (), "target": "Well done.\n<score>8</score>", "accuracy": None}
    little.fill([judged(0, **holistic)])
    html = little.page(
        {
            **CARD,
            "variant": "holistic",
            "verdicts": {"gold": {}, "selected": {}},
            "teacher_agreement": {},
        }
    )
    assert "Judged without principles." in html
    assert "Score 8 of 10</p>" in html
    assert "Well done." in html
    assert "There are no verdicts." in html


def test_a_row_without_a_thought_or_a_readable_score_says_so(little):
    little.fill(
        [judged(0, target=write_answer((1, 1), 9.0)), judged(1, target="A thought, and no more.")]
    )
    text = words(little.page(CARD))
    assert "No thought: verdicts and score only." in text
    assert "No score: unparseable" in text


def test_without_prices_there_is_no_money_on_the_page(full):
    bill = copy.deepcopy(CARD["bill"])
    for row in [*bill["by_stage"], bill["total"]]:
        row["money"] = 0.0
    text = words(full.page({**CARD, "bill": bill}))
    assert "the answers cost" not in text
    assert "In all 4,287 3,205,600 854,810 2 Every answer" in text
    assert "No money: the config's prices are zero." in text


def test_a_single_teacher_agrees_with_itself_in_words(full):
    html = full.page({**CARD, "teacher_agreement": {"hasty | hasty": 0.9337}})
    assert "hasty | hasty: 93.4% equal verdicts" in html
    assert html.count("<svg ") == 5


def test_overlap_that_was_not_looked_for_is_not_said_to_be_absent(full):
    html = full.page({**CARD, "config": {**CARD["config"], "benchmarks": []}})
    assert "No benchmark is named in the config, so overlap was not looked for." in html


def test_many_editors_are_cut_to_the_most_frequent(full):
    html = full.page({**CARD, "editors": {f"editor-{i:03}": i + 1 for i in range(200)}})
    assert "The 24 with the most quadruples, of 200." in html
    assert "editor-199" in html
    assert "editor-176" in html
    assert "editor-175" not in html


def test_samples_are_drawn_evenly_over_the_file(little):
    bad = [
        Quarantined(stage="think", key=f"key-{i:02}", failure=Failure(kind="empty"))
        for i in range(50)
    ]
    little.fill((judged(i) for i in range(3000)), bad=bad)  # three row groups
    html = little.page(CARD)
    assert re.findall(r"judge · (row-\d+)", html) == [
        f"row-{i}" for i in (250, 750, 1250, 1750, 2250, 2750)
    ]
    assert re.findall(r"key-\d\d", html) == ["key-05", "key-15", "key-25", "key-35", "key-45"]


def test_all_places_are_taken_where_there_are_few():
    assert spread(0, 3) == []
    assert spread(3, 3) == [0, 1, 2]
    assert spread(4, 3) == [0, 2, 3]


def test_values_are_counted_at_the_nearest_step():
    assert pooled({"0": 1, "0.5": 2, "9.5": 3, "10": 4}, 0.5, 10) == [1, 2, *[0] * 17, 3, 4]
    # 7/8, 8/9 and 11/12 to twentieths: 0.90, 0.90, 0.90; 1 stands apart
    assert pooled({"0.88": 1, "0.89": 2, "0.92": 4, "1": 8}, 0.05, 1)[-3:] == [7, 0, 8]


def test_a_page_that_cannot_be_finished_leaves_the_earlier_one(full):
    (full.out / "card.html").write_text("the earlier page")
    full.store.path(full.edited).unlink()
    with pytest.raises(InputError, match=full.edited):
        write_page(full.out, CARD, full.store)
    assert (full.out / "card.html").read_text() == "the earlier page"
    assert not list(full.out.glob("*.part"))


@pytest.mark.parametrize("name", ["sft.parquet", "preferences.parquet", "quarantine.jsonl"])
def test_a_file_of_the_set_that_is_missing_is_an_input_error(full, name):
    (full.out / name).unlink()
    with pytest.raises(InputError, match=name):
        write_page(full.out, CARD, full.store)


def test_a_long_name_keeps_both_its_ends():
    assert shortened("a-model", 7) == "a-model"
    assert shortened("abcdefghij", 7) == "abc…hij"
    assert shortened("abcdefghij", 6) == "abc…ij"
