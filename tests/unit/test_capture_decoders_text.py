"""The decoders of JSON and CSV: what goes in comes out, and bad input is named."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Mapping
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from keepline.capture import CsvDecoder, JsonDecoder
from keepline.capture.decoders.decoder import MAX_CHANNELS
from keepline.model import Channel, StreamSpec, to_us
from tests.decoded import listed, values

MILLENNIUM_US = to_us(datetime(2000, 1, 1, tzinfo=UTC))

DECIMALS = st.integers(-(10**9), 10**9).map(lambda n: n / 1000)


def test_json_values() -> None:
    decoder = JsonDecoder(StreamSpec(), {})
    decoded = decoder.decode(
        [b'{"a": 1, "b": true, "c": "x"}', b'{"a": null, "d": -0.5}', b"{}", b'{"a": NaN}']
    )
    assert (decoded.good, decoded.rejected) == (4, [])
    assert_array_equal(decoded.columns["a"], [1, np.nan, np.nan, np.nan])
    assert decoded.columns["b"].dtype == np.bool_
    assert listed(decoded.columns["b"]) == [True, None, None, None]
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
        (b'{"' + "é".encode() * 501 + b'": 1}', "cannot name a channel: 1 to 1,000 bytes"),
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
        assert listed(column) == [listed(each.columns.get(name, [None]))[0] for each in kept]


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


def test_types_of_channels_that_json_does_not_declare() -> None:
    decoder = JsonDecoder(StreamSpec(), {})
    decoded = decoder.decode([b'{"n": 1, "x": 0.5, "b": false, "s": ""}'])
    assert [decoded.columns[name].dtype for name in "nxb"] == [np.float64, np.float64, np.bool_]
    assert decoded.columns["s"] == [""]
    again = decoder.decode([b'{"b": 1}', b'{"b": 0}', b'{"b": 2}', b'{"b": 1.0}', b'{"n": true}'])
    assert listed(again.columns["b"]) == [True, False]
    assert [place for place, _, _ in again.rejected] == [2, 3, 4]


TYPED = (
    Channel("i", "int64"),
    Channel("b", "bool"),
    Channel("x", "float64"),
    Channel("s", "text"),
)


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("i", "9223372036854775808", "too large for int64"),
        ("i", "-9223372036854775809", "too large for int64"),
        ("i", "1" + "0" * 400, "too large for int64"),
        ("i", "1.5", "fraction"),
        ("i", "1e300", "fraction"),
        ("i", "true", "is int64 in this stream, not bool"),
        ("i", '"1"', "is int64 in this stream, not text"),
        ("b", "2", "is bool in this stream"),
        ("b", '"true"', "is bool in this stream"),
        ("x", "true", "is float64 in this stream, not bool"),
        ("x", "1e400", "too large for float64"),
        ("x", "9007199254740993", "too large for float64"),
        ("s", "1", "is text in this stream"),
        ("s", "false", "is text in this stream"),
        ("s", '"\\u0000"', "NUL"),
        ("s", '"\\ud800"', "surrogate"),
        ("new", '"\\udfff"', "surrogate"),
        ("new", '1, "new": 2', "twice"),
        ("new", "[1]", "neither number, truth nor text"),
    ],
)
def test_json_that_its_channel_cannot_hold_is_rejected(name: str, text: str, reason: str) -> None:
    decoder = JsonDecoder(StreamSpec(channels=TYPED), {})
    bad = f'{{"{name}": {text}}}'.encode()
    decoded = decoder.decode([b'{"i": 1, "b": 1}', bad, b'{"i": -2.0, "b": true, "x": -Infinity}'])
    ((place, raw, why),) = decoded.rejected
    assert (place, raw) == (1, bad)
    assert reason in why
    assert values(decoded) == {"i": [1, -2], "b": [True, True], "x": [None, -np.inf]}


def test_so_many_channels_may_come_and_no_more() -> None:
    full = json.dumps({f"c{n}": n for n in range(MAX_CHANNELS - 1)}).encode()
    decoder = JsonDecoder(StreamSpec(), {})
    messages = [full, b'{"one": 1, "more": 2}', b'{"c0": 5, "last": 1}', b'{"more": 2}']
    decoded = decoder.decode(messages)
    assert [place for place, _, _ in decoded.rejected] == [1, 3]
    assert "4,096" in decoded.rejected[0][2]
    assert listed(decoded.columns["c0"]) == [0, 5]


@pytest.mark.parametrize(
    ("time_format", "tz", "given_us"),
    [
        ("iso", None, {'"2000-01-01T00:00:00.000001Z"': 1, '"2000-01-01 02:00+02:00"': 0}),
        ("iso", "Asia/Kolkata", {'"2000-01-01T05:30"': 0, '"2000-01-01T00:00:01Z"': 1_000_000}),
        ("unix_s", None, {"946684800": 0, "946684800.25": 250_000, '"946684800"': 0}),
        ("unix_ms", None, {"946684800001": 1_000, "946684800000.5": 500}),
        ("unix_us", None, {"946684800000001": 1}),
        ("unix_ns", None, {"946684800000001999": 1, '"946684800000002000"': 2}),
    ],
)
def test_times_of_messages(time_format: str, tz: str | None, given_us: Mapping[str, int]) -> None:
    options = {"time": "t", "time_format": time_format} | ({"tz": tz} if tz else {})
    decoder = JsonDecoder(StreamSpec(options=options), {})
    decoded = decoder.decode([f'{{"t": {text}, "a": 1}}'.encode() for text in given_us])
    assert decoded.rejected == []
    assert decoded.times_us is not None
    assert (decoded.times_us - MILLENNIUM_US).tolist() == list(given_us.values())
    assert list(decoded.columns) == ["a"]
    csv_spec = StreamSpec(
        options={"columns": ["t", "a"], "delimiter": ";", **options}, channels=(Channel("a"),)
    )
    lines = [f"{text.strip(chr(34))};1".encode() for text in given_us]
    from_csv = CsvDecoder(csv_spec, {}).decode(lines)
    assert_array_equal(from_csv.times_us, decoded.times_us)


@pytest.mark.parametrize(
    ("time_format", "text"),
    [
        ("iso", "1"),
        ("iso", '"2000-01-01T00:00"'),
        ("iso", '"0001-01-01T00:00+14:00"'),
        ("iso", '"noon"'),
        ("unix_s", "true"),
        ("unix_s", "NaN"),
        ("unix_s", "Infinity"),
        ("unix_s", "1e308"),
        ("unix_s", "1" + "0" * 300),
        ("unix_s", '"1_0"'),
        ("unix_ms", '"x"'),
        ("unix_ns", "null"),
        ("unix_us", "[]"),
    ],
)
def test_message_without_a_time_that_can_be_read_is_rejected(time_format: str, text: str) -> None:
    spec = StreamSpec(options={"time": "t", "time_format": time_format})
    good = b'{"t": "2000-01-01T00:00Z"}' if time_format == "iso" else b'{"t": 1}'
    decoded = JsonDecoder(spec, {}).decode([good, f'{{"t": {text}}}'.encode(), good])
    assert [place for place, _, _ in decoded.rejected] == [1]
    assert "time" in decoded.rejected[0][2]
    assert decoded.times_us is not None
    assert len(decoded.times_us) == 2


def test_local_time_that_a_clock_showed_twice_goes_by_the_message_before() -> None:
    spec = StreamSpec(options={"time": "t", "tz": "Europe/Berlin"})
    decoder = JsonDecoder(spec, {})
    first = decoder.decode([b'{"t": "2026-10-25T02:59"}'])
    second = decoder.decode([b'{"t": "2026-10-25T02:00"}', b'{"t": "2026-03-29T02:30"}'])
    assert first.times_us is not None
    assert second.times_us is not None
    assert (second.times_us - first.times_us).tolist() == [60_000_000]
    assert "clocks went forward" in second.rejected[0][2]


def test_ticks_of_messages() -> None:
    decoder = JsonDecoder(StreamSpec(options={"tick": "n"}), {})
    decoded = decoder.decode([b'{"n": 7}', b'{"n": 4294967295, "a": 1}', b"{}", b'{"n": 1.5}'])
    assert decoded.ticks is not None
    assert decoded.ticks.tolist() == [7, 4294967295]
    assert [place for place, _, _ in decoded.rejected] == [2, 3]
    spec = StreamSpec(options={"columns": ["n", "a"], "tick": "n"})
    from_csv = CsvDecoder(spec, {}).decode([b"7,1", b" 8 ,2", b",3", b"x,4"])
    assert from_csv.ticks is not None
    assert from_csv.ticks.tolist() == [7, 8]
    assert values(from_csv) == {"a": [1, 2]}


def test_csv_has_the_declared_types() -> None:
    spec = StreamSpec(options={"columns": ["i", "b", "x", "s"]}, channels=TYPED)
    decoded = CsvDecoder(spec, {}).decode(
        [b"1,TRUE,1.5,1", b"-2.0,0,,", b",,nan,x", b" 3 ,false,-inf,true", b"nan,1,1,y"]
    )
    assert decoded.rejected == []
    assert values(decoded) == {
        "i": [1, -2, None, 3, None],
        "b": [True, False, None, False, True],
        "x": [1.5, None, None, -np.inf, 1],
        "s": ["1", None, "x", "true", "y"],
    }
    bad = [b"1.5,,,", b"9223372036854775808,,,", b"1_0,,,", b",2,,", b",yes,,", b",,1e400,"]
    bad += ["²,,,".encode(), b"1e300,,,", b"x,,,", b"1" + b"0" * 5000 + b",,,"]
    assert len(CsvDecoder(spec, {}).decode(bad).rejected) == len(bad)


def test_csv_without_declared_channels_has_all_its_columns() -> None:
    decoder = CsvDecoder(StreamSpec(options={"columns": ["t", "a", "b"], "tick": "t"}), {})
    assert decoder.channels == (Channel("a"), Channel("b"))
    assert values(decoder.decode([b"1,2,3"])) == {"a": [2], "b": [3]}
