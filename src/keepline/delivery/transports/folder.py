"""Records into a folder: one JSON file a record, replaced whole by corrections."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from keepline.config import RecipientSettings
from keepline.delivery.transport import Capabilities, Sending
from keepline.errors import ConfigError, TransportError
from keepline.model import RecordType
from keepline.render.json import dumps, record_value

#: Bytes of a record's key that a file's name shows; file systems take 255 for the whole name.
_KEY_BYTES = 120

#: Characters of the target key that a file's name shows: enough that no two names meet.
_TARGET = 16


class FolderTransport:
    """Delivers into the folder at `path`, made when it is missing.

    A record's file is ``<type>/<key>-<start of the target key>.json`` with the members
    ``record``, ``target_key`` and ``send_key``. It is written beside its place, brought to the
    disk and then renamed, so that a reader sees one revision or the other, never a part.
    """

    # Writing a file again gives the same file; which sendings were there is not kept.
    capabilities = Capabilities(probes=False, idempotent=True, withdraws=True)

    def __init__(self, path: Path | str) -> None:
        self._root = Path(path)

    @classmethod
    def configured(cls, settings: RecipientSettings, *, folder: Path) -> Self:
        """Return the transport that `settings` describe; raises ConfigError without a path."""
        if not settings.path:
            raise ConfigError("a recipient with transport 'folder' needs a path")
        return cls(folder / settings.path)

    def __repr__(self) -> str:
        return f"FolderTransport({str(self._root)!r})"

    def __enter__(self) -> Self:
        with self._translated():
            self._root.mkdir(parents=True, exist_ok=True)
            self._root = self._root.resolve(strict=True)
            probe = self._root / f".keepline-{os.getpid()}.part"
            probe.touch()
            probe.unlink()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Do nothing: no file stays open between records."""

    def send(self, sending: Sending) -> None:
        """Write the record's file and bring it, and its name, to the disk."""
        content = {
            "record": record_value(sending.image),
            "send_key": sending.send_key,
            "target_key": sending.target_key,
        }
        data = (dumps(content, indent=2) + "\n").encode()
        with self._translated():
            folder = self._subfolder(sending.image.type.name)
            _publish(folder, file_name(sending), data)

    def delivered(self, send_key: str) -> None:
        """Return None: the folder keeps no receipts."""
        return

    def withdraw(self, declared: RecordType, target_key: str) -> None:
        """Remove the record's file, and bring that to the disk."""
        with self._translated():
            folder = self._subfolder(declared.name)
            for file in folder.glob(f"*-{target_key[:_TARGET]}.json"):
                file.unlink(missing_ok=True)
            _fsync(folder)

    def _subfolder(self, name: str) -> Path:
        folder = self._root / name
        if not folder.is_dir():
            folder.mkdir()
            _fsync(self._root)
        if folder.resolve(strict=True) != folder:
            raise TransportError(f"{folder} leads out of the recipient's folder", unreachable=True)
        return folder

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise TransportError(
                f"the folder {self._root} cannot be written: {error.strerror}", unreachable=True
            ) from error


def file_name(sending: Sending) -> str:
    """Return the name of a record's file: safe on any file system, the same for its life.

    Letters, digits, ``-`` and ``_`` of the key stay, everything else becomes ``_``; what of
    the key is lost by that, or by its length, the part of the target key tells apart.
    """
    key = unicodedata.normalize("NFC", sending.image.key) or "_"
    safe = "".join(c if c.isalnum() or c in "-_" else "_" for c in key)
    safe = safe.replace("-", "_", safe.startswith("-"))  # no name looks like an option
    short = safe.encode("utf-8", "replace")[:_KEY_BYTES].decode("utf-8", "ignore")
    return f"{short}-{sending.target_key[:_TARGET]}.json"


def _publish(folder: Path, name: str, data: bytes) -> None:
    # The temporary name does not depend on the key, and a crash's leftover is written over.
    temporary = folder / f".{name[-_TARGET - 5 : -5]}.part"
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(folder / name)
    except OSError:
        with suppress(OSError):
            temporary.unlink()
        raise
    _fsync(folder)


def _fsync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
