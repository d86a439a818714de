"""Zstandard frames with a checksum and a known size, as payloads of the archive are made of."""

from __future__ import annotations

import threading

import zstandard

from keepline.errors import CaptureError

#: No frame unpacks to more.
MAX_FRAME_BYTES = 1 << 30

#: Above it sensor data gets a twentieth smaller and takes half as long again.
_LEVEL = 1

#: For what is mostly noise: a tenth larger, in a third of the time, and sooner read.
_NOISE_LEVEL = -1


class _Contexts(threading.local):
    """Compressors and a decompressor a thread: none may be shared."""

    def __init__(self) -> None:
        self.packer = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True)
        self.noise_packer = zstandard.ZstdCompressor(level=_NOISE_LEVEL, write_checksum=True)
        self.unpacker = zstandard.ZstdDecompressor()


_contexts = _Contexts()


def packed(data: bytes | memoryview, *, is_noise: bool = False) -> bytes:
    """Return `data`, which may be mostly noise, as a frame; of nothing, nothing.

    Raises CaptureError for more than 1 GiB.
    """
    if len(data) > MAX_FRAME_BYTES:
        raise CaptureError(f"a section of {len(data):,} bytes is more than the archive keeps")
    packer = _contexts.noise_packer if is_noise else _contexts.packer
    return packer.compress(data) if len(data) else b""


def frame_size(frame: bytes | memoryview) -> int:
    """Return the size that a frame says its content has. Raises ValueError when it is none."""
    try:
        return zstandard.frame_content_size(frame)
    except zstandard.ZstdError as error:
        raise ValueError(str(error)) from None


def unpacked(frame: bytes | memoryview, size_bytes: int) -> bytes:
    """Return what `packed` was given, which had `size_bytes`.

    Raises ValueError when the frame is damaged or says another size; no more than that size
    is ever allocated.
    """
    if size_bytes == 0:
        return b""
    if not 0 < size_bytes <= MAX_FRAME_BYTES:
        raise ValueError("a size that cannot be")
    if frame_size(frame) != size_bytes:
        raise ValueError("a section of another size than its header says")
    try:
        return _contexts.unpacker.decompress(frame)
    except zstandard.ZstdError as error:
        raise ValueError(str(error)) from None
