"""SQLite's triggers of one record type.

Images are read from the table and not from NEW, so that they hold what other triggers made of
the row. While `writer.stamp` is set, a trigger of the record's own row is at work: its own
update of the row, and its own removal of sub-rows, fire nothing more.

REPLACE removes the row in its way and fires no delete trigger, unless a connection asks for
that (`PRAGMA recursive_triggers`). The index still calls the record current then: from that
the insert trigger knows that it has to write the deletion first.
"""

from __future__ import annotations

from keepline.model import RecordType, SubTable
from keepline.store.triggers.guarded import FINALISED, FIXED_KEY, NO_REASON, STAMPS
from keepline.store.triggers.sqlite_images import own_image, subrow_image
from keepline.store.triggers.sqlite_statements import (
    DONE,
    DRAW,
    DRAWN,
    ERASING,
    NOW,
    REASON,
    STAMPING,
    TXN,
    Trigger,
    feed,
    history,
    refuse,
)

_AGAIN = f"(OLD.rev_txn IS NOT NULL AND OLD.rev_txn IS {TXN})"


def record_triggers(declared: RecordType) -> list[Trigger]:
    """Return the triggers of a record type's tables."""
    triggers = [
        *_guards(declared),
        *_rules(declared),
        _insert(declared),
        _update(declared),
        _delete(declared),
    ]
    for subtable in declared.subtables:
        triggers.append(_place(declared.subtable_name(subtable), ("record_key", subtable.key)))
        triggers.append(_rowid(declared.subtable_name(subtable)))
        triggers += [_touch(declared, subtable, verb) for verb in ("INSERT", "UPDATE", "DELETE")]
    return triggers


def unneeded(declared: RecordType) -> list[str]:
    """Return the names of triggers that such a type may have had, and has no use for."""
    needed = {trigger.name for trigger in _rules(declared)}
    names = {f"{declared.table_name}_closed_{verb}" for verb in ("update", "delete")}
    return sorted(names - needed)


def _guards(declared: RecordType) -> list[Trigger]:
    table = declared.table_name
    stamped = " OR ".join(
        f"NEW.{column} IS NOT OLD.{column}"
        for column in ("row_born", "row_rev", "revision", "rev_txn")
    )
    return [
        Trigger(
            f"{table}_guard",
            table,
            f"BEFORE UPDATE ON {table} WHEN ({stamped}) AND NOT {STAMPING}",
            (f"SELECT RAISE(ABORT, '{STAMPS}');",),
        ),
        Trigger(
            f"{table}_key",
            table,
            f"BEFORE UPDATE OF record_key ON {table} WHEN NEW.record_key IS NOT OLD.record_key",
            (f"SELECT RAISE(ABORT, '{FIXED_KEY}');",),
        ),
        _place(table, ("record_key",)),
        _rowid(table),
        _lifted(declared),
    ]


def _known(declared: RecordType, key: str) -> str:
    """Return the expression for the revision that the index has of a record."""
    return (
        f"coalesce((SELECT i.revision FROM record_index AS i WHERE i.record_type = "
        f"'{declared.name}' AND i.record_key = {key}), 0)"
    )


def _lift(declared: RecordType, key: str) -> str:
    """Return the step that has the index know of a restore.

    A record from before it may have had revisions since, which are not to come again.
    """
    floor = "(SELECT max(revision_floor) FROM restored WHERE restored_at >= created_at)"
    return (
        f"UPDATE record_index SET revision = {floor} WHERE record_type = '{declared.name}' "
        f"AND record_key = {key} AND EXISTS (SELECT 1 FROM restored) AND revision < {floor};"
    )


def _lifted(declared: RecordType) -> Trigger:
    # Before foreign keys take sub-rows along, whose history has the record's next revision.
    table = declared.table_name
    return Trigger(
        f"{table}_lift",
        table,
        f"BEFORE DELETE ON {table} WHEN EXISTS (SELECT 1 FROM restored)",
        (_lift(declared, "OLD.record_key"),),
    )


