"""The codec "kl1" of archive blocks: columns of readings, compressed without loss.

A payload is a zlib stream of: the length of a JSON header (uint32, little-endian), the header,
and the sections that it lists in order. Whole numbers (times, sequence numbers, and floats
that are decimal fractions) are kept as differences of int64 with the sign in the lowest bit;
other floats as they are. Both are written with all first bytes together, then all second ones
and so on, which is what makes them compress. A decimal column holds round(value x 10^digits),
and is only used where dividing again gives every bit back. Missing numbers are a bit mask
beside the others.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keepline.capture.decoders import Column
from keepline.errors import CaptureError

CODEC = "kl1"

_LEVEL = 4
_MAX_DIGITS = 12
_MAX_WHOLE = 2.0**53
_PROBE = 64

Section = tuple[dict[str, Any], bytes]


@dataclass(frozen=True, slots=True)
class Block:
    """Readings of consecutive messages, one value a good message in every column.

    `times_us` and `seqs` are int64; a column of numbers is float64 with NaN for a missing
    value, one of texts a list with None.
    """

    times_us: NDArray[np.int64]
    seqs: NDArray[np.int64]
    columns: Mapping[str, Column]


def encode(block: Block) -> bytes:
    """Return the payload of a block. Every NaN becomes the same missing value."""
    sections = [_whole_numbers(block.times_us), _whole_numbers(block.seqs)]
    for name, column in block.columns.items():
        entry, data = _texts(column) if isinstance(column, list) else _floats(column)
        sections.append(({"name": name, **entry}, data))
    header = json.dumps(
        {"n": len(block.times_us), "sections": [{**e, "size": len(d)} for e, d in sections]}
    ).encode()
    parts = [len(header).to_bytes(4, "little"), header, *(data for _, data in sections)]
    return zlib.compress(b"".join(parts), _LEVEL)


def decode(payload: bytes, codec: str = CODEC, *, channel: str | None = None) -> Block:
    """Return the block that `encode` wrote; with `channel` given, only that column of it.

    Raises CaptureError for a codec that this keepline does not know.
    """
    if codec != CODEC:
        raise CaptureError(f"a block has the codec {codec!r}; upgrade keepline to read it")
    data = zlib.decompress(payload)
    start = 4 + int.from_bytes(data[:4], "little")
    header = json.loads(data[4:start])
    n: int = header["n"]
    columns: dict[str, Column] = {}
    whole: list[NDArray[np.int64]] = []
    for entry in header["sections"]:
        section = data[start : start + entry["size"]]
        start += entry["size"]
        name = entry.get("name")
        if name is None:
            whole.append(_read_whole_numbers(section, n))
        elif channel is None or channel == name:
            columns[name] = _read_column(entry, section, n)
    return Block(whole[0], whole[1], columns)


def _whole_numbers(values: NDArray[np.int64]) -> Section:
    steps = np.diff(values, prepend=np.int64(0))
    # Small negative steps become small odd numbers, and small positive ones small even ones.
    return {}, _shuffled((steps << 1) ^ (steps >> 63))


def _read_whole_numbers(section: bytes, n: int) -> NDArray[np.int64]:
    folded = _unshuffled(section, n)
    steps = (folded >> np.uint64(1)).view(np.int64) ^ -(folded & np.uint64(1)).view(np.int64)
    return np.cumsum(steps, dtype=np.int64)  # which wraps around as the differences did


def _floats(column: NDArray[np.float64]) -> Section:
    missing = np.isnan(column)
    mask = b""
    present = column
    if missing.any():
        mask = np.packbits(missing).tobytes()
        present = column[~missing]
    digits = _decimal_digits(present)
    if digits is None:
        return {"as": "float", "mask": len(mask)}, mask + _shuffled(present)
    scaled = np.rint(present * 10.0**digits).astype(np.int64)
    return {"as": "decimal", "digits": digits, "mask": len(mask)}, mask + _whole_numbers(scaled)[1]


def _decimal_digits(values: NDArray[np.float64]) -> int | None:
    """Return how many decimal digits hold all of `values` exactly, or None."""
    bits = values.view(np.int64)
    for digits in range(_MAX_DIGITS + 1):
        factor = 10.0**digits
        for part in (slice(_PROBE), slice(None)):
            with np.errstate(over="ignore", invalid="ignore"):
                scaled = np.rint(values[part] * factor)
                fits = np.abs(scaled) <= _MAX_WHOLE
                # Compared as bits, so that -0.0 does not come back as 0.0.
                same = (scaled.astype(np.int64) / factor).view(np.int64) == bits[part]
            if not (fits & same).all():
                break
        else:
            return digits
    return None


def _texts(column: list[str | None]) -> Section:
    return {"as": "text"}, json.dumps(column, ensure_ascii=True).encode()


def _read_column(entry: Mapping[str, Any], section: bytes, n: int) -> Column:
    if entry["as"] == "text":
        texts: list[str | None] = json.loads(section)
        return texts
    mask, rest = section[: entry["mask"]], section[entry["mask"] :]
    present: NDArray[np.float64]
    there = ~np.unpackbits(np.frombuffer(mask, np.uint8), count=n).astype(bool) if mask else None
    count = n if there is None else int(there.sum())
    if entry["as"] == "decimal":
        digits: int = entry["digits"]
        present = _read_whole_numbers(rest, count) / 10.0**digits
    else:
        present = _unshuffled(rest, count).view(np.float64)
    if there is None:
        return present
    column = np.full(n, np.nan)
    column[there] = present
    return column


def _shuffled(values: NDArray[Any]) -> bytes:
    little = np.ascontiguousarray(values).view("<u8")
    return little.view(np.uint8).reshape(-1, 8).T.tobytes()


def _unshuffled(section: bytes, n: int) -> NDArray[np.uint64]:
    planes = np.frombuffer(section, np.uint8).reshape(8, n)
    return np.ascontiguousarray(planes.T).view("<u8").reshape(n)
