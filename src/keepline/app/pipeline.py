"""The story: reading -> session -> record -> query -> delivery, a function a step.

Each step can be run again at any time: what is done already is left alone. What only one of
them needs, and takes long to load, is loaded there.
"""

from __future__ import annotations

import getpass
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from keepline import delivery, downloads, query
from keepline.app.records import me
from keepline.delivery import Pending
from keepline.delivery.recipients import recipient
from keepline.errors import KeeplineError
from keepline.model import Instrument, RecordImage, SessionInfo
from keepline.records import put_record
from keepline.records.types import INSTRUMENT_SESSION, load_type
from keepline.sessions import (
    BuildReport,
    HarvestResult,
    add_instrument,
    build_sessions,
    harvest_capture,
)
from keepline.store import quarantine
from keepline.store.recordset import fetch
from keepline.store.tables import capture as archived
from keepline.store.tables import sessions as logged

if TYPE_CHECKING:
    from keepline.app.instance import Instance
    from keepline.capture.replaying.replay import ReplayResult


@dataclass
class ReplayReport:
    """What a replay added, in all and by file; `failed` are (file, reason)."""

    messages: int = 0
    readings_archived: int = 0
    sessions: int = 0
    gaps: int = 0
    overlaps: int = 0
    disorder: int = 0
    quarantined: int = 0
    records_built: int = 0
    files: list[ReplayResult] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)


@dataclass
class ArchiveReport:
    """The sessions that moved to the archive, wholly or in part; `failed` are (session, reason).

    `messages` counts what is new; the other figures are those of the sessions concerned.
    """

    sessions: int = 0
    messages: int = 0
    readings: int = 0
    gaps: int = 0
    disorder: int = 0
    quarantined: int = 0
    records_built: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Totals:
    """What an instance holds: messages stored live and archived, readings, time gaps."""

    sessions: int
    stored: int
    archived: int
    readings: int
    gaps: int


def replay(
    instance: Instance,
    files: Sequence[Path],
    *,
    instrument: str,
    tz: str,
    time_column: str,
    delimiter: str = ",",
    step_s: float | None = None,
    speed: float | None = None,
    user: str = "",
    build: bool = True,
    progress: Callable[[Path, int], None] | None = None,
) -> ReplayReport:
    """Capture CSV files as sessions of `instrument`, archive and log them, build records.

    A file that cannot be replayed is reported as failed, and the others go on.
    """
    from keepline.capture import overlaps, replay_csv

    add_instrument(Instrument(instrument, tz=tz), instance=instance)
    report = ReplayReport()
    for done, file in enumerate(files):
        if progress is not None:
            progress(file, done)
        try:
            found = replay_csv(
                instance.capture_store,
                instance.archive,
                file,
                instrument=instrument,
                tz=tz,
                time_column=time_column,
                delimiter=delimiter,
                step_s=step_s,
                speed=speed,
                user=user,
            )
        except KeeplineError as error:
            report.failed.append((str(file), str(error)))
            continue
        report.files.append(found)
        if not found.already:
            report.sessions += 1
            report.messages += found.archived.messages
            report.readings_archived += found.archived.readings
            report.gaps += found.archived.gaps
            report.disorder += found.archived.disorder
            report.quarantined += found.archived.quarantined
    harvest(instance)
    if build:
        report.records_built = len(build_records(instance).built)
    report.overlaps = len(overlaps(instance.store, instrument))
    return report


def archive(
    instance: Instance,
    *,
    build: bool = True,
    progress: Callable[[str, int, int], None] | None = None,
) -> ArchiveReport:
    """Archive what the capture store holds and the archive lacks; log it, build records.

    `progress` is called with each session's name, how many sessions are done, and how many
    there are.
    """
    report = ArchiveReport()
    sessions = instance.capture_store.sessions()
    for done, session in enumerate(sessions):
        if progress is not None:
            progress(session.global_name, done, len(sessions))
        try:
            found = instance.archive.archive_session(session.number)
        except Exception as error:  # whatever fails in one session never stops the others
            report.failed.append((session.global_name, str(error)))
            continue
        if not found.added:
            continue
        report.sessions += 1
        report.messages += found.added
        report.readings += found.readings
        report.gaps += found.gaps
        report.disorder += found.disorder
        report.quarantined += found.quarantined
    harvest(instance)
    if build:
        report.records_built = len(build_records(instance).built)
    return report


