"""Reading request bodies, packed ones too, within bounds."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

_PIECE = 256 * 1024
_FREE_BYTES = 64 * 1024
_GZIP = 31  # window bits that have zlib read a gzip header


class BodyError(Exception):
    """A body cannot be read; `status` is the HTTP status that says why."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Bodies:
    """The bodies that are in memory at one time.

    One has at most `max_bytes`, unpacked. All of them together have four times as much, so that
    many clients cannot use up the memory, and 64 KiB each besides, so that a few slow ones with
    large bodies do not keep out those with small ones.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._free = 4 * max_bytes

    @asynccontextmanager
    async def read(
        self, pieces: AsyncIterator[bytes], *, encoding: str, announced: str | None
    ) -> AsyncIterator[bytearray]:
        """Give a body, which counts as in memory until the block ends.

        Raises BodyError: 413 when it is too large, 415 for an encoding other than gzip, 400 when
        it is not what it says, 503 when there is no memory for it now.
        """
        if encoding not in ("", "identity", "gzip"):
            raise BodyError(415, "a body is plain or gzip")
        if announced is not None and announced.isdigit() and int(announced) > self._max_bytes:
            raise self.too_large()
        held = _Held(self)
        try:
            async for piece in _unpacked(pieces) if encoding == "gzip" else pieces:
                held.add(piece)
            yield held.body
        finally:
            self.give_back(held.counted)

    def take(self, size: int) -> None:
        """Count `size` bytes more; raises BodyError when there is no memory for them now."""
        if size > self._free:
            raise BodyError(503, "too many large requests at a time; try again later")
        self._free -= size

    def give_back(self, size: int) -> None:
        """Count `size` bytes less."""
        self._free += size

    @property
    def max_bytes(self) -> int:
        """Return how many bytes one body may have."""
        return self._max_bytes

    def too_large(self) -> BodyError:
        """Return the error for a body that has more."""
        return BodyError(413, f"a body has at most {self._max_bytes} bytes, unpacked")


class _Held:
    """One body, as far as it has come; `counted` is what it has of the common memory."""

    def __init__(self, bodies: Bodies) -> None:
        self.body = bytearray()
        self.counted = 0
        self._bodies = bodies

    def add(self, piece: bytes) -> None:
        if len(self.body) + len(piece) > self._bodies.max_bytes:
            raise self._bodies.too_large()
        more = max(0, len(self.body) + len(piece) - _FREE_BYTES) - self.counted
        self._bodies.take(more)
        self.counted += more
        self.body += piece


async def _unpacked(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield what gzip packed, never more at a time than a small piece: it may be a bomb."""
    unpacker = zlib.decompressobj(_GZIP)
    try:
        async for packed in pieces:
            rest = packed
            while rest and not unpacker.eof:
                yield unpacker.decompress(rest, _PIECE)
                rest = unpacker.unconsumed_tail
                await asyncio.sleep(0)  # the others' turn
    except zlib.error as error:
        raise BodyError(400, "the body is not gzip") from error
    if not unpacker.eof or unpacker.unused_data:
        raise BodyError(400, "the body is not one whole gzip stream")
