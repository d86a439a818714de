"""Bundles: records that are taken along in a file, edited there, and checked in again.

A bundle is one JSON object::

    {"keepline_bundle": 1, "id": "...", "epoch": "...", "type": "specimen", "who": "ann",
     "checked_out_at": "2026-03-02T10:00:00Z",
     "records": [
       {"key": "a", "revision": 3, "token": "...", "base": {"label": "first"},
        "values": {"label": "second"}}]}

Only ``values`` are to be edited; `json_values` says how they are written. A field that is left out
of them is not changed. ``"delete": true`` deletes the record; a record with nothing but ``key``
and ``values`` is a new one. Sub-tables are not in a bundle.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from keepline.errors import RecordError, RecordNotFoundError
from keepline.model import Principal, RecordImage, RecordType, utc_now
from keepline.records.json_values import plain_value, read_json, updatable
from keepline.store.current import Current, current
from keepline.store.recordset import fetch

#: A bundle is never larger, so that a file from elsewhere cannot take all memory.
MAX_BYTES = 64 * 1024 * 1024
MAX_RECORDS = 100_000
_MAX_KEY = 500

_FORM = 1
_MEMBERS = {"keepline_bundle", "id", "epoch", "type", "who", "checked_out_at", "records"}
_RECORD_MEMBERS = {"key", "revision", "token", "base", "values", "delete"}
_ID = re.compile(r"[0-9a-f]{32}")
_TOKEN = re.compile(r"[0-9]{1,19}\.[0-9]{1,19}")


@dataclass(slots=True)
class BundleRecord:
    """One record of a bundle; `values` are to be edited, as JSON has them.

    `base` are the values that were checked out, None for a new record; `token` and `revision`
    say which state that was.
    """

    key: str
    values: dict[str, Any] = field(repr=False)
    base: Mapping[str, Any] | None = field(default=None, repr=False)
    token: str | None = None
    revision: int | None = None
    delete: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the record as the file has it."""
        if self.base is None:
            return {"key": self.key, "values": self.values}
        found: dict[str, Any] = {"key": self.key, "revision": self.revision, "token": self.token}
        found |= {"base": dict(self.base), "values": self.values}
        return found | ({"delete": True} if self.delete else {})


