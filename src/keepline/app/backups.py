"""Backups of a whole instance, and making an instance of one again."""

from __future__ import annotations

import importlib.metadata
import json
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pydantic
import sqlalchemy as sa

from keepline import config
from keepline.app import subjects
from keepline.app.instance import Instance
from keepline.errors import InstanceError, SchemaBehindError, SchemaTooNewError
from keepline.model import Principal, utc_now
from keepline.records import erasing, seals
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

_CAPTURE = "capture.db"
_SPOOL = "spool.db"

#: A name that TOML takes without quotes.
_BARE = re.compile(r"[A-Za-z0-9_-]+")

#: What stands in a folder into which a backup is restored.
_MAY_STAND = frozenset({subjects.ERASURES})

#: What SQLite puts behind a database's name for the files beside it.
_BESIDE = ("", "-wal", "-shm", "-journal")


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
    settings = instance.settings
    left = ["secrets: they are in the environment, or must be put into keepline.toml again"]
    with BackupWriter(file) as writer:
        if settings.capture.store == "sqlite":
            _add_sqlite(writer, _CAPTURE, instance.folder / settings.capture.path)
        else:
            left.append(f"live captures: they are on the {settings.capture.store} server")
        if settings.capture.spool is not None:
            _add_sqlite(writer, _SPOOL, instance.folder / settings.capture.spool.path)
        with writer.member(config.FILE_NAME) as out:
            out.write(_without_secrets(instance).encode())
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
    InstanceError, and then leaves no instance behind.
    """
    folder = folder.expanduser().absolute()
    lists = [each for each in (erasures, folder / subjects.ERASURES) if each is not None]
    if erasures is not None and not erasures.is_file():
        raise InstanceError(f"there is no list of erasures {erasures}")
    listed = [line for each in lists for line in subjects.read_erasures(each)]
    with BackupReader(file.expanduser()) as reader:
        _check_schema(reader)
        _check_folder(folder)
        _check_names(reader)
        reader.check()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        made: list[Path] = []
        try:
            return _restore(reader, folder, listed, made)
        except BaseException:
            for each in made:
                for name in (each.name, f"{each.name}-wal", f"{each.name}-shm"):
                    with suppress(OSError):
                        each.with_name(name).unlink(missing_ok=True)
            raise


def _restore(
    reader: BackupReader, folder: Path, listed: list[Mapping[str, Any]], made: list[Path]
) -> Restored:
    toml = folder / config.FILE_NAME
    reader.extract(config.FILE_NAME, toml)
    made.append(toml)
    instance = Instance(folder, config.load(folder))
    try:
        if instance.store.dialect != reader.about["kind"]:
            raise InstanceError(
                f"the backup is of a store in {reader.about['kind']}, and [store] url names one "
                f"in {instance.store.dialect}"
            )
        check_free(instance.store)
        if instance.store.dialect == "sqlite":
            made.append(Path(instance.store.engine.url.database or ""))
        copy_in(instance.store, reader)
        _restore_captures(reader, instance, made)
        warnings = _check(instance.store, reader)
        again, refused = _erase_again(instance, listed)
        subjects.list_erasures(instance.store, folder)
        sync_folder(folder)
        return Restored(
            folder, str(reader.about["made_at"]), instance.epoch, again, warnings + refused
        )
    finally:
        instance.close()


def _restore_captures(reader: BackupReader, instance: Instance, made: list[Path]) -> None:
    """Put live captures back, under a new epoch and with session numbers far beyond."""
    settings = instance.settings.capture
    if _SPOOL in reader and settings.spool is not None:
        _extract(reader, _SPOOL, instance.folder / settings.spool.path, made)
    if _CAPTURE in reader and settings.store == "sqlite":
        _extract(reader, _CAPTURE, instance.folder / settings.path, made)
        store = instance.capture_store
        store.renew(store.last_number + GAP)


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


def _check_names(reader: BackupReader) -> None:
    """Raise InstanceError unless the backup's settings name files right within the folder."""
    text = reader.text(config.FILE_NAME)
    try:
        values = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError):
        raise InstanceError(f"the backup's {config.FILE_NAME} is damaged") from None
    taken = [config.FILE_NAME, subjects.ERASURES]
    for place, value in _files(values):
        name = _database(value) if place == "[store] url" else value
        if not _is_plain(name) or not _apart(str(name), taken):
            raise InstanceError(
                f"the backup's {place} names no file of its own in the new folder; such a backup "
                "is not one that keepline wrote"
            )
        taken.append(str(name))


