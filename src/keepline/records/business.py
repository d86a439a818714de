"""One record as an object with a dictionary's manners, saved with no edit lost in silence."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache, partial, partialmethod
from typing import Any, ClassVar, Self, cast

import sqlalchemy as sa

from keepline.errors import (
    ConflictError,
    ForbiddenError,
    InvalidRecordError,
    RecordError,
    RecordNotFoundError,
    UnknownFieldError,
)
from keepline.model import Field, Principal, RecordImage, RecordType
from keepline.records.edit import Attempt, Edit
from keepline.records.fast_path import update_fast
from keepline.records.home import Home, Left, home_of
from keepline.records.joined import on_rollback
from keepline.records.outcomes import Outcome, SaveResult
from keepline.records.put import insert, new_row
from keepline.records.rows import Row, read_row, read_rows, update_row
from keepline.records.save import attempt
from keepline.records.state import RecordState, reading
from keepline.records.subjects import check_subject
from keepline.records.types import load_type
from keepline.records.values import checked
from keepline.store.access import may_see_group
from keepline.store.current import Current, current

#: What `delete` and `create` raise for an outcome.
_ERRORS = {Outcome.FORBIDDEN: ForbiddenError, Outcome.INVALID: InvalidRecordError}

_SAVED = SaveResult(Outcome.SAVED)
_KEY = Field("record_key", required=True)

#: Keys in one query.
_BATCH = 500


class BusinessObject(RecordState):
    """One record of a type: read by ``obj['field']``, changed by ``obj['field'] = value``.

    Make one of a subclass: `business_class(record_type)`, or a class of one's own that names
    its type in `_record_type`. With a key the record is fetched; with `row` (a `RecordImage`,
    or a row of the type's table with its tokens) nothing is fetched; `select` reads many at
    once, `create` makes a new record. `principal` is who reads and saves; without one it is
    keepline itself, which sees everything.

    Methods called ``get_<name>`` and ``set_<name>`` of a subclass can be used as
    ``obj['<name>']`` too; what a getter returned is kept, apart from the fields, until its
    setter is called or the record is read again.

    `original_payload` holds the fields as last read from the database, `modified_payload` what
    the database held at the last failure of a save (None when there was none, or the record is
    gone or not to be seen), `_payload` the values with all changes made here. No failure ever
    touches the last. Each is made anew when it is asked for.

    Whatever takes a `connection` reads or writes within that connection's transaction, on this
    store, and leaves its end to the caller. When that is a rollback, the object is again as it
    was before the save, and what was typed is unsaved again. Not for use by several threads at
    once.
    """

    __slots__ = ()

    #: The name of the record type.
    _record_type: ClassVar[str] = ""
    #: The fields that can be set; None means those that the type declares updatable.
    _updatable_fields: ClassVar[Sequence[str] | None] = None
    #: The declaration, where the class was made from one.
    _declared: ClassVar[RecordType | None] = None

    def __init__(
        self,
        pk: str | None = None,
        *,
        row: RecordImage | Mapping[str, Any] | None = None,
        instance: Current | None = None,
        principal: Principal | None = None,
        connection: sa.Connection | None = None,
    ) -> None:
        if (pk is None) == (row is None):
            raise RecordError("give either a record's key or a row that was read")
        self._home = self._home_in(instance, principal)
        self._touched = self._left = None
        if row is None:
            self._row = self._fetch(cast(str, pk), connection)
            return
        self._home, self._row = self._home.given(row)
        if isinstance(row, RecordImage):
            self._left = Left(row.subrows)

    @classmethod
    def select(
        cls,
        keys: Sequence[str] | None = None,
        where: sa.ColumnElement[bool] | Mapping[str, Any] | None = None,
        *,
        limit: int | None = None,
        instance: Current | None = None,
        principal: Principal | None = None,
        connection: sa.Connection | None = None,
    ) -> Iterator[Self]:
        """Yield the records that `principal` may see, by key.

        `keys` and `where` choose among them: fields and their values, or a condition on the
        columns of `table`. The rows are read here, as one state of the store, and become
        objects as they are asked for; a key that does not exist yields nothing.
        """
        home = cls._home_in(instance, principal)
        conditions = _conditions(home, where)
        column = home.table.c.record_key
        with reading(home, connection) as reader:
            read = partial(read_rows, reader, home.stored, home.principal, limit=limit)
            if keys is None:
                rows = read(conditions)
            else:
                wanted = sorted(set(keys))
                parts = (wanted[at : at + _BATCH] for at in range(0, len(wanted), _BATCH))
                rows = [row for part in parts for row in read([*conditions, column.in_(part)])]
        return cls._objects(home, rows[:limit])

    @classmethod
    def create(
        cls,
        key: str,
        values: Mapping[str, Any],
        *,
        group: str | None = None,
        subject: int | None = None,
        reason: str | None = None,
        instance: Current | None = None,
        principal: Principal | None = None,
        connection: sa.Connection | None = None,
    ) -> Self:
        """Make a new record of `values`, any of the type's fields; the others stay empty.

        It belongs to `group`, and is about the person with the number `subject` where the type
        has one. Raises InvalidRecordError for values that the type or the database refuses, for a
        key that is taken and for a subject that is not there or not to be seen, ForbiddenError,
        or RecordError when the database refuses or stays busy.
        """
        home = cls._home_in(instance, principal)
        declared = home.declared
        if not checked(_KEY, key):
            raise InvalidRecordError("a record needs a key")
        if not may_see_group(group, home.principal):
            raise ForbiddenError(f"you are not in the group {group!r}")
        new = new_row(declared, key, values, group, subject)

        def step(connection: sa.Connection) -> Attempt:
            check_subject(connection, declared, subject, home.principal)
            if insert(connection, declared, new) is not None:
                raise InvalidRecordError(f"there is a {declared.name} {key!r} already")
            return Attempt(_SAVED, read_row(connection, home.stored, key, home.principal))

        answer = attempt(home.store, home.principal, step, reason=reason, connection=connection)
        if isinstance(answer, SaveResult):
            raise _ERRORS.get(answer.outcome, RecordError)(answer.message)
        (made,) = cls._objects(home, [cast(Row, answer.row)])
        return made

    @classmethod
    def table(cls, instance: Current | None = None) -> sa.Table:
        """Return the record type's table, for conditions on its columns."""
        return cls._home_in(instance, None).table

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.key!r})"

    # Changes

    def refetch_payload(
        self, *, ignore_changes: bool = False, connection: sa.Connection | None = None
    ) -> bool:
        """Read the record again, and what is related to it.

        With unsaved changes return False and do nothing, unless `ignore_changes` throws them
        away. Raises RecordNotFoundError; the values here stay then.
        """
        if self.is_changed() and not ignore_changes:
            return False
        row = self._fetch(self.key, connection)
        modified = self._left and self._left.modified
        self._adopt(row)
        if modified:
            self._beside().modified = modified
        return True

    def save(self, reason: str | None = None, connection: sa.Connection | None = None) -> Outcome:
        """Save the changed fields, and no others; return what it came to.

        The outcome is true when the database now holds them. Raises ConflictError when others
        changed the same fields to other values: its `conflict`, kept as `obj.conflict`, has
        base, mine and theirs; `resolve` each field, then save again.
        """
        result = self.save_payload(reason, connection)
        if result.conflict is not None:
            raise ConflictError(result.message, conflict=result.conflict)
        return result.outcome

    def save_payload(
        self, reason: str | None = None, connection: sa.Connection | None = None
    ) -> SaveResult:
        """Save the changed fields, and no others, in a transaction of its own or the caller's.

        `reason` is kept in the history. The answer is true when the database now holds the
        changes, unpacks as (ok, data), and says everything else that there is to know. Raises
        RecordError or InstanceError only when the store itself fails; whatever happens, what
        was typed stays here.
        """
        try:
            changes = self._changes()
        except InvalidRecordError as error:
            return SaveResult(Outcome.INVALID, str(error))
        if not changes:
            return SaveResult(Outcome.UNCHANGED)
        write = partial(self._write, changes=changes)
        return self._carry_out(
            write, reason, connection, partial(self._write_fast, changes, reason)
        )

    def delete(self, reason: str | None = None, connection: sa.Connection | None = None) -> bool:
        """Delete the record as it was read; return False when it was gone already.

        Raises ConflictError when it was changed or made anew since, ForbiddenError,
        InvalidRecordError when a reason is required, or RecordError when the database refuses.
        """
        answer = attempt(
            self._store, self._principal, self._edit().delete, reason=reason, connection=connection
        )
        result = answer if isinstance(answer, SaveResult) else answer.result
        if result:
            return True
        if result.outcome is Outcome.DELETED:
            return False
        if result.outcome in (Outcome.CONFLICT, Outcome.REPLACED):
            message = "somebody else changed the record; read it again, then delete it"
            raise ConflictError(message, conflict=result.conflict)
        raise _ERRORS.get(result.outcome, RecordError)(result.message)

    def finalise(
        self, reason: str | None = None, connection: sa.Connection | None = None
    ) -> SaveResult:
        """Close the record to changes, as it was read: any change by others is a conflict.

        Raises RecordError when there are unsaved changes, or the type has no such state.
        """
        return self._set_finalised(True, reason, connection)

    def reopen(self, reason: str | None, connection: sa.Connection | None = None) -> SaveResult:
        """Open a finalised record to changes again; as `finalise` otherwise."""
        return self._set_finalised(False, reason, connection)

    # Carrying out

    @classmethod
    def _home_in(cls, instance: Current | None, principal: Principal | None) -> Home:
        instance = current(instance)
        declared = cls._declared or load_type(instance.store, cls._record_type)
        return home_of(instance, principal or Principal.system(), declared, cls._updatable_fields)

    @classmethod
    def _objects(cls, home: Home, rows: Sequence[Row]) -> Iterator[Self]:
        # A class with a constructor of its own has more to set up than the slots.
        plain, new = cls.__init__ is BusinessObject.__init__, cls.__new__
        for row in rows:
            if plain:
                obj = new(cls)
                obj._home, obj._row, obj._touched, obj._left = home, row, None, None
            else:
                given = {name: home.stored.value(row, name) for name in home.stored.at}
                obj = cls(row=given, instance=home.instance, principal=home.principal)
            yield obj

    def _edit(self) -> Edit:
        return Edit(
            self._home.stored,
            self.key,
            self.token,
            self.revision,
            self._principal,
            self._base,
            self._payload,
        )

    def _write(
        self, connection: sa.Connection, *, changes: Mapping[str, Any], merging: bool = True
    ) -> Attempt:
        """Write `changes`; when the row is not the one that was read, merge or refuse."""
        home = self._home
        row = update_row(connection, home.stored, self.key, self.token, home.principal, changes)
        if row is not None:
            return Attempt(_SAVED, row)
        return self._edit().settle(connection, merging=merging)

    def _write_fast(self, changes: Mapping[str, Any], reason: str | None) -> Attempt | None:
        """Write `changes` if that is all that there is to do; None says that nothing was."""
        home = self._home
        row = update_fast(
            home.store, home.stored, self.key, self.token, home.principal, changes, reason
        )
        return None if row is None else Attempt(_SAVED, row)

    def _set_finalised(
        self, wanted: bool, reason: str | None, connection: sa.Connection | None
    ) -> SaveResult:
        if not self.record_type.finalised:
            raise RecordError(f"records of type {self.record_type.name} are never finalised")
        if self.is_changed():
            raise RecordError("there are unsaved changes; save them first")
        if self.finalised is wanted:
            return SaveResult(Outcome.UNCHANGED)
        write = partial(self._write, changes={"finalised": wanted}, merging=False)
        return self._carry_out(write, reason, connection)

    def _carry_out(
        self,
        step: Callable[[sa.Connection], Attempt],
        reason: str | None,
        connection: sa.Connection | None,
        first: Callable[[], Attempt | None] | None = None,
    ) -> SaveResult:
        answer = attempt(
            self._store,
            self._principal,
            step,
            reason=reason,
            connection=connection,
            first=first,
        )
        if isinstance(answer, SaveResult):
            with reading(self._home, connection) as reader:
                row = read_row(reader, self._home.stored, self.key, self._principal)
            answer = Attempt(answer, row)
        return self._conclude(answer, connection)

    def _conclude(self, answer: Attempt, connection: sa.Connection | None) -> SaveResult:
        """Take over what a save came to; undo that when the caller's transaction is undone."""
        result, row = answer.result, answer.row
        if result and row is not None:
            if connection is not None:
                on_rollback(connection, self._back())
            self._adopt(row, keep_related=result.outcome is Outcome.SAVED)
            return result
        left = self._beside()
        left.modified = row
        if result.outcome not in (Outcome.RETRYABLE, Outcome.INVALID):
            left.conflict, left.theirs = result.conflict, row
        return result

    def _fetch(self, key: str, connection: sa.Connection | None) -> Row:
        with reading(self._home, connection) as reader:
            row = read_row(reader, self._home.stored, key, self._principal)
        if row is None:
            raise RecordNotFoundError(
                f"there is no {self.record_type.name} {key!r}, or it is not yours to see"
            )
        return row


@lru_cache(maxsize=256)
def business_class(record_type: RecordType) -> type[BusinessObject]:
    """Return the class of a record type's objects; the same one for the same declaration."""
    name = "".join(part.capitalize() for part in record_type.name.split("_"))
    members: dict[str, Any] = {
        f"get_{subtable.name}": partialmethod(BusinessObject.subrows, subtable.name)
        for subtable in record_type.subtables
    }
    members |= {
        "__doc__": record_type.comment or f"A record of type {record_type.name}.",
        "__slots__": (),
        "_record_type": record_type.name,
        "_declared": record_type,
    }
    return type(name, (BusinessObject,), members)


def _conditions(
    home: Home, where: sa.ColumnElement[bool] | Mapping[str, Any] | None
) -> list[sa.ColumnElement[bool]]:
    if where is None:
        return []
    if not isinstance(where, Mapping):
        return [where]
    for name in where:
        if name not in home.stored.fields:
            raise UnknownFieldError(f"{home.declared.name} has no field {name!r}")
    return [home.table.c[name] == value for name, value in where.items()]
