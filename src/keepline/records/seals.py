"""The proof of the history: a salted digest of each row, and a chain over all digests.

A row is sealed once its transaction has ended, in the order of the history's ids::

    digest = SHA-256(salt || canonical row)
    chain  = SHA-256(chain of the row before || id || digest)

The canonical row is JSON with sorted names: type, key, revision, sub-table, sub-key, op, image
and reason. An erased row has lost its image, reason, key and salt; digest and chain stay, so that
the rows around it can still be proved, and nobody can try contents against the digest. The last
chain value is the proof's head: kept elsewhere, it proves all that was sealed by then.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import sqlalchemy as sa

from keepline.model import Principal
from keepline.store import Store
from keepline.store.locks import queue_writers
from keepline.store.tables.records import erasure, history_seal, record_history

_BATCH = 2_000
_SALT_BYTES = 16
_START = bytes(32)

_ROW = (
    record_history.c.id,
    record_history.c.record_type,
    record_history.c.record_key,
    record_history.c.revision,
    record_history.c.subtable,
    record_history.c.sub_key,
    record_history.c.op,
    # As text: a number must not lose digits on its way through a float.
    sa.cast(record_history.c.image, sa.Text).label("image"),
    record_history.c.reason,
)


@dataclass(frozen=True, slots=True)
class Head:
    """The end of the chain: the last sealed row of the history, and the chain's value there."""

    history_id: int
    chain: str


def seal(store: Store) -> int:
    """Seal what the history has gained since the last time; return how many rows.

    It waits for transactions that are writing records, as a row of theirs may come before one
    that is there; new ones go on as soon as it knows how far to go.
    """
    who = Principal.system()
    with store.write(who) as connection:
        queue_writers(connection, record_history)
        last = connection.execute(sa.select(sa.func.max(record_history.c.id))).scalar()
    count = 0
    while last is not None:
        with store.write(who) as connection:
            queue_writers(connection, history_seal)
            sealed = _seal_batch(connection, last)
        count += sealed
        if sealed < _BATCH:
            break
    return count


def seal_within(connection: sa.Connection) -> int:
    """Seal every row of the history that the transaction of `connection` sees.

    The transaction must keep others from writing the history; its own rows are sealed too, so it
    must not change them afterwards, other than to erase them.
    """
    queue_writers(connection, history_seal)
    last = connection.execute(sa.select(sa.func.max(record_history.c.id))).scalar()
    count = 0
    while last is not None:
        sealed = _seal_batch(connection, last)
        count += sealed
        if sealed < _BATCH:
            break
    return count


def head(connection: sa.Connection) -> Head | None:
    """Return the end of the chain; None when nothing is sealed."""
    row = _last(connection)
    return None if row is None else Head(row.history_id, row.chain.hex())


def check(connection: sa.Connection, anchor: Head | None = None) -> Iterator[str]:
    """Walk the proof from its beginning; yield one line for each row that is not as sealed.

    Rows are changed, missing, inserted between sealed ones, or erased without an erasure that
    says so. With `anchor`, a head that was kept elsewhere, the chain must also pass through that.
    Rows that are not sealed yet prove nothing and are passed over. Memory does not grow with the
    history.
    """
    chain, last = _START, 0
    erased: Counter[int | None] = Counter()
    met = anchor is None
    for row in _sealed(connection):
        expected = _link(chain, row.history_id, row.digest)
        if row.id is None:
            yield f"history row {row.history_id}: it was sealed, and is missing"
        elif row.salt is not None:
            if _digest(row.salt, row) != row.digest:
                yield f"history row {_name(row)}: it was changed after it was sealed"
        elif not row.erased:
            yield f"history row {_name(row)}: its seal has lost the salt, though it is not erased"
        if row.id is not None and row.erased:
            erased[row.subject_no] += 1
            if row.image is not None or row.reason is not None:
                yield f"history row {_name(row)}: it is erased, and has content"
        if expected != row.chain:
            yield f"history row {row.history_id}: the chain breaks here"
        if anchor is not None and row.history_id == anchor.history_id:
            met = True
            if row.chain.hex() != anchor.chain:
                yield f"history row {row.history_id}: the chain is not the one that was kept"
        chain, last = row.chain, row.history_id
    yield from _inserted(connection, last)
    yield from _unaccounted(connection, erased)
    if anchor is not None and not met:
        yield f"history row {anchor.history_id}: the proof ends before the head that was kept"


