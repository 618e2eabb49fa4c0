"""Images as parts of a message, and waits, worked out by hand."""

from __future__ import annotations

import base64
import io
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from eval.editrewardbench.endpoint import EndpointJudge
from rrm.chat import image_part
from rrm.chat.waits import asked_wait, backoff
from rrm.images import data_url
from tests.support.odd_answers import running_odd

NINETIES = 784111777.0
"""Sun, 06 Nov 1994 08:49:37 GMT: 9075 days (25 years, 6 leap days and 309 days) and 31777 seconds
after 1970."""
DATES = (
    "Sun, 06 Nov 1994 08:49:37 GMT",
    "Sunday, 06-Nov-94 08:49:37 GMT",
    "Sun Nov  6 08:49:37 1994",
)


def shown(part: dict[str, Any]) -> Image.Image:
    """The image that a part carries."""
    head, _, body = part["image_url"]["url"].partition(",")
    assert head == "data:image/png;base64"
    return Image.open(io.BytesIO(base64.b64decode(body)))


def test_a_data_url_carries_the_bytes_as_base64():
    assert data_url(b"Man") == "data:image/png;base64,TWFu"
    assert data_url(b"Ma") == "data:image/png;base64,TWE="


def test_an_image_part_carries_every_pixel_of_an_image_however_large():
    pixels = np.random.default_rng(0).integers(0, 256, (900, 1300, 3), dtype=np.uint8)
    part = image_part(Image.fromarray(pixels))
    assert part.keys() == {"type", "image_url"}
    assert part["type"] == "image_url"
    assert np.array_equal(np.asarray(shown(part)), pixels)


def test_a_judge_behind_an_endpoint_is_shown_images_within_the_pixel_budget():
    images = Image.new("RGB", (2000, 1000)), Image.new("RGB", (50, 40))
    with (
        running_odd() as odd,
        EndpointJudge(
            odd.url, "m", key_variable="K", temperature=0.0, max_tokens=9, timeout=1.0
        ) as judge,
    ):
        (answer,) = judge.gather([judge.answer("S", images, "T")], lambda *found: None)
    assert answer.content == "fine"
    *parts, text = odd.bodies[0]["messages"][1]["content"]
    # 1280 tokens of 28 × 28 pixels: √(2000 · 1000 / 1003520) = 1.4117, so 2000 / 1.4117 = 1416 → 50
    # · 28 and 708 → 25 · 28
    assert [shown(part).size for part in parts] == [(1400, 700), (50, 40)]
    assert text == {"type": "text", "text": "T"}


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({}, None),
        ({"retry-after": "2.5"}, 2.5),
        ({"retry-after": " 7 "}, 7.0),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after-ms": "250"}, 0.25),
        ({"retry-after-ms": "250", "retry-after": "1"}, 0.25),
        ({"retry-after-ms": "soon", "retry-after": "3"}, 3.0),
        ({"retry-after-ms": "-1", "retry-after": "3"}, 3.0),
        *(
            ({"retry-after": nonsense}, None)
            for nonsense in ("", "soon", "-3", "nan", "inf", "-inf", "1e999", "1, 2")
        ),
        *(({"retry-after": date}, 10.0) for date in DATES),
        ({"retry-after": "Sun, 06 Nov 1994 08:49:27 GMT"}, 0.0),  # now
        ({"retry-after": "Sun, 06 Nov 1994 08:49:26 GMT"}, None),  # a second ago
        ({"retry-after": "Sun, 06 Nov 1994 09:49:37 +0100"}, 10.0),
        (
            {"retry-after": "Mon, 07 Nov 1994 08:49:27 GMT"},
            60.0,
        ),  # one of the two clocks may be wrong
        (
            {
                "retry-after": "Mon, 07 Nov 1994 08:49:27 GMT",
                "date": "Sun, 06 Nov 1994 08:49:27 GMT",
            },
            86400.0,
        ),
        (
            {
                "retry-after": "Sun, 06 Nov 2044 08:49:37 GMT",
                "date": "Sun, 06 Nov 2044 08:49:27 GMT",
            },
            10.0,
        ),
        ({"retry-after": "Sun, 06 Nov 99999 08:49:37 GMT"}, None),
    ],
)
def test_the_wait_that_headers_ask_for(headers, wait):
    assert asked_wait(headers, NINETIES - 10) == wait
    assert (
        asked_wait(
            httpx.Headers({name.title(): value for name, value in headers.items()}), NINETIES - 10
        )
        == wait
    )


@given(
    st.text()
    | st.from_regex(r"[A-Z][a-z]{2}, \d{1,25} [A-Z][a-z]{2} \d{1,25} \d{1,25}:\d\d:\d\d( GMT)?")
)
@settings(deadline=None)
def test_no_header_breaks_it(text):
    wait = asked_wait({"retry-after": text, "retry-after-ms": text}, NINETIES)
    assert wait is None or 0 <= wait < float("inf")


def test_a_wait_doubles_up_to_the_longest_and_jitter_takes_at_most_half_of_it(monkeypatch):
    monkeypatch.setattr("random.uniform", lambda low, high: high)
    assert [backoff(doublings, 0.5, 30.0) for doublings in range(8)] == [
        0.5,
        1.0,
        2.0,
        4.0,
        8.0,
        16.0,
        30.0,
        30.0,
    ]
    assert backoff(100_000, 0.5, 30.0) == 30.0
    monkeypatch.setattr("random.uniform", lambda low, high: low)
    assert [backoff(doublings, 0.5, 30.0) for doublings in range(8)] == [
        0.25,
        0.5,
        1.0,
        2.0,
        4.0,
        8.0,
        15.0,
        15.0,
    ]


def test_waits_of_many_clients_are_spread_over_the_whole_of_that_half():
    waits = [backoff(2, 0.5, 30.0) for _ in range(2000)]
    assert 1.0 <= min(waits) < 1.05
    assert 1.95 < max(waits) <= 2.0
