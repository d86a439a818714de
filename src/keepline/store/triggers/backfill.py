"""What records that are older than the index and the history get of both."""

from __future__ import annotations

import sqlalchemy as sa

from keepline.model import RecordType, SubTable
from keepline.store.triggers.images import own_image, plain_session, subrow_image


def backfill(connection: sa.Connection, declared: RecordType) -> None:
    """Give each record its place in the index and, where it has no history, its first image.

    No revision goes up. Records that were deleted before have a place in the index, too.
    """
    plain_session(connection)
    dialect = connection.dialect.name
    statements = [_index(declared), _index_of_deleted(declared)]
    statements += [_subrow_history(declared, each, dialect) for each in declared.subtables]
    for statement in [*statements, _history(declared, dialect)]:
        connection.exec_driver_sql(statement, execution_options={"no_parameters": True})


_INDEX = (
    "INSERT INTO record_index (record_type, record_key, revision, group_name, subject_no, "
    "created_at, changed_at, current, finalised, anonymous, version) "
)
_HISTORY = (
    "INSERT INTO record_history (record_type, record_key, revision, subtable, sub_key, op, image, "
    "subject_no) "
)


def _index(declared: RecordType) -> str:
    name = declared.name
    fed = f"FROM change_feed AS f WHERE f.record_type = '{name}' AND f.record_key = r.record_key"
    finalised = "r.finalised" if declared.finalised else "false"
    return (
        f"{_INDEX} SELECT '{name}', r.record_key, r.revision, r.group_name, {_subject(declared)}, "
        f"coalesce((SELECT max(f.changed_at) {fed} AND f.op = 'insert'), CURRENT_TIMESTAMP), "
        f"coalesce((SELECT max(f.changed_at) {fed}), CURRENT_TIMESTAMP), true, {finalised}, "
        f"{_truth(declared.anonymous)}, CASE WHEN {finalised} THEN 1 ELSE 0 END "
        f"FROM {declared.table_name} AS r WHERE NOT EXISTS (SELECT 1 FROM record_index AS i "
        f"WHERE i.record_type = '{name}' AND i.record_key = r.record_key)"
    )


def _index_of_deleted(declared: RecordType) -> str:
    name = declared.name
    return (
        f"{_INDEX} SELECT '{name}', f.record_key, max(f.revision), NULL, NULL, "
        "max(CASE WHEN f.op = 'delete' THEN NULL ELSE f.changed_at END), max(f.changed_at), "
        f"false, false, {_truth(declared.anonymous)}, 0 FROM change_feed AS f "
        f"WHERE f.record_type = '{name}' AND NOT EXISTS (SELECT 1 FROM record_index AS i "
        f"WHERE i.record_type = '{name}' AND i.record_key = f.record_key) AND NOT EXISTS "
        f"(SELECT 1 FROM record_history AS h WHERE h.record_type = '{name}' "
        "AND h.record_key = f.record_key) GROUP BY f.record_key "
        "HAVING max(CASE WHEN f.op = 'delete' THEN 0 ELSE 1 END) = 1"
    )


def _subrow_history(declared: RecordType, subtable: SubTable, dialect: str) -> str:
    return (
        f"""{_HISTORY} SELECT '{declared.name}', r.record_key, r.revision, '{subtable.name}', """
        f"""s."{subtable.key}", 'insert', {subrow_image(dialect, "s", subtable)}, """
        f"{_subject(declared)} FROM {declared.table_name} AS r "
        f"JOIN {declared.subtable_name(subtable)} AS s ON s.record_key = r.record_key "
        f"WHERE {_no_history(declared)}"
    )


def _history(declared: RecordType, dialect: str) -> str:
    op = (
        f"SELECT f.op FROM change_feed AS f WHERE f.record_type = '{declared.name}' "
        "AND f.record_key = r.record_key AND f.revision = r.revision"
    )
    return (
        f"{_HISTORY} SELECT '{declared.name}', r.record_key, r.revision, '', '', "
        f"coalesce(({op}), 'insert'), {own_image(dialect, 'r', declared)}, {_subject(declared)} "
        f"FROM {declared.table_name} AS r WHERE {_no_history(declared)}"
    )


def _no_history(declared: RecordType) -> str:
    return (
        f"NOT EXISTS (SELECT 1 FROM record_history AS h WHERE h.record_type = '{declared.name}' "
        "AND h.record_key = r.record_key AND h.subtable = '')"
    )


def _subject(declared: RecordType) -> str:
    return "r.subject_no" if declared.subject else "NULL"


def _truth(value: bool) -> str:
    return "true" if value else "false"
