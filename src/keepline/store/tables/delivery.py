"""The sent log; written by keepline.delivery alone.

`sent_log` holds one row an attempt, committed before the effect and completed after it.
`delivery_cursor` says how far into the change feed a recipient has looked, and
`delivery_backlog` which records it has seen there and not been sent yet: both can be made
again from the feed and the log.
"""

from __future__ import annotations

import sqlalchemy as sa

from keepline.store.tables.metadata import lookup, metadata
from keepline.store.types import BigInt, UtcDateTime

delivery_state = lookup("delivery_state")

sent_log = sa.Table(
    "sent_log",
    metadata,
    sa.Column("id", BigInt, primary_key=True, autoincrement=True),
    sa.Column("recipient", sa.Text, nullable=False),
    sa.Column("record_type", sa.Text, nullable=False),
    sa.Column("record_key", sa.Text, nullable=False),
    sa.Column("revision", sa.BigInteger, nullable=False),
    sa.Column("target_key", sa.Text, nullable=False),
    sa.Column("send_key", sa.Text, nullable=False),
    sa.Column("state", sa.ForeignKey("delivery_state.name"), nullable=False),
    sa.Column("started_at", UtcDateTime, nullable=False),
    sa.Column("finished_at", UtcDateTime),
    sa.Column("reason", sa.Text, nullable=False, server_default=""),
    sa.Index(
        "ix_sent_log_recipient_record_type_record_key",
        "recipient",
        "record_type",
        "record_key",
        "revision",
    ),
    # What a crash left without an outcome is found without reading the log.
    sa.Index(
        "ix_sent_log_open",
        "recipient",
        sqlite_where=sa.text("state = 'sending'"),
        postgresql_where=sa.text("state = 'sending'"),
    ),
    # One success for each sending: the database itself refuses to log a second one.
    sa.Index(
        "uq_sent_log_send_key",
        "send_key",
        unique=True,
        sqlite_where=sa.text("state = 'sent'"),
        postgresql_where=sa.text("state = 'sent'"),
    ),
)

delivery_cursor = sa.Table(
    "delivery_cursor",
    metadata,
    sa.Column("recipient", sa.Text, primary_key=True),
    sa.Column("criteria", sa.Text, nullable=False),
    sa.Column("txid", sa.BigInteger, nullable=False),
    sa.Column("feed_id", sa.BigInteger, nullable=False),
)

delivery_backlog = sa.Table(
    "delivery_backlog",
    metadata,
    sa.Column("recipient", sa.Text, primary_key=True),
    sa.Column("record_type", sa.Text, primary_key=True),
    sa.Column("record_key", sa.Text, primary_key=True),
    sa.Column("queued_at", UtcDateTime, nullable=False),
)

#: sending: begun, no outcome yet. sent: the recipient has it. failed: to be tried again.
#: refused: this revision will never be taken. unknown: nobody can tell; to be tried again.
ROWS = {delivery_state: ("sending", "sent", "failed", "refused", "unknown")}
