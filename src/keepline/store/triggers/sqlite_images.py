"""A row as a JSON object, in SQLite's SQL.

It is put together as text: `json_object` takes no more than 63 pairs, and writes reals with 15
digits. Any column of SQLite may hold a value of any type, so each value is written as what it
is and not as what its field declares.
"""

from __future__ import annotations

from collections.abc import Sequence

from keepline.model import Field, RecordType, SubTable

#: Terms of one concatenation: SQLite refuses expressions deeper than 1000.
_TERMS = 100
_AND_THEN = " || ',' || "


def own_image(row: str, declared: RecordType) -> str:
    """Return the expression for the image of a record's own row, called `row` in a query."""
    parts = [_pair(row, field) for field in declared.fields]
    parts.append(_pair(row, Field("group_name")))
    if declared.finalised:
        parts.append(f"""'"finalised":' || CASE WHEN {row}.finalised THEN 1 ELSE 0 END""")
    return _object(parts)


def subrow_image(row: str, subtable: SubTable) -> str:
    """Return the expression for the image of a sub-row, called `row` in a query."""
    return _object([_pair(row, field) for field in subtable.fields])


def _object(parts: Sequence[str]) -> str:
    chunks = [
        f"({_AND_THEN.join(parts[start : start + _TERMS])})"
        for start in range(0, len(parts), _TERMS)
    ]
    return f"'{{' || {_AND_THEN.join(chunks)} || '}}'" if chunks else "'{}'"


def _pair(row: str, field: Field) -> str:
    return f"""'"{field.name}":' || {_value(row, field)}"""


def _value(row: str, field: Field) -> str:
    value = f'{row}."{field.name}"'
    text = f"json_quote({value})"
    if field.type == "json":
        text = f"CASE WHEN json_valid({value}) THEN {value} ELSE {text} END"
    # 17 digits are enough for a real, but SQLite's own last digits are not always right.
    real = (
        f"""CASE {value} WHEN 9e999 THEN '"Infinity"' WHEN -9e999 THEN '"-Infinity"' """
        f"""ELSE printf('%!.20g', {value}) END"""
    )
    return (
        f"CASE typeof({value}) WHEN 'null' THEN 'null' WHEN 'integer' THEN {value} "
        f"""WHEN 'real' THEN {real} WHEN 'blob' THEN '"' || lower(hex({value})) || '"' """
        f"ELSE {text} END"
    )
