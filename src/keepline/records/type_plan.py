"""What a migration of a record type does, step by step, and what it costs, before it is made."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa

from keepline.errors import InvalidRecordError
from keepline.model import Field, RecordType
from keepline.records.conversions import convert
from keepline.records.type_difference import Difference, FieldPair, TableChange
from keepline.store.tables.declared import MAX_BYTES, field_rules, record_tables


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that a migration does, as a sentence.

    `lost` counts the values or rows that would be lost; `refused` says what has to be done
    before the step can be made at all.
    """

    sentence: str
    lost: int = 0
    refused: str = ""

    def __str__(self) -> str:
        lost = f" ({self.lost} lost)" if self.lost else ""
        return f"{self.sentence}{lost}{': ' if self.refused else ''}{self.refused}"


@dataclass(frozen=True, slots=True)
class TypePlan:
    """What a migration does to one record type, in order; no steps when nothing differs."""

    declared: RecordType
    steps: tuple[Step, ...]

    @property
    def lost(self) -> int:
        """Return how many values and rows would be lost."""
        return sum(step.lost for step in self.steps)

    @property
    def refused(self) -> tuple[Step, ...]:
        """Return the steps that cannot be made."""
        return tuple(step for step in self.steps if step.refused)


def creation(declared: RecordType) -> TypePlan:
    """Return the plan for a type that is not there yet."""
    parts = f"{len(declared.fields)} fields, {len(declared.subtables)} sub-tables"
    return TypePlan(declared, (Step(f"make the record type {declared.name} ({parts})"),))


def planned(connection: sa.Connection, found: Difference) -> TypePlan:
    """Return what makes the difference, having counted the rows that each step concerns."""
    if found.old == found.new:
        return TypePlan(found.new, ())
    steps = [
        *_flag_steps(connection, found),
        *(step for table in found.tables for step in _table_steps(connection, found, table)),
        *(Step(f"add the sub-table {each.name}") for each in found.added),
        *_dropped_subtables(connection, found),
        *_words(found),
    ]
    order = Step("put fields and sub-tables into another order")
    return TypePlan(found.new, tuple(steps) or (order,))


def _flag_steps(connection: sa.Connection, found: Difference) -> Iterator[Step]:
    old, new = found.old, found.new
    table = record_tables(old).tables[old.table_name]
    if new.subject and not old.subject:
        yield Step("each record is about a subject; those that are there are about nobody yet")
    if old.subject and not new.subject:
        lost = _count(connection, table, table.c.subject_no.is_not(None))
        yield Step("records are about no subject any more", lost)
    if new.finalised and not old.finalised:
        yield Step("records can be finalised")
    if old.finalised and not new.finalised:
        lost = _count(connection, table, table.c.finalised)
        yield Step("records can be finalised no more; which ones are is forgotten", lost)
    for flag, now, no_more in (
        ("anonymous", "records are anonymous", "records are anonymous no more"),
        ("reason_required", "changes need a reason", "changes need no reason any more"),
    ):
        if getattr(old, flag) != getattr(new, flag):
            yield Step(now if getattr(new, flag) else no_more)


def _table_steps(
    connection: sa.Connection, found: Difference, change: TableChange
) -> Iterator[Step]:
    table = record_tables(found.old).tables[change.old_table]
    if change.subtables:
        was, now = change.subtables
        if was.name != now.name:
            yield Step(f"rename the sub-table {was.name} to {now.name}")
        if was.key != now.key:
            yield Step(f"rename the key of {now.name} from {was.key} to {now.key}")
        if was.comment != now.comment:
            yield Step(f"change the comment on {now.name}")
    for field in change.dropped:
        lost = _count(connection, table, table.c[field.name].is_not(None))
        yield Step(f"drop the field {change.place}{field.name}", lost)
    for pair in change.kept:
        yield from _field_steps(connection, found, change, pair)
    for field in change.added:
        rows = _count(connection, table, sa.true()) if field.required else 0
        refused = f"it is required, and {_rows(rows)} there have none; add it without that first"
        yield Step(
            f"add the field {change.place}{field.name} ({field.type})",
            refused=refused if rows else "",
        )


def _field_steps(
    connection: sa.Connection, found: Difference, change: TableChange, pair: FieldPair
) -> Iterator[Step]:
    old, new, name = pair.old, pair.new, f"{change.place}{pair.new.name}"
    table = record_tables(found.old).tables[change.old_table]
    if pair.renamed:
        yield Step(f"rename the field {change.place}{old.name} to {name}")
    gone = 0
    if pair.converted:
        step, gone = _conversion(connection, found, change, pair)
        yield step
    if new.required and not old.required:
        rows = gone + _count(connection, table, table.c[old.name].is_(None))
        refused = f"{_rows(rows)} would have none; fill them in first"
        yield Step(f"a value of {name} is required", refused=refused if rows else "")
    elif old.required and not new.required:
        yield Step(f"a value of {name} is no longer required")
    elif gone and new.required:
        yield Step(f"a value of {name} stays required", refused=f"{_rows(gone)} would have none")
    yield from _rule_steps(connection, table, pair, name)
    for what, of in _PROPERTIES.items():
        if of(old) != of(new):
            yield Step(f"{what.format(name)}: {_shown(of(old))} becomes {_shown(of(new))}")


