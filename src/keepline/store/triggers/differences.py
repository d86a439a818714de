"""Rows that are not as the history has them, found by the database itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from keepline.model import RecordType, SubTable
from keepline.store.triggers.images import own_image, plain_session, subrow_image

_BATCH = 500


@dataclass(frozen=True, slots=True)
class Difference:
    """A row of a record, and what the history has of it last.

    `subtable` and `sub_key` are empty for the record's own row. `now` and `then` are images as
    JSON text: of the row, None when there is none, and of the history, None when it has none or
    a deletion. `misplaced` says that the row has a revision, or the record a place in the
    index, which is not the newest of its history. `subtable_then` is what the history calls the
    sub-table.
    """

    record_type: str
    key: str
    subtable: str
    sub_key: str
    now: str | None
    then: str | None
    history_id: int | None
    misplaced: bool
    subtable_then: str


def differences(
    connection: sa.Connection, declared: RecordType, former: Mapping[str, Sequence[str]]
) -> Iterator[Difference]:
    """Yield what differs, a record's own rows first; nothing is held beyond a batch.

    `former` has the names that each sub-table ever had, by today's. An image under the names of
    an older declaration is among what differs: the caller knows better. Erased images are left
    out where their row is gone too.
    """
    plain_session(connection)
    queries = [_own(declared, connection.dialect.name), _own_missing(declared)]
    for subtable in declared.subtables:
        names = former.get(subtable.name, (subtable.name,))
        queries.append(_subrows(declared, subtable, names, connection.dialect.name))
        queries.append(_subrows_missing(declared, subtable, names))
    for query in queries:
        options = {"yield_per": _BATCH, "no_parameters": True}
        for row in connection.exec_driver_sql(query, execution_options=options):
            yield Difference(declared.name, *row)


def _own(declared: RecordType, dialect: str) -> str:
    name = declared.name
    image = own_image(dialect, "r", declared)
    placed = (
        f"EXISTS (SELECT 1 FROM record_index AS i WHERE i.record_type = '{name}' "
        "AND i.record_key = r.record_key AND i.current AND i.revision = r.revision) "
        f"AND NOT EXISTS (SELECT 1 FROM record_history AS l WHERE l.record_type = '{name}' "
        "AND l.record_key = r.record_key AND l.revision > r.revision)"
    )
    return (
        f"SELECT r.record_key, '', '', CAST({image} AS TEXT), CAST(h.image AS TEXT), h.id, "
        f"NOT ({placed}), '' FROM {declared.table_name} AS r LEFT JOIN record_history AS h "
        f"ON h.record_type = '{name}' AND h.record_key = r.record_key "
        "AND h.revision = r.revision AND h.subtable = '' AND h.sub_key = '' "
        f"WHERE {_differs(image, dialect)} OR NOT ({placed}) ORDER BY r.record_key"
    )


def _own_missing(declared: RecordType) -> str:
    return (
        "SELECT h.record_key, '', '', NULL, CAST(h.image AS TEXT), h.id, false, '' "
        f"FROM record_history AS h WHERE h.record_type = '{declared.name}' AND h.subtable = '' "
        "AND h.op <> 'delete' AND NOT h.erased AND NOT EXISTS (SELECT 1 FROM record_history AS l "
        f"WHERE l.record_type = '{declared.name}' AND l.record_key = h.record_key "
        "AND l.revision > h.revision AND l.subtable = '') AND NOT EXISTS "
        f"(SELECT 1 FROM {declared.table_name} AS r WHERE r.record_key = h.record_key) "
        "ORDER BY h.record_key"
    )


def _subrows(declared: RecordType, subtable: SubTable, names: Sequence[str], dialect: str) -> str:
    image = subrow_image(dialect, "s", subtable)
    last = (
        f"SELECT l.id FROM record_history AS l WHERE l.record_type = '{declared.name}' "
        f"AND l.record_key = s.record_key AND l.subtable IN ({_listed(names)}) "
        f"""AND l.sub_key = s."{subtable.key}" ORDER BY l.revision DESC LIMIT 1"""
    )
    return (
        f"""SELECT s.record_key, '{subtable.name}', s."{subtable.key}", CAST({image} AS TEXT), """
        "CAST(h.image AS TEXT), h.id, false, h.subtable "
        f"FROM {declared.subtable_name(subtable)} AS s "
        f"LEFT JOIN record_history AS h ON h.id = ({last}) WHERE {_differs(image, dialect)} "
        f"""ORDER BY s.record_key, s."{subtable.key}\""""
    )


