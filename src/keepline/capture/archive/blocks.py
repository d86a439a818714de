"""The codec "kl2" of archive blocks: columns of readings, compressed without loss.

A payload is the length of the packed header (uint32, little-endian), the header, a JSON object
packed as a frame, and one frame for each section that the header lists, in order: times,
sequence numbers, ticks where there are any, and the columns. Each section is a frame of its
own (see frames.py), so that a channel is read without the others.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keepline.capture.archive import columns, kl1
from keepline.capture.archive.frames import frame_size, packed, unpacked
from keepline.capture.archive.whole import from_planes, size_of
from keepline.capture.decoders.decoder import Column
from keepline.errors import CaptureError

CODEC = "kl2"

_MAX_HEADER_BYTES = 1 << 26

#: Floats that are no decimals: their lower bits hardly compress.
_NOISY = ("f4", "f8")

#: What a damaged payload may raise on the way.
FAULTS = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RecursionError,
    zlib.error,
)


@dataclass(frozen=True, slots=True)
class Block:
    """Readings of consecutive messages, one value a good message in every column.

    `times_us` and `seqs` are int64, and so are `ticks`, the device's own counter, where there
    are any. Columns are as in keepline.capture.decoders.decoder: float64 with NaN for a
    missing value, int64 or bool (masked where some are missing), a list of texts with None.
    """

    times_us: NDArray[np.int64]
    seqs: NDArray[np.int64]
    columns: Mapping[str, Column]
    ticks: NDArray[np.int64] | None = None
    complete: frozenset[str] = frozenset()


def encode(block: Block) -> bytes:
    """Return the payload of a block. Every NaN becomes the same missing value."""
    return encode_many([block])[0]


def encode_many(many: Sequence[Block]) -> list[bytes]:
    """Return the payload of each block, at a fraction of the cost of one after the other."""
    made = columns.sections_of_many(
        [
            (
                [each.times_us, each.seqs, *([] if each.ticks is None else [each.ticks])],
                each.columns,
                each.complete,
            )
            for each in many
        ]
    )
    return [
        joined({"n": len(each.times_us), "ticks": each.ticks is not None}, sections)
        for each, sections in zip(many, made, strict=True)
    ]


def decode(payload: bytes, codec: str = CODEC, *, channel: str | None = None) -> Block:
    """Return the block that `encode` wrote; with `channel` given, only that column of it.

    Raises CaptureError for a payload that is damaged, or of a codec that this keepline does
    not know.
    """
    if codec not in ("kl1", CODEC):
        raise CaptureError(f"a block has the codec {codec!r}; upgrade keepline to read it")
    try:
        if codec == "kl1":
            return Block(*kl1.decode(payload, channel))
        return _decoded(payload, channel)
    except FAULTS as error:
        raise damaged("a block", error) from error


def joined(header: Mapping[str, Any], sections: list[columns.Section]) -> bytes:
    """Return a payload: the header, with an entry for each section, and the sections."""
    frames = [packed(data, is_noise=entry.get("as") in _NOISY) for entry, data in sections]
    entries = [
        {**entry, "packed": len(frame)} for (entry, _), frame in zip(sections, frames, strict=True)
    ]
    text = json.dumps({**header, "sections": entries}, separators=(",", ":"))
    head = packed(text.encode())
    return b"".join((len(head).to_bytes(4, "little"), head, *frames))


def split(payload: bytes) -> tuple[dict[str, Any], list[memoryview]]:
    """Return the header and the packed sections of a payload.

    Raises one of FAULTS when it is damaged.
    """
    view = memoryview(payload)
    start = 4 + int.from_bytes(view[:4], "little")
    size = frame_size(view[4:start])
    if not 0 < size <= _MAX_HEADER_BYTES:
        raise ValueError("a header of a size that cannot be")
    header: dict[str, Any] = json.loads(unpacked(view[4:start], size))
    if not 0 <= header["n"] <= _MAX_HEADER_BYTES:
        raise ValueError("more values than can be")
    frames: list[memoryview] = []
    for entry in header["sections"]:
        frames.append(view[start : start + entry["packed"]])
        start += entry["packed"]
    if start != len(view):
        raise ValueError("it does not have the length that its header says")
    return header, frames


def read_whole(entry: Mapping[str, Any], frame: memoryview, n: int) -> NDArray[np.int64]:
    """Return the whole numbers of a section that is no column."""
    return from_planes(entry["whole"], unpacked(frame, size_of(entry["whole"], n)), n)


def damaged(what: str, error: Exception) -> CaptureError:
    """Return the error that says that a payload is damaged."""
    return CaptureError(f"{what} of the archive is damaged: {' '.join(str(error).split())}")


def _decoded(payload: bytes, channel: str | None) -> Block:
    header, frames = split(payload)
    n: int = header["n"]
    whole: list[NDArray[np.int64]] = []
    found: dict[str, Column] = {}
    complete: list[str] = []
    for entry, frame in zip(header["sections"], frames, strict=True):
        name = entry.get("name")
        if name is None:
            whole.append(read_whole(entry, frame, n))
        elif channel is None or channel == name:
            found[name] = columns.read(entry, unpacked(frame, columns.size_bytes(entry, n)), n)
            if entry.get("missing") == 0:
                complete.append(name)
    if len(whole) != 2 + header["ticks"]:
        raise ValueError("it has no times")
    ticks = whole[2] if header["ticks"] else None
    return Block(whole[0], whole[1], found, ticks, frozenset(complete))
