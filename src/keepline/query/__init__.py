"""One PEP 249 front end over every module, by Request or by SQL.

`connect(username)` gives a connection that sees what that user may see. `Cursor.execute` takes
a `Request`, or the text of one SELECT over tables called ``module.table``, its parameters
written ``?``.
"""

from __future__ import annotations

from keepline.errors import (
    DatabaseError,
    DataError,
    Error,
    IntegrityError,
    InterfaceError,
    InternalError,
    ModuleUnavailable,
    NotSupportedError,
    OperationalError,
    ProgrammingError,
    Warning,
)
from keepline.query.dbapi import Connection, Cursor, connect
from keepline.query.requests import (
    CM_OP_GET,
    CM_OP_SET,
    IS_NULL,
    Column,
    Request,
    Row,
    Table,
    request,
)
from keepline.query.types import (
    BINARY,
    DATETIME,
    NUMBER,
    ROWID,
    STRING,
    Binary,
    Date,
    DateFromTicks,
    Time,
    TimeFromTicks,
    Timestamp,
    TimestampFromTicks,
)

#: The version of PEP 249's interface.
apilevel = "2.0"
#: Threads may share the module, but not connections.
threadsafety = 1
#: Parameters of SQL text are written ``?``; those of a Request are a dictionary.
paramstyle = "qmark"

__all__ = [
    "BINARY",
    "CM_OP_GET",
    "CM_OP_SET",
    "DATETIME",
    "IS_NULL",
    "NUMBER",
    "ROWID",
    "STRING",
    "Binary",
    "Column",
    "Connection",
    "Cursor",
    "DataError",
    "DatabaseError",
    "Date",
    "DateFromTicks",
    "Error",
    "IntegrityError",
    "InterfaceError",
    "InternalError",
    "ModuleUnavailable",
    "NotSupportedError",
    "OperationalError",
    "ProgrammingError",
    "Request",
    "Row",
    "Table",
    "Time",
    "TimeFromTicks",
    "Timestamp",
    "TimestampFromTicks",
    "Warning",
    "apilevel",
    "connect",
    "paramstyle",
    "request",
    "threadsafety",
]
