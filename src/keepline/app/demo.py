"""The whole path on this very machine: `keepline demo`.

Two instruments record at once: this computer's own sensors, live, and real sea-surface
temperatures, replayed. Their readings are archived, logged, built into records, edited by two
people, asked about, delivered twice and downloaded. Only embedded stores are used.
"""

from __future__ import annotations

import gzip
import shutil
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from keepline.app import pipeline
from keepline.app.instance import Instance, init_instance, open_instance
from keepline.app.machine import Machine, sample
from keepline.capture import CaptureServer
from keepline.config import FILE_NAME
from keepline.errors import ConflictError, InstanceError, PluginError, RecordNotFoundError
from keepline.model import Instrument, StreamSpec
from keepline.query import Column, Request, Table, connect, request
from keepline.records import BusinessObject, Outcome, business_class
from keepline.records.types import INSTRUMENT_SESSION
from keepline.sessions import add_instrument

RATE_HZ = 50
BUOY = "buoy-B01"
MARKER = ".keepline-demo"

_RECIPIENTS = """
[recipients.ledger]
transport = "database"
url = "sqlite:///ledger.db"

[recipients.files]
transport = "folder"
path = "outbox"
"""

#: Progress: (what is going on, how much of it is done from 0 to 1, a note).
Progress = Callable[[str, float, str], None]


@dataclass
class DemoResult:
    """What the demo did, as `keepline demo --json` prints it."""

    instance: str
    messages_sent: int = 0
    messages_stored: int = 0
    messages_archived: int = 0
    readings_archived: int = 0
    gaps: int = 0
    sessions: int = 0
    records_built: int = 0
    records: list[dict[str, Any]] = field(default_factory=list)
    edits: list[dict[str, Any]] = field(default_factory=list)
    sql: str = ""
    query_columns: list[str] = field(default_factory=list)
    query_rows: int = 0
    query_result: list[tuple[Any, ...]] = field(default_factory=list)
    request_agrees: bool = False
    delivered: dict[str, int] = field(default_factory=dict)
    delivered_again: dict[str, int] = field(default_factory=dict)
    delivered_after_edit: dict[str, int] = field(default_factory=dict)
    downloads: list[str] = field(default_factory=list)
    places: dict[str, str] = field(default_factory=dict)


def prepare_folder(folder: Path | None, *, keep: bool) -> Path:
    """Return the folder to make the demo's instance in, emptied of an earlier demo.

    Without a folder it is ``keepline-demo`` here. With `keep` an earlier demo stays and the
    next free name is taken. A folder that holds anything but a demo is never touched: then
    InstanceError is raised.
    """
    wanted = (folder or Path("keepline-demo")).expanduser().absolute()
    chosen = wanted
    number = 1
    while keep and chosen.exists():
        number += 1
        chosen = wanted.with_name(f"{wanted.name}-{number}")
    try:
        if (chosen / MARKER).exists():
            shutil.rmtree(chosen)
        elif chosen.exists() and (not chosen.is_dir() or any(chosen.iterdir())):
            raise InstanceError(f"{chosen} is not a demo's folder; choose another with --dir")
        chosen.mkdir(parents=True, exist_ok=True)
        (chosen / MARKER).touch()
    except OSError as error:
        raise InstanceError(f"{chosen} cannot be written: {error.strerror}") from error
    return chosen


def run_demo(folder: Path, *, seconds: float, progress: Progress) -> DemoResult:
    """Run the whole path in `folder`; the live session takes `seconds`.

    Raises PluginError when the extra `demo` is not installed.
    """
    machine = Machine()
    temperatures = _temperatures_file(folder)
    init_instance(folder).close()
    with (folder / FILE_NAME).open("a", encoding="utf-8") as settings:
        settings.write(_RECIPIENTS)
    with open_instance(folder) as instance:
        result = DemoResult(str(folder))
        _record(instance, machine, temperatures, result, seconds=seconds, progress=progress)
        progress("building records", 1.0, "")
        result.records_built = len(pipeline.build_records(instance).built)
        result.records = _records(instance)
        _edit(instance, result)
        _ask(instance, result)
        progress("delivering", 1.0, "")
        _deliver(instance, result)
        download = pipeline.download(instance, "xlsx", folder / "downloads")
        result.downloads = [str(download.path)]
        result.places = {
            "instance": str(folder),
            "settings": str(folder / FILE_NAME),
            "records and archive": str(folder / "keepline.db"),
            "live readings": str(folder / instance.settings.capture.path),
            "recipient ledger": str(folder / "ledger.db"),
            "recipient files": str(folder / "outbox"),
            "download": str(download.path),
        }
    return result


