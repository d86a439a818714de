"""The archive of captured readings; written by keepline.capture alone.

A message is one `queue()` call, a reading one channel's value at one time. Columns that end
in `_us` are UTC microseconds since 1970.
"""

from __future__ import annotations

import sqlalchemy as sa

from keepline.store.tables.metadata import lookup, metadata
from keepline.store.types import BigInt, Json, UtcDateTime

capture_state = lookup("capture_state")
gap_kind = lookup("gap_kind")

capture_session = sa.Table(
    "capture_session",
    metadata,
    sa.Column("id", BigInt, primary_key=True, autoincrement=True),
    sa.Column("store_id", sa.Text, nullable=False),
    sa.Column("number", sa.BigInteger, nullable=False),
    sa.Column("global_name", sa.Text, nullable=False, unique=True),
    sa.Column("instrument", sa.ForeignKey("instrument.name"), nullable=False, index=True),
    sa.Column("user_name", sa.Text, nullable=False),
    sa.Column("state", sa.ForeignKey("capture_state.name"), nullable=False),
    sa.Column("started_at", UtcDateTime, nullable=False),
    sa.Column("ended_at", UtcDateTime),
    sa.Column("origin", sa.Text),
    sa.Column("group_name", sa.Text),
    sa.UniqueConstraint("store_id", "number"),
)

#: Every state that an archived session was in, appended.
capture_session_change = sa.Table(
    "capture_session_change",
    metadata,
    sa.Column("id", BigInt, primary_key=True, autoincrement=True),
    sa.Column("session_id", sa.ForeignKey("capture_session.id"), nullable=False, index=True),
    sa.Column("state", sa.ForeignKey("capture_state.name"), nullable=False),
    sa.Column("changed_at", UtcDateTime, nullable=False),
    sa.Column("who", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
)

stream = sa.Table(
    "stream",
    metadata,
    sa.Column("session_id", sa.ForeignKey("capture_session.id"), primary_key=True),
    sa.Column("source", sa.Text, primary_key=True),
    sa.Column("decoder", sa.Text, nullable=False),
    sa.Column("options", Json, nullable=False),
    sa.Column("step_us", sa.BigInteger),
    sa.Column("messages", sa.BigInteger, nullable=False),
    sa.Column("readings", sa.BigInteger, nullable=False),
    sa.Column("quarantined", sa.BigInteger, nullable=False),
    sa.Column("last_time_us", sa.BigInteger),
)

channel = sa.Table(
    "channel",
    metadata,
    sa.Column("id", BigInt, primary_key=True, autoincrement=True),
    sa.Column("session_id", sa.ForeignKey("capture_session.id"), nullable=False),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("dtype", sa.Text, nullable=False),
    sa.Column("unit", sa.Text),
    sa.UniqueConstraint("session_id", "source", "name"),
)

#: Readings of consecutive messages, columnar and compressed as `codec` says.
block = sa.Table(
    "block",
    metadata,
    sa.Column("id", BigInt, primary_key=True, autoincrement=True),
    sa.Column("session_id", sa.ForeignKey("capture_session.id"), nullable=False),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("first_seq", sa.BigInteger, nullable=False),
    sa.Column("last_seq", sa.BigInteger, nullable=False),
    sa.Column("readings", sa.Integer, nullable=False),
    sa.Column("crc", sa.BigInteger, nullable=False),
    sa.Column("codec", sa.Text, nullable=False),
    sa.Column("payload", sa.LargeBinary, nullable=False),
    sa.UniqueConstraint("session_id", "source", "first_seq"),
    sa.CheckConstraint("last_seq >= first_seq", name="range"),
)

#: One row a channel and block; n, min, max and total leave missing values out.
block_stat = sa.Table(
    "block_stat",
    metadata,
    sa.Column("block_id", sa.ForeignKey("block.id"), primary_key=True),
    sa.Column("channel_id", sa.ForeignKey("channel.id"), primary_key=True, index=True),
    sa.Column("n", sa.Integer, nullable=False),
    sa.Column("min", sa.Double),
    sa.Column("max", sa.Double),
    sa.Column("total", sa.Double),
    sa.Column("first", sa.Double),
    sa.Column("last", sa.Double),
    sa.Column("first_us", sa.BigInteger),
    sa.Column("last_us", sa.BigInteger),
)

#: Holes and disorder in a stream: between the message `after_seq` and the next one.
gap = sa.Table(
    "gap",
    metadata,
    sa.Column("session_id", sa.ForeignKey("capture_session.id"), primary_key=True),
    sa.Column("source", sa.Text, primary_key=True),
    sa.Column("kind", sa.ForeignKey("gap_kind.name"), primary_key=True),
    sa.Column("after_seq", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("from_us", sa.BigInteger, nullable=False),
    sa.Column("until_us", sa.BigInteger, nullable=False),
)

#: Rows that the closed sets are filled with.
ROWS = {
    capture_state: ("running", "complete", "partial", "interrupted", "empty"),
    gap_kind: ("time", "disorder", "sequence"),
}
