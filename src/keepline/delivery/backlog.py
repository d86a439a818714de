"""What a recipient should have and has not been sent.

A record is due when the recipient may see it and the sent log has no success for its present
revision. The backlog only remembers which records may be due, so that finding them costs as
much as what is new: it can be deleted at any time and is made again from the feed and the log.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from keepline.delivery.feed import START, Cursor, beyond, check_origin, complete, page_end, up_to
from keepline.delivery.recipients import EVERY, Recipient
from keepline.model import Principal, RecordImage, RecordKey, RecordType, stable_hash, utc_now
from keepline.store import Store
from keepline.store.recordset import fetch
from keepline.store.schema import declared_types
from keepline.store.tables.delivery import delivery_backlog, delivery_cursor, sent_log
from keepline.store.tables.records import change_feed

#: Feed rows taken in within one transaction.
FEED_PAGE = 5_000

#: Records looked at, and held in memory, at a time.
PAGE = 200

#: States after which a revision is not sent again.
SETTLED = ("sent", "refused")


@dataclass(slots=True)
class Sorted:
    """Records of the backlog by what they need: sending, nothing, or to be forgotten.

    `gone` are deleted or not for this recipient to see; `unreadable` hold a value that is not
    of its column's type.
    """

    due: list[RecordImage] = field(default_factory=list)
    settled: list[RecordKey] = field(default_factory=list)
    gone: list[RecordKey] = field(default_factory=list)
    unreadable: list[RecordKey] = field(default_factory=list)


def take_in(
    store: Store, recipient: Recipient, *, epoch: str, principal: Principal, page: int = FEED_PAGE
) -> None:
    """Note the records that the feed has named since the last time, a page a transaction.

    A new recipient, changed criteria or another epoch start at the feed's beginning; what was
    sent before is not noted again. Call it under the recipient's lock. Raises DeliveryError
    when the feed cannot be read in order any more: the database comes from another server.
    """
    criteria = _criteria(recipient, epoch)
    with store.read() as connection:
        check_origin(connection, _place(connection, recipient, criteria)[0])
    more = True
    while more:
        with store.write(principal) as connection:
            more = _take_in_page(connection, recipient, criteria, page)


def held_back(store: Store, recipient: Recipient, *, epoch: str) -> int:
    """Return how many changes `take_in` has to leave until an older transaction has ended.

    On PostgreSQL that may be any open transaction of the whole server; 0 on SQLite.
    """
    if store.dialect == "sqlite":
        return 0
    query = sa.select(sa.func.count()).select_from(change_feed)
    with store.read() as connection:
        dialect = connection.dialect
        after, _ = _place(connection, recipient, _criteria(recipient, epoch))
        waiting = (beyond(dialect, after), sa.not_(complete(dialect)), _is_wanted(recipient))
        return connection.execute(query.where(*waiting)).scalar_one()


def pages(store: Store, recipient: Recipient, size: int = PAGE) -> Iterator[list[RecordKey]]:
    """Yield the backlog's records, `size` at a time, each once however it changes meanwhile."""
    backlog = delivery_backlog.c
    place = sa.tuple_(backlog.record_type, backlog.record_key)
    query = (
        sa.select(backlog.record_type, backlog.record_key)
        .where(backlog.recipient == recipient.name)
        .order_by(backlog.record_type, backlog.record_key)
        .limit(size)
    )
    after: RecordKey | None = None
    while True:
        page = query
        if after is not None:
            page = query.where(place > sa.tuple_(after.record_type, after.key))
        with store.read() as connection:
            keys = [RecordKey(*row) for row in connection.execute(page)]
        if not keys:
            return
        yield keys
        after = keys[-1]


def sort_out(
    connection: sa.Connection,
    recipient: Recipient,
    keys: Sequence[RecordKey],
    *,
    settled: Sequence[str] = SETTLED,
) -> Sorted:
    """Say of each record what it needs; `keys` stand together by type.

    A revision with an attempt in one of the states `settled` needs nothing.
    """
    declared = {each.name: each for each in declared_types(connection)}
    result = Sorted()
    for name, group in groupby(keys, key=lambda key: key.record_type):
        wanted = [key.key for key in group]
        if name not in declared or not recipient.wants(name):
            result.gone += [RecordKey(name, key) for key in wanted]
            continue
        images, unreadable = _images(connection, recipient, declared[name], wanted)
        done = _settled(connection, recipient, images, settled)
        found = {image.key for image in images}.union(unreadable)
        result.due += [image for image in images if image.key not in done]
        result.settled += [image.name for image in images if image.key in done]
        result.gone += [RecordKey(name, key) for key in wanted if key not in found]
        result.unreadable += [RecordKey(name, key) for key in unreadable]
    return result


def candidates(
    connection: sa.Connection, recipient: Recipient, *, epoch: str, size: int = PAGE
) -> Iterator[list[RecordKey]]:
    """Yield the records that `take_in` and then `pages` would, changing nothing.

    Raises DeliveryError as `take_in` does.
    """
    after, fresh = _place(connection, recipient, _criteria(recipient, epoch))
    check_origin(connection, after)
    dialect = connection.dialect
    known = sa.select(delivery_backlog.c.record_type, delivery_backlog.c.record_key).where(
        delivery_backlog.c.recipient == recipient.name, sa.false() if fresh else sa.true()
    )
    named = _named(recipient).where(beyond(dialect, after), complete(dialect))
    both = sa.union(known, named).subquery()
    query = sa.select(both).order_by(both.c.record_type, both.c.record_key)
    with connection.execution_options(yield_per=size).execute(query) as rows:
        for part in rows.partitions(size):
            yield [RecordKey(*row) for row in part]


