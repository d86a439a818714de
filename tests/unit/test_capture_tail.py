"""Following a stream: nothing twice, nothing left out in silence, and no number used again."""

import sqlite3
import threading
from array import array
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from keepline.capture import Archive, CaptureServer, SqliteCaptureStore
from keepline.capture.tail import Tail, live_values, tail
from keepline.errors import NoSessionError, TrimmedError
from keepline.model import Chunk, StreamSpec, to_us
from keepline.store import Store
from tests.query_live import LIVE_START

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
STEP = timedelta(milliseconds=20)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteCaptureStore]:
    with SqliteCaptureStore(tmp_path / "capture.db") as store:
        yield store


def chunk(first: int, messages: Sequence[bytes]) -> Chunk:
    times = array("q", (to_us(START) + first + place for place in range(len(messages))))
    return Chunk.of(first, list(messages), times, None, wall_us=0, monotonic_ns=0)


def numbered(first: int, stop: int, mark: str = "") -> list[bytes]:
    return [b'{"n": %d, "mark": "%s"}' % (n, mark.encode()) for n in range(first, stop)]


def given(items: Sequence[Tail]) -> list[tuple[int, bytes]]:
    """Return the messages with their numbers, as the items say them."""
    return [
        (number, message)
        for item in items
        for number, message in enumerate(item.messages, item.first_seq)
    ]


def losses(items: Sequence[Tail]) -> list[tuple[int, int]]:
    return [(each.loss.first_seq, each.loss.last_seq) for each in items if each.loss]


def test_ended_session_is_given_whole_and_says_how_it_ended(store: SqliteCaptureStore) -> None:
    server = CaptureServer(store, "bench")
    number = server.start_session(started=START)
    for n in range(2_500):
        server.queue(b"%d" % n, START + n * STEP)
    server.stop_session(ended=START + 2_500 * STEP)
    items = list(tail(store, number, follow=True))
    assert given(items) == [(n, b"%d" % n) for n in range(2_500)]
    assert_array_equal(
        np.concatenate([each.times_us for each in items]),
        to_us(START) + np.arange(2_500) * 20_000,
    )
    assert {each.epoch for each in items} == {store.epoch}
    assert (items[-1].state, items[-1].messages, items[-1].next_seq) == ("complete", (), 2_500)
    assert [each.next_seq for each in items[:-1]] == [
        *(each.first_seq for each in items[1:-1]), 2_500,
    ]  # fmt: skip
    rest = list(tail(store, number, 2_499))
    assert given(rest) == [(2_499, b"2499")]
    assert given(list(tail(store, number, 2_500))) == []
    with pytest.raises(NoSessionError):
        list(tail(store, 99))
    with pytest.raises(ValueError, match="from 0 on"):
        list(tail(store, number, -1))


def test_without_follow_it_ends_with_what_is_there(store: SqliteCaptureStore) -> None:
    writer = store.create_session("bench", "ann", StreamSpec(), started=START)
    number = writer.session.number
    assert list(tail(store, number)) == []
    writer.append([chunk(0, numbered(0, 3))])
    items = list(tail(store, number))
    assert (len(given(items)), items[-1].state, items[-1].next_seq) == (3, "running", 3)
    assert list(tail(store, number, 3)) == []
    writer.close()


def test_followers_get_what_is_stored_meanwhile(store: SqliteCaptureStore) -> None:
    server = CaptureServer(store, "bench", linger_s=0.01)
    number = server.start_session(started=START)
    found: list[list[Tail]] = [[], []]

    def follow(place: int) -> None:
        found[place].extend(tail(store, number, follow=True, poll_s=0.01))

    threads = [threading.Thread(target=follow, args=(place,)) for place in range(2)]
    for thread in threads:
        thread.start()
    for n in range(500):
        server.queue(b"%d" % n)
        if n % 50 == 0:
            server.wait(n)
    server.stop_session()
    for thread in threads:
        thread.join(60)
    for items in found:
        assert given(items) == [(n, b"%d" % n) for n in range(500)]
        assert items[-1].state == "complete"
        assert len(items) > 2


