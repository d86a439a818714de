"""What comes in from files for records that are closed, or that change for a reason only."""

import json
from typing import Any

import pytest

from keepline.errors import ForbiddenError, InvalidRecordError
from keepline.model import Field, RecordType
from keepline.records import Outcome, apply_type, business_class, checkin, checkout
from keepline.records.bundles import Bundle
from keepline.records.checkins import CheckInReport
from keepline.records.importing import ImportOptions, ImportReport, import_csv
from keepline.records.outcomes import FINALISED, REASON_NEEDED
from keepline.records.proposals import proposals, take
from keepline.records.revisions import history
from tests.stores import ANN, BEN, StoreInstance

CLOSED = RecordType("closed", (Field("note"), Field("pieces", "integer")), finalised=True)
REASONED = RecordType("reasoned", (Field("note"), Field("pieces", "integer")), reason_required=True)
ROWS = "record_key,note,pieces\na,first,1\nb,second,2\n"


@pytest.fixture(autouse=True)
def _types(instance: StoreInstance) -> None:
    for declared in (CLOSED, REASONED):
        apply_type(instance.store, declared, ANN)


def imported(
    instance: StoreInstance, declared: RecordType, text: str, **options: Any
) -> ImportReport:
    path = instance.folder / "in.csv"
    path.write_text(text)
    given = ImportOptions(**options)
    return import_csv(path, declared, options=given, instance=instance, principal=ANN)


def edited(instance: StoreInstance, declared: RecordType, key: str, **values: Any) -> Bundle:
    bundle = checkout(declared, [key], instance=instance, principal=ANN)
    bundle.records[key].values.update(values)
    return bundle


def back(
    instance: StoreInstance, declared: RecordType, bundle: Bundle, **options: Any
) -> CheckInReport:
    again = Bundle.from_json(json.loads(json.dumps(bundle.to_json())))
    return checkin(again, declared, instance=instance, principal=ANN, **options)


def values(instance: StoreInstance, declared: RecordType, key: str = "a") -> dict[str, Any]:
    return business_class(declared)(key, instance=instance).original_payload


def finalise(instance: StoreInstance, key: str = "a") -> None:
    assert business_class(CLOSED)(key, instance=instance).finalise()


def test_an_import_rejects_rows_for_finalised_records_alone(instance: StoreInstance) -> None:
    imported(instance, CLOSED, ROWS)
    finalise(instance)
    assert imported(instance, CLOSED, ROWS).unchanged == 2
    later = ROWS.replace("1\n", "7\n").replace("2\n", "8\n")
    report = imported(instance, CLOSED, later)
    assert (report.updated, report.rejected) == (1, 1)
    assert report.rejects == [(2, FINALISED)]
    assert values(instance, CLOSED) == {"note": "first", "pieces": 1}
    assert values(instance, CLOSED, "b")["pieces"] == 8
    assert business_class(CLOSED)("a", instance=instance).reopen(None)
    assert imported(instance, CLOSED, later).updated == 1
    assert values(instance, CLOSED)["pieces"] == 7


def test_a_check_in_leaves_finalised_records_and_is_tried_again(instance: StoreInstance) -> None:
    imported(instance, CLOSED, ROWS)
    bundle = edited(instance, CLOSED, "a", pieces=7)
    finalise(instance)
    (refused,) = back(instance, CLOSED, bundle).refused
    assert (refused.outcome, refused.message) == (Outcome.FORBIDDEN, FINALISED)
    assert values(instance, CLOSED)["pieces"] == 1
    assert proposals(instance=instance) == []
    assert business_class(CLOSED)("a", instance=instance).reopen(None)
    (taken,) = back(instance, CLOSED, bundle).records
    assert taken.written == ("pieces",)
    finalise(instance)
    gone = edited(instance, CLOSED, "a")
    gone.records["a"].delete = True
    assert [each.outcome for each in back(instance, CLOSED, gone).refused] == [Outcome.FORBIDDEN]
    assert values(instance, CLOSED)["pieces"] == 7


def test_a_proposal_for_a_finalised_record_waits(instance: StoreInstance) -> None:
    imported(instance, CLOSED, ROWS)
    bundle = edited(instance, CLOSED, "a", note="mine")
    obj = business_class(CLOSED)("a", instance=instance, principal=BEN)
    obj["note"] = "theirs"
    assert obj.save()
    finalise(instance)
    (record,) = back(instance, CLOSED, bundle).records
    assert (record.outcome, record.proposed) == (Outcome.CONFLICT, ("note",))
    (waiting,) = proposals(instance=instance)
    with pytest.raises(ForbiddenError, match="finalised"):
        take([waiting.id], instance=instance, principal=ANN)
    assert [each.state for each in proposals(instance=instance)] == ["open"]


def test_an_import_needs_a_reason_to_change_and_none_to_add(instance: StoreInstance) -> None:
    assert imported(instance, REASONED, ROWS).inserted == 2
    later = ROWS.replace("1\n", "7\n") + "c,third,3\n"
    report = imported(instance, REASONED, later)
    assert (report.inserted, report.unchanged, report.rejected) == (1, 1, 1)
    assert report.rejects == [(2, REASON_NEEDED)]
    assert values(instance, REASONED)["pieces"] == 1
    report = imported(instance, REASONED, later, reason="counted again")
    assert (report.updated, report.rejected) == (1, 0)
    last = history(REASONED, "a", instance=instance)[-1]
    assert last.why is not None
    assert last.why.endswith(" in.csv: counted again")


@pytest.mark.parametrize("delete", [False, True])
def test_a_check_in_needs_a_reason(instance: StoreInstance, delete: bool) -> None:
    imported(instance, REASONED, ROWS)
    bundle = edited(instance, REASONED, "a", **({} if delete else {"pieces": 7}))
    bundle.records["a"].delete = delete
    (refused,) = back(instance, REASONED, bundle).refused
    assert (refused.outcome, refused.message) == (Outcome.INVALID, REASON_NEEDED)
    assert values(instance, REASONED)["pieces"] == 1
    report = back(instance, REASONED, bundle, reason="as measured")
    assert report.refused == []
    last = history(REASONED, "a", instance=instance)[-1]
    assert last.why == f"check-in of bundle {bundle.id}: as measured"
    assert last.op == ("delete" if delete else "update")


def test_a_proposal_is_taken_with_a_reason_only(instance: StoreInstance) -> None:
    imported(instance, REASONED, ROWS)
    bundle = edited(instance, REASONED, "a", note="mine")
    obj = business_class(REASONED)("a", instance=instance, principal=BEN)
    obj["note"] = "theirs"
    assert obj.save("read again")
    back(instance, REASONED, bundle)
    (waiting,) = proposals(instance=instance)
    with pytest.raises(InvalidRecordError, match=REASON_NEEDED):
        take([waiting.id], instance=instance, principal=ANN)
    take([waiting.id], reason="ann is right", instance=instance, principal=ANN)
    assert values(instance, REASONED)["note"] == "mine"
    assert history(REASONED, "a", instance=instance)[-1].why == "ann is right"
