"""What should come of many people's edits of records: a small model that knows no database.

Every state of a record that the model reaches it reaches by one of three steps (`made`,
`written`, `gone`), so that its log says what the history must hold. Editors are modelled by what
they have seen (`View`) and what they want.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from keepline.model import Field, FieldGroup, RecordType, SubTable
from keepline.records import Outcome

Values = Mapping[str, Any]

#: A record type for many editors: single fields, a group of two, and a sub-table.
EDITED = RecordType(
    "edited",
    (
        Field("title"),
        Field("note"),
        Field("count", "integer"),
        Field("dose", "real"),
        Field("unit"),
        Field("extra", "json"),
    ),
    subtables=(SubTable("part", "part", (Field("amount", "integer"),)),),
    groups=(FieldGroup("amount", ("dose", "unit")),),
)

#: What conflicts as one.
UNITS = (("title",), ("note",), ("count",), ("dose", "unit"), ("extra",))
FIELDS = tuple(name for unit in UNITS for name in unit)

#: A transaction and who writes in it: what they write of a record is one revision. None is a
#: writer of whom the database cannot tell that.
Writer = tuple[int, str | None] | None

_numbers = itertools.count(1)


def number() -> int:
    """Return a number that was never there."""
    return next(_numbers)


@dataclass(frozen=True)
class Row:
    """A record, there or not (`values` is None), with the state after each revision.

    `born` and `version` are the model's own tokens; what `writer` writes next is the same
    revision.
    """

    values: Values | None = None
    parts: Mapping[str, int] = field(default_factory=dict)
    born: int = 0
    version: int = 0
    log: tuple[tuple[str, Values | None, Mapping[str, int]], ...] = ()
    writer: Writer = None


def made(row: Row, values: Values, writer: Writer) -> Row:
    """Return the record that is made where there is none."""
    token = number()
    return Row(values, {}, token, token, (*row.log, ("insert", values, {})), writer)


def written(
    row: Row, values: Values, writer: Writer, parts: Mapping[str, int] | None = None
) -> Row:
    """Return the record with new values: a new revision, unless `writer` made the last."""
    parts = row.parts if parts is None else parts
    again = writer is not None and row.writer == writer
    op, before = (row.log[-1][0], row.log[:-1]) if again else ("update", row.log)
    return Row(values, parts, row.born, number(), (*before, (op, values, parts)), writer)


def gone(row: Row) -> Row:
    """Return the record after its deletion."""
    return Row(log=(*row.log, ("delete", None, {})))


@dataclass(frozen=True)
class Clash:
    """A conflict as an editor was told of it."""

    fields: frozenset[str]
    saw: Values
    mine: Values
    theirs: Row


@dataclass(frozen=True)
class View:
    """What an editor has seen of a record: the row, theirs where decided, the open conflict."""

    row: Row
    seen: Values = field(default_factory=dict)
    clash: Clash | None = None

    @property
    def saw(self) -> Values:
        """Return, of each field, the value that the editor knows of."""
        assert self.row.values is not None
        return {**self.row.values, **self.seen}


def clashes(saw: Values, mine: Values, theirs: Values) -> frozenset[str]:
    """Return the fields that differ in units that both sides changed."""
    found = [
        name
        for unit in UNITS
        if _of(mine, unit) != _of(saw, unit) != _of(theirs, unit)
        for name in unit
        if mine[name] != theirs[name]
    ]
    return frozenset(found)


def merged(saw: Values, mine: Values, theirs: Values) -> Values:
    """Return mine in the units that I changed, theirs in all others."""
    return {
        name: (theirs if _of(mine, unit) == _of(saw, unit) else mine)[name]
        for unit in UNITS
        for name in unit
    }


def _of(values: Values, unit: tuple[str, ...]) -> list[Any]:
    return [values[name] for name in unit]


def saved(view: View, mine: Values, row: Row, writer: Writer) -> tuple[Outcome, Row, View]:
    """Return what a save comes to: the outcome, the record then, and what the editor knows."""
    saw = view.saw
    if mine == saw:
        return Outcome.UNCHANGED, row, view
    if row.values is None:
        return Outcome.DELETED, row, View(view.row, view.seen)
    if row.born != view.row.born:
        return Outcome.REPLACED, row, View(view.row, view.seen)
    if row.version == view.row.version:
        changes = {name: mine[name] for name in FIELDS if mine[name] != saw[name]}
        row = written(row, {**row.values, **changes}, writer)
        return Outcome.SAVED, row, View(row)
    if fields := clashes(saw, mine, row.values):
        return Outcome.CONFLICT, row, View(view.row, view.seen, Clash(fields, saw, dict(mine), row))
    values = merged(saw, mine, row.values)
    if values == row.values:
        return Outcome.UNCHANGED, row, View(row)
    row = written(row, values, writer)
    return Outcome.MERGED, row, View(row)


def decided(view: View, mine: Values, name: str) -> tuple[View, Values]:
    """Return what an editor knows, and wants, once a conflict about a field is decided.

    `mine` has the decision already. With all of them made, theirs is what the next save starts
    from, unless something that was typed since stands against theirs as well.
    """
    clash = view.clash
    assert clash is not None
    theirs = clash.theirs.values
    assert theirs is not None
    seen = {**view.seen, name: theirs[name]}
    if not seen.keys() >= clash.fields:
        return View(view.row, seen, clash), mine
    agreed = (n for n in FIELDS if theirs[n] == clash.mine[n] != clash.saw[n])
    seen |= {each: theirs[each] for each in agreed}
    now = View(view.row, seen, clash)
    if clashes(now.saw, mine, theirs):
        return now, mine
    return View(clash.theirs), merged(now.saw, mine, theirs)


def overwritten(view: View, before: Row, after: Values) -> Iterator[str]:
    """Yield the fields that an accepted save changed from a value that its editor never saw."""
    assert before.values is not None
    if before.version != view.row.version:
        for name in FIELDS:
            if after[name] != before.values[name] != view.saw[name]:
                yield name


@dataclass
class Transaction:
    """What is written and not yet committed, and the way back to each savepoint."""

    id: int
    rows: dict[str, Row] = field(default_factory=dict)
    #: Keys that others would wait for.
    locked: set[str] = field(default_factory=set)
    savepoints: list[dict[str, Row]] = field(default_factory=list)


class Model:
    """All records: as they are committed, and as the open transaction has them."""

    def __init__(self, keys: tuple[str, ...]) -> None:
        self.keys = keys
        self.rows = dict.fromkeys(keys, Row())
        self.txn: Transaction | None = None

    def begin(self) -> None:
        """Open a transaction."""
        self.txn = Transaction(number())

    def row(self, key: str, *, inside: bool) -> Row:
        """Return a record as it is committed, or as the transaction has it."""
        if inside and self.txn is not None and key in self.txn.rows:
            return self.txn.rows[key]
        return self.rows[key]

    def put(self, key: str, row: Row, *, inside: bool) -> None:
        """Take a record's next state."""
        (self.txn.rows if inside and self.txn else self.rows)[key] = row

    def end(self, *, commit: bool) -> None:
        """Close the transaction."""
        if commit and self.txn is not None:
            self.rows.update(self.txn.rows)
        self.txn = None