def test_a_follower_can_be_stopped(store: SqliteCaptureStore) -> None:
    writer = store.create_session("bench", "ann", StreamSpec(), started=START)
    writer.append([chunk(0, numbered(0, 3)), chunk(3, numbered(3, 6))])
    stop = threading.Event()
    items = []
    for item in tail(store, writer.session.number, follow=True, poll_s=60, stop=stop):
        items.append(item)
        stop.set()
    assert len(given(items)) == 3
    writer.close()


def test_losses_and_damage_come_as_items(store: SqliteCaptureStore) -> None:
    writer = store.create_session("bench", "ann", StreamSpec(), started=START)
    number = writer.session.number
    writer.append([chunk(0, numbered(0, 3))])
    writer.lose(6, "the spool was full")
    for first in (7, 10, 13):
        writer.append([chunk(first, numbered(first, first + 3))])
    writer.lose(17, "the spool was full again")
    with sqlite3.connect(store.path) as connection:
        connection.execute("UPDATE chunk SET raw = zeroblob(length(raw)) WHERE first_seq = 10")
    connection.close()
    items = list(tail(store, number))
    assert [seq for seq, _ in given(items)] == [0, 1, 2, 7, 8, 9, 13, 14, 15]
    assert losses(items) == [(3, 6), (10, 12), (16, 17)]
    assert [each.loss.reason for each in items if each.loss] == [
        "the spool was full", "the stored chunk is damaged", "the spool was full again",
    ]  # fmt: skip
    assert [each.first_seq for each in items[1:]] == [each.next_seq for each in items[:-1]]
    assert losses(list(tail(store, number, 5)))[0] == (5, 6)
    writer.close()


def test_chunk_that_is_gone_without_a_trace_is_a_loss(store: SqliteCaptureStore) -> None:
    writer = store.create_session("bench", "ann", StreamSpec(), started=START)
    writer.append([chunk(first, numbered(first, first + 3)) for first in (0, 3, 6)])
    with sqlite3.connect(store.path) as connection:
        connection.execute("DELETE FROM chunk WHERE first_seq IN (3, 6)")
    connection.close()
    items = list(tail(store, writer.session.number))
    assert losses(items) == [(3, 8)]
    assert items[-1].next_seq == 9
    writer.close()


class Switching:
    """A capture store that can be swapped for another one, as behind a fail-over."""

    def __init__(self, store: SqliteCaptureStore) -> None:
        self.now = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self.now, name)


def older_copy(store: SqliteCaptureStore, path: Path) -> None:
    with sqlite3.connect(store.path) as source, sqlite3.connect(path) as target:
        source.backup(target)
    source.close()
    target.close()


def test_a_store_that_went_back_is_a_new_epoch_and_a_gap(
    store: SqliteCaptureStore, tmp_path: Path
) -> None:
    writer = store.create_session("bench", "ann", StreamSpec(), started=START)
    number = writer.session.number
    writer.append([chunk(0, numbered(0, 10, "old"))])
    older_copy(store, tmp_path / "copy.db")
    writer.append([chunk(10, numbered(10, 15, "old")), chunk(15, numbered(15, 20, "old"))])
    switching = Switching(store)
    items: list[Tail] = []
    with SqliteCaptureStore(tmp_path / "copy.db") as copy:
        copy.renew()
        theirs = copy.open_writer(number, "main")
        for item in tail(switching, number, follow=True, poll_s=0.01):
            items.append(item)
            if item.next_seq == 20 and switching.now is store:
                theirs.append([chunk(10, numbered(10, 30, "new"))])
                theirs.close()
                copy.close_session(number, "complete", START)
                switching.now = copy
        old, new = store.epoch, copy.epoch
    writer.close()
    assert old != new
    messages = {(each.epoch, seq): raw for each in items for seq, raw in given([each])}
    assert sorted(seq for epoch, seq in messages if epoch == old) == list(range(20))
    assert sorted(seq for epoch, seq in messages if epoch == new) == list(range(10, 30))
    assert all(b"old" in raw for (epoch, _), raw in messages.items() if epoch == old)
    assert all(b"new" in raw for (epoch, _), raw in messages.items() if epoch == new)
    (told,) = [each for each in items if each.loss]
    assert (told.epoch, told.first_seq, told.next_seq) == (new, 10, 10)
    assert losses([told]) == [(10, 19)]


