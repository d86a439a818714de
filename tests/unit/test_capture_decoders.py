"""Every decoder: what holds for all of them, and what is refused or checked."""

from __future__ import annotations

import itertools
import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from keepline.capture import CsvDecoder, JsonDecoder
from keepline.capture.decoders.declared import DeclaredDecoder
from keepline.capture.decoders.decoder import Decoded
from keepline.capture.decoders.influx_lines import InfluxDecoder
from keepline.capture.decoders.struct_frames import StructDecoder
from keepline.errors import DecodeError
from keepline.model import Channel, StreamSpec
from tests.decoded import listed, values

JSON_VALUES = (
    st.none()
    | st.booleans()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.integers(-(2**60), 2**60)
    | st.text(max_size=3)
    | st.just([])
)

TYPED = (
    Channel("i", "int64"),
    Channel("b", "bool"),
    Channel("x", "float64"),
    Channel("s", "text"),
)


@given(st.lists(st.none() | st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=20))
def test_whole_numbers_are_exact_over_their_whole_range(numbers: list[int | None]) -> None:
    from_json = JsonDecoder(StreamSpec(channels=TYPED), {}).decode(
        [json.dumps({"i": number}).encode() for number in numbers]
    )
    spec = StreamSpec(options={"columns": ["i", "-"]}, channels=TYPED[:1])
    from_csv = CsvDecoder(spec, {}).decode(
        [f"{'' if number is None else number},".encode() for number in numbers]
    )
    spec = StreamSpec(options={"fields": [{"name": "i", "type": "i64"}]})
    present = [number for number in numbers if number is not None]
    from_struct = StructDecoder(spec, {}).decode([struct.pack("<q", n) for n in present])
    from_influx = InfluxDecoder(StreamSpec(), {}).decode([f"m i={n}i".encode() for n in present])
    if present:
        assert from_json.columns["i"].dtype == from_csv.columns["i"].dtype == np.int64
        assert listed(from_json.columns["i"]) == listed(from_csv.columns["i"]) == numbers
        assert listed(from_struct.columns["i"]) == present
        assert listed(from_influx.columns["m i"]) == present


@pytest.mark.parametrize(
    ("decoder", "options", "reason"),
    [
        ("json", {"tiem": "t"}, "tiem"),
        ("json", {"time_format": "unix_s"}, "time_format"),
        ("json", {"time": "t", "tz": "Europe/Nowhere"}, "no time zone"),
        ("json", {"time": "t", "time_format": "unix_s", "tz": "UTC"}, "tz is for"),
        ("json", {"time": "a"}, "cannot be a channel too"),
        ("csv", {}, "columns"),
        ("csv", {"columns": "a"}, "columns"),
        ("csv", {"columns": ["b"]}, "'a' has to be one of the CSV columns"),
        ("csv", {"columns": ["a", "a"]}, "'a' has to be one of the CSV columns"),
        ("csv", {"columns": ["a"], "tick": "n"}, "'n' has to be one of the CSV columns"),
        ("csv", {"columns": ["a"], "delimiter": "ab"}, "one ASCII character"),
        ("board", {}, "'a' is not in the messages"),
        ("board", {"headers": True}, "headers"),
        ("influx", {"precision": "d"}, "precision"),
        ("struct", {}, "fields"),
        ("struct", {"fields": []}, "fields"),
        ("struct", {"fields": [{"name": "a", "type": "u24"}]}, "no type 'u24'"),
        ("struct", {"fields": [{"name": "a", "type": "char[3]"}]}, "text in the layout"),
        ("struct", {"fields": [{"name": "a", "type": "char[3]", "scale": 2}]}, "scale"),
        ("struct", {"fields": [{"name": "a", "type": "u8"}] * 2}, "'a' is there twice"),
        ("struct", {"fields": [{"name": "a", "type": "u8", "count": 9999}]}, "4,096"),
        ("struct", {"fields": [{"name": "a", "type": "u8"}], "tick": "n"}, "tick has to name"),
        ("struct", {"fields": [{"name": "a", "type": "u8"}], "time": "a"}, "time_format"),
        ("struct", {"fields": [{"name": "a", "type": "u32"}], "size": 3}, "need 4 bytes, not 3"),
        ("struct", {"fields": [{"name": "a", "type": "u8"}], "magic": "a5a"}, "magic"),
        ("struct", {"fields": [{"type": "u8", "bits": [{"name": "a", "bit": 8}]}]}, "8 bits"),
        ("struct", {"fields": [{"type": "i8", "bits": [{"name": "a", "bit": 0}]}]}, "bits are"),
    ],
)
def test_options_that_cannot_be_used_are_refused(
    decoder: str, options: Mapping[str, Any], reason: str
) -> None:
    spec = StreamSpec(decoder=decoder, options=options, channels=(Channel("a"),))
    with pytest.raises(DecodeError) as raised:
        DeclaredDecoder(spec, {})
    assert reason in str(raised.value)
    assert "\n" not in str(raised.value)