def _temperatures_file(folder: Path) -> Path:
    """Unpack the sea-surface temperatures beside the instance; pandas is not needed for it."""
    spec = find_spec("bokeh_sampledata")
    if spec is None or not spec.submodule_search_locations:
        raise PluginError("bokeh-sampledata is not installed: pip install 'keepline[demo]'")
    packed = Path(spec.submodule_search_locations[0]) / "_data" / "sea_surface_temperature.csv.gz"
    unpacked = folder / "sea_surface_temperature.csv"
    with gzip.open(packed, "rb") as source, unpacked.open("wb") as target:
        shutil.copyfileobj(source, target)
    return unpacked


def _record(
    instance: Instance,
    machine: Machine,
    temperatures: Path,
    result: DemoResult,
    *,
    seconds: float,
    progress: Progress,
) -> None:
    """Record both instruments at the same time, then archive and log both sessions."""
    add_instrument(Instrument("this-machine", comment="its own sensors"), instance=instance)
    with ThreadPoolExecutor(1, thread_name_prefix="demo-replay") as pool:
        replaying = pool.submit(
            pipeline.replay,
            instance,
            [temperatures],
            instrument=BUOY,
            tz="UTC",
            time_column="time (UTC)",
            user="ben",
            build=False,
        )
        sent = _record_live(instance, machine, seconds=seconds, progress=progress)
        progress("archiving", 1.0, "")
        replayed = replaying.result()
    pipeline.archive(instance, build=False)
    totals = pipeline.totals(instance)
    result.messages_sent = sent + replayed.messages
    result.messages_stored = totals.stored
    result.messages_archived = totals.archived
    result.readings_archived = totals.readings
    result.gaps = totals.gaps
    result.sessions = totals.sessions


