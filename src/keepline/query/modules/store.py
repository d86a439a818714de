"""What the SQL store holds, as ready-made modules: archive, sessions, records, deliveries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import sqlalchemy as sa

from keepline.model import Principal, RecordType
from keepline.query.modules.sqltables import Exposure, SqlTablesModule
from keepline.store import schema
from keepline.store.access import visible
from keepline.store.engine import Store
from keepline.store.tables import capture, common, delivery, records, sessions
from keepline.store.tables.declared import record_table, record_tables, subtable_table

_INSTRUMENT = Exposure("instrument", common.instrument)

_ARCHIVED = Exposure("session", capture.capture_session)
_CHANNEL = Exposure("channel", capture.channel, parents=(("session_id", _ARCHIVED, "id"),))

_LOGGED = Exposure("session", sessions.session)


def archive_module(store: Store, name: str = "archive") -> SqlTablesModule:
    """Return the archive's sessions, streams, channels, block statistics, gaps and clock fits.

    Rows belong to the group of their session. Listed sessions, categories, cached values,
    settings and notifications belong to the whole instance. Times are datetimes (`first_at`,
    `from_at`, ...); readings themselves, which lie in compressed blocks, are in a module of
    their own.
    """
    of_session = (("session_id", _ARCHIVED, "id"),)
    return SqlTablesModule(
        name,
        store,
        (
            _ARCHIVED,
            Exposure(
                "stream",
                capture.stream,
                instants={"last_time_us": "last_time_at"},
                parents=of_session,
            ),
            _CHANNEL,
            Exposure(
                "block_stat",
                capture.block_stat,
                instants={
                    "first_us": "first_at",
                    "last_us": "last_at",
                    "min_us": "min_at",
                    "max_us": "max_at",
                },
                parents=(("channel_id", _CHANNEL, "id"),),
            ),
            Exposure(
                "gap",
                capture.gap,
                instants={"from_us": "from_at", "until_us": "until_at"},
                parents=of_session,
            ),
            Exposure(
                "clock_fit",
                capture.clock_fit,
                instants={"origin_us": "origin_at"},
                parents=of_session,
            ),
            Exposure("listed_session", capture.listed_session),
            Exposure("category", capture.category),
            Exposure("cached_reading", capture.cached_reading, instants={"logged_us": "logged_at"}),
            Exposure("config_item", capture.config_item),
            Exposure("notification", capture.notification),
        ),
    )


def sessions_module(store: Store, name: str = "sessions") -> SqlTablesModule:
    """Return the session log: sessions, events, and every status that a session had.

    An event belongs to the group of its instrument, a change to that of its session.
    """
    return SqlTablesModule(
        name,
        store,
        (
            _LOGGED,
            Exposure(
                "event", sessions.session_event, parents=(("instrument", _INSTRUMENT, "name"),)
            ),
            Exposure(
                "change",
                sessions.session_change,
                parents=(("session_identifier", _LOGGED, "identifier"),),
            ),
        ),
    )


def records_module(store: Store, name: str = "records") -> SqlTablesModule:
    """Return a table for each declared record type, and ``<type>__<sub>`` for its sub-tables.

    A type is there as soon as it is declared. Sub-rows are seen with their record. `index` has
    a row for each record of any type that is or was there, `subject` the people that records
    are about; both show what belongs to groups of the principal, or to the whole instance.
    """
    about_all = (Exposure("index", records.record_index), Exposure("subject", records.subject))
    return SqlTablesModule(
        name,
        store,
        lambda connection: (*about_all, *_of_types(tuple(schema.declared_types(connection)))),
    )


def deliveries_module(store: Store, name: str = "deliveries") -> SqlTablesModule:
    """Return the sent log and the backlog of every recipient, as `sent` and `backlog`.

    Who does not see everything sees what is about records that it may see.
    """

    def exposures(connection: sa.Connection) -> Sequence[Exposure]:
        declared = tuple(schema.declared_types(connection))
        return [
            Exposure("sent", delivery.sent_log, rows=_about(delivery.sent_log, declared)),
            Exposure(
                "backlog",
                delivery.delivery_backlog,
                rows=_about(delivery.delivery_backlog, declared),
            ),
        ]

    return SqlTablesModule(name, store, exposures)


@lru_cache(maxsize=8)
def _of_types(declared: tuple[RecordType, ...]) -> tuple[Exposure, ...]:
    # Kept, because a look-up join asks again and again while types seldom change.
    exposures = []
    for each in sorted(declared, key=lambda type_: type_.name):
        tables = record_tables(each)
        parent = Exposure(each.name, record_table(each, tables))
        exposures.append(parent)
        exposures += [
            Exposure(
                f"{each.name}__{subtable.name}",
                subtable_table(each, subtable, tables),
                parents=(("record_key", parent, "record_key"),),
            )
            for subtable in each.subtables
        ]
    return tuple(exposures)


def _about(
    table: sa.Table, declared: tuple[RecordType, ...]
) -> Callable[[Principal], sa.ColumnElement[bool]]:
    def condition(principal: Principal) -> sa.ColumnElement[bool]:
        seen: list[sa.ColumnElement[bool]] = [sa.false()]
        for exposure in _of_types(declared):
            if exposure.parents:
                continue
            rows = exposure.table
            allowed, _ = visible(rows, principal)
            keys = sa.select(rows.c.record_key).where(allowed)
            seen.append(sa.and_(table.c.record_type == exposure.name, table.c.record_key.in_(keys)))
        return sa.or_(*seen)

    return condition