NAMES = st.sampled_from("abc")

JSON_LINES = st.dictionaries(st.sampled_from("abc"), JSON_VALUES, max_size=3).map(
    lambda row: json.dumps(row).encode()
)

FIELDS = st.sampled_from(["", "1", "-2.5", "true", "x", "nan", "9223372036854775807", "1e400"])

INFLUX_VALUES = st.sampled_from(["1", "2i", "t", '"x"', '"', "1e400", "-1u", ""])

LINES = {
    "json": ({}, (Channel("a", "int64"),), JSON_LINES),
    "json with a time": (
        {"time": "a", "time_format": "unix_s", "tick": "b"},
        (),
        JSON_LINES,
    ),
    "csv": (
        {"columns": ["a", "b", "c", "d"], "tick": "d"},
        (Channel("a", "int64"), Channel("b", "bool"), Channel("c")),
        st.lists(FIELDS, min_size=3, max_size=4).map(lambda f: ",".join([*f, "1"]).encode()),
    ),
    "influx": (
        {},
        (),
        st.tuples(st.sampled_from(["m", "m,t=1"]), NAMES, INFLUX_VALUES, NAMES, INFLUX_VALUES).map(
            lambda p: f"{p[0]} {p[1]}={p[2]},{p[3]}={p[4]} 5".encode()
        ),
    ),
    "board": (
        {"header": True},
        (),
        st.tuples(
            st.sampled_from(["05", "08", "09", "0a", "0g"]), st.sampled_from([0, 10, 12, 70, 130])
        ).map(lambda p: (p[0] + "75000000ff" + "001e8480" * 40)[: 12 + p[1]].encode()),
    ),
    "struct": (
        {
            "tick": "n",
            "checksum": "xor8",
            "fields": [
                {"name": "n", "type": "u8"},
                {"name": "ok", "type": "bool"},
                {"name": "s", "type": "char[1]"},
            ],
        },
        (),
        st.tuples(st.integers(0, 9), st.integers(0, 2), st.sampled_from(b"a\0\xff")).map(
            lambda p: bytes([*p, p[0] ^ p[1] ^ p[2]])
        ),
    ),
}


def joined(parts: Sequence[Decoded]) -> dict[str, list[Any]]:
    """Return the columns of decoded batches one after the other."""
    names = {name: None for part in parts for name in values(part)}
    return {
        name: [
            value for part in parts for value in listed(part.columns.get(name, [None] * part.good))
        ]
        for name in names
    }


