"""Streams as capture stores name and describe them, and chunks as they read them back."""

from __future__ import annotations

import json
import re
from typing import Any

from keepline.errors import (
    CaptureError,
    ChunkConflictError,
    ChunkDamagedError,
    UnsupportedLevelError,
)
from keepline.model import LEVELS, Channel, Chunk, StreamSpec, TickClock

_SOURCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}\Z")


def check_source(source: str) -> None:
    """Raise CaptureError unless `source` can name a stream and its lock."""
    if not _SOURCE.match(source):
        raise CaptureError(
            f"{source!r} cannot name a source: letters, digits, and . _ - after the first, "
            "at most 64"
        )


def spec_json(spec: StreamSpec) -> str:
    """Return a stream's declaration as canonical JSON text; raises CaptureError if it cannot."""
    value: dict[str, Any] = {
        "source": spec.source,
        "decoder": spec.decoder,
        "options": dict(spec.options),
        "step_us": spec.step_us,
        "channels": [[each.name, each.dtype, each.unit] for each in spec.channels],
    }
    if spec.clock is not None:
        value["clock"] = [spec.clock.bits, spec.clock.tick_us, spec.clock.step]
    try:
        return json.dumps(value, sort_keys=True)
    except TypeError as error:
        raise CaptureError(f"a stream's options must be JSON values: {error}") from error


def spec_of(text: str | bytes) -> StreamSpec:
    """Return the declaration that `spec_json` wrote."""
    value = json.loads(text)
    value["channels"] = tuple(Channel(*each) for each in value["channels"])
    if "clock" in value:
        value["clock"] = TickClock(*value["clock"])
    return StreamSpec(**value)


def intact(chunk: Chunk, number: int, source: str, last_seq: int) -> Chunk:
    """Return `chunk`, which was stored to end at `last_seq`; raises ChunkDamagedError."""
    if chunk.intact and chunk.last_seq == last_seq:
        return chunk
    raise ChunkDamagedError(
        f"messages {chunk.first_seq} to {last_seq} of capture session {number}, "
        f"source {source}, are damaged: their CRC does not match",
        first_seq=chunk.first_seq,
        last_seq=last_seq,
        raw=chunk.raw,
    )


def not_following(chunk: Chunk, following: int) -> ChunkConflictError:
    """Return the error for a chunk that does not begin at the next number."""
    return ChunkConflictError(
        f"messages {chunk.first_seq} to {chunk.last_seq} do not follow what is stored: "
        f"{following} is next",
        following=following,
    )


def other_content(chunk: Chunk, following: int) -> ChunkConflictError:
    """Return the error for a chunk whose numbers have other content in the store."""
    return ChunkConflictError(
        f"messages {chunk.first_seq} to {chunk.last_seq} are stored with other content",
        following=following,
    )


def check_level(level: str) -> None:
    """Raise UnsupportedLevelError unless there is such an acknowledgement level."""
    if level not in LEVELS:
        raise UnsupportedLevelError(
            f"there is no acknowledgement level {level!r}; there are {', '.join(LEVELS)}"
        )
