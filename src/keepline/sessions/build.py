"""Building one record from each finished session, exactly once."""

from __future__ import annotations

import random
import sqlite3
import time
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
from keepline.store.tables.records import change_feed
from keepline.store.tables.sessions import session, session_event

#: Sessions that are gathered at once.
BATCH = 200

#: Identifiers of keepline's own capture sessions: their readings come, or have come, to the
#: archive.
_CAPTURED = "capture:"

#: How often one build tries a session whose record others write too, and the first pause.
_TRIES = 4
_PAUSE_S = 0.02

_CONTENDED = "others write its record at the same time; the next build tries again"

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
    others go on. Of an error that is not keepline's the reason has its kind alone, since its
    text may hold data of a subject. A session whose record others write at the same time is
    tried again, and waits for a later build when that does not help.

    `limit` ends the build after so many sessions that did not wait. Raises
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


class _ContendedError(Exception):
    """Every try of a session met with others' writes."""


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
            status = self._try(ready, found)
        except _ContendedError:
            self.report.waiting.append((identifier, _CONTENDED))
            return False
        except sa.exc.OperationalError as error:
            raise InstanceError(
                f"the SQL store failed: {str(error.orig).splitlines()[0]}"
            ) from error
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

    def _try(self, ready: Session, found: Gathered | None) -> str | None:
        """Do `_finish` in a transaction, again where others write the same record."""
        for tried in range(_TRIES):
            if tried:
                time.sleep(_PAUSE_S * 2**tried * random.random())  # noqa: S311 - to spread retries
            try:
                with self.store.write(self.who) as connection:
                    return self._finish(connection, ready, found)
            except sa.exc.DBAPIError as error:
                if not _is_contention(error):
                    raise
        raise _ContendedError

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


def _is_contention(error: sa.exc.DBAPIError) -> bool:
    """Say whether PostgreSQL refused only because others write too; SQLite's writers queue."""
    state = getattr(error.orig, "sqlstate", None)
    if state in ("40001", "40P01", "55P03"):  # serialization failure, deadlock, lock not available
        return True
    if state != "23505":  # unique violation
        return False
    diagnosis: Any = getattr(error.orig, "diag", None)
    table, constraint = diagnosis.table_name or "", diagnosis.constraint_name or ""
    # Whoever breaks another unique constraint of a record table breaks it for good.
    return table == change_feed.name or (table.startswith("rec_") and constraint.endswith("_pkey"))


def _reason(error: Exception) -> str:
    """Return what may be kept for ever: no text of errors that may hold a subject's data."""
    if isinstance(error, KeeplineError):
        return str(error)
    if isinstance(error, sa.exc.DBAPIError) and error.orig is not None:
        return _refusal(error.orig)
    return type(error).__name__


def _refusal(error: BaseException) -> str:
    """Return a database's code for its error, and which constraint or column it is about."""
    if isinstance(error, sqlite3.Error):
        code = getattr(error, "sqlite_errorname", None)
        # SQLite names the constraint at the end of the text; a trigger's text may say anything.
        named = code != "SQLITE_CONSTRAINT_TRIGGER"
        name = str(error).partition("constraint failed: ")[2] if named else ""
    else:
        code = getattr(error, "sqlstate", None)
        diagnosis = getattr(error, "diag", None)
        name = getattr(diagnosis, "constraint_name", None) or ""
        name = name or getattr(diagnosis, "column_name", None) or ""
    return (
        f"the database refused it: {' '.join(filter(None, (code, name))) or type(error).__name__}"
    )
