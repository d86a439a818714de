"""What was downloaded, by whom; written by keepline.downloads alone."""

from __future__ import annotations

import sqlalchemy as sa

from keepline.store.tables.metadata import metadata
from keepline.store.types import BigInt, Json, UtcDateTime

download = sa.Table(
    "download",
    metadata,
    sa.Column("id", BigInt, primary_key=True, autoincrement=True),
    sa.Column("who", sa.Text, nullable=False),
    sa.Column("made_at", UtcDateTime, nullable=False),
    sa.Column("filename", sa.Text, nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("sha256", sa.Text, nullable=False),
    sa.Column("options", Json, nullable=False),
)

download_record = sa.Table(
    "download_record",
    metadata,
    sa.Column("download_id", sa.ForeignKey("download.id"), primary_key=True),
    sa.Column("record_type", sa.Text, primary_key=True),
    sa.Column("record_key", sa.Text, primary_key=True),
    sa.Column("revision", sa.BigInteger, nullable=False),
)