def _seal_batch(connection: sa.Connection, last: int) -> int:
    before = _last(connection)
    chain = _START if before is None else before.chain
    query = (
        sa.select(*_ROW)
        .where(
            record_history.c.id > (0 if before is None else before.history_id),
            record_history.c.id <= last,
        )
        .order_by(record_history.c.id)
        .limit(_BATCH)
    )
    seals = []
    for row in connection.execute(query).all():
        salt = secrets.token_bytes(_SALT_BYTES)
        digest = _digest(salt, row)
        chain = _link(chain, row.id, digest)
        seals.append({"history_id": row.id, "salt": salt, "digest": digest, "chain": chain})
    if seals:
        connection.execute(sa.insert(history_seal), seals)
    return len(seals)


def _last(connection: sa.Connection) -> sa.Row[Any] | None:
    newest = sa.select(history_seal).order_by(history_seal.c.history_id.desc()).limit(1)
    return connection.execute(newest).first()


def _sealed(connection: sa.Connection) -> Iterator[sa.Row[Any]]:
    both = history_seal.outerjoin(record_history, record_history.c.id == history_seal.c.history_id)
    query = (
        sa.select(
            history_seal.c.history_id,
            history_seal.c.salt,
            history_seal.c.digest,
            history_seal.c.chain,
            *_ROW,
            record_history.c.subject_no,
            record_history.c.erased,
        )
        .select_from(both)
        .order_by(history_seal.c.history_id)
    )
    with connection.execute(query.execution_options(yield_per=_BATCH)) as found:
        rows: Any = found  # of a dozen columns, which its type cannot say
        yield from rows


def _inserted(connection: sa.Connection, last: int) -> Iterator[str]:
    """Yield the rows among the sealed ones that have no seal."""
    sealed = sa.exists().where(history_seal.c.history_id == record_history.c.id)
    query = (
        sa.select(*_ROW).where(record_history.c.id <= last, ~sealed).order_by(record_history.c.id)
    )
    with connection.execute(query.execution_options(yield_per=_BATCH)) as found:
        for row in found:
            yield f"history row {_name(row)}: it was inserted among sealed rows"


def _unaccounted(connection: sa.Connection, erased: Counter[int | None]) -> Iterator[str]:
    """Yield the subjects with more, or fewer, erased rows than their erasures say."""
    query = sa.select(erasure.c.subject_no, sa.func.sum(erasure.c.images)).group_by(
        erasure.c.subject_no
    )
    said = {number: int(images) for number, images in connection.execute(query)}
    for number in sorted({*said, *erased}, key=lambda each: -1 if each is None else each):
        expected = 0 if number is None else said.get(number, 0)
        if erased[number] != expected:
            whose = "no subject" if number is None else f"subject {number}"
            yield (
                f"erased history rows of {whose}: there are {erased[number]}, "
                f"its erasures say {expected}"
            )


def _digest(salt: bytes, row: sa.Row[Any]) -> bytes:
    image = None if row.image is None else json.loads(row.image, parse_float=Decimal)
    parts = [
        row.record_type,
        row.record_key,
        row.revision,
        row.subtable,
        row.sub_key,
        row.op,
        image,
        row.reason,
    ]
    canonical = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=_number)
    return hashlib.sha256(salt + canonical.encode("ascii")).digest()


def _number(value: object) -> dict[str, str]:
    return {"number": str(value)}


def _link(before: bytes, history_id: int, digest: bytes) -> bytes:
    return hashlib.sha256(before + history_id.to_bytes(8, "big", signed=True) + digest).digest()


def _name(row: sa.Row[Any]) -> str:
    return f"{row.id} (a {row.record_type} at revision {row.revision})"
