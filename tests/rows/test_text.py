"""Text files as users save them, and what is said of those that cannot be read."""

from __future__ import annotations

import codecs

import pytest

from rrm.errors import InputError
from rrm.rows.text import known_encoding, open_text, read_text

TEXT = "把左边的方块变成蓝色\nMake it “blue” – déjà vu\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_unicode_is_read_with_any_mark_and_line_ending(tmp_path, encoding, ending):
    path = tmp_path / "a.txt"
    path.write_bytes(TEXT.replace("\n", ending).encode(encoding))
    assert read_text(path) == TEXT
    assert read_text(path, "gb18030") == TEXT
    with open_text(path) as stream:
        assert list(stream) == TEXT.splitlines(keepends=True)


def test_utf16_of_the_other_byte_order_is_read_by_its_mark(tmp_path):
    (tmp_path / "a.txt").write_bytes(codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"))
    assert read_text(tmp_path / "a.txt") == TEXT


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("gb18030", "把左边的方块变成蓝色"),
        ("big5", "把左邊的方塊變成藍色"),
        ("cp932", "左のブロックを青くして"),
        ("cp949", "왼쪽 블록을 파란색으로"),
        ("cp1252", "Ajoute un café"),
    ],
)
def test_another_encoding_is_refused_by_line_with_its_likely_name_and_read_once_that_is_given(
    tmp_path, encoding, text
):
    path = tmp_path / "a.txt"
    path.write_bytes(f"first line\n{text}\n".encode(encoding))
    with pytest.raises(
        InputError,
        match=rf"a\.txt, line 2 is not utf-8, but probably .*{encoding}.*; save it as UTF-8, or",
    ):
        read_text(path)
    assert read_text(path, encoding) == f"first line\n{text}\n"


def test_a_fault_far_into_the_file_is_found_by_its_line(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(("é" * 1000 + "\n").encode() * 2000 + "把左边的方块变成蓝色".encode("gbk"))
    with pytest.raises(InputError, match="line 2001 is not utf-8"), open_text(path) as stream:
        list(stream)


def test_utf16_without_a_mark_is_not_read_as_ascii(tmp_path):
    (tmp_path / "a.txt").write_bytes("item,vote".encode("utf-16-le"))
    with pytest.raises(InputError, match="probably UTF-16 without a byte-order mark"):
        read_text(tmp_path / "a.txt")
    for name in ("utf-16-le", "utf-16", "UTF16"):
        assert read_text(tmp_path / "a.txt", name) == "item,vote"


def test_what_is_not_in_the_encoding_that_was_named_is_refused(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"ok\n\xff\xff\xff")
    with pytest.raises(InputError, match="line 2 is not big5; save it"):
        read_text(tmp_path / "a.txt", "big5")
    for name in ("gbx", "rot13", "hex", "punycode", "unicode_escape"):
        with pytest.raises(InputError, match=f"'{name}' is no encoding of text"):
            read_text(tmp_path / "a.txt", name)
        with pytest.raises(ValueError, match="is no encoding of text"):
            known_encoding(name)


def test_a_file_that_is_not_there_is_one_sentence(tmp_path):
    for path in (tmp_path / "absent.txt", tmp_path, tmp_path / ("x" * 300)):
        with pytest.raises(InputError, match=r"There is no file|cannot be read"):
            read_text(path)
