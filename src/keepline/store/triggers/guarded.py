"""The fixed tables that nobody writes at will, the same on either database."""

from __future__ import annotations

#: Logs: rows are added and never change.
APPEND_ONLY = (
    "session_event",
    "session_change",
    "capture_session_change",
    "record_type_change",
    "erasure",
)

#: Logs about records: only an erasure changes a row, and only in these columns.
ERASABLE = {
    "change_feed": ("record_key", "actor"),
    "record_history": ("record_key", "sub_key", "image", "reason", "subject_no", "erased"),
    "history_seal": ("salt",),
}

#: Tables that only an erasure or a program with other rules empties row by row.
NEVER_TRUNCATED = (*APPEND_ONLY, *ERASABLE, "record_index", "subject", "sent_log")

STAMPS = "keepline: the database stamps tokens and revisions"
FIXED_KEY = "keepline: a record never changes its key"
FINALISED = "keepline: the record is finalised"
NO_REASON = "keepline: a reason is required"
ERASED = "keepline: the subject is erased"
SENT_FINAL = "keepline: a sent row is never changed"
