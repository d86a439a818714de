"""The triggers for PostgreSQL.

The actor, the reason and whether a transaction erases are its settings `keepline.actor`,
`keepline.reason` and `keepline.erasing` (empty for a writer that goes around the library). The
stamping trigger's name sorts last, so that it sees what other BEFORE triggers made of the row.
A revision counts transactions, and within one what each writer does for each reason: `rev_txn`
remembers the last transaction, the feed and the history who wrote and why.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from keepline.model import Field, RecordType, SubTable
from keepline.store.triggers import postgresql_subjects
from keepline.store.triggers.guarded import APPEND_ONLY, ERASABLE, NEVER_TRUNCATED
from keepline.store.triggers.postgresql_functions import FUNCTIONS


@dataclass(frozen=True, slots=True)
class Trigger:
    """A trigger: when it fires, and the function that it runs with which arguments.

    `when` and the events in it are written as PostgreSQL writes them back.
    """

    name: str
    table: str
    when: str
    function: str
    arguments: tuple[str, ...] = ()

    @property
    def definition(self) -> str:
        """Return the definition as PostgreSQL tells it."""
        before, _, level = self.when.partition(" FOR ")
        before, _, transition = before.partition(" REFERENCING ")
        referencing = f" REFERENCING {transition}" if transition else ""
        arguments = ", ".join(f"'{each}'" for each in self.arguments)
        return (
            f"CREATE TRIGGER {self.name} {before} ON {self.table}{referencing} FOR {level} "
            f"EXECUTE FUNCTION {self.function}({arguments})"
        )

    @property
    def sql(self) -> str:
        """Return the statement that makes it, or makes it again; it is enabled then."""
        return self.definition.replace("CREATE TRIGGER", "CREATE OR REPLACE TRIGGER", 1)


def fixed() -> list[str]:
    """Return the statements for the fixed tables, in order; they can be run again."""
    return [
        *(function.sql for function in FUNCTIONS),
        *(trigger.sql for trigger in fixed_triggers()),
        "DROP FUNCTION IF EXISTS keepline_touch() CASCADE",  # of older schemas
    ]


def record(declared: RecordType) -> list[str]:
    """Return the statements for a record type's tables, in order; they can be run again."""
    return [trigger.sql for trigger in record_triggers(declared)]


def fixed_triggers() -> list[Trigger]:
    """Return the triggers of the fixed tables."""
    changed = "BEFORE DELETE OR UPDATE FOR EACH ROW"
    return [
        *(
            Trigger(f"{table}_append_only", table, changed, "keepline_append_only")
            for table in APPEND_ONLY
        ),
        *(
            Trigger(f"{table}_append_only", table, changed, "keepline_kept", columns)
            for table, columns in ERASABLE.items()
        ),
        *(_no_truncate(table) for table in NEVER_TRUNCATED),
        Trigger("sent_log_final", "sent_log", changed, "keepline_sent_final"),
        _living("proposal"),
    ]


def record_triggers(declared: RecordType) -> list[Trigger]:
    """Return the triggers of a record type's tables."""
    table = declared.table_name
    rules = (
        "finalised" if declared.finalised else "",
        "reason" if declared.reason_required else "",
    )
    anonymous = "anonymous" if declared.anonymous else ""
    every = "INSERT OR DELETE OR UPDATE FOR EACH ROW"
    triggers = [
        Trigger(
            "zz_keepline_stamp", table, f"BEFORE {every}", "keepline_stamp", (declared.name, *rules)
        ),
        Trigger(
            "zz_keepline_feed",
            table,
            f"AFTER {every}",
            "keepline_feed",
            (declared.name, anonymous, _blobs(declared.fields)),
        ),
        _no_truncate(table),
    ]
    if declared.subject:
        triggers.append(_living(table))
    for subtable in declared.subtables:
        triggers += [*_subrows(declared, subtable), _no_truncate(declared.subtable_name(subtable))]
    return triggers


def _subrows(declared: RecordType, subtable: SubTable) -> list[Trigger]:
    rows = {
        "insert": "NEW TABLE AS new_rows",
        "update": "OLD TABLE AS old_rows NEW TABLE AS new_rows",
        "delete": "OLD TABLE AS old_rows",
    }
    return [
        Trigger(
            f"zz_keepline_{verb}",
            declared.subtable_name(subtable),
            f"AFTER {verb.upper()} REFERENCING {transition} FOR EACH STATEMENT",
            "keepline_subrows",
            (
                declared.name,
                declared.table_name,
                subtable.name,
                subtable.key,
                _blobs(subtable.fields),
            ),
        )
        for verb, transition in rows.items()
    ]


def _blobs(fields: Sequence[Field]) -> str:
    return ",".join(field.name for field in fields if field.type == "blob")


def _living(table: str) -> Trigger:
    return Trigger(postgresql_subjects.NAME, table, postgresql_subjects.WHEN, "keepline_subject")


def _no_truncate(table: str) -> Trigger:
    # Truncating fires no row trigger: rows would go without a trace.
    return Trigger(
        f"{table}_no_truncate",
        table,
        "BEFORE TRUNCATE FOR EACH STATEMENT",
        "keepline_no_truncate",
    )
