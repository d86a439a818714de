"""The modules over a store and over the live capture: what they show, and to whom."""

import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from keepline.capture.stores.sqlite import SqliteCaptureStore
from keepline.errors import ChunkDamagedError
from keepline.query import (
    Column,
    ModuleUnavailable,
    OperationalError,
    ProgrammingError,
    connect,
    request,
)
from keepline.query.module import ColumnInfo, Filter, Scan
from keepline.query.modules.capture import CaptureModule
from keepline.query.modules.memory import MemoryModule
from keepline.query.modules.sqltables import Exposure, SqlTablesModule
from keepline.query.modules.store import (
    archive_module,
    deliveries_module,
    records_module,
    sessions_module,
)
from keepline.store import Store, schema
from keepline.store.access import may_see_group, visible
from keepline.store.tables.capture import capture_session
from tests.query_host import Counting, host
from tests.query_live import LIVE_START, fill_capture
from tests.query_store import ANN, BEN, GROUPS, START, SYSTEM, fill


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("template") / "keepline.db"
    made = Store(f"sqlite:///{file}")
    fill(made)
    made.close()
    return file


@pytest.fixture
def store(template, tmp_path) -> Iterator[Store]:
    made = Store(f"sqlite:///{shutil.copy(template, tmp_path / 'keepline.db')}")
    yield made
    made.close()


@pytest.fixture
def live(tmp_path) -> Iterator[SqliteCaptureStore]:
    with SqliteCaptureStore(tmp_path / "capture.db") as made:
        fill_capture(made)
        yield made


#: Tables whose rows belong to the whole instance.
OF_ALL = {
    "archive.listed_session", "archive.category", "archive.cached_reading", "archive.config_item",
    "archive.notification",
}  # fmt: skip


def everything(store, live):
    return host(
        CaptureModule("capture", live, GROUPS.get),
        archive_module(store),
        sessions_module(store),
        records_module(store),
        deliveries_module(store),
        ann={"red"},
        ben=set(),
    )


def ask(instance, text, values=(), user="admin"):
    with connect(user, instance=instance) as connection:
        return connection.cursor().execute(text, values).fetchall()


def every_table(instance, principal=SYSTEM):
    return [
        (module, info) for module in instance.modules.values() for info in module.tables(principal)
    ]


def test_every_table_is_there_and_can_be_named_without_quotes(store, live):
    instance = everything(store, live)
    names = {f"{module.name}.{info.name}" for module, info in every_table(instance)}
    assert names == {
        "capture.session", "capture.stream", "capture.latest",
        "archive.session", "archive.stream", "archive.channel", "archive.block_stat", "archive.gap",
        "archive.clock_fit", *OF_ALL,
        "sessions.session", "sessions.event", "sessions.change",
        "records.usage", "records.usage__channel", "records.index", "records.subject",
        "deliveries.sent", "deliveries.backlog",
    }  # fmt: skip
    for module, info in every_table(instance):
        columns = ", ".join(column.name for column in info.columns)
        text = f"SELECT {columns} FROM {module.name}.{info.name} ORDER BY {', '.join(info.key)}"
        assert ask(instance, text)


def test_a_request_and_sql_agree_on_every_table(store, live):
    instance = everything(store, live)
    for module, info in every_table(instance):
        asked = request()
        for column in info.columns:
            asked.add_field(column.name, Column(module.name, info.name, column.name))
        with connect("admin", instance=instance) as connection:
            cursor = connection.cursor()
            by_request = cursor.execute(asked).fetchall()
            order = ", ".join(info.key)
            by_sql = cursor.execute(
                f"SELECT * FROM {module.name}.{info.name} ORDER BY {order}"
            ).fetchall()
        assert by_request == by_sql


def test_times_are_datetimes_and_payloads_stay_away(store, live):
    instance = everything(store, live)
    began = START + timedelta(hours=1)
    assert ask(instance, "SELECT from_at, until_at FROM archive.gap WHERE session_id = 1") == [
        (began + timedelta(microseconds=1), began + timedelta(microseconds=2))
    ]
    text = "SELECT first_at, last_at FROM archive.block_stat WHERE last_at <= ?"
    assert ask(instance, text, [began + timedelta(microseconds=7)]) == [
        (began, began + timedelta(microseconds=7))
    ]
    assert ask(instance, "SELECT step_us, options FROM archive.stream WHERE session_id = 1") == [
        (20_000, '{"a":[null],"b":1}')
    ]
    for _, info in every_table(instance):
        blobs = ["scan"] if info.name == "usage" else []  # a declared field, no payload
        assert [each.name for each in info.columns if each.type == "binary"] == blobs
        assert info.column("rev_txn") is None


