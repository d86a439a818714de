"""The feeder: lines, turns, room, acknowledgement, quarantine, and how a session ends."""

import asyncio
import itertools
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from keepline.capture import CaptureServer, SqliteCaptureStore
from keepline.capture.ingest.feed import TURN_BYTES, TURN_MESSAGES
from keepline.capture.ingest.feeder import Feeder
from keepline.capture.ingest.lines import LineSplitter
from keepline.capture.ingest.run import run
from keepline.capture.ingest.sources import ExtraSource
from keepline.capture.ingest.token import Token
from keepline.capture.spool import Spool
from keepline.capture.spooling import SpoolingWriter
from keepline.capture.store import Appended
from keepline.capture.stores.sqlite_writer import SqliteStreamWriter
from keepline.errors import CaptureWriteError, ConfigError, IngestError, SessionClosedError
from keepline.model import Chunk, Level, StreamSpec, to_us, utc_now
from tests.ingesting import TOKEN, Kept, feeding, until

pytestmark = pytest.mark.anyio

LINES = st.lists(st.binary(max_size=12).map(lambda b: b.replace(b"\n", b"").replace(b"\r", b"")))


class Disk:
    """The disk under the store's writers: it can be slow, full, or gone for good."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.error: Exception | None = None
        self.go = threading.Event()
        self.go.set()
        append = SqliteStreamWriter.append

        def faulty(writer: SqliteStreamWriter, chunks: Sequence[Chunk]) -> list[Appended]:
            self.go.wait()
            if self.error is not None:
                raise self.error
            return append(writer, chunks)

        monkeypatch.setattr(SqliteStreamWriter, "append", faulty)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


@given(LINES, st.sampled_from([b"\n", b"\r\n"]), st.lists(st.integers(0, 200)), st.binary())
def test_lines_come_out_however_the_bytes_come_in(
    lines: list[bytes], end: bytes, cuts: list[int], rest: bytes
) -> None:
    rest = rest.replace(b"\n", b"")[:12]
    sent = b"".join(line + end for line in lines) + rest
    borders = sorted({0, len(sent), *(cut for cut in cuts if cut < len(sent))})
    splitter = LineSplitter(12)
    found: list[bytes] = []
    for begin, stop in itertools.pairwise(borders):
        found += splitter.split(sent[begin:stop])
    assert found == [line for line in lines if line]
    assert (splitter.rest, splitter.overlong) == (rest, None)


@given(LINES, st.binary(min_size=14), LINES, st.integers(1, 40))
def test_a_line_too_long_is_kept_with_all_that_follows(
    before: list[bytes], long: bytes, after: list[bytes], step: int
) -> None:
    long = long.replace(b"\n", b"x").replace(b"\r", b"x")
    sent = b"\n".join([*before, long, *after]) + b"\n"
    splitter = LineSplitter(12)
    found: list[bytes] = []
    for begin in range(0, len(sent), step):
        found += splitter.split(sent[begin : begin + step])
    assert found == [line for line in before if line]
    overlong = splitter.overlong
    assert overlong is not None
    assert overlong.rstrip(b"\n") == b"\n".join([long, *after]).rstrip(b"\n")


@pytest.mark.parametrize(
    "secret", [None, "", "short", "with a space in it....", "a:colon:in:it....."]
)
def test_without_a_good_token_one_line_says_how_to_set_it(secret: str | None) -> None:
    with pytest.raises(ConfigError, match="export KEEPLINE_INGEST__TOKEN=") as caught:
        Token(None if secret is None else SecretStr(secret))
    assert "\n" not in str(caught.value)
    assert not secret or secret not in str(caught.value)


def test_a_token_is_compared_and_never_shown() -> None:
    token = Token(SecretStr(TOKEN))
    assert token.matches(TOKEN.encode())
    assert not token.matches(TOKEN.encode()[:-1])
    assert not token.matches(b"")
    assert TOKEN not in repr(token)


async def test_messages_are_stored_in_order_and_the_session_is_complete(tmp_path: Path) -> None:
    messages = [b"%d" % n for n in range(2_500)]
    async with feeding(tmp_path) as run_:
        seq = await run_.feeder.main.take(messages)
        await run_.feeder.main.acknowledged(seq)
        assert (seq, run_.stored()) == (2_499, messages)
    assert run_.totals is not None
    assert run_.totals.session.state == "complete"
    assert (run_.totals.messages, run_.totals.sources) == (2_500, {"main": 2_500})


async def test_a_run_without_a_message_is_empty(tmp_path: Path) -> None:
    async with feeding(tmp_path) as run_:
        pass
    assert run_.totals is not None
    assert run_.totals.session.state == "empty"


async def test_a_client_with_much_does_not_keep_others_waiting(tmp_path: Path) -> None:
    async with feeding(tmp_path) as run_:
        feed = run_.feeder.main
        flood = asyncio.create_task(feed.take([b"f"] * (50 * TURN_MESSAGES)))
        await until(lambda: feed.taken > 0)
        before = feed.taken
        seqs = [await feed.take([b"s"]) for _ in range(5)]
        assert not flood.done()
        assert seqs[-1] <= before + 6 * TURN_MESSAGES
        await flood


async def test_a_turn_is_bounded_in_bytes_too(tmp_path: Path) -> None:
    async with feeding(tmp_path) as run_:
        feed = run_.feeder.main
        flood = asyncio.create_task(feed.take([b"f" * 60_000] * 400))
        await until(lambda: feed.taken > 0)
        before = feed.taken
        assert await feed.take([b"s"]) <= before + 2 * TURN_BYTES // 60_000
        await flood


async def test_without_room_clients_wait_and_the_loop_goes_on(tmp_path: Path, disk: Disk) -> None:
    async with feeding(tmp_path, max_pending=100) as run_:
        feed = run_.feeder.main
        disk.go.clear()
        taking = [asyncio.create_task(feed.take([b"%d" % n] * 200)) for n in range(3)]
        await until(lambda: feed.taken >= 100)
        await asyncio.sleep(0.05)
        assert feed.taken == 100
        assert not any(task.done() for task in taking)
        disk.go.set()
        await asyncio.gather(*taking)
    assert len(run_.stored()) == 600


async def test_a_store_that_hangs_never_blocks_the_loop(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with feeding(tmp_path, max_pending=100) as run_:
        feed = run_.feeder.main
        disk.go.clear()
        await feed.take([b"1"] * 100)
        released = threading.Timer(2.0, disk.go.set)  # else the test would hang with the loop
        released.start()
        with monkeypatch.context() as patch:
            # As after a look at the room and before a thread has a failed write tried again.
            patch.setattr(CaptureServer, "room", 100)
            assert feed.offer([b"2"] * 100, 0) == 0
        assert not disk.go.is_set()
        disk.go.set()
        released.cancel()
        assert await feed.take([b"2"] * 100) == 199
    assert run_.stored() == [b"1"] * 100 + [b"2"] * 100


async def test_a_further_source_goes_on_after_an_end_that_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drain = SpoolingWriter.drain

    def away(writer: SpoolingWriter) -> None:
        if writer.source == "other":
            raise CaptureWriteError("away")
        drain(writer)

    async with feeding(tmp_path) as run_:
        other = await run_.feeder.source("other")
        await other.take([b"1"])
        with monkeypatch.context() as patch:
            patch.setattr(SpoolingWriter, "drain", away)
            with pytest.raises(CaptureWriteError, match="away"):
                await run_.feeder.stop()
        await other.acknowledged(await other.take([b"2"]))
    assert run_.stored("other") == [b"1", b"2"]
    assert run_.totals is not None
    assert run_.totals.sources == {"main": 0, "other": 2}


async def test_an_outage_of_the_store_keeps_messages_waiting_and_loses_none(
    tmp_path: Path, disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    messages = [b"%d" % n for n in range(20)]
    async with feeding(tmp_path) as run_:
        feed = run_.feeder.main
        disk.error = CaptureWriteError("disk full")
        watching = asyncio.create_task(run_.feeder.watch())
        first = await feed.take(messages[:10])
        waiting = asyncio.create_task(feed.acknowledged(first))
        await until(lambda: "have to wait" in caplog.text)
        taking = asyncio.create_task(feed.take(messages[10:]))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        disk.error = None
        await waiting
        await feed.acknowledged(await taking)
        await until(lambda: "stored again" in caplog.text)
        watching.cancel()
    assert run_.stored() == messages
    assert caplog.text.count("have to wait") == 1


async def test_nobody_waits_for_a_session_that_has_ended(tmp_path: Path, disk: Disk) -> None:
    async with feeding(tmp_path) as run_:
        feed = run_.feeder.main
        disk.error = SessionClosedError()
        waiting = asyncio.create_task(feed.acknowledged(await feed.take([b"1"])))
        with pytest.raises(IngestError, match="no more messages can be taken"):
            await run_.feeder.watch()
        with pytest.raises(IngestError):
            await waiting
        with pytest.raises(IngestError):
            await feed.take([b"2"])
        disk.error = None


async def test_a_store_that_is_away_for_a_moment_leaves_nobody_waiting_for_the_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    archived = SqliteCaptureStore.archived
    failures = 3

    def faulty(store: SqliteCaptureStore, number: int, source: str) -> int:
        nonlocal failures
        if failures:
            failures -= 1
            raise CaptureWriteError("away")
        return archived(store, number, source)

    monkeypatch.setattr(SqliteCaptureStore, "archived", faulty)
    async with feeding(tmp_path, level="archived") as run_:
        feed = run_.feeder.main
        waiting = asyncio.create_task(feed.acknowledged(await feed.take([b"1"])))
        await until(lambda: failures == 0)
        await asyncio.to_thread(feed.check)
        await until(lambda: len(run_.stored()) == 1)
        run_.store.mark_archived(run_.number, "main", 0)
        await asyncio.wait_for(waiting, 10)
    assert caplog.text.count("have to wait") == 1


async def test_a_check_survives_a_store_that_is_away_at_its_last_question(
    tmp_path: Path,
    disk: Disk,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with feeding(tmp_path) as run_:
        feed = run_.feeder.main
        disk.error = CaptureWriteError("disk full")
        await feed.take([b"1"])
        while "have to wait" not in caplog.text:
            await asyncio.to_thread(feed.check)
        disk.error = None
        error: Exception | None = CaptureWriteError("away")
        acknowledged = CaptureServer.acknowledged

        def faulty(server: CaptureServer, *level: Level | None) -> int:
            if error is not None:
                raise error
            return acknowledged(server, *level)

        monkeypatch.setattr(CaptureServer, "acknowledged", faulty)
        await asyncio.to_thread(feed.check)
        error = None
        await asyncio.to_thread(feed.check)
        assert "stored again" in caplog.text
        assert feed.ended is None


async def test_many_wait_for_their_message_and_each_is_told_in_time(
    tmp_path: Path, disk: Disk
) -> None:
    async with feeding(tmp_path) as run_:
        feed = run_.feeder.main
        disk.go.clear()
        seqs = [await feed.take([b"%d" % n]) for n in range(50)]
        waiting = [asyncio.create_task(feed.acknowledged(seq)) for seq in reversed(seqs)]
        given_up = waiting.pop()
        await asyncio.sleep(0.01)
        given_up.cancel()
        disk.go.set()
        await asyncio.gather(*waiting)
        assert run_.stored() == [b"%d" % n for n in range(50)]


async def test_a_further_source_has_numbers_times_and_options_of_its_own(tmp_path: Path) -> None:
    before_us = to_us(utc_now())
    async with feeding(tmp_path) as run_:
        other = await run_.feeder.source("other", decoder="csv", options={"columns": ["a"]})
        assert await run_.feeder.source("other") is other
        seq = await other.take([b"1", b"2"])
        await other.acknowledged(seq)
        assert (seq, run_.stored("other"), run_.stored()) == (1, [b"1", b"2"], [])
    assert run_.totals is not None
    assert run_.totals.session.state == "complete"
    assert run_.totals.sources == {"main": 0, "other": 2}
    with_csv = StreamSpec("other", "csv", {"columns": ["a"]})
    with SqliteCaptureStore(tmp_path / "capture.db") as store:
        assert with_csv in store.streams(run_.number)
        (chunk,) = store.chunks(run_.number, "other")
    assert all(before_us <= at_us <= to_us(utc_now()) for at_us in chunk.times())


async def test_rejected_input_is_kept_with_a_number_and_a_busy_quarantine_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keepline.capture.ingest.feeder._QUARANTINE_RETRY_S", 0.01)
    async with feeding(tmp_path) as run_:
        run_.kept.failures = 2
        await run_.feeder.reject(b"bad", "because")
        await run_.feeder.reject(b"bad", "because", source="other")
        name = run_.feeder.session.global_name
    assert run_.kept.rows == [
        (f"{name}:main", 0, b"bad", "because"),
        (f"{name}:other", 1, b"bad", "because"),
    ]
    assert run_.totals is not None
    assert run_.totals.quarantined == 2


async def test_only_what_is_kept_counts_as_quarantined(tmp_path: Path) -> None:
    async with feeding(tmp_path) as run_:
        run_.kept.failures = 1_000_000
        rejecting = asyncio.create_task(run_.feeder.reject(b"bad", "because"))
        await until(lambda: run_.kept.failures < 1_000_000)
        assert run_.feeder.rejected == 0
        run_.kept.failures = 0
        await rejecting
        assert run_.feeder.rejected == 1


async def test_a_stop_waits_for_a_quarantine_that_is_away_for_a_moment_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("keepline.capture.ingest.feeder._QUARANTINE_STOP_S", 0.2)
    with SqliteCaptureStore(tmp_path / "capture.db") as store:
        kept = Kept()
        kept.failures = 1_000_000
        feeder = Feeder(CaptureServer(store, "bench"), kept)
        with pytest.raises(IngestError, match="rejected input is lost"):
            await asyncio.wait_for(run(feeder, Rejecting([b"1", b"22", b"333"]), seconds=0.1), 10)
        (info,) = store.sessions()
    assert info.state == "interrupted"
    assert feeder.rejected == 0
    for count in (1, 2, 3):
        assert f"{count} bytes of rejected input are lost" in caplog.text


async def test_a_quarantine_that_refuses_input_makes_the_run_fail(tmp_path: Path) -> None:
    def refuses(*_: object) -> int:
        raise ValueError("confidential")

    with SqliteCaptureStore(tmp_path / "capture.db") as store:
        feeder = Feeder(CaptureServer(store, "bench"), refuses)
        with pytest.raises(IngestError, match=r"lost: the quarantine refuses it: ValueError$"):
            await asyncio.wait_for(run(feeder, Rejecting([b"1"])), 10)
        (info,) = store.sessions()
        assert (info.state, feeder.rejected) == ("interrupted", 0)


async def test_a_session_ends_when_that_is_asked_for(tmp_path: Path) -> None:
    async with feeding(tmp_path) as run_:
        await run_.feeder.main.take([b"1"])
        watching = asyncio.create_task(run_.feeder.watch())
        run_.store.request_stop(run_.number)
        await asyncio.wait_for(watching, 10)


class Silent:
    """A way in that takes nothing, or fails where a test says."""

    acknowledges = True

    def __init__(self, fails: str = "") -> None:
        self.fails = fails
        self.closed = 0

    async def prepare(self) -> str:
        if self.fails == "prepare":
            raise IngestError("taken")
        return "nowhere"

    async def open(self, feeder: object) -> None:
        if self.fails == "open":
            raise IngestError("gone")

    async def close(self) -> None:
        self.closed += 1


class Rejecting(Silent):
    """A way in that has nothing but input that cannot be a message."""

    def __init__(self, inputs: list[bytes]) -> None:
        super().__init__()
        self.inputs = inputs
        self.tasks: list[asyncio.Task[None]] = []

    async def open(self, feeder: Feeder) -> None:  # type: ignore[override]
        self.tasks = [asyncio.create_task(feeder.reject(raw, "bad")) for raw in self.inputs]

    async def close(self) -> None:
        await asyncio.gather(*self.tasks, return_exceptions=True)


async def test_a_run_that_cannot_begin_leaves_no_session(tmp_path: Path) -> None:
    with SqliteCaptureStore(tmp_path / "capture.db") as store:
        way = Silent("prepare")
        with pytest.raises(IngestError, match="taken"):
            await run(Feeder(CaptureServer(store, "bench"), Kept()), way)
        assert (store.sessions(), way.closed > 0) == ([], True)


@pytest.mark.parametrize("cause", ["open", "fail"])
async def test_a_run_that_fails_ends_its_session_as_interrupted(tmp_path: Path, cause: str) -> None:
    with SqliteCaptureStore(tmp_path / "capture.db") as store:
        feeder = Feeder(CaptureServer(store, "bench"), Kept())

        def started(_info: object, _address: str) -> None:
            feeder.fail(IngestError("gone"))

        with pytest.raises(IngestError, match="gone"):
            await run(feeder, Silent(cause), started=started)
        (info,) = store.sessions()
        assert info.state == "interrupted"


async def test_nothing_is_promised_where_a_spool_may_drop_it(tmp_path: Path) -> None:
    with (
        SqliteCaptureStore(tmp_path / "capture.db") as store,
        Spool(tmp_path / "spool.db", when_full="drop") as spool,
    ):
        feeder = Feeder(CaptureServer(store, "bench", spool=spool), Kept())
        assert not feeder.promises
        with pytest.raises(IngestError, match="when_full"):
            await run(feeder, Silent())
        assert store.sessions() == []


async def test_who_waits_for_a_dropped_message_of_a_further_source_is_told(
    tmp_path: Path, disk: Disk
) -> None:
    with (
        SqliteCaptureStore(tmp_path / "capture.db") as store,
        Spool(tmp_path / "spool.db", max_mb=0, when_full="drop") as spool,
        CaptureServer(store, "bench", spool=spool) as server,
    ):
        server.start_session()
        source = ExtraSource(server, StreamSpec("other"), linger_s=0.001)
        disk.error = CaptureWriteError("away")
        seq = source.queue_many([b"1"])
        assert seq == 0
        with pytest.raises(CaptureWriteError, match="message 0 is lost: dropped"):
            source.wait(seq, timeout_s=20)
        assert (source.lossy, source.acknowledged()) == (True, -1)
        disk.error = None
        source.finish()
