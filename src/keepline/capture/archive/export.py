"""Archived sessions as files: Parquet and CSV, a row a message.

A file appears whole or not at all: it is written beside its place and renamed. Memory stays
flat, however long a session is.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from keepline.capture.archive.batches import (
    OWN_COLUMNS,
    NamedChannel,
    batch_of,
    named,
    require_arrow,
    schema_of,
    wanted_rows,
)
from keepline.capture.archive.blocks import Block
from keepline.capture.archive.column_values import listed
from keepline.capture.archive.readings import ArchiveReader
from keepline.capture.archive.scanning import (
    BlockRange,
    FoundBlock,
    FoundSession,
    decoded_blocks,
    find_blocks,
    find_channels,
    find_session,
)
from keepline.errors import CaptureError, PluginError
from keepline.model import to_us

if TYPE_CHECKING:
    import pyarrow

#: Is told how many readings are done, and of how many in all.
Progress = Callable[[int, int], None]

#: A row group of Parquet has so many rows or bytes, and a block more at most.
_GROUP_ROWS = 131_072
_GROUP_BYTES = 32 * 1024 * 1024


def export_parquet(
    archive: ArchiveReader,
    session: int | str,
    path: str | Path,
    *,
    sources: Collection[str] | None = None,
    start: datetime | None = None,
    end: datetime | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> int:
    """Write a session to a Parquet file and return the number of its rows.

    A row is a message: source, seq, time (a timestamp of microseconds in UTC), and a column of
    its own type for each channel, null where the message lacks it; rows come by source and
    then in the order of messages. The metadata of a field name its source and unit, those of
    the file the session. `sources` (None: all) and the times, from `start` to before `end`,
    narrow it.

    Raises:
        NoSessionError: there is no such session.
        CaptureError: the file exists and `overwrite` is not set, or cannot be written; or a
            source has no channel.
        PluginError: pyarrow is not installed.
    """
    whole = _Export.of(archive, session, sources, start, end)
    schema = schema_of(whole.columns, whole.about())
    try:
        from pyarrow import parquet
    except ImportError:
        raise PluginError("pyarrow is not installed: pip install 'keepline[parquet]'") from None
    rows = 0
    with (
        _published(Path(path), overwrite=overwrite) as file,
        parquet.ParquetWriter(file, schema, compression="zstd") as writer,
    ):
        for table in _groups(whole, schema, progress):
            writer.write_table(table, row_group_size=table.num_rows)
            rows += table.num_rows
    return rows


def export_csv(
    archive: ArchiveReader,
    session: int | str,
    path: str | Path,
    *,
    sources: Collection[str] | None = None,
    start: datetime | None = None,
    end: datetime | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> int:
    """Write a session to a CSV file (RFC 4180, UTF-8) and return the number of its rows.

    The columns are those of `export_parquet`, named in the first line. Times are ISO 8601 in
    UTC with microseconds, numbers such that reading them gives the same bits, truths true and
    false; a missing value is empty, an empty text a pair of quotes. Raises as `export_parquet`
    does, but needs no pyarrow.
    """
    whole = _Export.of(archive, session, sources, start, end)
    rows = 0
    with _published(Path(path), overwrite=overwrite) as file:
        names = [*OWN_COLUMNS, *(each.column for each in whole.columns)]
        file.write((",".join(map(_quoted, names)) + "\r\n").encode())
        for found, block in whole.blocks(progress):
            lines = _lines(found.source, block, whole)
            file.write("".join(lines).encode())
            rows += len(lines)
    return rows


@dataclass(frozen=True)
class _Export:
    """What is to be written of a session."""

    archive: ArchiveReader
    session: FoundSession
    columns: list[NamedChannel]
    wanted: BlockRange
    found: list[FoundBlock]

    @classmethod
    def of(
        cls,
        archive: ArchiveReader,
        session: int | str,
        sources: Collection[str] | None,
        start: datetime | None,
        end: datetime | None,
    ) -> _Export:
        store = archive.sql_store
        found = find_session(store, archive.store_id, archive.principal, session)
        wanted = BlockRange(
            sources,
            start_us=None if start is None else to_us(start),
            end_us=None if end is None else to_us(end),
        )
        known = find_channels(store, found.id)
        for source in sorted(set(sources or ()) - {each.source for each in known}):
            raise CaptureError(f"{found.name} has no archived channel from source {source!r}")
        channels = [each for each in known if sources is None or each.source in sources]
        blocks = find_blocks(store, found.id, wanted)
        return cls(archive, found, named(channels), wanted, blocks)

    def about(self) -> dict[str, str]:
        """Return what the file says of the session."""
        session = self.session
        ended = None if session.ended is None else session.ended.isoformat()
        about = {
            "session": session.name,
            "instrument": session.instrument,
            "user": session.user,
            "state": session.state,
            "started": session.started.isoformat(),
            "ended": ended,
        }
        return {f"keepline.{name}": value for name, value in about.items() if value is not None}

    def blocks(self, progress: Progress | None) -> Iterator[tuple[FoundBlock, Block]]:
        """Yield each block, by source and in the messages' order, and tell the progress."""
        total, done = sum(each.readings for each in self.found), 0
        ids = [each.id for each in self.found]
        for found, block in zip(
            self.found, decoded_blocks(self.archive.sql_store, ids), strict=True
        ):
            yield found, block
            done += found.readings
            if progress is not None:
                progress(done, total)


