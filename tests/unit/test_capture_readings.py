"""Reading the archive back: values of their own type, by channel and range, to numpy and Arrow."""

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest
import sqlalchemy as sa
from numpy.testing import assert_array_equal

from keepline.capture.archive import one_channel, scanning
from keepline.capture.archive.blocks import Block
from keepline.capture.archive.readings import ArchiveReader
from keepline.errors import CaptureError, NoSessionError
from keepline.model import Principal, from_us
from keepline.store import Store
from keepline.store.tables import capture as tables
from tests.archived import STORE_ID, SYSTEM, Archived

NAN = float("nan")


@pytest.fixture
def store(sql_store: Store) -> Store:
    return sql_store


@pytest.fixture
def archive(store: Store) -> ArchiveReader:
    return ArchiveReader(store, STORE_ID, principal=SYSTEM)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def typed(session: Archived) -> None:
    """Write two blocks of four and three messages; the second one lacks the channel `n`."""
    first = Block(
        ints(10, 20, 30, 40),
        ints(0, 1, 3, 4),
        {
            "f": np.array([0.1, NAN, np.inf, -0.0]),
            "n": np.ma.MaskedArray(ints(2**62, 0, -1, 5), [False, True, False, False]),
            "b": np.array([True, False, True, True]),
            "t": ["x", None, "", "é"],
        },
    )
    second = Block(
        ints(50, 60, 70),
        ints(5, 6, 7),
        {
            "f": np.array([1.0, 2.0, 3.0]),
            "b": np.ma.MaskedArray([False, True, False], [True, False, False]),
            "t": [None, "y", "z"],
        },
    )
    session.add(first, second, units={"f": "bar"})


def test_values_keep_their_type(store: Store, archive: ArchiveReader) -> None:
    typed(Archived(store))
    times, values = archive.read(1, "f")
    assert (times.dtype, values.dtype) == (np.int64, np.float64)
    assert_array_equal(times, [10, 30, 40, 50, 60, 70])
    assert_array_equal(values, [0.1, np.inf, -0.0, 1, 2, 3])
    assert np.signbit(values[2])
    times, values = archive.read(1, "n")
    assert values.dtype == np.int64
    assert (times.tolist(), values.tolist()) == ([10, 30, 40], [2**62, -1, 5])
    assert not isinstance(values, np.ma.MaskedArray)
    times, values = archive.read(1, "b")
    assert values.dtype == np.bool_
    assert times.tolist() == [10, 20, 30, 40, 60, 70]
    assert values.tolist() == [True, False, True, True, True, False]
    times, values = archive.read(1, "t")
    assert (times.tolist(), values) == ([10, 30, 40, 60, 70], ["x", "", "é", "y", "z"])


def test_readings_have_the_type_of_their_channel(store: Store, archive: ArchiveReader) -> None:
    session = Archived(store)
    typed(session)
    session.add(Block(ints(15), ints(0), {"f": np.array([9.0])}), source="other")
    found = list(archive.get_session_readings(session.name))
    assert len(found) == 21
    first = [(each.channel, each.seq, each.at, each.value) for each in found[:4]]
    at = from_us(10)
    assert first == [("f", 0, at, 0.1), ("n", 0, at, 2**62), ("b", 0, at, True), ("t", 0, at, "x")]
    assert {(each.channel, type(each.value)) for each in found} == {
        ("f", float), ("n", int), ("b", bool), ("t", str),
    }  # fmt: skip
    assert (found[-1].source, found[-1].session) == ("other", session.name)


@pytest.mark.parametrize(("low", "high"), [(None, 30), (30, None), (11, 60), (41, 50), (70, 71)])
@pytest.mark.parametrize("channel", ["f", "n", "b", "t"])
def test_range_is_half_open(
    store: Store, archive: ArchiveReader, channel: str, low: int | None, high: int | None
) -> None:
    typed(Archived(store))
    times, values = archive.read(1, channel)
    within = [(low or 0) <= time < (high or 10**9) for time in times.tolist()]
    start, end = (None if us is None else from_us(us) for us in (low, high))
    found_times, found = archive.read(1, channel, start=start, end=end)
    assert_array_equal(found_times, times[within])
    assert list(found) == [value for value, inside in zip(values, within, strict=True) if inside]


