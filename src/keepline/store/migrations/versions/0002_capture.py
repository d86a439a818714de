"""Capture: levels, typed values, raw messages, clocks, losses, and the small tables beside."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from keepline.store.types import BigInt, Json, UtcDateTime

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_LOOKUP_ROWS = (
    ("gap_kind", ("loss", "damage", "counter", "reset", "clock", "count")),
    ("capture_level", ("accepted", "stored", "fsynced", "archived")),
    ("value_type", ("float64", "int64", "bool", "text")),
)


def upgrade() -> None:
    """Make the new tables and bring the others up to date."""
    _closed_sets()
    _changed_tables()
    _session_changes()
    _stream_tables()
    _small_tables()


def _closed_sets() -> None:
    for name in ("capture_level", "value_type"):
        op.create_table(
            name,
            sa.Column("name", sa.Text(), nullable=False),
            sa.PrimaryKeyConstraint("name", name=op.f(f"pk_{name}")),
        )
    for name, values in _LOOKUP_ROWS:
        table = sa.table(name, sa.column("name", sa.Text))
        op.bulk_insert(table, [{"name": value} for value in values])


def _changed_tables() -> None:
    with op.batch_alter_table("capture_session") as batch:
        batch.add_column(sa.Column("level", sa.Text(), nullable=False, server_default="stored"))
        batch.create_foreign_key(
            op.f("fk_capture_session_level_capture_level"), "capture_level", ["level"], ["name"]
        )
    with op.batch_alter_table("capture_session") as batch:
        batch.alter_column("level", existing_type=sa.Text(), server_default=None)
    with op.batch_alter_table("stream") as batch:
        batch.add_column(sa.Column("lost", sa.BigInteger(), nullable=False, server_default="0"))
        batch.add_column(sa.Column("clock", Json))
        batch.add_column(sa.Column("last_tick", sa.BigInteger()))
        batch.add_column(sa.Column("clock_offset_us", sa.BigInteger()))
        batch.add_column(sa.Column("arrived_us", sa.BigInteger()))
        batch.add_column(sa.Column("last_good_seq", sa.BigInteger()))
        batch.add_column(sa.Column("after_hole", sa.Boolean()))
    with op.batch_alter_table("stream") as batch:
        batch.alter_column("lost", existing_type=sa.BigInteger(), server_default=None)
    with op.batch_alter_table("channel") as batch:
        batch.create_foreign_key(
            op.f("fk_channel_dtype_value_type"), "value_type", ["dtype"], ["name"]
        )
    for table, columns in (
        ("block_stat", ("min_us", "max_us")),
        ("gap", ("missing",)),
    ):
        for column in columns:
            op.add_column(table, sa.Column(column, sa.BigInteger()))
    op.add_column("gap", sa.Column("reason", sa.Text()))


def _session_changes() -> None:
    # They name their session now, so that they stay when it is deleted. Made anew: rows of an
    # append-only table cannot be updated.
    op.execute(
        "CREATE TABLE old_change AS SELECT c.id, s.global_name AS session_name, c.state,"
        " c.changed_at, c.who, c.reason FROM capture_session_change c"
        " JOIN capture_session s ON s.id = c.session_id"
    )
    op.drop_table("capture_session_change")
    op.create_table(
        "capture_session_change",
        sa.Column("id", BigInt, autoincrement=True, nullable=False),
        sa.Column("session_name", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("changed_at", UtcDateTime(), nullable=False),
        sa.Column("who", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["state"],
            ["capture_state.name"],
            name=op.f("fk_capture_session_change_state_capture_state"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_capture_session_change")),
    )
    op.create_index(
        op.f("ix_capture_session_change_session_name"),
        "capture_session_change",
        ["session_name"],
        unique=False,
    )
    columns = "id, session_name, state, changed_at, who, reason"
    op.execute(f"INSERT INTO capture_session_change ({columns}) SELECT {columns} FROM old_change")  # noqa: S608
    op.drop_table("old_change")
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            "SELECT setval(pg_get_serial_sequence('capture_session_change', 'id'),"
            " (SELECT max(id) FROM capture_session_change))"
        )


def _stream_tables() -> None:
    op.create_table(
        "block_raw",
        sa.Column("block_id", BigInt, nullable=False),
        sa.Column("codec", sa.Text(), nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["block_id"], ["block.id"], name=op.f("fk_block_raw_block_id_block")
        ),
        sa.PrimaryKeyConstraint("block_id", name=op.f("pk_block_raw")),
    )
    op.create_table(
        "clock_fit",
        sa.Column("session_id", BigInt, nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("first_seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("last_seq", sa.BigInteger(), nullable=False),
        sa.Column("first_tick", sa.BigInteger(), nullable=False),
        sa.Column("origin_us", sa.BigInteger(), nullable=False),
        sa.Column("tick_us", sa.Double(), nullable=False),
        sa.Column("rms_residual_us", sa.Double(), nullable=False),
        sa.Column("max_residual_us", sa.Double(), nullable=False),
        sa.Column("n", sa.BigInteger(), nullable=False),
        sa.Column("mean_tick", sa.Double(), nullable=False),
        sa.Column("spread_ticks", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["session_id"],
            ["capture_session.id"],
            name=op.f("fk_clock_fit_session_id_capture_session"),
        ),
        sa.PrimaryKeyConstraint("session_id", "source", "first_seq", name=op.f("pk_clock_fit")),
    )


def _small_tables() -> None:
    op.create_table(
        "listed_session",
        sa.Column("store_id", sa.Text(), nullable=False),
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("started_at", UtcDateTime(), nullable=False),
        sa.Column("ended_at", UtcDateTime()),
        sa.Column("messages", sa.BigInteger(), nullable=False),
        sa.Column("available", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("store_id", "number", name=op.f("pk_listed_session")),
    )
    op.create_table(
        "category",
        sa.Column("id", BigInt, autoincrement=True, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("unit", sa.Text()),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_category")),
        sa.UniqueConstraint("name", name=op.f("uq_category_name")),
    )
    op.create_table(
        "cached_reading",
        sa.Column("id", BigInt, autoincrement=True, nullable=False),
        sa.Column("category_id", BigInt, nullable=False),
        sa.Column("logged_us", sa.BigInteger(), nullable=False),
        sa.Column("value", Json, nullable=False),
        sa.ForeignKeyConstraint(
            ["category_id"], ["category.id"], name=op.f("fk_cached_reading_category_id_category")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_cached_reading")),
    )
    op.create_index(
        "ix_cached_reading_category_id_logged_us", "cached_reading", ["category_id", "logged_us"]
    )
    op.create_table(
        "config_item",
        sa.Column("id", BigInt, autoincrement=True, nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("value", Json),
        sa.Column("changed_at", UtcDateTime(), nullable=False),
        sa.Column("who", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_config_item")),
        sa.UniqueConstraint("key", name=op.f("uq_config_item_key")),
    )
    op.create_table(
        "notification",
        sa.Column("id", BigInt, autoincrement=True, nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("severity", sa.Integer(), nullable=False),
        sa.Column("logged_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_notification")),
    )