def _record_live(
    instance: Instance, machine: Machine, *, seconds: float, progress: Progress
) -> int:
    spec = StreamSpec(step_us=1_000_000 // RATE_HZ, channels=machine.channels)
    server = CaptureServer(
        instance.capture_store,
        "this-machine",
        user="ann",
        spec=spec,
        linger_s=instance.settings.capture.linger_s,
    )

    def on_sample(sent: int) -> None:
        stored = server.acknowledged("stored") + 1
        progress(
            "recording this machine", sent / (seconds * RATE_HZ), f"{sent} queued, {stored} stored"
        )

    with server:
        server.start_session()
        pipeline.harvest(instance)
        sent = sample(machine, server, rate_hz=RATE_HZ, seconds=seconds, on_sample=on_sample)
        server.stop_session()
    return sent


def _records(instance: Instance) -> list[dict[str, Any]]:
    """Return who, when, instrument, gaps and channel figures of each record."""
    return [
        {
            "who": image.values["user_name"],
            "instrument": image.values["instrument"],
            "started": image.values["started"],
            "ended": image.values["ended"],
            "gaps": image.values["gaps"],
            "channels": list(image.subrows["channel"]),
        }
        for image in pipeline.records(instance, INSTRUMENT_SESSION.name)
    ]


def _edit(instance: Instance, result: DemoResult) -> None:
    """Let ann and ben edit one record: different fields first, then the same one."""
    record = business_class(INSTRUMENT_SESSION)
    key = _buoy_record(instance)

    def open_as(name: str) -> BusinessObject:
        return record(key, instance=instance, principal=instance.principal(name))

    ann, ben = open_as("ann"), open_as("ben")
    ann["title"] = "Sea temperatures"
    ben["comment"] = "Recorded by the demo"
    _note(result, "ann sets the title", ann.save())
    _note(result, "ben sets the comment", ben.save())

    ann, ben = open_as("ann"), open_as("ben")
    ann["title"] = "Sea surface temperatures"
    ben["title"] = "Buoy B01"
    _note(result, "ann changes the title", ann.save())
    try:
        ben.save()
    except ConflictError as error:
        conflict = error.conflict
        seen = {side: getattr(conflict, side)["title"] for side in ("base", "mine", "theirs")}
        _note(result, "ben changes the title", Outcome.CONFLICT, **seen)
    both = f"{ben['title']} / {ann['title']}"
    ben.resolve("title", both)
    _note(result, "ben keeps both", ben.save(), mine=both)


def _buoy_record(instance: Instance) -> str:
    for image in pipeline.records(instance, INSTRUMENT_SESSION.name):
        if image.values["instrument"] == BUOY:
            return image.key
    raise RecordNotFoundError("the demo's replayed session has no record")


def _note(result: DemoResult, edit: str, outcome: Outcome, **values: str | None) -> None:
    result.edits.append({"edit": edit, "outcome": outcome.value, **values})


_SQL = """\
SELECT r.instrument, live.state, s.n, s.min, s.max, r.title, d.state AS delivery
FROM records.instrument_session AS r
LEFT JOIN capture.session AS live ON live.global_name = r.record_key
LEFT JOIN archive.session AS a ON a.global_name = r.record_key
LEFT JOIN archive.channel AS c ON c.session_id = a.id
LEFT JOIN archive.block_stat AS s ON s.channel_id = c.id
LEFT JOIN deliveries.sent AS d ON d.record_key = r.record_key
WHERE r.instrument = 'buoy-B01'"""


def same_question() -> Request:
    """Return the question of `_SQL` as a Request."""
    record = Table("records", "instrument_session")
    live, archived = Table("capture", "session"), Table("archive", "session")
    channel, stat = Table("archive", "channel"), Table("archive", "block_stat")
    sent = Table("deliveries", "sent")
    asked = request(outer_join=True)
    asked.add_field("instrument", Column(record, "instrument"))
    asked.add_field("state", Column(live, "state"))
    for name in ("n", "min", "max"):
        asked.add_field(name, Column(stat, name))
    asked.add_field("title", Column(record, "title"))
    asked.add_field("delivery", Column(sent, "state"))
    asked.add_param(Column(record, "instrument"), BUOY)
    for table, name in ((live, "global_name"), (archived, "global_name"), (sent, "record_key")):
        asked.add_param(Column(table, name), Column(record, "record_key"))
    asked.add_param(Column(channel, "session_id"), Column(archived, "id"))
    asked.add_param(Column(stat, "channel_id"), Column(channel, "id"))
    return asked


def _ask(instance: Instance, result: DemoResult) -> None:
    """Ask one question by SQL and the same one as a Request."""
    with connect("ann", instance=instance) as connection:
        cursor = connection.cursor()
        cursor.execute(_SQL)
        result.sql = _SQL
        result.query_columns = [column[0] for column in cursor.description or ()]
        result.query_result = cursor.fetchall()
        result.query_rows = len(result.query_result)
        cursor.execute(same_question())
        result.request_agrees = Counter(map(tuple, cursor)) == Counter(result.query_result)


def _deliver(instance: Instance, result: DemoResult) -> None:
    """Deliver, deliver again, edit one record, deliver once more."""
    result.delivered = _sent(instance)
    result.delivered_again = _sent(instance)
    record = business_class(INSTRUMENT_SESSION)(
        _buoy_record(instance), instance=instance, principal=instance.principal("ann")
    )
    record["sample"] = "none"
    record.save()
    result.delivered_after_edit = _sent(instance)


def _sent(instance: Instance) -> dict[str, int]:
    report = pipeline.deliver(instance)
    return {name: each.sent for name, each in report.recipients.items()}
