"""The command line. Loading it loads nothing else of keepline."""

from __future__ import annotations

import sys

# Each module adds its commands to the root when it is loaded; their order is that of --help.
try:
    from keepline.cli import (  # noqa: F401
        archives,
        backups,
        captures,
        deliveries,
        demos,
        ingests,
        instances,
        queries,
        record_checks,
        record_edit,
        record_files,
        record_types,
        records,
        subjects,
    )
    from keepline.cli.root import main
except KeyboardInterrupt:  # loading takes long enough for an early Ctrl-C
    sys.stderr.write("keepline: interrupted\n")
    sys.exit(130)

__all__ = ["main"]