def forget(connection: sa.Connection, recipient: str, keys: Sequence[RecordKey]) -> None:
    """Take records off the backlog."""
    if not keys:
        return
    backlog = delivery_backlog.c
    connection.execute(
        sa.delete(delivery_backlog).where(
            backlog.recipient == recipient,
            backlog.record_type == sa.bindparam("type_"),
            backlog.record_key == sa.bindparam("key_"),
        ),
        [{"type_": key.record_type, "key_": key.key} for key in keys],
    )


def count(store: Store, recipient: Recipient) -> int:
    """Return the number of records on the backlog."""
    query = (
        sa.select(sa.func.count())
        .select_from(delivery_backlog)
        .where(delivery_backlog.c.recipient == recipient.name)
    )
    with store.read() as connection:
        return connection.execute(query).scalar_one()


def _criteria(recipient: Recipient, epoch: str) -> str:
    # A restored database may issue feed ids again: its new epoch starts everything anew.
    return stable_hash(recipient.criteria, epoch)


def _place(connection: sa.Connection, recipient: Recipient, criteria: str) -> tuple[Cursor, bool]:
    """Return how far the recipient has read, and whether it starts afresh."""
    row = connection.execute(
        sa.select(delivery_cursor).where(delivery_cursor.c.recipient == recipient.name)
    ).first()
    if row is None or row.criteria != criteria:
        return START, True
    return Cursor(row.txid, row.feed_id), False


def _take_in_page(
    connection: sa.Connection, recipient: Recipient, criteria: str, size: int
) -> bool:
    """Take in one page of the feed; return whether there may be more."""
    after, fresh = _place(connection, recipient, criteria)
    if fresh:
        connection.execute(
            sa.delete(delivery_backlog).where(delivery_backlog.c.recipient == recipient.name)
        )
    end = page_end(connection, after, size)
    if end is not None:
        _note(connection, recipient, after, end)
    if end is not None or fresh:
        _move(connection, recipient, criteria, end or START)
    return end is not None


def _note(connection: sa.Connection, recipient: Recipient, after: Cursor, end: Cursor) -> None:
    dialect = connection.dialect
    named = _named(recipient).where(beyond(dialect, after), up_to(dialect, end)).subquery()
    rows = sa.select(
        sa.literal(recipient.name),
        named.c.record_type,
        named.c.record_key,
        sa.literal(utc_now(), delivery_backlog.c.queued_at.type),
    ).where(sa.true())  # SQLite needs a WHERE between SELECT and ON CONFLICT
    names = ["recipient", "record_type", "record_key", "queued_at"]
    if dialect.name == "sqlite":
        connection.execute(
            sqlite.insert(delivery_backlog).from_select(names, rows).on_conflict_do_nothing()
        )
    else:
        connection.execute(
            postgresql.insert(delivery_backlog).from_select(names, rows).on_conflict_do_nothing()
        )


def _named(recipient: Recipient) -> sa.Select[tuple[str, str]]:
    """Select the wanted records named by the feed, unless that very revision was settled."""
    feed = change_feed.c
    settled = sa.exists().where(
        sent_log.c.recipient == recipient.name,
        sent_log.c.record_type == feed.record_type,
        sent_log.c.record_key == feed.record_key,
        sent_log.c.revision == feed.revision,
        sent_log.c.state.in_(SETTLED),
    )
    query = sa.select(feed.record_type, feed.record_key).distinct()
    return query.where(~settled, _is_wanted(recipient))


def _is_wanted(recipient: Recipient) -> sa.ColumnElement[bool]:
    if EVERY in recipient.record_types:
        return sa.true()
    return change_feed.c.record_type.in_(recipient.record_types)


def _move(connection: sa.Connection, recipient: Recipient, criteria: str, place: Cursor) -> None:
    connection.execute(
        sa.delete(delivery_cursor).where(delivery_cursor.c.recipient == recipient.name)
    )
    connection.execute(
        sa.insert(delivery_cursor).values(
            recipient=recipient.name, criteria=criteria, txid=place.txid, feed_id=place.feed_id
        )
    )


def _images(
    connection: sa.Connection, recipient: Recipient, declared: RecordType, keys: Sequence[str]
) -> tuple[list[RecordImage], list[str]]:
    """Return the records that may be seen, and the keys of those that cannot be read."""
    try:
        return list(fetch(connection, declared, recipient.principal, keys)), []
    except ValueError:
        if len(keys) == 1:
            return [], list(keys)
    # One row spoils the page: find it, so that it does not stop the others.
    images: list[RecordImage] = []
    unreadable: list[str] = []
    for key in keys:
        found, spoiled = _images(connection, recipient, declared, [key])
        images += found
        unreadable += spoiled
    return images, unreadable


def _settled(
    connection: sa.Connection,
    recipient: Recipient,
    images: Sequence[RecordImage],
    states: Sequence[str],
) -> set[str]:
    """Return the keys of those images, all of one type, whose revision is settled."""
    if not images:
        return set()
    query = sa.select(sent_log.c.record_key).where(
        sent_log.c.recipient == recipient.name,
        sent_log.c.record_type == images[0].type.name,
        sa.tuple_(sent_log.c.record_key, sent_log.c.revision).in_(
            [(image.key, image.revision) for image in images]
        ),
        sent_log.c.state.in_(states),
    )
    return set(connection.execute(query).scalars())
