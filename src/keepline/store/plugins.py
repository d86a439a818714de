"""Finding back ends by name through entry points, built-in ones too."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any

from keepline.errors import PluginError


def load(kind: str, name: str) -> Any:
    """Return the object that the entry point `name` of the group ``keepline.<kind>`` names.

    Raises PluginError, naming what is installed, when there is none.
    """
    group = entry_points(group=f"keepline.{kind}")
    for entry in group:
        if entry.name == name:
            return entry.load()
    known = ", ".join(sorted(entry.name for entry in group)) or "none"
    raise PluginError(
        f"no {kind.rstrip('s').replace('_', ' ')} called {name!r}; there are: {known}"
    )
