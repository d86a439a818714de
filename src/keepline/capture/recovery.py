"""Ending the sessions whose recorder died."""

from __future__ import annotations

import logging
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor

from keepline.capture.store import CaptureStore
from keepline.errors import CaptureError
from keepline.model import SessionInfo

_log = logging.getLogger(__name__)

#: So many sessions are ended at a time: for each, a store may wait as long as a lease.
_AT_A_TIME = 16


def recover(store: CaptureStore, *, spared: Collection[int] = ()) -> list[SessionInfo]:
    """End every running session that no living writer holds, and return these, by number.

    Each becomes interrupted, ended at its last stored reading, or at its start when it has
    none. A session of which any stream has a living writer is left alone. Where writers hold
    leases, one that died counts as living until its lease runs out; then this waits as long as
    a lease once more, as one that lives may have lost it while the store was out of reach.
    Sessions with a number in `spared` are left alone as well: give what `living_sessions` of the
    spool tells. A session that cannot be ended is logged and does not keep the others from it.
    """

    def ended(number: int) -> SessionInfo | None:
        try:
            return store.close_orphan(number)
        except CaptureError:
            _log.exception("capture session %s could not be recovered", number)
            return None

    running = [info.number for info in store.sessions() if info.state == "running"]
    with ThreadPoolExecutor(_AT_A_TIME, thread_name_prefix="keepline-recover") as pool:
        found = pool.map(ended, [number for number in running if number not in spared])
        return [info for info in found if info is not None]
