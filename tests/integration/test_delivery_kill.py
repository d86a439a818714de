"""A delivering process is killed at random moments: nothing is lost, nothing arrives twice."""

import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

from keepline.delivery.lock import hold
from keepline.delivery.transports.database import DatabaseTransport
from keepline.errors import RecipientBusyError
from keepline.store import Store
from tests.delivery_host import Host, host

RECORDS = 120

# For each line with a number of seconds the child forks a process that delivers, kills it after
# that time, and says whether it was still at work. Importing once saves most of the time.
CHILD = """
import os, signal, sys, time
from pathlib import Path
from keepline.delivery.transports.database import DatabaseTransport
from keepline.store import Store, schema
from tests.delivery_host import Host
from tests.stores import StoreInstance

folder, store_url, target_url = sys.argv[1:]

def deliver():
    store = Store(store_url)
    made = Host(StoreInstance(store, Path(folder), schema.identity(store)[1]))
    made.deliver(DatabaseTransport(target_url))
    store.close()

for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        deliver()
        os._exit(0)
    time.sleep(float(line))
    os.kill(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    print("killed" if os.WIFSIGNALED(status) else f"ended {status}", flush=True)
"""


@contextmanager
def killer(*arguments: str) -> Iterator[Callable[[float], bool]]:
    """Give what delivers, kills after some seconds, and tells whether it was still at work."""
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, *arguments],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def kill(after_s: float) -> bool:
        assert child.stdin is not None
        assert child.stdout is not None
        print(after_s, file=child.stdin, flush=True)
        answer = child.stdout.readline().strip()
        assert answer in ("killed", "ended 0")
        return answer == "killed"

    try:
        yield kill
    finally:
        child.communicate()
        assert child.returncode == 0


def wait_for_lock(store: Store) -> None:
    """Wait until the lock of the killed process is gone; PostgreSQL needs a moment to notice."""
    deadline = time.monotonic() + 10
    while True:
        try:
            with hold(store, "out"):
                return
        except RecipientBusyError:
            assert time.monotonic() < deadline, "the lock outlived its holder"
            time.sleep(0.02)


def check(world: Host, target: sa.Engine) -> None:
    with target.connect() as connection:
        rows = connection.execute(
            sa.text("SELECT record_key, revision, title FROM keepline_sample")
        ).all()
        receipts = connection.execute(
            sa.text("SELECT record_key, revision FROM keepline_receipt")
        ).all()
    table = world.table
    expected = world.select(sa.select(table.c.record_key, table.c.revision, table.c.title))
    assert Counter(map(tuple, rows)) == Counter(map(tuple, expected))
    assert max(Counter(map(tuple, receipts)).values()) == 1
    logged = Counter((key, number) for key, number, state in world.log() if state == "sent")
    assert set(logged) == set(map(tuple, receipts))
    assert max(logged.values()) == 1
    assert {state for _, _, state in world.log()} <= {"sent", "failed"}


def battery(folder: Path, store_url: str, target_url: str, kills: int) -> None:
    chance = random.Random(7)
    with (
        host(folder, store_url) as world,
        killer(str(folder), store_url, target_url) as kill,
    ):
        world.add(*(f"r{number:03}" for number in range(RECORDS)), title="first")
        at_work, attempts, longest_s = 0, 0, 0.4
        while at_work < kills:
            attempts += 1
            assert attempts <= 10 * kills, "the deliveries end before they can be killed"
            for key in chance.sample(range(RECORDS), 10):
                world.edit(f"r{key:03}", title=f"edited {chance.random()}")
            if kill(chance.uniform(0.02, longest_s)):
                at_work += 1
            else:  # it was done already: a faster machine than thought
                longest_s = max(0.05, longest_s * 0.8)
            wait_for_lock(world.store)
        transport = DatabaseTransport(target_url)
        assert world.deliver(transport).remaining == 0
        assert world.deliver(transport).sent == 0
        target = sa.create_engine(target_url, poolclass=sa.NullPool)
        check(world, target)
        target.dispose()


def test_kills_between_sqlite_and_sqlite(tmp_path: Path) -> None:
    urls = [f"sqlite:///{tmp_path / name}.db" for name in ("store", "target")]
    battery(tmp_path, *urls, kills=15)


def test_kills_between_postgres_and_postgres(tmp_path: Path, postgres_database: str) -> None:
    battery(tmp_path, postgres_database, postgres_database, kills=8)


@pytest.mark.soak
@pytest.mark.timeout(1_800)
def test_many_kills(tmp_path: Path) -> None:
    urls = [f"sqlite:///{tmp_path / name}.db" for name in ("store", "target")]
    battery(tmp_path, *urls, kills=200)
