"""What was taken, by whom: a row a download, and one for each record in it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from itertools import islice
from types import TracebackType
from typing import Any, Self

import sqlalchemy as sa

from keepline.downloads.options import DownloadOptions
from keepline.model import Principal, RecordImage, utc_now
from keepline.store import Store
from keepline.store.tables.downloads import download, download_record

_BATCH = 5_000


class Taken:
    """The records that went into a download, kept on disk until they are logged."""

    def __enter__(self) -> Self:
        self._file = tempfile.TemporaryFile("w+", encoding="ascii")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def add(self, image: RecordImage) -> None:
        """Note one record."""
        self._file.write(json.dumps([image.type.name, image.key, image.revision]) + "\n")

    def log(
        self,
        store: Store,
        principal: Principal,
        options: DownloadOptions,
        *,
        filename: str,
        size_bytes: int,
        sha256: str,
    ) -> int:
        """Write the audit in one transaction; return the download's number."""
        with store.write(principal) as connection:
            number: int = connection.execute(
                sa.insert(download)
                .values(
                    who=principal.name,
                    made_at=utc_now(),
                    filename=filename,
                    size_bytes=size_bytes,
                    sha256=sha256,
                    options=options.to_json(),
                )
                .returning(download.c.id)
            ).scalar_one()
            rows = self._rows(number)
            while batch := list(islice(rows, _BATCH)):
                connection.execute(sa.insert(download_record), batch)
        return number

    def _rows(self, number: int) -> Iterator[dict[str, Any]]:
        self._file.seek(0)
        for line in self._file:
            record_type, key, revision = json.loads(line)
            yield {
                "download_id": number,
                "record_type": record_type,
                "record_key": key,
                "revision": revision,
            }
