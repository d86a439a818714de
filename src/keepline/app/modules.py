"""The query modules of an instance, found by their entry points.

An entry point of the group ``keepline.query_modules`` names a function that takes the instance
and returns a module; its name is the one that queries use. The ones below are found so too.
"""

from __future__ import annotations

import logging
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Protocol

from keepline.model import Principal
from keepline.query.modules import store as of_store
from keepline.query.modules.capture import CaptureModule
from keepline.query.modules.readings import ReadingsModule
from keepline.sessions import list_instruments
from keepline.store.current import Current

if TYPE_CHECKING:
    from collections.abc import Mapping

    from keepline.capture import CaptureStore
    from keepline.query.module import Module

_log = logging.getLogger(__name__)

#: No group has an empty name: what an unknown instrument measured is for those who see all.
NOBODY = ""


class Parts(Current, Protocol):
    """What a module may be made from."""

    @property
    def capture_store(self) -> CaptureStore: ...


def installed(instance: Parts) -> Mapping[str, Module]:
    """Return every installed module by name.

    One that cannot be made is left out with a warning in the log, and the others are there.
    """
    modules: dict[str, Module] = {}
    for entry in sorted(entry_points(group="keepline.query_modules"), key=lambda e: e.name):
        try:
            modules[entry.name] = entry.load()(instance)
        except Exception as error:  # whatever a plug-in raises concerns its own module alone
            _log.warning("the query module %r cannot be made: %s", entry.name, error)
    return modules


def capture(instance: Parts) -> Module:
    """Return the live capture sessions."""

    def group_of(instrument: str) -> str | None:
        # Asked anew each time: an instrument may be added, or moved to another group.
        groups = {each.name: each.group for each in list_instruments(instance=instance)}
        return groups.get(instrument, NOBODY)

    return CaptureModule("capture", instance.capture_store, group_of)


def archive(instance: Parts) -> Module:
    """Return the archive's sessions, channels, block statistics, gaps and small tables."""
    return of_store.archive_module(instance.store)


def readings(instance: Parts) -> Module:
    """Return the archived readings themselves, of every capture store there ever was."""
    from keepline.capture.archive.readings import ArchiveReader

    # Not the instance's archive: that would need its capture store, which may be away.
    return ReadingsModule(
        "readings", ArchiveReader(instance.store, "", principal=Principal.system())
    )


def sessions(instance: Parts) -> Module:
    """Return the session log."""
    return of_store.sessions_module(instance.store)


def records(instance: Parts) -> Module:
    """Return the records of every type."""
    return of_store.records_module(instance.store)


def deliveries(instance: Parts) -> Module:
    """Return the sent log and the backlog."""
    return of_store.deliveries_module(instance.store)
