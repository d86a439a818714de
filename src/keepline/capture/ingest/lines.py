"""Cutting a stream of bytes into messages, one a line."""

from __future__ import annotations


class LineSplitter:
    """Cuts bytes into lines, however they come in pieces.

    A line ends with LF or CRLF, which do not belong to the message; empty lines are none. Once
    a line is longer than `max_bytes`, `overlong` holds it and all that came after it, and
    nothing more is cut.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._rest = bytearray()
        self.overlong: bytes | None = None

    @property
    def rest(self) -> bytes:
        """Return the beginning of a line whose end has not come yet."""
        return bytes(self._rest)

    def split(self, data: bytes) -> list[bytes]:
        """Return the messages whose lines `data` ends."""
        end = data.rfind(b"\n")
        if end < 0 or self.overlong is not None:
            self._rest += data
            # One more: the CR of a line end may be the last byte.
            if self.overlong is not None or len(self._rest) > self._max_bytes + 1:
                self._give_up(bytes(self._rest))
            return []
        block = bytes(self._rest) + data[:end]
        self._rest = bytearray(data[end + 1 :])
        lines = split_lines(block)
        if len(block) > self._max_bytes:
            lines = self._within(lines, block)
        if len(self._rest) > self._max_bytes + 1:
            self._give_up(bytes(self._rest))
        return lines

    def _within(self, lines: list[bytes], block: bytes) -> list[bytes]:
        """Return the lines before the first that is too long."""
        for place, line in enumerate(lines):
            if len(line) > self._max_bytes:
                start = block.index(line)  # a shorter line cannot hold it
                self._give_up(block[start:] + b"\n" + bytes(self._rest))
                return lines[:place]
        return lines

    def _give_up(self, what: bytes) -> None:
        self.overlong = (self.overlong or b"") + what
        self._rest.clear()


def split_lines(block: bytes) -> list[bytes]:
    """Return the lines of `block` that are not empty, without their line ends."""
    lines = block.split(b"\n")
    if b"\r" in block:
        lines = [line.removesuffix(b"\r") for line in lines]
    return [line for line in lines if line] if b"" in lines else lines
