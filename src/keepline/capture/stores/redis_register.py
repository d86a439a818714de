"""The register of a RedisCaptureStore: its identity, its epochs, and which sessions there are."""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Iterator
from typing import Any

from keepline.capture.stores.redis_chunks import RegisterKeys
from keepline.capture.stores.redis_connection import Argument, RedisConnection, Sync
from keepline.capture.stores.redis_levels import StoreFacts, store_facts
from keepline.capture.stores.redis_scripts import (
    ADD,
    END,
    FORGET,
    LAST,
    NUMBER,
    OPEN,
    OPENED,
    REMOVE,
    REMOVED,
    RENEW,
    SEAL,
    SESSION,
    SESSIONS,
    SHOW,
    SPECS,
    STOP,
    UNSEAL,
    Script,
)
from keepline.capture.stores.stream_specs import spec_json, spec_of
from keepline.errors import (
    AlreadyCapturedError,
    CaptureError,
    CaptureWriteError,
    NoSessionError,
    SessionClosedError,
)
from keepline.model import CaptureState, SessionInfo, StreamSpec, from_us, to_us

_log = logging.getLogger(__name__)

#: So many numbers are left out after a restart that may have forgotten the last ones.
_LEFT_OUT = 1_000
_PAGE = 500
_ATTEMPTS = 5


