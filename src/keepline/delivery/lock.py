"""One runner at a time for a recipient, by a lock that dies with its holder."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import sqlalchemy as sa

from keepline.errors import DeliveryError, RecipientBusyError
from keepline.model import stable_hash
from keepline.store import Store

# A host that vanishes without closing its connection is noticed after a minute, not two hours.
_KEEPALIVE = (
    "SELECT set_config('tcp_keepalives_idle', '30', false), "
    "set_config('tcp_keepalives_interval', '10', false), "
    "set_config('tcp_keepalives_count', '3', false)"
)


def hold(store: Store, recipient: str) -> AbstractContextManager[Callable[[], None]]:
    """Hold the recipient's lock within the block; gives a function that checks it is still held.

    The lock is an operating-system lock on a file beside an SQLite database, an advisory lock
    of a connection of its own on PostgreSQL: both end with the process. Raises
    RecipientBusyError when somebody else holds it, or, from the check, when it was lost.
    """
    if store.dialect == "sqlite":
        return _file_lock(Path(str(store.engine.url.database)), recipient)
    return _advisory_lock(store, recipient)


@contextmanager
def _file_lock(database: Path, recipient: str) -> Iterator[Callable[[], None]]:
    # The file stays: removing it would let two processes lock two files of one name.
    path = f"{database}.deliver-{stable_hash(recipient)[:16]}.lock"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise DeliveryError(f"{path} cannot be opened: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise _busy(recipient) from None
    try:
        yield lambda: None
    finally:
        os.close(descriptor)


@contextmanager
def _advisory_lock(store: Store, recipient: str) -> Iterator[Callable[[], None]]:
    number = int(stable_hash("keepline delivery", recipient)[:16], 16) - 2**63
    try:
        connection = store.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
    except sa.exc.OperationalError as error:
        raise DeliveryError("the SQL store cannot be reached for the recipient's lock") from error
    # Not to return to the pool: the lock belongs to the connection and must end with it.
    connection.detach()

    def check() -> None:
        try:
            connection.execute(sa.text("SELECT 1"))
        except sa.exc.SQLAlchemyError as error:
            raise RecipientBusyError(
                f"the lock on recipient {recipient!r} was lost with its connection; run again"
            ) from error

    with connection:
        connection.execute(sa.text(_KEEPALIVE))
        query = sa.text("SELECT pg_try_advisory_lock(:number)")
        if not connection.execute(query, {"number": number}).scalar_one():
            raise _busy(recipient)
        try:
            yield check
        finally:
            # PostgreSQL takes a moment to notice a closed connection; the next runner need not.
            with suppress(sa.exc.SQLAlchemyError):
                connection.execute(
                    sa.text("SELECT pg_advisory_unlock(:number)"), {"number": number}
                )


def _busy(recipient: str) -> RecipientBusyError:
    return RecipientBusyError(
        f"another process is delivering to {recipient!r}; wait until it has finished"
    )