@pytest.mark.parametrize(("principal", "names"), [(ANN, {"open", "red_one"}), (BEN, {"open"})])
def test_rows_of_other_groups_do_not_exist(store, live, principal, names):
    """In every table, in counts too, and whatever is asked for by name."""
    instance = everything(store, live)
    user = principal.name
    seen = len(names)
    for module, info in every_table(instance, principal):
        table = f"{module.name}.{info.name}"
        if table == "capture.latest":
            count = {"ann": 13, "ben": 3}[user]
        elif table == "capture.stream":
            count = {"ann": 3, "ben": 2}[user]
        else:
            count = 1 if table in OF_ALL else seen
        assert ask(instance, f"SELECT count(*) FROM {table}", user=user) == [(count,)], table
        scan = Scan(info.name, (info.columns[0].name,), principal)
        assert sum(map(len, module.scan(scan))) == count
    for text in (
        "SELECT 1 FROM archive.session WHERE instrument = 'blue_one'",
        "SELECT 1 FROM records.usage WHERE record_key = 'key-3'",
        "SELECT 1 FROM records.index WHERE record_key = 'key-3'",
        "SELECT 1 FROM records.subject WHERE identifier = 'person of blue_one'",
        "SELECT 1 FROM records.usage__channel WHERE record_key = 'key-3'",
        "SELECT 1 FROM deliveries.sent WHERE record_key = 'key-3'",
        "SELECT 1 FROM capture.session WHERE number = 3",
    ):
        assert ask(instance, text, user=user) == []
        assert len(ask(instance, text)) == 1


def test_both_ways_of_deciding_agree(store):
    with store.read() as connection:
        for principal in (SYSTEM, ANN, BEN):
            condition, _ = visible(capture_session, principal)
            rows = connection.execute(sa.select(capture_session.c.instrument).where(condition))
            by_sql = {row.instrument for row in rows}
            assert by_sql == {name for name, of in GROUPS.items() if may_see_group(of, principal)}


def test_filters_are_done_by_the_database(store):
    module = Counting(archive_module(store))
    text = "SELECT number FROM archive.session WHERE instrument IN ('open', ?) AND number > 1"
    assert ask(host(module), text, ["blue_one"]) == [(3,)]
    (scan,) = module.scans
    assert scan.filters == (
        Filter("instrument", "in", ("open", "blue_one")),
        Filter("number", ">", (1,)),
    )
    rows = [row for batch in archive_module(store).scan(scan) for row in batch]
    assert sorted(rows, key=repr) == [(3, "blue_one")]


def test_values_are_bound_and_never_text(store):
    for value in ("x'; DROP TABLE stream; --", "\x00", "%", "_____", 'a"b'):
        text = "SELECT 1 FROM archive.session WHERE instrument = ?"
        assert ask(host(archive_module(store)), text, [value]) == []
    assert ask(host(archive_module(store)), "SELECT count(*) FROM archive.stream") == [(3,)]


def test_a_value_wider_than_the_column_matches_nothing(store):
    module = archive_module(store)
    for op, count in (("in", 0), ("<", 3), (">", 0)):
        scan = Scan("block_stat", ("n",), SYSTEM, (Filter("n", op, (2**62,)),))
        assert sum(map(len, module.scan(scan))) == count


def test_a_type_is_there_as_soon_as_it_is_declared(tmp_path):
    store = Store(f"sqlite:///{tmp_path / 'keepline.db'}")
    schema.migrate(store)
    module = records_module(store)
    assert {table.name for table in module.tables(SYSTEM)} == {"index", "subject"}
    with pytest.raises(ProgrammingError, match=r"no table records\.usage"):
        ask(host(module), "SELECT * FROM records.usage")
    with pytest.raises(ProgrammingError):
        list(module.scan(Scan("usage", ("record_key",), SYSTEM)))
    fill(store)
    assert [info.name for info in module.tables(SYSTEM)] == [
        *("index", "subject"),
        *("usage", "usage__channel"),
    ]
    store.close()


def test_one_request_joins_live_archive_records_and_deliveries(store, live):
    """The question that the demo asks, over five modules."""
    asked = request()
    session, stat = ("archive", "session"), ("archive", "block_stat")
    asked.add_field("instrument", Column(session, "instrument"))
    asked.add_field("queued", Column("capture", "stream", "messages"))
    asked.add_field("highest", Column(stat, "max"))
    asked.add_field("runs", Column("records", "usage", "runs"))
    asked.add_field("state", Column("deliveries", "sent", "state"))
    asked.add_param(Column("capture", "stream", "session"), Column(session, "number"))
    asked.add_param(Column("archive", "channel", "session_id"), Column(session, "id"))
    asked.add_param(Column(stat, "channel_id"), Column("archive", "channel", "id"))
    asked.add_param(Column("records", "usage", "instrument"), Column(session, "instrument"))
    asked.add_param(
        Column("deliveries", "sent", "record_key"), Column("records", "usage", "record_key")
    )
    asked.add_param(Column("capture", "stream", "source"), "main")
    instance = everything(store, live)
    text = """
        SELECT s.instrument, l.messages, b.max, u.runs, d.state
        FROM archive.session s
        JOIN capture.stream l ON l.session = s.number AND l.source = 'main'
        JOIN archive.channel c ON c.session_id = s.id
        JOIN archive.block_stat b ON b.channel_id = c.id
        JOIN records.usage u ON u.instrument = s.instrument
        JOIN deliveries.sent d ON d.record_key = u.record_key
        ORDER BY s.id
    """
    with connect("admin", instance=instance) as connection:
        cursor = connection.cursor()
        rows = cursor.execute(asked).fetchall()
        assert rows == [
            ("open", 25, 2.0, 1, "sent"),
            ("red_one", 3, 4.0, 2, "sent"),
            ("blue_one", 0, 6.0, 3, "sent"),
        ]
        assert cursor.execute(text).fetchall() == rows


