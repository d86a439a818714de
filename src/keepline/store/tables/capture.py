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
capture_level = lookup("capture_level")
value_type = lookup("value_type")

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
    sa.Column("level", sa.ForeignKey("capture_level.name"), nullable=False),
    sa.UniqueConstraint("store_id", "number"),
)

#: Every state that an archived session was in, appended. They stay when the session is deleted,
#: so they have its global name.
capture_session_change = sa.Table(
    "capture_session_change",
    metadata,
    sa.Column("id", BigInt, primary_key=True, autoincrement=True),
    sa.Column("session_name", sa.Text, nullable=False, index=True),
    sa.Column("state", sa.ForeignKey("capture_state.name"), nullable=False),
    sa.Column("changed_at", UtcDateTime, nullable=False),
    sa.Column("who", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
)

#: How far each stream is archived. `messages` is the number of the next message, of which
#: `lost` never came; `last_tick` is counted on over the device's wrap-around, and
#: `clock_offset_us` is by how much the host's wall clock was ahead of its monotonic one.
#: `last_time_us` is of the message `last_good_seq`, which came at `arrived_us`; `after_hole`
#: says that messages are missing behind it.
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
    sa.Column("lost", sa.BigInteger, nullable=False),
    sa.Column("last_time_us", sa.BigInteger),
    sa.Column("clock", Json),
    sa.Column("last_tick", sa.BigInteger),
    sa.Column("clock_offset_us", sa.BigInteger),
    sa.Column("arrived_us", sa.BigInteger),
    sa.Column("last_good_seq", sa.BigInteger),
    sa.Column("after_hole", sa.Boolean),
)

channel = sa.Table(
    "channel",
    metadata,
    sa.Column("id", BigInt, primary_key=True, autoincrement=True),
    sa.Column("session_id", sa.ForeignKey("capture_session.id"), nullable=False),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("dtype", sa.ForeignKey("value_type.name"), nullable=False),
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

#: The messages that a block was decoded from, compressed as `codec` says. A block that was
#: added by hand has none.
block_raw = sa.Table(
    "block_raw",
    metadata,
    sa.Column("block_id", sa.ForeignKey("block.id"), primary_key=True),
    sa.Column("codec", sa.Text, nullable=False),
    sa.Column("payload", sa.LargeBinary, nullable=False),
)

#: One row a channel and block; n, min, max and total leave missing values out. `min_us` and
#: `max_us` are when the first least and the first greatest value came.
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
    sa.Column("min_us", sa.BigInteger),
    sa.Column("max_us", sa.BigInteger),
)

#: Holes and disorder in a stream: between the message `after_seq` and the next one that is
#: there. `missing` is how many messages are, where that is known.
gap = sa.Table(
    "gap",
    metadata,
    sa.Column("session_id", sa.ForeignKey("capture_session.id"), primary_key=True),
    sa.Column("source", sa.Text, primary_key=True),
    sa.Column("kind", sa.ForeignKey("gap_kind.name"), primary_key=True),
    sa.Column("after_seq", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("from_us", sa.BigInteger, nullable=False),
    sa.Column("until_us", sa.BigInteger, nullable=False),
    sa.Column("missing", sa.BigInteger),
    sa.Column("reason", sa.Text),
)

#: What a device's ticks are in UTC, for the messages `first_seq` to `last_seq`: at
#: `first_tick` it was `origin_us`, and each tick took `tick_us`. Residuals are in microseconds.
#: The line was fitted to `n` messages whose ticks, counted from `first_tick`, have the mean
#: `mean_tick` and the standard deviation `spread_ticks`; with these it can be fitted on.
clock_fit = sa.Table(
    "clock_fit",
    metadata,
    sa.Column("session_id", sa.ForeignKey("capture_session.id"), primary_key=True),
    sa.Column("source", sa.Text, primary_key=True),
    sa.Column("first_seq", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("last_seq", sa.BigInteger, nullable=False),
    sa.Column("first_tick", sa.BigInteger, nullable=False),
    sa.Column("origin_us", sa.BigInteger, nullable=False),
    sa.Column("tick_us", sa.Double, nullable=False),
    sa.Column("rms_residual_us", sa.Double, nullable=False),
    sa.Column("max_residual_us", sa.Double, nullable=False),
    sa.Column("n", sa.BigInteger, nullable=False),
    sa.Column("mean_tick", sa.Double, nullable=False),
    sa.Column("spread_ticks", sa.Double, nullable=False),
)

#: The sessions that a capture store elsewhere says it has, and whether the archive has all of it.
listed_session = sa.Table(
    "listed_session",
    metadata,
    sa.Column("store_id", sa.Text, primary_key=True),
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("started_at", UtcDateTime, nullable=False),
    sa.Column("ended_at", UtcDateTime),
    sa.Column("messages", sa.BigInteger, nullable=False),
    sa.Column("available", sa.Boolean, nullable=False),
)

category = sa.Table(
    "category",
    metadata,
    sa.Column("id", BigInt, primary_key=True, autoincrement=True),
    sa.Column("name", sa.Text, nullable=False, unique=True),
    sa.Column("unit", sa.Text),
)

#: The latest values by category, for display.
cached_reading = sa.Table(
    "cached_reading",
    metadata,
    sa.Column("id", BigInt, primary_key=True, autoincrement=True),
    sa.Column("category_id", sa.ForeignKey("category.id"), nullable=False),
    sa.Column("logged_us", sa.BigInteger, nullable=False),
    sa.Column("value", Json, nullable=False),
    sa.Index("ix_cached_reading_category_id_logged_us", "category_id", "logged_us"),
)

#: Settings that programs keep with the data. Secrets do not belong here.
config_item = sa.Table(
    "config_item",
    metadata,
    sa.Column("id", BigInt, primary_key=True, autoincrement=True),
    sa.Column("key", sa.Text, nullable=False, unique=True),
    sa.Column("value", Json),
    sa.Column("changed_at", UtcDateTime, nullable=False),
    sa.Column("who", sa.Text, nullable=False),
)

#: What went wrong, for people to see and to put aside.
notification = sa.Table(
    "notification",
    metadata,
    sa.Column("id", BigInt, primary_key=True, autoincrement=True),
    sa.Column("description", sa.Text, nullable=False),
    sa.Column("severity", sa.Integer, nullable=False),
    sa.Column("logged_at", UtcDateTime, nullable=False),
)

#: Rows that the closed sets are filled with.
ROWS = {
    capture_state: ("running", "complete", "partial", "interrupted", "empty"),
    gap_kind: (
        "time",
        "disorder",
        "sequence",
        "loss",
        "damage",
        "counter",
        "reset",
        "clock",
        "count",
    ),
    capture_level: ("accepted", "stored", "fsynced", "archived"),
    value_type: ("float64", "int64", "bool", "text"),
}