def _rule_steps(
    connection: sa.Connection, table: sa.Table, pair: FieldPair, name: str
) -> Iterator[Step]:
    """Yield what becomes of the rules; values that are converted are judged as they are so."""
    before = _rules(pair.old, connection)
    after = _rules(replace(pair.new, name=pair.old.name), connection)
    for kind, what in _KINDS.items():
        text, rule = after.get(kind, ("", None))
        if text == before.get(kind, ("", None))[0] or (pair.converted and kind == "size"):
            continue
        rows = 0
        if rule is not None and not pair.converted:
            rows = _count(connection, table, sa.not_(rule.sqltext))
        sentence = f"no {what} of {name} any more"
        if rule is not None:
            sentence = f"change the {what} of {name}: {_WORDS[kind](pair.new)}"
        yield Step(
            sentence,
            refused=f"{_rows(rows)} there would break it; change them first" if rows else "",
        )


def _conversion(
    connection: sa.Connection, found: Difference, change: TableChange, pair: FieldPair
) -> tuple[Step, int]:
    """Return the step that converts a field, and how many values cannot be converted."""
    values = kept_values(connection, found, change, pair)
    lost = sum(1 for _, value in values if converted(pair, value) is None)
    name = f"{change.place}{pair.new.name}"
    sentence = f"convert the field {name} from {pair.old.type} to {pair.new.type}"
    if lost:
        sentence += f"; {lost} of {len(values)} values cannot be"
    return Step(sentence, lost), lost


def converted(pair: FieldPair, value: Any) -> Any:
    """Return a value as the new field holds it; None when it cannot."""
    try:
        return convert(pair.old, replace(pair.new, required=False), value)
    except InvalidRecordError:
        return None


def kept_values(
    connection: sa.Connection, found: Difference, change: TableChange, pair: FieldPair
) -> list[tuple[tuple[Any, ...], Any]]:
    """Return (primary key, value) for every row that has a value of the old field."""
    table = record_tables(found.old).tables[change.old_table]
    column = table.c[pair.old.name]
    rows = connection.execute(
        sa.select(*table.primary_key.columns, column).where(column.is_not(None))
    )
    return [(tuple(key), value) for *key, value in rows]


def _dropped_subtables(connection: sa.Connection, found: Difference) -> Iterator[Step]:
    for subtable in found.dropped:
        table = record_tables(found.old).tables[found.old.subtable_name(subtable)]
        lost = _count(connection, table, sa.true())
        yield Step(f"drop the sub-table {subtable.name} with its rows", lost)


def _words(found: Difference) -> Iterator[Step]:
    for what in ("comment", "groups", "summaries"):
        if getattr(found.old, what) != getattr(found.new, what):
            yield Step(f"change the {what} of the type")


def _rules(field: Field, connection: sa.Connection) -> dict[str, tuple[str, sa.CheckConstraint]]:
    """Return the constraints of a field by their kind, each with its text."""
    literal = {"literal_binds": True}
    return {
        str(rule.name).removeprefix(f"{field.name}_"): (
            str(rule.sqltext.compile(connection, compile_kwargs=literal)),
            rule,
        )
        for rule in field_rules(field)
    }


def _count(connection: sa.Connection, table: sa.Table, condition: sa.ColumnElement[bool]) -> int:
    query = sa.select(sa.func.count()).select_from(table).where(condition)
    return int(connection.execute(query).scalar_one())


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count} rows"


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(f"{code} {meaning}" for code, meaning in value) or "none"
    return {None: "none", "": "none", True: "yes", False: "no"}.get(value, str(value))


_KINDS = {
    "choice": "choices",
    "minimum": "minimum",
    "maximum": "maximum",
    "size": "largest size",
}

_WORDS: dict[str, Callable[[Field], str]] = {
    "choice": lambda field: ", ".join(map(str, field.choices)),
    "minimum": lambda field: f"{field.minimum:g}",
    "maximum": lambda field: f"{field.maximum:g}",
    "size": lambda field: f"{field.max_bytes or MAX_BYTES} bytes",
}

#: What is no constraint of the database, and changes no value.
_PROPERTIES: dict[str, Callable[[Field], Any]] = {
    "the unit of {} (values stay as they are)": lambda field: field.unit,
    "the comment on {}": lambda field: field.comment,
    "people may edit {}": lambda field: field.updatable,
    "the missing codes of {}": lambda field: field.missing,
}
