"""The session log: events that come in, and the sessions that follow from them."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from keepline.errors import SessionLogError, UnknownInstrumentError, UnknownSessionError
from keepline.model import Instrument, Principal, utc_now
from keepline.sessions.instruments import find_instrument
from keepline.sessions.pairing import Event, append, note_changes
from keepline.sessions.times import instant
from keepline.store.current import Current, current
from keepline.store.locks import queue_writers
from keepline.store.tables.common import instrument as instrument_table
from keepline.store.tables.sessions import ROWS, event_type, session, session_event, session_status

EVENT_TYPES = ROWS[event_type]
STATUSES = ROWS[session_status]


class SessionLogWarning(UserWarning):
    """An event that was not taken as it was meant: a repeat, or one that fits no session."""


@dataclass(frozen=True, slots=True)
class SessionLog:
    """One event of a session: that it began, ended, or that its record was made.

    `event_type` is START, END or RECORD_GENERATION; `timestamp` an ISO 8601 text or a datetime
    with a zone (text without an offset is on the instrument's clock). `record_status` says what
    the session is to become where its events do not say it, such as NO_CONSENT; by default a
    session with both ends is TO_BE_BUILT.
    """

    session_identifier: str
    instrument: str
    timestamp: str | datetime
    event_type: str
    user: str | None
    record_status: str | None = None

    def insert_log(
        self, *, instance: Current | None = None, principal: Principal | None = None
    ) -> bool:
        """Add the event to the log, and bring its session in line; all or nothing.

        Return True when it was added and fits its session. When the log holds an event of the
        same session, type, instant and instrument already, warn, add nothing and return False;
        whatever has become of the session. An event that fits no session (an END before its
        START, a second START, another instrument) is kept in the log and in quarantine, changes
        nothing else, and gives a warning and False as well.

        `principal` is who says so. Raises UnknownInstrumentError, or SessionLogError for a
        type, status, time or identifier that cannot be.
        """
        _check(self.event_type, EVENT_TYPES, "an event type")
        if self.record_status is not None:
            _check(self.record_status, STATUSES, "a status")
        if not self.session_identifier:
            raise SessionLogError("a session needs an identifier")
        who = principal or Principal.system()
        with current(instance).store.write(who) as connection:
            device = find_instrument(connection, self.instrument)
            if device is None:
                raise UnknownInstrumentError(
                    f"the session log knows no instrument {self.instrument!r}; add it first"
                )
            event = Event(
                self.session_identifier,
                self.instrument,
                instant(self.timestamp, device),
                self.event_type,
                self.user,
                self.record_status,
            )
            appended = append(connection, [event], who=who.name)
        return self._report(appended.added == 1, appended.unfit.get(event.place))

    def _report(self, added: bool, unfit: str | None) -> bool:
        name = f"{self.event_type} of session {self.session_identifier}"
        if not added:
            _warn(f"{name} is in the log already; nothing was added")
        elif unfit:
            _warn(f"{name} is in quarantine: {unfit}")
        return added and not unfit


@dataclass(frozen=True, slots=True)
class Session:
    """A session with both ends; `dt_range` holds them, in UTC.

    `user` is who is said to have used the instrument, where that is known.
    """

    session_identifier: str
    instrument: Instrument
    dt_range: tuple[datetime, datetime]
    user: str | None

    def insert_record_generation_event(
        self, *, instance: Current | None = None, principal: Principal | None = None
    ) -> dict[str, Any]:
        """Log that this session's record was made now; return that very event from the log.

        Raises UnknownSessionError when the log knows no such session.
        """
        who = principal or Principal.system()
        with current(instance).store.write(who) as connection:
            return self.log_record_generation(connection, who=who.name)

    def log_record_generation(self, connection: sa.Connection, *, who: str) -> dict[str, Any]:
        """Do what `insert_record_generation_event` does, in the transaction of `connection`."""
        queue_writers(connection, session_event)
        device = connection.execute(
            sa.select(session.c.instrument).where(session.c.identifier == self.session_identifier)
        ).scalar_one_or_none()
        if device is None:
            raise UnknownSessionError(f"the log knows no session {self.session_identifier}")
        event = Event(self.session_identifier, device, utc_now(), "RECORD_GENERATION", self.user)
        append(connection, [event], who=who)
        c = session_event.c
        found = connection.execute(
            sa.select(
                c.id, c.session_identifier, c.instrument, c.happened_at, c.event_type, c.user_name
            ).where(
                c.session_identifier == event.session_identifier,
                c.event_type == event.event_type,
                c.happened_at == event.happened_at,
                c.instrument == event.instrument,
            )
        ).one()
        return found._asdict()

    def update_session_status(
        self,
        status: str,
        *,
        reason: str = "",
        instance: Current | None = None,
        principal: Principal | None = None,
    ) -> bool:
        """Set the session's status, noting when, who, on which host and why.

        Return False when the log knows no such session. Raises SessionLogError for an unknown
        status, and for TO_BE_BUILT while an end of the session is missing.
        """
        who = principal or Principal.system()
        with current(instance).store.write(who) as connection:
            return set_status(
                connection, self.session_identifier, status, who=who.name, reason=reason
            )


def set_status(
    connection: sa.Connection, identifier: str, status: str, *, who: str, reason: str
) -> bool:
    """Set one session's status in the transaction of `connection`; see Session."""
    _check(status, STATUSES, "a status")
    queue_writers(connection, session_event)
    row = connection.execute(sa.select(session).where(session.c.identifier == identifier)).first()
    if row is None:
        return False
    if status == "TO_BE_BUILT" and (row.started_at is None or row.ended_at is None):
        raise SessionLogError(f"session {identifier} lacks its START or END and cannot be built")
    connection.execute(
        sa.update(session).where(session.c.identifier == identifier).values(status=status)
    )
    note_changes(connection, [identifier], who=who, reason=reason)
    return True


def get_sessions_to_build(
    *, instance: Current | None = None, limit: int | None = None
) -> list[Session]:
    """Return the sessions whose records are to be built, the earliest first.

    One statement, whose cost grows with their number and not with the log. It is keepline's
    own work and sees the sessions of every group. `limit` returns no more than that.
    """
    with current(instance).store.read() as connection:
        return ready_sessions(connection, limit=limit)


def ready_sessions(
    connection: sa.Connection, *, after: Session | None = None, limit: int | None = None
) -> list[Session]:
    """Return the sessions to be built, in order of (start, identifier), those `after` one."""
    query = (
        sa.select(session, instrument_table)
        .join(instrument_table, instrument_table.c.name == session.c.instrument)
        .where(session.c.status == "TO_BE_BUILT")
        .order_by(session.c.started_at, session.c.identifier)
        .limit(limit)
    )
    if after is not None:
        begun, identifier = after.dt_range[0], after.session_identifier
        query = query.where(
            session.c.started_at >= begun,
            sa.or_(session.c.started_at > begun, session.c.identifier > identifier),
        )
    found = []
    for row in connection.execute(query).mappings():
        device = Instrument(
            row[instrument_table.c.name],
            tz=row[instrument_table.c.tz],
            group=row[instrument_table.c.group_name],
            comment=row[instrument_table.c.comment],
        )
        ends = (row[session.c.started_at], row[session.c.ended_at])
        found.append(Session(row[session.c.identifier], device, ends, row[session.c.user_name]))
    return found


def _check(value: str, allowed: tuple[str, ...], what: str) -> None:
    if value not in allowed:
        raise SessionLogError(f"{value!r} is not {what}; they are: {', '.join(allowed)}")


def _warn(message: str) -> None:
    warnings.warn(message, SessionLogWarning, stacklevel=4)
