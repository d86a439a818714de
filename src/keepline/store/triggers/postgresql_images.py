"""A row as a JSON object, in PostgreSQL's SQL; the trigger functions make the same."""

from __future__ import annotations

from collections.abc import Iterable

from keepline.model import Field, RecordType, SubTable

#: What a session may have set otherwise, and images must not depend on.
PLAIN = ("TimeZone=UTC", "bytea_output=hex", "extra_float_digits=1")

#: What a record's own image leaves out.
STAMPED = ("record_key", "subject_no", "row_born", "row_rev", "revision", "rev_txn")


def own_image(row: str, declared: RecordType) -> str:
    """Return the expression for the image of a record's own row, called `row` in a query."""
    return _image(row, STAMPED, declared.fields)


def subrow_image(row: str, subtable: SubTable) -> str:
    """Return the expression for the image of a sub-row, called `row` in a query."""
    return _image(row, ("record_key", subtable.key), subtable.fields)


def _image(row: str, without: Iterable[str], fields: Iterable[Field]) -> str:
    names = ", ".join(f"'{name}'" for name in without)
    blobs = "".join(
        f""" || jsonb_build_object('{field.name}', encode({row}."{field.name}", 'hex'))"""
        for field in fields
        if field.type == "blob"
    )
    return f"((to_jsonb({row}) - ARRAY[{names}]){blobs})"
