"""What represents records in logs and tracebacks shows none of their values."""

from datetime import UTC, datetime
from typing import Any

import pytest

from keepline.model import Field, RecordImage, RecordKey, RecordType
from keepline.records.bundles import Bundle, BundleRecord
from keepline.records.csv_rows import GoodRow, Reject
from keepline.records.merge import merge
from keepline.records.outcomes import Conflict, Outcome, SaveResult
from keepline.records.proposals import Proposal
from keepline.records.revisions import Change, Differences, Revision, SubrowChange

SECRET = "O'Brien"
NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
NOTE = RecordType("note", (Field("text"),))
NAME = RecordKey("note", "a")
VALUES = {"text": SECRET}
IMAGE = RecordImage(NOTE, "a", 1, None, 1, 1, VALUES, {"part": ({"part": "1", **VALUES},)})
CHANGE = Change(SECRET, SECRET)
SUBROW = SubrowChange("part", "1", "update", {"text": CHANGE})
RECORD = BundleRecord("a", VALUES, VALUES, "1.1", 1)
MERGED = merge(VALUES, VALUES, VALUES)
CONFLICT = Conflict(NAME, VALUES, VALUES, VALUES, MERGED.states, 1)


@pytest.mark.parametrize(
    "shown",
    [
        IMAGE,
        CHANGE,
        SUBROW,
        Differences({"text": CHANGE}, (SUBROW,)),
        Revision(NAME, 1, "update", "ann", NOON, SECRET, {"text": CHANGE}, (SUBROW,), IMAGE),
        RECORD,
        Bundle("0" * 32, "epoch", "note", "ann", NOON, {"a": RECORD}),
        MERGED,
        CONFLICT,
        SaveResult(Outcome.CONFLICT, CONFLICT.message, CONFLICT),
        Proposal(
            1, "b", NAME, "text", SECRET, SECRET, SECRET, SECRET, "open", "ann", NOON, None, None
        ),
        GoodRow(2, [SECRET], SECRET.encode(), "a", VALUES, SECRET),
        Reject(2, [SECRET], SECRET.encode(), "the key is empty"),
    ],
    ids=lambda shown: type(shown).__name__,
)
def test_no_value_is_shown(shown: Any) -> None:
    assert SECRET not in repr(shown)
