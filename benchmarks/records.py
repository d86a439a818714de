"""What saving and loading records costs: business objects beside SQLAlchemy Core and its ORM.

All of them work on one table of a record type with ten fields and its triggers, in the same
settings: no commit waits for the disk, whose time would hide everything else. The ORM's objects
have the row's token for their `version_id_col`, which is what gives them the same protection; how
long it takes on a table of its own, with a counter and without triggers, is told beside it.
Rounds alternate, and a ratio is of their medians. CPU time is that of this process and, for
PostgreSQL, of the server's.
"""

import argparse
import gc
import json
import os
import sqlite3
import statistics
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import orm

from keepline.model import Field, Principal, RecordType, from_us
from keepline.records import BusinessObject, apply_type, business_class, save_all
from keepline.records.types import table_of
from keepline.store import Store, schema

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tests.servers import postgres_server

TYPE = RecordType(
    "measurement",
    tuple(Field(f"text_{n}") for n in range(4))
    + tuple(Field(f"whole_{n}", "integer") for n in range(3))
    + tuple(Field(f"real_{n}", "real") for n in range(2))
    + (Field("taken", "datetime"),),
)
ROUNDS = 7
SAVES = 100
BATCH = 1_000
LOADED = 100_000
WEIGHED = 20_000


class Cost(NamedTuple):
    """Seconds for one of whatever was measured."""

    cpu: float
    wall: float


@dataclass(frozen=True)
class Here:
    """What business objects need of an instance."""

    store: Store
    epoch: str = "benchmark"


@dataclass(frozen=True)
class Bench:
    """A store, its name, and how to read the CPU time of all that work for it."""

    store: Store
    cpu: Callable[[], float]
    rounds: int

    @property
    def name(self) -> str:
        """Return the database's name."""
        return {"sqlite": "SQLite", "postgresql": "PostgreSQL"}[self.store.dialect]

    @property
    def objects(self) -> type[BusinessObject]:
        """Return the class of business objects."""
        return business_class(TYPE)


def main() -> None:
    """Measure on both databases and print the claims."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rounds", type=int, default=ROUNDS)
    options.add_argument("--loaded", type=int, default=LOADED)
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run(Bench(prepared(f"sqlite:///{folder}/store.db"), time.process_time, given.rounds), given)
    with postgres_server() as server:

        def cpu() -> float:
            return time.process_time() + server_cpu(server.pid)

        run(Bench(prepared(server.url), cpu, given.rounds), given)


def run(bench: Bench, given: argparse.Namespace) -> None:
    """Measure everything on one database."""
    fill(bench.store, 2 * BATCH)
    single(bench)
    batch(bench)
    triggers(bench)
    fill(bench.store, given.loaded)
    loading(bench, given.loaded)
    memory(bench)
    bench.store.close()


def prepared(url: str) -> Store:
    """Return a new store with the record type, and a table of the ORM's own."""
    store = Store(url)
    sa.event.listen(store.engine, "connect", _without_waiting)
    schema.migrate(store)
    apply_type(store, TYPE, Principal.system())
    with store.write(Principal.system()) as connection:
        mapped(store, with_triggers=False).__table__.create(connection)
    return store


def _without_waiting(connection: Any, _record: object) -> None:
    # How long a disk takes to confirm a commit is the same for all, and would hide the rest.
    if isinstance(connection, sqlite3.Connection):
        connection.execute("PRAGMA synchronous = OFF")
    else:
        connection.execute("SET SESSION synchronous_commit = off")
        connection.commit()


def fill(store: Store, n: int) -> None:
    """Make the tables hold `n` records, in transactions of a bearable size."""
    moment = time.time()
    own = mapped(store, with_triggers=False).__table__
    with store.write(Principal.system()) as connection:
        there = connection.execute(sa.select(sa.func.count()).select_from(own)).scalar_one()
    for begin in range(there, n, 5_000):
        rows = [values(number, moment) for number in range(begin, min(begin + 5_000, n))]
        with store.write(Principal.system()) as connection:
            connection.execute(sa.insert(table_of(TYPE)), rows)
            connection.execute(sa.insert(own), [{**row, "version": 1} for row in rows])
    if store.dialect == "postgresql":
        with store.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("VACUUM ANALYZE")