def _subrows_missing(declared: RecordType, subtable: SubTable, names: Sequence[str]) -> str:
    listed = _listed(names)
    return (
        f"SELECT h.record_key, '{subtable.name}', h.sub_key, NULL, CAST(h.image AS TEXT), h.id, "
        f"false, h.subtable FROM record_history AS h WHERE h.record_type = '{declared.name}' "
        f"AND h.subtable IN ({listed}) AND h.op <> 'delete' AND NOT h.erased AND NOT EXISTS "
        f"(SELECT 1 FROM record_history AS l WHERE l.record_type = '{declared.name}' "
        f"AND l.record_key = h.record_key AND l.revision > h.revision AND l.subtable IN ({listed}) "
        "AND l.sub_key = h.sub_key) AND NOT EXISTS "
        f"(SELECT 1 FROM {declared.subtable_name(subtable)} AS s "
        f"""WHERE s.record_key = h.record_key AND s."{subtable.key}" = h.sub_key) """
        "ORDER BY h.record_key, h.sub_key"
    )


def _differs(image: str, dialect: str) -> str:
    other = "IS NOT" if dialect == "sqlite" else "IS DISTINCT FROM"
    return f"(h.id IS NULL OR h.op = 'delete' OR h.image {other} {image})"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)


def adopt(connection: sa.Connection, declared: RecordType, found: Difference) -> None:
    """Make what is there the newest revision of its record, in the transaction's name.

    What has come or gone since `found` was found is left alone.
    """
    subtable = declared.subtable(found.subtable) if found.subtable else None
    if found.now is None:
        for statement in _recorded_as_gone(declared, subtable, connection.dialect.name):
            connection.execute(sa.text(statement), {"key": found.key, "sub_key": found.sub_key})
    elif subtable is None:
        touch = f"UPDATE {declared.table_name} SET revision = revision WHERE record_key = :key"
        connection.execute(sa.text(touch), {"key": found.key})
    else:
        key = subtable.key
        touch = (
            f"""UPDATE {declared.subtable_name(subtable)} SET "{key}" = "{key}" """
            f"""WHERE record_key = :key AND "{key}" = :sub_key"""
        )
        connection.execute(sa.text(touch), {"key": found.key, "sub_key": found.sub_key})


def _recorded_as_gone(declared: RecordType, subtable: SubTable | None, dialect: str) -> list[str]:
    name = declared.name
    last = (
        f"(SELECT max(f.revision) FROM change_feed AS f WHERE f.record_type = '{name}' "
        "AND f.record_key = :key)"
    )
    subject = (
        f"(SELECT i.subject_no FROM record_index AS i WHERE i.record_type = '{name}' "
        "AND i.record_key = :key)"
    )
    if subtable is None:
        actor, reason, txid, now = _WRITER[dialect]
        gone = f"NOT EXISTS (SELECT 1 FROM {declared.table_name} WHERE record_key = :key)"
        return [
            (
                "INSERT INTO change_feed (record_type, record_key, revision, op, txid, actor, "
                f"changed_at) SELECT '{name}', :key, {last} + 1, 'delete', {txid}, {actor}, {now} "
                f"WHERE {gone}"
            ),
            (
                "INSERT INTO record_history (record_type, record_key, revision, subtable, "
                f"sub_key, op, reason, subject_no) SELECT '{name}', :key, {last}, '', '', "
                f"'delete', {reason}, {subject} WHERE {gone}"
            ),
            (
                f"UPDATE record_index SET current = false, revision = {last}, changed_at = {now} "
                f"WHERE record_type = '{name}' AND record_key = :key AND {gone}"
            ),
        ]
    gone = (
        f"NOT EXISTS (SELECT 1 FROM {declared.subtable_name(subtable)} "
        f"""WHERE record_key = :key AND "{subtable.key}" = :sub_key)"""
    )
    return [
        f"UPDATE {declared.table_name} SET revision = revision WHERE record_key = :key AND {gone}",
        (
            "INSERT INTO record_history (record_type, record_key, revision, subtable, sub_key, op, "
            f"subject_no) SELECT '{name}', :key, {last}, '{subtable.name}', :sub_key, 'delete', "
            f"{subject} WHERE {gone}"
        ),
    ]


#: Actor, reason, transaction and time, as the triggers write them.
_WRITER = {
    "sqlite": (
        "(SELECT actor FROM writer)",
        "(SELECT nullif(reason, '') FROM writer)",
        "0",
        "strftime('%Y-%m-%d %H\\:%M\\:%f', 'now') || '000'",
    ),
    "postgresql": (
        "NULLIF(current_setting('keepline.actor', true), '')",
        "NULLIF(current_setting('keepline.reason', true), '')",
        "CAST(CAST(pg_current_xact_id() AS text) AS bigint)",
        "clock_timestamp()",
    ),
}
