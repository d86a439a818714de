"""Importing CSV files: typed, rejected row by row, and safe to repeat."""

from __future__ import annotations

import csv
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from keepline.errors import ForbiddenError, InvalidRecordError, RecordError
from keepline.model import Field, FieldGroup, Principal, RecordImage, RecordType
from keepline.records import Outcome, apply_type, business_class
from keepline.records.checks import adopt_all
from keepline.records.csv_rows import CsvForm, CsvRows, GoodRow
from keepline.records.importing import ImportOptions, ImportReport, import_csv
from keepline.records.proposals import drop, proposals, take
from keepline.records.revisions import history
from keepline.store import quarantine
from keepline.store.recordset import fetch
from tests.stores import ANN, BEN, SPECIMEN, StoreInstance

HEADER = "record_key,label,pieces,weight,frozen,taken,extra\n"
GOOD = HEADER + (
    'a,first,1,2.5,yes,2024-05-01T12:00:00Z,"{""n"": 1}"\n'
    'b,"two\nlines",,,,,\n'
    "c,third,-3,1e3,0,2024-05-01 14:00:00+02:00,\n"
)
NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
PERSON = RecordType("visit", (Field("note"),), subject=True)


def file(instance: StoreInstance, text: str, name: str = "in.csv", encoding: str = "utf-8") -> Path:
    path = instance.folder / name
    path.write_bytes(text.encode(encoding))
    return path


def imported(
    instance: StoreInstance,
    text: str,
    form: CsvForm | None = None,
    declared: RecordType = SPECIMEN,
    principal: Principal = ANN,
    encoding: str = "utf-8",
    **options: Any,
) -> ImportReport:
    path = file(instance, text, encoding=encoding)
    given = ImportOptions(**options)
    return import_csv(path, declared, form, given, instance=instance, principal=principal)


def counts(report: ImportReport) -> dict[str, int]:
    names = ("inserted", "updated", "unchanged", "existing", "overlapping", "rejected")
    found = {name: getattr(report, name) for name in names}
    assert sum(found.values()) == report.rows
    return {name: count for name, count in found.items() if count}


def records(instance: StoreInstance, declared: RecordType = SPECIMEN) -> dict[str, RecordImage]:
    with instance.store.read() as connection:
        return {image.key: image for image in fetch(connection, declared, ANN)}


def type_in(instance: StoreInstance, key: str, **values: Any) -> None:
    obj = business_class(SPECIMEN)(key, instance=instance, principal=BEN)
    for name, value in values.items():
        obj[name] = value
    assert obj.save()


def test_cells_are_read_as_their_fields_are_declared(instance: StoreInstance) -> None:
    assert counts(imported(instance, GOOD)) == {"inserted": 3}
    a, b, c = (records(instance)[key].values for key in "abc")
    assert (a["label"], a["pieces"], a["weight"], a["frozen"]) == ("first", 1, 2.5, True)
    assert (a["taken"], a["extra"]) == (NOON, {"n": 1})
    assert (b["label"], b["pieces"], b["taken"]) == ("two\nlines", None, None)
    assert (c["pieces"], c["weight"], c["frozen"], c["taken"]) == (-3, 1000.0, False, NOON)


def test_the_same_file_again_changes_nothing(instance: StoreInstance) -> None:
    imported(instance, GOOD)
    before = records(instance)
    assert counts(imported(instance, GOOD)) == {"unchanged": 3}
    assert records(instance) == before


def test_changed_cells_change_those_fields_alone_and_say_why(instance: StoreInstance) -> None:
    imported(instance, GOOD)
    report = imported(instance, GOOD.replace("first,1", "first,7"), reason="recount")
    assert counts(report) == {"updated": 1, "unchanged": 2}
    last = history(SPECIMEN, "a", instance=instance)[-1]
    assert set(last.fields) == {"pieces"}
    assert last.why == f"import sha256:{report.digest} in.csv: recount"


def test_what_people_edited_stays_where_the_file_did_not_change(instance: StoreInstance) -> None:
    imported(instance, GOOD)
    type_in(instance, "a", label="typed")
    report = imported(instance, GOOD.replace("first,1", "first,7"))
    assert counts(report) == {"updated": 1, "unchanged": 2}
    assert records(instance)["a"].values["label"] == "typed"
    assert records(instance)["a"].values["pieces"] == 7


