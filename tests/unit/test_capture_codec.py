"""Decoders, blocks and gaps: what goes in comes out, and bad input is named."""

import itertools
import json
import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from keepline.capture import blocks
from keepline.capture.decoders import CsvDecoder, JsonDecoder
from keepline.capture.gaps import Gap, find_gaps
from keepline.errors import CaptureError
from keepline.model import Channel, StreamSpec

INT64 = st.integers(-(2**63), 2**63 - 1)
DECIMALS = st.integers(-(10**9), 10**9).map(lambda n: n / 1000)
FLOATS = st.floats(allow_nan=False) | DECIMALS | st.integers(-(2**53), 2**53).map(float)


def bits(values: object) -> bytes:
    """Return float64 values as bytes, so that 0.0 and -0.0 differ."""
    return np.asarray(values, dtype="<f8").tobytes()


@given(
    st.lists(
        st.tuples(INT64, INT64, FLOATS | st.just(math.nan), DECIMALS, st.none() | st.text()),
        max_size=50,
    )
)
def test_block_comes_back_exactly(rows: list[tuple[int, int, float, float, str | None]]) -> None:
    times, seqs, mixed, decimals, texts = zip(*rows, strict=True) if rows else ((),) * 5
    block = blocks.Block(
        np.array(times, np.int64),
        np.array(seqs, np.int64),
        {"mixed": np.array(mixed, float), "decimals": np.array(decimals, float), "ü": list(texts)},
    )
    again = blocks.decode(blocks.encode(block))
    assert_array_equal(again.times_us, block.times_us)
    assert_array_equal(again.seqs, block.seqs)
    assert bits(again.columns["mixed"]) == bits(mixed)
    assert bits(again.columns["decimals"]) == bits(decimals)
    assert again.columns["ü"] == list(texts)
    assert list(again.columns) == ["mixed", "decimals", "ü"]


@pytest.mark.parametrize(
    "values",
    [
        [0.0, -0.0],
        [math.inf, -math.inf, 1.5],
        [5e-324, 1.7976931348623157e308],
        [0.1, 0.2, 0.30000000000000004],
        [2.0**53, 2.0**53 + 2],
    ],
)
def test_odd_floats_come_back_exactly(values: list[float]) -> None:
    whole = np.arange(len(values), dtype=np.int64)
    block = blocks.Block(whole, whole, {"x": np.array(values)})
    assert bits(blocks.decode(blocks.encode(block)).columns["x"]) == bits(values)


def test_one_channel_can_be_read_alone() -> None:
    whole = np.arange(2, dtype=np.int64)
    block = blocks.Block(whole, whole, {"a": np.array([1.0, 2.0]), "b": ["x", None]})
    assert list(blocks.decode(blocks.encode(block), channel="b").columns) == ["b"]


def test_real_sensor_data_takes_few_bytes() -> None:
    random = np.random.default_rng(1)
    n = 10_000
    sensor = np.round(20 + np.cumsum(random.normal(0, 0.01, n)), 3)
    times = np.arange(n, dtype=np.int64) * 20_000
    payload = blocks.encode(blocks.Block(times, np.arange(n), {"t": sensor}))
    assert len(payload) <= 2 * n


def test_block_of_an_unknown_codec_is_refused() -> None:
    with pytest.raises(CaptureError, match="kl9"):
        blocks.decode(b"", "kl9")


