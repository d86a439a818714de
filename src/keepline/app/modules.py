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

    from keepline.app.instance import Instance
    from keepline.query.module import Module


def built_in(instance: Instance) -> Mapping[str, Module]:
    """Return the modules that every instance has, by name."""
    groups = {each.name: each.group for each in list_instruments(instance=instance)}
    modules: tuple[Module, ...] = (
        CaptureModule("capture", instance.capture_store, groups.get),
        archive_module(instance.store),
        sessions_module(instance.store),
        records_module(instance.store),
        deliveries_module(instance.store),
    )
    return {module.name: module for module in modules}
