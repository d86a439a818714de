"""A record as text that people and programs read."""

from __future__ import annotations

from keepline.render.json import dumps, record_json, record_value

__all__ = ["dumps", "record_json", "record_value"]