def test_the_live_capture_shows_what_is_there_now(live):
    instance = host(CaptureModule("capture", live, GROUPS.get))
    assert ask(
        instance,
        "SELECT number, instrument, state, started_at, ended_at, origin FROM capture.session",
    ) == [
        (1, "red_one", "complete", LIVE_START, LIVE_START + timedelta(minutes=1), "file 1"),
        (2, "open", "running", LIVE_START, None, "file 2"),
        (3, "blue_one", "running", LIVE_START, None, "file 3"),
    ]
    streams = (
        "SELECT session, source, messages, last_seq, archived_seq, last_at FROM capture.stream"
    )
    microsecond = timedelta(microseconds=1)
    assert ask(instance, streams) == [
        (1, "main", 25, 24, 14, LIVE_START + 24 * microsecond),
        (2, "main", 3, 2, None, LIVE_START + 2 * microsecond),
        (2, "other", 0, None, None, None),
        (3, "main", 0, None, None, None),
    ]
    latest = "SELECT seq, taken_at, message FROM capture.latest WHERE session = 1 ORDER BY seq"
    assert ask(instance, latest) == [
        (seq, LIVE_START + seq * microsecond, f"message {seq} é") for seq in range(15, 25)
    ]
    assert ask(instance, "SELECT count(*) FROM capture.stream WHERE session IN (2, 77)") == [(2,)]


def test_a_damaged_capture_is_an_error(live):
    class Damaged:
        def __getattr__(self, name):
            return getattr(live, name)

        def chunks(self, *_):
            raise ChunkDamagedError(first_seq=0, last_seq=0, raw=b"")

    instance = host(CaptureModule("capture", Damaged(), GROUPS.get))
    with pytest.raises(OperationalError, match="capture"):
        ask(instance, "SELECT * FROM capture.latest")
    assert len(ask(instance, "SELECT * FROM capture.session")) == 3


def test_columns_of_other_types_are_shown_as_text(store):
    tables = sa.MetaData()
    odd = sa.Table(
        "odd", tables, sa.Column("id", sa.Integer, primary_key=True), sa.Column("hour", sa.Time),
        sa.Column("price", sa.Numeric(10, 2)), sa.Column("hidden", sa.Text),
    )  # fmt: skip
    with store.maintenance() as connection:
        tables.create_all(connection)
        connection.exec_driver_sql(
            "INSERT INTO odd VALUES (1, '12:30:00.000000', 1.5, 'x'), (2, NULL, 2, 'y')"
        )
    module = SqlTablesModule("m", store, [Exposure("odd", odd, frozenset({"hidden"}))])
    assert ask(host(module), "SELECT * FROM m.odd WHERE hour = '12:30:00'") == [
        (1, "12:30:00", "1.50")
    ]
    with pytest.raises(ProgrammingError):
        ask(host(module), "SELECT hidden FROM m.odd")
    with pytest.raises(ProgrammingError):
        list(module.scan(Scan("odd", ("hidden",), SYSTEM)))


def test_a_store_that_cannot_be_opened_is_unavailable(tmp_path):
    store = Store(f"sqlite:///{tmp_path / 'no' / 'folder.db'}")
    module = records_module(store)
    with pytest.raises(ModuleUnavailable) as caught:
        module.tables(SYSTEM)
    assert caught.value.module_name == "records"
    (tmp_path / "no").mkdir()
    fill(store)
    caught.value.when_ready(timeout=1)
    assert len(module.tables(SYSTEM)) == 4
    store.close()


def test_a_broken_table_is_an_error_without_its_values(store):
    with store.maintenance() as connection:
        connection.exec_driver_sql("DROP TABLE gap")
    with pytest.raises(OperationalError, match="archive") as caught:
        ask(host(archive_module(store)), "SELECT * FROM archive.gap WHERE source = 'secret'")
    assert "secret" not in str(caught.value)


def test_a_scan_sees_one_state_and_leaves_no_connection(store):
    module = archive_module(store)
    scan = Scan("session", ("number",), SYSTEM)
    for _ in range(30):
        left = module.scan(scan)
        next(left)
        left.close()
    with connect("admin", instance=host(module)) as connection:
        asked = request()
        asked.add_field("n", Column("archive", "session", "number"))
        for _ in range(30):
            connection.cursor().execute(asked).fetchone()
    assert store.engine.pool.checkedout() == 0


def test_memory_scans_keep_the_state_that_they_began_with():
    module = MemoryModule("m")
    module.add_table("t", [ColumnInfo("n", "integer")], [(n,) for n in range(1_500)])
    batches = module.scan(Scan("t", ("n",), SYSTEM))
    first = next(batches)
    module.add_rows("t", [(9,)])
    assert len(first) + sum(map(len, batches)) == 1_500
