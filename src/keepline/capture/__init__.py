"""Readings: taking them in without losing one, and keeping them in the archive.

Names are loaded when they are first used, so that a recorder loads no archive.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keepline.capture.archive.archive import Archive, ArchiveResult
    from keepline.capture.archive.models import Cache, Category, Config, ListedSession, Notification
    from keepline.capture.archive.overlaps import Overlap, overlaps
    from keepline.capture.archive.overview import Overview
    from keepline.capture.archive.readings import Reading, Variable
    from keepline.capture.declaration import read_declaration, stream_spec
    from keepline.capture.decoders.csv_lines import CsvDecoder
    from keepline.capture.decoders.decoder import Decoded, Decoder
    from keepline.capture.decoders.json_lines import JsonDecoder
    from keepline.capture.draining import Drained, drain_spool
    from keepline.capture.recovery import recover
    from keepline.capture.replaying.replay import ReplayResult, replay_csv
    from keepline.capture.server import CaptureServer
    from keepline.capture.spool import Spool
    from keepline.capture.store import CaptureStore, StreamWriter
    from keepline.capture.stores.redis import RedisCaptureStore
    from keepline.capture.stores.sqlite import SqliteCaptureStore
    from keepline.capture.tail import Tail

_HOMES = {
    "Archive": "keepline.capture.archive.archive",
    "ArchiveResult": "keepline.capture.archive.archive",
    "Cache": "keepline.capture.archive.models",
    "CaptureServer": "keepline.capture.server",
    "CaptureStore": "keepline.capture.store",
    "Category": "keepline.capture.archive.models",
    "Config": "keepline.capture.archive.models",
    "CsvDecoder": "keepline.capture.decoders.csv_lines",
    "Decoded": "keepline.capture.decoders.decoder",
    "Decoder": "keepline.capture.decoders.decoder",
    "Drained": "keepline.capture.draining",
    "JsonDecoder": "keepline.capture.decoders.json_lines",
    "ListedSession": "keepline.capture.archive.models",
    "Notification": "keepline.capture.archive.models",
    "Overlap": "keepline.capture.archive.overlaps",
    "Overview": "keepline.capture.archive.overview",
    "Reading": "keepline.capture.archive.readings",
    "RedisCaptureStore": "keepline.capture.stores.redis",
    "ReplayResult": "keepline.capture.replaying.replay",
    "Spool": "keepline.capture.spool",
    "SqliteCaptureStore": "keepline.capture.stores.sqlite",
    "StreamWriter": "keepline.capture.store",
    "Tail": "keepline.capture.tail",
    "Variable": "keepline.capture.archive.readings",
    "drain_spool": "keepline.capture.draining",
    "overlaps": "keepline.capture.archive.overlaps",
    "read_declaration": "keepline.capture.declaration",
    "recover": "keepline.capture.recovery",
    "replay_csv": "keepline.capture.replaying.replay",
    "stream_spec": "keepline.capture.declaration",
}

__all__ = [
    "Archive",
    "ArchiveResult",
    "Cache",
    "CaptureServer",
    "CaptureStore",
    "Category",
    "Config",
    "CsvDecoder",
    "Decoded",
    "Decoder",
    "Drained",
    "JsonDecoder",
    "ListedSession",
    "Notification",
    "Overlap",
    "Overview",
    "Reading",
    "RedisCaptureStore",
    "ReplayResult",
    "Spool",
    "SqliteCaptureStore",
    "StreamWriter",
    "Tail",
    "Variable",
    "drain_spool",
    "overlaps",
    "read_declaration",
    "recover",
    "replay_csv",
    "stream_spec",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'keepline.capture' has no attribute {name!r}")
    return getattr(importlib.import_module(home), name)
