"""Making and opening an instance: one folder with keepline.toml, its parts wired.

Opening connects nothing and loads no part before it is used.
"""

from __future__ import annotations

import logging
import os
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import sqlalchemy as sa

from keepline import config
from keepline.config import Settings
from keepline.errors import CaptureWriteError, InstanceError
from keepline.model import Principal
from keepline.store import Store, current, plugins, schema
from keepline.store.tables import capture as archived

if TYPE_CHECKING:
    from collections.abc import Mapping

    from keepline.capture.archive.archive import Archive
    from keepline.capture.spool import Spool
    from keepline.capture.store import CaptureStore
    from keepline.query.module import Module

_log = logging.getLogger(__name__)

_TEMPLATE = """\
# One keepline instance. Everything here can be overridden by the environment:
# KEEPLINE_STORE__URL, KEEPLINE_CAPTURE__LEVEL, ... Secrets belong there, not in this file.

[store]
# Records, logs and the archive: SQLite in this folder, or postgresql://user@host/database
url = "sqlite:///keepline.db"

[capture]
# Live readings, until they are archived. level: "stored" survives a kill of the process,
# "fsynced" also a loss of power. store = "redis" takes a url instead of the path.
path = "capture.db"
level = "stored"

# What `keepline capture start` and `keepline ingest` record. Take the # away to make a stream.
# [streams.bench]
# instrument = "bench"
# decoder = "json"
# step_s = 1.0
# channels = [{ name = "pressure", unit = "bar" }]

# Record types of your own are TOML files in the folder types;
# `keepline records types migrate` applies them.

# Who gets the records. Take the # away to make a recipient.
# [recipients.ledger]
# transport = "database"
# url = "sqlite:///ledger.db"
#
# [recipients.files]
# transport = "folder"
# path = "outbox"
"""


class Instance:
    """An open instance. Close it, or use it as a context manager, when done.

    Safe to share between threads.
    """

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.folder = folder
        self.settings = settings
        self.store = Store(settings.store.url.get_secret_value(), folder=folder)

    def __repr__(self) -> str:
        return f"Instance({str(self.folder)!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @cached_property
    def _identity(self) -> tuple[str, str]:
        return schema.identity(self.store)

    @property
    def store_id(self) -> str:
        """Return the instance's identity."""
        return self._identity[0]

    @property
    def epoch(self) -> str:
        """Return the random name of this life of the instance; a restore starts a new one."""
        return self._identity[1]

    @cached_property
    def capture_store(self) -> CaptureStore:
        """Return the store of live readings."""
        kind = plugins.load("capture_stores", self.settings.capture.store)
        store: CaptureStore = kind.configured(self.settings.capture, folder=self.folder)
        try:
            self._renew_if_behind(store)
        except CaptureWriteError as error:
            _log.debug("%s", error)  # it may be out of reach; whoever needs it will say so
        return store

    @cached_property
    def spool(self) -> Spool | None:
        """Return where recorders keep messages while the capture store is out of reach."""
        from keepline.capture.spool import Spool

        settings = self.settings.capture.spool
        return None if settings is None else Spool.configured(settings, folder=self.folder)

    @cached_property
    def archive(self) -> Archive:
        """Return the archive of readings."""
        from keepline.capture.archive.archive import Archive

        return Archive(self.store, self.capture_store, trim=self.settings.capture.trim)

    def _renew_if_behind(self, store: CaptureStore) -> None:
        """Begin a new epoch of a capture store that the archive has later sessions of.

        It was restored from an old copy, and would give their numbers out again.
        """
        session = archived.capture_session.c
        with self.store.read() as connection:
            highest = connection.execute(
                sa.select(sa.func.max(session.number)).where(session.store_id == store.store_id)
            ).scalar()
        if highest is not None and highest > store.last_number:
            store.renew(highest)
            _log.warning(
                "the capture store is older than the archive, which knows its session %d: "
                "a new epoch begins after that number",
                highest,
            )

    @cached_property
    def modules(self) -> Mapping[str, Module]:
        """Return the query modules by name."""
        from keepline.app.modules import installed

        return installed(self)

    def principal(self, username: str) -> Principal:
        """Return who `username` is here.

        There are no accounts yet: whoever can open the folder may see all of it.
        """
        return Principal(username, sees_all=True)

    def close(self) -> None:
        """Close every connection; the instance is no longer current."""
        if current.default() is self:
            current.set_default(None)
        if self.__dict__.get("spool") is not None:
            self.__dict__["spool"].close()
        if "capture_store" in self.__dict__:
            self.capture_store.close()
        self.store.close()


def init_instance(folder: Path | str) -> Instance:
    """Make an instance in `folder`, open it and make it current.

    A missing folder is made for its owner alone, as records and settings may be confidential.
    Raises InstanceError when the folder cannot be written or holds an instance already.
    """
    folder = _resolve(folder)
    file = folder / config.FILE_NAME
    if file.exists():
        raise InstanceError(f"{folder} is an instance already; open it, or choose another folder")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        file.touch(mode=0o600, exist_ok=False)
        file.write_text(_TEMPLATE, encoding="utf-8")
    except OSError as error:
        raise InstanceError(f"{folder} cannot be written: {error.strerror}") from error
    return migrate_instance(folder)


def open_instance(folder: Path | str | None = None) -> Instance:
    """Open the instance in `folder` and make it current in this process.

    Without a folder: the one in KEEPLINE_INSTANCE, else the current folder. Raises
    InstanceError, SchemaTooNewError, SchemaBehindError or ConfigError.
    """
    instance = Instance(_resolve(folder), config.load(_resolve(folder)))
    try:
        schema.check(instance.store)
    except BaseException:
        instance.close()
        raise
    current.set_default(instance)
    return instance


def migrate_instance(folder: Path | str | None = None) -> Instance:
    """Bring the instance in `folder` to this version's schema, open it and make it current."""
    from keepline.records.type_changes import migrate_type
    from keepline.records.types import INSTRUMENT_SESSION

    instance = Instance(_resolve(folder), config.load(_resolve(folder)))
    try:
        schema.migrate(instance.store)
        migrate_type(instance.store, INSTRUMENT_SESSION, Principal.system())
    except BaseException:
        instance.close()
        raise
    current.set_default(instance)
    return instance


def _resolve(folder: Path | str | None) -> Path:
    return Path(folder or os.environ.get("KEEPLINE_INSTANCE") or ".").expanduser().absolute()
