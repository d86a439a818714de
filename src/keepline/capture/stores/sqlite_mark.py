"""What tells that a capture store's file was replaced by an older copy of itself."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import NamedTuple


class Position(NamedTuple):
    """How far a store has come: changes of its sessions, and the highest number given out."""

    changes: int = 0
    number: int = 0


class HighWaterMark:
    """The furthest position that one store is known to have reached, in a file beside it.

    It is written after each commit, so that it is never ahead of the store; it is not synced,
    as a mark that is behind only notices less. What is there for another store, or cannot be
    read, counts as nothing.
    """

    def __init__(self, path: Path, store_id: str) -> None:
        self._path = path
        self._store_id = store_id

    def read(self) -> Position:
        """Return the mark. Raises OSError."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            return self._position(descriptor)
        finally:
            os.close(descriptor)

    def raise_to(self, reached: Position) -> None:
        """Raise the mark; where it is higher already, it stays. Raises OSError."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            higher = Position(*map(max, reached, self._position(descriptor)))
            # One write of a fixed length: a kill leaves the old mark or the new one.
            line = f"{self._store_id} {higher.changes:020} {higher.number:020}\n"
            os.pwrite(descriptor, line.encode(), 0)
        finally:
            os.close(descriptor)

    def _position(self, descriptor: int) -> Position:
        words = os.pread(descriptor, 256, 0).split()
        if len(words) != 3 or words[0] != self._store_id.encode():
            return Position()
        if not (words[1].isdigit() and words[2].isdigit()):
            return Position()
        return Position(int(words[1]), int(words[2]))
