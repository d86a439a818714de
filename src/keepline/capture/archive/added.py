"""Readings that are added by hand: new blocks of the source "added", beside what was captured.

Nothing that is there is reordered or overwritten. A channel keeps the type that its first
value had.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from keepline.capture.archive.blocking import MAX_CELLS, MAX_READINGS
from keepline.capture.archive.blocks import CODEC, Block, encode
from keepline.capture.archive.column_values import NUMPY_TYPES
from keepline.capture.archive.models import storable_name
from keepline.capture.archive.readings import ADDED, Reading, Value
from keepline.capture.archive.statistics import statistics
from keepline.capture.decoders.decoder import Column
from keepline.errors import CaptureError
from keepline.model import DType, to_us
from keepline.store.tables import capture as tables

_EXACT = 2**53  # beyond this not every whole number is a float64
_INT64 = 2**63


@dataclass
class _Rows:
    """Readings of one block, of which those at one time may share a row."""

    first_seq: int
    times_us: list[int] = field(default_factory=list)
    cells: list[dict[str, Value]] = field(default_factory=list)
    readings: int = 0
    names: set[str] = field(default_factory=set)

    def add(self, name: str, time_us: int, value: Value) -> int | None:
        """Take a reading and return its number, or None when the block has no room for it."""
        shares = bool(self.cells) and self.times_us[-1] == time_us and name not in self.cells[-1]
        rows, columns = len(self.cells) + (not shares), len(self.names | {name})
        if self.readings and (self.readings >= MAX_READINGS or rows * columns > MAX_CELLS):
            return None
        if not shares:
            self.times_us.append(time_us)
            self.cells.append({})
        self.cells[-1][name] = value
        self.names.add(name)
        self.readings += 1
        return self.last_seq

    @property
    def last_seq(self) -> int:
        return self.first_seq + len(self.cells) - 1


def add_readings(
    connection: sa.Connection, session_id: int, session_name: str, readings: Sequence[Reading]
) -> list[Reading]:
    """Add readings of one session and return them with their numbers, in the order given.

    They become one block, or more when they are too many for one; in the transaction of
    `connection`.

    Raises:
        CaptureError: a reading has a number already, a value does not fit its channel's type,
            or what was captured has a source called "added" itself.
    """
    following = _begin(connection, session_id)
    values = [_checked(each) for each in readings]
    types = _types(connection, session_id, readings, values)
    added: list[Reading] = []
    blocks = [_Rows(following)]
    for each, value in zip(readings, values, strict=True):
        entry = each.channel, to_us(each.at), _as(types[each.channel], value, each.channel)
        seq = blocks[-1].add(*entry)
        if seq is None:
            blocks.append(_Rows(blocks[-1].last_seq + 1))
            seq = blocks[-1].add(*entry)
        added.append(Reading(session_name, each.channel, each.at, entry[2], ADDED, seq))
    ids = _channel_ids(connection, session_id, types)
    for rows in blocks:
        _insert(connection, session_id, rows, types, ids)
    _advance(connection, session_id, blocks)
    return added


def _begin(connection: sa.Connection, session_id: int) -> int:
    """Return the number of the next message of the source "added", which is locked."""
    stream = tables.stream
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    connection.execute(
        dialect.insert(stream)
        .values(
            session_id=session_id, source=ADDED, decoder=ADDED, options={}, messages=0,
            readings=0, quarantined=0, lost=0,
        )
        .on_conflict_do_nothing()
    )  # fmt: skip
    query = sa.select(stream.c.messages, stream.c.decoder).where(
        stream.c.session_id == session_id, stream.c.source == ADDED
    )
    row = connection.execute(query.with_for_update()).one()
    if row.decoder != ADDED:
        raise CaptureError(
            f"the session captured a source called {ADDED!r} itself; readings cannot be added"
        )
    return int(row.messages)


def _checked(reading: Reading) -> Value:
    if reading.seq is not None or reading.source != ADDED:
        raise CaptureError("a reading that was read back cannot be added; leave out its source")
    value = reading.value
    storable_name(reading.channel)
    if not isinstance(value, int | float | bool | str):
        raise CaptureError(f"a value is a number, truth or text, not {type(value).__name__}")
    if isinstance(value, float) and math.isnan(value):
        raise CaptureError("NaN is no value; leave the reading out")
    if isinstance(value, int) and not -_INT64 <= value < _INT64:
        raise CaptureError("a whole number has at most 64 bits")
    return value


def _types(
    connection: sa.Connection,
    session_id: int,
    readings: Sequence[Reading],
    values: Sequence[Value],
) -> dict[str, DType]:
    """Return the type of each channel that the readings have: as it is, or as they ask for."""
    channel = tables.channel.c
    known: dict[str, DType] = {
        row.name: row.dtype
        for row in connection.execute(
            sa.select(channel.name, channel.dtype).where(
                channel.session_id == session_id, channel.source == ADDED
            )
        )
    }
    types: dict[str, DType] = {}
    for each, value in zip(readings, values, strict=True):
        name, dtype = each.channel, _dtype(value)
        if name in known:
            types[name] = known[name]
        elif types.get(name) != "int64" or dtype != "float64":
            types.setdefault(name, dtype)
        else:
            types[name] = dtype  # whole numbers and others together are floats
    return types


def _dtype(value: Value) -> DType:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int64"
    return "text" if isinstance(value, str) else "float64"


def _as(dtype: DType, value: Value, name: str) -> Value:
    """Return a value as its channel's type; raises CaptureError when that would change it."""
    own = _dtype(value)
    if own == dtype:
        return value
    if dtype == "float64" and own == "int64" and abs(int(value)) <= _EXACT:
        return float(value)
    if (
        dtype == "int64"
        and isinstance(value, float)
        and value.is_integer()
        and (abs(value) <= _EXACT)
    ):
        return int(value)
    raise CaptureError(f"the channel {name!r} has values of the type {dtype}, not {own}")


