"""The tables of a record type as the database tells of them, for comparison."""

from typing import Any

import sqlalchemy as sa

from keepline.model import RecordType
from keepline.store.tables.declared import record_tables

_POSTGRESQL = {
    "columns": """
        SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
            pg_get_expr(d.adbin, d.adrelid), col_description(c.oid, a.attnum)
        FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0
        LEFT JOIN pg_attrdef AS d ON d.adrelid = c.oid AND d.adnum = a.attnum
        WHERE c.relname = ANY(:tables) AND NOT a.attisdropped""",
    # What is required stands with the columns; only newer versions also have a constraint for it.
    "constraints": """
        SELECT c.relname, n.conname, pg_get_constraintdef(n.oid) FROM pg_constraint AS n
        JOIN pg_class AS c ON c.oid = n.conrelid
        WHERE c.relname = ANY(:tables) AND n.contype <> 'n'""",
    "indexes": """
        SELECT tablename, indexname, indexdef FROM pg_indexes WHERE tablename = ANY(:tables)""",
    "triggers": """
        SELECT c.relname, t.tgname, t.tgenabled::text, pg_get_triggerdef(t.oid)
        FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid
        WHERE c.relname = ANY(:tables) AND NOT t.tgisinternal""",
    "comments": """
        SELECT relname, obj_description(oid) FROM pg_class WHERE relname = ANY(:tables)""",
}


def shape(connection: sa.Connection, declared: RecordType) -> dict[str, list[Any]]:
    """Return columns, constraints, indexes, triggers and comments, without the type's own name.

    On PostgreSQL in no order: a column that is added comes last there.
    """
    tables = list(record_tables(declared).tables)
    if connection.dialect.name == "sqlite":
        rows = connection.execute(
            sa.text("SELECT type, name, tbl_name, sql FROM sqlite_master WHERE sql IS NOT NULL")
        )
        found = {"all": [tuple(row) for row in rows if row.tbl_name in tables]}
    else:
        found = {
            part: [tuple(row) for row in connection.execute(sa.text(query), {"tables": tables})]
            for part, query in _POSTGRESQL.items()
        }
    return {
        part: sorted(str(row).replace(declared.name, "<type>") for row in rows)
        for part, rows in found.items()
    }
