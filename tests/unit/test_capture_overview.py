"""An overview keeps every extreme, says nothing that was not measured, and costs little."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from keepline.capture import Archive, CaptureServer, SqliteCaptureStore
from keepline.capture.archive import overview as overview_module
from keepline.capture.archive.blocks import Block
from keepline.capture.archive.overview import Overview, m4
from keepline.capture.archive.readings import ArchiveReader
from keepline.errors import CaptureError
from keepline.model import from_us
from keepline.store import Store
from tests.archived import STORE_ID, SYSTEM, Archived
from tests.needs import needed

tsdownsample = needed("tsdownsample")

Readings = list[tuple[int, float]]

_numbers = iter(range(1, 1_000_000))


@pytest.fixture
def archive(sql_store: Store) -> ArchiveReader:
    return ArchiveReader(sql_store, STORE_ID, principal=SYSTEM)


def session(store: Store, blocks: Sequence[Readings]) -> int:
    """Write a session with a channel `v` of these blocks of (time, value); return its number."""
    number, seq, made = next(_numbers), 0, []
    for readings in blocks:
        times = np.array([time for time, _ in readings], np.int64)
        values = np.array([value for _, value in readings], np.float64)
        made.append(Block(times, np.arange(seq, seq + len(times)), {"v": values}))
        seq += len(times)
    Archived(store, number).add(*made)
    return number


def expected(readings: Readings, borders: Sequence[int]) -> tuple[list[int], list[float]]:
    """Return the first, least, greatest and last reading of each pixel, the plain way."""
    kept: set[int] = set()
    ordered = sorted(readings, key=lambda each: each[0])
    for low, high in pairwise(borders):
        places = [place for place, (time, _) in enumerate(ordered) if low <= time < high]
        if places:
            least = min(places, key=lambda place: ordered[place][1])
            greatest = max(places, key=lambda place: ordered[place][1])
            kept |= {places[0], places[-1], least, greatest}
    chosen = [ordered[place] for place in sorted(kept)]
    return [time for time, _ in chosen], [value for _, value in chosen]


_values = st.floats(allow_nan=False, width=32) | st.integers(-3, 3).map(float)
_gathered = st.lists(
    st.lists(st.tuples(st.integers(0, 400), _values), min_size=1, max_size=30),
    min_size=1,
    max_size=12,
)


@given(
    blocks=_gathered,
    ordered=st.booleans(),
    points=st.integers(4, 60),
    cut=st.tuples(st.integers(-5, 200), st.integers(1, 300)) | st.none(),
)
@settings(
    max_examples=75, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_extremes_of_every_pixel_are_kept(
    archive: ArchiveReader,
    blocks: list[Readings],
    ordered: bool,
    points: int,
    cut: tuple[int, int] | None,
) -> None:
    # Times that no two readings share, so that there is one right answer.
    place = iter(range(10_000))
    blocks = [[(time * 1_000 + next(place), value) for time, value in each] for each in blocks]
    if ordered:
        flat = sorted(each for block in blocks for each in block)
        blocks = [[flat.pop(0) for _ in block] for block in blocks]
    number = session(archive.sql_store, blocks)
    all_readings = [each for block in blocks for each in block]
    if cut is None:
        found = archive.overview(number, "v", points=points)
        readings = sorted(all_readings)
    else:
        t0, t1 = cut[0] * 1_000, (cut[0] + cut[1]) * 1_000
        found = archive.overview(number, "v", from_us(t0), from_us(t1), points)
        readings = sorted(each for each in all_readings if t0 <= each[0] < t1)
    assert len(found.times_us) <= points
    assert (found.readings, found.reduced) == (len(readings), len(readings) > points)
    assert 2 <= len(found.borders_us) <= points // 4 + 1
    assert (found.borders_us[0], found.borders_us[-1]) == (found.start_us, found.end_us)
    points_found = list(zip(found.times_us.tolist(), found.values.tolist(), strict=True))
    if not found.reduced:
        assert points_found == readings
        return
    assert set(points_found) <= set(readings)
    assert points_found == sorted(points_found)
    for low, high in pairwise(found.borders_us.tolist()):
        there = [each for each in readings if low <= each[0] < high]
        kept = [each for each in points_found if low <= each[0] < high]
        assert len(kept) <= 4
        assert edges(kept) == edges(there)


def edges(readings: Readings) -> tuple[object, ...]:
    """Return the first and the last reading, and the least and the greatest value."""
    if not readings:
        return ()
    values = [value for _, value in readings]
    return readings[0], readings[-1], min(values), max(values)


@given(
    st.lists(st.integers(-100, 100), min_size=2, max_size=300, unique=True),
    st.integers(1, 12),
)
@settings(max_examples=100, deadline=None)
def test_reduction_agrees_with_tsdownsample(numbers: list[int], pixels: int) -> None:
    values = np.array(numbers, np.float64)
    count = len(values) // pixels * pixels
    if count <= 4 * pixels:
        return
    values = values[:count]
    borders = np.arange(0, count + 1, count // pixels, dtype=np.int64)
    kept = m4(np.arange(count, dtype=np.int64), values, borders)
    theirs = tsdownsample.M4Downsampler().downsample(values, n_out=4 * pixels)
    assert_array_equal(kept, np.unique(theirs))


def ordered_blocks(count: int, size: int) -> list[Readings]:
    rng = np.random.default_rng(count)
    return [
        [(1_000 * (n * size + i), float(value)) for i, value in enumerate(rng.normal(size=size))]
        for n in range(count)
    ]


def decoded_count(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that grows by the number of blocks that each overview decodes."""
    counts: list[int] = []
    original = overview_module.decoded_blocks

    def counting(store: Store, ids: list[int], **options: str) -> object:
        counts.append(len(ids))
        return original(store, ids, **options)

    monkeypatch.setattr(overview_module, "decoded_blocks", counting)
    return counts


