"""The fixed SQL tables, one file a capability; only that capability writes them."""

from __future__ import annotations

import sqlalchemy as sa

from keepline.store.tables import capture, common, delivery, downloads, records, sessions
from keepline.store.tables.metadata import metadata

#: The rows of every closed set.
LOOKUP_ROWS: dict[sa.Table, tuple[str, ...]] = {
    **capture.ROWS,
    **sessions.ROWS,
    **records.ROWS,
    **delivery.ROWS,
}

__all__ = [
    "LOOKUP_ROWS",
    "capture",
    "common",
    "delivery",
    "downloads",
    "metadata",
    "records",
    "sessions",
]
