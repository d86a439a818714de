"""One record as an object with a dictionary's manners, saved with no edit lost in silence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache, partialmethod
from typing import Any, ClassVar, Literal, cast

import sqlalchemy as sa

from keepline.errors import (
    ConflictError,
    ForbiddenError,
    InvalidRecordError,
    ReadOnlyFieldError,
    RecordError,
    RecordNotFoundError,
    UnknownFieldError,
)
from keepline.model import Principal, RecordImage, RecordType
from keepline.records.edit import Attempt, Edit, values_of
from keepline.records.merge import merge
from keepline.records.outcomes import Conflict, Outcome, SaveResult
from keepline.records.save import Row, Token, attempt, read_row
from keepline.records.types import load_type, table_of
from keepline.records.values import checked, own, same
from keepline.store.access import visible
from keepline.store.current import Current, current
from keepline.store.tables.records import record_tables

Choice = Literal["base", "mine", "theirs"]
_NOT_GIVEN: Any = object()

#: What `delete` raises for an outcome.
_ERRORS = {Outcome.FORBIDDEN: ForbiddenError, Outcome.INVALID: InvalidRecordError}


class BusinessObject:
    """One record of a type: read by ``obj['field']``, changed by ``obj['field'] = value``.

    Make one of a subclass: `business_class(record_type)`, or a class of one's own that names
    its type in `_record_type`. With a key the record is fetched; with `row` (a `RecordImage`,
    or a row of the type's table with its tokens) nothing is fetched. `principal` is who reads
    and saves; without one it is keepline itself, which sees everything.

    Methods called ``get_<name>`` and ``set_<name>`` of a subclass can be used as
    ``obj['<name>']`` too; what a getter returned is kept, apart from the fields, until its
    setter is called or the record is read again.

    `original_payload` holds the fields as last read from the database, `modified_payload` what
    the database held at the last failure of a save (None when there was none, or the record is
    gone or not to be seen), `_payload` the values with all changes made here. No failure ever
    touches the last. Not for use by several threads at once.
    """

    #: The name of the record type.
    _record_type: ClassVar[str] = ""
    #: The fields that can be set; None means those that the type declares updatable.
    _updatable_fields: ClassVar[Sequence[str] | None] = None
    #: The declaration, where the class was made from one.
    _declared: ClassVar[RecordType | None] = None

    key: str
    #: The record's revision and group as last read.
    revision: int
    group: str | None
    original_payload: dict[str, Any]
    modified_payload: dict[str, Any] | None
    #: The conflict that is to be resolved, if there is one.
    conflict: Conflict | None
    _payload: dict[str, Any]
    _token: Token
    #: Fields of a conflict that were decided, with theirs as it was then.
    _seen: dict[str, Any]
    #: The row that the conflict is about.
    _theirs: Row | None

    def __init__(
        self,
        pk: str | None = None,
        *,
        row: RecordImage | Mapping[str, Any] | None = None,
        instance: Current | None = None,
        principal: Principal | None = None,
    ) -> None:
        if (pk is None) == (row is None):
            raise RecordError("give either a record's key or a row that was read")
        self._store = current(instance).store
        self._principal = principal or Principal.system()
        self.record_type = self._declared or load_type(self._store, self._record_type)
        self._table = table_of(self.record_type)
        self._related: dict[str, Any] = {}
        self.conflict = None
        self.modified_payload = None
        if isinstance(row, RecordImage):
            self._related |= row.subrows
            self._adopt(_row_of(row))
        elif row is not None:
            self._adopt(row)
        else:
            self.key = cast(str, pk)
            self._adopt(self._fetch())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.key!r})"

    # Values

    @property
    def fields(self) -> tuple[str, ...]:
        """Return the names of the fields, in the type's order."""
        return tuple(self._payload)

    @property
    def updatable_fields(self) -> tuple[str, ...]:
        """Return the names of the fields that can be set."""
        listed = self._updatable_fields
        return tuple(
            field.name
            for field in self.record_type.fields
            if field.updatable and (listed is None or field.name in listed)
        )

    def __contains__(self, name: object) -> bool:
        return name in self._payload

    def __getitem__(self, name: str) -> Any:
        """Return a field, a sub-table's rows, or what ``get_<name>`` returns.

        ``record_key``, ``revision`` and ``group_name`` can be read as well. Raises
        UnknownFieldError, which is a KeyError too.
        """
        if name in self._payload:
            return self._payload[name]
        if name in ("record_key", "revision", "group_name"):
            return {"record_key": self.key, "revision": self.revision}.get(name, self.group)
        if name in self._related:
            return self._related[name]
        if any(subtable.name == name for subtable in self.record_type.subtables):
            return self.subrows(name)
        getter = getattr(self, f"get_{name}", None)
        if not callable(getter):
            raise UnknownFieldError(f"{self.record_type.name} has no field {name!r}")
        self._related[name] = getter()
        return self._related[name]

    def __setitem__(self, name: str, value: Any) -> None:
        """Set a field, or call ``set_<name>``; the database learns of a field at the next save.

        Raises ReadOnlyFieldError, UnknownFieldError, or InvalidRecordError for a value that
        the field cannot take; nothing is changed then.
        """
        setter = getattr(self, f"set_{name}", None)
        if name in self._payload:
            if name not in self.updatable_fields:
                raise ReadOnlyFieldError(f"{name} cannot be set")
            self._payload[name] = checked(self.record_type.field(name), value)
        elif callable(setter):
            setter(value)
            self._related.pop(name, None)
        else:
            _ = self[name]
            raise ReadOnlyFieldError(f"{name} cannot be set")

    def subrows(self, name: str) -> tuple[dict[str, Any], ...]:
        """Return the rows of a sub-table in key order; they are read once and kept.

        Raises UnknownFieldError.
        """
        if name in self._related:
            return cast("tuple[dict[str, Any], ...]", self._related[name])
        for subtable in self.record_type.subtables:
            if subtable.name == name:
                break
        else:
            raise UnknownFieldError(f"{self.record_type.name} has no sub-table {name!r}")
        child = record_tables(self.record_type).tables[self.record_type.subtable_name(subtable)]
        allowed, _ = visible(self._table, self._principal)
        query = (
            sa.select(*(column for column in child.c if column.name != "record_key"))
            .join_from(child, self._table)
            .where(child.c.record_key == self.key, allowed)
            .order_by(child.c[subtable.key])
        )
        with self._store.read() as connection:
            self._related[name] = tuple(map(dict, connection.execute(query).mappings()))
        return cast("tuple[dict[str, Any], ...]", self._related[name])

    # Changes

    @property
    def changed_fields(self) -> tuple[str, ...]:
        """Return the fields whose values differ from those last read, in the type's order.

        A JSON value that was changed in place counts; a value set and set back does not.
        """
        base = self._base
        return tuple(n for n, value in self._payload.items() if not same(value, base[n]))

    def is_changed(self) -> bool:
        """Return whether anything was changed here that the database does not know."""
        return bool(self.changed_fields)

    def refetch_payload(self, *, ignore_changes: bool = False) -> bool:
        """Read the record again, and what is related to it.

        With unsaved changes return False and do nothing, unless `ignore_changes` throws them
        away. Raises RecordNotFoundError; the values here stay then.
        """
        if self.is_changed() and not ignore_changes:
            return False
        self._adopt(self._fetch(), drop_related=True)
        return True

    def save(self) -> Outcome:
        """Save the changed fields, and no others; return what it came to.

        The outcome is true when the database now holds them. Raises ConflictError when others
        changed the same fields to other values: its `conflict`, kept as `obj.conflict`, has
        base, mine and theirs; `resolve` each field, then save again.
        """
        result = self.save_payload()
        if result.conflict is not None:
            raise ConflictError(result.message, conflict=result.conflict)
        return result.outcome

    def save_payload(self) -> SaveResult:
        """Save the changed fields, and no others, in a transaction of its own.

        The answer is true when the database now holds them, unpacks as (ok, data), and says
        everything else that there is to know. Raises RecordError or InstanceError only when
        the store itself fails; whatever happens, what was typed stays here.
        """
        try:
            changes = self._changes()
        except InvalidRecordError as error:
            return SaveResult(Outcome.INVALID, str(error))
        if not changes:
            return SaveResult(Outcome.UNCHANGED)
        edit = self._edit()
        answer = attempt(self._store, self._principal, lambda c: edit.save(c, changes))
        if isinstance(answer, SaveResult):
            answer = Attempt(answer, self._now())
        result, row = answer.result, answer.row
        if result and row is not None:
            self._adopt(row, drop_related=result.outcome is not Outcome.SAVED)
            self.conflict = self.modified_payload = None
            return result
        self.modified_payload = None if row is None else values_of(self.record_type, row)
        if result.outcome not in (Outcome.RETRYABLE, Outcome.INVALID):
            self.conflict, self._theirs = result.conflict, row
        return result

    def resolve(self, field: str, value: Any = _NOT_GIVEN, *, choice: Choice | None = None) -> None:
        """Decide one field of a conflict: by a value, or by a side (base, mine, theirs).

        When each conflicting field is decided, everything else that the others changed is
        taken over, and the next save is measured against what they saved. Raises RecordError
        when there is no conflict about `field`, or neither or both are given.
        """
        conflict = self.conflict
        if conflict is None or field not in conflict.conflicting:
            raise RecordError(f"there is no conflict about {field}")
        if (value is _NOT_GIVEN) == (choice is None):
            raise RecordError("decide by a value, or by one of base, mine, theirs")
        if choice is not None:
            value = {"base": conflict.base, "mine": conflict.mine, "theirs": conflict.theirs}[
                choice
            ][field]
        self._payload[field] = checked(self.record_type.field(field), value)
        self._seen[field] = conflict.theirs[field]
        if self._seen.keys() >= set(conflict.conflicting):
            values = merge(self._base, self._payload, conflict.theirs).values
            self._adopt(cast("Row", self._theirs), drop_related=True)
            self._payload = {name: own(each) for name, each in values.items()}
            self.conflict = None

    def delete(self) -> bool:
        """Delete the record as it was read; return False when it was gone already.

        Raises ConflictError when it was changed or made anew since, ForbiddenError, or
        RecordError when the database refuses.
        """
        answer = attempt(self._store, self._principal, self._edit().delete)
        result = answer if isinstance(answer, SaveResult) else answer.result
        if result:
            return True
        if result.outcome is Outcome.DELETED:
            return False
        if result.outcome in (Outcome.CONFLICT, Outcome.REPLACED):
            message = "somebody else changed the record; read it again, then delete it"
            raise ConflictError(message, conflict=result.conflict)
        raise _ERRORS.get(result.outcome, RecordError)(result.message)

    # State

    @property
    def token(self) -> Token:
        """Return the token that guards the next save; opaque."""
        return self._token

    @property
    def _base(self) -> Mapping[str, Any]:
        """What changes are measured from: the values last read, or theirs where decided."""
        return self.original_payload | self._seen if self._seen else self.original_payload

    def _edit(self) -> Edit:
        return Edit(
            self.record_type,
            self.key,
            self._token,
            self.revision,
            self._principal,
            self._base,
            self._payload,
        )

    def _changes(self) -> dict[str, Any]:
        # Checked again, since a JSON value may have been changed in place.
        return {
            name: checked(self.record_type.field(name), self._payload[name])
            for name in self.changed_fields
        }

    def _now(self) -> Row | None:
        with self._store.read() as connection:
            return read_row(connection, self._table, self.key, self._principal)

    def _fetch(self) -> Row:
        row = self._now()
        if row is None:
            raise RecordNotFoundError(
                f"there is no {self.record_type.name} {self.key!r}, or it is not yours to see"
            )
        return row

    def _adopt(self, row: Mapping[str, Any], *, drop_related: bool = False) -> None:
        try:
            self._token = Token.of(row)
            self.key = row["record_key"]
            self.revision = row["revision"]
            self.group = row["group_name"]
            self.original_payload = values_of(self.record_type, row)
        except KeyError as error:
            raise RecordError(f"the row lacks the column {error.args[0]}") from None
        self._payload = values_of(self.record_type, row)
        self._seen = {}
        self._theirs = None
        if drop_related:
            self._related.clear()


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
        "_record_type": record_type.name,
        "_declared": record_type,
    }
    return type(name, (BusinessObject,), members)


def _row_of(image: RecordImage) -> Row:
    return {
        "record_key": image.key,
        "group_name": image.group,
        "revision": image.revision,
        "row_born": image.born,
        "row_rev": image.rev,
        **image.values,
    }
