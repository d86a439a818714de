"""What a person wants of a download."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

#: In `record_types`: all of them.
EVERY = "*"


@dataclass(frozen=True, slots=True)
class DownloadOptions:
    """The choices for one download.

    viewtype
        Name of the file's format, such as ``xlsx``.
    delivery_mode
        How it reaches the person: at once.
    record_types
        Names of the record types to take; ``*`` stands for all.
    spreadsheet_simplified
        Leave out the pages of sub-tables, and the columns for revision, group and finalised.
    spreadsheet_sort_by_heading
        Sort the columns of each page by name, instead of in the declared order.
    include_information_schema_columns
        Add a page that describes the database's columns.
    include_summary_schema
        Add a page that explains the columns of the other pages: type, unit, comment.
    """

    viewtype: str = "xlsx"
    delivery_mode: Literal["immediate"] = "immediate"
    record_types: tuple[str, ...] = (EVERY,)
    spreadsheet_simplified: bool = False
    spreadsheet_sort_by_heading: bool = False
    include_information_schema_columns: bool = True
    include_summary_schema: bool = True

    def to_json(self) -> dict[str, Any]:
        """Return the options as plain JSON values."""
        return asdict(self)