def _channel_ids(
    connection: sa.Connection, session_id: int, types: Mapping[str, DType]
) -> dict[str, int]:
    """Return the row id of each channel, which is made if it is new."""
    category, channel = tables.category.c, tables.channel.c
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    units = connection.execute(
        sa.select(category.name, category.unit).where(category.name.in_(sorted(types)))
    )
    unit_of: dict[str, str | None] = {row.name: row.unit for row in units}
    rows = [
        {
            "session_id": session_id,
            "source": ADDED,
            "name": name,
            "dtype": dtype,
            "unit": unit_of.get(name),
        }
        for name, dtype in types.items()
    ]
    connection.execute(dialect.insert(tables.channel).on_conflict_do_nothing(), rows)
    found = connection.execute(
        sa.select(channel.name, channel.id).where(
            channel.session_id == session_id, channel.source == ADDED
        )
    )
    return {row.name: row.id for row in found}


def _insert(
    connection: sa.Connection,
    session_id: int,
    rows: _Rows,
    types: Mapping[str, DType],
    channel_ids: Mapping[str, int],
) -> None:
    names = [name for name in types if name in rows.names]
    block = Block(
        np.array(rows.times_us, np.int64),
        np.arange(rows.first_seq, rows.last_seq + 1, dtype=np.int64),
        {name: _column(types[name], [cell.get(name) for cell in rows.cells]) for name in names},
    )
    payload = encode(block)
    block_id = connection.execute(
        sa.insert(tables.block)
        .values(
            session_id=session_id,
            source=ADDED,
            first_seq=rows.first_seq,
            last_seq=rows.last_seq,
            readings=rows.readings,
            crc=zlib.crc32(payload),
            codec=CODEC,
            payload=payload,
        )
        .returning(tables.block.c.id)
    ).scalar_one()
    connection.execute(
        sa.insert(tables.block_stat),
        [
            {"block_id": block_id, "channel_id": channel_ids[name], **figures._asdict()}
            for name, figures in statistics(block).items()
        ],
    )


def _column(dtype: DType, values: list[Any]) -> Column:
    if dtype == "text":
        return values
    if dtype == "float64":
        return np.array([math.nan if value is None else value for value in values], np.float64)
    array = np.array([value or 0 for value in values], NUMPY_TYPES[dtype])
    if None not in values:
        return array
    return np.ma.MaskedArray(array, [value is None for value in values])


def _advance(connection: sa.Connection, session_id: int, blocks: Sequence[_Rows]) -> None:
    stream = tables.stream.c
    connection.execute(
        sa.update(tables.stream)
        .where(stream.session_id == session_id, stream.source == ADDED)
        .values(
            messages=blocks[-1].last_seq + 1,
            readings=stream.readings + sum(each.readings for each in blocks),
            last_time_us=blocks[-1].times_us[-1],
        )
    )


def by_session(readings: Sequence[Reading]) -> Iterator[tuple[int | str, list[int]]]:
    """Yield each session that readings are of, as they name it, with their places."""
    places: dict[int | str, list[int]] = {}
    for place, each in enumerate(readings):
        places.setdefault(each.session, []).append(place)
    yield from places.items()
