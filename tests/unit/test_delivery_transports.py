"""What the built-in transports do beyond the shared suite."""

import os
import sqlite3
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keepline.config import RecipientSettings
from keepline.delivery.transports.database import DatabaseTransport
from keepline.delivery.transports.folder import FolderTransport, file_name
from keepline.errors import ConfigError, TransportError
from keepline.model import Field, RecordType
from keepline.testing.transports import NASTY_KEYS, sample_record, sending_of


def rows(path: Path, query: str) -> list[tuple[object, ...]]:
    connection = sqlite3.connect(path)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


@given(st.text())
def test_file_name_is_one_safe_part_of_a_path(key: str) -> None:
    name = file_name(sending_of(sample_record(key)))
    assert len(os.fsencode(name)) <= 255
    assert Path(name).name == name
    assert not name.startswith((".", "-"))
    assert "\0" not in name
    assert name.isprintable()


def test_file_names_of_keys_that_look_alike_differ() -> None:
    names = {file_name(sending_of(sample_record(key))).casefold() for key in (*NASTY_KEYS, "nul\0")}
    assert len(names) == len(NASTY_KEYS) + 1


def test_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "outbox").mkdir()
    (tmp_path / "outbox" / "sample").symlink_to(tmp_path / "elsewhere")
    with (
        FolderTransport(tmp_path / "outbox") as transport,
        pytest.raises(TransportError, match="leads out"),
    ):
        transport.send(sending_of(sample_record()))
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_leftover_of_a_crash_is_replaced(tmp_path: Path) -> None:
    sending = sending_of(sample_record())
    leftover = tmp_path / "sample" / f".{sending.target_key[:16]}.part"
    leftover.parent.mkdir()
    leftover.write_text("half a fi")
    with FolderTransport(tmp_path) as transport:
        transport.send(sending)
    assert [path.name for path in leftover.parent.iterdir()] == [file_name(sending)]


def test_file_that_cannot_be_replaced_is_one_clear_error(tmp_path: Path) -> None:
    sending = sending_of(sample_record())
    (tmp_path / "sample" / file_name(sending)).mkdir(parents=True)
    with (
        FolderTransport(tmp_path) as transport,
        pytest.raises(TransportError, match="cannot be written") as caught,
    ):
        transport.send(sending)
    assert caught.value.unreachable
    assert [path.is_dir() for path in (tmp_path / "sample").iterdir()] == [True]


def test_older_revision_never_replaces_a_newer_one(tmp_path: Path) -> None:
    with DatabaseTransport("sqlite:///out.db", folder=tmp_path) as transport:
        transport.send(sending_of(sample_record(revision=2, peaks=[("second", 2.0)])))
        transport.send(sending_of(sample_record(revision=1)))
    assert rows(tmp_path / "out.db", "SELECT revision FROM keepline_sample") == [(2,)]
    assert rows(tmp_path / "out.db", "SELECT name FROM keepline_sample__peak") == [("second",)]


def test_failed_record_leaves_nothing_behind(tmp_path: Path) -> None:
    twice = sample_record(peaks=[("same", 1.0), ("same", 2.0)])
    with DatabaseTransport("sqlite:///out.db", folder=tmp_path) as transport:
        with pytest.raises(TransportError, match="UNIQUE constraint failed") as caught:
            transport.send(sending_of(twice))
        assert transport.delivered(sending_of(twice).send_key) is False
    assert not caught.value.unreachable
    for table in ("keepline_sample", "keepline_sample__peak", "keepline_receipt"):
        assert rows(tmp_path / "out.db", f"SELECT * FROM {table}") == []


def test_integer_beyond_the_database_is_refused(tmp_path: Path) -> None:
    with (
        DatabaseTransport("sqlite:///out.db", folder=tmp_path) as transport,
        pytest.raises(TransportError, match="cannot hold a value") as caught,
    ):
        transport.send(sending_of(sample_record(values={"runs": 2**70})))
    assert caught.value.permanent


def test_table_of_another_form_is_told(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "out.db")
    connection.execute("CREATE TABLE keepline_sample (target_key TEXT)")
    connection.close()
    with (
        DatabaseTransport("sqlite:///out.db", folder=tmp_path) as transport,
        pytest.raises(TransportError, match="keepline_sample lacks the column 'record_key'"),
    ):
        transport.send(sending_of(sample_record()))


def test_field_with_a_name_of_the_transports_own_is_refused(tmp_path: Path) -> None:
    odd = RecordType("odd", (Field("target_key"),))
    image = sample_record(declared=odd, values={"target_key": "x"})
    with (
        DatabaseTransport("sqlite:///out.db", folder=tmp_path) as transport,
        pytest.raises(TransportError, match="target_key") as caught,
    ):
        transport.send(sending_of(image))
    assert caught.value.permanent


def test_file_that_is_no_database_is_out_of_reach(tmp_path: Path) -> None:
    (tmp_path / "out.db").write_bytes(b"certainly not a database" * 100)
    with pytest.raises(TransportError, match="not a database") as caught:
        DatabaseTransport("sqlite:///out.db", folder=tmp_path).__enter__()
    assert caught.value.unreachable


def test_closed_transport_says_so(tmp_path: Path) -> None:
    transport = DatabaseTransport("sqlite:///out.db", folder=tmp_path)
    with pytest.raises(TransportError, match="not open"):
        transport.send(sending_of(sample_record()))


def test_settings_without_a_place_are_refused(tmp_path: Path) -> None:
    empty = RecipientSettings(transport="x")
    for kind in (DatabaseTransport, FolderTransport):
        with pytest.raises(ConfigError, match="needs a"):
            kind.configured(empty, folder=tmp_path)


def test_paths_start_at_the_instances_folder(tmp_path: Path) -> None:
    declared = RecipientSettings(transport="x", path="outbox", url="sqlite:///out.db")
    for kind in (DatabaseTransport, FolderTransport):
        with kind.configured(declared, folder=tmp_path) as transport:
            transport.send(sending_of(sample_record()))
    assert (tmp_path / "out.db").is_file()
    assert stat.S_ISDIR((tmp_path / "outbox" / "sample").stat().st_mode)
