"""The session log; written by keepline.sessions alone.

`session_event` takes what comes and is never changed; `session` holds what follows from it;
`session_change` every status that a session had.
"""

from __future__ import annotations

import sqlalchemy as sa

from keepline.store.tables.metadata import lookup, metadata
from keepline.store.types import BigInt, UtcDateTime

event_type = lookup("event_type")
session_status = lookup("session_status")

session_event = sa.Table(
    "session_event",
    metadata,
    sa.Column("id", BigInt, primary_key=True, autoincrement=True),
    sa.Column("session_identifier", sa.Text, nullable=False),
    sa.Column("instrument", sa.ForeignKey("instrument.name"), nullable=False),
    sa.Column("happened_at", UtcDateTime, nullable=False),
    sa.Column("event_type", sa.ForeignKey("event_type.name"), nullable=False),
    sa.Column("user_name", sa.Text),
    sa.Column("recorded_at", UtcDateTime, nullable=False),
    sa.UniqueConstraint("session_identifier", "event_type", "happened_at", "instrument"),
)

session = sa.Table(
    "session",
    metadata,
    sa.Column("identifier", sa.Text, primary_key=True),
    sa.Column("instrument", sa.ForeignKey("instrument.name"), nullable=False),
    sa.Column("user_name", sa.Text),
    sa.Column("started_at", UtcDateTime),
    sa.Column("ended_at", UtcDateTime),
    sa.Column("status", sa.ForeignKey("session_status.name"), nullable=False),
    sa.Column("group_name", sa.Text),
    sa.CheckConstraint("ended_at >= started_at", name="order"),
    sa.CheckConstraint(
        "status <> 'TO_BE_BUILT' OR (started_at IS NOT NULL AND ended_at IS NOT NULL)",
        name="ready",
    ),
    sa.Index("ix_session_status_started_at", "status", "started_at"),
    sa.Index("ix_session_instrument_started_at", "instrument", "started_at"),
)

session_change = sa.Table(
    "session_change",
    metadata,
    sa.Column("id", BigInt, primary_key=True, autoincrement=True),
    sa.Column("session_identifier", sa.ForeignKey("session.identifier"), nullable=False),
    sa.Column("status", sa.ForeignKey("session_status.name"), nullable=False),
    sa.Column("changed_at", UtcDateTime, nullable=False),
    sa.Column("who", sa.Text, nullable=False),
    sa.Column("host", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Index("ix_session_change_session_identifier", "session_identifier"),
)

#: Rows that the closed sets are filled with.
ROWS = {
    event_type: ("START", "END", "RECORD_GENERATION"),
    session_status: (
        "COMPLETED",
        "WAITING_FOR_END",
        "TO_BE_BUILT",
        "ERROR",
        "NO_FILES_FOUND",
        "NO_CONSENT",
        "NO_RESERVATION",
    ),
}