def _groups(
    whole: _Export, schema: pyarrow.Schema, progress: Progress | None
) -> Iterator[pyarrow.Table]:
    """Yield tables that are large enough for a row group each."""
    pa = require_arrow()
    gathered: list[Any] = []
    for found, block in whole.blocks(progress):
        gathered.append(batch_of(block, found.source, schema, whole.columns, whole.wanted))
        rows = sum(each.num_rows for each in gathered)
        if rows >= _GROUP_ROWS or sum(each.nbytes for each in gathered) >= _GROUP_BYTES:
            yield pa.Table.from_batches(gathered, schema)
            gathered = []
    rest = pa.Table.from_batches(gathered, schema)
    if rest.num_rows:
        yield rest


def _lines(source: str, block: Block, whole: _Export) -> list[str]:
    """Return the lines of a block's messages that lie within the range."""
    rows = wanted_rows(block, whole.wanted)
    times = block.times_us[rows]
    count = len(times)
    cells: list[list[str]] = [
        [_quoted(source)] * count,
        list(map(str, block.seqs[rows].tolist())),
        _instants(times),
    ]
    places = range(count) if isinstance(rows, slice) else np.flatnonzero(rows).tolist()
    for each in whole.columns:
        column = block.columns.get(each.channel.name)
        if column is None or each.channel.source != source:
            cells.append([""] * count)
            continue
        values = listed(column)
        text = _TEXT[each.channel.dtype]
        chosen = (values[place] for place in places)
        cells.append(["" if value is None else text(value) for value in chosen])
    return [",".join(row) + "\r\n" for row in zip(*cells, strict=True)]


def _instants(times_us: Any) -> list[str]:
    texts = np.datetime_as_string(times_us.view("datetime64[us]"), timezone="UTC")
    found: list[str] = texts.tolist()
    return found


def _quoted(text: str) -> str:
    """Return a field of CSV; an empty text is quoted, as nothing at all is a missing value."""
    if text and not any(letter in text for letter in ',"\r\n'):
        return text
    return '"' + text.replace('"', '""') + '"'


_TEXT: dict[str, Callable[[Any], str]] = {
    "float64": repr,
    "int64": str,
    "bool": lambda value: "true" if value else "false",
    "text": _quoted,
}


@contextmanager
def _published(path: Path, *, overwrite: bool) -> Iterator[IO[bytes]]:
    """Give a file that becomes `path` at the end of the block, or is gone if that raises."""
    try:
        if not overwrite and path.exists():
            raise FileExistsError
        descriptor, name = tempfile.mkstemp(prefix=".keepline-", suffix=".part", dir=path.parent)
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            _named(temporary, path, overwrite=overwrite)
        finally:
            with suppress(OSError):
                temporary.unlink()
    except FileExistsError:
        raise CaptureError(f"{path} exists already; choose another name, or overwrite it") from None
    except OSError as error:
        raise CaptureError(f"{path} cannot be written: {error.strerror}") from error


def _named(temporary: Path, path: Path, *, overwrite: bool) -> None:
    try:
        if not overwrite:
            path.hardlink_to(temporary)  # which, unlike a rename, replaces nothing
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        overwrite = not path.exists()
        if not overwrite:
            raise FileExistsError from None
    if overwrite:
        temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
