"""Floating-point numbers as whole numbers, exactly.

Three ways, the first that fits: decimals, a float as round(value x 10^digits), taken only
where dividing again gives every bit back, but for a few odd values that are kept apart (-0.0,
infinities, one with more digits); the bits of a float32, where every value is one; the bits of
a float64. Bits are turned into whole numbers that are in the order of the values, so that near
values are near.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
#: int64, or int32 for what is a float32.
Wholes = NDArray[Any]

#: How a row is kept: as "decimal" with "digits" and perhaps "odd" [[places], [bits]], "f4" or "f8".
Form = dict[str, Any]

_MAX_DIGITS = 12
_MAX_WHOLE = 2.0**53
_PROBES = 4

#: One value in so many may be odd.
_ODD_SHARE = 64

#: Where the sign of each kind is, and all bits but it.
_SIGNS = {"f4": (31, 0x7FFF_FFFF), "f8": (63, 0x7FFF_FFFF_FFFF_FFFF)}


def to_whole(rows: Floats) -> list[tuple[Form, Wholes]]:
    """Return each row of a matrix without NaN as a form and whole numbers."""
    found: list[tuple[Form, Wholes] | None] = _decimals(rows)
    left = [place for place, each in enumerate(found) if each is None]
    if left:
        chosen = rows[left] if len(left) < len(rows) else rows
        with np.errstate(over="ignore", under="ignore"):
            short = chosen.astype(np.float32)
        fits = (short == chosen).all(axis=1)  # the sign of a zero is kept
        forms: tuple[tuple[str, NDArray[np.bool_], NDArray[Any]], ...] = (
            ("f4", fits, short.view(np.int32)),
            ("f8", ~fits, chosen.view(np.int64)),
        )
        for form, which, bits in forms:
            some = np.flatnonzero(which).tolist()
            if some:
                ordered = _ordered(bits if len(some) == len(bits) else bits[some], form)
                for row, place in enumerate(some):
                    found[left[place]] = ({"as": form}, ordered[row])
    return [each for each in found if each is not None]


def bits_of(form: Mapping[str, Any]) -> int:
    """Return how many bits of the whole numbers `from_whole` needs."""
    return 32 if form["as"] == "f4" else 64


def from_whole(form: Mapping[str, Any], whole: NDArray[Any]) -> Floats:
    """Return the row that `to_whole` was given, which may be overwritten.

    Raises ValueError for what it never made.
    """
    if form["as"] == "f4":
        return _ordered(whole, "f4").view(np.float32).astype(np.float64)
    if form["as"] == "f8":
        return _ordered(whole, "f8").view(np.float64)
    if form["as"] != "decimal" or not 0 <= form["digits"] <= _MAX_DIGITS:
        raise ValueError("floats kept in no known way")
    values: Floats = whole / 10.0 ** form["digits"]
    if "odd" in form:
        places, bits = form["odd"]
        values[np.array(places, np.int64)] = np.array(bits, np.int64).view(np.float64)
    return values


def _ordered(bits: NDArray[Any], form: str) -> NDArray[Any]:
    """Return bits as numbers in the order of the floats, or such numbers as bits again."""
    sign, mask = _SIGNS[form]
    if not (bits < 0).any():
        return bits
    ordered: NDArray[Any] = bits ^ ((bits >> sign) & mask)
    return ordered


def _decimals(rows: Floats) -> list[tuple[Form, Wholes] | None]:
    count, n = rows.shape
    found: list[tuple[Form, Wholes] | None] = [None] * count
    probes = rows[:, :: max(1, n // _PROBES)][:, :_PROBES].tolist()
    todo: dict[int, list[int]] = {}
    for place, values in enumerate(probes):
        if (digits := _digits(values)) is not None:
            todo.setdefault(digits, []).append(place)
    while todo:
        digits = min(todo)
        places = todo.pop(digits)
        for place, outcome in zip(places, _as_decimals(rows[places], digits), strict=True):
            if isinstance(outcome, int):
                todo.setdefault(outcome, []).append(place)
            else:
                found[place] = outcome
    return found


def _as_decimals(rows: Floats, digits: int) -> list[tuple[Form, Wholes] | int | None]:
    """Return each row as decimals, or with how many digits to try again, or None."""
    factor = 10.0**digits
    bits = rows.view(np.int64)
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = np.rint(rows * factor)
        large = np.abs(scaled) > _MAX_WHOLE
        scaled[large] = 0.0
        whole = scaled.astype(np.int64)
        # Compared as bits, so that -0.0 does not come back as 0.0.
        wrong = (whole / factor).view(np.int64) != bits
    odd = wrong.sum(axis=1)
    outcomes: list[tuple[Form, Wholes] | int | None] = []
    for row, number in enumerate(odd.tolist()):
        if number == 0:
            outcomes.append(({"as": "decimal", "digits": digits}, whole[row]))
        elif number <= rows.shape[1] // _ODD_SHARE:
            places = np.flatnonzero(wrong[row])
            kept = [places.tolist(), bits[row, places].tolist()]
            whole[row, places] = whole[row, np.argmin(wrong[row])]  # one that is near
            outcomes.append(({"as": "decimal", "digits": digits, "odd": kept}, whole[row]))
        else:
            needed = _digits(rows[row, wrong[row]][:_PROBES].tolist())
            outcomes.append(needed if needed is not None and needed > digits else None)
    return outcomes


def _digits(values: list[float]) -> int | None:
    """Return how many decimal digits these values are written with, or None for too many.

    Infinities do not count; those of nothing else have none.
    """
    most = 0
    for value in values:
        if math.isinf(value):
            continue
        text, _, exponent = repr(value).partition("e")
        decimals = text.partition(".")[2]
        places = 0 if decimals == "0" else len(decimals)
        most = max(most, places - int(exponent or 0))
        if most > _MAX_DIGITS:
            return None
    return most