def test_a_cell_against_an_edit_waits_as_a_proposal_once(instance: StoreInstance) -> None:
    imported(instance, GOOD)
    type_in(instance, "a", label="typed")
    other = GOOD.replace("first,1", "second,7")
    assert counts(imported(instance, other)) == {"overlapping": 1, "unchanged": 2}
    assert counts(imported(instance, other)) == {"overlapping": 1, "unchanged": 2}
    assert records(instance)["a"].values["label"] == "typed"
    assert records(instance)["a"].values["pieces"] == 7
    (waiting,) = proposals(instance=instance)
    assert (waiting.field, waiting.base, waiting.mine) == ("label", "first", "second")
    drop([waiting.id], instance=instance)
    imported(instance, other)
    assert proposals(instance=instance) == []


def test_a_record_that_people_made_is_filled_and_not_overwritten(instance: StoreInstance) -> None:
    with instance.store.write(BEN) as connection:
        from keepline.records import put_record

        put_record(connection, SPECIMEN, "a", {"label": "typed"})
    report = imported(instance, GOOD)
    assert counts(report) == {"inserted": 2, "overlapping": 1}
    assert records(instance)["a"].values["label"] == "typed"
    assert records(instance)["a"].values["pieces"] == 1


def test_overwriting_and_leaving_alone_are_said(instance: StoreInstance) -> None:
    imported(instance, GOOD)
    type_in(instance, "a", label="typed")
    assert counts(imported(instance, GOOD.replace("first", "x"), update=False)) == {"existing": 3}
    report = imported(instance, GOOD.replace("first", "x"), overwrite=True)
    assert counts(report) == {"updated": 1, "unchanged": 2}
    assert records(instance)["a"].values["label"] == "x"


BAD = (
    HEADER
    + "a,l,one,,,,\n"
    + "b,l,,nan,,,\n"
    + "c,l,,,perhaps,,\n"
    + "d,l,,,,2024-05-01 12:00:00,\n"
    + "e,l,,,,,{\n"
    + "f,,,,,,\n"
    + ",l,,,,,\n"
    + "h,l\n"
    + "i,good,1,,,,\n"
    + "i,twice,1,,,,\n"
    + 'j,"quo"ted,1,,,,\n'
    + "k,l,99999999999999999999,,,,\n"
)


def test_rejected_rows_are_listed_kept_and_quarantined(instance: StoreInstance) -> None:
    report = imported(instance, BAD)
    assert counts(report) == {"inserted": 1, "rejected": 11}
    said = dict(report.rejects)
    assert "whole number" in said[2]
    assert "needs a zone" in said[5]
    assert "needs a value" in said[7]
    assert "2 cells, not 7" in said[9]
    assert "line 10 already" in said[11]
    assert list(said) == sorted(said)
    assert report.rejects_file is not None
    with report.rejects_file.open(encoding="utf-8", newline="") as kept:
        rows = list(csv.DictReader(kept))
    assert [int(row["rejected_line"]) for row in rows] == list(said)
    assert rows[0]["pieces"] == "one"
    with instance.store.read() as connection:
        raws = [row["raw"] for row in quarantine.kept(connection)]
    assert len(raws) == 11
    assert b"a,l,one,,,,\n" in raws


def test_mended_rejects_can_be_imported(instance: StoreInstance) -> None:
    report = imported(instance, HEADER + "a,l,one,,,,\n")
    assert report.rejects_file is not None
    mended = report.rejects_file.read_text(encoding="utf-8").replace("one", "1")
    assert counts(imported(instance, mended)) == {"inserted": 1}


def test_a_file_of_rejects_takes_no_other_files_place(instance: StoreInstance) -> None:
    first = imported(instance, BAD).rejects_file
    second = imported(instance, BAD).rejects_file
    assert first is not None
    assert second is not None
    assert first != second
    with pytest.raises(RecordError, match="is there already"):
        imported(instance, BAD, rejects=first)


def test_a_constraint_of_the_database_rejects_one_row_alone(instance: StoreInstance) -> None:
    with instance.store.maintenance() as connection:
        connection.exec_driver_sql("CREATE UNIQUE INDEX one_label ON rec_specimen (label)")
    report = imported(instance, HEADER + "a,l,1,,,,\nb,l,2,,,,\nc,m,3,,,,\n")
    assert counts(report) == {"inserted": 2, "rejected": 1}
    assert set(records(instance)) == {"a", "c"}


