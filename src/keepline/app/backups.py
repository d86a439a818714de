"""Backups of a whole instance, and making an instance of one again."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from keepline import config
from keepline.app import backup_settings, subjects
from keepline.app.backup_settings import CAPTURE, SPOOL, is_plain
from keepline.app.instance import Instance
from keepline.app.record_types import types_folder
from keepline.errors import InstanceError, SchemaBehindError, SchemaTooNewError
from keepline.model import Principal, utc_now
from keepline.records import erasing, seals
from keepline.records.declarations import files as declared_in
from keepline.records.seals import Head
from keepline.records.subjects import find_number
from keepline.store import Store, schema
from keepline.store.backup import BackupReader, BackupWriter, sync_folder
from keepline.store.copying import (
    GAP,
    check_free,
    copy_in,
    copy_out,
    copy_sqlite_file,
)
from keepline.store.purging import purge
from keepline.store.tables import metadata
from keepline.store.tables import records as tables
from keepline.store.triggers.inspection import faults

#: Where a backup holds the declarations of record types; so many, and none larger.
_TYPES = "types/"
_MOST_TYPES = 1_000
_LARGEST_TYPE = 1 << 20

#: What stands in a folder into which a backup is restored.
_MAY_STAND = frozenset({subjects.ERASURES})


@dataclass(frozen=True, slots=True)
class BackedUp:
    """A backup that was written. `not_included` says what it does not hold."""

    file: Path
    size_bytes: int
    head: Head | None
    not_included: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Restored:
    """An instance that was made of a backup. `erased_again` are numbers of subjects."""

    folder: Path
    made_at: str
    epoch: str
    erased_again: list[int]
    warnings: list[str]


def backup(instance: Instance, file: Path) -> BackedUp:
    """Write all of an instance into one file, while others go on writing.

    The SQL store is copied as it is at one moment; live captures were copied just before, so that
    the store may know more of them than their copy, and never less. Raises InstanceError.
    """
    file = file.expanduser().absolute()
    seals.seal(instance.store)
    subjects.list_erasures(instance.store, instance.folder)  # one that was killed did not
    settings = instance.settings
    left = ["secrets: they are in the environment, or must be put into keepline.toml again"]
    with BackupWriter(file) as writer:
        if settings.capture.store == "sqlite":
            _add_sqlite(writer, CAPTURE, instance.folder / settings.capture.path)
        else:
            left.append(f"live captures: they are on the {settings.capture.store} server")
        if settings.capture.spool is not None:
            _add_sqlite(writer, SPOOL, instance.folder / settings.capture.spool.path)
        with writer.member(config.FILE_NAME) as out:
            out.write(backup_settings.without_secrets(instance).encode())
        left += _add_types(writer, instance)
        with instance.store.read() as connection:
            head = seals.head(connection)  # before the copy, which has at least as much
        copy_out(instance.store, writer)
        size = writer.finish(
            {
                "keepline": importlib.metadata.version("keepline"),
                "kind": instance.store.dialect,
                "schema": schema.REVISIONS[-1],
                "store_id": instance.store_id,
                "epoch": instance.epoch,
                "made_at": utc_now().isoformat(),
                "head": None if head is None else [head.history_id, head.chain],
            }
        )
    return BackedUp(file, size, head, left)


def restore(file: Path, folder: Path, *, erasures: Path | None = None) -> Restored:
    """Make an instance in `folder` of a backup; it is current afterwards no more than before.

    Checksums and schema are checked before anything is written, which is within the folder and
    nowhere else, unless variables of the environment say so. The folder must be new, or hold
    nothing but a list of erasures; so must the database. What `erasures`, or the list in the
    folder, says was erased since is erased again. The instance begins a new epoch. Raises
    InstanceError, and then leaves no instance behind; nor does a kill, as keepline.toml comes last.
    """
    folder = folder.expanduser().absolute()
    lists = [each for each in (erasures, folder / subjects.ERASURES) if each is not None]
    if erasures is not None and not erasures.is_file():
        raise InstanceError(f"there is no list of erasures {erasures}")
    listed = [line for each in lists for line in subjects.read_erasures(each)]
    with BackupReader(file.expanduser()) as reader:
        _check_schema(reader)
        _check_folder(folder)
        toml = reader.text(config.FILE_NAME)
        backup_settings.check_names(toml)
        _check_types(reader)
        reader.check()
        settings = config.parse(toml.encode(), f"{file}, {config.FILE_NAME}")
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        made: list[Path] = []
        try:
            with Instance(folder, settings) as instance:
                return _restore(reader, instance, listed, made)
        except BaseException:
            _take_away(made)
            raise


def _restore(
    reader: BackupReader, instance: Instance, listed: list[Mapping[str, Any]], made: list[Path]
) -> Restored:
    store, folder = instance.store, instance.folder
    # Under its own name it makes an instance of the folder, so that is the last step.
    toml = folder / f".{config.FILE_NAME}.part"
    _extract(reader, config.FILE_NAME, toml, made)
    if store.dialect != reader.about["kind"]:
        raise InstanceError(
            f"the backup is of a store in {reader.about['kind']}, and [store] url names one "
            f"in {store.dialect}"
        )
    check_free(store)
    if store.dialect == "sqlite":
        made.append(Path(store.engine.url.database or ""))
    copy_in(store, reader)
    _restore_captures(reader, instance, made)
    _restore_types(reader, folder, made)
    warnings = _check(store, reader)
    again, refused = _erase_again(instance, listed)
    subjects.list_erasures(store, folder)
    made.append(toml.rename(folder / config.FILE_NAME))
    sync_folder(folder)
    return Restored(folder, str(reader.about["made_at"]), instance.epoch, again, warnings + refused)


def _take_away(made: list[Path]) -> None:
    """Remove what a restore made before it failed."""
    for each in reversed(made):
        with suppress(OSError):
            if each.is_dir():
                each.rmdir()
                continue
            for name in (each.name, f"{each.name}-wal", f"{each.name}-shm"):
                each.with_name(name).unlink(missing_ok=True)


def _restore_captures(reader: BackupReader, instance: Instance, made: list[Path]) -> None:
    """Put live captures back, under a new epoch and with session numbers far beyond."""
    settings = instance.settings.capture
    if SPOOL in reader and settings.spool is not None:
        _extract(reader, SPOOL, instance.folder / settings.spool.path, made)
    if CAPTURE in reader and settings.store == "sqlite":
        _extract(reader, CAPTURE, instance.folder / settings.path, made)
        store = instance.capture_store
        store.renew(store.last_number + GAP)


def _restore_types(reader: BackupReader, folder: Path, made: list[Path]) -> None:
    names = reader.names(_TYPES)
    if not names:
        return
    place = folder / backup_settings.types_name(reader.text(config.FILE_NAME))
    place.mkdir(mode=0o700)
    made.append(place)
    for name in names:
        _extract(reader, name, place / name.removeprefix(_TYPES), made)
    sync_folder(place)


def _extract(reader: BackupReader, name: str, file: Path, made: list[Path]) -> None:
    reader.extract(name, file)
    made.append(file)  # and no earlier: what stood there is not ours to remove


def _check(store: Store, reader: BackupReader) -> list[str]:
    head = reader.about["head"]
    anchor = None if head is None else Head(int(head[0]), str(head[1]))
    with store.read() as connection:
        wrong = faults(connection, schema.declared_types(connection))
        return [*wrong, *seals.check(connection, anchor)]


def _erase_again(
    instance: Instance, listed: list[Mapping[str, Any]]
) -> tuple[list[int], list[str]]:
    """Erase what was erased after the backup; return the numbers, and what cannot be told."""
    again, refused = [], []
    who = Principal.system("restore")
    for line in listed:
        with instance.store.read() as connection:
            row = connection.execute(
                sa.select(tables.subject).where(tables.subject.c.number == line["subject"])
            ).first()
            if row is None or row.erased_at is not None:
                continue
            found = find_number(connection, line["subject"], who)
        if erasing.digest_of(found) != line["digest"]:
            refused.append(
                f"the list of erasures has a subject {line['subject']} that is not this "
                "instance's: it was not erased"
            )
            continue
        erasing.erase(
            instance.store,
            found,
            subjects.parts(),
            principal=who,
            reason="erased after the backup was made",
        )
        again.append(found.number)
    if again:
        refused += purge(instance.store, list(metadata.tables))
    return again, refused


def _add_sqlite(writer: BackupWriter, name: str, path: Path) -> None:
    if path.exists():
        copy_sqlite_file(path, writer, name)


def _add_types(writer: BackupWriter, instance: Instance) -> list[str]:
    """Write the declarations of record types; return a line for each file that does not fit."""
    folder = types_folder(instance)
    settings = instance.folder / config.FILE_NAME  # which may hold secrets
    files = [each for each in declared_in(folder) if each.is_file() and not each.samefile(settings)]
    left = []
    if len(files) > _MOST_TYPES:
        left.append(f"{folder}: all declarations but the first {_MOST_TYPES}")
    for each in files[:_MOST_TYPES]:
        with each.open("rb") as opened:
            declaration = opened.read(_LARGEST_TYPE + 1)
        if len(declaration) > _LARGEST_TYPE or not is_plain(each.name):
            left.append(f"{each}: too large for a declaration, or of no plain name")
            continue
        with writer.member(f"{_TYPES}{each.name}") as out:
            out.write(declaration)
    return left


def _check_types(reader: BackupReader) -> None:
    """Raise InstanceError unless the declarations in a backup are small files of plain names."""
    names = reader.names(_TYPES)
    for name in names:
        plain = name.removeprefix(_TYPES)
        small = reader.size_bytes(name) <= _LARGEST_TYPE and len(names) <= _MOST_TYPES
        if not (is_plain(plain) and plain.endswith(".toml") and small):
            raise InstanceError(
                "the backup's record types are no small TOML files of plain names; such a backup "
                "is not one that keepline wrote"
            )


def _check_schema(reader: BackupReader) -> None:
    found = reader.about.get("schema")
    if found == schema.REVISIONS[-1]:
        return
    if found in schema.REVISIONS:
        raise SchemaBehindError(
            f"the backup has schema {found}: restore it with keepline "
            f"{reader.about.get('keepline')}, then run `keepline migrate` with this one"
        )
    raise SchemaTooNewError(f"the backup has schema {found}; upgrade keepline to restore it")


def _check_folder(folder: Path) -> None:
    if not folder.exists():
        return
    if not folder.is_dir() or {each.name for each in folder.iterdir()} - _MAY_STAND:
        raise InstanceError(
            f"{folder} is not empty; restore into a new folder: --into FOLDER (erasures.jsonl "
            "alone may be there)"
        )