@pytest.mark.parametrize("name", LINES)
@settings(max_examples=50)  # of each of the six
@given(data=st.data())
def test_rows_do_not_depend_on_how_messages_are_cut_into_batches(
    name: str, data: st.DataObject
) -> None:
    options, channels, lines = LINES[name]
    spec = StreamSpec(decoder=name.split()[0], options=options, channels=channels)
    messages = data.draw(st.lists(lines | st.binary(max_size=4), max_size=12))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(messages)), max_size=4)))
    together = DeclaredDecoder(spec, {}).decode(messages)
    decoder = DeclaredDecoder(spec, {})
    borders = [0, *cuts, len(messages)]
    parts = [decoder.decode(messages[start:stop]) for start, stop in itertools.pairwise(borders)]
    assert together.good + len(together.rejected) == len(messages)
    assert list(together.rejected) == [
        (start + place, raw, reason)
        for start, part in zip(borders, parts, strict=False)
        for place, raw, reason in part.rejected
    ]
    assert joined(parts) == values(together)
    for stamps in ("times_us", "ticks"):
        if getattr(together, stamps) is not None:
            whole = np.concatenate([getattr(part, stamps) for part in parts])
            assert_array_equal(getattr(together, stamps), whole)


@pytest.mark.parametrize("name", LINES)
@settings(max_examples=50)
@given(messages=st.lists(st.binary() | st.text().map(lambda text: text.encode()), max_size=8))
def test_any_bytes_are_good_or_rejected(name: str, messages: list[bytes]) -> None:
    options, channels, _ = LINES[name]
    spec = StreamSpec(decoder=name.split()[0], options=options, channels=channels)
    decoded = DeclaredDecoder(spec, {}).decode(messages)
    assert decoded.good + len(decoded.rejected) == len(messages)
    assert all(messages[place] == raw and reason for place, raw, reason in decoded.rejected)


class Returning:
    """A decoder of a plug-in: it returns what the options hold."""

    def __init__(self, spec: StreamSpec, known: Mapping[str, Any]) -> None:
        self._decoded: Decoded = spec.options["decoded"]

    def decode(self, messages: Sequence[bytes]) -> Decoded:
        return self._decoded


@pytest.mark.parametrize(
    ("decoded", "reason"),
    [
        (Decoded(1, {"a": np.zeros(1, np.float32)}), "one value a good message"),
        (Decoded(1, {"a": np.zeros((1, 1))}), "one value a good message"),
        (Decoded(1, {"a": np.zeros(2)}), "one value a good message"),
        (Decoded(1, {"a": np.ma.MaskedArray([1.0], [True])}), "one value a good message"),
        (Decoded(1, {"a": [1]}), "one value a good message"),
        (Decoded(1, {"a": ["\0"]}), "one value a good message"),
        (Decoded(1, {"a": ["\ud800"]}), "one value a good message"),
        (Decoded(1, {"i": np.zeros(1)}), "float64 for 'i', which is int64"),
        (Decoded(1, {"a\0": np.zeros(1)}), "cannot name a channel"),
        (Decoded(1, {}, times_us=np.zeros(2, np.int64)), "as times_us"),
        (Decoded(1, {}, times_us=np.zeros(1)), "as times_us"),
        (Decoded(1, {}, ticks=np.zeros(1, np.int32)), "as ticks"),
        (Decoded(1, {}, ticks=np.ma.MaskedArray([1], [True])), "as ticks"),
        (Decoded(0, {}), "0 good and 0 rejected"),
        (Decoded(0, {}, [(1, b"", "")]), "out of order"),
    ],
)
def test_what_a_decoder_of_a_plug_in_returns_is_checked(
    decoded: Decoded, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keepline.store.plugins.load", lambda _kind, _name: Returning)
    spec = StreamSpec(options={"decoded": decoded}, channels=TYPED)
    with pytest.raises(DecodeError, match="is at fault") as raised:
        DeclaredDecoder(spec, {}).decode([b""])
    assert reason in str(raised.value)


def test_columns_of_every_kind_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keepline.store.plugins.load", lambda _kind, _name: Returning)
    columns = {
        "i": np.ma.MaskedArray([1, 0], [False, True], np.int64),
        "b": np.array([True, False]),
        "x": np.array([1.0, np.nan]),
        "s": ["a", None],
    }
    spec = StreamSpec(options={"decoded": Decoded(2, columns)}, channels=TYPED)
    assert DeclaredDecoder(spec, {}).decode([b"", b""]).good == 2
