"""keepline.toml as a backup holds it: without secrets, its own files under plain names.

A backup may come from anybody, so the names are checked again before they are used.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pydantic
import sqlalchemy as sa

from keepline import config
from keepline.app.instance import Instance
from keepline.app.subjects import ERASURES
from keepline.errors import InstanceError

#: The usual names of the files of live captures and of the spool, and of the types' folder.
CAPTURE, SPOOL, TYPES = "capture.db", "spool.db", "types"

#: A name that TOML takes without quotes.
_BARE = re.compile(r"[A-Za-z0-9_-]+")

#: What SQLite puts behind a database's name for the files beside it.
_BESIDE = ("", "-wal", "-shm", "-journal")


def without_secrets(instance: Instance) -> str:
    """Return keepline.toml without secrets; files of the instance are within its folder."""
    file = instance.folder / config.FILE_NAME
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InstanceError(f"{file} cannot be read: {error.strerror}") from error
    values = _cleared(values, instance.settings)
    capture = instance.settings.capture
    taken = [config.FILE_NAME, ERASURES]
    if instance.store.dialect == "sqlite":
        database = _free_name(instance.store.engine.url.database, "keepline.db", taken)
        values.setdefault("store", {})["url"] = f"sqlite:///{database}"
    elif str(values.get("store", {}).get("url", "")).startswith("sqlite"):
        values["store"]["url"] = "sqlite:///keepline.db"  # a variable names another database
    if capture.store == "sqlite":
        values.setdefault("capture", {})["path"] = _free_name(capture.path, CAPTURE, taken)
    else:
        values.get("capture", {}).pop("path", None)
    if capture.spool is not None:
        spool = values.setdefault("capture", {}).setdefault("spool", {})
        spool["path"] = _free_name(capture.spool.path, SPOOL, taken)
    types = _free_name(instance.settings.records.types, TYPES, taken)
    if types != TYPES or "records" in values:
        values.setdefault("records", {})["types"] = types
    return _toml(values)


def check_names(text: str) -> None:
    """Raise InstanceError unless a backup's settings name files right within the folder."""
    taken = [config.FILE_NAME, ERASURES]
    for place, value in _files(_read(text)):
        name = _database(value) if place == "[store] url" else value
        if not is_plain(name) or not _apart(str(name), taken):
            raise InstanceError(
                f"the backup's {place} names no file of its own in the new folder; such a backup "
                "is not one that keepline wrote"
            )
        taken.append(str(name))


def types_name(text: str) -> str:
    """Return the name of the folder of record types in a backup's settings."""
    records = _read(text).get("records")
    return str(records.get("types", TYPES)) if isinstance(records, dict) else TYPES


def _read(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError):
        raise InstanceError(f"the backup's {config.FILE_NAME} is damaged") from None


def _files(values: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    """Yield what the settings name as this instance's own files, and where it stands."""
    store, capture, records = (values.get(name) for name in ("store", "capture", "records"))
    url = store.get("url", "sqlite:///keepline.db") if isinstance(store, dict) else None
    if url is None or str(url).startswith("sqlite"):
        yield "[store] url", url or "sqlite:///keepline.db"
    if isinstance(capture, dict):
        yield "[capture] path", capture.get("path", CAPTURE)
        spool = capture.get("spool")
        if isinstance(spool, dict):
            yield "[capture.spool] path", spool.get("path", SPOOL)
    yield "[records] types", records.get("types", TYPES) if isinstance(records, dict) else TYPES


def _database(url: object) -> str | None:
    """Return the file that a SQLite URL names; None when it says anything else."""
    try:
        parsed = sa.make_url(str(url))
    except (sa.exc.ArgumentError, ValueError):
        return None
    more = (parsed.username, parsed.password, parsed.host, parsed.port, *parsed.query)
    return None if any(each is not None for each in more) else parsed.database


def is_plain(name: object) -> bool:
    """Return whether a name is that of a file or folder right here, and of no special one."""
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


def _free_name(path: str | None, usual: str, taken: list[str]) -> str:
    """Return a file's name without its folders, or the usual one where that cannot be."""
    wanted = Path(path or usual).name
    names = (wanted, usual, *(f"{number}-{usual}" for number in range(len(taken) + 1)))
    name = next(each for each in names if is_plain(each) and _apart(each, taken))
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
