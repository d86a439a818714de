"""Records into a database: a table a record type and sub-table, exactly once.

The record's row is found by its target key and updated by corrections; a receipt with the send
key is written in the same transaction, so that a sending is there wholly or not at all, and the
database can say which.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import sqlalchemy as sa

from keepline.config import RecipientSettings
from keepline.delivery.transport import Capabilities, Sending
from keepline.errors import ConfigError, TransportError
from keepline.model import Field, RecordType, SubTable, utc_now
from keepline.store.types import Json, UtcDateTime

_CONNECT_TIMEOUT_S = 15
_SQLITE_BUSY_S = 30.0

#: Length of a key: SHA-256 in hex.
_KEY = 64

_TYPES: dict[str, Any] = {
    "text": sa.Text,
    "integer": sa.BigInteger,
    "real": sa.Double,
    "boolean": sa.Boolean,
    "date": sa.Date,
    "datetime": UtcDateTime,
    "json": Json,
    "blob": sa.LargeBinary,
}

#: Columns of the transport's own in every table.
_OWN = ("target_key", "record_key", "revision", "group_name")

#: Tables by which a SQL store and a capture store are known.
_STORES = ({"sent_log", "change_feed"}, {"chunk", "stream", "session"})


class DatabaseTransport:
    """Delivers into the database at `url`, an SQLAlchemy URL.

    Tables are made when they are missing: ``keepline_<type>`` and
    ``keepline_<type>__<sub-table>`` with the record's fields, and ``keepline_receipt``. Where
    the type has them, a record has its subject's number (``subject_no``) and ``finalised`` too.
    A relative SQLite path starts at `folder`. SQLite has no NaN: there it arrives as NULL.
    """

    capabilities = Capabilities(probes=True, idempotent=True, withdraws=True)

    def __init__(self, url: str, *, folder: Path | None = None) -> None:
        try:
            self._url = _located(sa.make_url(url), folder)
        except (sa.exc.ArgumentError, ValueError):  # a port that is no number
            raise ConfigError(
                "the recipient's url is not an SQLAlchemy URL such as sqlite:///out.db"
            ) from None
        self._tables = sa.MetaData()
        self._receipt = _receipt_table(self._tables)
        self._ready: set[str] = set()
        self._engine: sa.Engine | None = None

    @classmethod
    def configured(cls, settings: RecipientSettings, *, folder: Path) -> Self:
        """Return the transport that `settings` describe; raises ConfigError without a url."""
        if settings.url is None:
            raise ConfigError("a recipient with transport 'database' needs a url")
        return cls(settings.url.get_secret_value(), folder=folder)

    def __repr__(self) -> str:
        return f"DatabaseTransport({self._url.render_as_string(hide_password=True)!r})"

    def __enter__(self) -> Self:
        self._engine = self._create_engine()
        self._ready.clear()
        try:
            self._refuse_stores()
            self._make_tables([self._receipt])
        except BaseException:
            self._engine.dispose()
            raise
        return self

    def _refuse_stores(self) -> None:
        """Raise ConfigError when the target is a SQLite file that keepline itself lives in.

        In PostgreSQL a store and deliveries may share a database: their names differ.
        """
        if self._url.get_backend_name() != "sqlite":
            return
        with self._transaction() as connection:
            names = set(sa.inspect(connection).get_table_names())
        if any(store <= names for store in _STORES):
            raise ConfigError(
                "the recipient's database is a store of keepline; give it one of its own"
            )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._engine is not None:
            self._engine.dispose()
            self._engine = None

    def send(self, sending: Sending) -> None:
        """Write the record, its sub-rows and the receipt in one transaction.

        A sending that is there already, or an older revision than the one there, changes
        nothing of the record.
        """
        table, *subtables = self._tables_of(sending.image.type)
        with self._transaction() as connection:
            if self._is_there(connection, sending.send_key):
                return
            connection.execute(sa.insert(self._receipt), _receipt(sending))
            found = connection.execute(
                sa.select(table.c.revision).where(table.c.target_key == sending.target_key)
            ).scalar()
            if found is None or found < sending.revision:
                _put(connection, table, sending, update=found is not None)
                _put_subrows(connection, subtables, sending, update=found is not None)

    def delivered(self, send_key: str) -> bool:
        """Return whether there is a receipt for this sending."""
        with self._transaction() as connection:
            return self._is_there(connection, send_key)

    def withdraw(self, declared: RecordType, target_key: str) -> None:
        """Remove the record, its sub-rows and its receipts in one transaction."""
        tables = (*self._tables_of(declared), self._receipt)
        with self._transaction() as connection:
            for table in tables:
                connection.execute(sa.delete(table).where(table.c.target_key == target_key))

    def _is_there(self, connection: sa.Connection, send_key: str) -> bool:
        query = sa.select(self._receipt.c.send_key).where(self._receipt.c.send_key == send_key)
        return connection.execute(query).first() is not None

    def _tables_of(self, declared: RecordType) -> list[sa.Table]:
        """Return the record type's table and those of its sub-tables, made when missing."""
        tables = [
            _table(self._tables, declared, None),
            *(_table(self._tables, declared, subtable) for subtable in declared.subtables),
        ]
        if declared.name not in self._ready:
            self._make_tables(tables)
            self._ready.add(declared.name)
        return tables

    def _make_tables(self, tables: list[sa.Table]) -> None:
        with self._transaction() as connection:
            self._tables.create_all(connection, tables=tables)
            inspector = sa.inspect(connection)
            for table in tables:
                there = {column["name"] for column in inspector.get_columns(table.name)}
                missing = [name for name in table.c.keys() if name not in there]  # noqa: SIM118
                if missing:
                    raise TransportError(
                        f"the recipient's table {table.name} lacks the column {missing[0]!r}; "
                        "add it, or rename the table so that a new one is made"
                    )

    def _create_engine(self) -> sa.Engine:
        arguments: dict[str, Any] = {}
        try:
            if self._url.get_backend_name() == "sqlite":
                arguments["timeout"] = _SQLITE_BUSY_S
            elif self._url.get_driver_name() == "psycopg":
                arguments["connect_timeout"] = _CONNECT_TIMEOUT_S
            return sa.create_engine(self._url, connect_args=arguments)
        except (ImportError, sa.exc.NoSuchModuleError) as error:
            raise TransportError(
                f"the driver for {self._url.drivername} is not installed", unreachable=True
            ) from error

    @contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        if self._engine is None:
            raise TransportError("the transport is not open")
        try:
            with self._engine.begin() as connection:
                yield connection
        except sa.exc.DBAPIError as error:
            raise _translate(error, self._url.password) from error
        except (sa.exc.SQLAlchemyError, ValueError, OverflowError) as error:
            # A value that the database's types cannot hold: it never will.
            raise TransportError(
                f"the database cannot hold a value ({type(error).__name__})", permanent=True
            ) from error


