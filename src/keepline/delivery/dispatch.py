"""Delivering to one recipient: attempt first, outcome after.

An attempt is committed before its effect and completed after it. A process that dies between
leaves attempts without outcome; the next run asks the recipient about them where it can answer,
and else sends again with the same keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import cast

from keepline.delivery import backlog, lock, sent_log, withdrawals
from keepline.delivery.epochs import epochs_of
from keepline.delivery.recipients import Recipient
from keepline.delivery.report import RecipientReport
from keepline.delivery.sent_log import Attempt, Outcome
from keepline.delivery.transport import Sending, Transport, Withdrawing
from keepline.delivery.withdrawals import Withdrawal
from keepline.errors import DeliveryError, KeeplineError, RecordNotFoundError, TransportError
from keepline.model import Principal, RecordImage, RecordKey, RecordType
from keepline.store.current import Current
from keepline.store.schema import declared_types

#: Called with the recipient's name, and how many of how many records were looked at.
Progress = Callable[[str, int, int], None]

#: Attempts logged at once where sending twice does no harm.
_BATCH = 100

_NOT_TRIED = "not tried: the recipient was unreachable"


class Dispatcher:
    """Delivers to one recipient through its transport; lives for one run, in one thread.

    `principal` is who runs it; the records are read with the recipient's own rights.
    """

    def __init__(
        self,
        instance: Current,
        recipient: Recipient,
        transport: Transport,
        *,
        principal: Principal,
        progress: Progress | None = None,
    ) -> None:
        self.report = RecipientReport(recipient.name)
        self._store = instance.store
        self._epoch = instance.epoch
        self._recipient = recipient
        self._transport = transport
        self._principal = principal
        self._progress = progress
        self._check_lock: Callable[[], None] = lambda: None

    def run(self) -> RecipientReport:
        """Send everything that is due; a record that fails never stops the others.

        Raises RecipientBusyError while another process delivers to this recipient. What ends
        the run early is told in the report's `error`: an unreachable recipient, a lock that
        was lost, a feed of a restored database.
        """
        with self._locked():
            try:
                self._take_in()
                total = backlog.count(self._store, self._recipient)
                with self._open():
                    self._resolve()
                    self._work_off(total)
            except DeliveryError as error:
                self.report.error = str(error)
            self.report.remaining = backlog.count(self._store, self._recipient)
        return self.report

    def run_one(self, key: RecordKey) -> RecipientReport:
        """Send the present revision of one record, also one that was refused before.

        One that was sent is not sent again. Raises RecordNotFoundError when the recipient may
        not have it, RecipientBusyError, or TransportError when the recipient is unreachable.
        """
        with self._locked(), self._open():
            self._resolve()
            found = self._sort_out([key], settled=("sent",))
            if found.gone:
                raise RecordNotFoundError(
                    f"there is no {key} that recipient {self._recipient.name!r} may have"
                )
            self._send_all(found.due)
        return self.report

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with lock.hold(self._store, self._recipient.name) as self._check_lock:
            yield

    @contextmanager
    def _open(self) -> Iterator[None]:
        with _translated():
            self._transport.__enter__()
        try:
            yield
        except BaseException as error:
            # The first error is the one to tell, not what closing makes of it.
            with suppress(TransportError), _translated():
                self._transport.__exit__(type(error), error, error.__traceback__)
            raise
        with _translated():
            self._transport.__exit__(None, None, None)

    def _take_in(self) -> None:
        to, epoch = self._recipient, self._epoch
        backlog.take_in(self._store, to, epoch=epoch, principal=self._principal)
        self.report.held_back = backlog.held_back(self._store, to, epoch=epoch)

    def _resolve(self) -> None:
        """Find an outcome for attempts that have none."""
        with self._store.read() as connection:
            unclear = sent_log.interrupted(connection, self._recipient.name)
        for attempt in unclear:
            answer = self._ask(attempt)
            outcome = {
                True: Outcome(attempt, "sent", "found at the recipient after an interruption"),
                False: Outcome(attempt, "failed", "interrupted before the recipient had it"),
                None: Outcome(attempt, "unknown", "interrupted; the recipient cannot tell"),
            }[answer]
            # The record stays on the backlog: it may be there for a later revision.
            with self._store.write(self._principal) as connection:
                sent_log.finish(connection, [outcome])
            self.report.resolved += 1

    def _ask(self, attempt: Attempt) -> bool | None:
        """Ask the recipient; an answer that fails is none, unless nothing can be reached."""
        try:
            with _translated():
                return self._transport.delivered(attempt.send_key)
        except TransportError as error:
            if error.unreachable:
                raise
            return None

    def _work_off(self, total: int) -> None:
        done = 0
        for keys in backlog.pages(self._store, self._recipient):
            found = self._sort_out(keys)
            self._send_all(found.due)
            done += len(keys)
            if self._progress is not None:
                self._progress(self._recipient.name, done, total)
        # A run that lost its lock may have met another one: it must not end as if all were well.
        self._check_lock()

    def _sort_out(
        self, keys: Sequence[RecordKey], settled: Sequence[str] = backlog.SETTLED
    ) -> backlog.Sorted:
        """Sort records, and take those off the backlog that need nothing."""
        with self._store.read() as connection:
            found = backlog.sort_out(connection, self._recipient, keys, settled=settled)
        for key in found.unreadable:
            self.report.fail(str(key), "a value in its row is not of the column's type")
        self.report.gone += len(found.gone)
        kept = self._withdraw(found.gone)
        done = [key for key in (*found.settled, *found.gone) if key not in kept]
        if done:
            with self._store.write(self._principal) as connection:
                backlog.forget(connection, self._recipient.name, done)
        return found

    def _withdraw(self, gone: Sequence[RecordKey]) -> set[RecordKey]:
        """Take back what the recipient has of erased subjects; return what is to be tried again."""
        with self._store.read() as connection:
            due = withdrawals.due(connection, self._recipient.name, gone)
            types = {each.name: each for each in declared_types(connection)} if due else {}
        failed = set()
        for withdrawal in due:
            if not self._take_back(withdrawal, types.get(withdrawal.key.record_type)):
                failed.add(withdrawal.key)
        return failed

    def _take_back(self, withdrawal: Withdrawal, declared: RecordType | None) -> bool:
        """Take one object back; return False when it is to be tried again."""
        self._check_lock()
        name = self._recipient.name
        with self._store.write(self._principal) as connection:
            attempt = withdrawals.begin(connection, name, withdrawal)
        outcome = Outcome(attempt, "refused", "its subject is erased: ask for it to be removed")
        if self._transport.capabilities.withdraws and declared is not None:
            able = cast(Withdrawing, self._transport)
            try:
                with _translated():
                    able.withdraw(declared, withdrawal.target_key)
                outcome = Outcome(attempt, "sent")
            except TransportError as error:
                if error.unreachable:
                    raise  # the attempt stays open, and the next run tries again
                outcome = Outcome(attempt, "failed", str(error))
        with self._store.write(self._principal) as connection:
            sent_log.finish(connection, [outcome])
        self.report.withdrawn += outcome.state == "sent"
        if outcome.state != "sent":
            self.report.fail(str(withdrawal.key), outcome.reason)
            self.report.refused += outcome.state == "refused"
        return outcome.state != "failed"

    def _send_all(self, images: Sequence[RecordImage]) -> None:
        """Send records in batches; raises TransportError when the recipient is unreachable."""
        size = _BATCH if self._transport.capabilities.idempotent else 1
        epochs = epochs_of(self._store, images, self._epoch)
        for start in range(0, len(images), size):
            batch = images[start : start + size]
            self._send_batch([self._sending(image, epochs[image.name]) for image in batch])

    def _sending(self, image: RecordImage, epoch: str) -> tuple[Sending, bool]:
        """Return the sending of a record, and whether its content can be written at all."""
        name = self._recipient.name
        try:
            return Sending.of(image, recipient=name, epoch=epoch), True
        except ValueError:
            return Sending.without_content(image, recipient=name, epoch=epoch), False

    def _send_batch(self, batch: Sequence[tuple[Sending, bool]]) -> None:
        self._check_lock()
        with self._store.write(self._principal) as connection:
            attempts = sent_log.begin(
                connection,
                self._recipient.name,
                [sending for sending, _ in batch],
                alone=not self._transport.capabilities.idempotent,
            )
        outcomes: list[Outcome] = []
        unreachable: TransportError | None = None
        for attempt, (sending, writable) in zip(attempts, batch, strict=True):
            if unreachable is not None:
                outcomes.append(Outcome(attempt, "failed", _NOT_TRIED))
            elif not writable:
                outcomes.append(Outcome(attempt, "refused", "a text in it cannot be UTF-8"))
            else:
                try:
                    outcomes.append(self._send(attempt, sending))
                except TransportError as error:
                    # It may have arrived: the attempt stays open, and the next run asks.
                    unreachable = error
                    self.report.fail(str(attempt.key), str(error))
        self._count(outcomes, doubled=self._finish(outcomes))
        if unreachable is not None:
            raise unreachable

    def _send(self, attempt: Attempt, sending: Sending) -> Outcome:
        """Send one record; raises TransportError when the recipient is unreachable."""
        try:
            with _translated():
                self._transport.send(sending)
        except TransportError as error:
            if error.unreachable:
                raise
            return Outcome(attempt, "refused" if error.permanent else "failed", str(error))
        return Outcome(attempt, "sent")

    def _finish(self, outcomes: Sequence[Outcome]) -> set[int]:
        settled = [each.attempt.key for each in outcomes if each.state in backlog.SETTLED]
        with self._store.write(self._principal) as connection:
            doubled = sent_log.finish(connection, outcomes)
            backlog.forget(connection, self._recipient.name, settled)
        return doubled

    def _count(self, outcomes: Sequence[Outcome], doubled: set[int]) -> None:
        for outcome in outcomes:
            if outcome.state == "sent":
                self.report.sent += outcome.attempt.id not in doubled
            elif outcome.reason != _NOT_TRIED:
                self.report.fail(str(outcome.attempt.key), outcome.reason)
                self.report.refused += outcome.state == "refused"


@contextmanager
def _translated() -> Iterator[None]:
    """Turn whatever a transport raises into a TransportError."""
    try:
        yield
    except TransportError:
        raise
    except KeeplineError as error:
        raise TransportError(str(error)) from error
    except Exception as error:
        # A plug-in may raise anything, and its fault with one record must not stop the others.
        # Only the kind is kept: the message may hold content or a secret.
        raise TransportError(f"the transport failed with {type(error).__name__}") from error
