"""Records: subjects, history with its proof, the index, erasures, bundles, changes of types."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from keepline.store.types import BigInt, Json, UtcDateTime

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the new tables; records that are there get their place in the index and history."""
    if op.get_bind().dialect.name == "sqlite" and sa.inspect(op.get_bind()).has_table("writer"):
        op.add_column("writer", sa.Column("reason", sa.Text()))
        op.add_column("writer", sa.Column("erasing", sa.Integer()))
    _types_and_subjects()
    _history()
    _index()
    _bundles()
    op.create_table(
        "restored",
        sa.Column("id", BigInt, autoincrement=True, nullable=False),
        sa.Column("epoch", sa.Text(), nullable=False),
        sa.Column("after_feed", sa.BigInteger(), nullable=False),
        sa.Column("revision_floor", sa.BigInteger(), nullable=False),
        sa.Column("restored_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_restored")),
    )


def _types_and_subjects() -> None:
    op.create_table(
        "record_type_change",
        sa.Column("id", BigInt, autoincrement=True, nullable=False),
        sa.Column("record_type", sa.Text(), nullable=False),
        sa.Column("declaration", Json, nullable=False),
        sa.Column("renames", Json, nullable=False),
        sa.Column("after_history", sa.BigInteger(), nullable=False),
        sa.Column("who", sa.Text(), nullable=False),
        sa.Column("applied_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_record_type_change")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "subject",
        sa.Column("number", BigInt, autoincrement=True, nullable=False),
        sa.Column("identifier", sa.Text()),
        sa.Column("group_name", sa.Text()),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("erased_at", UtcDateTime()),
        sa.CheckConstraint(
            "(identifier IS NULL) = (erased_at IS NOT NULL)", name=op.f("ck_subject_erased")
        ),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_subject")),
        sa.UniqueConstraint("identifier", name=op.f("uq_subject_identifier")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "erasure",
        sa.Column("id", BigInt, autoincrement=True, nullable=False),
        sa.Column("subject_no", sa.BigInteger(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("records", sa.BigInteger(), nullable=False),
        sa.Column("images", sa.BigInteger(), nullable=False),
        sa.Column("who", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("erased_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_erasure")),
        sqlite_autoincrement=True,
    )


def _history() -> None:
    op.create_table(
        "record_history",
        sa.Column("id", BigInt, autoincrement=True, nullable=False),
        sa.Column("record_type", sa.Text(), nullable=False),
        sa.Column("record_key", sa.Text(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("subtable", sa.Text(), nullable=False),
        sa.Column("sub_key", sa.Text(), nullable=False),
        sa.Column("op", sa.Text(), nullable=False),
        sa.Column("image", Json),
        sa.Column("reason", sa.Text()),
        sa.Column("subject_no", sa.BigInteger()),
        sa.Column("erased", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.ForeignKeyConstraint(
            ["op"], ["feed_op.name"], name=op.f("fk_record_history_op_feed_op")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_record_history")),
        sa.UniqueConstraint(
            "record_type",
            "record_key",
            "revision",
            "subtable",
            "sub_key",
            name=op.f("uq_record_history_row"),
        ),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_record_history_subject_no", "record_history", ["subject_no"])
    op.create_table(
        "history_seal",
        sa.Column("history_id", BigInt, nullable=False),
        sa.Column("salt", sa.LargeBinary()),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("chain", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["history_id"],
            ["record_history.id"],
            name=op.f("fk_history_seal_history_id_record_history"),
        ),
        sa.PrimaryKeyConstraint("history_id", name=op.f("pk_history_seal")),
    )


def _index() -> None:
    op.create_table(
        "record_index",
        sa.Column("record_type", sa.Text(), nullable=False),
        sa.Column("record_key", sa.Text(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("group_name", sa.Text()),
        sa.Column("subject_no", sa.BigInteger()),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("changed_at", UtcDateTime(), nullable=False),
        sa.Column("current", sa.Boolean(), nullable=False),
        sa.Column("finalised", sa.Boolean(), nullable=False),
        sa.Column("anonymous", sa.Boolean(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("record_type", "record_key", name=op.f("pk_record_index")),
    )
    op.create_index("ix_record_index_subject_no", "record_index", ["subject_no"])
    op.create_index(
        "ix_record_index_record_type_changed_at", "record_index", ["record_type", "changed_at"]
    )


def _bundles() -> None:
    op.create_table(
        "proposal_state",
        sa.Column("name", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_proposal_state")),
    )
    states = sa.table("proposal_state", sa.column("name", sa.Text))
    op.bulk_insert(states, [{"name": name} for name in ("open", "taken", "dropped")])
    op.create_table(
        "checkin",
        sa.Column("bundle", sa.Text(), nullable=False),
        sa.Column("record_type", sa.Text(), nullable=False),
        sa.Column("record_key", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("revision", sa.BigInteger()),
        sa.Column("who", sa.Text(), nullable=False),
        sa.Column("checked_in_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint(
            "bundle", "record_type", "record_key", "digest", name=op.f("pk_checkin")
        ),
    )
    op.create_table(
        "proposal",
        sa.Column("id", BigInt, autoincrement=True, nullable=False),
        sa.Column("bundle", sa.Text(), nullable=False),
        sa.Column("record_type", sa.Text(), nullable=False),
        sa.Column("record_key", sa.Text(), nullable=False),
        sa.Column("field", sa.Text(), nullable=False),
        sa.Column("base", Json),
        sa.Column("mine", Json),
        sa.Column("theirs", Json),
        sa.Column("revision", sa.BigInteger()),
        sa.Column("subject_no", sa.BigInteger()),
        sa.Column("group_name", sa.Text()),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("who", sa.Text(), nullable=False),
        sa.Column("proposed_at", UtcDateTime(), nullable=False),
        sa.Column("settled_by", sa.Text()),
        sa.Column("settled_at", UtcDateTime()),
        sa.ForeignKeyConstraint(
            ["state"], ["proposal_state.name"], name=op.f("fk_proposal_state_proposal_state")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_proposal")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_proposal_record_type_record_key", "proposal", ["record_type", "record_key"])
