"""The verbs over recipients that keepline.toml declares."""

import io
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keepline.app.instance import init_instance
from keepline.config import RecipientSettings, Settings
from keepline.delivery import (
    export,
    export_task,
    export_tasks_individually,
    pending,
    print_export_queue,
)
from keepline.delivery.lock import hold
from keepline.delivery.recipients import recipient, recipients
from keepline.delivery.transports.database import DatabaseTransport
from keepline.errors import (
    ConfigError,
    DeliveryError,
    NoInstanceError,
    PluginError,
    UnknownRecipientError,
)
from keepline.model import RecordKey
from keepline.store import current, plugins
from keepline.store.tables.delivery import delivery_backlog, delivery_cursor, sent_log
from keepline.testing.transports import FaultyTransport
from tests.delivery_host import Host, host

LEDGER = RecipientSettings(transport="database", url="sqlite:///ledger.db", groups=("*",))
FILES = RecipientSettings(transport="folder", path="outbox")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Host]:
    with host(tmp_path, recipients={"ledger": LEDGER, "files": FILES}) as made:
        yield made


def tables(world: Host) -> list[object]:
    return [
        world.select(sa.select(table)) for table in (sent_log, delivery_backlog, delivery_cursor)
    ]


def queue(world: Host, **options: object) -> list[str]:
    out = io.StringIO()
    print_export_queue(all_recipients=True, instance=world.instance, file=out, **options)
    return out.getvalue().splitlines()


def test_export_delivers_then_nothing_then_the_edited_one(world: Host) -> None:
    world.add("a", "b")
    world.add("c", group="lab")
    first = export(all_recipients=True, instance=world.instance)
    assert first.ok
    assert {name: each.sent for name, each in first.recipients.items()} == {
        "files": 2,
        "ledger": 3,
    }
    again = export(all_recipients=True, instance=world.instance)
    assert [each.sent for each in again.recipients.values()] == [0, 0]
    world.edit("a", title="corrected")
    after = export(all_recipients=True, instance=world.instance)
    assert [each.sent for each in after.recipients.values()] == [1, 1]

    with sqlite3.connect(world.instance.folder / "ledger.db") as ledger:
        rows = ledger.execute(
            "SELECT record_key, revision, title FROM keepline_sample ORDER BY 1"
        ).fetchall()
    ledger.close()
    assert rows == [("a", 2, "corrected"), ("b", 1, None), ("c", 1, None)]
    files = sorted((world.instance.folder / "outbox" / "sample").iterdir())
    assert [json.loads(file.read_text())["record"]["revision"] for file in files] == [2, 1]


def test_queue_shows_what_a_run_sends_and_changes_nothing(world: Host) -> None:
    world.add("a", "b")
    before = tables(world)
    assert queue(world) == [
        "files\tsample/a\t1",
        "files\tsample/b\t1",
        "ledger\tsample/a\t1",
        "ledger\tsample/b\t1",
    ]
    assert queue(world, pretty=True)[:3] == [
        "files: sample/a, revision 1",
        "files: sample/b, revision 1",
        "files: 2 to send",
    ]
    dry = export(all_recipients=True, instance=world.instance, dry_run=True)
    assert [each.remaining for each in dry.recipients.values()] == [2, 2]
    assert tables(world) == before
    export(recipient_names=["files"], instance=world.instance)
    assert queue(world) == ["ledger\tsample/a\t1", "ledger\tsample/b\t1"]


def test_one_record_by_name(world: Host) -> None:
    world.add("a", "b")
    to = recipient(world.instance.settings, "ledger")
    key = RecordKey("sample", "b")
    assert export_task(to, key, instance=world.instance).sent == 1
    assert export_task(to, key, instance=world.instance).sent == 0
    assert export_tasks_individually(to, instance=world.instance).sent == 1


def test_names_that_do_not_exist_send_nothing(world: Host) -> None:
    world.add("a")
    with pytest.raises(UnknownRecipientError, match=r"'nobody'.*files, ledger"):
        export(recipient_names=["files", "nobody"], instance=world.instance)
    with pytest.raises(DeliveryError, match="name a recipient"):
        export(instance=world.instance)
    assert tables(world) == [[], [], []]


def test_unknown_transport_is_told_and_does_not_stop_the_others(tmp_path: Path) -> None:
    odd = RecipientSettings(transport="pigeon")
    with host(tmp_path, recipients={"a": odd, "files": FILES}) as world:
        world.add("a")
        report = export(all_recipients=True, instance=world.instance)
        assert "pigeon" in str(report.recipients["a"].error)
        assert report.recipients["files"].sent == 1
        assert not report.ok
        with pytest.raises(PluginError):
            export_tasks_individually(
                recipients(world.instance.settings)[0], instance=world.instance
            )


def test_recipient_that_cannot_be_set_up_is_told_and_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Odd(FaultyTransport):
        @classmethod
        def configured(cls, settings: RecipientSettings, *, folder: Path) -> Self:
            raise KeyError("hunter2")

    load = plugins.load
    monkeypatch.setattr(
        plugins, "load", lambda kind, name: Odd if name == "odd" else load(kind, name)
    )
    url = "postgresql://ann:hunter2@host:54x/db"
    declared = {
        "a-odd": RecipientSettings(transport="odd"),
        "b-url": RecipientSettings(transport="database", url=url),
        "files": FILES,
    }
    with host(tmp_path, recipients=declared) as world:
        world.add("a")
        report = export(all_recipients=True, instance=world.instance).recipients
    assert "'a-odd'" in str(report["a-odd"].error)
    assert "KeyError" in str(report["a-odd"].error)
    assert "not an SQLAlchemy URL" in str(report["b-url"].error)
    assert "hunter2" not in repr(report)
    assert "54x" not in repr(report)
    assert report["files"].sent == 1