def test_json_values() -> None:
    decoder = JsonDecoder(StreamSpec(), {})
    decoded = decoder.decode(
        [b'{"a": 1, "b": true, "c": "x"}', b'{"a": null, "d": -0.5}', b"{}", b'{"a": NaN}']
    )
    assert (decoded.good, decoded.rejected) == (4, [])
    assert_array_equal(decoded.columns["a"], [1, np.nan, np.nan, np.nan])
    assert_array_equal(decoded.columns["b"], [1, np.nan, np.nan, np.nan])
    assert decoded.columns["c"] == ["x", None, None, None]
    assert_array_equal(decoded.columns["d"], [np.nan, -0.5, np.nan, np.nan])


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b"", "not JSON"),
        (b'{"a": 1', "not JSON"),
        (b'{"a": 1}{"a": 2}', "not JSON"),
        (b'{"a": 1},{"a": 2}', "not JSON"),
        (b"[1]", "not a JSON object"),
        (b'{"a": \xff}', "not UTF-8 from byte 6"),
        (b'{"a": "text"}', "a is float64 in this stream"),
        (b'{"t": 1}', "t is text in this stream"),
        (b'{"a": [1]}', "a is neither"),
        (b'{"a": {"b": 1}}', "a is neither"),
        (b'{"a": 9007199254740993}', "too large"),
        (b'{"a": 1' + b"0" * 400 + b"}", "too large"),
        (b'{"": 1}', "cannot name a channel"),
        (b'{"x\\u0000": 1}', "cannot name a channel"),
        (b'{"\\ud800": 1}', "cannot name a channel"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_bad_json_is_rejected_whole_and_its_neighbours_kept(bad: bytes, reason: str) -> None:
    decoder = JsonDecoder(StreamSpec(), {"t": "text"})
    decoded = decoder.decode([b'{"a": 1}', bad, b'{"a": 2, "t": "y"}'])
    ((index, raw, why),) = decoded.rejected
    assert (index, raw) == (1, bad)
    assert reason in why
    assert_array_equal(decoded.columns["a"], [1, 2])
    assert decoded.columns["t"] == [None, "y"]


def test_type_of_a_channel_is_the_first_one_met() -> None:
    decoder = JsonDecoder(StreamSpec(), {})
    assert decoder.decode([b'{"a": null}', b'{"a": "x"}', b'{"a": 1}']).rejected[0][0] == 2
    assert decoder.decode([b'{"a": 1}']).rejected[0][0] == 0
    assert decoder.decode([b'{"a": "y"}']).columns == {"a": ["y"]}
    declared = StreamSpec(channels=(Channel("a", "text"),))
    assert JsonDecoder(declared, {}).decode([b'{"a": 1}']).good == 0


JSON_VALUES = (
    st.none()
    | st.booleans()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.integers(-(2**60), 2**60)
    | st.text(max_size=3)
    | st.just([])
)


@given(st.lists(st.dictionaries(st.sampled_from("abc"), JSON_VALUES, max_size=3), max_size=12))
def test_json_in_one_call_or_singly_is_the_same(rows: list[dict[str, object]]) -> None:
    messages = [json.dumps(row).encode() for row in rows]
    together = JsonDecoder(StreamSpec(), {}).decode(messages)
    decoder = JsonDecoder(StreamSpec(), {})
    singly = [decoder.decode([message]) for message in messages]
    assert [r[0] for r in together.rejected] == [
        index for index, each in enumerate(singly) if each.rejected
    ]
    assert together.good + len(together.rejected) == len(messages)
    kept = [each for each in singly if not each.rejected]
    for name, column in together.columns.items():
        parts = [each.columns.get(name, [None])[0] for each in kept]
        if isinstance(column, list):
            assert column == parts
        else:
            assert_array_equal(column, np.array(parts, dtype=float))


CSV = StreamSpec(
    decoder="csv",
    options={"columns": ["time", "a", "note"], "delimiter": ";"},
    channels=(Channel("a"), Channel("note", "text")),
)


def test_csv_values() -> None:
    decoded = CsvDecoder(CSV, {}).decode(
        [b"t;1.5;x", b"t;;", b"t; 2e3 ;7", b'"t";nan;"a;b ""c"""', b"t;-inf;\xc3\xbc"]
    )
    assert decoded.rejected == []
    assert_array_equal(decoded.columns["a"], [1.5, np.nan, 2000, np.nan, -np.inf])
    assert decoded.columns["note"] == ["x", None, "7", 'a;b "c"', "ü"]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b"t;1", "2 fields instead of 3"),
        (b"t;1;x;y", "4 fields instead of 3"),
        (b"t;one;x", "a is not a number"),
        (b"t;1_000;x", "a is not a number"),
        (b"t;0x10;x", "a is not a number"),
        (b"t;1;\xff", "not UTF-8 from byte 4"),
        (b"t;1;a\0b", "NUL"),
        (b't;1;"open', "not a line of CSV"),
        (b"", "1 fields instead of 3"),
    ],
)
def test_bad_csv_is_rejected_whole_and_its_neighbours_kept(bad: bytes, reason: str) -> None:
    decoded = CsvDecoder(CSV, {}).decode([b"t;1;x", bad, b"t;2;y"])
    ((index, raw, why),) = decoded.rejected
    assert (index, raw) == (1, bad)
    assert reason in why
    assert_array_equal(decoded.columns["a"], [1, 2])


@given(st.lists(st.floats() | DECIMALS, min_size=1))
def test_csv_numbers_are_those_that_float_reads(values: list[float]) -> None:
    lines = [f"t;{value!r};".encode() for value in values]
    column = CsvDecoder(CSV, {}).decode(lines).columns["a"]
    assert_array_equal(column, values)


def test_csv_numbers_may_have_any_digits_and_spaces_that_float_reads() -> None:
    lines = [f"t;{text};".encode() for text in ("١٢", "\u20031.5", "\uff11e1", "1\u2003", " ")]
    decoded = CsvDecoder(CSV, {}).decode(lines)
    assert decoded.rejected == []
    assert_array_equal(decoded.columns["a"], [12, 1.5, 10, 1, np.nan])


@pytest.mark.parametrize("other", [b"t;1;", b"t;;"])
def test_one_long_field_of_csv_does_not_cost_memory_in_every_row(other: bytes) -> None:
    lines = [other] * 999 + [b"t;" + b"0" * 100_000 + b"1;"]
    decoder = CsvDecoder(CSV, {})
    tracemalloc.start()
    try:
        column = decoder.decode(lines).columns["a"]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert column[-1] == 1
    assert peak < 20 * sum(map(len, lines))


def test_gaps_are_found_across_borders() -> None:
    times = np.array([100, 110, 125, 141, 141, 130], dtype=np.int64)
    within = [
        Gap("time", 9, 125, 141),
        Gap("disorder", 10, 141, 141),
        Gap("disorder", 11, 141, 130),
    ]
    assert find_gaps(7, times, None, 10) == within
    assert find_gaps(7, times, 85, 10) == within  # 15 is not over 1.5 times 10
    assert find_gaps(7, times, 84, 10) == [Gap("time", 6, 84, 100), *within]
    assert find_gaps(7, times, 100, None) == [Gap("disorder", 6, 100, 100), *within[1:]]


@given(st.lists(st.integers(-(10**6), 10**6), min_size=1, max_size=40), st.integers(1, 40))
def test_gaps_do_not_depend_on_where_blocks_end(steps: list[int], size: int) -> None:
    times = np.cumsum(np.array(steps, dtype=np.int64))
    whole = find_gaps(0, times, None, 1000)
    parts, previous = [], None
    for start in range(0, len(times), size):
        parts += find_gaps(start, times[start : start + size], previous, 1000)
        previous = int(times[start : start + size][-1])
    assert parts == whole
    assert len(whole) == sum(1 for a, b in itertools.pairwise(times) if b - a <= 0 or b - a > 1500)
