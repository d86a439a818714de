"""What the tests of ways in share: a feeder over a real store, and the command as a process."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import IO, Any

from pydantic import SecretStr

from keepline import open_instance
from keepline.capture import CaptureServer, SqliteCaptureStore
from keepline.capture.ingest.feeder import Feeder, Totals
from keepline.capture.ingest.way import Way
from keepline.config import IngestSettings
from keepline.errors import KeeplineError
from keepline.model import Level, StreamSpec
from tests.acceptance.command import keepline, keepline_json

TOKEN = "0123456789abcdef-token"
PATIENCE_S = 30.0


def settings(**limits: Any) -> IngestSettings:
    """Return settings with a token and small limits."""
    return IngestSettings(token=SecretStr(TOKEN), **{"max_message_kb": 1, **limits})


class Kept:
    """A quarantine in memory, which fails as often as `failures` says."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, int, bytes, str]] = []
        self.failures = 0

    def __call__(self, origin: str, rejected: list[tuple[int, bytes, str]]) -> int:
        if self.failures:
            self.failures -= 1
            raise KeeplineError("busy")
        self.rows += [(origin, *row) for row in rejected]
        return len(rejected)

    @property
    def raw(self) -> list[bytes]:
        return [row[2] for row in self.rows]


class Run:
    """A way in that runs over a store of its own, and what it has taken so far."""

    def __init__(self, feeder: Feeder, store: SqliteCaptureStore, kept: Kept) -> None:
        self.feeder, self.store, self.kept = feeder, store, kept
        self.address = ""
        self.totals: Totals | None = None
        self.number = 0

    def stored(self, source: str = "main") -> list[bytes]:
        """Return the messages that are stored now, also after the run."""
        with SqliteCaptureStore(self.store.path) as store:
            chunks = store.chunks(self.number, source)
            return [message for chunk in chunks for message in chunk.messages()]


async def until(condition: Callable[[], bool]) -> None:
    """Return once `condition` holds; fail when it takes too long."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        await asyncio.sleep(0.01)


@asynccontextmanager
async def feeding(
    folder: Path,
    way: Way | None = None,
    *,
    spec: StreamSpec | None = None,
    level: Level | None = None,
    max_pending: int = 65_536,
) -> AsyncIterator[Run]:
    """Run a way in, or a feeder alone, and stop it at the end of the block."""
    with SqliteCaptureStore(folder / "capture.db") as store:
        server = CaptureServer(store, "bench", spec=spec, linger_s=0.002, max_pending=max_pending)
        kept = Kept()
        feeder = Feeder(server, kept, level=level, linger_s=0.002)
        run = Run(feeder, store, kept)
        if way is not None:
            run.address = await way.prepare()
        run.number = (await feeder.start()).number
        try:
            if way is not None:
                await way.open(feeder)
            yield run
            if way is not None:
                await way.close()
            run.totals = await feeder.stop()
        finally:
            if way is not None:
                await way.close()
            await feeder.abandon()


def port_of(address: str) -> int:
    """Return the port of an address such as tcp://127.0.0.1:4000."""
    return int(address.rpartition(":")[2])


def make_instance(folder: Path, decoder: str = "json") -> Path:
    """Make an instance with a stream `board` of the instrument `bench`."""
    keepline("init", folder)
    with (folder / "keepline.toml").open("a") as file:
        file.write(f'\n[streams.board]\ninstrument = "bench"\ndecoder = "{decoder}"\n')
    return folder


def archived_numbers(folder: Path, number: int, channel: str = "n") -> list[float]:
    """Return the values of a channel of session `number` in the archive."""
    with open_instance(folder) as instance:
        known = {each.name for each in instance.archive.get_session_variables(number)}
        if channel not in known:  # killed before its first message
            return []
        values = instance.archive.read(number, channel)[1]
    return [float(value) for value in values]


def recovered_messages(folder: Path, number: int) -> int:
    """Recover and archive the session of a killed ingester, and return how many messages it has.

    They have to be {"n": 0}, {"n": 1} and so on, in the capture store and in the archive.
    """
    (recovered,) = keepline_json("--instance", folder, "capture", "recover")["sessions"]
    assert (recovered["number"], recovered["state"]) == (number, "interrupted")
    with SqliteCaptureStore(folder / "capture.db") as store:
        messages = [each for chunk in store.chunks(number, "main") for each in chunk.messages()]
    assert messages == [b'{"n": %d}' % n for n in range(len(messages))]
    keepline("--instance", folder, "archive")
    assert archived_numbers(folder, number) == list(range(len(messages)))
    return len(messages)


class Ingester:
    """`keepline ingest ...` as a process of its own, started, with what it said."""

    def __init__(self, process: subprocess.Popen[str], started: dict[str, Any]) -> None:
        self.process, self.started = process, started

    @property
    def port(self) -> int:
        return port_of(self.started["address"])

    @property
    def number(self) -> int:
        return int(self.started["session"])

    def kill(self) -> None:
        """Kill it as the kernel would."""
        self.process.kill()
        self.process.wait(PATIENCE_S)

    def stop(self) -> dict[str, Any]:
        """Stop it as a user would, and return what it says at the end."""
        self.process.terminate()
        return self.ended()

    def ended(self) -> dict[str, Any]:
        """Wait for its end and return what it says then."""
        output, errors = self.process.communicate(timeout=PATIENCE_S)
        assert self.process.returncode == 0, errors
        found = json.loads(output)
        assert isinstance(found, dict)
        return found


@contextmanager
def ingesting(instance: Path, *arguments: str, **variables: str) -> Iterator[Ingester]:
    """Run `keepline ingest` until the block ends."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("KEEPLINE_")}
    with subprocess.Popen(
        [
            sys.executable,
            "-c",
            "from keepline.cli import main; main()",
            "--instance",
            str(instance),
            "ingest",
            *arguments,
            "--json",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**environment, "KEEPLINE_INGEST__TOKEN": TOKEN, **variables},
    ) as process:
        try:
            output: IO[str] | None = process.stdout
            assert output is not None
            line = output.readline()
            assert line, process.stderr.read() if process.stderr else ""
            yield Ingester(process, json.loads(line))
        finally:
            if process.poll() is None:
                process.kill()
