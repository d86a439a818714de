"""The file that a backup is: a ZIP archive with a manifest and a checksum for each member."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from keepline.errors import InstanceError

#: What this version writes, and the only one that it reads.
FORMAT = 1

_MANIFEST = "manifest.json"
_CHUNK = 1 << 20
_MAX_MANIFEST = 64 << 20

#: Members that are read as text are settings and lists of tables: this is plenty.
_MAX_TEXT = 4 << 20


#: What reading an archive raises that is none, or damaged.
_BROKEN = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    KeyError,
    TypeError,
    ValueError,
    RecursionError,
)

#: What `BackupWriter` writes.
_COMPRESSED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class _Hashed:
    """A member that is being written: what passes through is counted and digested."""

    def __init__(self, out: IO[bytes]) -> None:
        self._out = out
        self.digest = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes | memoryview) -> int:
        self._out.write(data)
        self.digest.update(data)
        self.size += len(data)
        return len(data)


class BackupWriter:
    """Writes a backup beside its place, for its owner alone, and renames it when it is whole.

    Leaving it without `finish` leaves nothing behind. Raises InstanceError when there is a file
    of that name already, or the place cannot be written. Memory does not grow with the content.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._part = file.with_name(f".{file.name}.{secrets.token_hex(4)}.part")
        self._members: dict[str, dict[str, Any]] = {}
        self._done = False

    def __enter__(self) -> Self:
        if self._file.exists():
            raise InstanceError(f"{self._file} is there already; give the backup another name")
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            self._raw = os.fdopen(os.open(self._part, flags, 0o600), "w+b")
        except OSError as error:
            raise InstanceError(f"{self._file} cannot be written: {error.strerror}") from error
        self._zip = zipfile.ZipFile(self._raw, "w", zipfile.ZIP_DEFLATED, compresslevel=1)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._done:
            return
        for each in (self._zip, self._raw):
            with suppress(OSError, ValueError):
                each.close()
        self._part.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:  # it was this file's
            raise InstanceError(f"{self._file} cannot be written: {error.strerror}") from error

    @property
    def scratch(self) -> Path:
        """Return a name beside the backup for a file that is needed on the way."""
        return self._part.with_suffix(".scratch")

    @contextmanager
    def member(self, name: str) -> Iterator[_Hashed]:
        """Give what writes one member; members are written one after the other."""
        with self._zip.open(name, "w", force_zip64=True) as out:
            hashed = _Hashed(out)
            yield hashed
        self._members[name] = {"sha256": hashed.digest.hexdigest(), "size_bytes": hashed.size}

    def add_file(self, name: str, path: Path) -> None:
        """Write a file's content as a member."""
        with path.open("rb") as source, self.member(name) as out:
            while chunk := source.read(_CHUNK):
                out.write(chunk)

    def finish(self, about: Mapping[str, Any]) -> int:
        """Write the manifest, bring all of it to the disk and rename it; return its size.

        A file that got the name meanwhile is not replaced: InstanceError.
        """
        manifest = {"format": FORMAT, **about, "members": self._members}
        self._zip.writestr(_MANIFEST, json.dumps(manifest, indent=2))
        self._zip.close()
        self._raw.flush()
        os.fsync(self._raw.fileno())
        size = self._raw.tell()
        self._raw.close()
        try:
            self._name()
        except FileExistsError:
            raise InstanceError(f"{self._file} is there already; give another name") from None
        self._done = True
        sync_folder(self._file.parent)
        return size

    def _name(self) -> None:
        """Give the whole file its name; raises FileExistsError when that is taken."""
        try:
            os.link(self._part, self._file)
        except FileExistsError:
            raise
        except OSError:  # a file system without hard links, such as a memory stick's
            self._file.touch(mode=0o600, exist_ok=False)
            self._part.replace(self._file)
        else:
            self._part.unlink()