def test_a_dry_run_says_the_same_and_leaves_nothing(instance: StoreInstance) -> None:
    report = imported(instance, BAD, dry_run=True)
    assert counts(report) == {"inserted": 1, "rejected": 11}
    assert records(instance) == {}
    assert report.rejects_file is None
    with instance.store.read() as connection:
        assert list(quarantine.kept(connection)) == []
    assert counts(imported(instance, BAD)) == {"inserted": 1, "rejected": 11}


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_says_the_encoding(instance: StoreInstance, encoding: str) -> None:
    text = "record_key,label\na,gemüse\n"
    assert counts(imported(instance, text, encoding=encoding)) == {"inserted": 1}
    assert records(instance)["a"].values["label"] == "gemüse"


def test_bytes_of_another_encoding_reject_their_row(instance: StoreInstance) -> None:
    text = "record_key;label\na;gemüse\nb;plain\n"
    form = CsvForm(delimiter=";")
    report = imported(instance, text, form, encoding="latin-1")
    assert counts(report) == {"inserted": 1, "rejected": 1}
    form = replace(form, encoding="latin-1")
    assert counts(imported(instance, text, form, encoding="latin-1")) == {
        "inserted": 1,
        "unchanged": 1,
    }
    assert records(instance)["a"].values["label"] == "gemüse"


def test_columns_are_mapped_or_left_out_by_name(instance: StoreInstance) -> None:
    text = "id,name,junk\na,first,x\n"
    form = CsvForm(key="id", names={"name": "label", "junk": ""})
    assert counts(imported(instance, text, form)) == {"inserted": 1}
    for wrong, said in {
        "id,name\n": "no column 'junk'",
        "id,name,junk,more\n": "no field 'more'",
        "": "no header",
        "id,id,name,junk\n": "a name of its own",
    }.items():
        with pytest.raises(RecordError, match=said):
            imported(instance, wrong, form)
    with pytest.raises(RecordError, match="name one with --key"):
        imported(instance, "label\nx\n")


@pytest.mark.parametrize(
    ("cell", "good"),
    [
        ("2026-01-05 10:00", datetime(2026, 1, 5, 9, tzinfo=UTC)),
        ("2026-03-29 02:30", None),
        ("2026-10-25 02:30", None),
        ("2026-10-25 02:30+01:00", datetime(2026, 10, 25, 1, 30, tzinfo=UTC)),
    ],
)
def test_local_times_need_a_zone_in_which_they_were_once(
    instance: StoreInstance, cell: str, good: datetime | None
) -> None:
    report = imported(
        instance, f"record_key,label,taken\na,l,{cell}\n", CsvForm(tz="Europe/Berlin")
    )
    assert bool(report.rejected) == (good is None)
    if good is not None:
        assert records(instance)["a"].values["taken"] == good


def test_a_subject_is_found_or_made_and_never_exchanged(instance: StoreInstance) -> None:
    apply_type(instance.store, PERSON, ANN)
    text = "record_key,subject,note\na,P-1,x\nb,P-1,y\nc,,z\n"
    report = imported(instance, text, declared=PERSON)
    assert counts(report) == {"inserted": 2, "rejected": 1}
    assert report.rejects == [(4, "c: the subject needs a value")]
    found = {key: each.subject for key, each in records(instance, PERSON).items()}
    assert found["a"] == found["b"] is not None
    report = imported(instance, text.replace("a,P-1", "a,P-2"), declared=PERSON)
    assert counts(report) == {"unchanged": 1, "rejected": 2}


def test_records_of_other_groups_are_not_touched(instance: StoreInstance) -> None:
    red = Principal("red", groups=frozenset(["red"]))
    assert counts(imported(instance, GOOD, principal=red, group="red")) == {"inserted": 3}
    blue = Principal("blue", groups=frozenset(["blue"]))
    report = imported(instance, GOOD.replace("first", "x"), principal=blue)
    assert counts(report) == {"rejected": 3}
    with pytest.raises(ForbiddenError):
        imported(instance, GOOD, principal=blue, group="red")


def test_many_rows_go_in_batches_with_progress(instance: StoreInstance) -> None:
    text = "record_key,label\n" + "".join(f"k{n},l{n}\n" for n in range(1201))
    told: list[tuple[int, int, int]] = []
    path = file(instance, text)
    report = import_csv(
        path, SPECIMEN, instance=instance, principal=ANN, progress=lambda *step: told.append(step)
    )
    assert counts(report) == {"inserted": 1201}
    assert [rows for rows, _, _ in told] == [500, 1000, 1201]
    assert told[-1][1] == told[-1][2] == len(text)