def _place(table: str, key: tuple[str, ...]) -> Trigger:
    # REPLACE would also remove the row that has the same rowid, and nobody would know.
    same = " AND ".join(f'"{column}" IS NEW."{column}"' for column in key)
    taken = f"EXISTS (SELECT 1 FROM {table} WHERE rowid = NEW.rowid AND NOT ({same}))"
    return Trigger(
        f"{table}_place",
        table,
        f"BEFORE INSERT ON {table} WHEN {taken}",
        (f"SELECT RAISE(ABORT, 'keepline: the rowid is taken in {table}');",),
    )


def _rowid(table: str) -> Trigger:
    return Trigger(
        f"{table}_rowid",
        table,
        f"BEFORE UPDATE ON {table} WHEN NEW.rowid IS NOT OLD.rowid",
        (f"SELECT RAISE(ABORT, 'keepline: a row of {table} never changes its rowid');",),
    )


def _rules(declared: RecordType) -> list[Trigger]:
    """Refuse what finalised records, and types with reasons, do not allow."""
    table = declared.table_name
    update, delete = [], []
    if declared.finalised:
        update.append(refuse(FINALISED, "OLD.finalised AND NEW.finalised"))
        delete.append(refuse(FINALISED, "OLD.finalised"))
    if declared.reason_required:
        # A record that this very transaction made is still being made.
        new = (
            f"{_AGAIN} AND EXISTS (SELECT 1 FROM change_feed WHERE record_type = '{declared.name}' "
            "AND record_key = OLD.record_key AND revision = OLD.revision AND op = 'insert')"
        )
        rule = refuse(NO_REASON, f"{REASON} IS NULL AND NOT ({new})")
        update.append(rule)
        delete.append(rule)
    rules = {"UPDATE": update, "DELETE": delete}
    return [
        Trigger(
            f"{table}_closed_{verb.lower()}",
            table,
            f"BEFORE {verb} ON {table} WHEN NOT {STAMPING} AND NOT {ERASING}",
            tuple(body),
        )
        for verb, body in rules.items()
        if body
    ]


def _replaced(declared: RecordType, key: str) -> str:
    """Say that the record was there until this statement, and no trigger saw it go."""
    return (
        f"record_index WHERE record_type = '{declared.name}' AND record_key = {key} AND current = 1"
    )


def _insert(declared: RecordType) -> Trigger:
    table, there = declared.table_name, _replaced(declared, "NEW.record_key")
    fed = (
        f"SELECT max(revision) FROM change_feed WHERE record_type = '{declared.name}' "
        "AND record_key = NEW.record_key"
    )
    next_revision = f"1 + max(coalesce(({fed}), 0), {_known(declared, 'NEW.record_key')})"
    rules = [_positive(table)]
    if declared.finalised:
        rules.append(
            refuse(FINALISED, f"NOT {ERASING} AND EXISTS (SELECT 1 FROM {there} AND finalised = 1)")
        )
    if declared.reason_required:
        unexplained = f"{REASON} IS NULL AND NOT {ERASING}"
        rules.append(refuse(NO_REASON, f"{unexplained} AND EXISTS (SELECT 1 FROM {there})"))
    gone = [
        feed(declared.name, "delete", "record_key", "revision + 1", f"FROM {there}"),
        history(
            declared.name,
            f"record_key, revision + 1, '', '', 'delete', NULL, {REASON}, subject_no FROM {there}",
        ),
    ]
    for subtable in declared.subtables:
        gone += _remove_subrows(
            declared, subtable, "NEW.record_key", f"AND EXISTS (SELECT 1 FROM {there})"
        )
    return Trigger(
        f"{table}_insert",
        table,
        f"AFTER INSERT ON {table}",
        (
            *rules,
            DRAW,
            _lift(declared, "NEW.record_key"),
            *gone,
            _stamp(table, born=DRAWN, revision=next_revision),
            feed(declared.name, "insert", "record_key", "revision", f"FROM {_row(table)}"),
            _own_history(declared, "insert"),
            *(_present_subrows(declared, subtable) for subtable in declared.subtables),
            _index(declared, created=True),
            DONE,
        ),
    )


