"""Bringing what dead recorders left in a spool into the capture store."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import chain

from keepline.capture.spool import Spool, batches, origin_parts, spooled_items
from keepline.capture.spooling import deliver
from keepline.capture.store import CaptureStore, StreamWriter
from keepline.capture.stores.sqlite_writer import SqliteStreamWriter
from keepline.errors import (
    AlreadyCapturedError,
    CaptureError,
    NoSessionError,
    SessionClosedError,
    StreamLockedError,
)
from keepline.model import Chunk, Loss, SessionInfo, StreamSpec, from_us

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Drained:
    """What was found for one stream: `messages` went into `session`; `late` when that is new."""

    session: SessionInfo
    source: str
    messages: int
    late: bool


def drain_spool(spool: Spool, store: CaptureStore) -> list[Drained]:
    """Bring what dead recorders left in `spool` into `store`, and return what went where.

    It goes into the session that it is of, if that still runs: call it before `recover`. Else
    it goes into a new session of the same instrument, with the origin ``late:<global name>/
    <source>:<first number>``, which is then ended as interrupted. Nothing is lost and nothing
    comes twice, also when it is killed and called again. What a living recorder is spooling is
    left alone, and so is what belongs to another store; one that fails is logged, stays, and
    does not keep the others from it.
    """
    drained = []
    for info in spool.store.sessions():
        parts = origin_parts(info.origin)
        if parts is None or parts[0] != store.store_id:
            _log.warning("the spool's session %d is not of this store: left there", info.number)
            continue
        try:
            found = _drain(spool, info, store, number=parts[1], source=parts[2])
        except StreamLockedError as error:
            _log.info("the spool's session %d is left alone: %s", info.number, error)
        except NoSessionError:
            _log.info("the spool's session %d was drained by somebody else", info.number)
        except CaptureError:
            _log.exception("the spool's session %d could not be drained", info.number)
        else:
            if found is not None:
                drained.append(found)
    return drained


def living_sessions(spool: Spool, store: CaptureStore) -> frozenset[int]:
    """Return the numbers of the sessions of `store` that living recorders are spooling for.

    Such a recorder may have lost its lease while the store was out of reach; its session is no
    orphan, though the store takes it for one.
    """
    found = set()
    for info in spool.store.sessions():
        parts = origin_parts(info.origin)
        if parts is not None and parts[0] == store.store_id:
            with suppress(NoSessionError):  # drained meanwhile: the store has it all
                if spool.store.is_live(info.number):
                    found.add(parts[1])
    return frozenset(found)


def _drain(
    spool: Spool, info: SessionInfo, store: CaptureStore, *, number: int, source: str
) -> Drained | None:
    with _held(spool, info.number, source) as held:
        items = spooled_items(spool.store, info.number, source)
        try:
            writer = store.open_writer(number, source)
        except (NoSessionError, SessionClosedError):
            drained = _drain_late(items, spool, info, store, _next_seq(store, number, source))
        else:
            with closing(writer):
                messages = _bring(items, writer, 0)
            drained = Drained(store.session(number), source, messages, late=False)
        if held is None:
            spool.store.delete_session(info.number)
        else:  # before a recorder can take the stream to go on with it
            spool.store.delete_held(held)
    return drained


@contextmanager
def _held(spool: Spool, number: int, source: str) -> Iterator[SqliteStreamWriter | None]:
    """Hold a spooled stream: no two drain it at a time, and no living recorder has it.

    Gives None for one that has ended. Raises StreamLockedError, or NoSessionError when it has
    gone meanwhile.
    """
    with ExitStack() as stack:
        held = None
        with suppress(SessionClosedError):  # nobody can have it
            held = stack.enter_context(closing(spool.store.open_writer(number, source)))
        yield held


def _drain_late(
    items: Iterator[Chunk | Loss],
    spool: Spool,
    info: SessionInfo,
    store: CaptureStore,
    following: int,
) -> Drained | None:
    """Bring what follows in a session that has ended into one of its own.

    That one has numbers of its own, from 0 on; nothing of the spool goes before all is there,
    so that the first number, and with it the new session's name, stays the same.
    """
    first = next(items, None)
    if first is None:
        return None
    (spec,) = spool.store.streams(info.number)
    name = f"late:{(info.origin or '').removeprefix('spool:')}"
    begin = _begin(store, name, max(first.first_seq, following), spec.source)
    rest = (item for item in chain([first], items) if item.last_seq >= begin)
    first = next(rest, None)
    if first is None:
        return None
    with closing(_late_writer(store, info, spec, f"{name}:{begin}")) as writer:
        messages = _bring(chain([first], rest), writer, begin)
        session = store.close_session(
            writer.session.number, "interrupted", _end(store, writer.session, spec.source)
        )
    return Drained(session, spec.source, messages, late=True)


def _begin(store: CaptureStore, name: str, first_seq: int, source: str) -> int:
    """Return where to go on: after the late sessions of `name` that were ended half-way."""
    ended = {known.origin: known.number for known in store.sessions() if known.ended is not None}
    begin = first_seq
    while (number := ended.get(f"{name}:{begin}")) is not None:
        messages = store.next_seq(number, source)
        begin += messages
        if not messages:
            break
    return begin


def _late_writer(
    store: CaptureStore, info: SessionInfo, spec: StreamSpec, origin: str
) -> StreamWriter:
    try:
        return store.create_session(
            info.instrument, info.user, spec, started=info.started, origin=origin
        )
    except AlreadyCapturedError:  # an earlier call was killed
        (number,) = (
            known.number
            for known in store.sessions()
            if known.origin == origin and known.ended is None
        )
        return store.open_writer(number, spec.source)


def _bring(items: Iterator[Chunk | Loss], writer: StreamWriter, begin: int) -> int:
    """Add what a stream lacks, its numbers counted from `begin`; return how many messages."""
    messages = 0
    for item in batches(items):
        if isinstance(item, Loss):
            if writer.next_seq <= item.last_seq - begin:
                writer.lose(item.last_seq - begin, item.reason)
            continue
        lacking = [chunk for chunk in item if chunk.last_seq - begin >= writer.next_seq]
        if lacking:
            deliver(writer, [_moved(chunk, begin) for chunk in lacking])
            messages += sum(chunk.count for chunk in lacking)
    return messages


def _moved(chunk: Chunk, begin: int) -> Chunk:
    if not begin:
        return chunk
    first_seq = chunk.first_seq - begin
    crc = Chunk.checksum(first_seq, chunk.lengths, chunk.times_us, chunk.ticks, chunk.raw)
    return replace(chunk, first_seq=first_seq, crc=crc)


def _next_seq(store: CaptureStore, number: int, source: str) -> int:
    try:
        return store.next_seq(number, source)
    except NoSessionError:
        return 0


def _end(store: CaptureStore, session: SessionInfo, source: str) -> datetime:
    """Return the time of a stream's last message, or the session's start."""
    last = store.next_seq(session.number, source) - 1
    times_us = [max(chunk.times()) for chunk in store.chunks(session.number, source, last)]
    return max([session.started, *map(from_us, times_us)])
