"""What objects share, and what few of them have: the two rarely looked at parts of an object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from keepline.model import Principal, RecordImage, RecordType
from keepline.records.outcomes import Conflict
from keepline.records.rows import Layout, PlainLayout, Row, layout_of
from keepline.store import Store
from keepline.store.current import Current


class Home:
    """Where objects come from: an instance, in whose name, and how their rows are laid out.

    Objects that were read together share it. `layout` is that of the rows they hold, `stored`
    that of rows that the database gives; `updatable` names the fields that can be set.
    """

    __slots__ = ("instance", "layout", "principal", "store", "stored", "updatable")

    def __init__(
        self, instance: Current, principal: Principal, layout: Layout, updatable: frozenset[str]
    ) -> None:
        self.instance = instance
        self.store: Store = instance.store
        self.principal = principal
        self.layout = self.stored = layout
        self.updatable = updatable

    @property
    def declared(self) -> RecordType:
        """Return the record type."""
        return self.stored.declared

    @property
    def table(self) -> sa.Table:
        """Return the record type's table."""
        return self.stored.table

    def of_stored(self) -> Home:
        """Return the same for objects whose rows come from the database."""
        if self.layout is self.stored:
            return self
        return Home(self.instance, self.principal, self.stored, self.updatable)

    def given(self, row: RecordImage | Mapping[str, Any]) -> tuple[Home, Row]:
        """Return the same for a row that somebody else read, and that row.

        Raises RecordError when a column is missing.
        """
        layout = PlainLayout(self.stored)
        home = Home(self.instance, self.principal, self.stored, self.updatable)
        home.layout = layout
        return home, layout.row_of(_row_of(row) if isinstance(row, RecordImage) else row)


class Left:
    """What an object has beside its row: related data, and what a failed save left."""

    __slots__ = ("conflict", "modified", "related", "seen", "theirs")

    def __init__(self, related: Mapping[str, Any] | None = None) -> None:
        #: What getters and sub-tables gave, by name.
        self.related: dict[str, Any] = dict(related or {})
        #: What the database held at the last failure of a save.
        self.modified: Row | None = None
        self.conflict: Conflict | None = None
        #: Fields of the conflict that were decided, with theirs as it was then.
        self.seen: dict[str, Any] = {}
        #: The row that the conflict is about.
        self.theirs: Row | None = None


def home_of(
    instance: Current, principal: Principal, declared: RecordType, listed: Sequence[str] | None
) -> Home:
    """Return the home of objects of a class that lets the fields in `listed` be set, or all."""
    updatable = frozenset(
        field.name
        for field in declared.fields
        if field.updatable and (listed is None or field.name in listed)
    )
    return Home(instance, principal, layout_of(instance.store, declared), updatable)


def _row_of(image: RecordImage) -> dict[str, Any]:
    return {
        "record_key": image.key,
        "group_name": image.group,
        "subject_no": image.subject,
        "finalised": image.finalised,
        "revision": image.revision,
        "row_born": image.born,
        "row_rev": image.rev,
        **image.values,
    }
