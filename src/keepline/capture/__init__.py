"""Readings: taking them in without losing one, and keeping them in the archive.

Names are loaded when they are first used, so that a recorder loads no archive.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keepline.capture.archive import Archive, ArchiveResult
    from keepline.capture.decoders import CsvDecoder, Decoded, Decoder, JsonDecoder
    from keepline.capture.readings import Overlap, Reading, Variable, overlaps
    from keepline.capture.recovery import recover
    from keepline.capture.replay import ReplayResult, replay_csv
    from keepline.capture.server import CaptureServer
    from keepline.capture.sqlite_store import SqliteCaptureStore
    from keepline.capture.store import CaptureStore, StreamWriter

_HOMES = {
    "Archive": "keepline.capture.archive",
    "ArchiveResult": "keepline.capture.archive",
    "CaptureServer": "keepline.capture.server",
    "CaptureStore": "keepline.capture.store",
    "CsvDecoder": "keepline.capture.decoders",
    "Decoded": "keepline.capture.decoders",
    "Decoder": "keepline.capture.decoders",
    "JsonDecoder": "keepline.capture.decoders",
    "Overlap": "keepline.capture.readings",
    "Reading": "keepline.capture.readings",
    "ReplayResult": "keepline.capture.replay",
    "SqliteCaptureStore": "keepline.capture.sqlite_store",
    "StreamWriter": "keepline.capture.store",
    "Variable": "keepline.capture.readings",
    "overlaps": "keepline.capture.readings",
    "recover": "keepline.capture.recovery",
    "replay_csv": "keepline.capture.replay",
}

__all__ = [
    "Archive",
    "ArchiveResult",
    "CaptureServer",
    "CaptureStore",
    "CsvDecoder",
    "Decoded",
    "Decoder",
    "JsonDecoder",
    "Overlap",
    "Reading",
    "ReplayResult",
    "SqliteCaptureStore",
    "StreamWriter",
    "Variable",
    "overlaps",
    "recover",
    "replay_csv",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'keepline.capture' has no attribute {name!r}")
    return getattr(importlib.import_module(home), name)
