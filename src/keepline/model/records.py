"""Declarations of record types, and records as a reader sees them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

FieldType = Literal["text", "integer", "real", "boolean", "date", "datetime", "json", "blob"]

#: What a choice, a bound or a missing code can be.
Scalar = str | int | float


@dataclass(frozen=True, slots=True)
class Field:
    """One column of a record type.

    `choices` are the only values allowed, when given; `minimum` and `maximum` bound a number.
    `missing` are codes, each with its meaning, that say why there is no value (such as -99,
    "refused"); they are allowed beside choices and bounds, and no summary counts them.
    `max_bytes` bounds a blob. `was` is the field's former name, for the one migration that
    renames it; it is no part of what the field is.
    """

    name: str
    type: FieldType = "text"
    unit: str | None = None
    comment: str = ""
    required: bool = False
    updatable: bool = True
    choices: tuple[Scalar, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    missing: tuple[tuple[Scalar, str], ...] = ()
    max_bytes: int | None = None
    was: str | None = field(default=None, compare=False)

    @property
    def missing_codes(self) -> tuple[Scalar, ...]:
        """Return the values that stand for a reason why there is none."""
        return tuple(code for code, _ in self.missing)


@dataclass(frozen=True, slots=True)
class SubTable:
    """Rows that belong to a record, such as one per channel; `key` names what orders them."""

    name: str
    key: str
    fields: tuple[Field, ...]
    comment: str = ""
    was: str | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class FieldGroup:
    """Fields that mean something only together, such as an amount and its unit.

    Changes of any of them by two people conflict as one.
    """

    name: str
    fields: tuple[str, ...]
    comment: str = ""


@dataclass(frozen=True, slots=True)
class RecordType:
    """The declaration of a kind of record, from which its tables and triggers are made.

    `summaries` names the functions (entry points ``keepline.summaries``) that say in numbers
    what a record amounts to. Each record of a type with `subject` is about one person, whose
    number it holds; one that is `anonymous` never is. A type with `finalised` has records that
    can be closed to changes; with `reason_required` the database takes no change or deletion
    of a record without a reason.
    """

    name: str
    fields: tuple[Field, ...]
    subtables: tuple[SubTable, ...] = ()
    comment: str = ""
    groups: tuple[FieldGroup, ...] = ()
    summaries: tuple[str, ...] = ()
    subject: bool = False
    anonymous: bool = False
    finalised: bool = False
    reason_required: bool = False

    @property
    def table_name(self) -> str:
        """Return the name of the SQL table that holds the records."""
        return f"rec_{self.name}"

    def subtable_name(self, subtable: SubTable) -> str:
        """Return the name of the SQL table that holds the rows of `subtable`."""
        return f"rec_{self.name}__{subtable.name}"

    def to_json(self) -> dict[str, Any]:
        """Return the declaration as plain JSON values, without former names."""
        declaration = asdict(self)
        for part in (declaration, *declaration["subtables"]):
            part.pop("was", None)
            for each in part["fields"]:
                del each["was"]
        return declaration

    @classmethod
    def from_json(cls, declaration: Mapping[str, Any]) -> RecordType:
        """Return the declaration that `to_json` of this version, or an older one, wrote."""
        parts = dict(declaration)
        parts["fields"] = _fields(declaration["fields"])
        parts["subtables"] = tuple(
            SubTable(**{**each, "fields": _fields(each["fields"])})
            for each in declaration["subtables"]
        )
        parts["groups"] = tuple(
            FieldGroup(**{**each, "fields": tuple(each["fields"])})
            for each in declaration.get("groups", ())
        )
        parts["summaries"] = tuple(declaration.get("summaries", ()))
        return cls(**parts)

    def field(self, name: str) -> Field:
        """Return the field called `name`; raises KeyError."""
        for candidate in self.fields:
            if candidate.name == name:
                return candidate
        raise KeyError(name)

    def subtable(self, name: str) -> SubTable:
        """Return the sub-table called `name`; raises KeyError."""
        for candidate in self.subtables:
            if candidate.name == name:
                return candidate
        raise KeyError(name)


def _fields(declared: Iterable[Mapping[str, Any]]) -> tuple[Field, ...]:
    return tuple(
        Field(
            **{
                **each,
                "choices": tuple(each["choices"]),
                "missing": tuple((code, meaning) for code, meaning in each.get("missing", ())),
            }
        )
        for each in declared
    )


@dataclass(frozen=True, slots=True, order=True)
class RecordKey:
    """A record's name within an instance."""

    record_type: str
    key: str

    def __str__(self) -> str:
        return f"{self.record_type}/{self.key}"


@dataclass(frozen=True, slots=True)
class RecordImage:
    """One revision of a record with its sub-rows, as a reader with some rights saw it.

    `values` maps field names to values (times are aware, in UTC); `subrows` maps each
    sub-table's name to its rows in key order, each with the sub-table's key column. `subject`
    is the number of the person that the record is about, where its type has one; `finalised`
    says that it is closed to changes.
    """

    type: RecordType
    key: str
    revision: int
    group: str | None
    born: int
    rev: int
    values: Mapping[str, Any] = field(repr=False)
    subrows: Mapping[str, tuple[Mapping[str, Any], ...]] = field(repr=False)
    subject: int | None = None
    finalised: bool = False

    @property
    def name(self) -> RecordKey:
        """Return the record's name within the instance."""
        return RecordKey(self.type.name, self.key)
