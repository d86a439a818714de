"""What an erasure means for deliveries.

The sent log keeps its rows: by their target keys the recipients' copies are found. A send key is
a digest of content, so it is replaced by chance; a key that names the subject by its pseudonym.
Each record then stands on the backlog of every recipient that may have it, which is how its
withdrawal comes about (see `withdrawals`).
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping

import sqlalchemy as sa

from keepline.model import RecordKey, utc_now
from keepline.store.erasing import Scope, of_past, of_records, rename_keys
from keepline.store.tables.delivery import delivery_backlog, sent_log

#: States after which a recipient has the record, or may have it.
MAYBE_THERE = ("sent", "sending", "unknown")


class DeliveryErasing:
    """The share of deliveries in an erasure; see `keepline.store.erasing.Part`."""

    def erase(self, connection: sa.Connection, scope: Scope) -> Mapping[str, int]:
        """Forget contents and keys; queue the withdrawals."""
        mine = sa.or_(of_records(sent_log, scope.keys), of_past(sent_log, scope))
        queued = _recipients(connection, scope)
        numbers = list(connection.execute(sa.select(sent_log.c.id).where(mine)).scalars())
        if numbers:
            connection.execute(
                sa.update(sent_log)
                .where(sent_log.c.id == sa.bindparam("id_"))
                .values(send_key=sa.bindparam("key_"), reason=""),
                [{"id_": each, "key_": secrets.token_hex(32)} for each in numbers],
            )
            connection.execute(
                sa.update(sent_log)
                .where(mine, sent_log.c.state == "sending")
                .values(state="unknown", finished_at=utc_now(), reason="the subject is erased")
            )
        rename_keys(connection, sent_log, scope)
        connection.execute(
            sa.delete(delivery_backlog).where(of_records(delivery_backlog, scope.keys))
        )
        if queued:
            now = utc_now()
            connection.execute(
                sa.insert(delivery_backlog),
                [
                    {
                        "recipient": recipient,
                        "record_type": key.record_type,
                        "record_key": scope.keys[key],
                        "queued_at": now,
                    }
                    for recipient, key in queued
                ],
            )
        return {"deliveries": len(numbers), "withdrawals to send": len(queued)}

    def out_of_reach(self, connection: sa.Connection, scope: Scope) -> list[str]:
        """Name the recipients that got copies, how many records, and when."""
        query = (
            sa.select(
                sent_log.c.recipient,
                sa.func.count(sa.distinct(sent_log.c.target_key)),
                sa.func.min(sent_log.c.started_at),
                sa.func.max(sent_log.c.started_at),
            )
            .where(of_records(sent_log, scope.keys), sent_log.c.state.in_(MAYBE_THERE))
            .group_by(sent_log.c.recipient)
            .order_by(sent_log.c.recipient)
        )
        past = (
            sa.select(sent_log.c.recipient, sa.func.count())
            .where(of_past(sent_log, scope), sent_log.c.state.in_(MAYBE_THERE))
            .group_by(sent_log.c.recipient)
            .order_by(sent_log.c.recipient)
        )
        return [
            *(
                f"recipient {name} was sent {count} of the records, "
                f"from {first:%Y-%m-%d %H:%M:%S}Z to {last:%Y-%m-%d %H:%M:%S}Z"
                for name, count, first, last in connection.execute(query)
            ),
            *(
                f"recipient {name} was sent {count} revisions about the subject of records that "
                "are not about it now: they are not withdrawn, ask for their removal"
                for name, count in connection.execute(past)
            ),
        ]


def _recipients(connection: sa.Connection, scope: Scope) -> list[tuple[str, RecordKey]]:
    query = (
        sa.select(sent_log.c.recipient, sent_log.c.record_type, sent_log.c.record_key)
        .where(of_records(sent_log, scope.keys), sent_log.c.state.in_(MAYBE_THERE))
        .distinct()
    )
    return [(row[0], RecordKey(*row[1:])) for row in connection.execute(query)]
