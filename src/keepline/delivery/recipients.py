"""Who gets records: the recipients that keepline.toml declares."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from keepline.config import RecipientSettings, Settings
from keepline.errors import UnknownRecipientError
from keepline.model import Principal, stable_hash

#: In `record_types` and `groups`: all of them.
EVERY = "*"


@dataclass(frozen=True, slots=True)
class Recipient:
    """One recipient: what it may have, and the name of the transport that takes it there.

    `options` are the transport's settings without secrets. `criteria` is a digest of every
    setting except secrets: when it changes, what the recipient should have is looked at anew.
    The name is the recipient's identity: what it was sent is remembered under it.
    """

    name: str
    transport: str
    record_types: tuple[str, ...] = (EVERY,)
    groups: tuple[str, ...] = ()
    options: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    criteria: str = ""

    @property
    def principal(self) -> Principal:
        """Return who asks for the records: the recipient, with its groups' rights."""
        groups = frozenset(self.groups)
        return Principal(self.name, "recipient", groups, sees_all=EVERY in groups)

    def wants(self, record_type: str) -> bool:
        """Return whether the recipient gets records of this type."""
        return EVERY in self.record_types or record_type in self.record_types


def recipients(settings: Settings) -> list[Recipient]:
    """Return every declared recipient, by name."""
    return [_recipient(name, each) for name, each in sorted(settings.recipients.items())]


def recipient(settings: Settings, name: str) -> Recipient:
    """Return the recipient called `name`; raises UnknownRecipientError, naming what exists."""
    return _recipient(name, settings_of(settings, name))


def settings_of(settings: Settings, name: str) -> RecipientSettings:
    """Return the settings, secrets too, of the recipient called `name`.

    Raises UnknownRecipientError, naming what exists.
    """
    found = settings.recipients.get(name)
    if found is None:
        known = ", ".join(sorted(settings.recipients)) or "none"
        raise UnknownRecipientError(f"no recipient {name!r} in keepline.toml; there are: {known}")
    return found


def _recipient(name: str, settings: RecipientSettings) -> Recipient:
    # pydantic writes a secret as asterisks, the same for every secret.
    canonical = json.dumps(settings.model_dump(mode="json"), sort_keys=True)
    options = {"path": settings.path} if settings.path is not None else {}
    return Recipient(
        name=name,
        transport=settings.transport,
        record_types=settings.record_types,
        groups=settings.groups,
        options=MappingProxyType(options),
        criteria=stable_hash(canonical),
    )
