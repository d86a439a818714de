"""Records as the person at the command line sees and changes them."""

from __future__ import annotations

import getpass
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from keepline.errors import RecordError, RecordNotFoundError
from keepline.model import Principal, RecordImage, RecordKey
from keepline.records import bundles, checkins, importing
from keepline.records import proposals as proposed
from keepline.records.business import BusinessObject, business_class
from keepline.records.csv_rows import CsvForm
from keepline.records.editing import Desk, edit_record
from keepline.records.outcomes import Outcome, SaveResult
from keepline.records.revisions import Differences, Revision, as_of, history
from keepline.records.revisions import differences as differing
from keepline.records.summaries import summarise
from keepline.records.types import load_type
from keepline.render import record_value
from keepline.store.recordset import fetch

if TYPE_CHECKING:
    from keepline.app.instance import Instance


def me(instance: Instance) -> Principal:
    """Return the person at the command line."""
    return instance.principal(getpass.getuser())


def records(instance: Instance, record_type: str) -> Iterator[RecordImage]:
    """Yield the records of a type, by key; raises UnknownRecordTypeError."""
    declared = load_type(instance.store, record_type)
    with instance.store.read() as connection:
        yield from fetch(connection, declared, me(instance))


def record(
    instance: Instance, record_type: str, key: str, at: datetime | None = None
) -> RecordImage:
    """Return one record as it is, or as it was at a time; raises RecordNotFoundError."""
    declared = load_type(instance.store, record_type)
    if at is not None:
        found = as_of(declared, key, at, instance=instance, principal=me(instance))
        return found or _not_then(revisions(instance, record_type, key), at)
    with instance.store.read() as connection:
        found = next(fetch(connection, declared, me(instance), [key]), None)
    if found is None:
        raise _missing(record_type, key)
    return found


def shown(image: RecordImage) -> dict[str, Any]:
    """Return a record as JSON values, with what its type's summaries say."""
    value = record_value(image)
    if image.type.summaries:
        value["summaries"] = summarise(image.type, image.values)
    return value


def revisions(instance: Instance, record_type: str, key: str) -> list[Revision]:
    """Return the revisions of a record, the oldest first; raises RecordNotFoundError."""
    declared = load_type(instance.store, record_type)
    found = history(declared, key, instance=instance, principal=me(instance))
    if not found:
        raise _missing(record_type, key)
    return found


def differences(
    instance: Instance,
    record_type: str,
    key: str,
    older: int | None = None,
    newer: int | None = None,
) -> tuple[int | None, int, Differences]:
    """Return two revisions of a record, and what differs between them.

    Without `newer` the latest, without `older` the one before it. Raises RecordNotFoundError.
    """
    found = revisions(instance, record_type, key)
    numbers = [each.number for each in found]
    for number in (older, newer):
        if number is not None and number not in numbers:
            raise RecordNotFoundError(
                f"{record_type} {key!r} has no revision {number}; it has {_ranges(numbers)}"
            )
    to = len(found) - 1 if newer is None else numbers.index(newer)
    start = to - 1 if older is None else numbers.index(older)
    before = None if start < 0 else found[start]
    return (
        None if before is None else before.number,
        numbers[to],
        differing(None if before is None else before.after, found[to].after),
    )


def import_csv(
    instance: Instance,
    path: Path,
    record_type: str,
    form: CsvForm,
    options: importing.ImportOptions,
    progress: Callable[[int, int, int], None] | None = None,
) -> importing.ImportReport:
    """Import a CSV file into records of a type; see `records.importing`."""
    return importing.import_csv(
        path,
        load_type(instance.store, record_type),
        form,
        options,
        instance=instance,
        principal=me(instance),
        progress=progress,
    )


def checkout(
    instance: Instance, record_type: str, keys: Sequence[str] | None, path: Path
) -> bundles.Bundle:
    """Write a bundle of records into a new file; see `records.bundles`."""
    declared = load_type(instance.store, record_type)
    bundle = bundles.checkout(declared, keys, instance=instance, principal=me(instance))
    bundle.write(path)
    return bundle