def _files(values: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    """Yield what the settings name as this instance's own files, and where it stands."""
    store, capture = values.get("store"), values.get("capture")
    url = store.get("url", "sqlite:///keepline.db") if isinstance(store, dict) else None
    if url is None or str(url).startswith("sqlite"):
        yield "[store] url", url or "sqlite:///keepline.db"
    if isinstance(capture, dict):
        yield "[capture] path", capture.get("path", _CAPTURE)
        spool = capture.get("spool")
        if isinstance(spool, dict):
            yield "[capture.spool] path", spool.get("path", _SPOOL)


def _database(url: object) -> str | None:
    """Return the file that a SQLite URL names; None when it says anything else."""
    try:
        parsed = sa.make_url(str(url))
    except (sa.exc.ArgumentError, ValueError):
        return None
    more = (parsed.username, parsed.password, parsed.host, parsed.port, *parsed.query)
    return None if any(each is not None for each in more) else parsed.database


def _is_plain(name: object) -> bool:
    return (
        isinstance(name, str)
        and Path(name).name == name
        and name.isprintable()
        and not name.startswith((".", ":", "file:"))
    )


def _apart(name: str, taken: Iterable[str]) -> bool:
    """Return whether a SQLite file of this name, and what SQLite makes beside it, are apart."""
    own = {name.casefold() + ending for ending in _BESIDE}
    return own.isdisjoint(each.casefold() + ending for each in taken for ending in _BESIDE)


def _without_secrets(instance: Instance) -> str:
    """Return keepline.toml without secrets; files of the instance are within its folder."""
    file = instance.folder / config.FILE_NAME
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InstanceError(f"{file} cannot be read: {error.strerror}") from error
    values = _cleared(values, instance.settings)
    capture = instance.settings.capture
    taken = [config.FILE_NAME, subjects.ERASURES]
    if instance.store.dialect == "sqlite":
        database = _free_name(instance.store.engine.url.database, "keepline.db", taken)
        values.setdefault("store", {})["url"] = f"sqlite:///{database}"
    elif str(values.get("store", {}).get("url", "")).startswith("sqlite"):
        values["store"]["url"] = "sqlite:///keepline.db"  # a variable names another database
    if capture.store == "sqlite":
        values.setdefault("capture", {})["path"] = _free_name(capture.path, _CAPTURE, taken)
    else:
        values.get("capture", {}).pop("path", None)
    if capture.spool is not None:
        spool = values.setdefault("capture", {}).setdefault("spool", {})
        spool["path"] = _free_name(capture.spool.path, _SPOOL, taken)
    return _toml(values)


def _free_name(path: str | None, usual: str, taken: list[str]) -> str:
    """Return a file's name without its folders, or the usual one where that cannot be."""
    wanted = Path(path or usual).name
    names = (wanted, usual, *(f"{number}-{usual}" for number in range(len(taken) + 1)))
    name = next(each for each in names if _is_plain(each) and _apart(each, taken))
    taken.append(name)
    return name


def _cleared(values: Mapping[str, Any], settings: object) -> dict[str, Any]:
    """Return the values without those that the settings' classes call secret.

    Of a secret URL all but the password stays.
    """
    kept: dict[str, Any] = {}
    for name, value in values.items():
        known = settings.get(name) if isinstance(settings, dict) else getattr(settings, name, None)
        if isinstance(known, pydantic.SecretStr):
            if (url := _plain_url(value)) is not None:
                kept[name] = url
        elif isinstance(value, dict):
            kept[name] = _cleared(value, known)
        else:
            kept[name] = value
    return kept


def _plain_url(value: object) -> str | None:
    """Return a URL without what may be secret in it; None for anything else."""
    if not isinstance(value, str) or "://" not in value:
        return None
    try:
        url = sa.make_url(value)
    except (sa.exc.ArgumentError, ValueError):
        return None
    open_to_all = {"host", "port", "sslmode", "dbname", "service", "mode", "uri"}
    query = {name: each for name, each in url.query.items() if name in open_to_all}
    plain = sa.URL.create(
        url.drivername, url.username, None, url.host, url.port, url.database, query
    )
    return plain.render_as_string(hide_password=False)


def _toml(values: Mapping[str, Any], path: tuple[str, ...] = ()) -> str:
    plain = {name: value for name, value in values.items() if not isinstance(value, dict)}
    lines = [f"[{'.'.join(map(_name, path))}]"] if path else []
    lines += [f"{_name(name)} = {_toml_value(value)}" for name, value in plain.items()]
    text = "\n".join(lines) + "\n" if lines else ""
    for name, value in values.items():
        if isinstance(value, dict):
            text += ("\n" if text else "") + _toml(value, (*path, name))
    return text


def _toml_value(value: Any) -> str:
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_name(k)} = {_toml_value(v)}' for k, v in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_toml_value, value))}]"
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    return value.isoformat() if hasattr(value, "isoformat") else repr(value)


def _name(text: str) -> str:
    return text if _BARE.fullmatch(text) else _quoted(text)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
