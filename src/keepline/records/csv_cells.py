"""What the cells of a CSV file say: one text after the other, read as a field's type."""

from __future__ import annotations

import re
import warnings
import zoneinfo
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from typing import Any

from keepline.errors import InvalidRecordError, RecordError
from keepline.model import Field
from keepline.records.json_values import read_json, typed_value
from keepline.records.values import checked

_INTEGER = re.compile(r"[+-]?[0-9]{1,40}")
_REAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_SWAPPED = str.maketrans(".,", ",.")
_BOOLEANS = {
    **dict.fromkeys(("true", "t", "yes", "y", "1"), True),
    **dict.fromkeys(("false", "f", "no", "n", "0"), False),
}

#: A time that each usable format says and reads again.
_SAMPLE = datetime(2026, 11, 22, 15, 4, 5, tzinfo=UTC)


class Cells:
    """Reads cells: `tz` is the zone of times without one, the formats are strptime's.

    `decimal` is a point or a comma; `true` and `false` are words for booleans beside the
    English ones, in letters of any size. Raises RecordError for a zone that is not there, a
    format that says no whole date, another `decimal`, and a word for both.
    """

    def __init__(
        self,
        tz: str | None = None,
        date_format: str | None = None,
        time_format: str | None = None,
        *,
        decimal: str = ".",
        true: Sequence[str] = (),
        false: Sequence[str] = (),
    ) -> None:
        self._zone = None if tz is None else _zone(tz)
        self._date_format = _format("--date-format", date_format, "%d.%m.%Y")
        self._time_format = _format("--time-format", time_format, "'%d.%m.%Y %H:%M'")
        if decimal not in (".", ","):
            raise RecordError("--decimal is a point or a comma")
        self._decimal = decimal
        self._booleans = _words(true, false)

    def value(self, known: Field, cell: str) -> Any:
        """Return a cell as its field keeps it, None when it is empty.

        Raises InvalidRecordError, which does not say what the cell holds.
        """
        text = cell if known.type == "text" else cell.strip()
        return checked(known, _READERS[known.type](self, known, text) if text else None)

    def _integer(self, known: Field, text: str) -> int:
        if not _INTEGER.fullmatch(text):
            raise InvalidRecordError(f"{known.name} takes a whole number")
        return int(text)

    def _real(self, known: Field, text: str) -> float:
        swapped = text.translate(_SWAPPED)
        said = swapped if self._decimal == "," else text
        if _REAL.fullmatch(said):
            return float(said)
        if _REAL.fullmatch(swapped) or _REAL.fullmatch(text):
            mark, other = ("point", ",") if self._decimal == "." else ("comma", ".")
            raise InvalidRecordError(
                f"{known.name} takes a number with a decimal {mark}; or say --decimal {other}"
            )
        return float(typed_value(known, text))

    def _boolean(self, known: Field, text: str) -> bool:
        try:
            return self._booleans[text.casefold()]
        except KeyError:
            raise InvalidRecordError(
                f"{known.name} takes true or false; name other words with --true and --false"
            ) from None

    def _date(self, known: Field, text: str) -> date:
        form = self._date_format
        try:
            if form is None:
                return date.fromisoformat(text)
            return datetime.strptime(text, form).date()  # noqa: DTZ007 - a date has no zone
        except ValueError:
            raise InvalidRecordError(
                f"{known.name} takes a date as {form or '2026-03-02'}"
            ) from None

    def _datetime(self, known: Field, text: str) -> datetime:
        form = self._time_format
        try:
            # The zone of a time without one is asked for below.
            read = datetime.fromisoformat if form is None else _strptime(form)
            moment = read(text)
            return moment.astimezone(UTC) if moment.tzinfo else self._local(known, moment)
        except (ValueError, OverflowError):
            raise InvalidRecordError(
                f"{known.name} takes a time as {form or '2026-03-02T10:00:00'}"
            ) from None

    def _local(self, known: Field, moment: datetime) -> datetime:
        if self._zone is None:
            raise InvalidRecordError(f"{known.name} needs a zone: name it with --tz")
        first, second = (
            moment.replace(tzinfo=self._zone, fold=fold).astimezone(UTC) for fold in (0, 1)
        )
        if first != second:
            happened = "never showed" if second < first else "showed twice"
            raise InvalidRecordError(
                f"{known.name} is a time that a clock in {self._zone.key} {happened}; "
                "write its offset"
            )
        return first

    def _json(self, known: Field, text: str) -> Any:
        try:
            return read_json(text)
        except ValueError:
            raise InvalidRecordError(f"{known.name} takes JSON") from None

    def _text(self, known: Field, text: str) -> str:
        return text

    def _blob(self, known: Field, text: str) -> Any:
        return typed_value(known, text)


def _strptime(form: str) -> Callable[[str], datetime]:
    return lambda text: datetime.strptime(text, form)  # noqa: DTZ007 - checked by the caller


def _format(option: str, form: str | None, example: str) -> str | None:
    """Return a format by which a date is read as it was written; raises RecordError."""
    try:
        # Python 3.13 warns of a date without a year, which is refused here anyway.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            whole = form is None or _strptime(form)(_SAMPLE.strftime(form)).date() == _SAMPLE.date()
        if whole:
            return form
    except ValueError:
        pass
    raise RecordError(
        f"{option} says the day, month and year by %, such as {example}; {form!r} does not"
    )


def _words(true: Sequence[str], false: Sequence[str]) -> dict[str, bool]:
    words = dict(_BOOLEANS)
    for given, meaning in ((true, True), (false, False)):
        for word in given:
            if not word.strip() or words.setdefault(word.strip().casefold(), meaning) != meaning:
                raise RecordError(f"{word!r} cannot be a word for {str(meaning).lower()}")
    return words


def _zone(name: str) -> zoneinfo.ZoneInfo:
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise RecordError(
            f"there is no time zone {name!r}; give an IANA name such as UTC or Europe/Berlin"
        ) from None


_READERS: dict[str, Any] = {
    "text": Cells._text,
    "integer": Cells._integer,
    "real": Cells._real,
    "boolean": Cells._boolean,
    "date": Cells._date,
    "datetime": Cells._datetime,
    "json": Cells._json,
    "blob": Cells._blob,
}
