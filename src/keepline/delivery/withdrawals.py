"""Taking the records of an erased subject back from a recipient that has them.

What a recipient has is found in the sent log, by target key: the record itself is gone, and its
key may have been replaced. A withdrawal is an attempt like any other, logged for the revision that
deleted the record.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from keepline.delivery.erasing import MAYBE_THERE
from keepline.delivery.sent_log import Attempt
from keepline.model import RecordKey, stable_hash, utc_now
from keepline.store.erasing import of_records
from keepline.store.tables.delivery import sent_log
from keepline.store.tables.records import record_history, record_index


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """One object to be taken back; `revision` is the one that deleted the record."""

    key: RecordKey
    revision: int
    target_key: str

    @property
    def send_key(self) -> str:
        """Return the withdrawal's name, the same at every attempt."""
        return stable_hash(self.target_key, str(self.revision), "withdrawn")


def due(connection: sa.Connection, recipient: str, gone: Sequence[RecordKey]) -> list[Withdrawal]:
    """Return what the recipient has, or may have, of those records that were erased."""
    if not gone:
        return []
    index, log = record_index.c, sent_log.c
    erased = sa.exists().where(
        record_history.c.record_type == index.record_type,
        record_history.c.record_key == index.record_key,
        record_history.c.erased,
    )
    deletions = sa.select(index.record_type, index.record_key, index.revision).where(
        of_records(record_index, dict.fromkeys(gone, "")), sa.not_(index.current), erased
    )
    found = []
    for record_type, key, revision in connection.execute(deletions).all():
        sent = sa.select(log.target_key, log.revision, log.state).where(
            log.recipient == recipient, log.record_type == record_type, log.record_key == key
        )
        rows = connection.execute(sent).all()
        settled = {
            row.target_key
            for row in rows
            if row.revision == revision and row.state in ("sent", "refused")
        }
        there = {row.target_key for row in rows if row.state in MAYBE_THERE}
        name = RecordKey(record_type, key)
        found += [Withdrawal(name, revision, target) for target in sorted(there - settled)]
    return found


def begin(connection: sa.Connection, recipient: str, withdrawal: Withdrawal) -> Attempt:
    """Log an attempt at a withdrawal; commit before its effect."""
    number = connection.execute(
        sa.insert(sent_log)
        .values(
            recipient=recipient,
            record_type=withdrawal.key.record_type,
            record_key=withdrawal.key.key,
            revision=withdrawal.revision,
            target_key=withdrawal.target_key,
            send_key=withdrawal.send_key,
            state="sending",
            started_at=utc_now(),
        )
        .returning(sent_log.c.id)
    ).scalar_one()
    return Attempt(number, withdrawal.key, withdrawal.revision, withdrawal.send_key)
