"""Reading the change feed in the order in which transactions ended.

On SQLite writers queue, so the feed's ids are in commit order. On PostgreSQL they are not: a
row with a small id may be committed after one with a greater id was read. There the feed is
read in the order (txid, id), and only below the oldest transaction that still runs, so that
nothing can appear behind a reader's back.
"""

from __future__ import annotations

from typing import NamedTuple

import sqlalchemy as sa

from keepline.store.tables.records import change_feed

#: The oldest transaction that may still commit, as the feed's txid.
_OLDEST_RUNNING = sa.cast(
    sa.cast(sa.func.pg_snapshot_xmin(sa.func.pg_current_snapshot()), sa.Text), sa.BigInteger
)


class Cursor(NamedTuple):
    """A place in the feed: everything up to it, itself included, has been read."""

    txid: int
    feed_id: int


#: Before the first row.
START = Cursor(0, 0)


def page_end(connection: sa.Connection, after: Cursor, limit: int) -> Cursor | None:
    """Return the place of the last of the next `limit` rows; None when there is nothing new."""
    page = (
        sa.select(change_feed.c.txid, change_feed.c.id)
        .where(beyond(connection.dialect, after), complete(connection.dialect))
        .order_by(*_order(connection.dialect))
        .limit(limit)
        .subquery()
    )
    last = sa.select(page).order_by(page.c.txid.desc(), page.c.id.desc()).limit(1)
    row = connection.execute(last).first()
    return Cursor(*row) if row is not None else None


def beyond(dialect: sa.Dialect, place: Cursor) -> sa.ColumnElement[bool]:
    """Return the condition on feed rows that stand behind `place`."""
    if dialect.name == "sqlite":
        return change_feed.c.id > place.feed_id
    return sa.tuple_(change_feed.c.txid, change_feed.c.id) > sa.tuple_(*place)


def up_to(dialect: sa.Dialect, place: Cursor) -> sa.ColumnElement[bool]:
    """Return the condition on feed rows up to `place`, itself included."""
    if dialect.name == "sqlite":
        return change_feed.c.id <= place.feed_id
    return sa.tuple_(change_feed.c.txid, change_feed.c.id) <= sa.tuple_(*place)


def complete(dialect: sa.Dialect) -> sa.ColumnElement[bool]:
    """Return the condition on feed rows before which no row can appear any more."""
    if dialect.name == "sqlite":
        return sa.true()
    return change_feed.c.txid < _OLDEST_RUNNING


def _order(dialect: sa.Dialect) -> tuple[sa.ColumnElement[int], ...]:
    if dialect.name == "sqlite":
        return (change_feed.c.id,)
    return change_feed.c.txid, change_feed.c.id
