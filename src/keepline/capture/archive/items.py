"""The archive's small tables: settings, categories, the cache, errors, and listed sessions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from keepline.capture.archive import session_lists
from keepline.capture.archive.added import add_readings, by_session
from keepline.capture.archive.fixtures import fill, make_again
from keepline.capture.archive.models import (
    Cache,
    Category,
    Config,
    Item,
    ListedSession,
    Notification,
    check_fields,
    condition,
    has_value,
    item_of,
    moment,
    plain_json,
    row_of,
    storable,
    storable_name,
    table_of,
)
from keepline.capture.archive.readings import ArchiveReader, Reading, Value
from keepline.capture.archive.scanning import BlockRange, FoundSession, find_sessions
from keepline.errors import CaptureError, NoSessionError
from keepline.model import to_us, utc_now
from keepline.store import schema
from keepline.store.access import visible
from keepline.store.tables import capture as tables

#: `get_cache` gives so many values of a variable.
CACHE_VALUES = 50

#: What drivers raise for a value that a column cannot have.
_ABOUT_VALUES = (sa.exc.DataError, sa.exc.InterfaceError, sa.exc.ProgrammingError)

Model = TypeVar("Model", Category, Cache, Config, Notification, ListedSession, Reading)


class ArchiveItems(ArchiveReader):
    """Reads sessions, and reads and writes the items beside them.

    Items are values of the classes in keepline.capture.archive.models, and readings. Every
    call is one transaction: it happens as a whole, or not at all.
    """

    def add(self, item: Item | Reading) -> Any:
        """Add one item and return it as it is in the archive; see `add_many`."""
        return self.add_many([item])[0]

    def add_many(self, items: Sequence[Item | Reading]) -> list[Any]:
        """Add items and return them as they are in the archive, with their ids, in order.

        All are added or none. Readings become a new block of their session's source "added",
        with their unit from the category of the channel's name; nothing else is touched.

        Raises:
            CaptureError: an item is there already, or holds what cannot be kept.
            NoSessionError: the archive has no such session.
        """
        added: list[Any] = list(items)
        places: dict[type[Any], list[int]] = {}
        for place, item in enumerate(added):
            places.setdefault(type(item), []).append(place)
        sessions = self._sessions_of(added)
        with self._writing() as connection:
            for model, chosen in places.items():
                given = [added[place] for place in chosen]
                made = (
                    _add_readings(connection, given, sessions)
                    if model is Reading
                    else self._add_rows(connection, model, given)
                )
                for place, item in zip(chosen, made, strict=True):
                    added[place] = item
        return added

    def add_reading(
        self,
        session_id: int | str,
        time_logged: datetime | float,
        category_id: int,
        value: Value,
    ) -> Reading:
        """Add a value of a category, which names its channel, to a session; see `add_many`.

        `time_logged` is an aware datetime, or a UNIX timestamp in seconds.
        """
        category = self.get_by_id(Category, category_id)
        if category is None:
            raise CaptureError(f"there is no category {category_id}")
        reading = Reading(session_id, category.name, moment(time_logged), value)
        added: Reading = self.add(reading)
        return added

    def add_cache(self, time_logged: datetime | float, category_id: int, value: Value) -> Cache:
        """Add a value of a category to the cache and return it.

        `time_logged` is an aware datetime, or a UNIX timestamp in seconds. Raises CaptureError
        when there is no such category, or the value cannot be kept.
        """
        added: Cache = self.add(Cache(category_id, moment(time_logged), value))
        return added

    def get(self, model: type[Model], query: Mapping[str, Any]) -> Model | None:
        """Return the first item of a model whose fields have these values, or None.

        Raises UnknownFieldError for a name that is no field, CaptureError for no model.
        """
        return next(self._found(model, query, limit=1), None)

    def get_by_id(self, model: type[Model], model_id: Any) -> Model | None:
        """Return the item of a model with this id, or None.

        The id of a listed session is its number, that of a reading (session, source, channel,
        number of its message).
        """
        if model is Reading:
            names = ("session", "source", "channel", "seq")
            if not isinstance(model_id, tuple) or len(model_id) != len(names):
                raise CaptureError("a reading's id is (session, source, channel, seq)")
            return self.get(model, dict(zip(names, model_id, strict=True)))
        if model is ListedSession:
            return self.get(model, {"number": model_id, "store_id": self.store_id})
        return self.get(model, {"id": model_id})

    def find(self, model: type[Model], query: Mapping[str, Any]) -> list[Model]:
        """Return every item of a model whose fields have these values, oldest first.

        Raises UnknownFieldError for a name that is no field, CaptureError for no model.
        """
        return list(self._found(model, query))

    def all(self, model: type[Model]) -> list[Model]:
        """Return every item of a model, oldest first."""
        return self.find(model, {})

    def get_cache(self, since: datetime | float = 0) -> list[list[Cache]]:
        """Return a list for each variable of the cache, by name, of its values, oldest first.

        They are the latest 50 of each, and none from before `since`, an aware datetime or a
        UNIX timestamp in seconds.
        """
        return self._latest(CACHE_VALUES, to_us(moment(since)))

    def get_cache_variables(self) -> list[Cache]:
        """Return the latest value of each variable of the cache, by the variable's name."""
        return [values[-1] for values in self._latest(1, to_us(moment(0)))]

    def clear_cache(self) -> None:
        """Remove every value from the cache."""
        with self._writing() as connection:
            connection.execute(sa.delete(tables.cached_reading))

    def get_config(self, key: str) -> Config | None:
        """Return the setting with this key, or None."""
        return self.get(Config, {"key": key})

    def set_config(self, key: str, value: Any, do_update: bool = True) -> None:
        """Set a setting to plain JSON, adding or changing it as required.

        Without `do_update`, one that is there stays as it is. Of calls at the same time each
        happens, one after the other. Raises CaptureError for a value that is not plain JSON.
        """
        row = {
            "value": plain_json(value),
            "changed_at": utc_now(),
            "who": self.principal.name,
        }
        insert = self._dialect.insert(tables.config_item).values(key=storable_name(key), **row)
        with self._writing() as connection:
            if do_update:
                connection.execute(insert.on_conflict_do_update(index_elements=["key"], set_=row))
            else:
                connection.execute(insert.on_conflict_do_nothing())

    def get_or_create_category(self, key: str) -> int:
        """Return the id of the category of this name, which is made if there is none."""
        category = tables.category
        named = sa.select(category.c.id).where(category.c.name == storable_name(key))
        with self.sql_store.read() as connection:
            found = connection.execute(named).scalar()
        if found is None:
            insert = self._dialect.insert(category).values(name=key).on_conflict_do_nothing()
            with self._writing() as connection:
                connection.execute(insert)
                found = connection.execute(named).scalar_one()
        return int(found)

    def log_error(self, description: str, severity: int = 1) -> Notification:
        """Note what went wrong, for people to see, and return the note."""
        added: Notification = self.add(Notification(description, severity))
        return added

    def handle_error(self, err_id: int) -> None:
        """Remove one note of an error; one that is gone already is no error."""
        note = tables.notification
        with self._writing() as connection:
            connection.execute(sa.delete(note).where(note.c.id == err_id))

    def clear_errors(self) -> None:
        """Remove every note of an error."""
        with self._writing() as connection:
            connection.execute(sa.delete(tables.notification))

    def update_session_list(
        self, sessions_list: Sequence[Sequence[Any]], *, store_id: str | None = None
    ) -> None:
        """Replace the list of a capture store's sessions by this one.

        An entry is ``[number, start, end, number of messages]``, as `CaptureServer` builds it;
        times are UNIX timestamps in seconds or aware datetimes, the end of a running session is
        None. `store_id` names the store; None is the archive's own. Raises CaptureError for a
        list with an entry that is not like that, and changes nothing.
        """
        store_id = storable(store_id or self.store_id)
        sessions = session_lists.parsed(sessions_list, store_id)
        with self._writing() as connection:
            session_lists.replace_list(connection, sessions, store_id)

    def update_session_availability(self, session_id: int, *, store_id: str | None = None) -> bool:
        """Note whether the archive has all of a listed session, and return that.

        It has when it holds as many messages as are listed. What it lacks is a gap of the kind
        "count". Raises NoSessionError when the session is not listed.
        """
        with self._writing() as connection:
            return session_lists.update_availability(
                connection, session_id, store_id or self.store_id
            )

    def create_tables(self, force_drop: bool = False) -> None:
        """Make the tables of the store, or bring them up to date; what is there stays.

        With `force_drop` those of the archive are dropped and made anew: every archived reading
        is gone, and what the capture stores have trimmed is gone for good. Only a principal
        that sees everything may do that.
        """
        if force_drop and not self.principal.sees_all:
            raise CaptureError("only a principal that sees everything may drop the archive")
        schema.migrate(self.sql_store)
        if force_drop:
            make_again(self.sql_store)

    def load_fixtures(self, testing: bool = False) -> None:
        """Add the settings that programs expect; those that are there stay as they are.

        With `testing`, also some categories with cached values, to try a display with.
        """
        with self._writing() as connection:
            fill(connection, self.principal, testing=testing)

    @property
    def _dialect(self) -> Any:
        return postgresql if self.sql_store.dialect == "postgresql" else sqlite

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        try:
            with self.sql_store.write(self.principal) as connection:
                yield connection
        except sa.exc.IntegrityError as error:
            # The database's own text may quote values, so it is not repeated.
            raise CaptureError(
                "the archive has such an item already, or lacks what it refers to"
            ) from error
        except (sa.exc.StatementError, OverflowError) as error:
            # Of the database's own errors, those about values; and those met before it.
            if isinstance(error, sa.exc.DBAPIError) and not isinstance(error, _ABOUT_VALUES):
                raise
            raise CaptureError("a value does not fit its field") from error

    def _sessions_of(self, items: Sequence[Any]) -> dict[int | str, FoundSession]:
        named = dict.fromkeys(each.session for each in items if isinstance(each, Reading))
        return {name: self._session(name) for name in named}

    def _add_rows(
        self, connection: sa.Connection, model: type[Any], items: Sequence[Any]
    ) -> list[Any]:
        table = table_of(model)
        rows = [row_of(each, self.principal, self.store_id) for each in items]
        insert = sa.insert(table).returning(*table.c, sort_by_parameter_order=True)
        return [item_of(model, row) for row in connection.execute(insert, rows)]

    def _found(
        self, model: type[Any], query: Mapping[str, Any], *, limit: int | None = None
    ) -> Iterator[Any]:
        if model is Reading:
            yield from self._found_readings(query)
            return
        table = table_of(model)
        allowed, _ = visible(table, self.principal)
        statement = sa.select(*table.c).where(condition(model, query), allowed)
        statement = statement.order_by(*table.primary_key)
        if "value" not in query:  # which is looked at here
            statement = statement.limit(limit)
        with self._reading() as connection:
            rows = connection.execute(statement).all()
        items = (item_of(model, row) for row in rows)
        yield from (item for item in items if has_value(item, query))

    @contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        try:
            with self.sql_store.read() as connection:
                yield connection
        except (sa.exc.StatementError, OverflowError) as error:
            if isinstance(error, sa.exc.DBAPIError) and not isinstance(error, _ABOUT_VALUES):
                raise
            raise CaptureError("a value in the query is not one of its field") from error

    def _found_readings(self, query: Mapping[str, Any]) -> Iterator[Reading]:
        check_fields(Reading, query)
        wanted = dict(query)
        session = wanted.pop("session", None)
        try:
            sessions = (
                find_sessions(self.sql_store, self.principal)
                if session is None
                else [self._session(session)]
            )
        except NoSessionError:
            return
        at = wanted.get("at")
        at_us = None if at is None else to_us(moment(at))
        blocks = BlockRange(
            sources=_one(wanted.get("source")),
            channels=_one(wanted.get("channel")),
            start_us=at_us,
            end_us=None if at_us is None else at_us + 1,
        )
        for each in sessions:
            for reading in self._readings(each, blocks):
                if all(getattr(reading, name) == value for name, value in wanted.items()):
                    yield reading

    def _latest(self, n: int, since_us: int) -> list[list[Cache]]:
        cached, category = tables.cached_reading, tables.category
        with self.sql_store.read() as connection:
            ids = connection.execute(
                sa.select(category.c.id)
                .where(category.c.id.in_(sa.select(cached.c.category_id)))
                .order_by(category.c.name)
            ).scalars()
            lists = []
            for category_id in ids.all():
                rows = connection.execute(
                    sa.select(*cached.c)
                    .where(cached.c.category_id == category_id, cached.c.logged_us >= since_us)
                    .order_by(cached.c.logged_us.desc(), cached.c.id.desc())
                    .limit(n)
                ).all()
                if rows:
                    lists.append([item_of(Cache, row) for row in reversed(rows)])
        return lists


def _one(name: Any) -> tuple[str, ...] | None:
    return None if name is None else (str(name),)


def _add_readings(
    connection: sa.Connection,
    readings: Sequence[Reading],
    sessions: Mapping[int | str, FoundSession],
) -> list[Reading]:
    added = list(readings)
    for session, places in by_session(readings):
        found = sessions[session]
        made = add_readings(connection, found.id, found.name, [readings[each] for each in places])
        for place, reading in zip(places, made, strict=True):
            added[place] = reading
    return added
