"""Tables that belong to the instance as a whole."""

from __future__ import annotations

import sqlalchemy as sa

from keepline.store.tables.metadata import metadata
from keepline.store.types import BigInt, UtcDateTime

instance = sa.Table(
    "instance",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("store_id", sa.Text, nullable=False),
    sa.Column("epoch", sa.Text, nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    # Of the table and not of the column, where Alembic would not see it.
    sa.CheckConstraint("id = 1", name="one_row"),
)

#: Each restore from a backup: the life of the instance that ended with it, and how far its feed
#: went. The next revision of a record from before is above `revision_floor`, as revisions that
#: were made, and delivered, after the backup are not known here.
restored = sa.Table(
    "restored",
    metadata,
    sa.Column("id", BigInt, primary_key=True, autoincrement=True),
    sa.Column("epoch", sa.Text, nullable=False),
    sa.Column("after_feed", sa.BigInteger, nullable=False),
    sa.Column("revision_floor", sa.BigInteger, nullable=False),
    sa.Column("restored_at", UtcDateTime, nullable=False),
)

instrument = sa.Table(
    "instrument",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("tz", sa.Text, nullable=False),
    sa.Column("group_name", sa.Text),
    sa.Column("comment", sa.Text, nullable=False),
)

#: Input that could not be taken, kept whole. `origin` says where it came from, `position` the
#: line or sequence number there; the same bytes from the same place are kept once.
quarantine = sa.Table(
    "quarantine",
    metadata,
    sa.Column("id", BigInt, primary_key=True, autoincrement=True),
    sa.Column("part", sa.Text, nullable=False),
    sa.Column("origin", sa.Text, nullable=False),
    sa.Column("position", sa.BigInteger, nullable=False),
    sa.Column("raw", sa.LargeBinary, nullable=False),
    sa.Column("digest", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.UniqueConstraint("part", "origin", "position", "digest"),
)
