"""Decoded columns as plain lists, to compare them with."""

from __future__ import annotations

from typing import Any

from keepline.capture.decoders.decoder import Column, Decoded


def listed(column: Column) -> list[Any]:
    """Return a column as a list, with None for a missing value."""
    if isinstance(column, list):
        return column
    return [None if value != value else value for value in column.tolist()]


def values(decoded: Decoded) -> dict[str, list[Any]]:
    """Return the columns that hold a value as lists."""
    columns = {name: listed(column) for name, column in decoded.columns.items()}
    return {name: column for name, column in columns.items() if set(column) - {None}}
