"""The triggers for SQLite.

SQLite has no session settings, so the one-row table `writer` carries what triggers need to
know: `actor` and `txn` are set by the library at the start of a write transaction and cleared
at its end (a writer that goes around the library finds them null), `stamp` holds a token for
the moment between drawing it and writing it, which is how the guard knows the stamping itself
from anybody else's write.
"""

from __future__ import annotations

from keepline.model import RecordType

WRITER = """CREATE TABLE IF NOT EXISTS writer (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    actor TEXT,
    txn INTEGER,
    stamp INTEGER
)"""

APPEND_ONLY = ("session_event", "session_change", "capture_session_change", "change_feed")

#: What else than its id makes a row of these tables unique.
_UNIQUE = {
    "session_event": ("session_identifier", "event_type", "happened_at", "instrument"),
    "change_feed": ("record_type", "record_key", "revision"),
}

_NOW = "strftime('%Y-%m-%d %H:%M:%f', 'now') || '000'"
_RANDOM = "random() & 0x7fffffffffffffff"


def fixed() -> list[str]:
    """Return the statements for the fixed tables, in order; they can be run again."""
    statements = [WRITER, "INSERT OR IGNORE INTO writer (id) VALUES (1)"]
    for table in APPEND_ONLY:
        statements += _no_replace(table)
    for verb in ("UPDATE", "DELETE"):
        for table in APPEND_ONLY:
            statements += _trigger(
                f"{table}_append_only_{verb.lower()}",
                f"BEFORE {verb} ON {table}",
                f"SELECT RAISE(ABORT, 'keepline: {table} is append-only');",
            )
    return statements + _sent_final()


def record(declared: RecordType) -> list[str]:
    """Return the statements for a record type's tables, in order; they can be run again."""
    table = declared.table_name
    statements = [
        *_guard(table),
        *_stamp_insert(declared),
        *_stamp_update(declared),
        *_trigger(
            f"{table}_delete",
            f"AFTER DELETE ON {table}",
            _feed(declared.name, "OLD", "delete", "OLD.revision + 1"),
        ),
    ]
    for subtable in declared.subtables:
        child = declared.subtable_name(subtable)
        for verb, keys in _TOUCHED:
            statements += _trigger(
                f"{child}_touch_{verb.lower()}",
                f"AFTER {verb} ON {child}",
                f"UPDATE {table} SET revision = revision WHERE record_key IN ({keys});",
            )
    return statements


#: Which parents a change of a sub-row concerns: an update may move it to another one.
_TOUCHED = (
    ("INSERT", "NEW.record_key"),
    ("UPDATE", "NEW.record_key, OLD.record_key"),
    ("DELETE", "OLD.record_key"),
)


def _trigger(name: str, when: str, *body: str) -> list[str]:
    steps = "\n    ".join(body)
    return [
        f"DROP TRIGGER IF EXISTS {name}",
        f"CREATE TRIGGER {name} {when}\nBEGIN\n    {steps}\nEND",
    ]


def _no_replace(table: str) -> list[str]:
    # INSERT OR REPLACE removes the row in its way without firing a delete trigger.
    taken = "id = NEW.id"
    if columns := _UNIQUE.get(table):
        taken += f" OR ({' AND '.join(f'{column} = NEW.{column}' for column in columns)})"
    return _trigger(
        f"{table}_append_only_insert",
        f"BEFORE INSERT ON {table} WHEN EXISTS (SELECT 1 FROM {table} WHERE {taken})",
        f"SELECT RAISE(ABORT, 'keepline: {table} is append-only');",
    )


def _sent_final() -> list[str]:
    # As above, a sent row is also gone when another one takes its id or its place.
    replaced = (
        "EXISTS (SELECT 1 FROM sent_log WHERE id = NEW.id AND state = 'sent') "
        "OR (NEW.state = 'sent' AND EXISTS "
        "(SELECT 1 FROM sent_log WHERE send_key = NEW.send_key AND state = 'sent'))"
    )
    conditions = {
        "INSERT": replaced,
        "UPDATE": f"OLD.state = 'sent' OR {replaced}",
        "DELETE": "OLD.state = 'sent'",
    }
    statements = []
    for verb, condition in conditions.items():
        statements += _trigger(
            f"sent_log_final_{verb.lower()}",
            f"BEFORE {verb} ON sent_log WHEN {condition}",
            "SELECT RAISE(ABORT, 'keepline: a sent row is never changed');",
        )
    return statements


def _guard(table: str) -> list[str]:
    stamped = " OR ".join(
        f"NEW.{column} IS NOT OLD.{column}"
        for column in ("row_born", "row_rev", "revision", "rev_txn")
    )
    return [
        *_trigger(
            f"{table}_guard",
            f"BEFORE UPDATE ON {table} WHEN ({stamped}) AND (SELECT stamp FROM writer) IS NULL",
            "SELECT RAISE(ABORT, 'keepline: the database stamps tokens and revisions');",
        ),
        *_trigger(
            f"{table}_key",
            f"BEFORE UPDATE OF record_key ON {table} WHEN NEW.record_key IS NOT OLD.record_key",
            "SELECT RAISE(ABORT, 'keepline: a record never changes its key');",
        ),
    ]


def _stamp_insert(declared: RecordType) -> list[str]:
    table = declared.table_name
    next_revision = (
        "(SELECT 1 + coalesce(max(revision), 0) FROM change_feed "
        f"WHERE record_type = '{declared.name}' AND record_key = NEW.record_key)"
    )
    return _trigger(
        f"{table}_insert",
        f"AFTER INSERT ON {table}",
        *_stamp(table, born=_DRAWN, revision=next_revision),
        _feed(declared.name, "NEW", "insert", _revision_of(table)),
    )


def _stamp_update(declared: RecordType) -> list[str]:
    table = declared.table_name
    again = "OLD.rev_txn IS NOT NULL AND OLD.rev_txn IS (SELECT txn FROM writer)"
    return _trigger(
        f"{table}_update",
        f"AFTER UPDATE ON {table} WHEN NEW.row_rev IS OLD.row_rev",
        *_stamp(
            table,
            born="row_born",
            revision=f"CASE WHEN {again} THEN revision ELSE revision + 1 END",
        ),
        _feed(declared.name, "NEW", "update", _revision_of(table), where=f"NOT ({again})"),
    )


_DRAWN = "(SELECT stamp FROM writer)"


def _stamp(table: str, *, born: str, revision: str) -> list[str]:
    return [
        f"UPDATE writer SET stamp = {_RANDOM};",
        (
            f"UPDATE {table} SET row_born = {born}, row_rev = {_DRAWN}, "
            f"rev_txn = (SELECT txn FROM writer), revision = {revision} "
            "WHERE record_key = NEW.record_key;"
        ),
        "UPDATE writer SET stamp = NULL;",
    ]


def _revision_of(table: str) -> str:
    return f"(SELECT revision FROM {table} WHERE record_key = NEW.record_key)"


def _feed(name: str, row: str, op: str, revision: str, *, where: str = "") -> str:
    condition = f" WHERE {where}" if where else ""
    return (
        "INSERT INTO change_feed (record_type, record_key, revision, op, txid, actor, changed_at) "
        f"SELECT '{name}', {row}.record_key, {revision}, '{op}', 0, "
        f"(SELECT actor FROM writer), {_NOW}{condition};"
    )
