"""The query modules of an instance."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keepline.query.modules.capture import CaptureModule
from keepline.query.modules.store import (
    archive_module,
    deliveries_module,
    records_module,
    sessions_module,
)
from keepline.sessions import list_instruments

if TYPE_CHECKING:
    from collections.abc import Mapping

    from keepline.capture import CaptureStore
    from keepline.query.module import Module
    from keepline.store.current import Current


#: No group has an empty name: what an unknown instrument measured is for those who see all.
NOBODY = ""


def built_in(instance: Current, capture_store: CaptureStore) -> Mapping[str, Module]:
    """Return the modules that every instance has, by name."""

    def group_of(instrument: str) -> str | None:
        # Asked anew each time: an instrument may be added, or moved to another group.
        groups = {each.name: each.group for each in list_instruments(instance=instance)}
        return groups.get(instrument, NOBODY)

    modules: tuple[Module, ...] = (
        CaptureModule("capture", capture_store, group_of),
        archive_module(instance.store),
        sessions_module(instance.store),
        records_module(instance.store),
        deliveries_module(instance.store),
    )
    return {module.name: module for module in modules}
