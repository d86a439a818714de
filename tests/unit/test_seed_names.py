"""Names that the five seed pages document and that no other test shows by themselves."""

import io
import json
import logging
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from python_calamine import CalamineWorkbook

import keepline.records
from keepline import query
from keepline.app.instance import Instance, init_instance, open_instance
from keepline.capture import Archive, CaptureServer
from keepline.delivery import export_task, print_export_queue
from keepline.delivery.recipients import recipient
from keepline.downloads import (
    DownloadOptions,
    TaskCollectionExporter,
    XlsxExporter,
    make_exporter,
)
from keepline.model import Instrument, Principal, RecordKey
from keepline.query import Column, ModuleUnavailable, connect, request
from keepline.query.module import ColumnInfo
from keepline.query.modules.memory import MemoryModule
from keepline.records import INSTRUMENT_SESSION, put_record
from keepline.sessions import SessionLog, add_instrument, get_sessions_to_build
from keepline.sessions.log import EVENT_TYPES
from keepline.store.tables.downloads import download as download_table
from tests.query_host import Counting, host, laboratory

NINE = datetime(2024, 5, 1, 9, tzinfo=UTC)
TEN = NINE + timedelta(hours=1)
ANN = Principal("ann", groups=frozenset({"lab"}))
RECIPIENTS = """
[recipients.files]
transport = "folder"
path = "outbox"

[recipients.more-files]
transport = "folder"
path = "outbox2"
"""


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[Instance]:
    with init_instance(tmp_path / "x") as made:
        yield made


def put(instance: Instance, key: str, group: str | None = None, title: str | None = None) -> None:
    values = {
        "instrument": "bench",
        "user_name": "ann",
        "started": NINE,
        "ended": TEN,
        "state": "complete",
        "messages": 1,
        "readings": 1,
        "gaps": 0,
        "quarantined": 0,
        "title": title,
    }
    with instance.store.write(Principal.system()) as connection:
        put_record(connection, INSTRUMENT_SESSION, key, values, {}, group=group)


# Delivery


def test_queue_of_some_recipients(instance: Instance) -> None:
    with (instance.folder / "keepline.toml").open("a") as file:
        file.write(RECIPIENTS)
    put(instance, "a")
    out = io.StringIO()
    with open_instance(instance.folder) as declared:
        print_export_queue(recipient_names=["more-files"], instance=declared, file=out)
    assert out.getvalue() == f"more-files\t{INSTRUMENT_SESSION.name}/a\t1\n"


def test_one_record_for_one_recipient(instance: Instance) -> None:
    with (instance.folder / "keepline.toml").open("a") as file:
        file.write(RECIPIENTS)
    put(instance, "a")
    put(instance, "b")
    with open_instance(instance.folder) as declared:
        files = recipient(declared.settings, "files")
        key = RecordKey(INSTRUMENT_SESSION.name, "b")
        report = export_task(recipient=files, record_key=key, instance=declared)
    assert (report.recipient, report.sent) == ("files", 1)
    (sent,) = (instance.folder / "outbox").rglob("*.json")
    assert json.loads(sent.read_text())["record"]["key"] == "b"


# Downloads


def cells(body: bytes) -> list[list[object]]:
    book = CalamineWorkbook.from_filelike(io.BytesIO(body))
    return book.get_sheet_by_name(INSTRUMENT_SESSION.name).to_python()


@pytest.mark.parametrize("kind", [TaskCollectionExporter, XlsxExporter, make_exporter])
def test_exporters_give_what_the_principal_may_see(instance: Instance, kind: type) -> None:
    put(instance, "mine", "lab", "=1+1")
    put(instance, "theirs", "other")
    options = DownloadOptions(viewtype="xlsx", record_types=(INSTRUMENT_SESSION.name,))
    exporter = kind(options, principal=ANN, instance=instance)
    heading, *rows = cells(exporter.get_file_body())
    assert [row[0] for row in rows] == ["mine"]
    assert rows[0][heading.index("title")] == "=1+1"
    name, body = exporter.to_file()
    assert name == exporter.get_filename()
    assert cells(body) == [heading, *rows]


def test_an_immediate_download_is_audited_with_its_options(instance: Instance) -> None:
    options = DownloadOptions(viewtype="xlsx", delivery_mode="immediate")
    assert make_exporter(options, principal=ANN, instance=instance).get_file_body()
    with instance.store.read() as connection:
        (row,) = connection.execute(sa.select(download_table))
    assert row.who == "ann"
    assert (row.options["viewtype"], row.options["delivery_mode"]) == ("xlsx", "immediate")


# Query


def test_when_ready_calls_back_or_blocks() -> None:
    back = threading.Event()
    called = threading.Event()
    error = ModuleUnavailable("lab", ready=back.is_set)
    assert error.module_name == "lab"
    error.when_ready(callback=called.set, timeout=60)
    error.when_ready(timeout=0.01)  # nobody is back: it returns after the time
    assert not called.is_set()
    back.set()
    assert called.wait(30)
    error.when_ready()


