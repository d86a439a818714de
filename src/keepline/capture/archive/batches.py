"""Archived messages as Arrow record batches, a block at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from keepline.capture.archive.blocks import Block
from keepline.capture.archive.column_values import plain, present
from keepline.capture.archive.scanning import (
    BlockRange,
    FoundChannel,
    decoded_blocks,
    find_blocks,
)
from keepline.capture.decoders.decoder import Column
from keepline.errors import PluginError
from keepline.store import Store

if TYPE_CHECKING:
    import pyarrow

#: Columns that every batch has before those of the channels.
OWN_COLUMNS = ("source", "seq", "time")


@dataclass(frozen=True, slots=True)
class NamedChannel:
    """A channel and the name of its column in a batch."""

    column: str
    channel: FoundChannel


def require_arrow() -> Any:
    """Return the module pyarrow; raises PluginError when it is not installed."""
    try:
        import pyarrow
    except ImportError:
        raise PluginError("pyarrow is not installed: pip install 'keepline[parquet]'") from None
    return pyarrow


def named(channels: Sequence[FoundChannel]) -> list[NamedChannel]:
    """Return the channels with the names of their columns, of which no two are the same.

    It is the channel's own, or ``source.channel`` where another column has that.
    """
    own = [each.name for each in channels]
    names: list[str] = []
    for each in channels:
        taken = own.count(each.name) > 1 or each.name in OWN_COLUMNS
        name = f"{each.source}.{each.name}" if taken else each.name
        while name in names or (taken and name in own):
            name += "_"
        names.append(name)
    return [NamedChannel(name, each) for name, each in zip(names, channels, strict=True)]


def schema_of(columns: Sequence[NamedChannel], about: dict[str, str]) -> pyarrow.Schema:
    """Return the schema of batches: source, seq, time (UTC microseconds), then the channels.

    The metadata of a channel's field name its source and, where it has one, its unit.
    """
    pa = require_arrow()
    types = {"float64": pa.float64(), "int64": pa.int64(), "bool": pa.bool_(), "text": pa.string()}
    fields = [
        pa.field("source", pa.string(), nullable=False),
        pa.field("seq", pa.int64(), nullable=False),
        pa.field("time", pa.timestamp("us", "UTC"), nullable=False),
    ]
    for each in columns:
        metadata = {"source": each.channel.source, "channel": each.channel.name}
        if each.channel.unit is not None:
            metadata["unit"] = each.channel.unit
        fields.append(pa.field(each.column, types[each.channel.dtype], metadata=metadata))
    return pa.schema(fields, metadata=about)


def batches(
    store: Store,
    session_id: int,
    source: str,
    schema: pyarrow.Schema,
    columns: Sequence[NamedChannel],
    wanted: BlockRange,
) -> Iterator[pyarrow.RecordBatch]:
    """Yield the messages of one source, a row each, in their order; a batch is a block.

    A message that was quarantined has no row; a value that a message lacks is null. Only a few
    blocks are in memory at once.
    """
    ids = [each.id for each in find_blocks(store, session_id, wanted)]
    mine = [each.channel.name for each in columns if each.channel.source == source]
    only = mine[0] if len(mine) == 1 else None
    for block in decoded_blocks(store, ids, channel=only):
        batch = batch_of(block, source, schema, columns, wanted)
        if batch.num_rows:
            yield batch


def batch_of(
    block: Block,
    source: str,
    schema: pyarrow.Schema,
    columns: Sequence[NamedChannel],
    wanted: BlockRange,
) -> pyarrow.RecordBatch:
    """Return the rows of a block that lie within the range; columns of others are null."""
    pa = require_arrow()
    rows = wanted_rows(block, wanted)
    times = block.times_us[rows]
    arrays = [
        pa.repeat(pa.scalar(source), len(times)),
        pa.array(block.seqs[rows]),
        pa.array(times, pa.timestamp("us", "UTC")),
    ]
    for each, field in zip(columns, list(schema)[len(OWN_COLUMNS) :], strict=True):
        column = block.columns.get(each.channel.name)
        if column is None or each.channel.source != source:
            arrays.append(pa.nulls(len(times), field.type))
        else:
            arrays.append(_array(column, rows, field.type))
    return pa.record_batch(arrays, schema=schema)


def wanted_rows(block: Block, wanted: BlockRange) -> Any:
    """Return which rows of a block lie within the range, as an index."""
    low, high = wanted.start_us, wanted.end_us
    if low is None and high is None:
        return slice(None)
    rows = np.ones(len(block.times_us), np.bool_)
    if low is not None:
        rows &= block.times_us >= low
    if high is not None:
        rows &= block.times_us < high
    return rows


def _array(column: Column, rows: Any, type_: Any) -> Any:
    pa = require_arrow()
    if isinstance(column, list):
        texts = column if isinstance(rows, slice) else np.array(column, object)[rows]
        return pa.array(texts, type_)
    there = present(column)
    missing = None if there is None else ~there[rows]
    return pa.array(plain(column)[rows], type_, mask=missing)
