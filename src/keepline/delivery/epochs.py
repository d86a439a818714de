"""In which life of the instance a record was made: its target keys are made of that.

A restore begins a new epoch. A record that was there before keeps its target keys, so that a
correction updates the object which the recipient has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import sqlalchemy as sa

from keepline.model import RecordImage, RecordKey
from keepline.store import Store
from keepline.store.erasing import of_records
from keepline.store.tables.common import restored
from keepline.store.tables.records import change_feed


def epochs_of(store: Store, images: Sequence[RecordImage], present: str) -> Mapping[RecordKey, str]:
    """Return the epoch of each record; it is `present` for all of an instance never restored."""
    names = [image.name for image in images]
    with store.read() as connection:
        ended = connection.execute(
            sa.select(restored.c.epoch, restored.c.after_feed).order_by(restored.c.id)
        ).all()
        if not ended or not names:
            return dict.fromkeys(names, present)
        births = _births(connection, names)
    return {
        name: next((epoch for epoch, last in ended if births.get(name, 0) <= last), present)
        for name in names
    }


def _births(connection: sa.Connection, names: Sequence[RecordKey]) -> dict[RecordKey, int]:
    """Return the feed's row by which each record was made, the last time that it was."""
    feed = change_feed.c
    query = (
        sa.select(feed.record_type, feed.record_key, sa.func.max(feed.id))
        .where(of_records(change_feed, dict.fromkeys(names, "")), feed.op == "insert")
        .group_by(feed.record_type, feed.record_key)
    )
    return {RecordKey(kind, key): born for kind, key, born in connection.execute(query)}
