"""What archiving costs, and reading back: against the ways that people take to store readings.

A session of 8 channels (4 float32, 4 int16) of made-up sensor noise lies in a SQLite capture
store. Its archiving starts from the raw messages: reading, checking, decoding, statistics and
compression are all in it. The peers are given their rows ready-made. CPU time of this process,
and of the server's where there is one; rounds of all sides alternate, a value is the ratio of
their least costs, which neighbours on the machine disturb least. One JSON line a claim.
"""

import json
import os
import resource
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import psycopg
import sqlalchemy as sa
from sqlalchemy import orm

sys.path.insert(0, str(Path(__file__).parents[1]))

from keepline.capture import Archive, SqliteCaptureStore, replay_csv
from keepline.model import Chunk, Principal, StreamSpec, to_us
from keepline.store import Store, schema
from keepline.store.tables import capture as tables
from keepline.store.tables import common
from tests.servers import RunningServer, postgres_server

START = datetime(2026, 1, 1, tzinfo=UTC)
STEP_US = 1_000
FLOATS, WHOLE = 4, 4
CHANNELS = FLOATS + WHOLE
LAYOUT = np.dtype(
    [(f"f{n}", "<f4") for n in range(FLOATS)] + [(f"i{n}", "<i2") for n in range(WHOLE)]
)
SPEC = StreamSpec(
    decoder="struct",
    options={
        "fields": [
            *({"name": f"f{n}", "type": "f32"} for n in range(FLOATS)),
            *({"name": f"i{n}", "type": "i16"} for n in range(WHOLE)),
        ]
    },
    step_us=STEP_US,
)
SKAB = Path(
    os.environ.get("KEEPLINE_TEST_SKAB") or Path(__file__).parents[2] / "shared" / "data" / "skab"
)
ROUNDS = 7
READINGS = 2_000_000
PEER_READINGS = 50_000
ROW_READINGS = 400_000

#: A server's processes end, and are counted, so much later.
_AFTERWARDS_S = 1.0

Rows = list[tuple[int, int, int, int, float]]


