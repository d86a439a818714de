"""The first schema: capture archive, session log, records, deliveries, downloads."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from keepline.store.types import BigInt, Json, UtcDateTime

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_LOOKUP_ROWS = (
    ("capture_state", ("running", "complete", "partial", "interrupted", "empty")),
    ("gap_kind", ("time", "disorder", "sequence")),
    ("event_type", ("START", "END", "RECORD_GENERATION")),
    (
        "session_status",
        (
            "COMPLETED",
            "WAITING_FOR_END",
            "TO_BE_BUILT",
            "ERROR",
            "NO_FILES_FOUND",
            "NO_CONSENT",
            "NO_RESERVATION",
        ),
    ),
    ("feed_op", ("insert", "update", "delete")),
    ("delivery_state", ("sending", "sent", "failed", "refused", "unknown")),
)


def upgrade() -> None:
    """Make every table and fill the closed sets."""
    op.create_table(
        "capture_state",
        sa.Column("name", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_capture_state")),
    )
    op.create_table(
        "delivery_backlog",
        sa.Column("recipient", sa.Text(), nullable=False),
        sa.Column("record_type", sa.Text(), nullable=False),
        sa.Column("record_key", sa.Text(), nullable=False),
        sa.Column("queued_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint(
            "recipient", "record_type", "record_key", name=op.f("pk_delivery_backlog")
        ),
    )
    op.create_table(
        "delivery_cursor",
        sa.Column("recipient", sa.Text(), nullable=False),
        sa.Column("criteria", sa.Text(), nullable=False),
        sa.Column("txid", sa.BigInteger(), nullable=False),
        sa.Column("feed_id", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("recipient", name=op.f("pk_delivery_cursor")),
    )
    op.create_table(
        "delivery_state",
        sa.Column("name", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_delivery_state")),
    )
    op.create_table(
        "download",
        sa.Column("id", BigInt, autoincrement=True, nullable=False),
        sa.Column("who", sa.Text(), nullable=False),
        sa.Column("made_at", UtcDateTime(), nullable=False),
        sa.Column("filename", sa.Text(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("options", Json, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_download")),
    )
    op.create_table(
        "event_type",
        sa.Column("name", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_event_type")),
    )
    op.create_table(
        "feed_op",
        sa.Column("name", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_feed_op")),
    )
    op.create_table(
        "gap_kind",
        sa.Column("name", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_gap_kind")),
    )
    op.create_table(
        "instance",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("store_id", sa.Text(), nullable=False),
        sa.Column("epoch", sa.Text(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_instance_one_row")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_instance")),
    )
    op.create_table(
        "instrument",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("tz", sa.Text(), nullable=False),
        sa.Column("group_name", sa.Text(), nullable=True),
        sa.Column("comment", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_instrument")),
    )
    op.create_table(
        "quarantine",
        sa.Column("id", BigInt, autoincrement=True, nullable=False),
        sa.Column("part", sa.Text(), nullable=False),
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("raw", sa.LargeBinary(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_quarantine")),
        sa.UniqueConstraint(
            "part",
            "origin",
            "position",
            "digest",
            name=op.f("uq_quarantine_part_origin_position_digest"),
        ),
    )
    op.create_table(
        "record_type",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("declaration", Json, nullable=False),
        sa.Column("applied_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_record_type")),
    )
    op.create_table(
        "session_status",
        sa.Column("name", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_session_status")),
    )
    op.create_table(
        "capture_session",
        sa.Column("id", BigInt, autoincrement=True, nullable=False),
        sa.Column("store_id", sa.Text(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("global_name", sa.Text(), nullable=False),
        sa.Column("instrument", sa.Text(), nullable=False),
        sa.Column("user_name", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("started_at", UtcDateTime(), nullable=False),
        sa.Column("ended_at", UtcDateTime(), nullable=True),
        sa.Column("origin", sa.Text(), nullable=True),
        sa.Column("group_name", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["instrument"],
            ["instrument.name"],
            name=op.f("fk_capture_session_instrument_instrument"),
        ),
        sa.ForeignKeyConstraint(
            ["state"], ["capture_state.name"], name=op.f("fk_capture_session_state_capture_state")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_capture_session")),
        sa.UniqueConstraint("global_name", name=op.f("uq_capture_session_global_name")),
        sa.UniqueConstraint("store_id", "number", name=op.f("uq_capture_session_store_id_number")),
    )
    op.create_index(
        op.f("ix_capture_session_instrument"), "capture_session", ["instrument"], unique=False
    )
    op.create_table(
        "change_feed",
        sa.Column("id", BigInt, autoincrement=True, nullable=False),
        sa.Column("record_type", sa.Text(), nullable=False),
        sa.Column("record_key", sa.Text(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("op", sa.Text(), nullable=False),
        sa.Column("txid", sa.BigInteger(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=True),
        sa.Column("changed_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(["op"], ["feed_op.name"], name=op.f("fk_change_feed_op_feed_op")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_change_feed")),
        sa.UniqueConstraint(
            "record_type",
            "record_key",
            "revision",
            name=op.f("uq_change_feed_record_type_record_key_revision"),
        ),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_change_feed_txid_id", "change_feed", ["txid", "id"], unique=False)
    op.create_table(
        "download_record",
        sa.Column("download_id", BigInt, nullable=False),
        sa.Column("record_type", sa.Text(), nullable=False),
        sa.Column("record_key", sa.Text(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["download_id"], ["download.id"], name=op.f("fk_download_record_download_id_download")
        ),
        sa.PrimaryKeyConstraint(
            "download_id", "record_type", "record_key", name=op.f("pk_download_record")
        ),
    )
    op.create_table(
        "sent_log",
        sa.Column("id", BigInt, autoincrement=True, nullable=False),
        sa.Column("recipient", sa.Text(), nullable=False),
        sa.Column("record_type", sa.Text(), nullable=False),
        sa.Column("record_key", sa.Text(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("target_key", sa.Text(), nullable=False),
        sa.Column("send_key", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("started_at", UtcDateTime(), nullable=False),
        sa.Column("finished_at", UtcDateTime(), nullable=True),
        sa.Column("reason", sa.Text(), server_default="", nullable=False),
        sa.ForeignKeyConstraint(
            ["state"], ["delivery_state.name"], name=op.f("fk_sent_log_state_delivery_state")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sent_log")),
    )
    op.create_index(
        "ix_sent_log_open",
        "sent_log",
        ["recipient"],
        unique=False,
        sqlite_where=sa.text("state = 'sending'"),
        postgresql_where=sa.text("state = 'sending'"),
    )
    op.create_index(
        "ix_sent_log_recipient_record_type_record_key",
        "sent_log",
        ["recipient", "record_type", "record_key", "revision"],
        unique=False,
    )
    op.create_index(
        "uq_sent_log_send_key",
        "sent_log",
        ["send_key"],
        unique=True,
        sqlite_where=sa.text("state = 'sent'"),
        postgresql_where=sa.text("state = 'sent'"),
    )
    op.create_table(
        "session",
        sa.Column("identifier", sa.Text(), nullable=False),
        sa.Column("instrument", sa.Text(), nullable=False),
        sa.Column("user_name", sa.Text(), nullable=True),
        sa.Column("started_at", UtcDateTime(), nullable=True),
        sa.Column("ended_at", UtcDateTime(), nullable=True),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("group_name", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "status <> 'TO_BE_BUILT' OR (started_at IS NOT NULL AND ended_at IS NOT NULL)",
            name=op.f("ck_session_ready"),
        ),
        sa.CheckConstraint("ended_at >= started_at", name=op.f("ck_session_order")),
        sa.ForeignKeyConstraint(
            ["instrument"], ["instrument.name"], name=op.f("fk_session_instrument_instrument")
        ),
        sa.ForeignKeyConstraint(
            ["status"], ["session_status.name"], name=op.f("fk_session_status_session_status")
        ),
        sa.PrimaryKeyConstraint("identifier", name=op.f("pk_session")),
    )
    op.create_index(
        "ix_session_instrument_started_at", "session", ["instrument", "started_at"], unique=False
    )
    op.create_index(
        "ix_session_status_started_at", "session", ["status", "started_at"], unique=False
    )
    op.create_table(
        "session_event",
        sa.Column("id", BigInt, autoincrement=True, nullable=False),
        sa.Column("session_identifier", sa.Text(), nullable=False),
        sa.Column("instrument", sa.Text(), nullable=False),
        sa.Column("happened_at", UtcDateTime(), nullable=False),
        sa.Column("event_type", sa.Text(), nullable=False),
        sa.Column("user_name", sa.Text(), nullable=True),
        sa.Column("recorded_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["event_type"], ["event_type.name"], name=op.f("fk_session_event_event_type_event_type")
        ),
        sa.ForeignKeyConstraint(
            ["instrument"], ["instrument.name"], name=op.f("fk_session_event_instrument_instrument")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_session_event")),
        sa.UniqueConstraint(
            "session_identifier",
            "event_type",
            "happened_at",
            "instrument",
            name=op.f("uq_session_event_session_identifier_event_type_happened_at_instrument"),
        ),
    )
    op.create_table(
        "block",
        sa.Column("id", BigInt, autoincrement=True, nullable=False),
        sa.Column("session_id", BigInt, nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("first_seq", sa.BigInteger(), nullable=False),
        sa.Column("last_seq", sa.BigInteger(), nullable=False),
        sa.Column("readings", sa.Integer(), nullable=False),
        sa.Column("crc", sa.BigInteger(), nullable=False),
        sa.Column("codec", sa.Text(), nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.CheckConstraint("last_seq >= first_seq", name=op.f("ck_block_range")),
        sa.ForeignKeyConstraint(
            ["session_id"], ["capture_session.id"], name=op.f("fk_block_session_id_capture_session")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_block")),
        sa.UniqueConstraint(
            "session_id", "source", "first_seq", name=op.f("uq_block_session_id_source_first_seq")
        ),
    )
    op.create_table(
        "capture_session_change",
        sa.Column("id", BigInt, autoincrement=True, nullable=False),
        sa.Column("session_id", BigInt, nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("changed_at", UtcDateTime(), nullable=False),
        sa.Column("who", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["session_id"],
            ["capture_session.id"],
            name=op.f("fk_capture_session_change_session_id_capture_session"),
        ),
        sa.ForeignKeyConstraint(
            ["state"],
            ["capture_state.name"],
            name=op.f("fk_capture_session_change_state_capture_state"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_capture_session_change")),
    )
    op.create_index(
        op.f("ix_capture_session_change_session_id"),
        "capture_session_change",
        ["session_id"],
        unique=False,
    )
    op.create_table(
        "channel",
        sa.Column("id", BigInt, autoincrement=True, nullable=False),
        sa.Column("session_id", BigInt, nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("dtype", sa.Text(), nullable=False),
        sa.Column("unit", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["session_id"],
            ["capture_session.id"],
            name=op.f("fk_channel_session_id_capture_session"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_channel")),
        sa.UniqueConstraint(
            "session_id", "source", "name", name=op.f("uq_channel_session_id_source_name")
        ),
    )
    op.create_table(
        "gap",
        sa.Column("session_id", BigInt, nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("after_seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("from_us", sa.BigInteger(), nullable=False),
        sa.Column("until_us", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["kind"], ["gap_kind.name"], name=op.f("fk_gap_kind_gap_kind")),
        sa.ForeignKeyConstraint(
            ["session_id"], ["capture_session.id"], name=op.f("fk_gap_session_id_capture_session")
        ),
        sa.PrimaryKeyConstraint("session_id", "source", "kind", "after_seq", name=op.f("pk_gap")),
    )
    op.create_table(
        "session_change",
        sa.Column("id", BigInt, autoincrement=True, nullable=False),
        sa.Column("session_identifier", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("changed_at", UtcDateTime(), nullable=False),
        sa.Column("who", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["session_identifier"],
            ["session.identifier"],
            name=op.f("fk_session_change_session_identifier_session"),
        ),
        sa.ForeignKeyConstraint(
            ["status"],
            ["session_status.name"],
            name=op.f("fk_session_change_status_session_status"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_session_change")),
    )
    op.create_index(
        "ix_session_change_session_identifier",
        "session_change",
        ["session_identifier"],
        unique=False,
    )
    op.create_table(
        "stream",
        sa.Column("session_id", BigInt, nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("decoder", sa.Text(), nullable=False),
        sa.Column("options", Json, nullable=False),
        sa.Column("step_us", sa.BigInteger(), nullable=True),
        sa.Column("messages", sa.BigInteger(), nullable=False),
        sa.Column("readings", sa.BigInteger(), nullable=False),
        sa.Column("quarantined", sa.BigInteger(), nullable=False),
        sa.Column("last_time_us", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(
            ["session_id"],
            ["capture_session.id"],
            name=op.f("fk_stream_session_id_capture_session"),
        ),
        sa.PrimaryKeyConstraint("session_id", "source", name=op.f("pk_stream")),
    )
    op.create_table(
        "block_stat",
        sa.Column("block_id", BigInt, nullable=False),
        sa.Column("channel_id", BigInt, nullable=False),
        sa.Column("n", sa.Integer(), nullable=False),
        sa.Column("min", sa.Double(), nullable=True),
        sa.Column("max", sa.Double(), nullable=True),
        sa.Column("total", sa.Double(), nullable=True),
        sa.Column("first", sa.Double(), nullable=True),
        sa.Column("last", sa.Double(), nullable=True),
        sa.Column("first_us", sa.BigInteger(), nullable=True),
        sa.Column("last_us", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(
            ["block_id"], ["block.id"], name=op.f("fk_block_stat_block_id_block")
        ),
        sa.ForeignKeyConstraint(
            ["channel_id"], ["channel.id"], name=op.f("fk_block_stat_channel_id_channel")
        ),
        sa.PrimaryKeyConstraint("block_id", "channel_id", name=op.f("pk_block_stat")),
    )
    op.create_index(op.f("ix_block_stat_channel_id"), "block_stat", ["channel_id"], unique=False)
    for table, names in _LOOKUP_ROWS:
        op.bulk_insert(
            sa.table(table, sa.column("name", sa.Text)), [{"name": name} for name in names]
        )
