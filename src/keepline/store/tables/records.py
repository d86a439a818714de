"""What is kept about records; the feed, the history and the index are written by triggers alone.

The tables of the record types themselves are in `declared`.
"""

from __future__ import annotations

import sqlalchemy as sa

from keepline.store.tables.metadata import lookup, metadata
from keepline.store.types import BigInt, Json, UtcDateTime

feed_op = lookup("feed_op")
proposal_state = lookup("proposal_state")

record_type = sa.Table(
    "record_type",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("declaration", Json, nullable=False),
    sa.Column("applied_at", UtcDateTime, nullable=False),
)

#: Every declaration that a type had. `renames` maps former names of fields, sub-tables and their
#: fields (``subtable.field``) to those of this declaration; images in the history up to
#: `after_history` have the former ones.
record_type_change = sa.Table(
    "record_type_change",
    metadata,
    sa.Column("id", BigInt, primary_key=True, autoincrement=True),
    sa.Column("record_type", sa.Text, nullable=False),
    sa.Column("declaration", Json, nullable=False),
    sa.Column("renames", Json, nullable=False),
    sa.Column("after_history", sa.BigInteger, nullable=False),
    sa.Column("who", sa.Text, nullable=False),
    sa.Column("applied_at", UtcDateTime, nullable=False),
    sqlite_autoincrement=True,
)

#: People that records are about. Everything else holds their number alone; an erased one keeps
#: its number and loses its identifier.
subject = sa.Table(
    "subject",
    metadata,
    sa.Column("number", BigInt, primary_key=True, autoincrement=True),
    sa.Column("identifier", sa.Text, unique=True),
    sa.Column("group_name", sa.Text),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("erased_at", UtcDateTime),
    sa.CheckConstraint("(identifier IS NULL) = (erased_at IS NOT NULL)", name="erased"),
    sqlite_autoincrement=True,
)

#: One row for each revision of each record. `txid` is the writing transaction on PostgreSQL
#: (readers stop below the oldest one still running) and 0 on SQLite, where writers queue.
change_feed = sa.Table(
    "change_feed",
    metadata,
    sa.Column("id", BigInt, primary_key=True, autoincrement=True),
    sa.Column("record_type", sa.Text, nullable=False),
    sa.Column("record_key", sa.Text, nullable=False),
    sa.Column("revision", sa.BigInteger, nullable=False),
    sa.Column("op", sa.ForeignKey("feed_op.name"), nullable=False),
    sa.Column("txid", sa.BigInteger, nullable=False),
    sa.Column("actor", sa.Text),
    sa.Column("changed_at", UtcDateTime, nullable=False),
    sa.UniqueConstraint("record_type", "record_key", "revision"),
    sa.Index("ix_change_feed_txid_id", "txid", "id"),
    sqlite_autoincrement=True,
)