def main() -> None:
    """Measure everything and print the claims."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        session = place / "session.db"
        record(session, READINGS // CHANNELS)
        to_sqlite(place, session)
        with postgres_server() as server:
            to_postgres(server, session)
        to_numpy(place)
        skab_bytes(place)
        memory(place)


class Base(orm.DeclarativeBase):
    """The tables of the ORM peer."""


class Reading(Base):
    """One reading, as an object."""

    __tablename__ = "reading"

    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    session: orm.Mapped[int]
    channel: orm.Mapped[int]
    seq: orm.Mapped[int]
    at_us: orm.Mapped[int] = orm.mapped_column(sa.BigInteger)
    value: orm.Mapped[float]


CREATE = (
    "CREATE TABLE reading (id {key} PRIMARY KEY, session INTEGER NOT NULL, channel INTEGER"
    " NOT NULL, seq BIGINT NOT NULL, at_us BIGINT NOT NULL, value DOUBLE PRECISION NOT NULL)"
)
COLUMNS = "session, channel, seq, at_us, value"


def to_sqlite(place: Path, session: Path) -> None:
    """Compare archiving to SQLite with the ORM and with executemany."""
    orm_rows, rows = made_rows(PEER_READINGS), made_rows(ROW_READINGS)
    ours, by_orm, by_row = [], [], []
    warm_up(place, session)
    for _ in range(ROUNDS):
        by_orm.append(in_sqlite(place, add_all, orm_rows) / len(orm_rows))
        ours.append(archive_in_sqlite(place, session) / READINGS)
        by_row.append(in_sqlite(place, execute_many, rows) / len(rows))
    claim("raw session to archive, SQLite", "SQLAlchemy ORM, add_all", 500, ours, by_orm)
    claim("raw session to archive, SQLite", "sqlite3, executemany", 10, ours, by_row)


def warm_up(place: Path, session: Path) -> None:
    """Load what is loaded late, and compile what is compiled once, on both sides."""
    archive_in_sqlite(place, session)
    in_sqlite(place, add_all, made_rows(1_000))


def archive_in_sqlite(place: Path, session: Path) -> float:
    """Return the CPU time of archiving a session to a new SQLite store."""
    with sql_store(f"sqlite:///{place / 'archive.db'}") as store, copied(session) as captured:
        return cpu(lambda: archive(store, captured))


def archive(store: Store, captured: SqliteCaptureStore) -> None:
    """Archive session 1 whole."""
    result = Archive(store, captured).archive_session(1)
    assert result.state == "complete"
    assert result.readings >= 1_000_000


def in_sqlite(place: Path, work: Callable[[Path, Rows], None], rows: Rows) -> float:
    """Return the CPU time of `work` with a new file."""
    path = place / "rows.db"
    try:
        return cpu(lambda: work(path, rows))
    finally:
        for each in place.glob("rows.db*"):
            each.unlink()


def add_all(path: Path, rows: Rows) -> None:
    """Store one object a reading."""
    engine = sa.create_engine(f"sqlite:///{path}")
    Base.metadata.create_all(engine)
    with orm.Session(engine) as session:
        session.add_all(
            Reading(session=one, channel=channel, seq=seq, at_us=at_us, value=value)
            for one, channel, seq, at_us, value in rows
        )
        session.commit()
    engine.dispose()


def execute_many(path: Path, rows: Rows) -> None:
    """Store one row a reading, with the settings of the archive."""
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(CREATE.format(key="INTEGER"))
    connection.executemany(f"INSERT INTO reading ({COLUMNS}) VALUES (?, ?, ?, ?, ?)", rows)
    connection.commit()
    connection.close()


def to_postgres(server: RunningServer, session: Path) -> None:
    """Compare archiving to PostgreSQL with COPY of one row a reading."""
    rows = made_rows(ROW_READINGS)
    ours, by_row = [], []
    for count in range(ROUNDS + 1):
        with database(server) as url, sql_store(url) as store, copied(session) as captured:
            spent = cpu(lambda: archive(store, captured), server.pid) / READINGS
            copy_spent = cpu(lambda: copy_rows(url, rows), server.pid) / len(rows)
        if count:  # the first round warms up
            ours.append(spent)
            by_row.append(copy_spent)
    claim("raw session to archive, PostgreSQL", "psycopg, COPY of rows", 3, ours, by_row)


def copy_rows(url: str, rows: Rows) -> None:
    """Store one row a reading by a binary COPY."""
    with psycopg.connect(url.replace("+psycopg", "")) as connection:
        connection.execute(CREATE.format(key="BIGSERIAL"))
        with (
            connection.cursor() as cursor,
            cursor.copy(f"COPY reading ({COLUMNS}) FROM STDIN (FORMAT BINARY)") as copy,
        ):
            copy.set_types(["int4", "int4", "int8", "int8", "float8"])
            for row in rows:
                copy.write_row(row)


@contextmanager
def database(server: RunningServer) -> Iterator[str]:
    """Make a database and drop it."""
    url = sa.make_url(server.url)
    with psycopg.connect(server.url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute("CREATE DATABASE bench")
        yield url.set(database="bench").render_as_string(hide_password=False)
        connection.execute("DROP DATABASE bench WITH (FORCE)")


def to_numpy(place: Path) -> None:
    """Compare reading a channel back with ORM objects, and with a plain read of its bytes."""
    n = 1_000_000
    path, plain = place / "channel.db", place / "channel.bin"
    record(path, n, one_channel=True)
    rows = made_rows(PEER_READINGS)
    add_all(place / "read.db", rows)
    ours, objects, bytes_, blobs = [], [], [], []
    with sql_store(f"sqlite:///{place / 'archive.db'}") as store, copied(path) as captured:
        archive(store, captured)
        reader = Archive(store, captured)
        times, values = reader.read(1, "f0")
        assert len(values) == n
        np.concatenate((times, values.view(np.int64))).tofile(plain)
        keep_blobs(place / "blobs.db", times, values)
        for _ in range(ROUNDS):
            ours.append(cpu(lambda: reader.read(1, "f0")) / n)
            objects.append(cpu(lambda: read_objects(place / "read.db")) / len(rows))
            bytes_.append(cpu(lambda: np.fromfile(plain, np.int64)) / n)
            blobs.append(cpu(lambda: read_blobs(place / "blobs.db", n)) / n)
    (place / "read.db").unlink()
    claim("one channel to numpy", "SQLAlchemy ORM, objects", 500, ours, objects)
    cost = min(ours)
    for peer, costs in (
        ("sqlite3, plain BLOBs of the same 16 bytes a reading, to numpy", blobs),
        ("numpy.fromfile of the same 16 bytes a reading", bytes_),
    ):
        least = min(costs)
        line(
            "one channel to numpy, times and values: as long as a plain read",
            peer,
            cost / least,
            5,
            holds=cost / least <= 5,
            n=n,
            how=f"how many times as long; CPU time, the least of {ROUNDS} rounds: "
            f"{cost * 1e9:.1f} and {least * 1e9:.1f} ns a reading",
        )


def keep_blobs(path: Path, times: Any, values: Any) -> None:
    """Keep times and values as they are, 10,000 a row."""
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE part (first INTEGER PRIMARY KEY, times BLOB, readings BLOB)")
    for first in range(0, len(times), 10_000):
        part = slice(first, first + 10_000)
        row = (first, times[part].tobytes(), values[part].tobytes())
        connection.execute("INSERT INTO part VALUES (?, ?, ?)", row)
    connection.commit()
    connection.close()


def read_blobs(path: Path, n: int) -> None:
    """Read them back into two arrays."""
    times, values = np.empty(n, np.int64), np.empty(n, np.float64)
    connection = sqlite3.connect(path)
    for first, some, others in connection.execute("SELECT * FROM part ORDER BY first"):
        part = slice(first, first + len(some) // 8)
        times[part] = np.frombuffer(some, np.int64)
        values[part] = np.frombuffer(others, np.float64)
    connection.close()


def read_objects(path: Path) -> None:
    """Read one object a reading."""
    engine = sa.create_engine(f"sqlite:///{path}")
    with orm.Session(engine) as session:
        assert len(session.scalars(sa.select(Reading)).all()) == PEER_READINGS
    engine.dispose()


def skab_bytes(place: Path) -> None:
    """Count the bytes that real sensor data take, with and without the messages as they came."""
    if not SKAB.is_dir():
        print(json.dumps({"claim": "bytes a reading", "skipped": f"no SKAB files in {SKAB}"}))
        return
    with (
        sql_store(f"sqlite:///{place / 'skab.db'}") as store,
        SqliteCaptureStore(place / "skab-capture.db") as captured,
    ):
        for file in sorted(SKAB.glob("*/*.csv")):
            replay_csv(
                captured, Archive(store, captured), file, instrument="bench",
                tz="Europe/Moscow", time_column="datetime", delimiter=";",
            )  # fmt: skip
        length = sa.func.sum(sa.func.length(tables.block.c.payload))
        raw_length = sa.func.sum(sa.func.length(tables.block_raw.c.payload))
        with store.read() as connection:
            readings = connection.execute(sa.select(sa.func.sum(tables.block.c.readings))).scalar()
            blocks = connection.execute(sa.select(length)).scalar()
            raw = connection.execute(sa.select(raw_length)).scalar()
        store.close()
        # Everything: rows, statistics, indexes, free pages.
        whole = (place / "skab.db").stat().st_size
    with sql_store(f"sqlite:///{place / 'empty.db'}") as store:
        store.close()
        whole -= (place / "empty.db").stat().st_size
    line(
        "bytes a reading, real sensor data, messages as they came included",
        "SKAB, 30 files of CSV",
        (blocks + raw) / readings,
        8,
        holds=whole / readings <= 8,
        n=int(readings),
        how=f"blocks {blocks / readings:.2f}, messages {raw / readings:.2f}; "
        f"the SQLite file with statistics and indexes {whole / readings:.2f}",
    )


def memory(place: Path) -> None:
    """Compare the peak memory of archiving 1 and 50 million readings, each in a process."""
    peaks = []
    for readings in (1_000_000, 50_000_000):
        session = place / f"session-{readings}.db"
        record(session, readings // CHANNELS)
        done = subprocess.run(
            [sys.executable, __file__, "--peak", str(place), str(session)],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        peaks.append(int(done.stdout) / 1024)
        shutil.rmtree(place / f"{session.name}-locks")
        session.unlink()
    line(
        "peak memory of archiving 50 M readings",
        "of 1 M readings",
        peaks[1] / peaks[0],
        1.15,
        holds=peaks[1] / peaks[0] <= 1.15,
        n=50_000_000,
        how=f"peak resident memory of a process each: {peaks[1]:.0f} and {peaks[0]:.0f} MiB",
    )


def peak(place: Path, session: Path) -> None:
    """Archive a session and print this process's peak memory in KiB."""
    with (
        sql_store(f"sqlite:///{place / 'peak.db'}") as store,
        SqliteCaptureStore(session) as captured,
    ):
        archive(store, captured)
    print(peak_kib())


