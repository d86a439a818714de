"""The archive's rows of whole sessions: making, states, figures, removal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from keepline.capture.archive.rows import MISSING, lock_session
from keepline.errors import NoSessionError, UnknownInstrumentError
from keepline.model import CaptureState, Principal, SessionInfo, utc_now
from keepline.store import Store
from keepline.store.tables import capture as tables
from keepline.store.tables import common

#: What is removed with a session's data, in this order.
_OF_BLOCKS = (tables.block_stat, tables.block_raw)
_OF_SESSION = (tables.block, tables.gap, tables.clock_fit, tables.channel, tables.stream)


@dataclass(frozen=True, slots=True)
class Figures:
    """What the archive holds of a session.

    `messages` counts those received, `quarantined` all quarantined input, each message of a
    damaged chunk and lines that never became messages too; `gaps` are rows by kind.
    """

    messages: int
    readings: int
    quarantined: int
    lost: int
    gaps: dict[str, int]
    state: CaptureState


@dataclass(frozen=True, slots=True)
class SessionRows:
    """Writes and reads the rows of sessions, in the name of `principal`."""

    store: Store
    principal: Principal

    def make(self, info: SessionInfo) -> int:
        """Return the row id of a session, which is made as running when it is new.

        Raises UnknownInstrumentError.
        """
        table = tables.capture_session
        dialect = postgresql if self.store.dialect == "postgresql" else sqlite
        with self.store.write(self.principal) as connection:
            group = instrument_group(connection, info.instrument)
            known = sa.select(table.c.id).where(table.c.global_name == info.global_name)
            row_id = connection.execute(known).scalar()
            if row_id is not None:
                return int(row_id)
            made = connection.execute(
                dialect.insert(table)
                .values(
                    store_id=info.store_id,
                    number=info.number,
                    global_name=info.global_name,
                    instrument=info.instrument,
                    user_name=info.user,
                    state="running",
                    started_at=info.started,
                    origin=info.origin,
                    group_name=group,
                    level=info.level,
                )
                .on_conflict_do_nothing()
            )
            row_id = int(connection.execute(known).scalar_one())
            if made.rowcount:
                self._note_state(connection, info.global_name, "running", "archiving began")
        return row_id

    def end(self, row_id: int, info: SessionInfo, ends: Mapping[str, int]) -> None:
        """Give an ended session its state, if everything of it is archived.

        `ends` has the number after the last message of each of its sources. One that the
        capture store has as complete, or as empty, is partial when messages of it are missing.
        One that was cleared meanwhile stays as it is. Raises NoSessionError.
        """
        table = tables.capture_session
        with self.store.write(self.principal) as connection:
            lock_session(connection, row_id)
            held = self._ends(connection, row_id)
            if any(held.get(source, -1) < end for source, end in ends.items()):
                return
            state, reason = info.state, "everything is archived"
            missing = self._missing(connection, row_id)
            if missing and state in ("complete", "empty"):
                state, reason = "partial", f"all that is left is archived; {missing} are missing"
            changed = connection.execute(
                sa.update(table)
                .where(table.c.id == row_id, table.c.state != state)
                .values(state=state, ended_at=info.ended)
            )
            if changed.rowcount:
                self._note_state(connection, info.global_name, state, reason)

    def figures(self, row_id: int, origins: Sequence[str]) -> Figures:
        """Return what the archive holds of a session, whose quarantined input has `origins`.

        Raises NoSessionError.
        """
        count, of_sum = sa.func.count, sa.func.sum
        streams, gap, kept = tables.stream.c, tables.gap.c, common.quarantine.c
        with self.store.read() as connection:
            sums = connection.execute(
                sa.select(
                    of_sum(streams.messages), of_sum(streams.readings), of_sum(streams.lost)
                ).where(streams.session_id == row_id)
            ).one()
            kinds = connection.execute(
                sa.select(gap.kind, count(), of_sum(gap.missing))
                .where(gap.session_id == row_id)
                .group_by(gap.kind)
            ).all()
            quarantined = connection.execute(
                sa.select(count()).where(kept.part == "capture", kept.origin.in_(origins))
            ).scalar_one()
            state = connection.execute(
                sa.select(tables.capture_session.c.state).where(
                    tables.capture_session.c.id == row_id
                )
            ).scalar()
        if state is None:
            raise NoSessionError("the session was deleted from the archive meanwhile")
        damaged = sum(int(missing) - rows for kind, rows, missing in kinds if kind == "damage")
        messages, readings, lost = (int(each or 0) for each in sums)
        return Figures(
            messages - lost,
            readings,
            quarantined + damaged,
            lost,
            {kind: rows for kind, rows, _ in kinds},
            state,
        )

    def clear(self, row_id: int, name: str, before: Callable[[], None]) -> None:
        """Remove a session's data; the session stays, as running.

        `before` is called when nobody archives the session any more, until it is cleared; when
        it raises, nothing is removed. Raises NoSessionError.
        """
        session = tables.capture_session
        with self.store.write(self.principal) as connection:
            lock_session(connection, row_id)
            before()
            _remove_data(connection, row_id)
            connection.execute(
                sa.update(session)
                .where(session.c.id == row_id)
                .values(state="running", ended_at=None)
            )
            self._note_state(connection, name, "running", "its data was cleared")

    def delete(self, row_id: int, name: str, before: Callable[[], None]) -> None:
        """Remove a session with its data, and from the list of sessions, and note its removal.

        `before` is called first, as by `clear`. Raises NoSessionError.
        """
        session, listed = tables.capture_session, tables.listed_session
        with self.store.write(self.principal) as connection:
            lock_session(connection, row_id)
            before()
            state = connection.execute(sa.select(session.c.state).where(session.c.id == row_id))
            self._note_state(connection, name, state.scalar_one(), "it was deleted here")
            _remove_data(connection, row_id)
            named = sa.select(session.c.store_id, session.c.number).where(session.c.id == row_id)
            connection.execute(
                sa.delete(listed).where(sa.tuple_(listed.c.store_id, listed.c.number).in_(named))
            )
            connection.execute(sa.delete(session).where(session.c.id == row_id))

    def _ends(self, connection: sa.Connection, row_id: int) -> dict[str, int]:
        stream = tables.stream.c
        query = sa.select(stream.source, stream.messages).where(stream.session_id == row_id)
        return {row.source: row.messages for row in connection.execute(query)}

    def _missing(self, connection: sa.Connection, row_id: int) -> int:
        gap = tables.gap.c
        query = sa.select(sa.func.sum(gap.missing)).where(
            gap.session_id == row_id, gap.kind.in_(MISSING)
        )
        return int(connection.execute(query).scalar() or 0)

    def _note_state(self, connection: sa.Connection, name: str, state: str, reason: str) -> None:
        connection.execute(
            sa.insert(tables.capture_session_change).values(
                session_name=name,
                state=state,
                changed_at=utc_now(),
                who=self.principal.name,
                reason=reason,
            )
        )


def instrument_group(connection: sa.Connection, name: str) -> str | None:
    """Return the group of an instrument; raises UnknownInstrumentError."""
    instrument = common.instrument.c
    row = connection.execute(
        sa.select(instrument.group_name).where(instrument.name == name)
    ).one_or_none()
    if row is None:
        raise UnknownInstrumentError(f"the instrument {name!r} is not declared; add it first")
    group: str | None = row.group_name
    return group


def _remove_data(connection: sa.Connection, row_id: int) -> None:
    of_session = sa.select(tables.block.c.id).where(tables.block.c.session_id == row_id)
    for table in _OF_BLOCKS:
        connection.execute(sa.delete(table).where(table.c.block_id.in_(of_session)))
    for table in _OF_SESSION:
        connection.execute(sa.delete(table).where(table.c.session_id == row_id))
