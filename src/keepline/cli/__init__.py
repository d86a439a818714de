"""The command line. Loading it loads nothing else of keepline."""

from __future__ import annotations

# Each module adds its commands to the root when it is loaded; their order is that of --help.
from keepline.cli import (  # noqa: F401
    archives,
    captures,
    deliveries,
    demos,
    ingests,
    instances,
    queries,
    records,
)
from keepline.cli.root import main

__all__ = ["main"]
