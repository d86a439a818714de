"""Who asks, what is used, and names made of several parts."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody who asks: a user, a token, a recipient, or the system itself.

    `groups` are the groups whose rows it may see; `sees_all` lifts that limit.
    """

    name: str
    kind: Literal["user", "token", "recipient", "system"] = "user"
    groups: frozenset[str] = frozenset()
    sees_all: bool = False

    @classmethod
    def system(cls, name: str = "keepline") -> Principal:
        """Return the principal of keepline's own work, which sees everything."""
        return cls(name, "system", sees_all=True)


@dataclass(frozen=True, slots=True)
class Instrument:
    """A device whose use is logged. `tz` is the IANA zone of its local clock."""

    name: str
    tz: str = "UTC"
    group: str | None = None
    comment: str = ""


def stable_hash(*parts: str) -> str:
    """Return the SHA-256 (hex) of the parts, so that no two lists of parts share one."""
    digest = hashlib.sha256()
    for part in parts:
        encoded = part.encode()
        digest.update(len(encoded).to_bytes(8, "little"))
        digest.update(encoded)
    return digest.hexdigest()
