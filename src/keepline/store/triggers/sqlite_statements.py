"""What SQLite's triggers are put together from."""

from __future__ import annotations

from dataclasses import dataclass

NOW = "strftime('%Y-%m-%d %H:%M:%f', 'now') || '000'"

ACTOR = "(SELECT actor FROM writer)"
TXN = "(SELECT txn FROM writer)"
REASON = "(SELECT nullif(reason, '') FROM writer)"
DRAWN = "(SELECT stamp FROM writer)"
STAMPING = "((SELECT stamp FROM writer) IS NOT NULL)"
ERASING = "((SELECT erasing FROM writer) IS 1)"

DRAW = "UPDATE writer SET stamp = random() & 0x7fffffffffffffff;"
DONE = "UPDATE writer SET stamp = NULL;"


@dataclass(frozen=True, slots=True)
class Trigger:
    """A trigger: when it fires, as SQL after its name, and the statements that it runs."""

    name: str
    table: str
    when: str
    body: tuple[str, ...]

    @property
    def sql(self) -> str:
        """Return the statement that makes it, which is what SQLite keeps of it."""
        steps = "\n    ".join(self.body)
        return f"CREATE TRIGGER {self.name} {self.when}\nBEGIN\n    {steps}\nEND"

    def statements(self) -> list[str]:
        """Return the statements that make it anew."""
        return [f"DROP TRIGGER IF EXISTS {self.name}", self.sql]


def refuse(message: str, condition: str) -> str:
    """Return the step that undoes the statement where `condition` holds."""
    return f"SELECT RAISE(ABORT, '{message}') WHERE {condition};"


def feed(name: str, op: str, key: str, revision: str, source: str = "") -> str:
    """Return the step that writes the feed; `source` is a FROM or a WHERE."""
    return (
        "INSERT INTO change_feed (record_type, record_key, revision, op, txid, actor, changed_at) "
        f"SELECT '{name}', {key}, {revision}, '{op}', 0, {ACTOR}, {NOW} {source}".rstrip()
        + ";"
    )


def history(name: str, source: str) -> str:
    """Return the step that writes the history, or changes what this revision wrote already.

    `source` selects key, revision, subtable, sub_key, op, image, reason, subject_no. It needs
    a WHERE: SQLite would take ON for a part of the FROM.
    """
    return (
        "INSERT INTO record_history (record_type, record_key, revision, subtable, sub_key, op, "
        f"image, reason, subject_no) SELECT '{name}', {source} "
        "ON CONFLICT (record_type, record_key, revision, subtable, sub_key) DO UPDATE SET "
        "op = CASE WHEN op = 'insert' AND excluded.op = 'update' THEN 'insert' "
        "WHEN op = 'delete' AND excluded.op = 'insert' THEN 'update' ELSE excluded.op END, "
        "image = excluded.image, reason = excluded.reason, subject_no = excluded.subject_no;"
    )