def _located(url: sa.URL, folder: Path | None) -> sa.URL:
    if url.get_backend_name() != "sqlite" or not url.database:
        return url
    if url.database == ":memory:" or folder is None:
        return url
    return url.set(database=str(folder / url.database))


def _receipt_table(into: sa.MetaData) -> sa.Table:
    return sa.Table(
        "keepline_receipt",
        into,
        sa.Column("send_key", sa.String(_KEY), primary_key=True),
        sa.Column("target_key", sa.String(_KEY), nullable=False),
        sa.Column("record_type", sa.Text, nullable=False),
        sa.Column("record_key", sa.Text, nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("received_at", UtcDateTime, nullable=False),
    )


def _table(into: sa.MetaData, declared: RecordType, subtable: SubTable | None) -> sa.Table:
    name = f"keepline_{declared.name}"
    fields: tuple[Field, ...] = declared.fields
    keys: list[sa.Column[Any]] = [sa.Column("target_key", sa.String(_KEY), primary_key=True)]
    if subtable is not None:
        name = f"{name}__{subtable.name}"
        fields = subtable.fields
        keys.append(sa.Column(subtable.key, sa.Text, primary_key=True))
    known = into.tables.get(name)
    if known is not None:
        return known
    names = [*_OWN, *(column.name for column in keys[1:]), *(field.name for field in fields)]
    if len(set(names)) < len(names):
        raise TransportError(
            f"{name}: a field has the name of a column that deliveries need ({', '.join(_OWN)})",
            permanent=True,
        )
    return sa.Table(
        name,
        into,
        *keys,
        sa.Column("record_key", sa.Text, nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("group_name", sa.Text),
        *(_state_columns(declared) if subtable is None else ()),
        *(sa.Column(field.name, _TYPES[field.type]) for field in fields),
    )


def _state_columns(declared: RecordType) -> Iterator[sa.Column[Any]]:
    if declared.subject:
        yield sa.Column("subject_no", sa.BigInteger)
    if declared.finalised:
        yield sa.Column("finalised", sa.Boolean)


def _put(connection: sa.Connection, table: sa.Table, sending: Sending, *, update: bool) -> None:
    image = sending.image
    values = {**_own(sending), **image.values}
    if image.type.subject:
        values["subject_no"] = image.subject
    if image.type.finalised:
        values["finalised"] = image.finalised
    if update:
        mine = table.c.target_key == sa.bindparam("target")
        connection.execute(sa.update(table).where(mine), {**values, "target": sending.target_key})
    else:
        connection.execute(sa.insert(table), values)


def _put_subrows(
    connection: sa.Connection, tables: Sequence[sa.Table], sending: Sending, *, update: bool
) -> None:
    own = _own(sending)
    for subtable, table in zip(sending.image.type.subtables, tables, strict=True):
        if update:
            connection.execute(sa.delete(table).where(table.c.target_key == sending.target_key))
        rows = [{**own, **row} for row in sending.image.subrows[subtable.name]]
        if rows:
            connection.execute(sa.insert(table), rows)


def _own(sending: Sending) -> dict[str, Any]:
    values = (sending.target_key, sending.image.key, sending.revision, sending.image.group)
    return dict(zip(_OWN, values, strict=True))


def _receipt(sending: Sending) -> dict[str, Any]:
    return {
        "send_key": sending.send_key,
        "target_key": sending.target_key,
        "record_type": sending.image.type.name,
        "record_key": sending.image.key,
        "revision": sending.revision,
        "received_at": utc_now(),
    }


#: SQLite's results and SQLSTATE's classes that mean: the database as a whole is out of order.
_SQLITE_DOWN = (
    "SQLITE_BUSY",
    "SQLITE_CANTOPEN",
    "SQLITE_CORRUPT",
    "SQLITE_FULL",
    "SQLITE_IOERR",
    "SQLITE_LOCKED",
    "SQLITE_NOTADB",
    "SQLITE_PERM",
    "SQLITE_READONLY",
)
_SQLSTATE_DOWN = ("08", "28", "3D", "53", "57", "58")


def _translate(error: sa.exc.DBAPIError, password: str | None) -> TransportError:
    """Say what went wrong without any value: drivers put those into their messages."""
    vendor = error.orig
    sqlite_name = getattr(vendor, "sqlite_errorname", None)
    state = getattr(vendor, "sqlstate", None)
    if sqlite_name is not None:
        down = sqlite_name.startswith(_SQLITE_DOWN)
    elif state is not None:
        down = state.startswith(_SQLSTATE_DOWN)
    else:
        down = error.connection_invalidated or isinstance(error, sa.exc.OperationalError)
    # SQLite's texts, and those about a connection, name things and hold no values.
    if down or sqlite_name is not None:
        detail = str(vendor).partition("\n")[0]
        if password:
            detail = detail.replace(password, "***")
    else:
        detail = ", ".join(filter(None, [type(vendor).__name__, state, *_named(vendor)]))
    if down:
        return TransportError(f"the database is out of reach: {detail}", unreachable=True)
    if isinstance(error, sa.exc.DataError):
        return TransportError(f"the database cannot hold a value ({detail})", permanent=True)
    return TransportError(f"the database refused the record ({detail})")


def _named(vendor: object) -> list[str]:
    """Return the table, column and constraint that PostgreSQL's error names."""
    diagnosis = getattr(vendor, "diag", None)
    parts = ("table_name", "column_name", "constraint_name")
    return [value for part in parts if (value := getattr(diagnosis, part, None))]
