"""What people do with capture sessions: record, stop, look, delete, export."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import sqlalchemy as sa

from keepline.errors import CaptureError, CaptureTimeoutError, NoSessionError
from keepline.model import CaptureState, Loss, SessionInfo
from keepline.store.tables import capture as archived

if TYPE_CHECKING:
    from keepline.app.instance import Instance
    from keepline.capture import CaptureServer
    from keepline.capture.tail import Tail

_POLL_S = 0.1
_LINES = 256
_LAST = 10


@dataclass(frozen=True)
class StreamReport:
    """One stream of a session: what was stored, lost, archived (the last number) and trimmed."""

    source: str
    decoder: str
    messages: int
    next_seq: int
    archived_seq: int
    trimmed_seq: int
    losses: list[Loss]


@dataclass(frozen=True)
class ArchivedReport:
    """What the archive has of a session; `missing` are (source, first, last, reason)."""

    state: CaptureState
    messages: int
    readings: int
    quarantined: int
    lost: int
    gaps: dict[str, int]
    missing: list[tuple[str, int, int, str]]


@dataclass(frozen=True)
class SessionReport:
    """A capture session, its streams, and what the archive has of it (None: nothing yet)."""

    session: SessionInfo
    live: bool
    stop_requested: bool
    streams: list[StreamReport]
    archive: ArchivedReport | None


def show(instance: Instance, number: int) -> SessionReport:
    """Return all that is known of a session; raises NoSessionError."""
    store = instance.capture_store
    info = store.session(number)
    streams = [
        StreamReport(
            source=spec.source,
            decoder=spec.decoder,
            messages=store.message_count(number, spec.source),
            next_seq=store.next_seq(number, spec.source),
            archived_seq=store.archived(number, spec.source),
            trimmed_seq=store.trimmed(number, spec.source),
            losses=store.losses(number, spec.source),
        )
        for spec in store.streams(number)
    ]
    return SessionReport(
        session=info,
        live=store.is_live(number),
        stop_requested=store.stop_requested(number),
        streams=streams,
        archive=_archived(instance, info),
    )


def record(
    server: CaptureServer,
    lines: Iterable[bytes],
    progress: Callable[[int], None] | None = None,
) -> int:
    """Queue each line in the running session, without a carriage return; return how many.

    Empty lines are no messages, as in the ways in from networks.
    """
    taken = 0
    for line in lines:
        message = line.removesuffix(b"\r")
        if not message:
            continue
        server.queue(message)
        taken += 1
        if progress is not None and taken % _LINES == 0:
            progress(taken)
    return taken


def stop(instance: Instance, number: int, *, timeout_s: float = 30.0) -> SessionInfo:
    """Have the recorder of a session end it, and return the ended session.

    A session whose recorder died is ended as interrupted. A recorder that is spooling sees the
    request when it reaches the store again.

    Raises:
        NoSessionError, SessionClosedError: there is no such running session.
        CaptureTimeoutError: its recorder did not end it within `timeout_s` seconds.
    """
    store = instance.capture_store
    store.request_stop(number)
    deadline = time.monotonic() + timeout_s
    while (info := store.session(number)).state == "running":
        ended = None if _is_spooled(instance, number) else store.close_orphan(number)
        if ended is not None:
            return ended
        if time.monotonic() >= deadline:
            raise CaptureTimeoutError(
                f"the recorder of capture session {number} was asked to stop and has not yet; "
                "`keepline capture show` tells when it has"
            )
        time.sleep(_POLL_S)
    return info


def delete(instance: Instance, number: int, *, force: bool = False, archive: bool = False) -> None:
    """Remove a session from the capture store, and with `archive` from the archive as well.

    Raises:
        NoSessionError: neither has it.
        CaptureError: it is live, or holds messages that are not archived and `force` is not set.
    """
    store = instance.capture_store
    known = any(info.number == number for info in store.sessions())
    if known:
        waiting = sum(
            max(0, store.next_seq(number, spec.source) - 1 - store.archived(number, spec.source))
            for spec in store.streams(number)
        )
        if waiting and not force:
            raise CaptureError(
                f"{waiting} messages of capture session {number} are not archived; run "
                "`keepline archive` first, or delete them with --force"
            )
        if _is_spooled(instance, number):
            raise CaptureError(
                f"capture session {number} is live: its recorder is spooling; stop it before "
                "deleting it"
            )
        store.delete_session(number)
    if archive:
        instance.archive.delete_session(number)
    elif not known:
        raise NoSessionError(f"there is no capture session {number}")


def export(
    instance: Instance,
    session: int | str,
    path: Path,
    *,
    form: Literal["csv", "parquet"],
    sources: Collection[str] | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Write a session's archived messages to a file, of all sources or some; return the rows."""
    from keepline.capture.archive import export as files

    write = files.export_parquet if form == "parquet" else files.export_csv
    return write(
        instance.archive, session, path, sources=sources, overwrite=overwrite, progress=progress
    )


def tail(
    instance: Instance,
    number: int,
    *,
    source: str = "main",
    start: int | None = None,
    follow: bool = False,
) -> Iterator[Tail]:
    """Yield the messages of a stream from `start` on, or the last ten; see capture.tail.

    What was trimmed comes from the archive. Raises NoSessionError, and CaptureError for a
    `start` beyond the end, unless it is followed until it comes.
    """
    from keepline.capture.tail import tail as items

    store = instance.capture_store
    if source not in {spec.source for spec in store.streams(number)}:
        raise NoSessionError(f"capture session {number} has no source {source!r}")
    following = store.next_seq(number, source)
    if start is None:
        start = max(0, following - _LAST)
    elif start > following and not follow:
        raise CaptureError(
            f"{source} of capture session {number} goes up to message {following - 1} only"
        )
    return items(store, number, start, source=source, follow=follow, archive=instance.archive)


def _is_spooled(instance: Instance, number: int) -> bool:
    """Return whether a living recorder keeps a part of a session in the instance's spool."""
    from keepline.capture.draining import living_sessions

    spool = instance.spool
    return spool is not None and number in living_sessions(spool, instance.capture_store)


def _archived(instance: Instance, info: SessionInfo) -> ArchivedReport | None:
    session, stream, gap = archived.capture_session.c, archived.stream.c, archived.gap.c
    with instance.store.read() as connection:
        row = connection.execute(
            sa.select(session.id, session.state).where(session.global_name == info.global_name)
        ).one_or_none()
        if row is None:
            return None
        sums = connection.execute(
            sa.select(
                *(
                    sa.func.coalesce(sa.func.sum(column), 0)
                    for column in (
                        stream.messages - stream.lost,
                        stream.readings,
                        stream.quarantined,
                        stream.lost,
                    )
                )
            ).where(stream.session_id == row.id)
        ).one()
        kinds = connection.execute(
            sa.select(gap.kind, sa.func.count())
            .where(gap.session_id == row.id)
            .group_by(gap.kind)
            .order_by(gap.kind)
        )
        gaps: dict[str, int] = {row[0]: row[1] for row in kinds}
    return ArchivedReport(
        state=row.state,
        messages=int(sums[0]),
        readings=int(sums[1]),
        quarantined=int(sums[2]),
        lost=int(sums[3]),
        gaps=gaps,
        missing=list(instance.archive.missing_ranges(info.number)),
    )
