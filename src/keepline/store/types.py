"""The column types that keepline adds to SQLAlchemy's."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.compiler import compiles

#: A text in JSON, to be passed over, or a number with an exponent that may make it whole.
_LARGE = re.compile(r'"(?:[^"\\]|\\.)*"|(-?[0-9.]+e\+[0-9]+)')


class UtcDateTime(sa.types.TypeDecorator[datetime]):
    """An instant, kept in UTC with microseconds; always an aware datetime in Python.

    PostgreSQL holds ``timestamptz``; SQLite holds text that sorts by time. A naive datetime
    is refused with ValueError.
    """

    impl = sa.DateTime
    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> Any:
        return dialect.type_descriptor(sa.DateTime(timezone=True))

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time without a zone is refused; give it an explicit time zone")
        utc = value.astimezone(UTC)
        return utc.replace(tzinfo=None) if dialect.name == "sqlite" else utc

    def process_result_value(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


#: Integers of 64 bits that SQLite may take as a row id when they are a primary key.
BigInt = sa.BigInteger().with_variant(sa.Integer, "sqlite")


class _SqliteJson(sqlite.JSON):
    """JSON in a column of texts: in one called JSON, SQLite would make the number 1 of 1.0."""


@compiles(_SqliteJson, "sqlite")
def _as_text(*_: object, **__: object) -> str:
    return "TEXT"


def json_text(value: Any) -> str:
    """Return a value as JSON of which PostgreSQL, too, gives back floats as floats.

    It tells them from whole numbers by their point, which Python leaves out from 1e16 on.
    """
    text = json.dumps(value)
    if "e+" not in text:
        return text
    return _LARGE.sub(lambda found: f"{float(found[1]):.1f}" if found[1] else found[0], text)


#: JSON values; binary JSON on PostgreSQL. A float comes back as the same float.
Json = (
    sa.JSON(none_as_null=True)
    .with_variant(postgresql.JSONB(none_as_null=True), "postgresql")
    .with_variant(_SqliteJson(none_as_null=True), "sqlite")
)
