"""The triggers for SQLite.

SQLite has no session settings, so the one-row table `writer` carries what triggers need to
know: `actor`, `txn`, `reason` and `erasing` are set by the library at the start of a write
transaction and cleared at its end (a writer that goes around the library finds them null);
`stamp` holds a token while a trigger of keepline's writes, which is how guards know the
triggers' own writes from anybody else's.
"""

from __future__ import annotations

from keepline.model import RecordType
from keepline.store.triggers import sqlite_records, sqlite_subjects
from keepline.store.triggers.guarded import APPEND_ONLY, ERASABLE, SENT_FINAL
from keepline.store.triggers.sqlite_statements import ERASING, STAMPING, Trigger

WRITER = """CREATE TABLE IF NOT EXISTS writer (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    actor TEXT,
    txn INTEGER,
    stamp INTEGER,
    reason TEXT,
    erasing INTEGER
)"""

#: What makes a row of these tables unique, where it is not its id alone.
_UNIQUE: dict[str, tuple[tuple[str, ...], ...]] = {
    "session_event": (("id",), ("session_identifier", "event_type", "happened_at", "instrument")),
    "change_feed": (("id",), ("record_type", "record_key", "revision")),
    "record_history": (
        ("id",),
        ("record_type", "record_key", "revision", "subtable", "sub_key"),
    ),
    "history_seal": (("history_id",),),
}

#: The columns of logs that an erasure leaves as they are.
_LASTING = {
    "change_feed": ("id", "record_type", "revision", "op", "txid", "changed_at"),
    "record_history": ("id", "record_type", "revision", "subtable", "op"),
    "history_seal": ("history_id", "digest", "chain"),
}


def fixed() -> list[str]:
    """Return the statements for the fixed tables, in order; they can be run again."""
    statements = [WRITER, "INSERT OR IGNORE INTO writer (id) VALUES (1)"]
    return statements + [line for trigger in fixed_triggers() for line in trigger.statements()]


def record(declared: RecordType) -> list[str]:
    """Return the statements for a record type's tables, in order; they can be run again."""
    gone = [f"DROP TRIGGER IF EXISTS {name}" for name in sqlite_records.unneeded(declared)]
    return gone + [line for trigger in record_triggers(declared) for line in trigger.statements()]


def fixed_triggers() -> list[Trigger]:
    """Return the triggers of the fixed tables."""
    triggers = []
    for table in (*APPEND_ONLY, *ERASABLE):
        triggers += [_no_replace(table), _no_update(table), _no_delete(table)]
    return [*triggers, *sqlite_subjects.triggers("proposal"), *_sent_final()]


def record_triggers(declared: RecordType) -> list[Trigger]:
    """Return the triggers of a record type's tables."""
    living = sqlite_subjects.triggers(declared.table_name) if declared.subject else []
    return [*sqlite_records.record_triggers(declared), *living]


def _refused(table: str) -> str:
    return f"SELECT RAISE(ABORT, 'keepline: {table} is append-only');"


def _no_replace(table: str) -> Trigger:
    # INSERT OR REPLACE removes the row in its way without firing a delete trigger.
    taken = " OR ".join(
        f"({' AND '.join(f'{column} = NEW.{column}' for column in columns)})"
        for columns in _UNIQUE.get(table, (("id",),))
    )
    condition = f"EXISTS (SELECT 1 FROM {table} WHERE {taken})"
    if table == "record_history":  # a later change within a transaction is the same revision
        condition += f" AND NOT {STAMPING}"
    return Trigger(
        f"{table}_append_only_insert",
        table,
        f"BEFORE INSERT ON {table} WHEN {condition}",
        (_refused(table),),
    )


def _no_update(table: str) -> Trigger:
    when = f"BEFORE UPDATE ON {table}"
    if table in ERASABLE:
        same = " AND ".join(f"NEW.{column} IS OLD.{column}" for column in _LASTING[table])
        when += f" WHEN NOT ({ERASING} AND {same})"
        if table == "record_history":
            when += f" AND NOT {STAMPING}"
    return Trigger(f"{table}_append_only_update", table, when, (_refused(table),))


def _no_delete(table: str) -> Trigger:
    return Trigger(
        f"{table}_append_only_delete", table, f"BEFORE DELETE ON {table}", (_refused(table),)
    )


def _sent_final() -> list[Trigger]:
    # As above, a sent row is also gone when another one takes its id or its place.
    replaced = (
        "EXISTS (SELECT 1 FROM sent_log WHERE id = NEW.id AND state = 'sent') "
        "OR (NEW.state = 'sent' AND EXISTS "
        "(SELECT 1 FROM sent_log WHERE send_key = NEW.send_key AND state = 'sent'))"
    )
    conditions = {
        "INSERT": replaced,
        # An erasure takes away what is made of content, and renames the record.
        "UPDATE": f"(OLD.state = 'sent' OR {replaced}) AND NOT {ERASING}",
        "DELETE": "OLD.state = 'sent'",
    }
    return [
        Trigger(
            f"sent_log_final_{verb.lower()}",
            "sent_log",
            f"BEFORE {verb} ON sent_log WHEN {condition}",
            (f"SELECT RAISE(ABORT, '{SENT_FINAL}');",),
        )
        for verb, condition in conditions.items()
    ]