def values(number: int, moment: float) -> dict[str, Any]:
    """Return the values of one record."""
    return {
        "record_key": f"m{number:07}",
        **{f"text_{n}": f"some text {number}" for n in range(4)},
        **{f"whole_{n}": number * 1000 + n for n in range(3)},
        **{f"real_{n}": number / 3 for n in range(2)},
        "taken": from_us(int(moment * 1e6) + number),
    }


_mapped: dict[tuple[Store, bool], Any] = {}


def mapped(store: Store, *, with_triggers: bool) -> Any:
    """Return an ORM class with a version: on the record type's table, or on one of its own."""
    if (store, with_triggers) in _mapped:
        return _mapped[store, with_triggers]
    base, given = sa.MetaData(), table_of(TYPE)
    columns = [sa.Column(c.name, c.type, primary_key=c.primary_key) for c in given.c]
    if with_triggers:
        for column in columns:
            if column.name == "row_rev":
                column.server_onupdate = sa.FetchedValue(for_update=True)
        # On SQLite RETURNING shows the token before it is stamped.
        table = sa.Table(
            given.name, base, *columns, implicit_returning=store.dialect == "postgresql"
        )
        arguments = {"version_id_col": table.c.row_rev, "version_id_generator": False}
    else:
        kept = [column for column in columns if column.name not in schema_columns()]
        table = sa.Table("plain", base, *kept, sa.Column("version", sa.Integer, nullable=False))
        arguments = {"version_id_col": table.c.version}
    registry = orm.registry()
    found = type("Mapped", (), {"__table__": table, "__mapper_args__": arguments})
    _mapped[store, with_triggers] = registry.mapped(found)
    return _mapped[store, with_triggers]


def schema_columns() -> frozenset[str]:
    """Return the columns that triggers stamp."""
    return frozenset({"row_born", "row_rev", "revision", "rev_txn"})


def single(bench: Bench) -> None:
    """Compare one optimistic save at a time."""
    store, table = bench.store, table_of(TYPE)
    obj = bench.objects("m0000000", instance=Here(store))
    numbers = iter(range(10**9))

    def ours() -> None:
        for _ in range(SAVES):
            obj["whole_0"] = next(numbers)
            assert obj.save()

    def core() -> None:
        for _ in range(SAVES):
            with store.engine.begin() as connection:
                statement = sa.update(table).where(table.c.record_key == "m0000001")
                done = connection.execute(statement.values(whole_0=next(numbers)))
                assert done.rowcount == 1

    def by_orm(kind: Any) -> Callable[[], None]:
        def work() -> None:
            for _ in range(SAVES):
                with orm.Session(store.engine) as session:
                    found = session.get_one(kind, "m0000002")
                    found.whole_0 = next(numbers)
                    session.commit()

        return work

    us, update, tokens, counter = alternated(
        bench,
        SAVES,
        ours,
        core,
        by_orm(mapped(store, with_triggers=True)),
        by_orm(mapped(store, with_triggers=False)),
    )
    what = f"{bench.name}: one optimistic save"
    limit(what, "the same UPDATE by Core", 1.5, us, update, SAVES)
    faster(what, "ORM get + set + flush, same table and triggers", 5, us, tokens, SAVES, counter)


def batch(bench: Bench) -> None:
    """Compare a thousand saves at once, with an outcome each."""
    store, table = bench.store, table_of(TYPE)
    everything = list(bench.objects.select(limit=2 * BATCH, instance=Here(store)))
    objects = everything[:BATCH]
    ours_keys, keys = ([obj.key for obj in half] for half in (objects, everything[BATCH:]))
    numbers = iter(range(10**9))

    def ours() -> None:
        number = next(numbers)
        for obj in objects:
            obj["whole_0"] = obj["whole_1"] + number
        assert all(result.outcome == "saved" for result in save_all(objects))

    def raw() -> None:
        number = next(numbers)
        wanted = [number + each for each in range(BATCH)]
        with store.engine.begin() as connection:
            if store.dialect == "postgresql":
                done = connection.exec_driver_sql(
                    f"UPDATE {table.name} SET whole_0 = given.value FROM "
                    "unnest(%s::text[], %s::bigint[]) AS given (key, value) "
                    "WHERE record_key = given.key",
                    (keys, wanted),
                )
            else:
                done = connection.exec_driver_sql(
                    f"UPDATE {table.name} SET whole_0 = given.value FROM "
                    "(SELECT value ->> 0 AS key, value ->> 1 AS value FROM json_each(?)) AS given "
                    "WHERE record_key = given.key",
                    (json.dumps(list(zip(keys, wanted, strict=True))),),
                )
            assert done.rowcount == BATCH

    def by_orm(kind: Any) -> Callable[[], None]:
        def work() -> None:
            number = next(numbers)
            with orm.Session(store.engine) as session:
                found = session.scalars(sa.select(kind).where(kind.record_key.in_(keys))).all()
                for each in found:
                    each.whole_0 = each.whole_1 + number
                session.commit()

        return work

    def with_reading() -> None:
        nonlocal objects
        objects = list(bench.objects.select(ours_keys, instance=Here(store)))
        ours()

    us, array = alternated(bench, BATCH, ours, raw)
    what = f"{bench.name}: a batch of {BATCH:,} with an outcome each"
    limit(what, "one raw array UPDATE", 2, us, array, BATCH)
    us, tokens, counter = alternated(
        bench,
        BATCH,
        with_reading,
        by_orm(mapped(store, with_triggers=True)),
        by_orm(mapped(store, with_triggers=False)),
    )
    peer = "ORM select + set + flush, same table and triggers"
    faster(f"{what}, read before", peer, 5, us, tokens, BATCH, counter)