def test_types_tell_columns_apart() -> None:
    module = MemoryModule("m")
    kinds = {"text": query.STRING, "binary": query.BINARY, "real": query.NUMBER}
    kinds["datetime"] = query.DATETIME
    module.add_table("t", [ColumnInfo(kind, kind) for kind in kinds])
    asked = request()
    for kind in kinds:
        asked.add_field(kind, Column("m", "t", kind))
        asked.add_index(Column("m", "t", kind))
    with connect("admin", instance=host(module)) as connection:
        cursor = connection.cursor().execute(asked)
        codes = {name: code for name, code, *_ in cursor.description}
    assert codes == kinds
    assert len({*codes.values(), query.ROWID}) == 5


@pytest.mark.parametrize("name", ["connection", "description", "rowcount", "rownumber", "messages"])
def test_what_a_cursor_says_cannot_be_set(name: str) -> None:
    with connect("admin", instance=host()) as connection:
        cursor = connection.cursor()
        with pytest.raises(AttributeError):
            setattr(cursor, name, None)
        assert cursor.connection is connection


def test_values_are_given_when_a_request_is_executed() -> None:
    asked = request()
    asked.add_field("name", Column("lab", "sample", "name"))
    asked.add_param(Column("lab", "sample", "id"))
    with connect("admin", instance=host(laboratory())) as connection:
        cursor = connection.cursor()
        assert cursor.execute(asked, param_values={"id": 2}).fetchall() == [("sand",)]
        assert cursor.execute(asked, param_values={"id": 3}).fetchall() == [("soil",)]


def test_closing_a_cursor_gives_back_what_it_reads_from() -> None:
    module = Counting(laboratory())
    asked = request()
    asked.add_field("name", Column("lab", "sample", "name"))
    with connect("admin", instance=host(module)) as connection:
        cursor = connection.cursor().execute(asked)
        assert module.open == 1
        cursor.close()
        cursor.close()
        assert module.open == 0
        with pytest.raises(query.InterfaceError, match="closed"):
            cursor.fetchone()
        assert connection.cursor().execute(asked).fetchone() == ("salt",)


# Records


def test_package_says_its_name() -> None:
    assert keepline.records.__package__ == "keepline.records"


# Capture


def test_what_a_capture_store_keeps_of_a_session(instance: Instance) -> None:
    store = instance.capture_store
    server = CaptureServer(store, "bench")
    assert server.session is None
    number = server.start_session(started=NINE)
    assert server.session.number == number
    server.queue(b"a")
    server.queue(b"b")
    server.stop_session(ended=TEN)
    assert server.session is None
    (info,) = store.sessions()
    assert (info.number, info.started, info.ended) == (number, NINE, TEN)
    messages = [each for chunk in store.chunks(number, "main") for each in chunk.messages()]
    assert messages == [b"a", b"b"]


def test_archive_is_where_the_settings_say(tmp_path: Path) -> None:
    init_instance(tmp_path / "x").close()
    file = tmp_path / "x" / "keepline.toml"
    file.write_text(file.read_text().replace("sqlite:///keepline.db", "sqlite:///other.db"))
    (tmp_path / "x" / "keepline.db").rename(tmp_path / "x" / "other.db")
    with open_instance(tmp_path / "x") as instance:
        assert instance.settings.store.url.get_secret_value() == "sqlite:///other.db"
        add_instrument(Instrument("bench"), instance=instance)
        with CaptureServer(instance.capture_store, "bench") as server:
            number = server.start_session()
            server.queue(b'{"v": 1}')
            server.stop_session()
        archive = Archive(instance.store, instance.capture_store)
        archive.archive_session(number)
        assert [each.value for each in archive.get_session_readings(number)] == [1.0]


def test_statements_can_be_logged_without_their_values(
    instance: Instance, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "sqlalchemy.engine"):
        put(instance, "a", title="secret title")
    assert instance.store.engine.dialect.name == "sqlite"
    assert "INSERT INTO rec_" in caplog.text
    assert "secret title" not in caplog.text


# Sessions


def test_a_log_and_a_session_hold_what_they_were_given(instance: Instance) -> None:
    add_instrument(Instrument("m1"), instance=instance)
    log = SessionLog("s", "m1", NINE.isoformat(), "START", "ann", "TO_BE_BUILT")
    assert (log.session_identifier, log.instrument, log.timestamp) == (
        "s",
        "m1",
        "2024-05-01T09:00:00+00:00",
    )
    assert (log.event_type, log.user, log.record_status) == ("START", "ann", "TO_BE_BUILT")
    assert log.insert_log()
    last = SessionLog(
        session_identifier="s", instrument="m1", timestamp=TEN, event_type="END", user="ben"
    )
    assert last.record_status is None
    assert last.insert_log()
    (session,) = get_sessions_to_build()
    assert (session.session_identifier, session.instrument) == ("s", Instrument("m1"))
    assert (session.dt_range, session.user) == ((NINE, TEN), "ann")


def test_every_event_is_taken(instance: Instance) -> None:
    add_instrument(Instrument("m1"), instance=instance)
    assert EVENT_TYPES == ("START", "END", "RECORD_GENERATION")
    for minutes, kind in enumerate(EVENT_TYPES):
        assert SessionLog("s", "m1", NINE + timedelta(minutes=minutes), kind, "ann").insert_log()
