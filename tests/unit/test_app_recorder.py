"""Recording a declared stream: by name, from a file, and what is refused."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from keepline import Instance, init_instance, open_instance
from keepline.app.recorder import input_quarantine, recorder
from keepline.errors import ConfigError, KeeplineError
from keepline.sessions import list_instruments

STREAM = 'instrument = "bench"\nsource = "board"\ndecoder = "csv"\n[options]\ncolumns = ["a"]\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    init_instance(tmp_path / "instance").close()
    with (tmp_path / "instance" / "keepline.toml").open("a") as file:
        file.write(
            '\n[streams.lines]\ninstrument = "bench"\n'
            '[capture.spool]\npath = "own-spool.db"\nmax_mb = 1\nwhen_full = "raise"\n'
        )
    return tmp_path / "instance"


@pytest.fixture
def instance(folder: Path) -> Iterator[Instance]:
    with open_instance(folder) as instance:
        yield instance


def test_a_stream_is_recorded_as_it_is_declared(instance: Instance, tmp_path: Path) -> None:
    file = tmp_path / "stream.toml"
    file.write_text(STREAM)
    for stream, source, decoder in (("lines", "main", "json"), (str(file), "board", "csv")):
        with recorder(instance, stream, user="ann") as server:
            number = server.start_session(level="fsynced")
            server.queue("1")
            (spec,) = instance.capture_store.streams(number)
            assert (spec.source, spec.decoder) == (source, decoder)
            session = instance.capture_store.session(number)
            assert (session.instrument, session.user, session.level) == ("bench", "ann", "fsynced")


def test_the_instrument_of_a_stream_is_made_known(instance: Instance) -> None:
    assert list_instruments(instance=instance) == []
    recorder(instance, "lines")
    recorder(instance, "lines")
    assert [each.name for each in list_instruments(instance=instance)] == ["bench"]


def test_messages_are_spooled_where_the_settings_say(instance: Instance) -> None:
    server = recorder(instance, "lines")
    assert server.spool is not None
    assert (server.spool.when_full, server.spool.max_bytes) == ("raise", 1024 * 1024)
    assert (instance.folder / "own-spool.db").exists()


def test_url_beside_a_file_is_refused(folder: Path) -> None:
    settings = folder / "keepline.toml"
    said = settings.read_text()
    settings.write_text(
        said.replace('path = "capture.db"', 'url = "redis://:confidential@localhost:6379/0"')
    )
    with pytest.raises(
        ConfigError, match=r'capture: url is for a server: set store = "redis"'
    ) as e:
        open_instance(folder)
    assert "confidential" not in str(e.value)
    assert "Value error" not in str(e.value)


def test_what_is_not_declared_is_said_in_one_line(instance: Instance, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no stream 'other'; there are: lines;"):
        recorder(instance, "other")
    with pytest.raises(ConfigError, match="cannot be read"):
        recorder(instance, str(tmp_path / "nothing.toml"))
    assert instance.capture_store.sessions() == []


def test_a_full_database_is_an_error_that_the_quarantine_is_tried_again_after(
    instance: Instance,
) -> None:
    keep = input_quarantine(instance)
    rows = [(0, bytes(1_000_000), "bad")]

    def fill(connection: sa.Connection) -> None:
        connection.exec_driver_sql("PRAGMA max_page_count = 1")  # no fewer than it has

    sa.event.listen(instance.store.engine, "begin", fill)
    with pytest.raises(KeeplineError, match="cannot be written: database or disk is full"):
        keep("here", rows)
    sa.event.remove(instance.store.engine, "begin", fill)
    instance.store.engine.dispose()
    assert keep("here", rows) == 1


def test_rejected_input_is_in_the_quarantine_once(instance: Instance) -> None:
    keep = input_quarantine(instance)
    rows = [(0, b"\xff", "bad"), (1, b"\xff", "bad")]
    assert (keep("here", rows), keep("here", rows), keep("there", rows)) == (2, 0, 2)