def triggers(bench: Bench) -> None:
    """State what each trigger adds to the update of a row."""
    store, table = bench.store, table_of(TYPE).name

    def update(name: str) -> float:
        def work() -> None:
            with store.write(Principal.system()) as connection:
                connection.exec_driver_sql(f"UPDATE {name} SET whole_0 = whole_0 + 1")

        return statistics.median(
            measured(work, 2 * BATCH, bench.cpu).wall for _ in range(bench.rounds)
        )

    whole, bare = update(table), update("plain")
    state(f"{bench.name}: an update of a row, all its triggers", "without", whole, bare)
    for name in update_triggers(store, table):
        with without_trigger(store, table, name):
            state(f"{bench.name}: the trigger {name}", "the others alone", whole, update(table))


def update_triggers(store: Store, table: str) -> list[str]:
    """Return the triggers that an update of a row fires."""
    with store.read() as connection:
        if store.dialect == "sqlite":
            query = (
                "SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = ? "
                "AND sql LIKE '% UPDATE %ON rec%' ORDER BY name"
            )
            return list(connection.exec_driver_sql(query, (table,)).scalars())
        query = (
            "SELECT DISTINCT trigger_name FROM information_schema.triggers "
            "WHERE event_object_table = %s AND event_manipulation = 'UPDATE' ORDER BY 1"
        )
        return list(connection.exec_driver_sql(query, (table,)).scalars())


@contextmanager
def without_trigger(store: Store, table: str, name: str) -> Iterator[None]:
    """Take a trigger away for the block."""
    with store.engine.begin() as connection:
        if store.dialect == "sqlite":
            query = "SELECT sql FROM sqlite_master WHERE name = ?"
            back = connection.exec_driver_sql(query, (name,)).scalar_one()
            connection.exec_driver_sql(f"DROP TRIGGER {name}")
        else:
            back = f"ALTER TABLE {table} ENABLE TRIGGER {name}"
            connection.exec_driver_sql(f"ALTER TABLE {table} DISABLE TRIGGER {name}")
    try:
        yield
    finally:
        with store.engine.begin() as connection:
            connection.exec_driver_sql(back)


def loading(bench: Bench, n: int) -> None:
    """Compare loading many rows, and reading one field of each."""
    store, here = bench.store, Here(bench.store)
    table = table_of(TYPE)
    columns = [column for column in table.c if column.name != "rev_txn"]
    kind = mapped(store, with_triggers=True)

    def ours() -> None:
        assert sum(obj["whole_0"] >= 0 for obj in list(bench.objects.select(instance=here))) == n

    def core() -> None:
        query = sa.select(*columns).order_by(table.c.record_key)
        with store.read() as connection:
            assert sum(row.whole_0 >= 0 for row in connection.execute(query).all()) == n

    def by_orm() -> None:
        query = sa.select(kind).order_by(kind.record_key)
        with orm.Session(store.engine) as session:
            assert sum(each.whole_0 >= 0 for each in session.scalars(query).all()) == n

    us, rows, objects = alternated(bench, n, ours, core, by_orm, rounds=min(bench.rounds, 3))
    what = f"{bench.name}: loading {n:,} rows x 10 fields, one field read"
    limit(what, "Core rows", 1.5, us, rows, n)
    faster(what, "ORM objects", 3, us, objects, n)


