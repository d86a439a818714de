"""Lines from a serial port, over a pseudo-terminal: partial lines, garbage, unplugging."""

from __future__ import annotations

import asyncio
import os
import tty
from collections.abc import Iterator
from pathlib import Path

import pytest

from keepline.capture import CaptureServer, SqliteCaptureStore
from keepline.capture.ingest.feeder import Feeder
from keepline.capture.ingest.run import run
from keepline.capture.ingest.serial import SerialLines
from keepline.errors import IngestError
from tests.acceptance.command import error_line, keepline, keepline_json
from tests.ingesting import Kept, archived_numbers, feeding, ingesting, make_instance, until

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Board:
    """A device at a path that stays the same when it is unplugged and plugged in again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ends: tuple[int, int] | None = None
        self.plug_in()

    def plug_in(self) -> None:
        self._ends = os.openpty()
        tty.setraw(self._ends[1])
        self.path.unlink(missing_ok=True)
        self.path.symlink_to(os.ttyname(self._ends[1]))

    def unplug(self) -> None:
        if self._ends is not None:
            for end in self._ends:
                os.close(end)
            self._ends = None
            self.path.unlink()

    def say(self, data: bytes) -> None:
        assert self._ends is not None
        while data:
            data = data[os.write(self._ends[0], data) :]


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Board]:
    board = Board(tmp_path / "ttyBOARD")
    yield board
    board.unplug()


async def test_lines_are_messages_however_they_come(tmp_path: Path, board: Board) -> None:
    async with feeding(tmp_path, SerialLines(str(board.path))) as run:
        board.say(b'{"a": 1}\r\n{"a"')
        await until(lambda: run.feeder.taken == 1)
        await asyncio.sleep(0.05)
        board.say(b": 2}\n\n")
        await until(lambda: run.feeder.taken == 2)
        await asyncio.to_thread(board.say, b"x" * 100 + b"\n" + b"y\n" * 5_000)
        await until(lambda: run.feeder.taken == 5_003)
    assert run.stored() == [b'{"a": 1}', b'{"a": 2}', b"x" * 100, *[b"y"] * 5_000]
    assert run.kept.rows == []
    assert run.totals is not None
    assert run.totals.session.state == "complete"


async def test_garbage_is_kept_and_lines_go_on(tmp_path: Path, board: Board) -> None:
    garbage = bytes(value for value in range(256) if value not in b"\r\n") * 10
    async with feeding(tmp_path, SerialLines(str(board.path), max_message_kb=1)) as run:
        await asyncio.to_thread(board.say, garbage)
        await until(lambda: bool(run.kept.rows))
        await asyncio.sleep(0.3)
        await asyncio.to_thread(board.say, b"\xff\x00\xfe\ngood\n")
        await until(lambda: b"good" in run.stored())
    taken = b"".join([*run.kept.raw, *run.stored()])
    assert taken == garbage + b"\xff\x00\xfegood"


async def test_an_unplugged_device_is_waited_for(
    tmp_path: Path, board: Board, caplog: pytest.LogCaptureFixture
) -> None:
    async with feeding(tmp_path, SerialLines(str(board.path))) as run:
        for round_ in range(3):
            board.say(b"whole %d\npart" % round_)
            await until(lambda done=round_: run.feeder.taken == done + 1)  # type: ignore[misc]
            await asyncio.sleep(0.05)
            board.unplug()
            await until(lambda done=round_: len(run.kept.rows) == done + 1)  # type: ignore[misc]
            board.plug_in()
            await until(lambda done=round_: caplog.text.count("is back") == done + 1)  # type: ignore[misc]
        board.say(b"last\n")
        await until(lambda: run.feeder.taken == 4)
    assert run.stored() == [b"whole 0", b"whole 1", b"whole 2", b"last"]
    assert run.kept.raw == [b"part"] * 3
    assert "went away" in run.kept.rows[0][3]


async def test_a_line_that_a_stop_cuts_off_is_kept(tmp_path: Path, board: Board) -> None:
    async with feeding(tmp_path, SerialLines(str(board.path))) as run:
        board.say(b"whole\npart")
        await until(lambda: run.feeder.taken == 1)
        await asyncio.sleep(0.3)
    assert (run.stored(), run.kept.raw) == ([b"whole"], [b"part"])


async def test_a_stop_ends_while_the_quarantine_cannot_be_written(
    tmp_path: Path, board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keepline.capture.ingest.feeder._QUARANTINE_STOP_S", 0.2)
    kept = Kept()
    kept.failures = 1_000_000
    with SqliteCaptureStore(tmp_path / "capture.db") as store:
        feeder = Feeder(CaptureServer(store, "bench"), kept)
        running = run(
            feeder,
            SerialLines(str(board.path)),
            seconds=0.5,
            started=lambda *_: board.say(b"whole\npart"),
        )
        with pytest.raises(IngestError, match="rejected input is lost"):
            await asyncio.wait_for(running, 20)
        (info,) = store.sessions()
        (chunk,) = store.chunks(info.number, "main")
    assert info.state == "interrupted"
    assert list(chunk.messages()) == [b"whole"]


async def test_stopping_does_not_wait_for_a_device_that_is_gone(
    tmp_path: Path, board: Board
) -> None:
    async with feeding(tmp_path, SerialLines(str(board.path))) as run:
        board.unplug()
        await asyncio.sleep(0.1)
    assert run.totals is not None
    assert run.totals.session.state == "empty"


async def test_a_device_that_is_not_there_or_in_use_is_one_line(
    tmp_path: Path, board: Board
) -> None:
    file = tmp_path / "file"
    file.touch()
    first = SerialLines(str(board.path))
    await first.prepare()
    for path, reason in (
        (tmp_path / "nothing", "there is none; plug it in, or see --device"),
        (tmp_path, "Is a directory"),
        (file, "it is no serial port; see --device"),
        (board.path, "another program has it open; end that first"),
    ):
        with pytest.raises(IngestError) as caught:
            await SerialLines(str(path)).prepare()
        assert str(caught.value) == f"the serial device {path} cannot be opened: {reason}"
    await first.close()


# As a user runs it.


def test_a_hole_shows_as_a_gap_in_the_archive(tmp_path: Path, board: Board) -> None:
    instance = make_instance(tmp_path / "instance")
    with (instance / "keepline.toml").open("a") as file:
        file.write("step_s = 0.1\n")
    said = error_line(
        "--instance", instance, "ingest", "serial", "--stream", "board", "--device", "/nowhere"
    )
    assert said.startswith("the serial device /nowhere cannot be opened: there is none")
    arguments = ("serial", "--stream", "board", "--device", str(board.path), "--baud", "115200")
    with ingesting(instance, *arguments) as running:

        async def talking() -> None:
            board.say(b'{"n": 0}\n{"n": 1}\n')
            await asyncio.sleep(0.5)
            board.unplug()
            await asyncio.sleep(0.5)
            board.plug_in()
            await asyncio.sleep(1.5)
            board.say(b'{"n": 2}\n')
            await asyncio.sleep(0.5)

        asyncio.run(talking())
        ended = running.stop()
    assert (ended["state"], ended["messages"]) == ("complete", 3)
    assert keepline_json("--instance", instance, "archive")["gaps"] == 1
    assert archived_numbers(instance, running.number) == [0, 1, 2]
    keepline("--instance", instance, "quarantine")