class BackupReader:
    """A backup that was written by `BackupWriter`; `about` is its manifest.

    Raises InstanceError for any other file, and for the format of a newer version.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        try:
            self._zip = zipfile.ZipFile(file)
            if self._zip.getinfo(_MANIFEST).file_size > _MAX_MANIFEST:
                raise ValueError
            self.about: dict[str, Any] = json.loads(self._zip.read(_MANIFEST))
            known = int(self.about["format"])
        except OSError as error:
            raise InstanceError(f"{file} cannot be read: {error.strerror}") from error
        except _BROKEN:
            raise InstanceError(f"{file} is no backup of keepline, or is damaged") from None
        if known != FORMAT:
            raise InstanceError(f"{file} was written by a newer keepline; upgrade keepline")
        if not _is_manifest(self.about):
            raise InstanceError(f"{file} is no backup of keepline, or is damaged")
        self._members: dict[str, dict[str, Any]] = self.about["members"]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._zip.close()

    def __contains__(self, name: object) -> bool:
        return name in self._members

    def names(self, start: str) -> list[str]:
        """Return the members whose names begin so, sorted."""
        return sorted(name for name in self._members if name.startswith(start))

    def size_bytes(self, name: str) -> int:
        """Return the size that the manifest says a member has, which `check` compares."""
        return int(self._members[name]["size_bytes"])

    def check(self) -> None:
        """Read all of it and compare the checksums; raises InstanceError."""
        for name, said in self._members.items():
            digest, size = hashlib.sha256(), 0
            with self.member(name) as member:
                while size <= said["size_bytes"] and (chunk := member.read(_CHUNK)):
                    digest.update(chunk)
                    size += len(chunk)
            if (digest.hexdigest(), size) != (said["sha256"], said["size_bytes"]):
                raise self._damaged(name)

    @contextmanager
    def member(self, name: str) -> Iterator[IO[bytes]]:
        """Give one member to read.

        Raises InstanceError when it is damaged, or the manifest does not name it.
        """
        if name not in self._members:
            raise InstanceError(f"{self._file} has no {name}: it is no backup, or is damaged")
        try:
            if self._zip.getinfo(name).compress_type not in _COMPRESSED:
                raise self._damaged(name)
            member = self._zip.open(name)
        except (*_BROKEN, RuntimeError):
            raise self._damaged(name) from None
        with member:
            try:
                yield member
            except (zipfile.BadZipFile, zlib.error, EOFError):
                raise self._damaged(name) from None

    def _damaged(self, name: str) -> InstanceError:
        return InstanceError(f"{self._file}: {name} is damaged; use another backup")

    def text(self, name: str) -> str:
        """Return one small member as text; raises InstanceError for one above 4 MiB."""
        with self.member(name) as member:
            data = member.read(_MAX_TEXT + 1)
        if len(data) > _MAX_TEXT:
            raise InstanceError(f"{self._file}: {name} is too large to be what it is called")
        try:
            return data.decode()
        except UnicodeDecodeError:
            raise self._damaged(name) from None

    def extract(self, name: str, path: Path) -> None:
        """Write one member to a new file, for its owner alone, and bring it to the disk.

        Raises InstanceError when there is such a file, which is left as it is, or no room; what
        was begun is removed.
        """
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        with self.member(name) as member:
            size = self._zip.getinfo(name).file_size
            if size > shutil.disk_usage(path.parent).free:
                raise InstanceError(f"there is no room for {path}: it has {size} bytes")
            try:
                descriptor = os.open(path, flags, 0o600)
            except OSError as error:
                raise InstanceError(f"{path} cannot be written: {error.strerror}") from error
            try:
                with os.fdopen(descriptor, "wb") as out:
                    shutil.copyfileobj(member, out, _CHUNK)
                    out.flush()
                    os.fsync(out.fileno())
            except BaseException:
                path.unlink(missing_ok=True)
                raise


def _is_manifest(about: Mapping[str, Any]) -> bool:
    """Return whether a manifest says what a reader needs, whoever wrote it."""
    head, members = about.get("head"), about.get("members")
    return (
        all(isinstance(about.get(name), str) for name in ("kind", "schema", "made_at"))
        and (head is None or (isinstance(head, list) and [*map(type, head)] == [int, str]))
        and isinstance(members, dict)
        and all(
            isinstance(each, dict)
            and isinstance(each.get("sha256"), str)
            and type(each.get("size_bytes")) is int
            for each in members.values()
        )
    )


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
