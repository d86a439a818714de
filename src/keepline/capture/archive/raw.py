"""The codec "raw1" of block_raw: the messages that a block was decoded from, as they came.

A payload is built as a block's is (see blocks.py). Its sections are the messages' lengths,
their times of arrival and their ticks, where the block does not have the same ones, and their
bytes. Messages of one length are kept with all first bytes together, then all second ones and
so on, unless they are texts.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from keepline.capture.archive.blocks import (
    FAULTS,
    Block,
    damaged,
    decode,
    joined,
    read_whole,
    split,
)
from keepline.capture.archive.columns import Section, sections
from keepline.capture.archive.frames import unpacked
from keepline.capture.archive.pieces import Run
from keepline.errors import CaptureError

RAW_CODEC = "raw1"

#: So many bytes show whether messages are texts, which compress better as they are.
_SAMPLE_BYTES = 256
_CONTROLS = bytes({*range(32), 127} - set(b"\t\n\r"))


def encode_raw(run: Run, block: Block) -> bytes:
    """Return the payload for the messages of a block."""
    header: dict[str, Any] = {
        "n": run.count,
        "first": run.first_seq,
        "marks": run.marks,
        "length": _length(run),
    }
    kept: dict[str, NDArray[np.int64]] = {}
    if header["length"] is None:
        kept["lengths"] = run.lengths.astype(np.int64)
    if not _same(run.times_us, block.times_us):
        kept["times"] = run.times_us
    if run.ticks is not None and not _same(run.ticks, block.ticks):
        kept["ticks"] = run.ticks
    header["ticks"] = run.ticks is not None
    parts = sections(list(kept.values()), {}) if kept else []
    named = [({"of": name, **entry}, data) for name, (entry, data) in zip(kept, parts, strict=True)]
    return joined(header, [*named, _bytes(run, header["length"])])


def decode_raw(payload: bytes, codec: str, block_payload: bytes, block_codec: str) -> Run:
    """Return the messages that `encode_raw` was given, with the payload of their block.

    Raises CaptureError for a payload that is damaged, or of a codec that this keepline does
    not know.
    """
    if codec != RAW_CODEC:
        raise CaptureError(f"raw messages have the codec {codec!r}; upgrade keepline to read them")
    try:
        return _decoded(payload, block_payload, block_codec)
    except FAULTS as error:
        raise damaged("a block's raw messages", error) from error


def _decoded(payload: bytes, block_payload: bytes, block_codec: str) -> Run:
    header, frames = split(payload)
    n: int = header["n"]
    found: dict[str, NDArray[np.int64]] = {}
    *entries, last = header["sections"]
    for entry, frame in zip(entries, frames, strict=False):
        found[entry["of"]] = read_whole(entry, frame, n)
    if "times" not in found or (header["ticks"] and "ticks" not in found):
        block = decode(block_payload, block_codec, channel="")
        found.setdefault("times", block.times_us)
        if header["ticks"] and block.ticks is not None:
            found.setdefault("ticks", block.ticks)
    raw = unpacked(frames[-1], last["bytes"])
    if header["length"] is None:
        lengths = found["lengths"]
    else:
        lengths = np.full(n, header["length"], np.int64)
    if int(lengths.sum()) != len(raw) or len(found["times"]) != n:
        raise ValueError("it does not have the length that its header says")
    if last["by_place"]:
        raw = np.frombuffer(raw, np.uint8).reshape(-1, n).T.tobytes()
    return Run(
        header["first"],
        raw,
        lengths.astype(np.uint32),
        found["times"],
        found["ticks"] if header["ticks"] else None,
        tuple((seq, offset_us) for seq, offset_us in header["marks"]),
    )


def _same(values: NDArray[np.int64], others: NDArray[np.int64] | None) -> bool:
    return values is others or (others is not None and np.array_equal(values, others))


def _length(run: Run) -> int | None:
    """Return the length that all messages have, or None."""
    first = int(run.lengths[0])
    return first if bool((run.lengths == first).all()) else None


def _bytes(run: Run, size: int | None) -> Section:
    entry: dict[str, Any] = {"bytes": len(run.raw), "by_place": False}
    if run.count < 2 or not size or _is_text(run.raw[:_SAMPLE_BYTES]):
        return entry, run.raw
    rows = np.frombuffer(run.raw, np.uint8).reshape(run.count, size)
    return {**entry, "by_place": True}, rows.T.tobytes()


def _is_text(raw: bytes) -> bool:
    return raw.isascii() and raw.translate(None, _CONTROLS) == raw