def peak_kib() -> int:
    """Return this process's peak memory.

    Linux's ru_maxrss begins at what the process that started this one had.
    """
    status = Path("/proc/self/status")
    if status.exists():
        found = next(text for text in status.read_text().splitlines() if text.startswith("VmHWM"))
        return int(found.split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def record(path: Path, messages: int, *, one_channel: bool = False) -> None:
    """Record a session of made-up sensor noise."""
    random = np.random.default_rng(1)
    layout = np.dtype([("f0", "<f4")]) if one_channel else LAYOUT
    options = {"fields": SPEC.options["fields"][: len(layout)]}
    spec = StreamSpec(decoder="struct", options=options, step_us=STEP_US)
    with SqliteCaptureStore(path) as store:
        writer = store.create_session("bench", "ann", spec, started=START)
        for first in range(0, messages, 1_000):
            writer.append([chunk(random, layout, first, min(1_000, messages - first))])
        writer.close()
        ended = START + timedelta(microseconds=STEP_US) * messages
        store.close_session(1, "complete", ended)


def chunk(random: np.random.Generator, layout: Any, first: int, n: int) -> Chunk:
    """Return messages of slowly changing floats and of noise."""
    values = np.zeros(n, layout)
    for name in layout.names:
        if name.startswith("f"):
            values[name] = 20 + np.cumsum(random.normal(0, 0.01, n))
        else:
            values[name] = random.normal(0, 60, n)
    raw = values.tobytes()
    times = to_us(START) + np.arange(first, first + n) * STEP_US + random.integers(-50, 50, n)
    lengths = array("I", [layout.itemsize] * n).tobytes()
    wall_us = int(times[-1])
    packed = times.astype("<i8").tobytes()
    crc = Chunk.checksum(first, lengths, packed, b"", raw)
    return Chunk(first, lengths, packed, b"", raw, wall_us, (wall_us - to_us(START)) * 1_000, crc)


def made_rows(n: int) -> Rows:
    """Return readings as rows."""
    values = np.random.default_rng(1).normal(size=n).tolist()
    start = to_us(START)
    return [
        (1, place % CHANNELS, place // CHANNELS, start + place // CHANNELS * STEP_US, value)
        for place, value in enumerate(values)
    ]


@contextmanager
def sql_store(url: str) -> Iterator[Store]:
    """Make an SQL store with an instrument; a file is removed afterwards."""
    store = Store(url)
    schema.migrate(store)
    with store.write(Principal.system()) as connection:
        connection.execute(sa.insert(common.instrument).values(name="bench", tz="UTC", comment=""))
    try:
        yield store
    finally:
        store.close()
        if store.dialect == "sqlite":
            path = Path(str(store.engine.url.database))
            for each in path.parent.glob(f"{path.name}*"):
                each.unlink()


@contextmanager
def copied(session: Path) -> Iterator[SqliteCaptureStore]:
    """Give a copy of a capture store in which nothing is archived."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(session, Path(folder) / "capture.db")
        with SqliteCaptureStore(Path(folder) / "capture.db") as store:
            yield store


def cpu(work: Callable[[], object], server: int | None = None) -> float:
    """Return the CPU time of `work` in this process, and in a server's with all its children."""
    before = server_time(server)
    start = time.process_time()
    work()
    spent = time.process_time() - start
    if server is not None:
        time.sleep(_AFTERWARDS_S)
    return spent + server_time(server) - before


def server_time(pid: int | None) -> float:
    """Return the CPU time of a process and of its children, also those that have ended."""
    if pid is None:
        return 0.0
    parent = psutil.Process(pid)
    times = [parent.cpu_times()]
    for child in parent.children(recursive=True):
        try:
            times.append(child.cpu_times())
        except psutil.NoSuchProcess:
            continue  # it is counted among the ended ones the next time
    own = sum(each.user + each.system for each in times)
    return own + times[0].children_user + times[0].children_system


def claim(name: str, peer: str, target: float, ours: list[float], theirs: list[float]) -> None:
    """Print how many times the cost of ours the peer's is."""
    cost, peer_cost = min(ours), min(theirs)
    line(
        name,
        peer,
        peer_cost / cost,
        target,
        holds=peer_cost / cost >= target,
        n=READINGS,
        how=f"CPU time; the least of {len(ours)} alternating rounds: "
        f"{cost * 1e9:.1f} and {peer_cost * 1e9:.1f} ns a reading",
    )


def line(
    name: str, peer: str, value: float, target: float, *, holds: bool, n: int, how: str
) -> None:
    """Print one claim as a JSON line."""
    found = {"claim": name, "peer": peer, "value": round(value, 2), "target": target}
    print(json.dumps({**found, "holds": holds, "n": n, "how": how}), flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peak"]:
        peak(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        main()
