"""The keys that a file has had so far, with the line on which each stands first."""

from __future__ import annotations

import sqlite3


class Keys:
    """Keys and their first lines, in a temporary file of SQLite's own when they are many."""

    def __enter__(self) -> Keys:
        self._file = sqlite3.connect("", isolation_level=None)
        self._file.execute("CREATE TABLE seen (key TEXT PRIMARY KEY, line INTEGER) WITHOUT ROWID")
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def first(self, key: str, line: int) -> int:
        """Return the line on which a key stood first: `line` when it had not been seen."""
        self._file.execute("INSERT INTO seen VALUES (?, ?) ON CONFLICT DO NOTHING", (key, line))
        found = self._file.execute("SELECT line FROM seen WHERE key = ?", (key,)).fetchone()
        return int(found[0])
