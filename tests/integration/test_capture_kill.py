"""kill -9 of a recording process at any moment: what it was told is stored is in the archive."""

import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from keepline.capture import Archive, SqliteCaptureStore, recover
from keepline.model import Principal
from keepline.store import Store, schema
from keepline.store.tables import common

#: Records message n as {"n": n, ...}, and prints the number of the last one that is stored.
RECORDER = """
import sys
from keepline.capture import CaptureServer, SqliteCaptureStore
from keepline.model import StreamSpec

path, level = sys.argv[1:]
server = CaptureServer(
    SqliteCaptureStore(path, level=level), "bench", linger_s=0.002, max_pending=5_000
)
print("session", server.start_session(), flush=True)
n = told = 0
while True:
    for _ in range(37):
        n += 1
        server.queue(b'{"n": %d, "pad": "%s"}' % (n - 1, b"x" * (n % 90)))
    if server.acknowledged() > told:
        told = server.acknowledged()
        print(told, flush=True)
"""


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    """One archive and one capture store for all kills, as they pile up in real life."""
    folder = tmp_path_factory.mktemp("kill")
    sql_store = Store(f"sqlite:///{folder / 'keepline.db'}")
    schema.migrate(sql_store)
    with sql_store.write(Principal.system()) as connection:
        connection.execute(sa.insert(common.instrument).values(name="bench", tz="UTC", comment=""))
    with SqliteCaptureStore(folder / "capture.db") as capture_store:
        yield Archive(sql_store, capture_store)
    sql_store.close()


def kill_and_recover(archive: Archive, seed: int) -> None:
    """Kill a recorder after a random while, recover and archive, and compare."""
    store = archive.capture_store
    assert isinstance(store, SqliteCaptureStore)
    level = "fsynced" if seed % 2 else "stored"
    with subprocess.Popen(
        [sys.executable, "-c", RECORDER, str(store.path), level], stdout=subprocess.PIPE, text=True
    ) as recorder:
        assert recorder.stdout is not None
        number = int(recorder.stdout.readline().split()[1])
        assert recover(store) == []  # a live session is left alone
        time.sleep(random.Random(seed).uniform(0, 0.2))
        recorder.send_signal(signal.SIGKILL)
        told = [int(line) for line in recorder.stdout if line.endswith("\n")]
    (recovered,) = recover(store)
    assert (recovered.number, recovered.state) == (number, "interrupted")
    last = told[-1] if told else -1
    stored = store.message_count(number, "main")
    assert stored > last
    messages = [m for chunk in store.chunks(number, "main") for m in chunk.messages()]
    expected = [b'{"n": %d, "pad": "%s"}' % (n, b"x" * ((n + 1) % 90)) for n in range(stored)]
    assert messages == expected
    result = archive.archive_session(number)
    assert (result.messages, result.state, result.quarantined) == (stored, "interrupted", 0)
    if stored:
        assert archive.read(number, "n")[1].tolist() == list(range(stored))


@pytest.mark.parametrize("seed", range(20))
def test_nothing_stored_is_lost(archive: Archive, seed: int) -> None:
    kill_and_recover(archive, seed)


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_nothing_stored_is_lost_in_two_hundred_kills(archive: Archive) -> None:
    for seed in range(1_000, 1_200):
        kill_and_recover(archive, seed)


#: Archives a session again and again, clearing it in between, until it is killed.
ARCHIVER = """
import sys
from keepline.capture import Archive, SqliteCaptureStore
from keepline.capture.archive import archive as module
from keepline.store import Store

folder, number = sys.argv[1:]
module._BATCH_BLOCKS = 1
store = SqliteCaptureStore(folder + "/capture.db")
print("ready", flush=True)
Archive(Store("sqlite:///" + folder + "/keepline.db"), store).archive_session(int(number))
"""


@pytest.mark.parametrize("seed", range(5))
def test_killed_archiver_is_followed_by_another(archive: Archive, seed: int) -> None:
    from keepline.capture import CaptureServer

    store = archive.capture_store
    assert isinstance(store, SqliteCaptureStore)
    with CaptureServer(store, "bench") as server:
        number = server.start_session()
        for n in range(20_000):
            server.queue(b'{"n": %d, "m": %d}' % (n, n))
    with subprocess.Popen(
        [sys.executable, "-c", ARCHIVER, str(store.path.parent), str(number)],
        stdout=subprocess.PIPE,
        text=True,
    ) as archiver:
        assert archiver.stdout is not None
        assert archiver.stdout.readline() == "ready\n"
        time.sleep(random.Random(seed).uniform(0.1, 0.5))
        archiver.send_signal(signal.SIGKILL)
    result = archive.archive_session(number)
    assert (result.messages, result.readings, result.state) == (20_000, 40_000, "complete")
    assert archive.read(number, "n")[1].tolist() == list(range(20_000))
