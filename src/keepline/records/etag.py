"""Entity tags of records: which state of which life of a record somebody has (RFC 9110, 8.8.3).

A tag holds the instance's epoch, since a restore brings old tokens back.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote, unquote

#: One entry of If-Match: a tag in its quotes, with W/ before it when it is a weak one.
_ENTRY = re.compile(r'(W/)?"([\x21\x23-\x7e]*)"')


@dataclass(frozen=True, slots=True)
class ETag:
    """A record's state: the strong tag ``"epoch.table.key.born.rev"``.

    The key is percent-encoded, its points too, so that any key gives a valid header. It is no
    secret and no permission: a reader still has to see the record.
    """

    epoch: str
    table: str
    key: str
    born: int
    rev: int

    def __str__(self) -> str:
        key = quote(self.key, safe="").replace(".", "%2E")
        return f'"{self.epoch}.{self.table}.{key}.{self.born}.{self.rev}"'

    @classmethod
    def parse(cls, text: str) -> ETag | None:
        """Return the tag that `text` is; None for a weak one, or one of somebody else's."""
        found = _ENTRY.fullmatch(text.strip())
        if found is None or found[1]:
            return None
        parts = found[2].split(".")
        if len(parts) != 5 or not all(part.isascii() and part.isdigit() for part in parts[3:]):
            return None
        epoch, table, key, born, rev = parts
        tag = cls(epoch, table, unquote(key), int(born), int(rev))
        return tag if str(tag) == text.strip() else None


def matches(header: str, tag: ETag | None) -> bool:
    """Return whether the If-Match header lets a change of the record with `tag` pass.

    ``*`` lets any record pass that is there; else one of the listed tags has to be the same,
    and strong. `tag` is None for a record that is not there.
    """
    if tag is None:
        return False
    if header.strip() == "*":
        return True
    return any(not weak and f'"{opaque}"' == str(tag) for weak, opaque in _ENTRY.findall(header))
