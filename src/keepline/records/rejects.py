"""The rows of a file that were not taken, in a file of their own that can be mended."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from keepline.errors import RecordError
from keepline.records.csv_rows import REJECTED_COLUMNS, Reject


class RejectsFile:
    """A CSV file of the rejected rows: each one's line, the reason, and its cells as they were.

    So a row with too few cells, or too many, is rejected again until it is mended.
    It is made with the first row, for its owner alone, and takes no other file's place: beside
    `source` it gets a number where one is needed; a `path` that is there raises RecordError.
    `path` is None until there is a file. Without `wanted` there never is one.
    """

    def __init__(
        self,
        source: Path,
        header: Sequence[str],
        delimiter: str,
        path: Path | None,
        *,
        wanted: bool = True,
    ) -> None:
        if path is not None and path.exists():
            raise RecordError(f"{path} is there already; name another file for the rejected rows")
        self.path: Path | None = None
        self._source = source
        self._chosen = path
        self._header = [name for name in header if name not in REJECTED_COLUMNS]
        self._left_out = [n for n, name in enumerate(header) if name in REJECTED_COLUMNS]
        self._delimiter = delimiter
        self._wanted = wanted
        self._file: TextIO | None = None
        self._writer: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, rejected: Sequence[Reject]) -> None:
        """Write rejected rows, and see to it that they are in the file."""
        if not rejected or not self._wanted:
            return
        if self._file is None:
            self._open()
        for each in rejected:
            self._writer.writerow([each.line, each.reason, *self._cells(each)])
        if self._file is not None:
            self._file.flush()

    def _cells(self, rejected: Reject) -> list[str]:
        if rejected.broken:  # one cell, which must not be a whole row
            return [*rejected.cells, *([""] if len(self._header) == 1 else [])]
        return [cell for n, cell in enumerate(rejected.cells) if n not in self._left_out]

    def _open(self) -> None:
        self.path, descriptor = self._made()
        self._file = os.fdopen(
            descriptor, "w", encoding="utf-8", errors="surrogateescape", newline=""
        )
        self._writer = csv.writer(self._file, delimiter=self._delimiter, lineterminator="\n")
        # Before the others, so that they have their places in rows of any length.
        self._writer.writerow([*REJECTED_COLUMNS, *self._header])

    def _made(self) -> tuple[Path, int]:
        flags, mode = os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600
        if self._chosen is not None:
            return self._chosen, os.open(self._chosen, flags, mode)
        number = 1
        while True:
            ending = ".rejects.csv" if number == 1 else f".rejects-{number}.csv"
            path = self._source.with_name(self._source.stem + ending)
            try:
                return path, os.open(path, flags, mode)
            except FileExistsError:
                number += 1
