"""Subjects across all capabilities: erasing one, and keeping the list of what was erased.

The list, ``erasures.jsonl`` in the instance's folder, holds numbers and digests only. Keep a copy
of it away from the backups: `restore` needs it to erase again what an older backup still has.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from keepline.app.instance import Instance
from keepline.delivery.erasing import DeliveryErasing
from keepline.downloads.erasing import DownloadErasing
from keepline.errors import InstanceError, RecordNotFoundError
from keepline.model import Principal
from keepline.records import erasing, subjects
from keepline.records.erasing import Erased
from keepline.records.subjects import Subject
from keepline.store import Store
from keepline.store.erasing import Part
from keepline.store.purging import purge
from keepline.store.quarantine import QuarantineErasing
from keepline.store.tables import metadata
from keepline.store.tables.capture import capture_session
from keepline.store.tables.records import erasure

ERASURES = "erasures.jsonl"

#: Tables of the other parts whose rows an erasure changes.
_TABLES = ("quarantine", "download", "download_record")


def parts() -> Sequence[Part]:
    """Return what the capabilities other than records do in an erasure."""
    return (DeliveryErasing(), DownloadErasing(), QuarantineErasing())


def find(instance: Instance, name: str, principal: Principal) -> Subject:
    """Return the subject with this identifier; the number of an erased one finds it too.

    Raises RecordNotFoundError.
    """
    with instance.store.read() as connection:
        try:
            return subjects.find(connection, name, principal)
        except RecordNotFoundError:
            if not (name.isascii() and name.isdigit() and len(name) < 19):
                raise
            found = subjects.find_number(connection, int(name), principal)
    if found.erased_at is None:
        raise RecordNotFoundError("there is no such subject, or it is not yours to see")
    return found


def preview(instance: Instance, found: Subject, principal: Principal) -> Erased:
    """Return what `erase` would remove and what it cannot reach."""
    result = erasing.preview(instance.store, found, parts(), principal)
    return replace(result, out_of_reach=[*result.out_of_reach, *_outside(instance)])


def erase(instance: Instance, found: Subject, principal: Principal, reason: str) -> Erased:
    """Erase a subject: rows first, then the files; list it in ``erasures.jsonl``.

    For one that is erased already, what is found under its number goes, and the files are
    cleaned again. Raises InvalidRecordError without a reason.
    """
    result = erasing.erase(instance.store, found, parts(), principal=principal, reason=reason)
    list_erasures(instance.store, instance.folder)
    tables = [*result.tables, *_TABLES]
    if found.erased_at is not None:
        tables = [*dict.fromkeys([*tables, *metadata.tables])]
    left = purge(instance.store, tables)
    return replace(result, out_of_reach=[*result.out_of_reach, *_outside(instance), *left])


def list_erasures(store: Store, folder: Path) -> None:
    """Add the erasures that ``erasures.jsonl`` does not have yet, and bring it to the disk.

    Raises InstanceError when it cannot be written.
    """
    file = folder / ERASURES
    known = {(each["subject"], each["digest"]) for each in read_erasures(file)}
    with store.read() as connection:
        rows = connection.execute(sa.select(erasure).order_by(erasure.c.id)).all()
    lines = [
        json.dumps(
            {
                "subject": row.subject_no,
                "digest": row.digest,
                "records": row.records,
                "images": row.images,
                "erased_at": row.erased_at.astimezone(UTC).isoformat(),
            }
        )
        for row in rows
        if (row.subject_no, row.digest) not in known
    ]
    if not lines:
        return
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as out:
            out.writelines(f"{line}\n" for line in lines)
            out.flush()
            os.fsync(out.fileno())
    except OSError as error:
        raise InstanceError(f"{file} cannot be written: {error.strerror}") from error


def read_erasures(file: Path) -> list[Mapping[str, Any]]:
    """Return the erasures that a list names; none when there is no such file.

    Raises InstanceError for what is no such list. A last line that a crash cut off is passed
    over: it is written again.
    """
    if not file.exists():
        return []
    found: list[Mapping[str, Any]] = []
    lines = file.read_text(encoding="utf-8", errors="replace").split("\n")
    for number, line in enumerate(lines, 1):
        try:
            if line.strip():
                each = json.loads(line)
                found.append({**each, "subject": int(each["subject"]), "digest": each["digest"]})
        except (ValueError, KeyError, TypeError):
            if number == len(lines):
                break
            raise InstanceError(f"{file}, line {number}: this is no list of erasures") from None
    return found


def _outside(instance: Instance) -> list[str]:
    """Say what no erasure reaches, in this instance and around it."""
    query = sa.select(sa.func.count()).select_from(capture_session)
    with instance.store.read() as connection:
        sessions = connection.execute(query).scalar_one()
    lines = ["backups made before: `keepline restore` erases again when it has erasures.jsonl"]
    if sessions:
        lines.append(
            f"capture sessions and their raw messages ({sessions} in the archive): they belong to "
            "instruments, not subjects"
        )
    lines += [
        "files of rejected rows (*.rejects.csv), which imports leave beside what they read",
        "bundles that were checked out, and files that were imported: people have them elsewhere",
    ]
    lines.append("logs of other programs, terminals and mail")
    return lines