def checkin(
    instance: Instance, path: Path, *, reason: str | None = None, dry_run: bool = False
) -> checkins.CheckInReport:
    """Check in the bundle in a file; see `records.checkins`."""
    bundle = bundles.Bundle.read(path)
    return checkins.checkin(
        bundle,
        load_type(instance.store, bundle.record_type),
        reason=reason,
        dry_run=dry_run,
        instance=instance,
        principal=me(instance),
    )


def proposals(
    instance: Instance, record_type: str | None = None, *, settled: bool = False
) -> list[proposed.Proposal]:
    """Return the proposals that wait, or those that were settled."""
    return proposed.proposals(
        record_type=record_type, settled=settled, instance=instance, principal=me(instance)
    )


def take_proposals(
    instance: Instance, ids: Sequence[int], *, anyway: bool = False, reason: str | None = None
) -> list[RecordKey]:
    """Write proposals into their records; see `records.proposals`."""
    return proposed.take(
        ids, anyway=anyway, reason=reason, instance=instance, principal=me(instance)
    )


def drop_proposals(instance: Instance, ids: Sequence[int]) -> None:
    """Decide against proposals."""
    proposed.drop(ids, instance=instance, principal=me(instance))


def finalise(instance: Instance, record_type: str, key: str, reason: str | None = None) -> bool:
    """Close a record to changes; return False when it was closed already.

    Raises RecordError when the type has no such state, and for whatever refuses it.
    """
    return _changed(_object(instance, record_type, key).finalise(reason))


def reopen(instance: Instance, record_type: str, key: str, reason: str) -> bool:
    """Open a finalised record; return False when it was open. Raises as `finalise` does.

    A reason is needed, whatever the type says.
    """
    if not reason.strip():
        raise RecordError("a finalised record is reopened with a reason: give one with --reason")
    return _changed(_object(instance, record_type, key).reopen(reason))


def edit(
    instance: Instance, record_type: str, key: str, desk: Desk, reason: str | None = None
) -> Outcome:
    """Have a record edited as text and save it; return what it came to.

    Whatever goes wrong, what was typed stays in a file, which the error names.
    """
    obj = _object(instance, record_type, key)
    descriptor, name = tempfile.mkstemp(prefix=f"keepline-{record_type}-", suffix=".txt")
    os.close(descriptor)
    draft = Path(name)
    try:
        outcome = edit_record(obj, draft, desk, reason=reason)
    except KeyboardInterrupt:
        raise RecordError(f"interrupted; what you typed is in {draft}") from None
    except Exception as error:  # whatever it is, nothing that was typed may be lost
        # Whoever ends the input instead of answering raises an error without words.
        said = str(error) or "no answer was given"
        raise RecordError(f"{said}; what you typed is in {draft}") from error
    with suppress(OSError):
        draft.unlink()
    return outcome


def _object(instance: Instance, record_type: str, key: str) -> BusinessObject:
    declared = load_type(instance.store, record_type)
    return business_class(declared)(key, instance=instance, principal=me(instance))


def _changed(result: SaveResult) -> bool:
    if not result:
        raise RecordError(result.message)
    return result.outcome is not Outcome.UNCHANGED


def _not_then(found: Sequence[Revision], at: datetime) -> NoReturn:
    """Say why a record that has revisions cannot be shown as it was at a time."""
    name, first = found[0].record, found[0].at.astimezone(UTC)
    if at < found[0].at:
        raise RecordNotFoundError(
            f"{name} was not there yet: it is from {first:%Y-%m-%d %H:%M:%S}Z"
        )
    last = max((each for each in found if each.at <= at), key=lambda each: each.number)
    if last.op == "delete":
        raise RecordNotFoundError(f"{name} was deleted before that")
    raise RecordNotFoundError(f"what {name} was then was erased, or is not yours to see")


def _missing(record_type: str, key: str) -> RecordNotFoundError:
    return RecordNotFoundError(
        f"there is no {record_type} called {key!r}, or it is not yours to see"
    )


def _ranges(numbers: Sequence[int]) -> str:
    return f"{numbers[0]} to {numbers[-1]}" if len(numbers) > 1 else str(numbers[0])