class RedisRegister:
    """Sessions and their streams' declarations; each change is one atomic script.

    Safe to share between threads. It knows the store's id from its first answer on: another
    store under the same keys, or none, is a CaptureWriteError from then on.
    """

    def __init__(self, connection: RedisConnection, prefix: str) -> None:
        self._connection = connection
        self._keys = RegisterKeys(prefix)
        self._mutex = threading.Lock()
        self._store_id = ""
        self._highest = 0  # number that was given out here: an old copy may not know of it

    @property
    def store_id(self) -> str:
        """Return the store's id; the store is made when there is none."""
        with self._mutex:
            if not self._store_id:
                facts = store_facts(self._connection)
                words = ("", uuid.uuid4().hex, uuid.uuid4().hex, facts.nodes)
                sync = facts.sync("stored")
                answer = self._connection.run(OPEN, (self._keys.store,), words, sync=sync)
                self._store_id = str(answer[1].decode())
            return self._store_id

    def epoch(self) -> str:
        """Return the epoch; a new one begins when the server has begun anew since."""
        answer = self._run(OPEN, (), ("", "", ""))
        _, _, epoch, run, run_now, nodes = (each.decode() for each in answer)
        if run != run_now or self._connection.is_cluster:
            facts = store_facts(self._connection)
            if run != run_now or nodes != facts.nodes:
                return self._after_restart(facts, epoch)
        return str(epoch)

    def renew(self, after_number: int) -> str:
        """Begin a new epoch, in which no session gets a number up to `after_number`."""
        return self._renew(store_facts(self._connection), "", after_number, 0)

    def last_number(self) -> int:
        """Return the highest number given out, or left out."""
        return int(self._run(LAST)[1])

    def new_number(self, instrument: str, origin: str | None) -> int:
        """Return a number that nobody got before; raises AlreadyCapturedError."""
        if self._connection.is_cluster:
            self.epoch()
        for _ in range(_ATTEMPTS):
            answer = self._run(NUMBER, (self._keys.origins,), (_origin_field(instrument, origin),))
            if answer[0] == b"ok":
                number = int(answer[1])
                with self._mutex:
                    self._highest = max(self._highest, number)
                return number
            if answer[0] == b"taken":
                raise _captured(instrument, origin)
            self.epoch()
        raise CaptureWriteError(
            f"the capture store at {self._connection.place} starts anew again "
            "and again; see its log"
        )

    def show(self, info: SessionInfo, spec: StreamSpec, *, sync: Sync) -> None:
        """Let a session be seen, with its first stream; raises AlreadyCapturedError."""
        keys = self._keys
        values: list[Argument] = [
            "instrument", info.instrument, "user", info.user,
            "started", to_us(info.started), "level", info.level,
        ]  # fmt: skip
        if info.origin is not None:
            values += ["origin", info.origin]
        answer = self._run(
            SHOW,
            (keys.origins, keys.sessions, keys.session(info.number), keys.specs(info.number)),
            (
                _origin_field(info.instrument, info.origin),
                info.number,
                spec.source,
                spec_json(spec),
                *values,
            ),
            sync=sync,
        )
        if answer[0] == b"taken":
            raise _captured(info.instrument, info.origin)

    def session(self, number: int) -> SessionInfo:
        """Return one session; raises NoSessionError."""
        return self._info(self._session_row(number))

    def stop_requested(self, number: int) -> bool:
        """Return whether a session was asked to end."""
        try:
            return self._session_row(number)[8] is not None
        except NoSessionError:
            return False

    def sessions(self) -> Iterator[SessionInfo]:
        """Yield every session, by number."""
        following = 0
        while True:
            words = (following, _PAGE, self._keys.session_prefix)
            _, *rows = self._run(SESSIONS, (self._keys.sessions,), words)
            for row in rows:
                if row[0] is not None:
                    yield self._info(row)
            if len(rows) < _PAGE:
                return
            following = max(int(row[0]) for row in rows if row[0] is not None) + 1

    def specs(self, number: int) -> list[StreamSpec]:
        """Return a session's streams, by source; raises NoSessionError."""
        keys = (self._keys.session(number), self._keys.specs(number))
        told = self._found(number, self._run(SPECS, keys))[1]
        return [
            spec
            for _, spec in sorted(
                zip(told[::2], map(spec_of, told[1::2]), strict=True), key=lambda pair: pair[0]
            )
        ]

    def add(self, number: int, spec: StreamSpec, *, sync: Sync) -> None:
        """Add a stream to a running session, which may have it already.

        Raises NoSessionError, SessionClosedError, CaptureError.
        """
        keys = (self._keys.session(number), self._keys.specs(number))
        answer = self._found(
            number, self._run(ADD, keys, (spec.source, spec_json(spec)), sync=sync)
        )
        if answer[0] == b"other":
            raise CaptureError(
                f"capture session {number} has source {spec.source!r} with another declaration"
            )

    def require_open(self, number: int) -> None:
        """Raise NoSessionError or SessionClosedError unless a session takes writers."""
        self._found(number, self._run(OPENED, (self._keys.session(number),)))

    def seal(self, number: int) -> list[str]:
        """Let a running session have no new stream or writer; return its streams' names."""
        keys = (self._keys.session(number), self._keys.specs(number))
        answer = self._found(number, self._run(SEAL, keys))
        return [name.decode() for name in answer[1]]

    def unseal(self, number: int) -> None:
        """Take `seal` back; raises NoSessionError, SessionClosedError."""
        self._found(number, self._run(UNSEAL, (self._keys.session(number),)))

    def end(self, number: int, state: CaptureState, ended_us: int, *, sync: Sync) -> None:
        """End a running session; raises NoSessionError, SessionClosedError."""
        keys = (self._keys.session(number), self._keys.specs(number), self._keys.origins)
        self._found(number, self._run(END, keys, (state, ended_us), sync=sync))

    def request_stop(self, number: int) -> None:
        """Note that a running session is to end; raises NoSessionError, SessionClosedError."""
        self._found(number, self._run(STOP, (self._keys.session(number),)))

    def remove(self, number: int, *, sync: Sync) -> None:
        """Let a session be seen no more; its streams are then among those `removed`."""
        keys = self._keys
        self._run(
            REMOVE,
            (keys.session(number), keys.specs(number), keys.origins, keys.sessions, keys.removed),
            (number,),
            sync=sync,
        )

    def removed(self) -> Iterator[tuple[int, list[str]]]:
        """Yield each session that was removed and not forgotten, and its streams' names.

        Whoever asks for the next one has forgotten those before it.
        """
        words = (self._keys.specs_prefix, _PAGE)
        while rows := self._run(REMOVED, (self._keys.removed,), words)[1:]:
            for number, names in rows:
                yield int(number), [name.decode() for name in names]

    def forget(self, number: int) -> None:
        """Forget a removed session, whose streams are gone."""
        self._run(FORGET, (self._keys.specs(number), self._keys.removed), (number,))

    def _run(
        self,
        script: Script,
        keys: tuple[str, ...] = (),
        words: tuple[Argument, ...] = (),
        *,
        sync: Sync = "none",
    ) -> list[Any]:
        store_id = self.store_id
        answer = self._connection.run(
            script, (self._keys.store, *keys), (store_id, *words), sync=sync
        )
        if answer[0] == b"gone":
            raise CaptureWriteError(
                f"the capture store {store_id} is no longer at {self._connection.place}: it was "
                "flushed or replaced; open it anew"
            )
        return answer

    def _found(self, number: int, answer: list[Any]) -> list[Any]:
        if answer[0] == b"none":
            raise NoSessionError(f"there is no capture session {number}")
        if answer[0] == b"closed":
            raise SessionClosedError(
                f"capture session {number} is {answer[1].decode()} and takes no more data; "
                "start a new one"
            )
        return answer

    def _session_row(self, number: int) -> list[Any]:
        row: list[Any] = self._found(number, self._run(SESSION, (self._keys.session(number),)))[1]
        return row

    def _info(self, row: list[Any]) -> SessionInfo:
        texts: list[Any] = [None if value is None else value.decode() for value in row]
        number, instrument, user, state, started, ended, origin, level, _ = texts
        return SessionInfo(
            self.store_id,
            int(number),
            instrument,
            user,
            state,
            from_us(int(started)),
            None if ended is None else from_us(int(ended)),
            origin,
            level,
        )

    def _after_restart(self, facts: StoreFacts, epoch: str) -> str:
        left_out = 0 if facts.keeps_all else _LEFT_OUT
        renewed = self._renew(facts, epoch, self._highest, left_out)
        _log.warning(
            "the server of the capture store at %s has begun anew%s: a new epoch begins",
            self._connection.place,
            f", and may have lost what it took last; {left_out} session numbers are left out"
            if left_out
            else "",
        )
        return renewed

    def _renew(self, facts: StoreFacts, epoch: str, after_number: int, left_out: int) -> str:
        words = (epoch, facts.nodes, uuid.uuid4().hex, after_number, left_out)
        answer = self._run(RENEW, (), words, sync=facts.sync("stored"))
        return str(answer[1].decode())


def _origin_field(instrument: str, origin: str | None) -> str:
    return "" if origin is None else f"{instrument}\0{origin}"


def _captured(instrument: str, origin: str | None) -> AlreadyCapturedError:
    return AlreadyCapturedError(f"{origin} is captured already on {instrument}")