def test_who_comes_back_later_is_told_of_another_epoch(store: SqliteCaptureStore) -> None:
    writer = store.create_session("bench", "ann", StreamSpec(), started=START)
    number = writer.session.number
    writer.append([chunk(0, numbered(0, 5))])
    (item,) = tail(store, number)
    assert list(tail(store, number, item.next_seq, epoch=item.epoch)) == []
    assert list(tail(store, number, 9)) == []  # nobody said that there ever was more
    (beyond,) = tail(store, number, 9, epoch=item.epoch)
    assert (beyond.first_seq, beyond.next_seq, losses([beyond])) == (5, 5, [(5, 8)])
    store.renew()
    (news,) = tail(store, number, item.next_seq, epoch=item.epoch)
    assert (news.epoch, news.first_seq, news.messages) == (store.epoch, 5, ())
    assert news.epoch != item.epoch
    writer.close()


def test_trimmed_messages_come_from_the_archive(
    store: SqliteCaptureStore, sql_store: Store
) -> None:
    server = CaptureServer(store, "bench")
    number = server.start_session(started=START)
    messages = numbered(0, 2_300)
    for n, message in enumerate(messages):
        server.queue(message, START + n * STEP)
    server.wait(2_299)
    archive = Archive(sql_store, store)
    archive.archive_session(number)
    store.trim(number, "main", 2_299)
    assert store.trimmed(number, "main") == 2_299
    server.queue(b'{"n": 2300}', START + 2_300 * STEP)
    server.stop_session(ended=START + 3_000 * STEP)
    with pytest.raises(TrimmedError, match="messages 5 to 2299 of session 1"):
        list(tail(store, number, 5))
    items = list(tail(store, number, 5, archive=archive))
    assert given(items) == [*list(enumerate(messages))[5:], (2_300, b'{"n": 2300}')]
    assert losses(items) == []
    assert max(len(each.messages) for each in items) <= 1_000
    times = np.concatenate([each.times_us for each in items])
    assert_array_equal(times, to_us(START) + np.arange(5, 2_301) * 20_000)
    assert given(list(tail(store, number, 2_300))) == [(2_300, b'{"n": 2300}')]


def test_live_values_are_those_of_the_decoder(store: SqliteCaptureStore) -> None:
    writer = store.create_session("bench", "ann", StreamSpec(), started=LIVE_START)
    writer.append([chunk(0, [b'{"v": 1.5}', b"bad", b'{"v": 2, "t": "x"}'])])
    writer.lose(3, "gone")
    number = writer.session.number
    first, second = live_values(store, number, tail(store, number))
    assert first.decoded.columns["v"].tolist() == [1.5, 2.0]
    assert first.decoded.columns["t"] == [None, "x"]
    assert_array_equal(first.times_us, to_us(START) + np.array([0, 2]))
    assert [place for place, _, _ in first.decoded.rejected] == [1]
    assert (second.item.loss.first_seq, second.decoded.good) == (3, 0)
    writer.close()


def test_a_source_that_is_not_there_is_told(store: SqliteCaptureStore) -> None:
    with CaptureServer(store, "bench") as server:
        number = server.start_session()
        with pytest.raises(NoSessionError, match="has no source 'other'"):
            list(tail(store, number, source="other"))