def memory(bench: Bench) -> None:
    """Compare what loaded objects weigh."""
    kind, here = mapped(bench.store, with_triggers=True), Here(bench.store)
    n = WEIGHED

    def ours() -> tuple[Any, Any]:
        return list(bench.objects.select(limit=n, instance=here)), None

    def by_orm() -> tuple[Any, Any]:
        session = orm.Session(bench.store.engine)
        query = sa.select(kind).order_by(kind.record_key).limit(n)
        return session.scalars(query).all(), session

    us, theirs = weight(ours) / n, weight(by_orm) / n
    how = f"tracemalloc: {us:,.0f} and {theirs:,.0f} bytes an object with its values"
    show(f"{bench.name}: memory an object", "an ORM object", us / theirs, 0.5, n, how, at_most=True)


def weight(load: Callable[[], tuple[Any, Any]]) -> int:
    """Return the bytes that what `load` returns keeps."""
    load()
    gc.collect()
    tracemalloc.start()
    kept = load()
    gc.collect()
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    if kept[1] is not None:
        kept[1].close()
    return size


def alternated(
    bench: Bench, n: int, *works: Callable[[], None], rounds: int | None = None
) -> list[Cost]:
    """Return the median costs of each, for one of `n`; their rounds alternate."""
    for work in works:
        work()
    costs: list[list[Cost]] = [[] for _ in works]
    for _ in range(rounds or bench.rounds):
        for work, found in zip(works, costs, strict=True):
            gc.collect()
            found.append(measured(work, n, bench.cpu))
    return [
        Cost(statistics.median(c.cpu for c in found), statistics.median(c.wall for c in found))
        for found in costs
    ]


def measured(work: Callable[[], None], n: int, cpu: Callable[[], float]) -> Cost:
    """Return what one of `n` costs."""
    used, wall = cpu(), time.perf_counter()
    work()
    wall = time.perf_counter() - wall
    return Cost((cpu() - used) / n, wall / n)


def server_cpu(pid: int) -> float:
    """Return the CPU seconds of a server's processes that run."""
    ticks = 0
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended
        if int(fields[1]) == pid or entry.parent.name == str(pid):
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def limit(what: str, peer: str, most: float, ours: Cost, theirs: Cost, n: int) -> None:
    """Claim that ours takes at most so many times theirs, in CPU and in wall time."""
    for kind in ("cpu", "wall"):
        us, them = getattr(ours, kind), getattr(theirs, kind)
        how = f"{us * 1e6:.1f} and {them * 1e6:.1f} µs"
        show(f"{what}, {LABELS[kind]}", peer, us / them, most, n, how, at_most=True)


def faster(
    what: str,
    peer: str,
    least: float,
    ours: Cost,
    theirs: Cost,
    n: int,
    counter: Cost | None = None,
) -> None:
    """Claim that ours is at least so many times faster, in CPU and in wall time."""
    for kind in ("cpu", "wall"):
        us, them = getattr(ours, kind), getattr(theirs, kind)
        how = f"{us * 1e6:.1f} and {them * 1e6:.1f} µs"
        if counter is not None:
            plain = getattr(counter, kind)
            how += (
                f"; on a table of its own, with a counter and without triggers, the ORM takes "
                f"{plain * 1e6:.1f}, which is {plain / us:.2f} times ours"
            )
        show(f"{what}, {LABELS[kind]}", peer, them / us, least, n, how, at_most=False)


LABELS = {"cpu": "CPU time", "wall": "wall time"}


def state(what: str, peer: str, ours: float, theirs: float) -> None:
    """Print a figure without a target."""
    how = f"{ours * 1e6:.1f} and {theirs * 1e6:.1f} µs a row, wall time"
    line = {"claim": what, "peer": peer, "value": round(ours / theirs, 2), "target": "stated"}
    print(json.dumps({**line, "holds": True, "n": BATCH, "how": how}), flush=True)


def show(
    what: str, peer: str, value: float, target: float, n: int, how: str, *, at_most: bool
) -> None:
    """Print one claim as a JSON line."""
    holds = value <= target if at_most else value >= target
    told = f"at most {target:g}" if at_most else f"at least {target:g}"
    line = {"claim": what, "peer": peer, "value": round(value, 2), "target": told}
    how = f"{how}, medians of alternating rounds, {os.cpu_count()} cores"
    print(json.dumps({**line, "holds": holds, "n": n, "how": how}), flush=True)


if __name__ == "__main__":
    main()
