"""What follows from the events of the session log; set-based, within one transaction.

`append` adds events and brings the rows of `session` in line with all events of the sessions
concerned. The rule looks at the log alone, so that order and repetition of arrival do not
matter to a session whose events fit:

* its START is the first one that arrived;
* its END the first one that arrived and fits that START: the same instrument, and not before;
* an event that is not chosen fits no session: it is put into quarantine with the reason, and
  changes nothing.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from keepline.model import utc_now
from keepline.store import quarantine
from keepline.store.locks import queue_writers
from keepline.store.tables.common import instrument
from keepline.store.tables.sessions import session, session_change, session_event

#: Sessions a statement, well below the number of parameters that a database takes.
BATCH = 500

#: Session identifier, event type, time, instrument.
Place = tuple[str, str, datetime, str]
_PLACE = ("session_identifier", "event_type", "happened_at", "instrument")

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Event:
    """One event as it came; `status` is what the session is to become, where that was said."""

    session_identifier: str
    instrument: str
    happened_at: datetime
    event_type: str
    user: str | None
    status: str | None = None

    @property
    def place(self) -> Place:
        """Return what no two events of the log share."""
        return self.session_identifier, self.event_type, self.happened_at, self.instrument


@dataclass(frozen=True, slots=True)
class Appended:
    """How many events were new, how many were put into quarantine, and all that do not fit.

    `unfit` are all events of the sessions with new ones that fit no session, and why.
    """

    added: int
    quarantined: int
    unfit: Mapping[Place, str]


def append(connection: sa.Connection, events: Sequence[Event], *, who: str) -> Appended:
    """Add events that are not there yet, and bring their sessions in line with the log.

    An event is the same as another of the same session, type, instant and instrument. The
    instruments must be known. Not more than `BATCH` sessions at once.
    """
    queue_writers(connection, session_event)
    new = _add_events(connection, events)
    if not new:
        return Appended(0, 0, {})
    identifiers = sorted({place[0] for place in new})
    _pair(connection, identifiers)
    quarantined, unfit = _quarantine_unfit(connection, identifiers)
    _set_said_status(connection, [e for e in events if e.place in new and e.place not in unfit])
    note_changes(connection, identifiers, who=who, reason="the session log")
    return Appended(len(new), quarantined, unfit)


def note_changes(
    connection: sa.Connection, identifiers: Sequence[str], *, who: str, reason: str
) -> None:
    """Append a row for each session whose status is not the last one noted."""
    last = (
        sa.select(session_change.c.status)
        .where(session_change.c.session_identifier == session.c.identifier)
        .order_by(session_change.c.id.desc())
        .limit(1)
        .scalar_subquery()
    )
    changed = sa.select(
        session.c.identifier,
        session.c.status,
        sa.literal(utc_now(), session_change.c.changed_at.type),
        sa.literal(who),
        sa.literal(socket.gethostname()),
        sa.literal(reason),
    ).where(session.c.identifier.in_(identifiers), last.is_distinct_from(session.c.status))
    columns = ["session_identifier", "status", "changed_at", "who", "host", "reason"]
    connection.execute(sa.insert(session_change).from_select(columns, changed))


def batches(items: Iterable[_T], size: int = BATCH) -> Iterator[list[_T]]:
    """Yield lists of up to `size` items."""
    remaining = iter(items)
    while part := list(islice(remaining, size)):
        yield part


def _add_events(connection: sa.Connection, events: Sequence[Event]) -> set[Place]:
    """Insert the events that are not there yet, and return their places."""
    if not events:
        return set()
    c = session_event.c
    given = {
        name: sa.bindparam(name, type_=c[name].type)
        for name in (
            "session_identifier",
            "instrument",
            "happened_at",
            "event_type",
            "user_name",
            "recorded_at",
        )
    }
    there = sa.exists().where(*(c[name] == given[name] for name in _PLACE))
    insert = sa.insert(session_event).from_select(
        list(given), sa.select(*given.values()).where(~there)
    )
    now = utc_now()
    rows = [
        {
            "session_identifier": event.session_identifier,
            "instrument": event.instrument,
            "happened_at": event.happened_at,
            "event_type": event.event_type,
            "user_name": event.user,
            "recorded_at": now,
        }
        for event in events
    ]
    # Writers queue, so whatever has a higher number afterwards is ours.
    last = connection.execute(sa.select(sa.func.coalesce(sa.func.max(c.id), 0))).scalar_one()
    connection.execute(insert, rows)
    added = connection.execute(sa.select(*(c[name] for name in _PLACE)).where(c.id > last))
    return {_place(row) for row in added}


def _place(row: sa.Row[Any]) -> Place:
    return row.session_identifier, row.event_type, row.happened_at, row.instrument


def _pair(connection: sa.Connection, identifiers: Sequence[str]) -> None:
    """Make or correct the sessions' rows from all their events."""
    start = _first_start(identifiers)
    end = _first_end(identifiers, start)
    known = (
        sa.select(session_event.c.session_identifier)
        .where(
            session_event.c.session_identifier.in_(identifiers),
            session_event.c.event_type.in_(("START", "END")),
        )
        .distinct()
        .subquery()
    )
    device = sa.func.coalesce(start.c.instrument, end.c.instrument)
    paired = (
        sa.select(
            known.c.session_identifier,
            device,
            sa.func.coalesce(start.c.user_name, end.c.user_name),
            start.c.happened_at,
            end.c.happened_at,
            _status(start.c.happened_at, end.c.happened_at),
            instrument.c.group_name,
        )
        .select_from(known)
        .outerjoin(start, start.c.session_identifier == known.c.session_identifier)
        .outerjoin(end, end.c.session_identifier == known.c.session_identifier)
        .join(instrument, instrument.c.name == device)
    )
    columns = [
        "identifier",
        "instrument",
        "user_name",
        "started_at",
        "ended_at",
        "status",
        "group_name",
    ]
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    insert = dialect.insert(session).from_select(columns, paired.where(sa.true()))
    new = insert.excluded
    waiting = session.c.status == "WAITING_FOR_END"
    moved = session.c.instrument != new.instrument
    connection.execute(
        insert.on_conflict_do_update(
            index_elements=["identifier"],
            set_={
                "instrument": new.instrument,
                "user_name": new.user_name,
                "started_at": new.started_at,
                "ended_at": new.ended_at,
                # What an instrument's group was when the session came is kept, but the group
                # of another instrument must not see it.
                "group_name": sa.case((moved, new.group_name), else_=session.c.group_name),
                # Only waiting ends by itself: every other status was set by somebody.
                "status": sa.case((waiting, new.status), else_=session.c.status),
            },
            where=sa.or_(
                moved,
                session.c.user_name.is_distinct_from(new.user_name),
                session.c.started_at.is_distinct_from(new.started_at),
                session.c.ended_at.is_distinct_from(new.ended_at),
            ),
        )
    )


