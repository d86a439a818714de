"""The SQL store: engine, tables, migrations, triggers, current instance, access."""

from __future__ import annotations

from keepline.store.engine import Store

__all__ = ["Store"]
