"""A list that several threads append messages to without a lock, until it is sealed."""

from __future__ import annotations

#: A message and its time in UTC nanoseconds.
Entry = tuple[bytes, int]


class Segment(list[Entry]):
    """Messages and their times in the order of their numbers, from `base`.

    Those from the place `taken` on do not count; None says that all of them do. An append
    that finds the list `limit` long or longer is something to act upon. `before` is the
    number before the first one. A list with attributes, and not an object with a list, since
    `CaptureServer.queue` takes a third less time so.
    """

    __slots__ = ("base", "before", "limit", "taken")

    def __init__(self, base: int) -> None:
        self.base = base
        self.before = base - 1
        self.limit = 0
        self.taken: int | None = None

    def place(self, entry: Entry) -> int:
        """Return the place of an entry that was appended a moment ago: this very object."""
        index = len(self) - 1
        while self[index] is not entry:
            index -= 1
        return index
