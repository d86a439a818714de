"""Processes that save the same records at once, and some that are killed while they do."""

import json
import random
import time
from collections import Counter
from contextlib import ExitStack

import pytest
import sqlalchemy as sa

from keepline.records import apply_type, checks, history, put_record
from keepline.store import Store
from keepline.store.tables.records import change_feed
from tests.editors_processes import COUNTED, COUNTERS, Counted, running
from tests.stores import ANN, StoreInstance

BOTH = pytest.mark.parametrize("store", ["sqlite", "postgresql"], indirect=True)
PROCESSES = 8
ROWS = 50


@pytest.fixture
def counted(instance: StoreInstance) -> StoreInstance:
    apply_type(instance.store, COUNTED, ANN)
    with instance.store.write(ANN) as connection:
        for n in range(ROWS):
            put_record(connection, COUNTED, str(n), dict.fromkeys(COUNTERS, 0))
    return instance


def feed_agrees(instance: StoreInstance, key: str) -> int:
    """Return how many revisions a record has: by itself, its history, and the feed."""
    obj = Counted(key, instance=instance)
    with instance.store.read() as connection:
        fed = connection.execute(
            sa.select(change_feed.c.revision)
            .where(change_feed.c.record_key == key)
            .order_by(change_feed.c.revision)
        ).scalars()
        assert list(fed) == list(range(1, obj.revision + 1))
    revisions = history(COUNTED, key, instance=instance)
    assert [each.number for each in revisions] == list(range(1, obj.revision + 1))
    assert revisions[-1].after is not None
    assert dict(revisions[-1].after.values) == obj.original_payload
    return obj.revision


def nothing_is_amiss(instance: StoreInstance) -> None:
    assert list(checks.unrecorded(instance=instance)) == []
    assert list(checks.verify(instance=instance)) == []


def increments_add_up(instance: StoreInstance, saves: int, rows: int) -> None:
    added: Counter[str] = Counter()
    outcomes: Counter[str] = Counter()
    with ExitStack() as stack:
        programs = [
            stack.enter_context(
                running("increments", instance.store, seed, saves // PROCESSES, rows)
            )
            for seed in range(PROCESSES)
        ]
        for program in programs:
            said, _ = program.communicate()
            assert program.returncode == 0
            for total, found in zip((added, outcomes), json.loads(said), strict=True):
                total.update(found)
    assert added.total() == saves
    assert outcomes["saved"] + outcomes["merged"] == saves
    assert outcomes["merged"] > 0
    assert outcomes["conflict"] > 0
    for obj in Counted.select(instance=instance):
        assert [obj[name] for name in COUNTERS] == [added[f"{obj.key} {n}"] for n in COUNTERS]
        # No save is two revisions, and no two are one, but for those of a batch on two records.
        assert feed_agrees(instance, obj.key) == 1 + sum(obj[name] for name in COUNTERS)
    nothing_is_amiss(instance)


@BOTH
@pytest.mark.timeout(600)
def test_increments_of_eight_processes_add_up(counted: StoreInstance) -> None:
    increments_add_up(counted, 800, 10)


@BOTH
@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_twenty_thousand_increments_add_up(counted: StoreInstance) -> None:
    increments_add_up(counted, 20_000, ROWS)


def kill_savers(instance: StoreInstance, chance: random.Random) -> None:
    """Kill two processes that save one record, and look for what they were answered."""
    before = Counted("0", instance=instance)
    with ExitStack() as stack:
        savers = {
            name: stack.enter_context(running("numbers", instance.store, name))
            for name in COUNTERS[:2]
        }
        told: dict[str, list[int]] = {name: [] for name in savers}
        for name, saver in savers.items():
            assert saver.stdout is not None
            for _ in range(chance.randrange(1, 40)):
                told[name].append(int(saver.stdout.readline()))
        for saver in savers.values():
            saver.kill()
        for name, saver in savers.items():
            assert saver.stdout is not None
            told[name] += [int(line) for line in saver.stdout if line.endswith("\n")]
    nobody_writes(instance.store)
    after = Counted("0", instance=instance)
    changes = [
        (name, change.after)
        for each in history(COUNTED, "0", instance=instance)[before.revision :]
        for name, change in each.fields.items()
    ]
    for name, numbers in told.items():
        assert numbers == list(range(before[name] + 1, numbers[-1] + 1))
        # At most the save at which it was killed is there without an answer.
        assert after[name] in (numbers[-1], numbers[-1] + 1)
        saved = [number for each, number in changes if each == name]
        assert saved == list(range(before[name] + 1, after[name] + 1))
    assert feed_agrees(instance, "0") == before.revision + len(changes)
    nothing_is_amiss(instance)


def nobody_writes(store: Store) -> None:
    """Wait until PostgreSQL is through with what the killed had sent."""
    if store.dialect == "sqlite":
        return
    busy = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
        "AND backend_type = 'client backend' AND pid <> pg_backend_pid() AND state <> 'idle'"
    )
    with store.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        while connection.exec_driver_sql(busy).scalar_one():
            time.sleep(0.01)


@BOTH
def test_each_save_that_was_answered_survives_a_kill(counted: StoreInstance) -> None:
    chance = random.Random(4)
    for _ in range(2):
        kill_savers(counted, chance)


@BOTH
@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_each_save_that_was_answered_survives_many_kills(counted: StoreInstance) -> None:
    chance = random.Random(5)
    for _ in range(100):
        kill_savers(counted, chance)
