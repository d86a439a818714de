"""Sessions started by several processes at once: each has a number of its own."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

PROCESSES, THREADS, EACH = 4, 8, 250

STARTER = """
import sys
from concurrent.futures import ThreadPoolExecutor
from keepline.capture import CaptureServer, SqliteCaptureStore
from keepline.capture.stores.redis import RedisCaptureStore

place, threads, each = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
if place.startswith("redis:"):
    store = RedisCaptureStore(place, prefix="starts")
else:
    store = SqliteCaptureStore(place)

def start(_):
    with CaptureServer(store, "bench") as server:
        return server.start_session()

print("ready", flush=True)
input()
with ThreadPoolExecutor(threads) as pool:
    print(*pool.map(start, range(each)), flush=True)
"""


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", ["sqlite", "valkey"])
def test_a_thousand_concurrent_starts_give_a_thousand_numbers(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    place: Callable[[], str] = {
        "sqlite": lambda: str(tmp_path / "capture.db"),
        "valkey": lambda: str(request.getfixturevalue("valkey_url")),
    }[kind]
    command = [sys.executable, "-c", STARTER, place(), str(THREADS), str(EACH)]
    starters = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(PROCESSES)
    ]
    for starter in starters:
        assert starter.stdout is not None
        assert starter.stdout.readline() == "ready\n"
    for starter in starters:
        assert starter.stdin is not None
        starter.stdin.write("go\n")
        starter.stdin.flush()
    numbers: list[int] = []
    for starter in starters:
        told, _ = starter.communicate(timeout=240)
        assert starter.returncode == 0
        numbers += map(int, told.split())
    assert len(numbers) == len(set(numbers)) == PROCESSES * EACH
