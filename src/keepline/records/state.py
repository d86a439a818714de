"""What an object knows of a record: the row as read, what was set since, and what follows."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, Literal, cast

import sqlalchemy as sa

from keepline.errors import ReadOnlyFieldError, RecordError, UnknownFieldError
from keepline.model import Principal, RecordType
from keepline.records.etag import ETag
from keepline.records.home import Home, Left
from keepline.records.merge import FieldState, merge
from keepline.records.outcomes import Conflict
from keepline.records.rows import Row, Token
from keepline.records.values import checked, same
from keepline.store.access import visible
from keepline.store.tables.declared import record_tables

Choice = Literal["base", "mine", "theirs"]
_NOT_GIVEN: Any = object()


class RecordState:
    """The values of one record, as last read and as changed since; nothing here writes.

    Values are looked up in what was set, then in the row, then among what getters gave.
    """

    __slots__ = ("_home", "_left", "_row", "_touched")

    _home: Home
    #: The row as last read.
    _row: Row
    #: Values that were set here, or could have been changed in place.
    _touched: dict[str, Any] | None
    _left: Left | None

    # Values

    @property
    def fields(self) -> tuple[str, ...]:
        """Return the names of the fields, in the type's order."""
        return tuple(self._home.layout.fields)

    @property
    def updatable_fields(self) -> tuple[str, ...]:
        """Return the names of the fields that can be set."""
        return tuple(name for name in self._home.layout.fields if name in self._home.updatable)

    def __contains__(self, name: object) -> bool:
        return name in self._home.layout.fields

    def __getitem__(self, name: str) -> Any:
        """Return a field, a sub-table's rows, or what ``get_<name>`` returns.

        ``record_key``, ``revision`` and ``group_name`` can be read as well. Raises
        UnknownFieldError, which is a KeyError too.
        """
        touched = self._touched
        if touched is not None and name in touched:
            return touched[name]
        layout = self._home.layout
        if name in layout.fields:
            value = layout.value(self._row, name)
            if name in layout.mutable:
                self._touch(name, value)
            return value
        if name in ("record_key", "revision", "group_name"):
            return layout.value(self._row, name)
        if self._left is not None and name in self._left.related:
            return self._left.related[name]
        if any(subtable.name == name for subtable in self.record_type.subtables):
            return self.subrows(name)
        getter = getattr(self, f"get_{name}", None)
        if not callable(getter):
            raise UnknownFieldError(f"{self.record_type.name} has no field {name!r}")
        related = self._beside().related
        related[name] = getter()
        return related[name]

    def __setitem__(self, name: str, value: Any) -> None:
        """Set a field, or call ``set_<name>``; the database learns of a field at the next save.

        Raises ReadOnlyFieldError, UnknownFieldError, or InvalidRecordError for a value that
        the field cannot take; nothing is changed then.
        """
        field = self._home.layout.fields.get(name)
        if field is not None:
            if name not in self._home.updatable:
                raise ReadOnlyFieldError(f"{name} cannot be set")
            self._touch(name, checked(field, value))
            return
        setter = getattr(self, f"set_{name}", None)
        if not callable(setter):
            _ = self[name]
            raise ReadOnlyFieldError(f"{name} cannot be set")
        setter(value)
        if self._left is not None:
            self._left.related.pop(name, None)

    def subrows(
        self, name: str, *, connection: sa.Connection | None = None
    ) -> tuple[dict[str, Any], ...]:
        """Return the rows of a sub-table in key order; they are read once and kept.

        Raises UnknownFieldError.
        """
        related = self._beside().related
        if name not in related:
            try:
                subtable = self.record_type.subtable(name)
            except KeyError:
                raise UnknownFieldError(
                    f"{self.record_type.name} has no sub-table {name!r}"
                ) from None
            table = self._home.table
            tables = record_tables(self.record_type).tables
            child = tables[self.record_type.subtable_name(subtable)]
            query = (
                sa.select(*(column for column in child.c if column.name != "record_key"))
                .join_from(child, table)
                .where(child.c.record_key == self.key, visible(table, self._principal)[0])
                .order_by(child.c[subtable.key])
            )
            with reading(self._home, connection) as reader:
                related[name] = tuple(map(dict, reader.execute(query).mappings()))
        return cast("tuple[dict[str, Any], ...]", related[name])

    @property
    def changed_fields(self) -> tuple[str, ...]:
        """Return the fields whose values differ from those last read, in the type's order.

        A JSON value that was changed in place counts; a value set and set back does not.
        """
        touched, layout = self._touched, self._home.layout
        if not touched:
            return ()
        seen = self._left.seen if self._left is not None else {}
        return tuple(
            name
            for name in layout.fields
            if name in touched
            and not same(
                touched[name], seen[name] if name in seen else layout.value(self._row, name)
            )
        )

    def is_changed(self) -> bool:
        """Return whether anything was changed here that the database does not know."""
        return bool(self.changed_fields)

    def resolve(self, field: str, value: Any = _NOT_GIVEN, *, choice: Choice | None = None) -> None:
        """Decide one field of a conflict: by a value, or by a side (base, mine, theirs).

        When each conflicting field is decided, everything else that the others changed is
        taken over, and the next save is measured against what they saved; but where something
        that was typed since the conflict stands against theirs, that save is a conflict again.
        Raises RecordError when there is no conflict about `field`, or neither or both are given.
        """
        left = self._beside()
        conflict = left.conflict
        if conflict is None or field not in conflict.conflicting:
            raise RecordError(f"there is no conflict about {field}")
        if (value is _NOT_GIVEN) == (choice is None):
            raise RecordError("decide by a value, or by one of base, mine, theirs")
        if choice is not None:
            value = {"base": conflict.base, "mine": conflict.mine, "theirs": conflict.theirs}[
                choice
            ][field]
        self._touch(field, checked(self._home.layout.fields[field], value))
        left.seen[field] = conflict.theirs[field]
        if left.seen.keys() >= set(conflict.conflicting):
            agreed = (n for n, state in conflict.fields.items() if state is FieldState.AGREED)
            left.seen |= {name: conflict.theirs[name] for name in agreed}
            groups = self.record_type.groups
            merged = merge(self._base, self._payload, conflict.theirs, groups)
            if merged.conflicts:
                return
            modified = left.modified
            self._adopt(cast(Row, left.theirs))
            self._touched = dict(merged.values)
            self._beside().modified = modified

    # State

    @property
    def key(self) -> str:
        """Return the record's key."""
        return self._home.layout.key(self._row)

    @property
    def revision(self) -> int:
        """Return the record's revision as last read."""
        return cast(int, self._home.layout.value(self._row, "revision"))

    @property
    def group(self) -> str | None:
        """Return the group that the record belongs to; None is the whole instance."""
        return cast("str | None", self._home.layout.value(self._row, "group_name"))

    @property
    def subject(self) -> int | None:
        """Return the number of the person that the record is about."""
        if not self.record_type.subject:
            return None
        return cast("int | None", self._home.layout.value(self._row, "subject_no"))

    @property
    def finalised(self) -> bool:
        """Return whether the record is closed to changes."""
        return self._home.layout.finalised(self._row)

    @property
    def record_type(self) -> RecordType:
        """Return the declaration of the record's type."""
        return self._home.declared

    @property
    def token(self) -> Token:
        """Return the token that guards the next save; opaque."""
        return self._home.layout.token(self._row)

    @property
    def etag(self) -> str:
        """Return the record's state as a strong entity tag, in its quotes."""
        token, home = self.token, self._home
        epoch = home.instance.epoch
        return str(ETag(epoch, home.table.name, self.key, token.born, token.rev))

    @property
    def original_payload(self) -> dict[str, Any]:
        """Return the fields as last read from the database."""
        return self._home.layout.values(self._row)

    @property
    def modified_payload(self) -> dict[str, Any] | None:
        """Return what the database held at the last failure of a save."""
        row = self._left.modified if self._left is not None else None
        return None if row is None else self._home.stored.values(row)

    @property
    def conflict(self) -> Conflict | None:
        """Return the conflict that is to be resolved, if there is one."""
        return self._left.conflict if self._left is not None else None

    @property
    def _payload(self) -> dict[str, Any]:
        return {name: self[name] for name in self._home.layout.fields}

    @property
    def _store(self) -> Any:
        return self._home.store

    @property
    def _principal(self) -> Principal:
        return self._home.principal

    @property
    def _base(self) -> dict[str, Any]:
        """What changes are measured from: the values last read, or theirs where decided."""
        return self.original_payload | (self._left.seen if self._left is not None else {})

    # What the saves build on

    def _beside(self) -> Left:
        if self._left is None:
            self._left = Left()
        return self._left

    def _touch(self, name: str, value: Any) -> None:
        if self._touched is None:
            self._touched = {}
        self._touched[name] = value

    def _changes(self) -> dict[str, Any]:
        # Checked again, since a JSON value may have been changed in place.
        touched, fields = self._touched or {}, self._home.layout.fields
        return {name: checked(fields[name], touched[name]) for name in self.changed_fields}

    def _back(self) -> Callable[[], None]:
        """Return what makes the object as it is now again, with what is typed until then."""
        home, row, touched, left = self._home, self._row, dict(self._touched or {}), self._left

        def back() -> None:
            # What was taken over from the transaction goes with it.
            later = self._touched or {}
            touched.update((name, later[name]) for name in self.changed_fields)
            self._home, self._row, self._touched, self._left = home, row, touched, left

        return back

    def _adopt(self, row: Row, *, keep_related: bool = False) -> None:
        """Take `row` for what the database holds, with nothing typed since."""
        related = self._left.related if keep_related and self._left is not None else None
        self._home = self._home.of_stored()
        self._row, self._touched = row, None
        self._left = Left(related) if related else None


def reading(home: Home, connection: sa.Connection | None) -> Any:
    """Return a context that gives a connection to read with: the caller's, or one for this."""
    return home.store.read() if connection is None else nullcontext(connection)
