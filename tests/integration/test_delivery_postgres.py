"""Deliveries from a PostgreSQL store: commits out of order, rollbacks, locks, snapshots."""

import io
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from keepline.cli.root import app
from keepline.config import RecipientSettings
from keepline.delivery import Capabilities, Sending, export, pending, print_export_queue
from keepline.delivery.lock import hold
from keepline.delivery.transports.database import DatabaseTransport
from keepline.errors import DeliveryError, RecipientBusyError, TransportError
from keepline.store import Store
from keepline.store.tables.delivery import delivery_cursor
from keepline.store.tables.records import change_feed
from keepline.testing.transports import FaultyTransport
from tests.delivery_host import SYSTEM, Host, everything, host

WRITERS = 8


@pytest.fixture
def world(tmp_path: Path, postgres_database: str) -> Iterator[Host]:
    recipients = {
        "ledger": RecipientSettings(transport="database", url=postgres_database, groups=("*",)),
        "files": RecipientSettings(transport="folder", path="outbox"),
    }
    with host(tmp_path, postgres_database, recipients) as made:
        yield made


def test_export_delivers_then_nothing_then_the_edited_one(world: Host) -> None:
    world.add("a", "b")
    world.add("c", group="lab")
    queue = io.StringIO()
    print_export_queue(all_recipients=True, instance=world.instance, file=queue)
    assert len(queue.getvalue().splitlines()) == 5

    def sent() -> list[int]:
        report = export(all_recipients=True, instance=world.instance)
        assert report.ok, report
        return [each.sent for each in report.recipients.values()]

    assert [sent(), sent()] == [[2, 3], [0, 0]]
    world.edit("a", title="corrected")
    world.add_peak("b", "first", 1.5)
    assert [sent(), sent()] == [[2, 2], [0, 0]]
    world.remove("a")
    assert sent() == [0, 0]


def test_commit_that_comes_late_is_not_missed(world: Host) -> None:
    transport = FaultyTransport()
    with world.store.write(SYSTEM) as early:
        early.execute(sa.insert(world.table).values(record_key="early"))
        world.add("late")
        world.deliver(transport)
        assert list(pending(everything(), instance=world.instance)) == []
    assert world.deliver(transport).remaining == 0
    assert sorted(each.image.key for each in transport.effects) == ["early", "late"]
    assert world.deliver(transport).sent == 0


def test_changes_held_back_by_an_old_transaction_are_told(
    world: Host, postgres_url: str, postgres_database: str
) -> None:
    server = sa.create_engine(postgres_url, poolclass=sa.NullPool)
    with server.connect() as other, other.begin():
        other.execute(sa.text("SELECT pg_current_xact_id()"))  # in another database
        world.add("a", "b")
        report = export(recipient_names=["files"], instance=world.instance).recipients["files"]
        assert (report.sent, report.remaining, report.held_back, report.ok) == (0, 0, 2, True)
        dry = export(recipient_names=["files"], instance=world.instance, dry_run=True)
        assert dry.recipients["files"].held_back == 2
        none = everything(record_types=("other",))
        assert world.deliver(FaultyTransport(), none).held_back == 0
        folder = world.instance.folder
        (folder / "keepline.toml").write_text(
            f'[store]\nurl = "{postgres_database}"\n'
            '[recipients.files]\ntransport = "folder"\npath = "outbox"\n'
        )
        shown = CliRunner().invoke(app, ["--instance", str(folder), "deliver", "run"])
        assert "files: 2 changes held back by an open transaction" in shown.stderr
        assert shown.exit_code == 0
    report = export(recipient_names=["files"], instance=world.instance).recipients["files"]
    assert (report.sent, report.held_back) == (2, 0)


@pytest.mark.parametrize("ahead", ["feed", "cursor"])
def test_store_restored_into_a_younger_server_is_told_and_sends_nothing(
    world: Host, ahead: str
) -> None:
    world.add("a")
    assert world.deliver(FaultyTransport()).sent == 1
    table = {"feed": change_feed, "cursor": delivery_cursor}[ahead]
    with world.store.engine.begin() as connection:
        # Without triggers, as a restore writes: the feed takes no updates.
        connection.execute(sa.text("SET LOCAL session_replication_role = replica"))
        connection.execute(sa.update(table).values(txid=2**40))
    world.add("b")
    transport = FaultyTransport()
    report = world.deliver(transport)
    assert not report.ok
    assert "restored" in str(report.error)
    assert transport.effects == []
    with pytest.raises(DeliveryError, match="restored"):
        list(pending(everything(), instance=world.instance))