def test_a_store_of_keepline_is_no_recipient(tmp_path: Path) -> None:
    with init_instance(tmp_path / "one") as instance:
        assert instance.capture_store.sessions() == []
    for name in ("keepline.db", "capture.db"):
        settings = RecipientSettings(transport="database", url=f"sqlite:///{name}")
        transport = DatabaseTransport.configured(settings, folder=tmp_path / "one")
        with pytest.raises(ConfigError, match="store of keepline"), transport:
            pass


def test_busy_recipient_is_told_and_does_not_stop_the_others(world: Host) -> None:
    world.add("a")
    with hold(world.store, "files"):
        report = export(all_recipients=True, instance=world.instance)
    assert "another process" in str(report.recipients["files"].error)
    assert report.recipients["ledger"].sent == 1


def test_unwritable_folder_and_missing_settings_are_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    declared = {
        "blocked": RecipientSettings(transport="folder", path="file/outbox"),
        "no-path": RecipientSettings(transport="folder"),
        "no-url": RecipientSettings(transport="database"),
        "odd-url": RecipientSettings(transport="database", url="what?"),
        "no-driver": RecipientSettings(transport="database", url="nosuchdb://x/y"),
    }
    with host(tmp_path, recipients=declared) as world:
        world.add("a")
        report = export(all_recipients=True, instance=world.instance)
        for each in report.recipients.values():
            assert each.sent == 0
            assert len(str(each.error).splitlines()) == 1
        assert "Not a directory" in str(report.recipients["blocked"].error)
        assert report.recipients["blocked"].remaining == 1


def test_without_instance_the_current_one_is_used(world: Host) -> None:
    with pytest.raises(NoInstanceError):
        export(all_recipients=True)
    world.add("a")
    with current.using(world.instance):
        assert export(all_recipients=True).recipients["files"].sent == 1


def test_no_password_reaches_a_table_an_error_or_a_repr(tmp_path: Path) -> None:
    secret = "hunter2-öß"
    url = f"postgresql://ann:{secret}@127.0.0.1:1/none"
    declared = {"remote": RecipientSettings(transport="database", url=url)}
    with host(tmp_path, recipients=declared) as world:
        world.add("a")
        report = export(all_recipients=True, instance=world.instance)
        to = recipient(world.instance.settings, "remote")
        shown = [repr(report), repr(to), repr(world.instance.settings), repr(world.store)]
        assert report.recipients["remote"].error
        assert all(secret not in text for text in shown)
    for file in tmp_path.iterdir():
        assert secret.encode() not in file.read_bytes()


def test_criteria_change_with_the_settings_but_not_with_secrets() -> None:
    def criteria(**changes: object) -> str:
        values = {"transport": "database", "url": "sqlite:///a.db", **changes}
        declared = {"x": RecipientSettings.model_validate(values)}
        return recipient(Settings(recipients=declared), "x").criteria

    assert criteria() == criteria(url="sqlite:///b.db")
    assert len({criteria(), criteria(groups=("a",)), criteria(record_types=("sample",))}) == 3


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["add", "edit", "remove", "move", "run", "forget"]),
        st.sampled_from("abcd"),
    ),
    max_size=25,
)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(events=EVENTS, groups=st.sampled_from([(), ("lab",), ("*",)]))
def test_queue_equals_run_equals_oracle(
    tmp_path_factory: pytest.TempPathFactory, events: list[tuple[str, str]], groups: tuple[str, ...]
) -> None:
    """Whatever happened before: what the queue shows is sent, and that is what is missing."""
    folder = tmp_path_factory.mktemp("oracle")
    declared = {"files": RecipientSettings(transport="folder", path="out", groups=groups)}
    with host(folder, recipients=declared) as world:
        alive: dict[str, str | None] = {}
        revision = dict.fromkeys("abcd", 0)
        delivered: set[tuple[str, int]] = set()

        def due() -> set[tuple[str, int]]:
            seen = [
                key for key, group in alive.items() if group is None or groups in ((group,), ("*",))
            ]
            return {(key, revision[key]) for key in seen} - delivered

        for event, key in [*events, ("run", "a"), ("run", "a")]:
            if event == "add" and key not in alive:
                world.add(key)
                alive[key] = None
                revision[key] += 1
            elif event == "edit" and key in alive:
                world.edit(key, title=f"revision {revision[key] + 1}")
                revision[key] += 1
            elif event == "move" and key in alive:
                alive[key] = "lab" if alive[key] is None else None
                world.edit(key, group_name=alive[key])
                revision[key] += 1
            elif event == "remove" and key in alive:
                world.remove(key)
                del alive[key]
                revision[key] += 1
            elif event == "forget":
                world.forget_cache()
            elif event == "run":
                to = recipient(world.instance.settings, "files")
                shown = {
                    (each.key.key, each.revision) for each in pending(to, instance=world.instance)
                }
                assert shown == due()
                report = export(all_recipients=True, instance=world.instance).recipients["files"]
                assert report.sent == len(shown)
                delivered |= shown
        sent = [(key, number) for key, number, state in world.log() if state == "sent"]
        assert sorted(sent) == sorted(delivered)
