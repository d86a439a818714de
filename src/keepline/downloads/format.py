"""What a file format must offer, as the exporter needs it.

A format is found by name through the entry points ``keepline.formats``; the entry is a class
that is made without arguments.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import BinaryIO, Protocol

from keepline.downloads.pages import Page


@dataclass(frozen=True, slots=True)
class WrittenPage:
    """What became of a page: its rows without heading, and the names of its parts in the file."""

    name: str
    rows: int
    parts: tuple[str, ...]


class Format(Protocol):
    """A file format; holds no page whole, and gives the same bytes for the same pages."""

    @property
    def suffix(self) -> str:
        """The end of a file's name, with its dot."""
        ...

    @property
    def media_type(self) -> str:
        """The MIME type."""
        ...

    def write(self, pages: Iterable[Page], file: BinaryIO) -> list[WrittenPage]:
        """Write the pages, in order, into a file that can be written, read and sought.

        Raises DownloadError, naming page and cell, for what the format cannot hold.
        """
        ...
