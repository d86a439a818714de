"""Downloads: what people may see, in the format that they use, exact to the last bit."""

from __future__ import annotations

from keepline.downloads.exporter import (
    DownloadResult,
    TaskCollectionExporter,
    XlsxExporter,
    download,
    make_exporter,
)
from keepline.downloads.options import DownloadOptions

__all__ = [
    "DownloadOptions",
    "DownloadResult",
    "TaskCollectionExporter",
    "XlsxExporter",
    "download",
    "make_exporter",
]
