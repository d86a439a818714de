"""CSV files as people have them: mended in rounds, with commas in numbers, in other words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from keepline.errors import RecordError
from keepline.model import Field, RecordType
from keepline.records.csv_rows import CsvForm, CsvRows, GoodRow, Reject
from keepline.records.rejects import RejectsFile

VISIT = RecordType(
    "visit",
    (
        Field("label", required=True),
        Field("pieces", "integer"),
        Field("weight", "real", maximum=9),
        Field("smoker", "boolean"),
        Field("day", "date"),
    ),
)
ONE = RecordType("one", (Field("key"),))


def rows(folder: Path, text: str, declared: RecordType = VISIT, **form: Any) -> list[Any]:
    file = folder / "in.csv"
    file.write_text(text, encoding="utf-8")
    return [row for row, _ in CsvRows(file, declared, CsvForm(**form))]


def reasons(found: list[Any]) -> list[str]:
    return [each.reason for each in found if isinstance(each, Reject)]


@pytest.mark.parametrize(
    ("text", "declared"),
    [
        ("key,label,pieces\na,x\n", VISIT),
        ("key,label,pieces\na\n", VISIT),
        ("key,label,pieces\na,x,1,2\n", VISIT),
        ("key,label,pieces\na,x,1,2,3\n", VISIT),
        ('key,label,pieces\na,"x"y,1\n', VISIT),
        ('key\n"x"y\n', ONE),
    ],
)
def test_a_rejected_row_that_nobody_mended_is_rejected_again_and_again(
    tmp_path: Path, text: str, declared: RecordType
) -> None:
    file = tmp_path / "in.csv"
    file.write_text(text, encoding="utf-8")
    for _ in range(4):
        source = CsvRows(file, declared, CsvForm())
        found = [row for row, _ in source]
        assert [type(each) for each in found] == [Reject]
        with RejectsFile(file, source.header, ",", None) as rejects:
            rejects.add(found)
        assert rejects.path is not None
        file = rejects.path


def test_a_row_says_its_key_its_columns_and_all_that_is_wrong(tmp_path: Path) -> None:
    text = "key,label,Number,weight\na,,one,99\n"
    (said,) = reasons(rows(tmp_path, text, names={"Number": "pieces"}))
    assert said == (
        "a: label needs a value; column 'Number': pieces takes a whole number; weight is at most 9"
    )


def test_a_key_stands_once_even_where_its_first_row_was_rejected(tmp_path: Path) -> None:
    text = "key,label,pieces\na,x,many\na,x,1\nb,x\nb,x,2\n"
    found = rows(tmp_path, text)
    assert all(isinstance(each, Reject) for each in found)
    assert reasons(found)[1] == "a: the key stands on line 2 already"
    assert reasons(found)[3] == "b: the key stands on line 4 already"


def test_numbers_have_the_comma_that_was_asked_for_and_no_other_mark(tmp_path: Path) -> None:
    text = "key;label;weight\na;x;1,5\nb;x;1.5\nc;x;-2\nd;x;1.234,5\n"
    found = rows(tmp_path, text, delimiter=";", decimal=",")
    assert [each.values["weight"] for each in found if isinstance(each, GoodRow)] == [1.5, -2.0]
    assert reasons(found) == [
        "b: weight takes a number with a decimal comma; or say --decimal .",
        "d: weight takes a number",
    ]
    found = rows(tmp_path, text, delimiter=";")
    assert "a: weight takes a number with a decimal point; or say --decimal ," in reasons(found)
    with pytest.raises(RecordError, match="a point or a comma"):
        rows(tmp_path, text, delimiter=";", decimal="x")


def test_booleans_have_words_of_other_languages(tmp_path: Path) -> None:
    text = "key,label,smoker\na,x,JA\nb,x,nein\nc,x,yes\nd,x,oui\n"
    found = rows(tmp_path, text, true=("ja",), false=("Nein",))
    assert [each.values["smoker"] for each in found[:3]] == [True, False, True]
    assert "--true" in reasons(found)[0]
    for words in ({"true": ("no",)}, {"true": ("ja",), "false": ("JA",)}, {"true": (" ",)}):
        with pytest.raises(RecordError, match="cannot be a word for"):
            rows(tmp_path, text, **words)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("id;label\n", "say --delimiter ';'"),
        ("id\tlabel\n", "say --delimiter tab"),
        ("id,label\n", "its columns are 'id', 'label'"),
    ],
)
@pytest.mark.parametrize("key", [None, "vial"])
def test_a_header_without_the_keys_says_what_there_is(
    tmp_path: Path, text: str, said: str, key: str | None
) -> None:
    with pytest.raises(RecordError, match=said):
        rows(tmp_path, text, key=key)


@pytest.mark.parametrize("form", ["dd.mm.yyyy", "%d.%m.", "%Q", "%d.%m.%Y %"])
@pytest.mark.parametrize("option", ["date_format", "time_format"])
def test_a_format_that_says_no_date_is_refused_with_an_example(
    tmp_path: Path, form: str, option: str
) -> None:
    with pytest.raises(RecordError, match=r"such as .*%d\.%m\.%Y"):
        rows(tmp_path, "key,label\n", **{option: form})


@pytest.mark.parametrize("form", ["%d.%m.%Y", "%d.%m.%y", "%Y%j", "%d.%m.%Y %H:%M %z"])
def test_a_format_that_says_a_date_is_taken(tmp_path: Path, form: str) -> None:
    assert rows(tmp_path, "key,label\n", date_format=form, time_format=form) == []