def test_nothing_is_missed_beside_writers_that_commit_out_of_order(world: Host) -> None:
    """Eight writers insert, edit and roll back in long and short transactions for a while."""
    stop = threading.Event()
    failures: list[BaseException] = []
    table = world.table

    def write(number: int) -> None:
        chance = random.Random(number)
        count = 0
        try:
            while not stop.is_set():
                connection = world.store.engine.connect()
                with connection, connection.begin() as transaction:
                    for _ in range(chance.randint(1, 3)):
                        count += 1
                        key = f"w{number}-{count:04}"
                        connection.execute(sa.insert(table).values(record_key=key))
                        stop.wait(chance.choice([0, 0, 0.001, 0.02]))
                    mine = sa.update(table).where(
                        table.c.record_key == f"w{number}-{chance.randint(1, count):04}"
                    )
                    connection.execute(mine.values(title=str(chance.random())))
                    if chance.random() < 0.3:
                        transaction.rollback()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(WRITERS)]
    transport = FaultyTransport()
    for thread in threads:
        thread.start()
    runs, enough = 0, time.monotonic() + 2
    while runs < 3 or time.monotonic() < enough:
        world.deliver(transport)
        runs += 1
    stop.set()
    for thread in threads:
        thread.join()
    assert not failures
    world.deliver(transport)

    there = world.select(sa.select(table.c.record_key, table.c.revision))
    held = {each.image.key: each.image.revision for each in transport.objects.values()}
    assert held == {row.record_key: row.revision for row in there}
    assert len(held) > 100
    arrivals = Counter((each.image.key, each.revision) for each in transport.effects)
    assert max(arrivals.values()) == 1
    assert world.deliver(transport).sent == 0


def test_lock_is_the_recipients_and_ends_with_the_connection(
    world: Host, postgres_database: str
) -> None:
    world.add("a")
    other = Store(postgres_database)
    with hold(other, "out"):
        with pytest.raises(RecipientBusyError):
            world.deliver(FaultyTransport())
        assert world.deliver(FaultyTransport(), everything("second")).sent == 1
    assert world.deliver(FaultyTransport()).sent == 1
    other.close()


def end_lock_holders(world: Host) -> None:
    with world.store.engine.connect() as connection:
        connection.execute(
            sa.text(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_locks "
                "WHERE pid <> pg_backend_pid() AND locktype = 'advisory' AND database = "
                "(SELECT oid FROM pg_database WHERE datname = current_database())"
            )
        )


def test_lost_lock_ends_the_run(world: Host) -> None:
    with hold(world.store, "out") as check:
        check()
        end_lock_holders(world)
        with pytest.raises(RecipientBusyError, match="was lost"):
            check()


@pytest.mark.parametrize("last", ["b", "d"])
def test_run_that_loses_its_lock_sends_no_further_record(world: Host, last: str) -> None:
    class Breaking(FaultyTransport):
        def send(self, sending: Sending) -> None:
            super().send(sending)
            if sending.image.key == last:
                end_lock_holders(world)

    world.add(*"abcd")
    broken = Breaking(capabilities=Capabilities())
    report = world.deliver(broken)
    assert [each.image.key for each in broken.effects] == list("abcd"[: "abcd".index(last) + 1])
    assert "was lost" in str(report.error)
    rest = FaultyTransport(capabilities=Capabilities())
    again = world.deliver(rest)
    assert (again.error, report.sent + again.sent) == (None, 4)
    assert len(broken.effects) + len(rest.effects) == 4


def test_image_is_of_one_moment(world: Host) -> None:
    """What is read of a record beside a writer is never of two revisions."""
    world.add("a", title="0")
    world.add_peak("a", "first", 0.0)
    with world.store.read() as reader:
        assert reader.execute(sa.select(world.table.c.title)).scalar() == "0"
        world.edit("a", title="1")
        world.add_peak("a", "second", 1.0)
        assert len(reader.execute(sa.select(world.peaks)).all()) == 1


def test_value_that_the_target_cannot_hold_is_refused_without_telling_it(
    world: Host, postgres_database: str
) -> None:
    export(recipient_names=["ledger"], instance=world.instance)
    world.add("a", "b", title="very private")
    export_engine = sa.create_engine(postgres_database, poolclass=sa.NullPool)
    export(recipient_names=["ledger"], instance=world.instance)
    with export_engine.begin() as connection:
        connection.execute(
            sa.text("ALTER TABLE keepline_sample ADD CONSTRAINT short CHECK (length(title) < 20)")
        )
        connection.execute(sa.text("ALTER TABLE keepline_sample ALTER runs TYPE smallint"))
    world.edit("a", title="much longer and private")
    world.edit("b", runs=100_000)
    world.add("c")
    report = export(recipient_names=["ledger"], instance=world.instance).recipients["ledger"]
    assert (report.sent, report.failed, report.refused) == (1, 2, 1)
    reasons = dict(report.failures)
    assert "short" in reasons["sample/a"]
    assert "cannot hold a value" in reasons["sample/b"]
    assert not any("private" in reason or "100000" in reason for reason in reasons.values())
    export_engine.dispose()


def test_unreachable_database_is_one_clear_error() -> None:
    transport = DatabaseTransport("postgresql://ann:s3cret@127.0.0.1:1/none")
    assert "s3cret" not in repr(transport)
    with pytest.raises(TransportError, match="out of reach") as caught, transport:
        pass
    assert caught.value.unreachable
    assert "s3cret" not in str(caught.value)
