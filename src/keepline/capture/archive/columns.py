"""The columns of a block as sections of bytes, and back.

Floats and whole numbers are kept as whole.py and floats.py say, truths as bits, texts as a JSON
list. Where a column of numbers has missing values, their bit mask comes first, and what is
there follows it.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from keepline.capture.archive.floats import bits_of, from_whole, to_whole
from keepline.capture.archive.whole import from_planes, size_of, to_planes
from keepline.capture.decoders.decoder import Column
from keepline.model import DType

#: What the header says of a section, and its bytes.
Section = tuple[dict[str, Any], bytes | memoryview]


class _Whole(NamedTuple):
    """A section of whole numbers in the making: its entry, the mask before them, the numbers."""

    entry: dict[str, Any]
    mask: bytes
    numbers: NDArray[Any]


class _Floats(NamedTuple):
    """A section of floats in the making; `mask` has the bits of those that are missing."""

    name: str
    missing: int
    mask: bytes
    values: NDArray[np.float64]


def sections(
    whole: Sequence[NDArray[np.int64]],
    columns: Mapping[str, Column],
    complete: Collection[str] = (),
) -> list[Section]:
    """Return a section for each of `whole`, which have no name, and each column, in order.

    `complete` are columns that are known to lack no value.
    """
    return sections_of_many([(whole, columns, complete)])[0]


def sections_of_many(
    many: Sequence[tuple[Sequence[NDArray[np.int64]], Mapping[str, Column], Collection[str]]],
) -> list[list[Section]]:
    """Return what `sections` does, for many blocks at once.

    What has one length is worked on together, which costs a fraction of the time.
    """
    made: list[Section | _Whole | _Floats] = []
    for whole, columns, complete in many:
        made += [_Whole({}, b"", numbers) for numbers in whole]
        made += [_in_making(name, column, name in complete) for name, column in columns.items()]
    found = _in_planes(_as_whole(made))
    borders = np.cumsum([0, *(len(whole) + len(columns) for whole, columns, _ in many)]).tolist()
    return [found[start:stop] for start, stop in itertools.pairwise(borders)]


def dtype_of(column: Column) -> DType:
    """Return the value type of a column."""
    if isinstance(column, list):
        return "text"
    if column.dtype == np.float64:
        return "float64"
    return "bool" if column.dtype == np.bool_ else "int64"


def size_bytes(entry: Mapping[str, Any], n: int) -> int:
    """Return how many bytes a section has that its header entry describes."""
    if entry["as"] == "text":
        return int(entry["bytes"])
    there: int = n - entry["missing"]
    mask = _mask_bytes(entry, n)
    if entry["as"] == "bool":
        return mask + (there + 7) // 8
    return mask + size_of(entry["whole"], there)


def read(entry: Mapping[str, Any], data: bytes, n: int) -> Column:
    """Return the column of `n` values that a section holds.

    Raises ValueError, or what a missing or wrong entry leads to, for one never written.
    """
    kind = entry["as"]
    if kind == "text":
        texts: list[str | None] = json.loads(data)
        if len(texts) != n:
            raise ValueError("a column of another length than its block")
        return texts
    there = n - entry["missing"]
    mask = _mask_bytes(entry, n)
    rest = memoryview(data)[mask:]
    values: NDArray[Any]
    if kind == "bool":
        values = np.unpackbits(np.frombuffer(rest, np.uint8), count=there).astype(np.bool_)
    else:
        values = from_planes(entry["whole"], rest, there, bits=bits_of(entry))
        if kind != "int":
            values = from_whole(entry, values)
    return values if not mask else _spread_out(values, data[:mask], n)


def _in_making(name: str, column: Column, complete: bool) -> Section | _Whole | _Floats:
    if isinstance(column, list):
        return _texts(name, column)
    array: NDArray[Any] = column
    values, missing, mask = (array, 0, b"") if complete else _present(array)
    if column.dtype == np.float64:
        return _Floats(name, missing, mask, values)
    if column.dtype == np.bool_:
        return _truths(name, values, missing, mask)
    return _Whole({"name": name, "as": "int", "missing": missing}, mask, values)


def _present(column: NDArray[Any]) -> tuple[NDArray[Any], int, bytes]:
    """Return the values that are there, how many are not, and the bits of these."""
    if isinstance(column, np.ma.MaskedArray):
        missing = np.ma.getmaskarray(column)
    elif column.dtype == np.float64:
        missing = np.isnan(column)
    else:
        return column, 0, b""
    values = np.asarray(column)
    count = int(np.count_nonzero(missing))
    if not count:
        return values, 0, b""
    return values[~missing], count, np.packbits(missing).tobytes()


def _as_whole(made: Sequence[Section | _Whole | _Floats]) -> list[Section | _Whole]:
    by_length: dict[int, list[int]] = {}
    for place, each in enumerate(made):
        if isinstance(each, _Floats):
            by_length.setdefault(len(each.values), []).append(place)
    found = list(made)
    for places in by_length.values():
        group = [each for each in map(made.__getitem__, places) if isinstance(each, _Floats)]
        forms = to_whole(np.array([each.values for each in group]))
        for place, each, (form, whole) in zip(places, group, forms, strict=True):
            entry = {"name": each.name, **form, "missing": each.missing}
            found[place] = _Whole(entry, each.mask, whole)
    return [each for each in found if not isinstance(each, _Floats)]


def _in_planes(made: Sequence[Section | _Whole]) -> list[Section]:
    alike: dict[tuple[int, int], list[int]] = {}
    for place, each in enumerate(made):
        if isinstance(each, _Whole):
            key = len(each.numbers), each.numbers.itemsize
            alike.setdefault(key, []).append(place)
    found = list(made)
    for places in alike.values():
        group = [each for each in map(made.__getitem__, places) if isinstance(each, _Whole)]
        planes = to_planes(np.array([each.numbers for each in group]))
        for place, each, (recipe, data) in zip(places, group, planes, strict=True):
            entry = {**each.entry, "whole": recipe}
            found[place] = (entry, b"".join((each.mask, data)) if each.mask else data)
    return [each for each in found if not isinstance(each, _Whole)]


def _truths(name: str, values: NDArray[Any], missing: int, mask: bytes) -> Section:
    return {"name": name, "as": "bool", "missing": missing}, mask + np.packbits(values).tobytes()


def _texts(name: str, column: list[str | None]) -> Section:
    data = json.dumps(column, ensure_ascii=True, separators=(",", ":")).encode()
    return {"name": name, "as": "text", "bytes": len(data)}, data


def _mask_bytes(entry: Mapping[str, Any], n: int) -> int:
    missing: int = entry["missing"]
    if not 0 <= missing <= n:
        raise ValueError("more values missing than there are")
    return (n + 7) // 8 if missing else 0


def _spread_out(values: NDArray[Any], mask: bytes, n: int) -> Column:
    missing = np.unpackbits(np.frombuffer(mask, np.uint8), count=n).astype(np.bool_)
    column: NDArray[Any]
    if values.dtype == np.float64:
        column = np.full(n, np.nan)
        column[~missing] = values
        return column
    column = np.zeros(n, values.dtype)
    column[~missing] = values
    return np.ma.MaskedArray(column, mask=missing)
