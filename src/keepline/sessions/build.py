"""Building one record from each finished session, exactly once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import sqlalchemy as sa

from keepline.errors import InstanceError, KeeplineError
from keepline.model import Principal
from keepline.sessions.gather import Gathered, gather
from keepline.sessions.log import Session, ready_sessions, set_status
from keepline.store import Store
from keepline.store.current import Current, current
from keepline.store.locks import queue_writers
from keepline.store.tables.sessions import session, session_event

#: Sessions that are gathered at once.
BATCH = 200

#: Identifiers of keepline's own capture sessions: their readings come, or have come, to the
#: archive.
_CAPTURED = "capture:"

_NO_FILES = "the archive holds no readings of the session"


class RecordWriter(Protocol):
    """Writes one record within the transaction of `connection`, or raises."""

    def __call__(
        self,
        connection: sa.Connection,
        *,
        key: str,
        values: Mapping[str, Any],
        subrows: Mapping[str, Sequence[Mapping[str, Any]]],
        group: str | None,
    ) -> object: ...


@dataclass(slots=True)
class BuildReport:
    """What a build did, by session identifier; `failed` and `waiting` come with a reason."""

    built: list[str] = field(default_factory=list)
    no_files: list[str] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)
    waiting: list[tuple[str, str]] = field(default_factory=list)


def build_sessions(
    write_record: RecordWriter,
    *,
    instance: Current | None = None,
    limit: int | None = None,
    principal: Principal | None = None,
) -> BuildReport:
    """Build the record of each session that is to be built, the earliest first.

    A record, its RECORD_GENERATION event and the status COMPLETED are one transaction, so that
    a session is built once, however many builds run or are killed. A session whose readings
    are not all in the archive yet waits for a later build; one without readings becomes
    NO_FILES_FOUND; one whose record cannot be written becomes ERROR with the reason, and the
    others go on. `limit` ends the build after so many sessions that did not wait. Raises
    InstanceError when the store itself fails: what was built before stays built.
    """
    build = _Build(current(instance).store, write_record, principal or Principal.system())
    last: Session | None = None
    done = 0
    while True:
        with build.store.read() as connection:
            ready = ready_sessions(connection, after=last, limit=BATCH)
            archived = gather(connection, [each.session_identifier for each in ready])
        for each in ready:
            if done == limit:
                return build.report
            done += build.one(each, archived.get(each.session_identifier))
        if len(ready) < BATCH:
            return build.report
        last = ready[-1]


@dataclass(slots=True)
class _Build:
    store: Store
    write_record: RecordWriter
    who: Principal
    report: BuildReport = field(default_factory=BuildReport)

    def one(self, ready: Session, found: Gathered | None) -> bool:
        """Build one session and report it; return False when it waits."""
        identifier = ready.session_identifier
        if (found is None and identifier.startswith(_CAPTURED)) or (
            found is not None and found.state == "running"
        ):
            self.report.waiting.append((identifier, "its readings are not all archived yet"))
            return False
        try:
            with self.store.write(self.who) as connection:
                status = self._finish(connection, ready, found)
        except sa.exc.OperationalError as error:
            raise InstanceError(f"the SQL store failed: {_reason(error)}") from error
        except InstanceError:
            raise
        except Exception as error:  # whatever a writer raises concerns this session alone
            self._fail(identifier, _reason(error))
            return True
        if status == "COMPLETED":
            self.report.built.append(identifier)
        elif status == "NO_FILES_FOUND":
            self.report.no_files.append(identifier)
        return True

    def _finish(
        self, connection: sa.Connection, ready: Session, found: Gathered | None
    ) -> str | None:
        """Write the record and what follows; return the new status, None for another's work."""
        identifier, who = ready.session_identifier, self.who.name
        row = _lock_ready(connection, identifier)
        if row is None:
            return None
        if found is None or not found.messages:
            set_status(connection, identifier, "NO_FILES_FOUND", who=who, reason=_NO_FILES)
            return "NO_FILES_FOUND"
        self.write_record(
            connection,
            key=identifier,
            values=_values(ready, found),
            subrows={"channel": found.channels},
            group=row.group_name,
        )
        ready.log_record_generation(connection, who=who)
        set_status(connection, identifier, "COMPLETED", who=who, reason="the record was built")
        return "COMPLETED"

    def _fail(self, identifier: str, reason: str) -> None:
        with self.store.write(self.who) as connection:
            if _lock_ready(connection, identifier) is not None:
                set_status(connection, identifier, "ERROR", who=self.who.name, reason=reason)
        self.report.failed.append((identifier, reason))


def _lock_ready(connection: sa.Connection, identifier: str) -> sa.Row[Any] | None:
    """Keep other builds off, and return the session's row if it is still to be built."""
    queue_writers(connection, session_event)
    query = sa.select(session).where(
        session.c.identifier == identifier, session.c.status == "TO_BE_BUILT"
    )
    return connection.execute(query).one_or_none()


def _values(ready: Session, found: Gathered) -> dict[str, Any]:
    return {
        "instrument": ready.instrument.name,
        "user_name": ready.user,
        "started": ready.dt_range[0],
        "ended": ready.dt_range[1],
        "state": found.state,
        "messages": found.messages,
        "readings": found.readings,
        "gaps": found.gaps,
        "quarantined": found.quarantined,
    }


def _reason(error: Exception) -> str:
    if isinstance(error, sa.exc.DBAPIError):
        return str(error.orig).splitlines()[0]
    if isinstance(error, KeeplineError):
        return str(error)
    first, *_ = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {first}"
