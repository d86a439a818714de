"""Finding an identifier, plain or encoded, and nothing that only looks like it."""

import base64
import gzip
import json
import unicodedata
import zlib

import pytest
import zstandard

from keepline.store.mentions import Mentions

NAME = "Pätient-7041"
LINE = f"id;{NAME};120"

FORMS = {
    "utf-8": LINE.encode(),
    "latin-1": LINE.encode("latin-1"),
    "utf-16": LINE.encode("utf-16"),
    "utf-16 in a frame": b"\x01\x00\x02" + LINE.encode("utf-16-be"),
    "utf-32": LINE.encode("utf-32"),
    "utf-7": LINE.encode("utf-7"),
    "EBCDIC": LINE.encode("cp500"),
    "DOS": LINE.encode("cp437"),
    "other case": LINE.upper().encode(),
    "decomposed": unicodedata.normalize("NFD", LINE).encode(),
    "JSON": json.dumps({"id": NAME}).encode(),
    "URL": b"/visits?id=P%C3%A4tient-7041&n=1",
    "HTML": b"<td>P&auml;tient-7041</td>",
    "hex": b"raw " + LINE.encode().hex().encode(),
    "base64": b"data:" + base64.b64encode(LINE.encode()),
    "base64, shifted": base64.b64encode(b"abcde" + LINE.encode()),
    "zlib": zlib.compress(LINE.encode()),
    "gzip": gzip.compress(LINE.encode()),
    "Zstandard": zstandard.compress(LINE.encode()),
    "JSON in base64 in gzip": gzip.compress(base64.b64encode(json.dumps(LINE).encode())),
}


@pytest.mark.parametrize("form", FORMS)
def test_an_identifier_is_found_in_each_form(form: str) -> None:
    assert Mentions(NAME).in_bytes(FORMS[form])


@pytest.mark.parametrize("other", ["Pätient-70411", "xPätient-7041", "Patient-7041", "7041", ""])
def test_what_only_looks_like_it_is_not_found(other: str) -> None:
    for raw in (other.encode(), other.encode("utf-16"), base64.b64encode(other.encode())):
        assert not Mentions(NAME).in_bytes(raw)


def test_a_short_identifier_is_not_found_by_chance_in_encoded_bytes() -> None:
    assert Mentions("7").in_text("subject 7, 12 mm")
    assert not Mentions("7").in_text("17 of 70")
    assert not Mentions("7").in_bytes(base64.b64encode(b"7 and more of it"))


def test_a_key_names_a_subject_also_within_a_word() -> None:
    assert Mentions("p-7").within("visitP-70")
    assert not Mentions("p-7").within("visit 8")


def test_a_quote_is_found_as_a_csv_file_doubles_it() -> None:
    name = 'O"Brien-77'
    for encoding in ("utf-8", "cp500", "utf-32"):
        assert Mentions(name).in_bytes('a,"O""Brien-77",1'.encode(encoding))
    assert not Mentions(name).in_bytes(b'a,"O""Brien-778",1')


def test_of_no_identifier_nothing_is_a_mention() -> None:
    assert not Mentions(None).in_text("")
    assert not Mentions(None).in_bytes(b"+x")
    assert not Mentions(None).within("x")


def test_nothing_shows_the_identifier() -> None:
    assert NAME not in repr(Mentions(NAME))
