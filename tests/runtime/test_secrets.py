"""Keys and passwords never leave the process, and foreign text never steers the terminal."""

from __future__ import annotations

import json
import sys

import pytest

from rrm.errors import InputError
from rrm.records import Failure
from rrm.runtime import secrets
from rrm.runtime.screen import printable
from rrm.runtime.secrets import key_of, know, know_fields, know_url, mask
from rrm.runtime.stage import command, write_json

KEY = "sk-test-Zb81hT7qLw0XnE4v"


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch):
    monkeypatch.setattr(secrets, "_known", [])
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)


def test_a_key_that_a_client_has_read_is_masked_wherever_it_stands(monkeypatch):
    monkeypatch.setenv("MY_TEACHER", KEY)
    assert mask(f"no {KEY} yet") == f"no {KEY} yet"
    assert key_of("MY_TEACHER") == KEY
    assert mask(f"Incorrect API key provided: {KEY}.") == "Incorrect API key provided: ***."
    assert key_of("NOT_SET_AT_ALL") is None


def test_a_part_of_a_key_that_a_cut_has_left_is_masked_too():
    know(KEY)
    assert mask(f"Wrong key {KEY[:15]}") == "Wrong key ***"
    assert mask(f"{KEY[-13:]} is wrong; {KEY[:12]}") == "*** is wrong; ***"
    assert mask(f"{KEY[:6]}…") == f"{KEY[:6]}…"


def test_a_placeholder_for_a_key_is_no_secret():
    for placeholder in ("none", "EMPTY", "1234567890"):
        know(placeholder)
    assert mask("none of the EMPTY rows, 1234567890") == "none of the EMPTY rows, 1234567890"


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("at http://user:pa55@host:8000/v1?x=1", "at http://***@host:8000/v1?x=1"),
        ("at https://ghp_token@host/v1 or a@b.c", "at https://***@host/v1 or a@b.c"),
        ("GET /v1?api_key=abc&n=1#top", "GET /v1?api_key=***&n=1#top"),
        ("http://h/blob?sv=1&sig=a%2Fb", "http://h/blob?sv=1&sig=***"),
        ("vlm:http://h/v1?model=m&key=MY_KEY", "vlm:http://h/v1?model=m&key=MY_KEY"),
        ("http://h/v1?key=AIzaB", "http://h/v1?key=***"),
        ("Authorization: Bearer abc.def", "Authorization: Bearer ***"),
        ('{"authorization": "Bearer abc", "n": 1}', '{"authorization": "Bearer ***", "n": 1}'),
        (
            r'{"said": "{\"Authorization\": \"Basic dTpw\"}"}',
            r'{"said": "{\"Authorization\": \"Basic ***\"}"}',
        ),
        ("got 'Bearer 0123456789abcdef'", "got 'Bearer ***'"),
        ("x-api-key=abc, n=1", "x-api-key=***, n=1"),
        ("Give the flag bearer extraordinary wings", "Give the flag bearer extraordinary wings"),
        ("Does the key stand at the left? token = 5", "Does the key stand at the left? token = 5"),
        ("authorization: ApiKey sk12345678, n=1", "authorization: ApiKey ***, n=1"),
        ('{"api-key": "abc123de", "accessToken": 5}', '{"api-key": "***", "accessToken": 5}'),
        ("GET /v1?accessToken=abc", "GET /v1?accessToken=***"),
        (
            '{"authorization": null, "api-key": 123456789}',
            '{"authorization": null, "api-key": 123456789}',
        ),
        (
            "Write 'Authorization: VIP only' on the door",
            "Write 'Authorization: VIP only' on the door",
        ),
        (
            "A poster: api-key: value, authorization = sign",
            "A poster: api-key: value, authorization = sign",
        ),
        ("写上网址https://a.com，邮箱me@a.com", "写上网址https://a.com，邮箱me@a.com"),
        ("http://h/p?monkey=1&turkey=yes", "http://h/p?monkey=1&turkey=yes"),
        ("see https://host/@user and mail me@host", "see https://host/@user and mail me@host"),
    ],
)
def test_credentials_in_urls_and_headers_are_masked_and_ordinary_text_is_not(text, masked):
    assert mask(text) == masked


def test_keys_in_extra_fields_and_passwords_of_urls_are_masked_in_every_form_they_are_sent_in():
    know_fields({"quality": "high-definition", "auth": {"api_key": KEY}, "token": "tok-1234-5678"})
    know_url("http://me:swordfish%21@host/v1")
    echo = f"{KEY} tok-1234-5678 swordfish! bWU6c3dvcmRmaXNoIQ== high-definition"
    assert mask(echo) == "*** *** *** ***== high-definition"


def test_files_failures_errors_and_the_screen_show_no_key_and_json_stays_json(tmp_path, capsys):
    quoted = 'p"q\\n0 word'
    know(quoted)
    know(KEY)
    value = {"command": f"--url http://u:p@h --key {KEY}", "said": quoted, "number": 7}
    write_json(tmp_path / "card.json", value)
    read = json.loads((tmp_path / "card.json").read_text())
    assert read == {"command": "--url http://***@h --key ***", "said": "***", "number": 7}
    assert Failure(kind="refused", detail=f"no {KEY}\x1b[2J").detail == r"no ***\u001b[2J"

    def work():
        print(f"{KEY}\x1b]0;title\x07 line\r 50%\x1b[A")
        print(f"warning {KEY}", file=sys.stderr)
        raise InputError(f"The server says {KEY}\x1b[31m.\rgone")

    with pytest.raises(SystemExit):
        command(work)
    printed = capsys.readouterr()
    assert printed.out == "***\\u001b]0;title\\u0007 line\r 50%\x1b[A\n"
    assert printed.err == "warning ***\nerror: The server says ***\\u001b[31m.\\u000dgone\n"


def test_what_a_command_prints_as_json_stays_json(capsys):
    thought = "\x9b31m \u202e\x1b[2J\r\n可以"
    command(lambda: print(json.dumps({"thought": thought}, ensure_ascii=False)))
    printed = capsys.readouterr().out
    assert "\x9b" not in printed
    assert "可以" in printed
    assert json.loads(printed) == {"thought": thought}


def test_the_traceback_of_a_fault_shows_no_key(capsys):
    know(KEY)

    def work():
        raise RuntimeError(f"the server said {KEY}")

    with pytest.raises(RuntimeError) as ended:
        command(work)
    sys.excepthook(ended.type, ended.value, ended.tb)
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert said.endswith("RuntimeError: the server said ***\n")


def test_printable_text_keeps_line_breaks_and_words_of_every_language():
    assert printable("可以\r\nça\tva") == "可以\nça\tva"
    assert printable("\x9b31m \u202e \ud800 \x7f") == "\\u009b31m \\u202e \\ud800 \\u007f"
