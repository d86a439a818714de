"""The values of a column, and which of them are there."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from keepline.capture.decoders.decoder import Column
from keepline.model import DType

#: The numpy type of each value type that numpy holds.
NUMPY_TYPES: dict[DType, type[np.generic]] = {
    "float64": np.float64,
    "int64": np.int64,
    "bool": np.bool_,
}


def present(column: Column) -> NDArray[np.bool_] | None:
    """Return which values are there, or None when all are."""
    there: NDArray[np.bool_]
    if isinstance(column, list):
        if None not in column:
            return None
        there = np.array([value is not None for value in column], np.bool_)
    elif isinstance(column, np.ma.MaskedArray):
        there = ~np.ma.getmaskarray(column)
    elif column.dtype == np.float64:
        there = ~np.isnan(column)
    else:
        return None
    return None if there.all() else there


def plain(column: Column) -> NDArray[Any]:
    """Return the array of a column of numbers or truths; what stands for a missing one is open."""
    return np.ma.getdata(column) if isinstance(column, np.ma.MaskedArray) else np.asarray(column)


def listed(column: Column) -> list[Any]:
    """Return the values as Python's own, with None for a missing one."""
    if isinstance(column, list):
        return column
    values: list[Any] = column.tolist()  # a masked value becomes None
    if column.dtype == np.float64:
        return [None if value != value else value for value in values]
    return values