def test_only_blocks_across_a_border_are_decoded(
    archive: ArchiveReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = ordered_blocks(400, 5)
    number = session(archive.sql_store, blocks)
    counts = decoded_count(monkeypatch)
    found = archive.overview(number, "v", points=28)
    assert sum(counts) <= 2
    assert found.readings == 2_000
    widths = np.diff(found.borders_us)
    assert 0.5 <= widths.min() / widths.mean() <= widths.max() / widths.mean() <= 2
    flat = [each for block in blocks for each in block]
    assert_array_equal(found.times_us, expected(flat, found.borders_us.tolist())[0])
    # Few readings of the middle, with both edges within a block, are all given.
    found = archive.overview(number, "v", from_us(1_001_500), from_us(1_020_000), 28)
    assert not found.reduced
    assert_array_equal(found.times_us, np.arange(1_002_000, 1_020_000, 1_000))


@pytest.mark.parametrize("points", [400, 160, 100, 80, 44, 8])
def test_fewer_blocks_are_decoded_than_half_the_pixels(
    archive: ArchiveReader, monkeypatch: pytest.MonkeyPatch, points: int
) -> None:
    blocks = ordered_blocks(21, 100)
    number = session(archive.sql_store, blocks)
    counts = decoded_count(monkeypatch)
    found = archive.overview(number, "v", from_us(5), from_us(2_099_500), points)
    assert sum(counts) <= max(points // 8, 2) + 2
    assert len(found.borders_us) > points // 8
    flat = [each for block in blocks for each in block if each[0] >= 5]
    assert_array_equal(found.times_us, expected(flat, found.borders_us.tolist())[0])


def test_blocks_without_times_of_their_extremes_are_decoded(archive: ArchiveReader) -> None:
    blocks = ordered_blocks(50, 20)
    number = session(archive.sql_store, blocks)
    before = archive.overview(number, "v", points=8)
    with archive.sql_store.write(SYSTEM) as connection:
        connection.exec_driver_sql("UPDATE block_stat SET min_us = NULL, max_us = NULL")
    after = archive.overview(number, "v", points=8)
    assert_array_equal(before.times_us, after.times_us)
    assert_array_equal(before.values, after.values)


def test_gaps_break_the_line_where_they_are_wide_enough(archive: ArchiveReader) -> None:
    wide = Archived(archive.sql_store, next(_numbers))
    times = np.array([0, 1_000, 500_000, 501_000], np.int64)
    wide.add(Block(times, np.arange(4), {"v": np.arange(4.0)}))
    wide.gap("time", 1, 1_000, 500_000)
    wide.gap("sequence", 1, 1_000, 500_000)
    wide.gap("disorder", 0, 0, 300_000)
    wide.gap("time", 2, 500_000, 500_100)
    found = archive.overview(wide.name, "v", points=400)
    assert found.gaps_us.tolist() == [[1_000, 500_000]]
    assert found.gaps == 3
    narrow = archive.overview(wide.name, "v", from_us(499_000), from_us(502_000), 400)
    assert narrow.gaps_us.tolist() == [[1_000, 500_000], [500_000, 500_100]]


def test_disorder_within_blocks_leaves_extremes_and_edges_right(
    archive: ArchiveReader, tmp_path: Path
) -> None:
    """By the statistics that the archiver writes, of messages whose times go back at times."""
    rng = np.random.default_rng(5)
    times = (np.arange(60_000) * 1_000 + rng.integers(-4_500, 4_500, 60_000)) // 1_000 * 1_000
    times = 10**12 + times + np.arange(60_000) % 1_000
    values = rng.normal(size=60_000).round(6)
    with SqliteCaptureStore(tmp_path / "capture.db") as store:
        whole = Archive(archive.sql_store, store)
        server = CaptureServer(store, "bench")
        number = server.start_session(started=from_us(0))
        for time_us, value in zip(times.tolist(), values.tolist(), strict=True):
            server.queue(f'{{"v": {value}}}', at_us=time_us)
        server.stop_session(ended=from_us(2 * 10**12))
        whole.archive_session(number)
        found = whole.overview(number, "v", points=12)
    assert found.readings == 60_000
    points_found = list(zip(found.times_us.tolist(), found.values.tolist(), strict=True))
    readings = sorted(zip(times.tolist(), values.tolist(), strict=True))
    assert set(points_found) <= set(readings)
    for low, high in pairwise(found.borders_us.tolist()):
        assert edges([each for each in points_found if low <= each[0] < high]) == edges(
            [each for each in readings if low <= each[0] < high]
        )


def test_whole_numbers_and_truths_have_an_overview_and_texts_none(archive: ArchiveReader) -> None:
    columns = {
        "n": np.ma.MaskedArray(np.arange(100), np.arange(100) == 99),
        "b": np.arange(100) % 2 == 0,
        "t": ["x"] * 100,
    }
    made = Archived(archive.sql_store, next(_numbers))
    made.add(Block(np.arange(100), np.arange(100), columns), units={"n": "m"})
    found = archive.overview(made.name, "n", points=8)
    assert (found.values.dtype, found.unit, found.readings) == (np.float64, "m", 99)
    assert found.values.tolist() == [0, 48, 49, 98]
    assert set(archive.overview(made.name, "b", points=8).values.tolist()) == {0, 1}
    with pytest.raises(CaptureError, match="'t' holds texts, which have no overview"):
        archive.overview(made.name, "t")


def test_empty_ranges_have_no_points(archive: ArchiveReader) -> None:
    number = session(archive.sql_store, ordered_blocks(2, 5))
    for t0, t1 in ((-100, 0), (10_000, 20_000), (10_000, None), (None, -50)):
        found = archive.overview(
            number, "v", t0 and from_us(t0), None if t1 is None else from_us(t1)
        )
        assert isinstance(found, Overview)
        assert (len(found.times_us), found.readings, found.reduced) == (0, 0, False)
        assert found.start_us < found.end_us


@pytest.mark.parametrize("points", [3, 0, -1, 10**9])
def test_number_of_points_has_bounds(archive: ArchiveReader, points: int) -> None:
    number = session(archive.sql_store, [[(0, 1.0)]])
    with pytest.raises(ValueError, match="4 to 1,000,000 points"):
        archive.overview(number, "v", points=points)
    with pytest.raises(ValueError, match="begins before it ends"):
        archive.overview(number, "v", from_us(5), from_us(5))