def _update(declared: RecordType) -> Trigger:
    table = declared.table_name
    return Trigger(
        f"{table}_update",
        table,
        f"AFTER UPDATE ON {table} WHEN NEW.row_rev IS OLD.row_rev AND NOT {STAMPING}",
        (
            DRAW,
            _lift(declared, "NEW.record_key"),
            _stamp(
                table,
                born=f"CASE row_born WHEN 0 THEN {DRAWN} ELSE row_born END",
                revision=f"CASE WHEN {_AGAIN} THEN revision "
                f"ELSE max(revision, {_known(declared, 'NEW.record_key')}) + 1 END",
            ),
            feed(
                declared.name,
                "update",
                "record_key",
                "revision",
                f"FROM {_row(table)} AND NOT {_AGAIN}",
            ),
            _own_history(declared, "update"),
            _index(declared, created=False),
            DONE,
        ),
    )


def _delete(declared: RecordType) -> Trigger:
    table = declared.table_name
    subject = "OLD.subject_no" if declared.subject else "NULL"
    revision = f"max(OLD.revision, {_known(declared, 'OLD.record_key')}) + 1"
    body = [DRAW]
    for subtable in declared.subtables:
        body += _remove_subrows(declared, subtable, "OLD.record_key")
    body += [
        feed(declared.name, "delete", "OLD.record_key", revision),
        history(
            declared.name,
            f"OLD.record_key, {revision}, '', '', 'delete', NULL, {REASON}, {subject} WHERE true",
        ),
        (
            "UPDATE record_index SET current = 0, revision = max(OLD.revision, revision) + 1, "
            f"changed_at = {NOW} "
            f"WHERE record_type = '{declared.name}' AND record_key = OLD.record_key;"
        ),
        DONE,
    ]
    return Trigger(f"{table}_delete", table, f"AFTER DELETE ON {table}", tuple(body))


def _row(table: str) -> str:
    return f"{table} AS r WHERE r.record_key = NEW.record_key"


def _stamp(table: str, *, born: str, revision: str) -> str:
    return (
        f"UPDATE {table} SET row_born = {born}, row_rev = {DRAWN}, rev_txn = {TXN}, "
        f"revision = {revision} WHERE record_key = NEW.record_key;"
    )


def _own_history(declared: RecordType, op: str) -> str:
    subject = "r.subject_no" if declared.subject else "NULL"
    return history(
        declared.name,
        f"r.record_key, r.revision, '', '', '{op}', {own_image('r', declared)}, "
        f"{REASON}, {subject} FROM {_row(declared.table_name)}",
    )


def _index(declared: RecordType, *, created: bool) -> str:
    subject = "r.subject_no" if declared.subject else "NULL"
    finalised = "CASE WHEN r.finalised THEN 1 ELSE 0 END" if declared.finalised else "0"
    again = "created_at = excluded.created_at, " if created else ""
    return (
        "INSERT INTO record_index (record_type, record_key, revision, group_name, subject_no, "
        "created_at, changed_at, current, finalised, anonymous, version) "
        f"SELECT '{declared.name}', r.record_key, r.revision, r.group_name, {subject}, {NOW}, "
        f"{NOW}, 1, {finalised}, {int(declared.anonymous)}, {finalised} "
        f"FROM {_row(declared.table_name)} "
        f"ON CONFLICT (record_type, record_key) DO UPDATE SET {again}"
        "revision = excluded.revision, group_name = excluded.group_name, "
        "subject_no = excluded.subject_no, changed_at = excluded.changed_at, current = 1, "
        "finalised = excluded.finalised, anonymous = excluded.anonymous, "
        "version = version + (excluded.finalised > (current AND finalised));"
    )