def _status(started: Any, ended: Any) -> sa.Case[str]:
    both = sa.and_(started.is_not(None), ended.is_not(None))
    return sa.case((both, "TO_BE_BUILT"), else_="WAITING_FOR_END")


def _first_start(identifiers: Sequence[str]) -> sa.Subquery:
    first = (
        sa.select(sa.func.min(session_event.c.id))
        .where(
            session_event.c.session_identifier.in_(identifiers),
            session_event.c.event_type == "START",
        )
        .group_by(session_event.c.session_identifier)
    )
    return sa.select(session_event).where(session_event.c.id.in_(first)).subquery("start_event")


def _first_end(identifiers: Sequence[str], start: sa.Subquery) -> sa.Subquery:
    event = session_event.c
    fits = sa.or_(
        start.c.id.is_(None),
        sa.and_(event.instrument == start.c.instrument, event.happened_at >= start.c.happened_at),
    )
    first = (
        sa.select(sa.func.min(event.id))
        .select_from(session_event)
        .outerjoin(start, start.c.session_identifier == event.session_identifier)
        .where(event.session_identifier.in_(identifiers), event.event_type == "END", fits)
        .group_by(event.session_identifier)
    )
    return sa.select(session_event).where(event.id.in_(first)).subquery("end_event")


def _set_said_status(connection: sa.Connection, events: Sequence[Event]) -> None:
    """Give sessions the status that their events came with, where that says more than the log.

    That a session waits or is to be built follows from its events already.
    """
    said = {event.session_identifier: event.status for event in events if event.status}
    by_status: dict[str, list[str]] = {}
    for identifier, status in said.items():
        if status not in ("TO_BE_BUILT", "WAITING_FOR_END"):
            by_status.setdefault(status, []).append(identifier)
    for status, those in by_status.items():
        connection.execute(
            sa.update(session).where(session.c.identifier.in_(those)).values(status=status)
        )


def _quarantine_unfit(
    connection: sa.Connection, identifiers: Sequence[str]
) -> tuple[int, dict[Place, str]]:
    """Put the events that fit no session into quarantine; return how many were not there."""
    event = session_event.c
    reason = _reason()
    rows = connection.execute(
        sa.select(session_event, reason.label("reason"))
        .outerjoin(session, session.c.identifier == event.session_identifier)
        .where(event.session_identifier.in_(identifiers), reason.is_not(None))
        .order_by(event.id)
    ).all()
    rejected = [(row.id, _raw(row), row.reason) for row in rows]
    kept = quarantine.keep(connection, "sessions", "session_event", rejected)
    unfit = {_place(row): row.reason for row in rows}
    return kept, unfit


def _reason() -> sa.Case[str]:
    event = session_event.c
    return sa.case(
        (session.c.identifier.is_(None), "the session log knows no START or END of the session"),
        (event.instrument != session.c.instrument, "the session is on another instrument"),
        (
            sa.and_(event.event_type == "START", event.happened_at != session.c.started_at),
            "the session has another START",
        ),
        (
            sa.and_(event.event_type == "END", event.happened_at < session.c.started_at),
            "the END is before the session's START",
        ),
        (
            sa.and_(event.event_type == "END", event.happened_at != session.c.ended_at),
            "the session has another END",
        ),
    )


def _raw(row: sa.Row[Any]) -> bytes:
    values = {
        "session_identifier": row.session_identifier,
        "instrument": row.instrument,
        "happened_at": row.happened_at.isoformat(timespec="microseconds"),
        "event_type": row.event_type,
        "user_name": row.user_name,
    }
    return json.dumps(values, ensure_ascii=False, sort_keys=True).encode()