def recover(instance: Instance) -> list[SessionInfo]:
    """Close the sessions whose recorder died, archive them and log their END.

    What their recorders left in the spool is brought into them first. A session whose recorder
    lives and is spooling is left alone.
    """
    from keepline.capture import drain_spool, recovery
    from keepline.capture.draining import living_sessions

    store, spool = instance.capture_store, instance.spool
    drained = [] if spool is None else drain_spool(spool, store)
    living = frozenset() if spool is None else living_sessions(spool, store)
    late = [each.session for each in drained if each.late]
    recovered = recovery.recover(store, spared=living) + late
    if recovered:
        archive(instance, build=False)
    return recovered


def harvest(instance: Instance) -> HarvestResult:
    """Log the START and END of every capture session that the log lacks."""
    return harvest_capture(instance.capture_store.sessions(), instance=instance)


def build_records(instance: Instance) -> BuildReport:
    """Build the record of every session that is ready."""

    def write(
        connection: sa.Connection,
        *,
        key: str,
        values: Mapping[str, Any],
        subrows: Mapping[str, Sequence[Mapping[str, Any]]],
        group: str | None,
    ) -> None:
        put_record(connection, INSTRUMENT_SESSION, key, values, subrows, group)

    return build_sessions(write, instance=instance)


def tables(instance: Instance) -> Iterator[tuple[str, str, str]]:
    """Yield (module.table, column, type) of everything that a query can name."""
    for name, module in instance.modules.items():
        for table in module.tables(me(instance)):
            for column in table.columns:
                yield f"{name}.{table.name}", column.name, column.type


def list_sessions(instance: Instance) -> list[dict[str, Any]]:
    """Return the session log, the newest first."""
    table = logged.session
    with instance.store.read() as connection:
        rows = connection.execute(sa.select(table).order_by(table.c.started_at.desc())).mappings()
        return [dict(row) for row in rows]


def quarantined(instance: Instance) -> Iterator[Mapping[str, Any]]:
    """Yield the input that could not be taken, the newest first."""
    with instance.store.read() as connection:
        for row in quarantine.kept(connection):
            yield dict(row)


def totals(instance: Instance) -> Totals:
    """Return what the instance holds."""
    store = instance.capture_store
    sessions = store.sessions()
    stored = sum(
        store.message_count(each.number, spec.source)
        for each in sessions
        for spec in store.streams(each.number)
    )
    stream, gap = archived.stream, archived.gap
    with instance.store.read() as connection:
        messages, readings = connection.execute(
            sa.select(
                sa.func.coalesce(sa.func.sum(stream.c.messages - stream.c.lost), 0),
                sa.func.coalesce(sa.func.sum(stream.c.readings), 0),
            )
        ).one()
        gaps = connection.execute(
            sa.select(sa.func.count()).where(gap.c.kind == "time")
        ).scalar_one()
    return Totals(len(sessions), stored, messages, readings, gaps)


def records(instance: Instance, record_type: str) -> Iterator[RecordImage]:
    """Yield the records of a type; raises UnknownRecordTypeError."""
    declared = load_type(instance.store, record_type)
    with instance.store.read() as connection:
        yield from fetch(connection, declared, me(instance))


def connect(instance: Instance) -> query.Connection:
    """Return a query connection of the person at the command line."""
    return query.connect(getpass.getuser(), instance=instance)


def deliver(
    instance: Instance,
    recipients: Sequence[str] | None = None,
    *,
    progress: Callable[[str, int, int], None] | None = None,
) -> delivery.ExportReport:
    """Send these recipients, or all of them, what they have not been sent yet."""
    return delivery.export(
        recipient_names=recipients,
        all_recipients=recipients is None,
        instance=instance,
        principal=me(instance),
        progress=progress,
    )


def queue(instance: Instance, recipients: Sequence[str] | None = None) -> Iterator[Pending]:
    """Yield what the next `deliver` would send."""
    settings = instance.settings
    for name in recipients or settings.recipients:
        yield from delivery.pending(recipient(settings, name), instance=instance)


def show_queue(instance: Instance, recipients: Sequence[str] | None = None) -> None:
    """Print what the next `deliver` would send."""
    delivery.print_export_queue(
        recipient_names=recipients,
        all_recipients=recipients is None,
        pretty=True,
        instance=instance,
    )


def download(instance: Instance, format_: str, directory: Path) -> downloads.DownloadResult:
    """Write what the person at the command line may see into a file in `directory`."""
    return downloads.download(
        format=format_, directory=directory, principal=me(instance), instance=instance
    )
