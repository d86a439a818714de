"""Checksums of binary messages, of many messages at once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

ChecksumName = Literal["sum8", "xor8", "crc16-modbus", "crc16-xmodem", "crc16-ccitt", "crc32"]


@dataclass(frozen=True, slots=True)
class Checksum:
    """How a checksum is computed; `polynomial` 0 is none.

    Parameters as in Ross Williams, "A Painless Guide to CRC Error Detection Algorithms"
    (1993); a reflected CRC has its polynomial reflected as well.
    """

    width: int
    polynomial: int = 0
    initial: int = 0
    final: int = 0
    reflected: bool = False


CHECKSUMS: dict[ChecksumName, Checksum] = {
    "sum8": Checksum(1),
    "xor8": Checksum(1),
    "crc16-modbus": Checksum(2, 0xA001, 0xFFFF, reflected=True),
    "crc16-xmodem": Checksum(2, 0x1021),
    "crc16-ccitt": Checksum(2, 0x1021, 0xFFFF),
    "crc32": Checksum(4, 0xEDB88320, 0xFFFFFFFF, 0xFFFFFFFF, reflected=True),
}


def checksums(name: ChecksumName, rows: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """Return the checksum of each row of bytes; `rows` is two-dimensional."""
    if name == "sum8":
        total: NDArray[np.uint32] = rows.sum(axis=1, dtype=np.uint32)
        return total & np.uint32(0xFF)
    if name == "xor8":
        found: NDArray[np.uint8] = np.bitwise_xor.reduce(rows, axis=1)
        return found.astype(np.uint32)
    how = CHECKSUMS[name]
    table = _table(name)
    crc = np.full(len(rows), how.initial, np.uint32)
    shift = np.uint32(how.width * 8 - 8)
    mask = np.uint32(2 ** (how.width * 8) - 1)
    for column in np.ascontiguousarray(rows.T):
        if how.reflected:
            crc = table[(crc ^ column) & np.uint32(0xFF)] ^ (crc >> np.uint32(8))
        else:
            crc = table[((crc >> shift) ^ column) & np.uint32(0xFF)] ^ (crc << np.uint32(8)) & mask
    return crc ^ np.uint32(how.final)


@lru_cache
def _table(name: ChecksumName) -> NDArray[np.uint32]:
    how = CHECKSUMS[name]
    bits = how.width * 8
    table = []
    for byte in range(256):
        value = byte if how.reflected else byte << (bits - 8)
        for _ in range(8):
            if how.reflected:
                value = value >> 1 ^ (how.polynomial if value & 1 else 0)
            else:
                value = value << 1 ^ (how.polynomial if value >> (bits - 1) else 0)
                value &= 2**bits - 1
        table.append(value)
    return np.array(table, np.uint32)
