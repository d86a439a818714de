"""Whole numbers as few bytes: differences, counted from the least, byte by byte.

Of n numbers the first `order` (0, 1 or 2) are kept as they are, the others as differences of
that order; whichever order has the smallest differences is taken. The least of these is kept
apart, what lies above it in 0, 1, 2, 4 or 8 bytes each: all lowest bytes together, then all
second ones, and so on, which is what makes them compress. All arithmetic wraps around at 64
(or 32) bits, so that any number comes back.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Int64s = NDArray[np.int64]

#: [order, width, least, first number, first difference]: the last two as `order` says.
Recipe = list[int]

#: Another order has to be so much better to be worth its time.
_WORTH = 0.95

#: So many numbers, from the middle, show which order is best.
_SAMPLE = 256

#: The width for numbers of 0, 1, ... 8 bytes.
_WIDTHS = (0, 1, 2, 4, 4, 8, 8, 8, 8)


def to_planes(rows: NDArray[Any]) -> list[tuple[Recipe, bytes | memoryview]]:
    """Return how each row of a matrix is kept, and its bytes. Rows may be empty.

    The numbers are int64, or int32, of which `from_planes` gives the lowest 32 bits back.
    """
    found: list[tuple[Recipe, bytes | memoryview]] = [([0, 0, 0], b"")] * len(rows)
    if not rows.shape[1]:
        return found
    by_order: dict[int, list[int]] = {}
    for place, order in enumerate(_best_orders(rows)):
        by_order.setdefault(order, []).append(place)
    for order, places in by_order.items():
        differences = rows[places] if len(by_order) > 1 else rows
        firsts: list[list[int]] = []
        for _ in range(order):
            firsts.append(differences[:, 0].tolist())
            differences = differences[:, 1:] - differences[:, :-1]
        least = np.minimum.reduce(differences, axis=1)
        heads = list(zip(least.tolist(), *firsts, strict=True))
        above = (differences - least[:, None]).view(f"u{rows.itemsize}")
        for width, same in _by_width(above).items():
            planes = _shuffled(above[same] if len(same) < len(places) else above, width)
            for row, plane in zip(same, planes, strict=True):
                recipe: Recipe = [order, width, *heads[row]]
                found[places[row]] = recipe, plane
    return found


def size_of(recipe: Recipe, n: int) -> int:
    """Return how many bytes `n` numbers take."""
    return max(0, n - recipe[0]) * recipe[1]


def from_planes(
    recipe: Recipe, data: bytes | memoryview, n: int, *, bits: int = 64
) -> NDArray[Any]:
    """Return the `n` numbers that `to_planes` was given, or their lowest 32 bits, signed.

    Raises ValueError for what it never made.
    """
    order, width, least, *firsts = recipe
    unsigned, signed = (np.uint64, np.int64) if bits == 64 else (np.uint32, np.int32)
    if n == 0:
        return np.empty(0, signed)
    if order != len(firsts) or order > 2 or order >= n or width not in (0, 1, 2, 4, 8):
        raise ValueError("numbers kept in no known way")
    mask = (1 << bits) - 1
    if width == 0 and order == 1 and least == 1 and bits == 64:
        return np.arange(firsts[0], firsts[0] + n, dtype=np.int64)
    values = np.empty(n, unsigned)
    if width:
        above = _unshuffled(data, n - order, width).astype(unsigned, copy=False)
        np.add(above, unsigned(least & mask), out=values[order:])
    else:
        values[order:] = least & mask
    for place in reversed(range(order)):
        values[place] = firsts[place] & mask
        np.cumsum(values[place:], dtype=unsigned, out=values[place:])
    return values.view(signed)


def _best_orders(rows: NDArray[Any]) -> list[int]:
    """Return for each row which differences are smallest, as its middle shows."""
    if rows.shape[1] < 4:
        return [0] * len(rows)
    start = max(0, (rows.shape[1] - _SAMPLE) // 2)
    differences = rows[:, start : start + _SAMPLE]
    orders, best = [0] * len(rows), _spread(differences)
    for order in (1, 2):
        differences = differences[:, 1:] - differences[:, :-1]
        for row, spread in enumerate(_spread(differences)):
            if spread < best[row] * _WORTH:
                orders[row], best[row] = order, spread
    return orders


def _spread(rows: NDArray[Any]) -> list[float]:
    """Return the mean distance of each row's numbers from their mean."""
    numbers = rows.astype(np.float64)
    numbers -= np.add.reduce(numbers, axis=1, keepdims=True) / rows.shape[1]
    np.abs(numbers, out=numbers)
    means: list[float] = (np.add.reduce(numbers, axis=1) / rows.shape[1]).tolist()
    return means


def _by_width(above: NDArray[Any]) -> dict[int, list[int]]:
    """Return the rows by the bytes that their largest number needs."""
    found: dict[int, list[int]] = {}
    for row, most in enumerate(np.maximum.reduce(above, axis=1).tolist()):
        size = (most.bit_length() + 7) // 8
        found.setdefault(_WIDTHS[size], []).append(row)
    return found


def _shuffled(above: NDArray[Any], width: int) -> list[bytes | memoryview]:
    """Return the bytes of each row by their weight."""
    count, n = above.shape
    if width == 0:
        return [b""] * count
    narrow = above.astype(f"<u{width}", copy=False)
    planes = np.ascontiguousarray(narrow.view(np.uint8).reshape(count, n, width).transpose(0, 2, 1))
    flat, size = planes.reshape(-1).data, n * width
    return [flat[start : start + size] for start in range(0, count * size, size)]


def _unshuffled(data: bytes | memoryview, n: int, width: int) -> NDArray[Any]:
    planes = np.frombuffer(data, np.uint8).reshape(width, n)
    if width == 1:
        lowest: NDArray[np.uint8] = planes[0]
        return lowest
    gathered = np.empty((n, width), np.uint8)
    for place in range(width):  # four times as fast as a transposed copy
        gathered[:, place] = planes[place]
    narrow: NDArray[Any] = gathered.view(f"<u{width}")
    return narrow.reshape(n)
