"""Taking the sessions of a capture store into the session log."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from keepline.model import Principal, SessionInfo
from keepline.sessions.pairing import Event, append, batches
from keepline.store import quarantine
from keepline.store.current import Current, current
from keepline.store.tables.common import instrument


@dataclass(frozen=True, slots=True)
class HarvestResult:
    """What a harvest found: sessions seen, events that were new, and what could not be taken.

    `unfit` are (session identifier, reason) of events that do not fit what the log holds, and
    `refused` of sessions that it cannot hold, such as those of an unknown instrument; both are
    in quarantine too, `quarantined` of them newly.
    """

    sessions: int = 0
    events: int = 0
    quarantined: int = 0
    unfit: tuple[tuple[str, str], ...] = ()
    refused: tuple[tuple[str, str], ...] = ()

    def __add__(self, other: HarvestResult) -> HarvestResult:
        return HarvestResult(
            self.sessions + other.sessions,
            self.events + other.events,
            self.quarantined + other.quarantined,
            self.unfit + other.unfit,
            self.refused + other.refused,
        )


def harvest_capture(
    sessions: Iterable[SessionInfo],
    *,
    instance: Current | None = None,
    principal: Principal | None = None,
) -> HarvestResult:
    """Log a START for each capture session, and an END for each that has ended.

    Only what the log lacks is added, so a harvest repairs what a crash left out, and a second
    one adds nothing. A session that took no message becomes NO_FILES_FOUND. One that cannot
    be logged is refused, and the others go on.
    """
    store = current(instance).store
    who = principal or Principal.system()
    result = HarvestResult()
    for batch in batches(sessions):
        with store.write(who) as connection:
            result += _harvest(connection, batch, who=who.name)
    return result


def _harvest(connection: sa.Connection, infos: Sequence[SessionInfo], *, who: str) -> HarvestResult:
    names = {info.instrument for info in infos}
    known = set(
        connection.execute(sa.select(instrument.c.name).where(instrument.c.name.in_(names)))
        .scalars()
        .all()
    )
    refused = {
        info: f"the session log knows no instrument {info.instrument!r}"
        for info in infos
        if info.instrument not in known
    }
    events = [event for info in infos if info not in refused for event in _events(info)]
    appended = append(connection, events, who=who)
    kept = quarantine.keep(
        connection,
        "sessions",
        "capture",
        [(info.number, info.global_name.encode(), reason) for info, reason in refused.items()],
    )
    return HarvestResult(
        sessions=len(infos),
        events=appended.added,
        quarantined=appended.quarantined + kept,
        unfit=tuple((place[0], reason) for place, reason in appended.unfit.items()),
        refused=tuple((info.global_name, reason) for info, reason in refused.items()),
    )


def _events(info: SessionInfo) -> list[Event]:
    status = "NO_FILES_FOUND" if info.state == "empty" else None
    ends = [("START", info.started)]
    if info.ended is not None:
        ends.append(("END", info.ended))
    return [
        Event(info.global_name, info.instrument, moment, kind, info.user or None, status)
        for kind, moment in ends
    ]