@dataclass(slots=True)
class Bundle:
    """Records of one type that somebody took along; `records` has them by key."""

    id: str
    epoch: str
    record_type: str
    who: str
    checked_out_at: datetime
    records: dict[str, BundleRecord] = field(default_factory=dict, repr=False)

    def add(self, key: str, values: Mapping[str, Any]) -> None:
        """Add a new record; raises RecordError when the bundle has one called `key`."""
        if key in self.records:
            raise RecordError(f"the bundle has a record {key!r} already")
        self.records[key] = BundleRecord(key, dict(values))

    def to_json(self) -> dict[str, Any]:
        """Return the bundle as the file has it."""
        return {
            "keepline_bundle": _FORM,
            "id": self.id,
            "epoch": self.epoch,
            "type": self.record_type,
            "who": self.who,
            "checked_out_at": plain_value(self.checked_out_at),
            "records": [each.to_json() for each in self.records.values()],
        }

    @classmethod
    def from_json(cls, found: Any) -> Bundle:
        """Return the bundle that a JSON value is; raises RecordError saying what is wrong."""
        members = _object(found, _MEMBERS, _MEMBERS, "the bundle")
        if members["keepline_bundle"] != _FORM or isinstance(members["keepline_bundle"], bool):
            raise RecordError("the bundle has a form that this keepline does not know")
        texts = {name: _text(members[name], name) for name in ("epoch", "type", "who")}
        if not (isinstance(members["id"], str) and _ID.fullmatch(members["id"])):
            raise RecordError("the bundle's id is not one of keepline's")
        records = members["records"]
        if not isinstance(records, list) or len(records) > MAX_RECORDS:
            raise RecordError(f"the bundle's records are a list of at most {MAX_RECORDS}")
        bundle = cls(members["id"], texts["epoch"], texts["type"], texts["who"], _time(members))
        for place, each in enumerate(records):
            record = _record(each, f"record {place + 1} of the bundle")
            if record.key in bundle.records:
                raise RecordError(f"the bundle has the record {record.key!r} twice")
            bundle.records[record.key] = record
        return bundle

    def write(self, path: Path) -> None:
        """Write the bundle into a new file, for its owner alone; raises RecordError."""
        text = json.dumps(self.to_json(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        data = text.encode()
        if len(data) > MAX_BYTES or len(self.records) > MAX_RECORDS:
            raise RecordError("that is more than a bundle holds; check out fewer records")
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        except FileExistsError:
            raise RecordError(f"{path} is there already; name another file") from None
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)

    @classmethod
    def read(cls, path: Path) -> Bundle:
        """Return the bundle in a file; raises RecordError for a file that holds none."""
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise RecordError(f"{path} is larger than any bundle")
        try:
            found = read_json(data.decode("utf-8-sig"))
        except ValueError as error:
            raise RecordError(f"{path} is not JSON: {error}") from None
        return cls.from_json(found)


def checkout(
    declared: RecordType,
    keys: Iterable[str] | None = None,
    *,
    instance: Current | None = None,
    principal: Principal | None = None,
) -> Bundle:
    """Return a bundle of the records called `keys`, or of all that `principal` may see.

    Nothing is locked: others go on editing. Raises RecordNotFoundError for a key that is not
    there or may not be seen, RecordError for more records than a bundle holds.
    """
    here, principal = current(instance), principal or Principal.system()
    bundle = Bundle(secrets.token_hex(16), here.epoch, declared.name, principal.name, utc_now())
    wanted = None if keys is None else list(keys)
    with here.store.read() as connection:
        for image in fetch(connection, declared, principal, wanted):
            if len(bundle.records) == MAX_RECORDS:
                raise RecordError("that is more than a bundle holds; check out fewer records")
            bundle.records[image.key] = _taken(image)
    if missing := sorted(set(wanted or ()) - bundle.records.keys()):
        raise RecordNotFoundError(
            f"there is no {declared.name} {missing[0]!r}, or it is not yours to see"
        )
    return bundle


def _taken(image: RecordImage) -> BundleRecord:
    values = {each.name: plain_value(image.values[each.name]) for each in updatable(image.type)}
    # A value that was changed in place would change its base, too.
    base = json.loads(json.dumps(values))
    return BundleRecord(image.key, values, base, f"{image.born}.{image.rev}", image.revision)


def _record(found: Any, where: str) -> BundleRecord:
    members = _object(found, {"key", "values"}, _RECORD_MEMBERS, where)
    key, values, base = members["key"], members["values"], members.get("base")
    if not isinstance(key, str) or not key or len(key) > _MAX_KEY or not _storable(key):
        raise RecordError(f"{where}: a key is a text of 1 to {_MAX_KEY} characters")
    if not isinstance(values, dict) or not isinstance(base, dict | None):
        raise RecordError(f"{where}: base and values are objects")
    token, revision = members.get("token"), members.get("revision")
    if (base is None) != (token is None) or (base is None) != (revision is None):
        raise RecordError(f"{where}: base, token and revision go together; a new record has none")
    if base is not None:
        if not isinstance(token, str) or not _TOKEN.fullmatch(token):
            raise RecordError(f"{where}: the token is not one of keepline's")
        if type(revision) is not int or not 0 < revision < 2**63:
            raise RecordError(f"{where}: the revision is not one of keepline's")
    delete = members.get("delete", False)
    if not isinstance(delete, bool) or (delete and base is None):
        raise RecordError(f"{where}: delete is true or false, and of no new record")
    return BundleRecord(key, values, base, token, revision, delete)


def _object(found: Any, needed: set[str], known: set[str], where: str) -> dict[str, Any]:
    if not isinstance(found, dict):
        raise RecordError(f"{where} is not a JSON object")
    if missing := sorted(needed - found.keys()):
        raise RecordError(f"{where} lacks {missing[0]!r}")
    if unknown := sorted(found.keys() - known):
        raise RecordError(f"{where} has {unknown[0][:40]!r}, which means nothing there")
    return found


def _text(found: Any, name: str) -> str:
    if not isinstance(found, str) or len(found) > _MAX_KEY or not _storable(found):
        raise RecordError(f"the bundle's {name} is not a text")
    return found


def _time(members: Mapping[str, Any]) -> datetime:
    try:
        moment = datetime.fromisoformat(members["checked_out_at"])
        moment.astimezone(UTC)
    except (TypeError, ValueError, OverflowError):
        moment = None
    if moment is None or moment.tzinfo is None:
        raise RecordError("the bundle's checked_out_at is not a time with its zone")
    return moment


def _storable(text: str) -> bool:
    return "\x00" not in text and not any("\ud800" <= letter <= "\udfff" for letter in text)