def _remove_subrows(
    declared: RecordType, subtable: SubTable, key: str, condition: str = ""
) -> list[str]:
    """Take the sub-rows along that foreign keys, where they are off, leave behind."""
    child = declared.subtable_name(subtable)
    left = f"{child} WHERE record_key = {key} {condition}".rstrip()
    return [
        history(
            declared.name,
            f"""i.record_key, i.revision + 1, '{subtable.name}', s."{subtable.key}", 'delete', """
            f"NULL, NULL, i.subject_no FROM {child} AS s JOIN record_index AS i "
            f"ON i.record_type = '{declared.name}' AND i.record_key = s.record_key "
            f"WHERE s.record_key = {key} AND i.current = 1",
        ),
        f"DELETE FROM {left};",
    ]


def _present_subrows(declared: RecordType, subtable: SubTable) -> str:
    """Write the history of sub-rows that were there before their record."""
    return history(
        declared.name,
        f"""r.record_key, r.revision, '{subtable.name}', s."{subtable.key}", 'insert', """
        f"{subrow_image('s', subtable)}, NULL, {'r.subject_no' if declared.subject else 'NULL'} "
        f"FROM {declared.table_name} AS r JOIN {declared.subtable_name(subtable)} AS s "
        "ON s.record_key = r.record_key WHERE r.record_key = NEW.record_key",
    )


def _touch(declared: RecordType, subtable: SubTable, verb: str) -> Trigger:
    """Make a change of a sub-row a revision of its record, or of both where it moves."""
    table, child = declared.table_name, declared.subtable_name(subtable)
    keys = {"INSERT": "NEW.record_key", "DELETE": "OLD.record_key"}.get(
        verb, "NEW.record_key, OLD.record_key"
    )
    return Trigger(
        f"{child}_touch_{verb.lower()}",
        child,
        f"AFTER {verb} ON {child} WHEN NOT {STAMPING}",
        (
            *([_positive(child)] if verb == "INSERT" else []),
            f"UPDATE {table} SET revision = revision WHERE record_key IN ({keys});",
            DRAW,
            *([] if verb == "INSERT" else [_subrow_gone(declared, subtable, verb)]),
            *([] if verb == "DELETE" else [_subrow_there(declared, subtable, verb)]),
            DONE,
        ),
    )


def _subrow_gone(declared: RecordType, subtable: SubTable, verb: str) -> str:
    key = subtable.key
    moved = f"""(NEW.record_key IS NOT OLD.record_key OR NEW."{key}" IS NOT OLD."{key}")"""
    return history(
        declared.name,
        f"""{_subrow_head(declared, subtable)}, OLD."{key}", 'delete', NULL, NULL, i.subject_no """
        f"FROM record_index AS i WHERE i.record_type = '{declared.name}' "
        f"AND i.record_key = OLD.record_key AND i.current = 1"
        + (f" AND {moved}" if verb == "UPDATE" else ""),
    )


def _subrow_there(declared: RecordType, subtable: SubTable, verb: str) -> str:
    key = subtable.key
    return history(
        declared.name,
        f"""{_subrow_head(declared, subtable)}, s."{key}", '{verb.lower()}', """
        f"{subrow_image('s', subtable)}, NULL, i.subject_no "
        f"FROM {declared.subtable_name(subtable)} AS s JOIN record_index AS i "
        f"ON i.record_type = '{declared.name}' AND i.record_key = s.record_key "
        f"""WHERE s.record_key = NEW.record_key AND s."{key}" = NEW."{key}" AND i.current = 1""",
    )


def _subrow_head(declared: RecordType, subtable: SubTable) -> str:
    # A record that goes has its place in the index until its own trigger has run.
    going = (
        f"NOT EXISTS (SELECT 1 FROM {declared.table_name} AS p WHERE p.record_key = i.record_key)"
    )
    return f"i.record_key, i.revision + ({going}), '{subtable.name}'"


def _positive(table: str) -> str:
    # Before an insertion, -1 stands for a rowid that is yet to be given: nothing may have it.
    return refuse(f"keepline: no rowid below 1 in {table}", "NEW.rowid < 1")
