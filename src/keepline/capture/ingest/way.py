"""What a way in is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from keepline.capture.ingest.feeder import Feeder


class Way(Protocol):
    """Takes messages from somewhere outside and puts them into a feeder's sources."""

    @property
    def acknowledges(self) -> bool:
        """Return whether it tells every client that its messages are safe: they have to be."""

    async def prepare(self) -> str:
        """Take hold of the port or device and return its address; no message is taken yet.

        Raises IngestError when that is not possible.
        """

    async def open(self, feeder: Feeder) -> None:
        """Begin to take messages."""

    async def close(self) -> None:
        """Take no more. What was taken before is in the feeder's sources or its quarantine.

        May be called at any time, and again.
        """
