"""Record types in TOML: what they declare, and what is said of mistakes."""

from importlib.metadata import entry_points
from pathlib import Path

import pytest

from keepline.errors import DeclarationError
from keepline.model import Field, FieldGroup, RecordType, SubTable
from keepline.records.declarations import available, parse, read
from keepline.records.types import INSTRUMENT_SESSION, PHQ9

WHOLE = """
name = "dose_given"
comment = "it's 100%"
summaries = ["session"]
subject = true
finalised = true
reason_required = true

[fields]
amount = { type = "real", unit = "mg", minimum = 0, maximum = 9.5, missing = { "-1.5" = "lost" } }
unit_of_it = { choices = ["mg", "g"], missing = { none = "not said" }, was = "unit" }
count = { type = "integer", required = true, choices = [0, 1], missing = { -99 = "refused" } }
scan = { type = "blob", max_bytes = 10, updatable = false }

[subtables.part]
key = "number"
comment = "parts"
was = "piece"

[subtables.part.fields]
at = { type = "date" }

[groups.dose]
fields = ["amount", "unit_of_it"]
comment = "together"
"""


def test_a_text_declares_what_a_python_value_would() -> None:
    declared = parse(WHOLE)
    assert declared == RecordType(
        "dose_given",
        (
            Field(
                "amount",
                "real",
                "mg",
                minimum=0,
                maximum=9.5,
                missing=((-1.5, "lost"),),
            ),
            Field("unit_of_it", choices=("mg", "g"), missing=(("none", "not said"),)),
            Field("count", "integer", required=True, choices=(0, 1), missing=((-99, "refused"),)),
            Field("scan", "blob", max_bytes=10, updatable=False),
        ),
        (SubTable("part", "number", (Field("at", "date"),), "parts"),),
        comment="it's 100%",
        groups=(FieldGroup("dose", ("amount", "unit_of_it"), "together"),),
        summaries=("session",),
        subject=True,
        finalised=True,
        reason_required=True,
    )
    assert declared.field("unit_of_it").was == "unit"
    assert declared.subtable("part").was == "piece"
    assert RecordType.from_json(declared.to_json()) == declared


def test_a_file_names_its_type(tmp_path: Path) -> None:
    (tmp_path / "vial.toml").write_text("[fields]\nlabel = {}\n")
    assert read(tmp_path / "vial.toml") == RecordType("vial", (Field("label"),))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[fields", "the declaration: "),
        ("comment = 'x'", "the declaration: fields is needed"),
        ("feilds = {}\n[fields]", "feilds: no such key; did you mean fields?"),
        ("[fields]\na = { typ = 'text' }", "fields.a.typ: no such key; did you mean type?"),
        ("[fields]\na = { zzz = 1 }", "fields.a.zzz: no such key; there are: type, unit, comment"),
        ("[fields]\na = { type = 'float' }", "fields.a.type: should be 'text', 'integer'"),
        ("[fields]\na = { required = 'yes' }", "fields.a.required: should be a valid boolean"),
        (
            "[fields]\na = { choices = [true] }",
            "fields.a.choices.0: a choice is a text or a number",
        ),
        (
            "[fields]\na = { type = 'integer', missing = { no = 'x' } }",
            "fields.a.missing: 'no' is no integer",
        ),
        ("[fields]\na = { minimum = 1 }", "a: only a number has a minimum"),
        ("[fields]\nA = {}", "'A' is not a usable name"),
        ("summaries = ['phq']\n[fields]", "no summary 'phq' is installed; did you mean phq9?"),
        ("[fields]\n[subtables.s]\nkey = 'k'\nwass = 'x'", "subtables.s.wass: no such key"),
        ("[fields]\n[subtables.s]", "subtables.s.key is needed"),
        ("[fields]\n[groups.g]\nfeld = []", "groups.g.feld: no such key; did you mean fields?"),
        (
            "[fields]\n[subtables.s]\nkey = 'k'\n[subtables.s.fields]\nf = { unti = 'g' }",
            "subtables.s.fields.f.unti: no such key; did you mean unit?",
        ),
    ],
)
def test_a_mistake_is_said_with_its_place(text: str, said: str) -> None:
    with pytest.raises(DeclarationError) as caught:
        parse(text, name="t")
    assert any(said in mistake for mistake in caught.value.mistakes), caught.value.mistakes
    assert all("\n" not in mistake for mistake in caught.value.mistakes)


