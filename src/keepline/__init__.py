"""keepline: a data backbone for instruments, test benches and research clinics.

    reading -> session -> record -> query -> delivery

Names are loaded when they are first used; importing the package loads no heavy library.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keepline.app.instance import Instance, init_instance, open_instance
    from keepline.capture import Archive, CaptureServer
    from keepline.records import BusinessObject
    from keepline.sessions import Session, SessionLog, get_sessions_to_build

__version__ = "0.1.0"

_HOMES = {
    "Instance": "keepline.app.instance",
    "init_instance": "keepline.app.instance",
    "open_instance": "keepline.app.instance",
    "Archive": "keepline.capture",
    "CaptureServer": "keepline.capture",
    "BusinessObject": "keepline.records",
    "Session": "keepline.sessions",
    "SessionLog": "keepline.sessions",
    "get_sessions_to_build": "keepline.sessions",
}

__all__ = [
    "Archive",
    "BusinessObject",
    "CaptureServer",
    "Instance",
    "Session",
    "SessionLog",
    "__version__",
    "get_sessions_to_build",
    "init_instance",
    "open_instance",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'keepline' has no attribute {name!r}")
    return getattr(importlib.import_module(home), name)
