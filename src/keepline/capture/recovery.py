"""Ending the sessions whose recorder died."""

from __future__ import annotations

import logging
from collections.abc import Collection

from keepline.capture.store import CaptureStore
from keepline.errors import CaptureError
from keepline.model import SessionInfo

_log = logging.getLogger(__name__)


def recover(store: CaptureStore, *, spared: Collection[int] = ()) -> list[SessionInfo]:
    """End every running session that no living writer holds, and return these, by number.

    Each becomes interrupted, ended at its last stored reading, or at its start when it has
    none. A session of which any stream has a living writer is left alone; where writers hold
    leases, one that died counts as living until its lease runs out, and one that lives may have
    lost it while the store was out of reach. Sessions with a number in `spared` are left alone
    as well: give what `living_sessions` of the spool tells. A session that cannot be ended is
    logged and does not keep the others from it.
    """
    ended = []
    for info in store.sessions():
        if info.state != "running" or info.number in spared:
            continue
        try:
            closed = store.close_orphan(info.number)
        except CaptureError:
            _log.exception("capture session %s could not be recovered", info.number)
            continue
        if closed is not None:
            ended.append(closed)
    return ended
