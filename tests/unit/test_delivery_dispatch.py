"""What goes out, and what a crash at each window leaves; by the faulty transport."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from keepline.delivery import Capabilities, Sending, backlog
from keepline.delivery.lock import hold
from keepline.delivery.sent_log import Outcome, begin, finish
from keepline.errors import RecipientBusyError, RecordNotFoundError, TransportError
from keepline.model import RecordKey
from keepline.store.tables.delivery import delivery_backlog, sent_log
from keepline.testing.transports import FaultyTransport, SimulatedCrash
from tests.delivery_host import SYSTEM, Host, everything, host

KINDS = {
    "probes": Capabilities(probes=True, idempotent=True),
    "idempotent": Capabilities(idempotent=True),
    "probes-only": Capabilities(probes=True),
    "neither": Capabilities(),
}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Host]:
    with host(tmp_path) as made:
        yield made


def keys_of(transport: FaultyTransport) -> list[str]:
    return [sending.image.key for sending in transport.effects]


def test_each_record_goes_out_once(world: Host) -> None:
    world.add("a", "b", "c")
    transport = FaultyTransport()
    first = world.deliver(transport)
    assert (first.sent, first.failed, first.remaining, first.ok) == (3, 0, 0, True)
    assert world.deliver(transport).sent == 0
    assert keys_of(transport) == ["a", "b", "c"]
    assert world.log() == [(key, 1, "sent") for key in "abc"]


def test_only_the_new_revision_of_an_edited_record_goes_out(world: Host) -> None:
    world.add("a", "b")
    transport = FaultyTransport()
    world.deliver(transport)
    world.edit("a", title="corrected")
    world.edit("a", title="corrected again")
    assert world.deliver(transport).sent == 1
    last = transport.effects[-1]
    assert (last.image.key, last.revision) == ("a", 3)
    assert last.target_key == transport.effects[0].target_key
    assert last.send_key != transport.effects[0].send_key
    assert len(transport.objects) == 2


def test_change_of_a_sub_row_goes_out_with_the_whole_record(world: Host) -> None:
    world.add("a", title="t")
    transport = FaultyTransport()
    world.deliver(transport)
    world.add_peak("a", "first", 2.5)
    assert world.deliver(transport).sent == 1
    image = transport.effects[-1].image
    assert image.values["title"] == "t"
    assert [dict(row) for row in image.subrows["peak"]] == [{"name": "first", "height": 2.5}]


def test_deleted_record_leaves_the_backlog_and_is_counted(world: Host) -> None:
    world.add("a", "b")
    world.remove("a")
    transport = FaultyTransport()
    report = world.deliver(transport)
    assert (report.sent, report.gone, report.remaining) == (1, 1, 0)
    assert world.deliver(transport).gone == 0


def test_one_poison_record_does_not_stop_the_others(world: Host) -> None:
    world.add(*(f"r{number:04}" for number in range(1_000)))
    transport = FaultyTransport(before={"r0500": [RuntimeError("secret s3cret")]})
    report = world.deliver(transport)
    assert (report.sent, report.failed, report.remaining) == (999, 1, 1)
    assert report.failures == [
        ("sample/r0500", "the transport failed with RuntimeError"),
    ]
    assert (world.deliver(transport).sent, len(transport.effects)) == (1, 1_000)


def test_row_that_cannot_be_read_does_not_stop_the_others(world: Host) -> None:
    world.add("a", "b", "c")
    with world.store.engine.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE rec_sample SET taken_at = 'yesterday' WHERE record_key = 'b'"
        )
    transport = FaultyTransport()
    report = world.deliver(transport)
    assert (keys_of(transport), report.failed, report.remaining) == (["a", "c"], 1, 1)
    assert report.failures[0][0] == "sample/b"


def test_text_that_is_no_utf8_is_refused_and_logged(world: Host) -> None:
    world.add("a", "b", extra={"half": "\ud800"})
    world.edit("b", extra=None)
    transport = FaultyTransport()
    report = world.deliver(transport)
    assert (keys_of(transport), report.refused, report.remaining) == (["b"], 1, 0)
    assert ("a", 1, "refused") in world.log()


def test_failed_record_is_tried_again_with_the_same_keys(world: Host) -> None:
    world.add("a")
    transport = FaultyTransport(before={"a": [TransportError("not now")]})
    assert world.deliver(transport).failures == [("sample/a", "not now")]
    assert world.deliver(transport).sent == 1
    rows = world.select(sa.select(sent_log.c.send_key, sent_log.c.state, sent_log.c.reason))
    assert [tuple(row)[1:] for row in rows] == [("failed", "not now"), ("sent", "")]
    assert len({row.send_key for row in rows}) == 1


def test_refused_revision_is_tried_again_only_when_it_changes_or_by_hand(world: Host) -> None:
    world.add("a", "b")
    transport = FaultyTransport(refused={"a", "b"})
    report = world.deliver(transport)
    assert (report.failed, report.refused, report.remaining) == (2, 2, 0)
    assert world.deliver(transport).failed == 0
    transport.refused.clear()
    assert world.deliver(transport).sent == 0
    world.edit("a", title="corrected")
    assert world.deliver(transport).sent == 1
    assert world.dispatcher(transport).run_one(RecordKey("sample", "b")).sent == 1
    assert world.dispatcher(transport).run_one(RecordKey("sample", "b")).sent == 0


def test_one_record_by_hand_must_be_the_recipients_to_have(world: Host) -> None:
    world.add("a", group="theirs")
    dispatcher = world.dispatcher(FaultyTransport(), everything(groups=("ours",)))
    with pytest.raises(RecordNotFoundError, match="sample/a"):
        dispatcher.run_one(RecordKey("sample", "a"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("window", ["before", "after"])
def test_crash_around_the_effect_loses_nothing(world: Host, kind: str, window: str) -> None:
    world.add(*"abcde")
    transport = FaultyTransport(capabilities=KINDS[kind])
    setattr(transport, window, {"c": [SimulatedCrash()]})
    with pytest.raises(SimulatedCrash):
        world.deliver(transport)
    assert ("c", 1, "sending") in world.log()

    report = world.deliver(transport)
    assert report.resolved >= 1
    assert report.remaining == 0
    assert {sending.image.key for sending in transport.objects.values()} == set("abcde")
    assert world.deliver(transport).sent == 0
    if kind != "neither":
        assert sorted(keys_of(transport)) == list("abcde")
    # Where nobody can tell, the repetition bears the same key.
    assert len({sending.send_key for sending in transport.effects}) == 5
    states = [state for key, _, state in world.log() if key == "c"]
    assert states.count("sent") == 1
    assert "sending" not in states


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("window", ["before", "after"])
def test_edit_after_a_crash_goes_out_too(world: Host, kind: str, window: str) -> None:
    world.add("a")
    transport = FaultyTransport(capabilities=KINDS[kind])
    setattr(transport, window, {"a": [SimulatedCrash()]})
    with pytest.raises(SimulatedCrash):
        world.deliver(transport)
    world.edit("a", title="corrected")
    report = world.deliver(transport)
    assert (report.sent, report.remaining) == (1, 0)
    assert [each.revision for each in transport.objects.values()] == [2]
    assert world.deliver(transport).sent == 0


def test_crash_where_nobody_can_tell_leaves_one_unclear_sending(world: Host) -> None:
    world.add(*"abcde")
    transport = FaultyTransport(capabilities=Capabilities(), after={"c": [SimulatedCrash()]})
    with pytest.raises(SimulatedCrash):
        world.deliver(transport)
    assert world.deliver(transport).resolved == 1
    assert keys_of(transport) == ["a", "b", "c", "c", "d", "e"]


def test_unreachable_recipient_ends_the_run_and_keeps_the_rest(world: Host) -> None:
    world.add(*"abcde")
    transport = FaultyTransport(before={"c": [TransportError("line is down", unreachable=True)]})
    report = world.deliver(transport)
    assert (report.sent, report.remaining, report.error) == (2, 3, "line is down")
    assert world.log()[2:] == [("c", 1, "sending"), ("d", 1, "failed"), ("e", 1, "failed")]
    again = world.deliver(transport)
    assert (again.sent, again.resolved, keys_of(transport)) == (3, 1, list("abcde"))


def test_recipient_that_is_down_is_told_and_nothing_is_lost(world: Host) -> None:
    world.add("a")
    transport = FaultyTransport(down=True)
    report = world.deliver(transport)
    assert (report.error, report.remaining, report.ok) == ("the recipient is down", 1, False)
    assert world.log() == []
    transport.down = False
    assert world.deliver(transport).sent == 1


def test_cache_can_be_deleted_without_loss_or_repetition(world: Host) -> None:
    world.add("a", "b", "c")
    transport = FaultyTransport(before={"b": [TransportError("not now")] * 2})
    world.deliver(transport)
    world.edit("c", title="new")
    before = set(world.select(sa.select(delivery_backlog.c.record_key)))
    world.forget_cache()
    assert before == {("b",)}
    assert world.deliver(transport).sent == 1
    world.forget_cache()
    assert world.deliver(transport).sent == 1
    assert [(key, revision) for key, revision, state in world.log() if state == "sent"] == [
        ("a", 1),
        ("c", 1),
        ("c", 2),
        ("b", 1),
    ]


def test_two_recipients_have_logs_of_their_own(world: Host) -> None:
    world.add("a")
    first, second = FaultyTransport(), FaultyTransport()
    assert world.deliver(first, everything("first")).sent == 1
    assert world.deliver(second, everything("second")).sent == 1
    assert set(first.objects).isdisjoint(second.objects)


def test_widening_sends_exactly_the_difference(world: Host) -> None:
    world.add("a")
    world.add("b", group="ours")
    world.add("c", group="theirs")
    transport = FaultyTransport()
    narrow = everything(groups=("ours",), criteria="1")
    wide = everything(groups=("ours", "theirs"), criteria="2")
    assert world.deliver(transport, narrow).sent == 2
    world.edit("b", title="hidden later")
    assert world.deliver(transport, everything(groups=(), criteria="0")).sent == 0
    assert world.deliver(transport, wide).sent == 2
    assert keys_of(transport) == ["a", "b", "b", "c"]
    assert world.deliver(transport, narrow).sent == 0


def test_recipient_gets_only_its_record_types(world: Host) -> None:
    world.add("a")
    transport = FaultyTransport()
    other = everything(record_types=("other",), criteria="1")
    assert world.deliver(transport, other).remaining == 0
    assert world.deliver(transport, everything(record_types=("sample",), criteria="2")).sent == 1


def test_record_that_moves_into_the_group_goes_out(world: Host) -> None:
    world.add("a", group="theirs")
    transport = FaultyTransport()
    ours = everything(groups=("ours",))
    assert (world.deliver(transport, ours).gone, keys_of(transport)) == (1, [])
    world.edit("a", group_name="ours")
    assert world.deliver(transport, ours).sent == 1


def test_restored_instance_looks_at_everything_anew(world: Host) -> None:
    world.add("a", "b")
    transport = FaultyTransport()
    world.deliver(transport)
    with world.store.engine.begin() as connection:
        # What the log lost, as a restored older database does, must go out again.
        connection.exec_driver_sql("DROP TRIGGER sent_log_final_delete")
        connection.exec_driver_sql("DELETE FROM sent_log WHERE record_key = 'b'")
    assert world.deliver(transport).sent == 0
    object.__setattr__(world.instance, "epoch", "another")
    assert world.deliver(transport).sent == 1


def test_lock_keeps_a_second_runner_out(world: Host) -> None:
    world.add("a")
    with (
        hold(world.store, "out"),
        pytest.raises(RecipientBusyError, match="another process is delivering to 'out'"),
    ):
        world.deliver(FaultyTransport())
    assert world.deliver(FaultyTransport()).sent == 1


def test_progress_counts_up_to_the_whole(world: Host) -> None:
    world.add(*(f"r{number:03}" for number in range(450)))
    seen: list[tuple[str, int, int]] = []
    world.dispatcher(FaultyTransport(), progress=lambda *step: seen.append(step)).run()
    assert seen == [("out", 200, 450), ("out", 400, 450), ("out", 450, 450)]


class Meddling(FaultyTransport):
    """A recipient that runs `meddle` once, within the first delivery."""

    meddle: Callable[[Sending], None]

    def send(self, sending: Sending) -> None:
        super().send(sending)
        meddle, self.meddle = self.meddle, lambda _: None
        meddle(sending)


def test_open_attempt_of_another_runner_ends_the_run_before_a_second_effect(world: Host) -> None:
    world.add("a", "b", "c")

    def begin_b(_: Sending) -> None:
        with world.store.read() as connection:
            due = backlog.sort_out(connection, everything(), [RecordKey("sample", "b")]).due
        sending = Sending.of(due[0], recipient="out", epoch=world.instance.epoch)
        with world.store.write(SYSTEM) as connection:
            begin(connection, "out", [sending], alone=True)

    transport = Meddling(capabilities=Capabilities())
    transport.meddle = begin_b
    report = world.deliver(transport)
    assert keys_of(transport) == ["a"]
    assert (report.sent, report.remaining, report.ok) == (1, 2, False)
    assert "another process" in str(report.error)
    assert world.log() == [("a", 1, "sent"), ("b", 1, "sending")]


def test_sending_that_another_runner_finished_first_is_not_counted_as_sent(world: Host) -> None:
    world.add("a")

    def finish_a(sending: Sending) -> None:
        with world.store.write(SYSTEM) as connection:
            other = begin(connection, "out", [sending], alone=False)
            finish(connection, [Outcome(other[0], "sent")])

    transport = Meddling()
    transport.meddle = finish_a
    report = world.deliver(transport)
    assert (report.sent, report.failed, report.remaining) == (0, 0, 0)
    assert world.log() == [("a", 1, "unknown"), ("a", 1, "sent")]
