"""Locks of the operating system, which it releases when their holder dies."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from keepline.errors import StreamLockedError

#: Others look whether a lock is held by taking it for a moment; that must not count as held.
PATIENCE_S = 0.3


class FileLock:
    """An exclusive flock(2) on a file, held from construction until `release`.

    Two locks on one file exclude each other within a process as well. The folder has to lie
    on a local disk. A child made by fork without exec shares the lock until it ends.

    Raises:
        StreamLockedError: somebody else held the lock for all of `patience_s`.
    """

    def __init__(self, path: Path, *, patience_s: float = 0.0) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        deadline = time.monotonic() + patience_s
        while not self._taken():
            if time.monotonic() >= deadline:
                self.release()
                raise StreamLockedError(f"a living writer holds {path.stem}")
            time.sleep(0.01)

    def release(self) -> None:
        """Give the lock up. Releasing again does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _taken(self) -> bool:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            self.release()
            raise
        return True


def lock_path(folder: Path, number: int, source: str) -> Path:
    """Return the file whose lock the writer of a stream holds."""
    return folder / f"{number}.{source}.lock"


@contextmanager
def all_held(paths: Iterable[Path]) -> Iterator[bool]:
    """Hold the locks of all files; gives False when somebody has one of them.

    Raises OSError.
    """
    with ExitStack() as held:
        try:
            for path in paths:
                held.callback(FileLock(path).release)
        except StreamLockedError:
            held.close()
            yield False
        else:
            yield True


def remove_files(paths: Iterable[Path]) -> None:
    """Remove the lock files of a session that is closed or gone for good: not before the commit.

    Whoever waits for a file that is gone finds the session closed once it has the lock. A file
    that cannot be removed harms nobody, as a number is never used again.
    """
    for path in paths:
        with suppress(OSError):
            path.unlink()