def test_a_taken_proposal_is_written_and_settled(instance: StoreInstance) -> None:
    imported(instance, GOOD)
    type_in(instance, "a", label="typed")
    imported(instance, GOOD.replace("first", "second"))
    (waiting,) = proposals(instance=instance)
    assert waiting.now == "typed"
    type_in(instance, "a", label="again")
    with pytest.raises(RecordError, match="changed since"):
        take([waiting.id], instance=instance, principal=BEN)
    assert take([waiting.id], anyway=True, instance=instance, principal=BEN)
    assert records(instance)["a"].values["label"] == "second"
    assert proposals(instance=instance) == []
    (settled,) = proposals(settled=True, instance=instance)
    assert (settled.state, settled.settled_by) == ("taken", "ben")
    with pytest.raises(RecordError, match="no open proposal"):
        take([waiting.id], instance=instance)


CELLS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=80)
@example(rows=[["0"], ["0", "0", ""]], junk=b"")
@given(
    rows=st.lists(st.lists(CELLS, min_size=1, max_size=4), max_size=8), junk=st.binary(max_size=40)
)
def test_every_row_is_good_or_rejected_and_none_is_lost(
    tmp_path: Path, rows: list[list[str]], junk: bytes
) -> None:
    path = tmp_path / "any.csv"
    with path.open("w", encoding="utf-8", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["record_key", "label", "pieces"])
        writer.writerows(rows)
    with path.open("ab") as more:
        more.write(junk)
    found = [row for row, _ in CsvRows(path, SPECIMEN, CsvForm())]
    good = {row.key for row in found if isinstance(row, GoodRow)}
    seen = set()
    for cells in rows:
        key = cells[0].strip()
        fits = len(cells) == 3 and key and cells[1] and not cells[2].strip()
        if fits and key not in seen and "\x00" not in "".join(cells):
            assert key in good
        seen.add(key)  # a key that stands again is rejected, whatever its first line was
    # All of the file but its header and its empty lines is in one row or another.
    whole = b"".join(row.raw for row in found)
    kept = path.read_bytes().split(b"\r\n", 1)[1]
    assert whole.replace(b"\r", b"").replace(b"\n", b"") == kept.replace(b"\r", b"").replace(
        b"\n", b""
    )


def test_only_imports_give_the_reason_that_imports_are_known_by(instance: StoreInstance) -> None:
    report = imported(instance, GOOD)
    forged = f"import sha256:{report.digest} in.csv"
    obj = business_class(SPECIMEN)("a", instance=instance, principal=BEN)
    obj["label"] = "typed"
    result = obj.save_payload(reason=forged)
    assert (result.outcome, result.constraint) == (Outcome.INVALID, "reason")
    with pytest.raises(InvalidRecordError, match="only an import's"):
        obj.delete(reason=forged)
    with instance.store.write(BEN) as connection:
        assert obj.save(reason=forged, connection=connection) is Outcome.INVALID
    with pytest.raises(RecordError, match="only an import's"):
        take([], reason=forged, instance=instance)
    with pytest.raises(InvalidRecordError, match="only an import's"):
        list(adopt_all(BEN, forged, instance=instance))
    assert obj.save(reason="seen: import sha256:") is Outcome.SAVED
    assert counts(imported(instance, GOOD.replace("first", "second")))["overlapping"] == 1
    assert records(instance)["a"].values["label"] == "typed"


DOSED = RecordType(
    "dosed",
    (Field("dose", "real"), Field("unit")),
    groups=(FieldGroup("amount", ("dose", "unit")),),
)


@pytest.mark.parametrize("first", ["record_key,dose\na,5\n", "record_key,dose,unit\na,5,mg\n"])
def test_a_cell_does_not_join_what_people_made_of_a_field_beside(
    instance: StoreInstance, first: str
) -> None:
    apply_type(instance.store, DOSED, ANN)
    imported(instance, first, declared=DOSED)
    obj = business_class(DOSED)("a", instance=instance, principal=BEN)
    obj["unit"] = "g"
    assert obj.save()
    second = "record_key,dose\na,7\n"
    assert counts(imported(instance, second, declared=DOSED)) == {"overlapping": 1}
    assert records(instance, DOSED)["a"].values == {"dose": 5.0, "unit": "g"}
    assert ("dose", 7.0) in [(each.field, each.mine) for each in proposals(instance=instance)]
    assert counts(imported(instance, second, declared=DOSED, overwrite=True)) == {"updated": 1}
    assert records(instance, DOSED)["a"].values == {"dose": 7.0, "unit": "g"}


def test_a_time_that_utc_cannot_say_rejects_its_row_alone(instance: StoreInstance) -> None:
    report = imported(instance, GOOD.replace("2024-05-01T12:00:00Z", "0001-01-01T00:00:00+14:00"))
    assert counts(report) == {"inserted": 2, "rejected": 1}
