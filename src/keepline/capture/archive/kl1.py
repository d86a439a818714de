"""The codec "kl1", which the first keepline wrote; it is only read now.

A payload is a zlib stream of: the length of a JSON header (uint32, little-endian), the header,
and the sections that it lists in order. Whole numbers (times, sequence numbers, and floats
that are decimal fractions) are kept as differences of int64 with the sign in the lowest bit;
other floats as they are. Both are written with all first bytes together, then all second ones
and so on. A decimal column holds round(value x 10^digits). Missing numbers are a bit mask
beside the others.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keepline.capture.decoders.decoder import Column

#: What no payload unpacks to: its blocks had 4 MiB of messages and a million cells.
_MAX_BYTES = 1 << 28


def decode(
    payload: bytes, channel: str | None
) -> tuple[NDArray[np.int64], NDArray[np.int64], dict[str, Column]]:
    """Return the times, sequence numbers and columns; only `channel` where that is given.

    Raises ValueError, or zlib's or json's errors, for a damaged payload.
    """
    data = _inflated(payload)
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
    return whole[0], whole[1], columns


def _inflated(payload: bytes) -> bytes:
    inflater = zlib.decompressobj()
    data = inflater.decompress(payload, _MAX_BYTES)
    if not inflater.eof:
        raise ValueError("a payload that ends early, or unpacks to too much")
    return data


def _read_whole_numbers(section: bytes, n: int) -> NDArray[np.int64]:
    folded = _unshuffled(section, n)
    steps = (folded >> np.uint64(1)).view(np.int64) ^ -(folded & np.uint64(1)).view(np.int64)
    return np.cumsum(steps, dtype=np.int64)  # which wraps around as the differences did


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


def _unshuffled(section: bytes, n: int) -> NDArray[np.uint64]:
    planes = np.frombuffer(section, np.uint8).reshape(8, n)
    return np.ascontiguousarray(planes.T).view("<u8").reshape(n)