def test_many_blocks_come_in_order(
    store: Store, archive: ArchiveReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (one_channel, scanning):
        monkeypatch.setattr(module, "BATCH_BLOCKS", 3)
    blocks = [
        Block(ints(2 * n, 2 * n + 1), ints(2 * n, 2 * n + 1), {"v": np.array([n, n + 0.5])})
        for n in range(40)
    ]
    # Late data: a block of its own, whose times lie before those of others.
    late = Block(ints(5), ints(80), {"v": np.array([-1.0])})
    Archived(store).add(*blocks, late)
    times, values = archive.read(1, "v")
    assert_array_equal(times, [*range(80), 5])
    assert_array_equal(values, [*np.arange(0, 40, 0.5), -1])
    assert [each.value for each in archive.get_session_readings(1)] == values.tolist()
    start, end = from_us(5), from_us(7)
    assert_array_equal(archive.read(1, "v", start=start, end=end)[1], [2.5, 3, -1])


def test_number_of_statements_does_not_grow_with_the_readings(
    store: Store, archive: ArchiveReader
) -> None:
    counts = []
    for number, blocks in enumerate((1, 16), start=1):
        made = (
            Block(n + np.arange(9), 9 * n + np.arange(9), {"v": np.arange(9.0)})
            for n in range(blocks)
        )
        Archived(store, number).add(*made)
        statements: list[str] = []
        sa.event.listen(
            store.engine,
            "before_cursor_execute",
            lambda _c, _cu, statement, *_, kept=statements: kept.append(statement),
        )
        assert len(archive.read(number, "v")[0]) == 9 * blocks
        counts.append(len(statements))
    assert counts[0] == counts[1]


def test_what_is_not_there_is_told(store: Store, archive: ArchiveReader) -> None:
    typed(Archived(store))
    for call in (archive.read, archive.overview):
        with pytest.raises(CaptureError, match="no channel 'x' from the source 'main'"):
            call(1, "x")
        with pytest.raises(CaptureError, match="from the source 'other'"):
            call(1, "f", source="other")
        with pytest.raises(NoSessionError, match="capture session 9 is not in the archive"):
            call(9, "f")
    with pytest.raises(CaptureError, match="no channel 'x'"):
        archive.read_arrow(1, ["f", "x"])
    with pytest.raises(TypeError, match=r"a list of names: channels=\['f'\]"):
        archive.read_arrow(1, "f")


def test_what_belongs_to_a_group_is_for_its_members(store: Store) -> None:
    typed(Archived(store, 2, "secret", "lab"))
    ann = ArchiveReader(store, STORE_ID, principal=Principal("ann", groups=frozenset({"lab"})))
    ben = ArchiveReader(store, STORE_ID, principal=Principal("ben"))
    assert len(ann.read(2, "f")[0]) == 6
    for ask in (
        lambda: ben.read(2, "f"),
        lambda: ben.overview(2, "f"),
        lambda: ben.read_arrow(2),
        lambda: ben.get_session_variables(2),
        lambda: next(ben.get_session_readings(2)),
    ):
        with pytest.raises(NoSessionError):
            ask()


def test_data_that_is_removed_meanwhile_is_told(
    store: Store, archive: ArchiveReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scanning, "BATCH_BLOCKS", 1)
    typed(Archived(store))
    one_by_one = archive.get_session_readings(1)
    next(one_by_one)
    with store.write(SYSTEM) as connection:
        connection.execute(sa.delete(tables.block_stat))
        connection.execute(sa.delete(tables.block))
    with pytest.raises(CaptureError, match="removed while it was being read"):
        list(one_by_one)


def test_arrow_has_types_nulls_and_units(store: Store, archive: ArchiveReader) -> None:
    typed(Archived(store))
    table = archive.read_arrow(1)
    assert table.column_names == ["source", "seq", "time", "b", "f", "n", "t"]
    assert [str(each) for each in table.schema.types] == [
        "string", "int64", "timestamp[us, tz=UTC]", "bool", "double", "int64", "string",
    ]  # fmt: skip
    assert table.schema.field("f").metadata == {
        b"source": b"main", b"channel": b"f", b"unit": b"bar",
    }  # fmt: skip
    assert table["seq"].to_pylist() == [0, 1, 3, 4, 5, 6, 7]
    assert table["time"].to_pylist()[1] == from_us(20)
    assert table["f"].to_pylist() == [0.1, None, np.inf, -0.0, 1, 2, 3]
    assert table["n"].to_pylist() == [2**62, None, -1, 5, None, None, None]
    assert table["b"].to_pylist() == [True, False, True, True, None, True, False]
    assert table["t"].to_pylist() == ["x", None, "", "é", None, "y", "z"]
    assert table.schema.metadata == {b"session": b"capture:s:1"}


def test_arrow_of_some_channels_and_a_range(store: Store, archive: ArchiveReader) -> None:
    typed(Archived(store))
    start, end = from_us(20), from_us(60)
    table = archive.read_arrow(1, ["t", "f"], start=start, end=end)
    assert table.column_names == ["source", "seq", "time", "t", "f"]
    assert table.to_pydict()["t"] == [None, "", "é", None]
    assert table["f"].to_pylist() == [None, np.inf, -0.0, 1]
    assert archive.read_arrow(1, ["n"])["n"].to_pylist() == [2**62, None, -1, 5]
    nothing = archive.read_arrow(1, start=datetime(2000, 1, 1, tzinfo=UTC))
    assert (nothing.num_rows, nothing.num_columns) == (0, 7)


def test_batches_come_a_block_at_a_time(store: Store, archive: ArchiveReader) -> None:
    typed(Archived(store))
    batches = archive.read_batches(1)
    assert next(batches).num_rows == 4
    assert isinstance(next(batches), pa.RecordBatch)
    assert next(batches, None) is None


def test_channels_named_like_other_columns_are_kept_apart(
    store: Store, archive: ArchiveReader
) -> None:
    columns = {name: np.array([1.0]) for name in ("time", "main.time", "seq")}
    Archived(store).add(Block(ints(1), ints(0), columns))
    names = archive.read_arrow(1).column_names
    assert len(set(names)) == 6
    assert names[3:] == ["main.time", "main.seq", "main.time_"]
