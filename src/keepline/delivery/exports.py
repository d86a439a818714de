"""The verbs: export, export_task, export_tasks_individually, print_export_queue."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TextIO

from keepline.delivery import backlog, sent_log, withdrawals
from keepline.delivery.dispatch import Dispatcher, Progress
from keepline.delivery.recipients import Recipient, recipient, recipients, settings_of
from keepline.delivery.report import ExportReport, RecipientReport
from keepline.delivery.transport import Transport
from keepline.errors import ConfigError, DeliveryError, KeeplineError
from keepline.model import Principal, RecordKey
from keepline.store import plugins
from keepline.store.current import Current, current


@dataclass(frozen=True, slots=True)
class Pending:
    """A record that the next run sends, or with `withdrawal` takes back.

    `unclear` when an attempt at this very revision has no outcome yet: then the run asks the
    recipient first, and sends only what it has not got.
    """

    recipient: str
    key: RecordKey
    revision: int
    unclear: bool = False
    withdrawal: bool = False


def export(
    *,
    recipient_names: Sequence[str] | None = None,
    all_recipients: bool = False,
    instance: Current | None = None,
    principal: Principal | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> ExportReport:
    """Send each of these recipients what it should have and has not been sent.

    A recipient that is busy, unreachable or wrongly set up never stops the others: its report
    has the `error`. With `dry_run` nothing is sent or changed, and `remaining` says how many
    records a run would send or take back. `principal` is who runs it. Raises
    UnknownRecipientError before anything is sent, DeliveryError when no recipient is named.
    """
    here = current(instance)
    reports: dict[str, RecipientReport] = {}
    for each in _chosen(here, recipient_names, all_recipients):
        try:
            reports[each.name] = export_tasks_individually(
                each, instance=here, principal=principal, dry_run=dry_run, progress=progress
            )
        except KeeplineError as error:
            reports[each.name] = RecipientReport(each.name, error=str(error))
    return ExportReport(reports)


def export_tasks_individually(
    recipient: Recipient,
    *,
    instance: Current | None = None,
    principal: Principal | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> RecipientReport:
    """Send one recipient every record that is due, one at a time.

    Raises RecipientBusyError, PluginError for an unknown transport, or ConfigError.
    """
    here = current(instance)
    if dry_run:
        due = sum(1 for _ in pending(recipient, instance=here))
        waiting = backlog.held_back(here.store, recipient, epoch=here.epoch)
        return RecipientReport(recipient.name, remaining=due, held_back=waiting)
    return _dispatcher(here, recipient, principal, progress).run()


def export_task(
    recipient: Recipient,
    record_key: RecordKey,
    *,
    instance: Current | None = None,
    principal: Principal | None = None,
) -> RecipientReport:
    """Send one recipient one record, unless it has its present revision.

    It is the way to try a refused revision again. Raises RecordNotFoundError when the
    recipient may not have the record, RecipientBusyError, or TransportError when the
    recipient is unreachable.
    """
    return _dispatcher(current(instance), recipient, principal).run_one(record_key)


def pending(recipient: Recipient, *, instance: Current | None = None) -> Iterator[Pending]:
    """Yield what the next run would send or take back, in its order; reads only."""
    here = current(instance)
    with here.store.read() as connection:
        unclear = {
            (attempt.key, attempt.revision)
            for attempt in sent_log.interrupted(connection, recipient.name)
        }
        for keys in backlog.candidates(connection, recipient, epoch=here.epoch):
            found = backlog.sort_out(connection, recipient, keys)
            for each in withdrawals.due(connection, recipient.name, found.gone):
                yield Pending(recipient.name, each.key, each.revision, withdrawal=True)
            for image in found.due:
                yield Pending(
                    recipient.name,
                    image.name,
                    image.revision,
                    unclear=(image.name, image.revision) in unclear,
                )


def print_export_queue(
    *,
    recipient_names: Sequence[str] | None = None,
    all_recipients: bool = False,
    pretty: bool = False,
    instance: Current | None = None,
    file: TextIO | None = None,
) -> None:
    """Print what `export` would send or take back, a line a record; changes nothing.

    A line is recipient, record and revision with tabs between, and ``withdraw`` after them where
    the record is taken back; with `pretty` it is written for people, with a sum for each
    recipient. `file` defaults to standard output. Raises as
    `export` does.
    """
    here = current(instance)
    out = file or sys.stdout
    for each in _chosen(here, recipient_names, all_recipients):
        total = taken_back = 0
        for item in pending(each, instance=here):
            total += 1
            taken_back += item.withdrawal
            print(_pretty(item) if pretty else _plain(item), file=out)
        if pretty:
            more = f", {taken_back} to withdraw" if taken_back else ""
            print(f"{each.name}: {total - taken_back} to send{more}", file=out)


def _chosen(here: Current, names: Sequence[str] | None, all_recipients: bool) -> list[Recipient]:
    if all_recipients:
        return recipients(here.settings)
    if not names:
        raise DeliveryError("name a recipient, or ask for all of them")
    return [recipient(here.settings, name) for name in dict.fromkeys(names)]


def _dispatcher(
    here: Current, to: Recipient, principal: Principal | None, progress: Progress | None = None
) -> Dispatcher:
    # The settings, not the recipient, hold the secrets.
    settings = settings_of(here.settings, to.name)
    try:
        kind: type[Transport] = plugins.load("transports", settings.transport)
        transport = kind.configured(settings, folder=here.folder)
    except KeeplineError:
        raise
    except Exception as error:
        # A plug-in may raise anything, and must not stop the other recipients. Only the kind is
        # kept: the message may hold a secret.
        raise ConfigError(
            f"the transport of recipient {to.name!r} cannot be set up ({type(error).__name__})"
        ) from None
    return Dispatcher(
        here, to, transport, principal=principal or Principal.system(), progress=progress
    )


def _plain(item: Pending) -> str:
    line = f"{item.recipient}\t{item.key}\t{item.revision}"
    return f"{line}\twithdraw" if item.withdrawal else line


def _pretty(item: Pending) -> str:
    if item.withdrawal:
        return f"{item.recipient}: {item.key}, to be withdrawn: its subject is erased"
    note = ", asking the recipient first" if item.unclear else ""
    return f"{item.recipient}: {item.key}, revision {item.revision}{note}"
