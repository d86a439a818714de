"""Tests of streams: what is stored, read, repeated, refused, archived and trimmed."""

# ruff: noqa: S101 - assert is how a test speaks

from __future__ import annotations

import pytest

from keepline.capture.store import CaptureStore, StreamWriter
from keepline.errors import ChunkConflictError, ChunkDamagedError
from keepline.model import StreamSpec
from keepline.testing.capture_stores.fixtures import StoreFixtures
from keepline.testing.capture_stores.made import chunk_of, end, start


class StreamTests(StoreFixtures):
    """Tests of streams."""

    def test_chunks_come_back_in_order_and_equal(
        self, store: CaptureStore, writer: StreamWriter
    ) -> None:
        chunks = [
            chunk_of(0, [b"a", b"", b"c\0\xff"]),
            chunk_of(3, [b"d"], ticks=True),
            chunk_of(4, [b"e" * 70_000, b"f"]),
        ]
        assert writer.append(chunks[:1]) == ["stored"]
        assert writer.append(chunks[1:]) == ["stored", "stored"]
        number = writer.session.number
        assert list(store.chunks(number, "main")) == chunks
        assert list(store.chunks(number, "main", 3)) == chunks[1:]
        assert list(store.chunks(number, "main", 5)) == chunks[2:]
        assert list(store.chunks(number, "main", 6)) == []
        assert store.message_count(number, "main") == 6

    def test_reading_follows_what_is_stored_meanwhile(
        self, store: CaptureStore, writer: StreamWriter
    ) -> None:
        writer.append([chunk_of(0, [b"a"])])
        reading = store.chunks(writer.session.number, "main")
        assert next(reading).first_seq == 0
        writer.append([chunk_of(1, [b"b"])])
        assert next(reading).first_seq == 1

    def test_last_messages(self, store: CaptureStore, writer: StreamWriter) -> None:
        number = writer.session.number
        assert store.last_messages(number, "main", 2) == []
        writer.append([chunk_of(0, [b"a", b"b"]), chunk_of(2, [b"c"])])
        for _ in range(2):  # looking takes nothing away
            assert store.last_messages(number, "main", 2) == [b"b", b"c"]
        assert store.last_messages(number, "main", 9) == [b"a", b"b", b"c"]
        assert store.last_messages(number, "main", 0) == []

    def test_repeat_is_recognised(self, store: CaptureStore, writer: StreamWriter) -> None:
        chunk = chunk_of(0, [b"a", b"b"])
        assert writer.append([chunk]) == ["stored"]
        assert writer.append([chunk, chunk_of(2, [b"c"])]) == ["repeat", "stored"]
        assert store.message_count(writer.session.number, "main") == 3

    def test_other_content_for_the_same_numbers_is_refused(
        self, store: CaptureStore, writer: StreamWriter
    ) -> None:
        chunk = chunk_of(0, [b"a", b"b"])
        writer.append([chunk])
        for other in ([b"a", b"X"], [b"a"], [b"a", b"b", b"c"]):
            with pytest.raises(ChunkConflictError) as conflict:
                writer.append([chunk_of(0, other)])
            assert conflict.value.following == writer.next_seq == 2
        assert list(store.chunks(writer.session.number, "main")) == [chunk]

    def test_hole_is_refused_and_nothing_of_the_call_stored(
        self, store: CaptureStore, writer: StreamWriter
    ) -> None:
        with pytest.raises(ChunkConflictError) as conflict:
            writer.append([chunk_of(0, [b"a"]), chunk_of(2, [b"c"])])
        assert conflict.value.following == writer.next_seq == 0
        assert store.message_count(writer.session.number, "main") == 0
        assert writer.append([chunk_of(0, [b"a"])]) == ["stored"]

    def test_archived_mark_never_goes_back(self, store: CaptureStore, writer: StreamWriter) -> None:
        number = writer.session.number
        assert store.archived(number, "main") == -1
        store.mark_archived(number, "main", 7)
        store.mark_archived(number, "main", 3)
        assert store.archived(number, "main") == 7

    def test_archived_mark_is_put_anywhere_that_is_stored(
        self, store: CaptureStore, writer: StreamWriter
    ) -> None:
        number = writer.session.number
        writer.append([chunk_of(2 * n, [b"a", b"b"]) for n in range(3)])
        store.add_stream(number, StreamSpec(source="second"))
        for seq, mark in ((5, 5), (1, 1), (3, 3), (99, 5), (-1, -1), (-7, -1)):
            store.set_archived(number, "main", seq)
            assert store.archived(number, "main") == mark
        store.set_archived(number, "second", 3)
        assert store.archived(number, "second") == -1

    def test_nothing_is_trimmed_once_the_mark_went_back(
        self, store: CaptureStore, writer: StreamWriter
    ) -> None:
        number = writer.session.number
        writer.append([chunk_of(2 * n, [b"a", b"b"]) for n in range(3)])
        store.mark_archived(number, "main", 5)
        assert store.trim(number, "main", 1) == 2
        store.set_archived(number, "main", -1)
        assert store.trim(number, "main", 5) == 0
        assert store.trimmed(number, "main") == 1
        assert store.last_messages(number, "main", 9) == [b"a", b"b"] * 2
        store.mark_archived(number, "main", 3)
        assert store.trim(number, "main", 5) == 2

    def test_no_more_is_trimmed_than_asked_for(
        self, store: CaptureStore, writer: StreamWriter
    ) -> None:
        number = writer.session.number
        chunks = [chunk_of(2 * n, [b"a", b"b"]) for n in range(400)]
        writer.append(chunks)
        store.mark_archived(number, "main", 799)
        assert store.trim(number, "main", -1) == store.trim(number, "main", 0) == 0
        assert store.trim(number, "main", 4) == 4  # the third chunk goes on to 5
        assert store.trimmed(number, "main") == 3
        assert store.trim(number, "main", 700) == 696
        assert store.trimmed(number, "main") == 699
        assert list(store.chunks(number, "main")) == chunks[350:]

    def test_source_that_a_session_has_not_has_no_messages(
        self, store: CaptureStore, writer: StreamWriter
    ) -> None:
        number = writer.session.number
        assert store.next_seq(number, "second") == store.message_count(number, "second") == 0

    def test_empty_chunk_is_refused(self, store: CaptureStore, writer: StreamWriter) -> None:
        with pytest.raises(ChunkConflictError):
            writer.append([chunk_of(0, [])])
        assert writer.append([]) == []
        assert store.next_seq(writer.session.number, "main") == 0

    def test_repeat_is_recognised_by_another_writer(
        self, store: CaptureStore, writer: StreamWriter
    ) -> None:
        chunks = [chunk_of(0, [b"a", b"b"]), chunk_of(2, [b"c"])]
        writer.append(chunks)
        writer.close()
        again = store.open_writer(writer.session.number, "main")
        assert again.append([*chunks, chunk_of(3, [b"d"])]) == ["repeat", "repeat", "stored"]
        again.close()
        assert store.message_count(writer.session.number, "main") == 4

    def test_long_stream_is_read_from_anywhere(
        self, store: CaptureStore, writer: StreamWriter
    ) -> None:
        chunks = [chunk_of(3 * n, [b"%d" % m for m in range(3)]) for n in range(40)]
        writer.append(chunks[:25])
        for chunk in chunks[25:]:
            writer.append([chunk])
        number = writer.session.number
        for n in (0, 1, 7, 8, 9, 24, 39):
            for seq in range(3 * n, 3 * n + 3):
                assert list(store.chunks(number, "main", seq)) == chunks[n:]
        assert list(store.chunks(number, "main", 120)) == []
        assert store.last_messages(number, "main", 5) == [b"1", b"2", b"0", b"1", b"2"]

    def test_largest_message_and_many_chunks_at_once(
        self, store: CaptureStore, writer: StreamWriter
    ) -> None:
        large = chunk_of(0, [b"\xff" * (16 * 1024 * 1024)])
        many = [chunk_of(1 + 10 * n, [b"m" * 6_000] * 10) for n in range(100)]
        assert writer.append([large, *many]) == ["stored"] * 101
        assert list(store.chunks(writer.session.number, "main")) == [large, *many]

    def test_streams_of_a_session_are_apart(
        self, store: CaptureStore, writer: StreamWriter
    ) -> None:
        number = writer.session.number
        store.add_stream(number, StreamSpec(source="second"))
        second = store.open_writer(number, "second")
        writer.append([chunk_of(0, [b"a", b"b"])])
        second.append([chunk_of(0, [b"x"])])
        second.close()
        store.mark_archived(number, "second", 0)
        assert store.trim(number, "second", 5) == 1
        assert store.next_seq(number, "main") == 2
        assert store.archived(number, "main") == store.trimmed(number, "main") == -1
        assert store.last_messages(number, "main", 1) == [b"b"]

    def test_damaged_chunk_says_which_messages_it_held(
        self, store: CaptureStore, writer: StreamWriter
    ) -> None:
        chunks = [chunk_of(2 * n, [b"aaaa", b"bbbb"]) for n in range(3)]
        writer.append(chunks)
        number = writer.session.number
        self.damage(store, number, "main", 2)
        reading = store.chunks(number, "main")
        assert next(reading) == chunks[0]
        with pytest.raises(ChunkDamagedError) as damage:
            next(reading)
        assert (damage.value.first_seq, damage.value.last_seq) == (2, 3)
        assert len(damage.value.raw) == 8
        assert damage.value.raw != chunks[1].raw
        assert list(store.chunks(number, "main", damage.value.last_seq + 1)) == chunks[2:]
        assert store.message_count(number, "main") == 6

    def test_chunk_that_vanished_is_passed_over(
        self, store: CaptureStore, writer: StreamWriter
    ) -> None:
        chunks = [chunk_of(2 * n, [b"a", b"b"]) for n in range(4)]
        writer.append(chunks)
        number = writer.session.number
        self.remove(store, number, "main", 2)
        assert list(store.chunks(number, "main")) == [chunks[0], *chunks[2:]]
        assert list(store.chunks(number, "main", 2)) == chunks[2:]
        assert list(store.chunks(number, "main", 3)) == chunks[2:]
        assert store.last_messages(number, "main", 5) == [b"b", *[b"a", b"b"] * 2]
        self.remove(store, number, "main", 6)
        assert store.next_seq(number, "main") == 8
        assert store.message_count(number, "main") == 8
        assert writer.append([chunk_of(8, [b"c"])]) == ["stored"]

    def test_nothing_is_trimmed_that_is_not_archived(
        self, store: CaptureStore, writer: StreamWriter
    ) -> None:
        chunks = [chunk_of(3 * n, [b"a", b"b", b"c"]) for n in range(3)]
        writer.append(chunks)
        number = writer.session.number
        assert store.trim(number, "main", 8) == 0
        store.mark_archived(number, "main", 4)  # within the second chunk
        assert store.trim(number, "main", 8) == 3
        assert store.trim(number, "main", 8) == 0
        assert store.trimmed(number, "main") == 2
        assert list(store.chunks(number, "main")) == chunks[1:]

    def test_counts_stay_when_all_is_trimmed(
        self, store: CaptureStore, writer: StreamWriter
    ) -> None:
        chunks = [chunk_of(2 * n, [b"a", b"b"]) for n in range(40)]
        writer.append(chunks)
        number = writer.session.number
        store.mark_archived(number, "main", 79)
        assert store.trim(number, "main", 79) == 80
        assert store.trimmed(number, "main") == 79
        assert store.message_count(number, "main") == store.next_seq(number, "main") == 80
        assert list(store.chunks(number, "main")) == []
        assert store.last_messages(number, "main", 3) == []
        assert writer.append(chunks[-1:]) == ["repeat"]  # its answer may have been lost
        assert writer.append([chunk_of(80, [b"c"])]) == ["stored"]
        assert [chunk.first_seq for chunk in store.chunks(number, "main")] == [80]
        assert store.message_count(number, "main") == 81

    def test_ended_session_can_be_trimmed(self, store: CaptureStore) -> None:
        writer = start(store)
        writer.append([chunk_of(0, [b"a", b"b"])])
        end(store, writer)
        number = writer.session.number
        store.mark_archived(number, "main", 1)
        assert store.archived(number, "main") == 1
        assert store.trim(number, "main", 1) == 2
        assert store.message_count(number, "main") == 2
