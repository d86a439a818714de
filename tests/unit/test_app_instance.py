"""Making, opening and closing an instance; which one is current; settings from the environment."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest

from keepline import CaptureServer, get_sessions_to_build, init_instance, open_instance
from keepline.app.instance import Instance, migrate_instance
from keepline.errors import ConfigError, InstanceError, NoInstanceError
from keepline.model import Instrument
from keepline.sessions import add_instrument
from keepline.store.current import using


def test_names_without_an_instance_say_so(tmp_path: Path) -> None:
    with pytest.raises(NoInstanceError, match="open_instance"):
        get_sessions_to_build()
    with init_instance(tmp_path / "one"):
        assert get_sessions_to_build() == []
    with pytest.raises(NoInstanceError):
        get_sessions_to_build()


def test_the_opened_instance_is_current_in_every_thread(tmp_path: Path) -> None:
    found: list[object] = []
    with init_instance(tmp_path / "one"):
        thread = threading.Thread(target=lambda: found.append(get_sessions_to_build()))
        thread.start()
        thread.join()
    assert found == [[]]


def test_using_puts_another_instance_over_the_default(tmp_path: Path) -> None:
    from keepline.store.current import current

    with init_instance(tmp_path / "one") as one:
        other = init_instance(tmp_path / "other")
        with using(one):
            assert current() is one
        assert current() is other
        assert current(one) is one
        other.close()


def test_identity_stays_and_differs(tmp_path: Path) -> None:
    with init_instance(tmp_path / "one") as made, init_instance(tmp_path / "two") as other:
        first, second = (made.store_id, made.epoch), (other.store_id, other.epoch)
    with open_instance(tmp_path / "one") as opened:
        assert (opened.store_id, opened.epoch) == first
    assert not set(first) & set(second)


def test_folder_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    init_instance(tmp_path / "one").close()
    monkeypatch.setenv("KEEPLINE_INSTANCE", str(tmp_path / "one"))
    with open_instance() as opened:
        assert opened.folder == tmp_path / "one"


def test_variables_override_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    init_instance(tmp_path / "one").close()
    monkeypatch.setenv("KEEPLINE_CAPTURE__LEVEL", "fsynced")
    with open_instance(tmp_path / "one") as opened:
        assert opened.settings.capture.level == "fsynced"
        assert opened.settings.capture.path == "capture.db"


def test_a_half_made_instance_is_finished_by_migrate(tmp_path: Path) -> None:
    init_instance(tmp_path / "one").close()
    for file in (tmp_path / "one").glob("keepline.db*"):
        file.unlink()
    with pytest.raises(InstanceError, match="keepline migrate"):
        open_instance(tmp_path / "one")
    migrate_instance(tmp_path / "one").close()
    with open_instance(tmp_path / "one"):
        assert get_sessions_to_build() == []


def test_an_instance_is_its_owners_alone(tmp_path: Path) -> None:
    init_instance(tmp_path / "new").close()
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "new" / "keepline.toml").stat().st_mode & 0o777 == 0o600


def test_secrets_do_not_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    init_instance(tmp_path / "one").close()
    monkeypatch.setenv("KEEPLINE_STORE__URL", "postgresql://ann:hunter2@localhost:1/x")
    with pytest.raises(InstanceError) as raised:
        open_instance(tmp_path / "one")
    assert "hunter2" not in str(raised.value)
    from keepline import config

    assert "hunter2" not in repr(config.load(tmp_path / "one"))


def test_mistakes_never_show_what_was_typed(tmp_path: Path) -> None:
    init_instance(tmp_path / "one").close()
    (tmp_path / "one" / "keepline.toml").write_text("[store]\nurl = ['hunter2']\n")
    with pytest.raises(ConfigError, match=r"store\.url") as raised:
        open_instance(tmp_path / "one")
    assert "hunter2" not in str(raised.value)


def test_a_plug_in_module_that_fails_leaves_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from keepline.app import modules

    def broken(_instance: object) -> None:
        raise OSError("the meter is off")

    monkeypatch.setattr(modules, "archive", broken)
    with init_instance(tmp_path / "one") as instance:
        others = ["capture", "deliveries", "readings", "records", "sessions"]
        assert sorted(instance.modules) == others
    assert "'archive' cannot be made" in caplog.text


def record_one(instance: Instance) -> int:
    """Record and archive a session of one message; return its number."""
    with CaptureServer(instance.capture_store, "bench") as server:
        number = server.start_session()
        server.queue(b'{"a": 1}')
    instance.archive.archive_session(number)
    return number


def test_capture_store_older_than_the_archive_gives_no_number_twice(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "one"
    with init_instance(folder) as instance:
        add_instrument(Instrument("bench"), instance=instance)
        assert record_one(instance) == 1
    shutil.copy(folder / "capture.db", tmp_path / "copy.db")
    with open_instance(folder) as instance:
        epoch = instance.capture_store.epoch
        assert [record_one(instance), record_one(instance)] == [2, 3]
    shutil.move(tmp_path / "copy.db", folder / "capture.db")
    shutil.rmtree(folder / "capture.db-locks")  # which would have told as well
    with open_instance(folder) as instance:
        assert instance.capture_store.epoch != epoch
        assert record_one(instance) == 4
    assert "older than the archive" in caplog.text
