"""Clearing a session's data just while another archiver trims the session."""

import threading
from contextlib import suppress

import pytest

from keepline.capture import Archive, SqliteCaptureStore
from keepline.errors import CaptureError
from keepline.store import Store


def archive_untrimmed(
    archive: Archive,
    capture_store: SqliteCaptureStore,
    number: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Archive a session in a way that leaves all of it to be trimmed later."""
    with monkeypatch.context() as patch:
        patch.setattr(capture_store, "mark_archived", lambda *_: None)
        archive.archive_session(number)


def clear_while_another_trims(
    sql_store: Store,
    capture_store: SqliteCaptureStore,
    number: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Clear a session; another archiver comes right after it has looked what is trimmed."""
    ask, others = capture_store.trimmed, list[threading.Thread]()

    def archive_and_trim() -> None:
        with suppress(CaptureError):  # "cleared meanwhile" is a good answer, too
            Archive(sql_store, capture_store, trim=True).archive_session(number)

    def asked(number: int, source: str) -> int:
        before = ask(number, source)
        if not others:
            others.append(threading.Thread(target=archive_and_trim))
            others[0].start()
            others[0].join(1)
        return before

    with monkeypatch.context() as patch:
        patch.setattr(capture_store, "trimmed", asked)
        Archive(sql_store, capture_store).clear_session_data(number)
        others[0].join()