def test_every_mistake_is_said_at_once_with_the_file(tmp_path: Path) -> None:
    file = tmp_path / "t.toml"
    file.write_text("subjct = true\n[fields]\na = { typ = 'text' }\n")
    with pytest.raises(DeclarationError, match=r"and 1 more") as caught:
        read(file)
    assert len(caught.value.mistakes) == 2
    assert all(mistake.startswith(f"{file}: ") for mistake in caught.value.mistakes)


def test_a_mistake_hides_no_other(tmp_path: Path) -> None:
    file = tmp_path / "t.toml"
    file.write_text(
        "[fields]\n"
        'smoker = "boolean"\n'
        "a = { typ = 'text' }\n"
        "B = {}\n"
        "c = { minimum = 1, max_bytes = 2 }\n"
        "d = { type = 'real', minimum = 2, maximum = 1, choices = ['x'] }\n"
        "[groups.g]\nfields = ['a', 'z']\n"
    )
    with pytest.raises(DeclarationError) as caught:
        read(file)
    assert [each.removeprefix(f"{file}: ") for each in caught.value.mistakes] == [
        'fields.smoker: write smoker = { type = "boolean" }',
        "fields.a.typ: no such key; did you mean type?",
        "'B' is not a usable name: small letters, digits and single _, a letter first, at most 31",
        "c: only a number has a minimum or maximum",
        "c: only a blob has max_bytes, of at least 1",
        "d: choices and missing codes are values of a text, integer or real field",
        "d: the minimum is above the maximum",
        "a group names the field 'z', which is not there",
    ]


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    (tmp_path / "t.toml").write_bytes(b"\xef\xbb\xbf[fields]\nlabel = {}\n")
    assert read(tmp_path / "t.toml") == RecordType("t", (Field("label"),))


@pytest.mark.parametrize("content", [None, b"\xff"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "t.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(DeclarationError, match=str(file)):
        read(file)


def test_shipped_types_are_found_by_their_entry_points() -> None:
    names = entry_points(group="keepline.record_types").names
    found = {name: each.declared for name, each in available().items()}
    assert {"instrument_session", "phq9"} <= names
    assert found["instrument_session"] == INSTRUMENT_SESSION
    assert found["phq9"] == PHQ9


def test_the_session_is_what_the_build_writes() -> None:
    assert [field.name for field in INSTRUMENT_SESSION.fields] == [
        *("instrument", "started", "ended", "state", "messages", "readings", "gaps"),
        *("quarantined", "user_name", "title", "sample", "comment"),
    ]
    assert [field.name for field in INSTRUMENT_SESSION.fields if field.updatable] == [
        *("user_name", "title", "sample", "comment"),
    ]
    (channel,) = INSTRUMENT_SESSION.subtables
    assert channel.key == "channel"
    assert not any(field.updatable for field in channel.fields)


def test_the_questionnaire_has_nine_items_and_the_difficulty() -> None:
    items = [field for field in PHQ9.fields if field.type == "integer"]
    assert len(items) == 10
    assert all(item.choices == (0, 1, 2, 3) and item.missing_codes for item in items)
    assert PHQ9.subject
    assert PHQ9.finalised
    assert PHQ9.field("completed_on").type == "date"


def test_a_folder_goes_before_plug_ins_and_says_all_its_mistakes(tmp_path: Path) -> None:
    (tmp_path / "phq9.toml").write_text("[fields]\nmine = {}\n")
    assert available(tmp_path)["phq9"].declared == RecordType("phq9", (Field("mine"),))
    (tmp_path / "a.toml").write_text("name = 'phq9'\n[fields]\n")
    (tmp_path / "b.toml").write_text("x = 1\n[fields]\n")
    with pytest.raises(DeclarationError) as caught:
        available(tmp_path)
    assert len(caught.value.mistakes) == 2
    assert any("declares phq9 already" in mistake for mistake in caught.value.mistakes)


def test_hidden_files_of_editors_declare_nothing(tmp_path: Path) -> None:
    (tmp_path / "vial.toml").write_text("[fields]\nlabel = {}\n")
    (tmp_path / ".#vial.toml").symlink_to("ann@bench.1234")
    assert "vial" in available(tmp_path)
