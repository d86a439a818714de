"""Making a download: pages into a file, with its manifest and its audit."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

from keepline.downloads.audit import Taken
from keepline.downloads.format import Format, WrittenPage
from keepline.downloads.options import DownloadOptions
from keepline.downloads.pages import Column, pages
from keepline.errors import DownloadError, PluginError, UnknownFormatError
from keepline.model import Principal, utc_now
from keepline.render.json import dumps
from keepline.store import plugins
from keepline.store.current import Current, current

_READ_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class DownloadResult:
    """A finished download: its file, the file's SHA-256, and the rows of each page.

    `manifest` is the file beside it that says what is in it, who made it and when.
    """

    path: Path
    sha256: str
    size_bytes: int
    rows: dict[str, int]
    manifest: Path


@dataclass(frozen=True, slots=True)
class _Made:
    """What is known of a file once it is whole."""

    filename: str
    made_at: datetime
    sha256: str
    size_bytes: int
    pages: list[WrittenPage]
    columns: Mapping[str, tuple[Column, ...]]


class TaskCollectionExporter:
    """Provides the records that `principal` may see as a file, made anew at each use.

    A file shows the database at one moment. Every use is audited, with each record that it
    holds, before anybody has the file. Without a principal keepline itself asks, which sees
    everything. Raises UnknownFormatError for a `viewtype` that is not installed.
    """

    def __init__(
        self,
        options: DownloadOptions,
        *,
        principal: Principal | None = None,
        instance: Current | None = None,
    ) -> None:
        self.options = options
        self._format = _format(options.viewtype)
        self._principal = principal or Principal.system()
        self._store = current(instance).store
        self._made_at = utc_now()

    def get_filename(self) -> str:
        """Return the download's file name: keepline, the time in UTC, the format's suffix."""
        return f"keepline_{self._made_at:%Y%m%dT%H%M%S.%fZ}{self._format.suffix}"

    def get_file_body(self) -> bytes:
        """Return the file's bytes, whole in memory; `write` holds only a part of them."""
        with tempfile.TemporaryFile() as file:
            self._make(file, self.get_filename())
            file.seek(0)
            return file.read()

    def to_file(self) -> tuple[str, bytes]:
        """Return the file's name and its bytes."""
        return self.get_filename(), self.get_file_body()

    def write(self, path: Path | str) -> DownloadResult:
        """Write the file, whole or not at all, and its manifest; an old file is kept.

        Missing folders are made; nobody but the caller may read the file. Raises DownloadError
        when the file cannot be written, exists, or its format cannot hold a value.
        """
        path = Path(path)
        manifest = path.with_name(f"{path.name}.manifest.json")
        with _told(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists():
                raise DownloadError(f"{path} exists; choose another name or remove it")
            with _beside(path) as file:
                made = self._make(file, path.name)
                # The manifest first: no file is ever without one.
                with _beside(manifest) as about:
                    about.write((dumps(self._manifest(made), indent=2) + "\n").encode())
        return DownloadResult(
            path=path,
            sha256=made.sha256,
            size_bytes=made.size_bytes,
            rows={page.name: page.rows for page in made.pages},
            manifest=manifest,
        )

    def _make(self, file: BinaryIO, filename: str) -> _Made:
        """Fill `file` and log what was taken."""
        with Taken() as taken:
            with self._store.read() as connection:
                contents = pages(connection, self._principal, self.options, taken.add)
                written = self._format.write(contents, file)
            file.flush()
            made = _Made(
                filename=filename,
                made_at=self._made_at,
                sha256=_sha256(file),
                size_bytes=file.seek(0, os.SEEK_END),
                pages=written,
                columns={page.name: page.columns for page in contents},
            )
            taken.log(
                self._store,
                self._principal,
                self.options,
                filename=filename,
                size_bytes=made.size_bytes,
                sha256=made.sha256,
            )
        return made

    def _manifest(self, made: _Made) -> dict[str, Any]:
        return {
            "file": made.filename,
            "format": self.options.viewtype,
            "media_type": self._format.media_type,
            "sha256": made.sha256,
            "size_bytes": made.size_bytes,
            "made_at": made.made_at,
            "made_by": self._principal.name,
            "options": self.options.to_json(),
            "pages": [
                {**asdict(page), "columns": [asdict(each) for each in made.columns[page.name]]}
                for page in made.pages
            ],
        }


class XlsxExporter(TaskCollectionExporter):
    """Provides records as an XLSX file, whatever `viewtype` the options name."""

    def __init__(
        self,
        options: DownloadOptions,
        *,
        principal: Principal | None = None,
        instance: Current | None = None,
    ) -> None:
        super().__init__(replace(options, viewtype="xlsx"), principal=principal, instance=instance)


def make_exporter(
    options: DownloadOptions,
    *,
    principal: Principal | None = None,
    instance: Current | None = None,
) -> TaskCollectionExporter:
    """Return the exporter for the format that the options name; raises UnknownFormatError."""
    kind = XlsxExporter if options.viewtype == "xlsx" else TaskCollectionExporter
    return kind(options, principal=principal, instance=instance)


def download(
    *,
    format: str = "xlsx",
    directory: Path | str,
    options: DownloadOptions | None = None,
    principal: Principal | None = None,
    instance: Current | None = None,
) -> DownloadResult:
    """Write what `principal` may see into a new file in `directory`, with its manifest.

    `format` counts, whatever the options' viewtype. Raises DownloadError, UnknownFormatError or
    UnknownRecordTypeError.
    """
    chosen = replace(options or DownloadOptions(), viewtype=format)
    exporter = make_exporter(chosen, principal=principal, instance=instance)
    return exporter.write(Path(directory) / exporter.get_filename())


def _format(viewtype: str) -> Format:
    try:
        kind: type[Format] = plugins.load("formats", viewtype)
    except PluginError as error:
        raise UnknownFormatError(str(error)) from None
    return kind()


def _sha256(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    file.seek(0)
    while part := file.read(_READ_BYTES):
        digest.update(part)
    return digest.hexdigest()


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DownloadError(f"{path} cannot be written: {error.strerror}") from error


@contextmanager
def _beside(path: Path) -> Iterator[BinaryIO]:
    """Give a temporary file that becomes `path` at the end of the block, or is removed."""
    descriptor, name = tempfile.mkstemp(prefix=".keepline-", suffix=".part", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