#: The state of each row of a record (`subtable` and `sub_key` are empty for the record's own row)
#: after each revision that changed it; who and when stand in the feed. `image` maps the names of
#: the fields to JSON values (see `records.images`); None for a deleted row, or when `erased`.
record_history = sa.Table(
    "record_history",
    metadata,
    sa.Column("id", BigInt, primary_key=True, autoincrement=True),
    sa.Column("record_type", sa.Text, nullable=False),
    sa.Column("record_key", sa.Text, nullable=False),
    sa.Column("revision", sa.BigInteger, nullable=False),
    sa.Column("subtable", sa.Text, nullable=False),
    sa.Column("sub_key", sa.Text, nullable=False),
    sa.Column("op", sa.ForeignKey("feed_op.name"), nullable=False),
    sa.Column("image", Json),
    sa.Column("reason", sa.Text),
    sa.Column("subject_no", sa.BigInteger),
    sa.Column("erased", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.UniqueConstraint(
        "record_type",
        "record_key",
        "revision",
        "subtable",
        "sub_key",
        name="uq_record_history_row",
    ),
    sa.Index("ix_record_history_subject_no", "subject_no"),
    sqlite_autoincrement=True,
)

#: The proof of the history: a salted digest of each row and a chain over all digests. The salt
#: goes with an erased image; digest and chain stay.
history_seal = sa.Table(
    "history_seal",
    metadata,
    sa.Column("history_id", BigInt, sa.ForeignKey("record_history.id"), primary_key=True),
    sa.Column("salt", sa.LargeBinary),
    sa.Column("digest", sa.LargeBinary, nullable=False),
    sa.Column("chain", sa.LargeBinary, nullable=False),
)

#: One row for each record that is or was there, for choosing among records of all types.
record_index = sa.Table(
    "record_index",
    metadata,
    sa.Column("record_type", sa.Text, primary_key=True),
    sa.Column("record_key", sa.Text, primary_key=True),
    sa.Column("revision", sa.BigInteger, nullable=False),
    sa.Column("group_name", sa.Text),
    sa.Column("subject_no", sa.BigInteger),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("changed_at", UtcDateTime, nullable=False),
    sa.Column("current", sa.Boolean, nullable=False),
    sa.Column("finalised", sa.Boolean, nullable=False),
    sa.Column("anonymous", sa.Boolean, nullable=False),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Index("ix_record_index_subject_no", "subject_no"),
    sa.Index("ix_record_index_record_type_changed_at", "record_type", "changed_at"),
)

#: What stays of an erased subject: numbers, a digest, who and why.
erasure = sa.Table(
    "erasure",
    metadata,
    sa.Column("id", BigInt, primary_key=True, autoincrement=True),
    sa.Column("subject_no", sa.BigInteger, nullable=False),
    sa.Column("digest", sa.Text, nullable=False),
    sa.Column("records", sa.BigInteger, nullable=False),
    sa.Column("images", sa.BigInteger, nullable=False),
    sa.Column("who", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("erased_at", UtcDateTime, nullable=False),
    sqlite_autoincrement=True,
)

#: What a bundle that was edited elsewhere came to for each record, so that it is taken once.
checkin = sa.Table(
    "checkin",
    metadata,
    sa.Column("bundle", sa.Text, primary_key=True),
    sa.Column("record_type", sa.Text, primary_key=True),
    sa.Column("record_key", sa.Text, primary_key=True),
    sa.Column("digest", sa.Text, primary_key=True),
    sa.Column("outcome", sa.Text, nullable=False),
    sa.Column("revision", sa.BigInteger),
    sa.Column("who", sa.Text, nullable=False),
    sa.Column("checked_in_at", UtcDateTime, nullable=False),
)

#: Values that came in with a bundle and could not be written, each kept until somebody decides.
proposal = sa.Table(
    "proposal",
    metadata,
    sa.Column("id", BigInt, primary_key=True, autoincrement=True),
    sa.Column("bundle", sa.Text, nullable=False),
    sa.Column("record_type", sa.Text, nullable=False),
    sa.Column("record_key", sa.Text, nullable=False),
    sa.Column("field", sa.Text, nullable=False),
    sa.Column("base", Json),
    sa.Column("mine", Json),
    sa.Column("theirs", Json),
    sa.Column("revision", sa.BigInteger),
    sa.Column("subject_no", sa.BigInteger),
    sa.Column("group_name", sa.Text),
    sa.Column("state", sa.ForeignKey("proposal_state.name"), nullable=False),
    sa.Column("who", sa.Text, nullable=False),
    sa.Column("proposed_at", UtcDateTime, nullable=False),
    sa.Column("settled_by", sa.Text),
    sa.Column("settled_at", UtcDateTime),
    sa.Index("ix_proposal_record_type_record_key", "record_type", "record_key"),
    sqlite_autoincrement=True,
)

ROWS = {
    feed_op: ("insert", "update", "delete"),
    proposal_state: ("open", "taken", "dropped"),
}
