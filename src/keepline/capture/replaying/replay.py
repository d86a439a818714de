"""Replaying a CSV file as a capture session."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from keepline.capture.archive.archive import Archive, ArchiveResult
from keepline.capture.replaying.csv_file import Contents, CsvFile
from keepline.capture.server import CaptureServer
from keepline.capture.store import CaptureStore
from keepline.errors import AlreadyCapturedError, ReplayError
from keepline.model import MAX_STEP_US, SessionInfo, StreamSpec, from_us

#: So many rows pass between two calls of `progress`, and so many bad lines are kept at once.
_ROWS = 1_000


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """What became of one file.

    `already` says that the file was captured before and nothing was added. `inferred` says
    that `step_us` is the file's own commonest step and was not given.
    """

    file: Path
    session: SessionInfo
    archived: ArchiveResult
    step_us: int | None
    inferred: bool
    already: bool


def replay_csv(
    capture_store: CaptureStore,
    archive: Archive,
    file: Path,
    *,
    instrument: str,
    tz: str,
    time_column: str,
    delimiter: str = ",",
    step_s: float | None = None,
    speed: float | None = None,
    user: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> ReplayResult:
    """Record a CSV file as one session of `instrument`, and archive it.

    Every column but the time is a channel. Local times are of the zone `tz`; those with an
    offset of their own keep it. The session starts and ends at the least and the greatest
    time of the data. `step_s` is the declared step in seconds (the commonest one when None).
    With `speed` N it runs N times as fast as the data did, else as fast as it goes.
    `progress` is called with the rows done and all rows. Peak memory does not depend on the
    size of the file.

    A row with a field too many or few, bytes that are no text, or a time that cannot be read
    is quarantined with its line number, and so is, by the decoder, one with a wrong value;
    the rows around it are kept. A file that this instrument has a complete session of, by
    SHA-256, adds nothing.

    Raises:
        ReplayError: the file, the zone or the column is not there or cannot be used.
        UnknownInstrumentError: the instrument is not declared.
        AlreadyCapturedError: another process is replaying the same file right now, or the
            archive has it from another capture store.
    """
    if speed is not None and not speed > 0:
        raise ReplayError("the speed has to be above 0")
    if step_s is not None and not 1e-6 <= step_s <= MAX_STEP_US / 1e6:
        raise ReplayError("the step has to be 1 microsecond to 100 years")
    archive.require_instrument(instrument)
    source = CsvFile(Path(file), tz=tz, time_column=time_column, delimiter=delimiter)
    contents = source.contents()
    step_us = contents.step_us if step_s is None else round(step_s * 1e6)
    spec = _spec(source, contents, step_us)
    archive.refuse_twice(instrument, f"sha256:{contents.digest}")
    with CaptureServer(capture_store, instrument, user=user, spec=spec) as server:
        try:
            number = server.start_session(
                origin=f"sha256:{contents.digest}", started=from_us(contents.first_us)
            )
        except AlreadyCapturedError:
            session = _captured_before(capture_store, instrument, contents.digest)
            already = True
        else:
            _record(source, contents, server, archive, number, speed, progress)
            session = server.stop_session(ended=from_us(contents.last_us), state="complete")
            already = False
    return ReplayResult(
        file=Path(file),
        session=session,
        # Also for a file captured before: its archiving may have been interrupted.
        archived=archive.archive_session(session.number),
        step_us=step_us,
        inferred=step_s is None,
        already=already,
    )


def _spec(source: CsvFile, contents: Contents, step_us: int | None) -> StreamSpec:
    return StreamSpec(
        decoder="csv",
        options=MappingProxyType(
            {"columns": source.columns, "delimiter": source.delimiter, "position": "tick"}
        ),
        step_us=step_us,
        channels=contents.channels,
    )


def _captured_before(store: CaptureStore, instrument: str, digest: str) -> SessionInfo:
    for info in store.sessions():
        same = info.instrument == instrument and info.origin == f"sha256:{digest}"
        if same and info.state == "complete":
            return info
    raise AlreadyCapturedError(
        "another process is replaying this file; if that was killed, run "
        "`keepline capture recover` first"
    )


def _record(
    source: CsvFile,
    contents: Contents,
    server: CaptureServer,
    archive: Archive,
    number: int,
    speed: float | None,
    progress: Callable[[int, int], None] | None,
) -> None:
    began = time.monotonic()
    total = contents.rows + contents.faults
    broken: list[tuple[int, bytes, str]] = []
    done = 0
    for done, row in enumerate(source.rows(), 1):
        if row.at_us is None:
            broken.append((row.line, row.raw, row.fault))
        else:
            if speed is not None:
                _sleep_until(began + (row.at_us - contents.first_us) / 1e6 / speed)
            server.queue(row.raw, at_us=row.at_us, tick=row.line)
        if done % _ROWS == 0:
            broken = _keep(archive, number, broken)
            if progress is not None:
                progress(done, total)
    _keep(archive, number, broken)
    if progress is not None:
        progress(done, total)
    if done != total or source.digest() != contents.digest:
        raise ReplayError(f"{source.path} changed while it was replayed; replay it again")


def _keep(
    archive: Archive, number: int, broken: list[tuple[int, bytes, str]]
) -> list[tuple[int, bytes, str]]:
    if broken:
        archive.quarantine_lines(number, broken)
    return []


def _sleep_until(deadline: float) -> None:
    remaining = deadline - time.monotonic()
    if remaining > 0:
        time.sleep(remaining)
