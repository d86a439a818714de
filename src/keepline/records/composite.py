"""One object over a view of several records, saved all or nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any, ClassVar

import sqlalchemy as sa

from keepline.errors import (
    InvalidRecordError,
    ReadOnlyFieldError,
    RecordError,
    RecordNotFoundError,
    UnknownFieldError,
)
from keepline.model import Principal
from keepline.records.edit import Edit, failed
from keepline.records.joined import on_rollback
from keepline.records.merge import together_with
from keepline.records.outcomes import MESSAGES, Outcome, SaveResult
from keepline.records.rows import Token, layout_of, lock_row, update_row
from keepline.records.save import Abandoned, attempt, refused
from keepline.records.types import load_type
from keepline.records.values import checked, own, same
from keepline.store.access import visible
from keepline.store.current import Current, current


@dataclass(frozen=True, slots=True)
class Part:
    """What columns of a view belong to one record, and how to find it.

    `key`, `born` and `rev` are the view's columns that hold the record's key and token;
    `columns` maps the view's columns to the record's fields. A `guard` is only read, but a save
    is refused when it was changed since. `revision` is the column with the record's revision,
    from which a conflict tells who edited since; without one it names all who ever did.
    """

    name: str
    record_type: str
    key: str
    born: str
    rev: str
    columns: Mapping[str, str] = field(default_factory=dict)
    guard: bool = False
    revision: str | None = None


#: A part, and a field of its that the view does not show.
_Beside = tuple[str, str, sa.Column[Any]]


@dataclass(frozen=True, slots=True)
class CompositeResult(SaveResult):
    """What the save of a composite object came to: true when all of it is in the database.

    `parts` has what each part came to; when one was refused nothing was written, whatever the
    others say. Its outcome, message and conflict are those of the first one refused.
    """

    parts: Mapping[str, SaveResult] = field(default_factory=dict)


class CompositeObject:
    """One row of a view over several records, with a dictionary's manners.

    Make a subclass that names the view (`_source`: its SQL name, or something selectable), the
    view's column that tells rows apart (`_key`), and its `_parts`. The row is read in the name
    of `principal`, who has to see every record that it shows. A column that belongs to no part,
    or to a guard, or to a part that is not there (its key is null), can only be read.

    `save_payload` writes each part's changed fields: disjoint edits by others are merged; one
    conflict, one guard that was changed, one record that is gone, and nothing is written.
    """

    _source: ClassVar[Any] = ""
    _key: ClassVar[str] = ""
    _parts: ClassVar[Sequence[Part]] = ()

    def __init__(
        self,
        pk: Any,
        *,
        instance: Current | None = None,
        principal: Principal | None = None,
        connection: sa.Connection | None = None,
    ) -> None:
        self.key = pk
        self._store = current(instance).store
        self._principal = principal or Principal.system()
        self._layouts = {
            part.name: layout_of(self._store, load_type(self._store, part.record_type))
            for part in self._parts
        }
        self._owner = {
            column: part for part in self._parts if not part.guard for column in part.columns
        }
        self._deleted: set[str] = set()
        #: Fields that the view hides, of groups that it shows a part of, by part.
        self._beside: dict[str, dict[str, Any]] = {}
        self._row = self._fetch(connection)
        self._typed: dict[str, Any] = {}
        #: What the last save came to, when it was refused.
        self.refused: CompositeResult | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.key!r})"

    def __contains__(self, name: object) -> bool:
        return name in self._row

    def __getitem__(self, name: str) -> Any:
        """Return a column's value; raises UnknownFieldError, which is a KeyError too."""
        if name in self._typed:
            return self._typed[name]
        if name not in self._row:
            raise UnknownFieldError(f"{type(self).__name__} has no column {name!r}")
        value = own(self._row[name])
        if isinstance(value, dict | list):  # it may be changed in place
            self._typed[name] = value
        return value

    def __setitem__(self, name: str, value: Any) -> None:
        """Set a column; raises as `BusinessObject` does, and changes nothing then."""
        part = self._owner.get(name)
        if part is None or self._row[part.key] is None or part.name in self._deleted:
            _ = self[name]
            raise ReadOnlyFieldError(f"{name} cannot be set")
        declared = self._layouts[part.name].fields[part.columns[name]]
        if not declared.updatable:
            raise ReadOnlyFieldError(f"{name} cannot be set")
        self._typed[name] = checked(declared, value)

    @property
    def changed_fields(self) -> tuple[str, ...]:
        """Return the columns whose values differ from those last read."""
        typed = self._typed
        return tuple(n for n in self._row if n in typed and not same(typed[n], self._row[n]))

    def delete_part(self, name: str) -> None:
        """Have the next save delete the record of a part, unless it was changed since.

        Raises RecordError for a guard, or for a part that is not there.
        """
        part = next((part for part in self._parts if part.name == name), None)
        if part is None or part.guard or self._row[part.key] is None:
            raise RecordError(f"there is no part {name!r} to delete")
        self._deleted.add(name)
        for column in part.columns:
            self._typed.pop(column, None)

    def refetch_payload(
        self, *, ignore_changes: bool = False, connection: sa.Connection | None = None
    ) -> bool:
        """Read the row again; with unsaved changes return False unless they are to be ignored."""
        if (self.changed_fields or self._deleted) and not ignore_changes:
            return False
        self._row = self._fetch(connection)
        self._typed, self._deleted, self.refused = {}, set(), None
        return True

    def save_payload(
        self, reason: str | None = None, connection: sa.Connection | None = None
    ) -> CompositeResult:
        """Save all changed parts, or none; what was typed stays whenever it is refused.

        In the transaction of `connection`, where one is given, as one savepoint. Rows are
        locked by type and key, so that two saves never wait for each other.
        """
        try:
            changes = {part.name: self._changes(part) for part in self._parts}
        except InvalidRecordError as error:
            return CompositeResult(Outcome.INVALID, str(error))
        if not any(changes.values()) and not self._deleted:
            return CompositeResult(Outcome.UNCHANGED)
        answer = attempt(
            self._store,
            self._principal,
            lambda writer: self._write(writer, changes),
            reason=reason,
            connection=connection,
        )
        if not isinstance(answer, CompositeResult):
            answer = CompositeResult(
                answer.outcome, answer.message, answer.conflict, answer.constraint
            )
        if not answer:
            self.refused = answer
            return answer
        self._adopt(connection)
        return answer

    # Carrying out

    def _adopt(self, connection: sa.Connection | None) -> None:
        if connection is not None:
            on_rollback(connection, self._back())
        with suppress(RecordNotFoundError):  # the row goes with a part that was deleted
            self._row = self._fetch(connection)
        self._typed, self._deleted, self.refused = {}, set(), None

    def _back(self) -> Callable[[], None]:
        row, typed, deleted = self._row, dict(self._typed), set(self._deleted)
        beside = self._beside

        def back() -> None:
            typed.update({name: self._typed[name] for name in self.changed_fields})
            self._row, self._typed, self._deleted = row, typed, deleted
            self._beside = beside

        return back

    def _changes(self, part: Part) -> dict[str, Any]:
        if part.guard or part.name in self._deleted:
            return {}
        fields = self._layouts[part.name].fields
        return {
            part.columns[name]: checked(fields[part.columns[name]], self._typed[name])
            for name in self.changed_fields
            if name in part.columns
        }

    def _write(
        self, connection: sa.Connection, changes: Mapping[str, Mapping[str, Any]]
    ) -> CompositeResult:
        """Write every part in the order of types and keys; abandon all when one is refused."""
        results: dict[str, SaveResult] = {}
        for part in self._concerned(changes):
            try:
                with connection.begin_nested():
                    results[part.name] = self._write_part(connection, part, changes[part.name])
            except sa.exc.DBAPIError as error:
                refusal = refused(error)
                if refusal is None or refusal.outcome is Outcome.RETRYABLE:
                    raise
                results[part.name] = refusal
        bad = next((result for result in results.values() if not result), None)
        if bad is not None:
            raise Abandoned(
                CompositeResult(bad.outcome, bad.message, bad.conflict, bad.constraint, results)
            )
        merged = any(result.outcome is Outcome.MERGED for result in results.values())
        saved = any(result.outcome is Outcome.SAVED for result in results.values())
        outcome = Outcome.MERGED if merged else Outcome.SAVED if saved else Outcome.UNCHANGED
        return CompositeResult(outcome, parts=results)

    def _concerned(self, changes: Mapping[str, Mapping[str, Any]]) -> Iterator[Part]:
        there = (part for part in self._parts if self._row[part.key] is not None)
        for part in sorted(there, key=lambda part: (part.record_type, self._row[part.key])):
            if part.guard or changes[part.name] or part.name in self._deleted:
                yield part

    def _write_part(
        self, connection: sa.Connection, part: Part, changes: Mapping[str, Any]
    ) -> SaveResult:
        edit = self._edit(part)
        if part.name in self._deleted:
            return edit.delete(connection).result
        if part.guard:
            return self._guarded(connection, part, edit)
        row = update_row(connection, edit.layout, edit.key, edit.token, self._principal, changes)
        if row is not None:
            return SaveResult(Outcome.SAVED)
        return edit.settle(connection).result

    def _guarded(self, connection: sa.Connection, part: Part, edit: Edit) -> SaveResult:
        theirs = lock_row(connection, edit.layout, edit.key)
        if theirs is None:
            return failed(Outcome.DELETED)
        token = edit.layout.token(theirs)
        if token == edit.token:
            return SaveResult(Outcome.UNCHANGED)
        outcome = Outcome.CONFLICT if token.born == edit.token.born else Outcome.REPLACED
        message = MESSAGES[outcome] if outcome is Outcome.REPLACED else _changed(part, edit.key)
        return SaveResult(outcome, message)

    def _edit(self, part: Part) -> Edit:
        row, columns, beside = self._row, part.columns.items(), self._beside.get(part.name, {})
        return Edit(
            self._layouts[part.name],
            row[part.key],
            Token(row[part.born], row[part.rev]),
            row[part.revision] if part.revision else 0,
            self._principal,
            {name: row[column] for column, name in columns} | beside,
            {name: self[column] for column, name in columns} | beside,
        )

    # Reading

    def _fetch(self, connection: sa.Connection | None) -> dict[str, Any]:
        reading = self._store.read() if connection is None else nullcontext(connection)
        with reading as reader:
            view = self._view(reader)
            source, beside = self._with_beside(view)
            labels = [each.label(f"keepline_{n}") for n, (*_, each) in enumerate(beside)]
            query = sa.select(view, *labels).select_from(source)
            query = query.where(view.c[self._key] == self.key)
            query = query.where(*(self._may_see(view, part) for part in self._parts))
            row = reader.execute(query).one_or_none()
        if row is None:
            raise RecordNotFoundError(
                f"there is no {type(self).__name__} {self.key!r}, or it is not yours to see"
            )
        shown = len(row) - len(beside)
        self._beside = {}
        for (part, name, _), value in zip(beside, row[shown:], strict=True):
            self._beside.setdefault(part, {})[name] = value
        return dict(zip(row._fields[:shown], row[:shown], strict=True))

    def _with_beside(self, view: sa.FromClause) -> tuple[sa.FromClause, list[_Beside]]:
        """Return the view joined with fields that it hides, of groups that it shows a part of.

        What others change in those stands against an edit of what is shown.
        """
        source, found = view, list[_Beside]()
        for part in self._parts:
            names = set(part.columns.values())
            hidden = together_with(self._layouts[part.name].declared.groups, names) - names
            if part.guard or not hidden:
                continue
            table = self._layouts[part.name].table.alias()
            read = (table.c.record_key == view.c[part.key], table.c.row_rev == view.c[part.rev])
            source = source.outerjoin(table, sa.and_(*read))
            found += [(part.name, name, table.c[name]) for name in sorted(hidden)]
        return source, found

    def _view(self, connection: sa.Connection) -> sa.FromClause:
        """Return the view, with the columns of the parts of the types that their fields have."""
        if not isinstance(self._source, str):
            source = self._source
            return source.subquery() if isinstance(source, sa.SelectBase) else source
        typed: dict[str, Any] = {}
        for part in self._parts:
            table = self._layouts[part.name].table
            typed |= {column: table.c[name].type for column, name in part.columns.items()}
        names = [column["name"] for column in sa.inspect(connection).get_columns(self._source)]
        return sa.table(self._source, *(sa.column(name, typed.get(name)) for name in names))

    def _may_see(self, view: sa.FromClause, part: Part) -> sa.ColumnElement[bool]:
        if self._principal.sees_all:
            return sa.true()
        table = self._layouts[part.name].table.alias()
        condition, _ = visible(table, self._principal)
        there = sa.select(table.c.record_key).where(
            table.c.record_key == view.c[part.key], condition
        )
        return sa.or_(view.c[part.key].is_(None), there.exists())


def _changed(part: Part, key: str) -> str:
    return f"{part.record_type}/{key} was changed meanwhile; read again, then save"
