"""What an erasure means for the audit of downloads: it stays, without naming the subject."""

from __future__ import annotations

import json
from collections.abc import Mapping

import sqlalchemy as sa

from keepline.store.erasing import Scope, of_past, of_records, rename_keys
from keepline.store.tables.downloads import download, download_record


class DownloadErasing:
    """The share of downloads in an erasure; see `keepline.store.erasing.Part`."""

    def erase(self, connection: sa.Connection, scope: Scope) -> Mapping[str, int]:
        """Rename keys in the lists of records; take the identifier out of the other columns."""
        query = sa.select(download.c.id, download.c.who, download.c.filename, download.c.options)
        for row in connection.execute(query).all():
            changed: dict[str, object] = {}
            for column in ("who", "filename"):
                if scope.mentions.in_text(getattr(row, column)):
                    changed[column] = scope.name
            if scope.mentions.in_text(json.dumps(row.options, ensure_ascii=False)):
                changed["options"] = {}
            if changed:
                connection.execute(
                    sa.update(download).where(download.c.id == row.id).values(**changed)
                )
        rename_keys(connection, download_record, scope)
        return {}

    def out_of_reach(self, connection: sa.Connection, scope: Scope) -> list[str]:
        """Name the downloads that hold the subject's records: by whom and when."""
        query = (
            sa.select(download.c.id, download.c.who, download.c.made_at, sa.func.count())
            .join(download_record, download_record.c.download_id == download.c.id)
            .where(sa.or_(of_records(download_record, scope.keys), of_past(download_record, scope)))
            .group_by(download.c.id, download.c.who, download.c.made_at)
            .order_by(download.c.id)
        )
        return [
            f"download {number}, made by "
            f"{scope.name if scope.mentions.in_text(who) else who} at "
            f"{made:%Y-%m-%d %H:%M:%S}Z, has {count} of the records"
            for number, who, made, count in connection.execute(query)
        ]
