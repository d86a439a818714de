"""Tests of losses: messages whose numbers are passed over."""

# ruff: noqa: S101 - assert is how a test speaks

from __future__ import annotations

import pytest

from keepline.capture.store import CaptureStore, StreamWriter
from keepline.errors import ChunkConflictError, SessionClosedError
from keepline.testing.capture_stores.fixtures import StoreFixtures
from keepline.testing.capture_stores.made import START, chunk_of, start


class LossTests(StoreFixtures):
    """Tests of losses."""

    def test_next_chunk_follows_a_loss(self, store: CaptureStore, writer: StreamWriter) -> None:
        number = writer.session.number
        chunks = [chunk_of(0, [b"a", b"b"]), chunk_of(5, [b"f"])]
        writer.append(chunks[:1])
        loss = writer.lose(4, "the spool was full: ünd 2\nlines")
        assert (loss.first_seq, loss.last_seq, loss.count) == (2, 4, 3)
        assert loss.reason == "the spool was full: ünd 2\nlines"
        assert store.losses(number, "main") == [loss]
        assert writer.next_seq == store.next_seq(number, "main") == 5
        assert writer.append(chunks[1:]) == ["stored"]
        assert store.next_seq(number, "main") == 6
        assert store.message_count(number, "main") == 3
        assert list(store.chunks(number, "main")) == chunks
        assert list(store.chunks(number, "main", 3)) == chunks[1:]
        assert store.last_messages(number, "main", 9) == [b"a", b"b", b"f"]

    def test_lost_numbers_are_not_stored_later(
        self, store: CaptureStore, writer: StreamWriter
    ) -> None:
        writer.lose(4, "gone")
        for first in (0, 2, 4):
            with pytest.raises(ChunkConflictError) as conflict:
                writer.append([chunk_of(first, [b"x"])])
            assert conflict.value.following == 5
        assert store.message_count(writer.session.number, "main") == 0

    def test_what_is_stored_cannot_be_lost(self, store: CaptureStore, writer: StreamWriter) -> None:
        writer.append([chunk_of(0, [b"a", b"b"])])
        with pytest.raises(ChunkConflictError) as conflict:
            writer.lose(1, "never was")
        assert conflict.value.following == 2
        assert store.losses(writer.session.number, "main") == []

    def test_losses_are_kept_in_order(self, store: CaptureStore, writer: StreamWriter) -> None:
        losses = [writer.lose(1, "first"), writer.lose(2, "second")]
        writer.append([chunk_of(3, [b"a"])])
        losses.append(writer.lose(9, "third"))
        number = writer.session.number
        assert store.losses(number, "main") == losses
        assert store.next_seq(number, "main") == 10
        writer.close()
        again = store.open_writer(number, "main")
        assert again.next_seq == 10
        again.close()

    def test_losses_stay_when_chunks_are_trimmed(
        self, store: CaptureStore, writer: StreamWriter
    ) -> None:
        number = writer.session.number
        writer.append([chunk_of(0, [b"a"])])
        loss = writer.lose(2, "gone")
        writer.append([chunk_of(3, [b"b"])])
        store.mark_archived(number, "main", 3)
        assert store.trim(number, "main", 3) == 2
        assert store.losses(number, "main") == [loss]
        assert store.message_count(number, "main") == 2

    def test_ended_session_loses_nothing_more(
        self, store: CaptureStore, writer: StreamWriter
    ) -> None:
        store.close_session(writer.session.number, "complete", START)
        with pytest.raises(SessionClosedError):
            writer.lose(3, "late")

    def test_deleted_session_leaves_no_loss(self, store: CaptureStore) -> None:
        writer = start(store)
        writer.lose(3, "gone")
        number = writer.session.number
        store.close_session(number, "partial", START)
        writer.close()
        store.delete_session(number)
        assert store.losses(number, "main") == []
