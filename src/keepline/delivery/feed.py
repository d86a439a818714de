"""Reading the change feed in the order in which transactions ended.

On SQLite writers queue, so the feed's ids are in commit order. On PostgreSQL they are not: a
row with a small id may be committed after one with a greater id was read. There the feed is
read in the order (txid, id), and only below the oldest transaction that still runs, so that
nothing can appear behind a reader's back.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import sqlalchemy as sa

from keepline.errors import DeliveryError
from keepline.store.tables.records import change_feed


def _number(xid: sa.Function[Any]) -> sa.Cast[int]:
    """Return a transaction number as the feed's txid; PostgreSQL casts it by way of text."""
    return sa.cast(sa.cast(xid, sa.Text), sa.BigInteger)


#: The oldest transaction that may still commit, and the first that has not begun.
_OLDEST_RUNNING = _number(sa.func.pg_snapshot_xmin(sa.func.pg_current_snapshot()))
_NEXT = _number(sa.func.pg_snapshot_xmax(sa.func.pg_current_snapshot()))


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


def check_origin(connection: sa.Connection, after: Cursor) -> None:
    """Raise DeliveryError when the feed, or `after`, has transactions yet to come.

    Then PostgreSQL's database was restored into a server that counts from a smaller number:
    the old rows would stand behind the new ones, and no order of reading finds them all.
    """
    if connection.dialect.name == "sqlite":
        return
    greatest = sa.select(sa.func.max(change_feed.c.txid)).scalar_subquery()
    foreign = sa.func.greatest(greatest, after.txid) >= _NEXT
    if connection.execute(sa.select(foreign)).scalar_one():
        raise DeliveryError(
            "the store was restored into another PostgreSQL server, whose transaction numbers "
            "are behind the change feed's; keepline cannot continue deliveries from a restored "
            "database until it is given a new epoch, and no record was sent"
        )


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
