"""Entity tags of records."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keepline.records.etag import ETag, matches

TAG = ETag("0a1b", "rec_specimen", "a", 5, 7)


@given(key=st.text(min_size=1), born=st.integers(0, 2**63 - 1), rev=st.integers(0, 2**63 - 1))
def test_a_tag_of_any_key_is_a_valid_header_and_comes_back(key: str, born: int, rev: int) -> None:
    try:
        key.encode()
    except UnicodeEncodeError:
        return  # no key of a record
    tag = ETag("0a1b", "rec_specimen", key, born, rev)
    text = str(tag)
    assert text.isascii()
    assert text.count('"') == 2
    assert not set(text) & set(" ,\\\r\n\t")
    assert ETag.parse(text) == tag
    assert matches(text, tag)


@pytest.mark.parametrize(
    "text",
    [
        'W/"0a1b.rec_specimen.a.5.7"',
        "0a1b.rec_specimen.a.5.7",
        '"0a1b.rec_specimen.a.5"',
        '"0a1b.rec_specimen.a.b.5.7"',
        '"0a1b.rec_specimen.a.05.7"',
        '"0a1b.rec_specimen.a.5.\u0667"',
        '"somebody-else"',
        "",
    ],
)
def test_what_is_no_strong_tag_of_a_record_is_none(text: str) -> None:
    assert ETag.parse(text) is None


def test_if_match_takes_a_star_or_the_same_strong_tag() -> None:
    other = '"0a1b.rec_specimen.a.5.8"'
    assert matches("*", TAG)
    assert not matches("*", None)
    assert matches(f"{other}, {TAG}", TAG)
    assert not matches(other, TAG)
    assert not matches(f"W/{TAG}", TAG)
    assert not matches(f"W/{TAG}, {other}", TAG)
    assert not matches("", TAG)


def test_a_restored_instance_has_other_tags() -> None:
    assert not matches(str(TAG), ETag("ffff", "rec_specimen", "a", 5, 7))
