"""The sent log: one row an attempt, committed before the effect and completed after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import sqlalchemy as sa

from keepline.delivery.transport import Sending
from keepline.errors import RecipientBusyError
from keepline.model import RecordKey, stable_hash, utc_now
from keepline.store.tables.delivery import sent_log

#: How an attempt can end; `refused` means that this revision will never be taken.
Ended = Literal["sent", "failed", "refused", "unknown"]


@dataclass(frozen=True, slots=True)
class Attempt:
    """A row of the sent log that has no outcome yet."""

    id: int
    key: RecordKey
    revision: int
    send_key: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended, and why when it is no success."""

    attempt: Attempt
    state: Ended
    reason: str = ""


def begin(
    connection: sa.Connection, recipient: str, sendings: Sequence[Sending], *, alone: bool
) -> list[Attempt]:
    """Log one attempt a sending, in their order; commit before the first effect.

    With `alone`, for recipients where sending twice does harm, raises RecipientBusyError when
    another attempt at one of the sendings is open or has been logged as sent meanwhile.
    """
    if alone:
        _refuse_rivals(connection, recipient, [sending.send_key for sending in sendings])
    now = utc_now()
    rows = [
        {
            "recipient": recipient,
            "record_type": sending.image.type.name,
            "record_key": sending.image.key,
            "revision": sending.revision,
            "target_key": sending.target_key,
            "send_key": sending.send_key,
            "state": "sending",
            "started_at": now,
        }
        for sending in sendings
    ]
    statement = sa.insert(sent_log).returning(sent_log.c.id, sort_by_parameter_order=True)
    numbers = connection.execute(statement, rows).scalars()
    return [
        Attempt(number, sending.image.name, sending.revision, sending.send_key)
        for number, sending in zip(numbers, sendings, strict=True)
    ]


def finish(connection: sa.Connection, outcomes: Sequence[Outcome]) -> set[int]:
    """Complete attempts; return the ids of those that another attempt had come before.

    They are no success of their own: their sending is logged as sent by the other one.
    """
    if not outcomes:
        return set()
    other = sent_log.alias()
    logged = sa.exists().where(other.c.send_key == sent_log.c.send_key, other.c.state == "sent")
    ended = {"finished_at": utc_now(), "reason": sa.bindparam("reason_")}
    row = sent_log.c.id == sa.bindparam("id_")
    for sent in (True, False):
        part = [each for each in outcomes if (each.state == "sent") is sent]
        statement = sa.update(sent_log).values(state=sa.bindparam("state_"), **ended).where(row)
        if sent:
            # The log holds one success a sending, even if two runners came to it.
            statement = statement.where(~logged)
        if part:
            connection.execute(
                statement,
                [
                    {"id_": each.attempt.id, "state_": each.state, "reason_": each.reason}
                    for each in part
                ],
            )
    return _doubled(connection, [each.attempt.id for each in outcomes if each.state == "sent"])


def interrupted(connection: sa.Connection, recipient: str) -> list[Attempt]:
    """Return the attempts that a crash, or an unreachable recipient, left without outcome."""
    query = sa.select(
        sent_log.c.id,
        sent_log.c.record_type,
        sent_log.c.record_key,
        sent_log.c.revision,
        sent_log.c.send_key,
    ).where(
        sent_log.c.recipient == recipient,
        sa.text("state = 'sending'"),  # as text: with a parameter SQLite leaves the index unused
    )
    return [
        Attempt(number, RecordKey(record_type, key), revision, send_key)
        for number, record_type, key, revision, send_key in connection.execute(query)
    ]


def _refuse_rivals(connection: sa.Connection, recipient: str, send_keys: Sequence[str]) -> None:
    if connection.dialect.name == "postgresql":
        # Two that begin at once would not see each other's rows; on SQLite writers queue.
        number = int(stable_hash("keepline sent log", recipient)[:16], 16) - 2**63
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(:number)"), {"number": number})
    rivals = sa.select(sent_log.c.id).where(
        sent_log.c.recipient == recipient, sent_log.c.send_key.in_(send_keys)
    )
    # The states as text, each in a query of its own: only so are the partial indexes used.
    for state in ("state = 'sending'", "state = 'sent'"):
        if connection.execute(rivals.where(sa.text(state)).limit(1)).first() is not None:
            raise RecipientBusyError(
                f"another process has taken up a record for {recipient!r}; run again"
            )


def _doubled(connection: sa.Connection, numbers: Sequence[int]) -> set[int]:
    """Return which attempts could not be logged as sent; close those that are still open."""
    here = sent_log.c.id.in_(numbers)
    found = connection.execute(sa.select(sent_log.c.id).where(here, sent_log.c.state != "sent"))
    doubled = set(found.scalars())
    if doubled:
        connection.execute(
            sa.update(sent_log)
            .where(sent_log.c.id.in_(doubled))
            .values(
                state="unknown",
                finished_at=utc_now(),
                reason="another attempt at this sending is logged as sent",
            )
        )
    return doubled
